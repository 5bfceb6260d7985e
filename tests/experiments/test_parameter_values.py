"""Every value that a schema allows runs a notebook to its end; what a published figure needs is compared only with itself."""

import json
import re
from fnmatch import fnmatchcase

import numpy as np
import pytest

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp11_matched_prefix import measure as exp11_measure
from nbhelpers.report import ledger
from tests import cells, synthetic
from tests.experiments.test_unmeasured import observed

SAVED = re.compile(r"experiments\.save\(result\)|unfinished\.save\(run, result(?:, files)?\)")
STRATA = [[1e-6, 0.999999], [0.05, 0.1], [0.98, 0.99]]
EDGES = {
    "exp09": [
        {"kl_threshold": 0.3, "kl_grid": [0.2], "stable_window": 2, "majority_share": 0.8, "confidence_edges": STRATA[0]},
        {"kl_threshold": 1e-6, "stable_window": 99, "majority_share": 1.0, "confidence_edges": STRATA[1], "confidence": 0.51},
        {"kl_threshold": 1e6, "kl_grid": [1e-9, 1e9, 1e9], "confidence_edges": STRATA[2], "mle_neighbours": 3},
    ],
    "exp03": [{"kl_threshold": 1e-6}, {"kl_threshold": 1e6}, *({"confidence_edges": edges} for edges in STRATA)],
    "exp04": [{"n_subsamples": 20, "n_permutations": 100}, {"mle_neighbours": 3}],
    "exp07_0j": [
        {"sigmas": []}, {"drops": [3.0]}, {"drops": [], "sigmas": [0.123]}, {"run_length": 1}, {"run_length": 99},
        {"sigmas": [float(k) for k in range(1, 13)]}, {"confidence": 0.51},
    ],
}  # fmt: skip
CASES = [pytest.param(key, given, id=f"{key}-{i}") for key, of in EDGES.items() for i, given in enumerate(of)]
FEW = {"n_resamples": 100, "n_permutations": 100, "n_subsamples": 20}


def few(key):
    """The smallest sizes of an experiment's own parameters."""
    return {name: value for name, value in FEW.items() if name in experiments.schema(key).model_fields}


def ran(monkeypatch, key, made, **given):
    """The results of a notebook's cells, its verdict among them, with small sizes."""
    results = cells.run(monkeypatch, key, {"exp00": made}, **few(key) | given)["results"]
    verdict = str(experiments.part(key, "report").verdict(results))
    assert "nan" not in verdict.lower()
    return results, verdict


@pytest.fixture(scope="module")
def made():
    return observed()


@pytest.mark.slow
@pytest.mark.parametrize(("key", "given"), CASES)
def test_a_notebook_runs_to_its_end(key, given, made, monkeypatch):
    ran(monkeypatch, key, made, **given)


@pytest.mark.slow
@pytest.mark.parametrize("key", EDGES)
@pytest.mark.parametrize("n", [2, 3])
def test_a_notebook_runs_to_its_end_on_few_prompts(key, n, made, monkeypatch):
    part = made.isel(prompt=slice(n), step=np.flatnonzero(made.prompt_index < n))
    ran(monkeypatch, key, part)


def test_names_follow_the_parameters(made, monkeypatch):
    given = {"kl_threshold": 0.3, "kl_grid": [0.2], "stable_window": 4, "majority_share": 0.8}
    results, _ = ran(monkeypatch, "exp09", made, **given)
    table = experiments.part("exp09", "report").delay_summary(results)
    assert table.index.tolist() == [
        "first top-1", "top-1 stays", "top-1 for 4 layers", "first KL < 0.3", "KL < 0.3 stays", "80 % KL < 0.3"
    ]  # fmt: skip
    assert "KL stays below 0.3 nats" in experiments.part("exp09", "readings").commitment(results)


