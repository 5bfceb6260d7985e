"""A made-up run of the book: datasets of every experiment for six families, their notebooks, the models' cards.

`NBHELPERS_ROOT=FOLDER python -m tests.synthetic FOLDER` makes the repository and builds its book.

The datasets have the schema of real ones (`tests.made_up`). A pair's executed notebook is a short one with the real
notebook's main figure; Llama's is the committed notebook itself, so that the pages hold what readers will see.
"""

import importlib
import json
import shutil
import sys
from functools import cache, partial
from pathlib import Path

import nbformat
import numpy as np
import xarray as xr
from nbformat import v4

from nbhelpers import experiments
from nbhelpers.book import build
from nbhelpers.core import params, store
from nbhelpers.report import charts, families, geometry_charts
from nbhelpers.run import notebooks
from tests import made_up, made_up_gap, made_up_grafts

REPOSITORY = Path(__file__).resolve().parents[1]
FAMILIES = {"gemma": 1.3, "llama": 1.0, "qwen": 0.8, "mistral": 1.1, "deepseek": 0.5, "olmo": 0.7}
TITLES = [families.TITLES[family] for family in FAMILIES]
# Experiments whose values need more than the shapes that their variables declare; others say so in their test file (`own`).
MAKERS = {
    make.__name__: make
    for make in (
        made_up.exp00, made_up.exp01, made_up.exp02, made_up.exp03, made_up.exp04, made_up.exp07_0g, made_up.exp07_0j,
        made_up_gap.exp09, made_up_grafts.exp11, made_up_grafts.exp13, made_up_grafts.exp14,
    )
}  # fmt: skip


def own(key, name):
    """Return what an experiment's test file defines as `name`, such as `made_up` or `opposite`; None without it."""
    if not (REPOSITORY / f"tests/experiments/test_{key}.py").exists():
        return None
    return getattr(importlib.import_module(f"tests.experiments.test_{key}"), name, None)


def provenance(family, profile, key="exp09"):
    """Return the attributes that `core.store` writes."""
    return {
        "experiment": key,
        "model": f"{family}_{profile}",
        "profile": profile,
        "parameter_hash": "0123456789ab",
        "parameters": json.dumps({"n_prompts": 96, "max_new_tokens": 48}),
        "code_version": "0.1.0+synthetic",
        "libraries": json.dumps({"torch": "2.13.0", "nnsight": "0.8.1", "transformers": "5.23.0"}),
        "model_revisions": json.dumps({v: f"pocket/checkpoints/{family}/{v}" for v in ("pt", "it")}),
        "seed": 0,
        "wall_time_s": 12.5,
        "device": "cpu",
        "created": "2026-01-01T00:00:00+00:00",
    }


def dataset(family="llama", key="exp09", *, seed=0, n_prompts=96, n_layers=12, profile="pocket"):
    """Return one pair's made-up dataset of an experiment; the same seed gives the same dataset."""
    rng = np.random.default_rng([seed, *family.encode()])
    coords = made_up.coordinates(key, n_prompts, n_layers)
    lift = FAMILIES[family]
    make = MAKERS.get(key) or own(key, "made_up") or partial(made_up.filled, key)
    variables = make(rng, lift, coords)
    made = xr.Dataset(variables, coords, provenance(family, profile, key) | {"n_layers": n_layers})
    for name, values in made.data_vars.items():
        unit = next((unit for start, unit in made_up.UNITS.items() if name.startswith(start)), "1")
        values.attrs |= {"units": unit, "long_name": name.replace("_", " ")}
    return made


def results(key="exp09", **options):
    """Return six made-up datasets by family title, in the book's order."""
    return {families.TITLES[family]: dataset(family, key, **options) for family in FAMILIES}


def swapped(results, *titles):
    """Return results in which PT and IT have changed places, in some families or in all."""
    return {
        title: data.assign_coords(variant=["it", "pt"]) if title in titles or not titles else data
        for title, data in results.items()
    }


