"""The committed notebooks: one shape, read well on a code host, and say what a fresh run says."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.experiments import resolve
from nbhelpers.report.charts import VEGALITE
from nbhelpers.run import notebooks, results
from tests.specs import complete

NOTEBOOKS = sorted((params.ROOT / "notebooks").glob("exp[0-9]*.ipynb"))
# Work for people, which measures nothing and stands on no page; all claims, whose page the book makes itself.
TOOLS = {"label.ipynb", "explore.ipynb", "claims.ipynb"}
LINES = 120  # of code, at most
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def code_of(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells_of(path, "code")]


def test_every_notebook_is_an_experiment_s():
    known = [params.experiment(key) for key in params.ordered()]
    wanted = {name for experiment in known for name in (experiment.notebook, experiment.across) if name}
    assert {path.name for path in NOTEBOOKS} == wanted
    assert {path.name for path in (params.ROOT / "notebooks").glob("*.ipynb")} == wanted | TOOLS


@every_notebook
def test_one_cell_holds_the_parameters_and_the_title_comes_first(path):
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells_of(path, "code")) == 1
    first = json.loads(path.read_text())["cells"][0]
    assert first["cell_type"] == "markdown" and first["source"][0].startswith("# ")
    titles = [line for cell in cells_of(path, "markdown") for line in cell["source"] if line.startswith("# ")]
    assert len(titles) == 1


@every_notebook
def test_code_is_short_and_defines_nothing(path):
    source = code_of(path)
    assert sum(len(text.splitlines()) for text in source) <= LINES
    nodes = [node for text in source for node in ast.walk(ast.parse(text))]
    assert not [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]


@every_notebook
def test_what_it_calls_is_there(path):
    """A notebook runs for minutes before it comes to a name that was changed."""
    nodes = [node for text in code_of(path) for node in ast.walk(ast.parse(text))]
    taken = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module.startswith("nbhelpers")]
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    used = {
        (n.value.id, n.attr) for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }
    for node in taken:
        for alias in node.names:
            found = getattr(importlib.import_module(node.module), alias.name, None)
            found = found or importlib.import_module(f"{node.module}.{alias.name}")
            name = alias.asname or alias.name
            assert name in names, f"{name} is imported and not used"
            for _, attribute in [pair for pair in used if pair[0] == name and inspect.ismodule(found)]:
                assert hasattr(found, attribute), f"{name}.{attribute}"


@every_notebook
def test_links_lead_to_notebooks_that_are_there(path):
    text = "".join(line for cell in cells_of(path, "markdown") for line in cell["source"])
    for target in re.findall(r"\]\(([^)#:]+\.ipynb)", text):
        assert (path.parent / target).exists(), target


@every_notebook
def test_outputs_are_committed_and_free_of_errors_and_local_paths(path):
    outputs = [output for cell in cells_of(path, "code") for output in cell["outputs"]]
    assert outputs
    wrong = [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not wrong
    text = json.dumps(outputs)
    assert not [place for place in (str(Path.home()), str(params.ROOT), "/tmp/") if place in text]


@every_notebook
def test_every_output_is_compared(path):
    ignored = {"nbval-ignore-output", "nbval-skip"}
    assert not [cell for cell in cells_of(path, "code") if ignored & set(cell["metadata"].get("tags", []))]


@every_notebook
def test_the_main_figure_is_drawn_for_a_code_host(path):
    (cell,) = [cell for cell in cells_of(path, "code") if cell["metadata"].get("name") == "main_figure"]
    for data in [output["data"] for output in cell["outputs"]]:
        drawing = "".join(data["image/svg+xml"])
        assert VEGALITE in data and drawing.startswith("<svg") and len(drawing.encode()) <= 60_000


@every_notebook
def test_a_slow_cell_says_at_once_what_it_does(path):
    """The first statement of a cell that imports the library, or measures, is a print."""
    for cell in cells_of(path, "code"):
        first, *_ = ast.parse("".join(cell["source"])).body
        text = "".join(cell["source"])
        if "from nbhelpers" in text or "measure." in text:
            assert ast.unparse(first).startswith("print("), text


def result_of(key):
    """Return a pair's exp09 dataset of these parameters, run by papermill, what it needs first, where it is missing."""
    path = store.result_path("pocket", key, "exp09")
    if results.fault(resolve("exp09", model=key)):
        subprocess.run([sys.executable, "-m", "nbhelpers", "run", "exp09", "--model", key], check=True)
    return store.load(path, experiment="exp09")


@pytest.mark.parametrize("key", ["mistral_pocket", "deepseek_pocket"])
def test_papermill_runs_the_notebook_on_other_models(key):
    result = complete(result_of(key), "exp09")
    assert result.attrs["model"] == key
    assert dict(result.sizes) | {"variant": 2, "prompt": 96, "layer": 12, "lens": 2} == dict(result.sizes)
    for name in ("kl_final_layer", "kl_layer_final"):
        curve = result[name].sel(lens="raw")
        assert float(curve.isel(layer=-1).max()) == 0 and float(curve.min()) >= 0
        assert float(curve.isel(layer=0).mean()) > 0.1
    low, value, high = (result[f"convergence_gap{end}"].values for end in ("_low", "", "_high"))
    assert (low < value).all() and (value < high).all()
    executed = notebooks.executed_path("pocket", "exp09_convergence_gap.ipynb", key)
    injected = [
        c for c in cells_of(executed, "code") if "injected-parameters" in c["metadata"].get("tags", [])
    ]
    assert len(injected) == 1 and key in "".join(injected[0]["source"])
    for need, wanted in resolve("exp09", model=key).upstream.items():
        upstream = store.load(store.result_path("pocket", key, need), experiment=need)
        assert upstream.attrs["parameter_hash"] == wanted and upstream.attrs["model"] == key


@pytest.mark.parametrize("key", ["exp03", "exp04", "exp09", "exp14"])
def test_a_notebook_measures_what_its_summary_does(key):
    """A notebook calls measures one by one beside their equations; tests check them together, as `summarise`."""
    result_of("llama_pocket")
    options, (need,) = resolve(key, model="llama_pocket").experiment, params.experiment(key).needs
    paths = {name: store.result_path("pocket", "llama_pocket", name) for name in (need, key)}
    if not paths[key].exists():
        subprocess.run([sys.executable, "-m", "nbhelpers", "run", key, "--model", "llama_pocket"], check=True)
    read, saved = (store.load(path, experiment=name) for name, path in paths.items())
    made = experiments.part(key, "measure").summarise(read, options)
    assert len(made.data_vars) > 5
    for name, values in made.data_vars.items():
        xr.testing.assert_allclose(
            values.reset_coords(drop=True), saved[name].transpose(*values.dims).reset_coords(drop=True)
        )


def test_committed_gap_is_that_of_a_fresh_run():
    """Greedy text may tip on another CPU, so the number is compared within a share of its own interval."""
    fresh = result_of("llama_pocket").sel(lens="raw", direction="final_layer")
    (cell,) = [
        c for c in cells_of(params.ROOT / "notebooks/exp09_convergence_gap.ipynb", "code") if c["id"] == "gap"
    ]
    html = "".join(cell["outputs"][0]["data"]["text/html"]).replace("−", "-")
    value, low, high = map(float, re.search(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", html).groups())
    width = float(fresh.convergence_gap_high - fresh.convergence_gap_low)
    assert abs(value - float(fresh.convergence_gap)) < 0.01 + 0.25 * width
    assert low <= float(fresh.convergence_gap) <= high