OTHER = {
    "exp09": ({"majority_share": 0.8}, "commitment_delay.tuned.majority_0.1"),
    "exp03": ({"kl_threshold": 0.2}, "delay_by_confidence_layer_final.low"),
    "exp07_0j": ({"run_length": 3}, "onset.sigma_1"),
}


@pytest.mark.parametrize("key", OTHER)
def test_a_published_figure_stands_beside_a_run_of_its_own_parameters_alone(key):
    given, metric = OTHER[key]
    source = experiments.part(key, "quantities")
    made = synthetic.dataset("gemma", key, n_prompts=24)
    own = experiments.schema(key)().model_dump(mode="json")
    runs = {}
    for name, values in {"own": own, "other": own | given}.items():
        table = ledger.ledger(
            key, {"A": made.assign_attrs(parameters=json.dumps(values))}, source, n_resamples=100
        )
        row = table[table["metric"] == metric]
        runs[name] = row[row["title"] == "A"].iloc[0] if (row["title"] == "A").any() else row.iloc[0]
        assert metric in source.quantities(made)
    assert np.isfinite(runs["own"]["run"])
    assert np.isnan(runs["other"]["run"]) and runs["other"]["note"] == ledger.UNMEASURED


@pytest.mark.parametrize("key", list(experiments.slices()))
def test_what_a_published_figure_needs_is_a_parameter_of_the_study(key):
    source = experiments.part(key, "quantities")
    names = set(source.quantities(synthetic.dataset("gemma", key, n_prompts=24)))
    for pattern, needed in getattr(source, "AS_PUBLISHED", {}).items():
        assert any(fnmatchcase(name, pattern) for name in names), pattern
        default = experiments.schema(key)().model_dump(mode="json")
        assert {name: default[name] for name in needed} == needed


def test_exp11_measures_the_studys_threshold_whatever_the_grid():
    options = experiments.experiment_params("exp11", "pocket", kl_grid=[0.7])
    assert exp11_measure.shared_options({}, options)["grid"] == [0.1, 0.7]


@pytest.mark.parametrize("given", [{"sliding_width": 13}, {"widths": [1, 13]}])
def test_a_window_wider_than_the_model_is_refused(given):
    options = experiments.experiment_params("exp11", "pocket", **given)
    with pytest.raises(
        ParameterError, match=f"{next(iter(given))} asks for a window of 13 layers, and this model has 12"
    ):
        exp11_measure.swept_windows(12, options)


REFUSED = [
    ("exp07_0j", {"sigmas": [], "drops": []}), ("exp07_0j", {"sigmas": [1, 1.0]}), ("exp07_0j", {"drops": [-0.1]}),
    ("exp09", {"kl_grid": [0.0]}), ("exp09", {"mle_neighbours": 11}), ("exp11", {"kl_grid": [-1.0]}),
    ("exp11", {"widths": []}), ("exp11", {"widths": [0]}), ("exp02", {"n_prompts": 5}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "given"), REFUSED)
def test_what_cannot_be_measured_is_refused_by_the_schema(key, given):
    with pytest.raises(ParameterError, match=f"the parameters given for {key}"):
        experiments.experiment_params(key, "pocket", **given)


@pytest.mark.parametrize(
    "path", sorted((params.ROOT / "notebooks").glob("exp[0-9]*.ipynb")), ids=lambda path: path.stem
)
def test_a_notebook_saves_before_it_draws(path):
    """A drawing that fails loses no measurement."""
    if path.stem.endswith("_across"):
        return
    book = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in book if cell["cell_type"] == "code"]
    (saved,) = [i for i, text in enumerate(code) if SAVED.search(text)]
    drawn = [i for i, text in enumerate(code) if any(f"{module}." in text for module in ("report", "figures", "ledger"))
             and "import" not in text]  # fmt: skip
    assert all(i > saved for i in drawn)
    after = SAVED.split(code[saved])[-1].strip().splitlines()
    assert len(after) <= 1 and all(line.startswith("print(") for line in after)