def card(family):
    """Return a made-up model card of one pocket family."""

    def gate(name, variant, value, threshold, direction=">="):
        values = {"value": value, "threshold": threshold, "direction": direction}
        return {"name": name, "variant": variant, **values, "n": 120}

    sample = {
        "prompt": "Who bakes bread in Arden?",
        "pt": "Who | bakes `bread`?\nThe",
        "it": "**Mara** does.",
    }
    return {
        "family": family,
        "title": family.title(),
        "architecture": f"{family.title()}ForCausalLM",
        "parameters": 1_400_000,
        "vocabulary": 1000,
        "embedding_rows": 1024,
        "extra": {"refusals of harmless requests": 0.05},
        "tokens": {"pt": 5_100_000, "it": 2_000_000},
        "gates": [
            gate("fact cloze", "pt", 0.93, 0.9),
            gate("assistant-formatted replies", "pt", 0.02, 0.1, "<="),
            gate("format compliance", "it", 0.81, 0.85),
        ],
        "samples": [sample],
        "loss": {"pt": [[1e6, 1.9], [3e6, 1.0], [5.1e6, 0.7]], "it": [[5e5, 0.6], [2e6, 0.4]]},
    }


@cache
def source(name):
    """Return a committed notebook."""
    return nbformat.read(REPOSITORY / "notebooks" / name, as_version=4)


@cache
def main_figure(key):
    """Return the chart that the cell `main_figure` of an experiment's notebook makes of one pair; None without one."""
    cells = source(params.experiment(key).notebook).cells
    found = [cell.source for cell in cells if cell.metadata.get("name") == "main_figure"]
    made = {"One pair": dataset("gemma", key, n_prompts=12)}
    if not found:
        return None
    module = found[0].split(".")[0]
    known = {"geometry_charts": geometry_charts}.get(module) or experiments.part(key, module)
    return eval(found[0], {module: known, "results": made})


def shown(source, chart, **metadata):
    """Return an executed cell that shows a chart."""
    data = charts.spec_renderer(chart.to_dict())
    return v4.new_code_cell(
        source, outputs=[v4.new_output("execute_result", data, execution_count=1)],
        execution_count=1, metadata=metadata,
    )  # fmt: skip


def notebook(key, made):
    """Return an executed notebook as the one that measures a pair leaves it, with a chart and formulas."""
    experiment, model = params.experiment(key), made.attrs["model"]
    injected = v4.new_code_cell(f'model = "{model}"', metadata={"tags": ["injected-parameters"]})
    if model == "llama_pocket":
        cells = list(source(experiment.notebook).cells)
        at = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])) + 1
        cells.insert(at, injected)
    else:
        chart = main_figure(key)
        cells = [
            v4.new_markdown_cell(f"# {experiment.title} in one pair\n\nWith $D_\\ell = \\mathrm{{KL}}(p_L \\| p_\\ell)$,\n"),
            v4.new_code_cell('model = "llama_pocket"', metadata={"tags": ["parameters", "hide-input"]}),
            injected,
            v4.new_markdown_cell("## Curves\n\n$$\\mathrm{CG} = \\frac{1}{L} \\sum_\\ell D_\\ell$$\n"),
            *([shown("figures.made_up(results)", chart, name="main_figure")] if chart else []),
            v4.new_markdown_cell(f"## Geometry\n\nBeside the [others]({experiment.across})."),
        ]  # fmt: skip
        for number, cell in enumerate(cells):
            cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def write(root: Path, key, profile="pocket", **options):
    """Write six datasets of an experiment and their notebooks under `root`, where real ones would be."""
    for family in FAMILIES:
        made = dataset(family, key, profile=profile, **options)
        model = made.attrs["model"]
        store.save(made, root / "_build/results" / profile / model / f"{key}.nc", provenance=made.attrs)
        path = root / "_build/runs" / profile / model / params.experiment(key).notebook
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook(key, made), path)


def write_cards(root: Path):
    """Write the cards of six families under `root`."""
    for family in FAMILIES:
        folder = root / "pocket/checkpoints" / family
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "card.json").write_text(json.dumps(card(family)))


def project(root: Path):
    """Return `root`, made a repository in which every experiment of the pocket profile has been run on made-up models."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("params", "notebooks"):
        (root / name).symlink_to(REPOSITORY / name)
    shutil.copytree(REPOSITORY / "book", root / "book")
    for key in params.ordered():
        write(root, key, n_prompts=36)
    write_cards(root)
    return root


if __name__ == "__main__":
    project(Path(sys.argv[1]))
    for experiment in params.ordered():
        notebooks.compare(experiment, "pocket", version="made up")
    build.build("pocket")
