"""Gross errors, planted one at a time in the kernel of a notebook's copy, which nbval must then catch.

The first cell of a copy calls `plant`, before the notebook imports anything: what an error changes is replaced in the
modules, or in what the notebook reads; the files of the repository stay as they are.
"""

import csv
import json
import os
import shutil
from pathlib import Path

import xarray as xr

from tests.stubs import REPOSITORY, code

NOTEBOOK, READ = "exp09_convergence_gap.ipynb", "exp00"  # the dataset that this notebook reads
ERRORS = {
    "none": "nothing is changed",
    "kl_direction": "KL(layer ‖ final) where KL(final ‖ layer) is meant, and the other way round",
    "pt_it": "PT's measures under IT's name, and the other way round",
    "late_half": "the late half begins two layers too early and ends two too early",
    "intervals": "every bootstrap interval is twice as wide",
    "kl_scale": "every KL is 1.3 times too large",
    "lens": "the raw lens under the tuned one's name, and the other way round",
    "tokens_pooled": "every token counts the same, so long replies count more",
    "published_sign": "the sign of the published convergence gaps is turned",
}


def project(folder: Path, error: str, names=(NOTEBOOK,), read=READ) -> list[Path]:
    """Return copies of notebooks with an error planted, in a project of their own that only links to what they read.

    read: the dataset of pocket Llama that the first of the notebooks reads, with its tuned lenses.
    """
    results = Path("_build/results/pocket/llama_pocket")
    (folder / results).mkdir(parents=True)
    (folder / "pocket").symlink_to(REPOSITORY / "pocket")
    for path in (REPOSITORY / results).iterdir():
        if path.stem == read or path.suffix == ".safetensors":
            (folder / results / path.name).symlink_to(path)
    shutil.copytree(REPOSITORY / "params", folder / "params")
    if error == "published_sign":
        _turn_published(folder / "params/published.csv")
    (folder / "notebooks").mkdir()
    for path in (REPOSITORY / "notebooks").glob(
        "*.ipynb"
    ):  # a version of a run is of all notebooks that it needs
        if path.name not in names:
            (folder / "notebooks" / path.name).symlink_to(path)
    return [_with_error(next((REPOSITORY / "notebooks").rglob(name)), error, folder) for name in names]


def _with_error(notebook: Path, error: str, folder: Path) -> Path:
    """Return a copy of a notebook that plants an error first."""
    book = json.loads(notebook.read_text(encoding="utf-8"))
    book["cells"].insert(0, code(f"from tests import planted\nplanted.plant({error!r}, {str(folder)!r})"))
    copy = folder / "notebooks" / notebook.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(json.dumps(book), encoding="utf-8")
    return copy


def _turn_published(table: Path) -> None:
    """Turn the sign of the published convergence gaps in a table of published figures."""
    with open(table, encoding="utf-8", newline="") as file:
        head, *rows = list(csv.reader(file))
    metric, value = head.index("metric"), head.index("value")
    for row in rows:
        if row[metric].startswith("kl_excess_late_half.") and row[value]:
            row[value] = str(-float(row[value]))
    with open(table, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def plant(error: str, folder: str) -> None:
    """Plant an error in this process, which works in the project `folder` from now on."""
    os.environ["NBHELPERS_BATCH"] = "1"  # a kernel of a copy measures nothing beyond its own notebook
    from nbhelpers.core import params

    params.ROOT = Path(folder)
    globals().get(f"_{error}", lambda: None)()


def _changed(module, name: str, change) -> None:
    """Replace a function of a module by one that returns `change` of what it returns."""
    right = getattr(module, name)
    setattr(module, name, lambda *args, **options: change(right(*args, **options)))


def _read(change) -> None:
    from nbhelpers.run import notebooks

    _changed(notebooks, "upstream", change)


def _exchanged(dataset: xr.Dataset, dim: str) -> xr.Dataset:
    return dataset.isel({dim: [1, 0]}).assign_coords({dim: dataset[dim].values})


def _processor() -> None:
    """Have PyTorch do without oneDNN; not an error, but other rounding."""
    import torch

    torch._C._set_mkldnn_enabled(False)


def _kl_direction() -> None:
    pairs = [("kl_final_layer", "kl_layer_final"), ("kl_final_layer_cross", "kl_layer_final_cross")]
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    _read(lambda observed: observed.rename(other))


def _kl_scale() -> None:
    _read(lambda o: o.assign({name: 1.3 * o[name] for name in o.data_vars if str(name).startswith("kl_")}))


def _lens() -> None:
    _read(lambda observed: _exchanged(observed, "lens"))


def _pt_it() -> None:
    from nbhelpers.experiments.exp09_convergence_gap import measure

    _changed(measure, "of_both", lambda measured: _exchanged(measured, "variant"))


def _late_half() -> None:
    from nbhelpers.core import depths

    _changed(depths, "late_half", lambda layers: range(layers.start - 2, layers.stop - 2))


def _intervals() -> None:
    from nbhelpers.core import stats

    def doubled(ends):
        return stats.Interval(ends.mean, 2 * ends.low - ends.mean, 2 * ends.high - ends.mean)

    _changed(stats, "bca_mean", doubled)


def _tokens_pooled() -> None:
    from nbhelpers.experiments.exp09_convergence_gap import measure

    right = measure.prompt_means

    def pooled(steps, n_prompts):
        """Weight prompts by their numbers of steps, so that the mean over prompts is the mean over tokens."""
        counts = xr.DataArray([(steps.prompt_index == i).sum() for i in range(n_prompts)], dims="prompt")
        return right(steps, n_prompts) * counts / counts.mean()

    measure.prompt_means = pooled
