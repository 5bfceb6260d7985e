"""Running notebooks: parameters, failures, kills, damage. Stub notebooks stand for the real ones."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from papermill import engines

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.run import graph, kernels, notebooks, versions
from tests.stubs import code, markdown, resize, write_notebook


def measure(model="ann", **own):
    """Return the dataset of one stub run."""
    run = experiments.resolve("exp90", model=model, **own)
    path = notebooks.measure(run, version=versions.measure_version(run), own=own)
    return store.load(path, experiment="exp90")


def trace(project):
    """Return the models measured so far, in order."""
    path = project / "trace.txt"
    return path.read_text().split() if path.exists() else []


def wait_for(condition, seconds=300):
    """Wait until a condition holds; fail where it does not in time."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.05)


def start_batch(project):
    """Return a running `nbh batch` of the stub project, in a process group of its own; `said` is what it prints."""
    command = [sys.executable, "-m", "nbhelpers", "batch", "--cores", "2", "--target", "compared"]
    with open(project / "said.txt", "w") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd=project
        )


def said(project):
    """Return what the last batch has printed so far."""
    return (project / "said.txt").read_text()


def alive(project):
    """Return the processes that work in the project."""
    found = []
    for process in graph.psutil.process_iter():
        try:
            if process.cwd() == str(project) and process.pid != os.getpid():
                found.append(process)
        except (graph.psutil.Error, OSError):
            continue
    return found


def test_a_run_leaves_a_dataset_and_a_whole_notebook(project):
    result = measure(n_prompts=6)
    assert result.sizes["prompt"] == 6 and result.attrs["model"] == "ann"
    folder = project / "_build/runs/pocket/ann"
    assert [path.name for path in folder.iterdir()] == ["exp90_stub.ipynb"]
    book = json.loads((folder / "exp90_stub.ipynb").read_text())
    injected = next(c for c in book["cells"] if "injected-parameters" in c["metadata"].get("tags", []))
    assert "n_prompts = 6" in "".join(injected["source"])


def test_saving_is_a_small_part_of_a_run_and_the_end_is_always_saved(project, monkeypatch):
    """A save that takes a second is made at the start and at the end, not twice for each of seven cells."""
    saved, write = [], engines.write_ipynb

    def slow_write(notebook, path):
        saved.append(sum(bool(cell.get("outputs")) for cell in notebook.cells))
        time.sleep(1)
        write(notebook, path)

    monkeypatch.setattr(engines, "write_ipynb", slow_write)
    cells = [code(f"print({number})") for number in range(6)]
    source, output = project / "notebooks/many.ipynb", project / "_build/many.ipynb"
    write_notebook(source, code("seed = 0", "parameters"), *cells)
    notebooks.execute(source, output, {}, label="many", version="1")
    assert len(saved) <= 4 and saved[-1] == 6
    found = json.loads(output.read_text())["cells"]
    assert ["".join(c["outputs"][0]["text"]).strip() for c in found[-6:]] == list("012345")


def test_kernels_talk_over_their_own_sockets(project):
    write_notebook(
        project / "notebooks/exp90_stub.ipynb",
        code('model = "ann"\nprofile = "pocket"\nn_prompts = 4\nseed = 0', "parameters"),
        code("import json, os\nfrom ipykernel.connect import get_connection_file\n"
             "found = json.load(open(get_connection_file()))\n"
             "assert found['transport'] == 'ipc', found\nassert os.environ['OMP_NUM_THREADS'] == '1'\n"
             "assert os.environ['HF_HUB_OFFLINE'] == '1'\nraise SystemError(found['ip'])"),
    )  # fmt: skip
    with pytest.raises(notebooks.BatchError) as error:
        measure()
    folder = str(error.value).split("SystemError: ")[1].split("/k. ")[0]
    assert len(folder) < 90 and not os.path.exists(folder)


def test_an_undeclared_parameter_is_refused_before_anything_starts(project):
    with pytest.raises(params.ParameterError, match="declares no parameter 'confidence'; .*n_prompts"):
        measure(confidence=0.9)
    with pytest.raises(params.ParameterError, match="unknown parameter 'n_promts'; did you mean 'n_prompts'"):
        measure(n_promts=4)
    assert not (project / "_build").exists()


def test_a_notebook_needs_one_parameters_cell(project):
    write_notebook(project / "notebooks/exp90_stub.ipynb", code("a = 1"), code("b = 2"))
    with pytest.raises(notebooks.BatchError, match="0 cells tagged `parameters`; it needs exactly one"):
        measure()


def test_a_missing_checkpoint_is_one_sentence(project):
    shutil.rmtree(project / "weights/ann")
    with pytest.raises(params.ParameterError, match="the checkpoint weights/ann of ann is missing"):
        measure()
    assert not (project / "_build").exists()


def test_a_notebook_that_saves_nothing_is_refused(project):
    path = project / "notebooks/exp90_stub.ipynb"
    book = json.loads(path.read_text())
    write_notebook(path, *book["cells"][:-1])
    with pytest.raises(store.ResultError, match="there is no result"):
        measure()


def test_a_dying_kernel_is_told_from_an_error(project):
    path = project / "notebooks/exp90_stub.ipynb"
    write_notebook(
        path, code('model = "ann"', "parameters"), markdown("## Measure"), code("import os\nos._exit(1)")
    )
    with pytest.raises(notebooks.BatchError, match=r"stopped in cell \d \(Measure\): the kernel died"):
        measure()


def test_one_failure_names_its_cell_and_stops_no_other_model(project, capsys):
    (project / "break-bob").touch()
    assert graph.run("pocket", cores=2, target="compared") is False
    said = capsys.readouterr().out
    assert "✘ exp90 · bob stopped in cell 6 (Measure): AssertionError: the stub was told to break" in said
    partial = project / "_build/runs/pocket/bob/exp90_stub.partial.ipynb"
    assert "the stub was told to break" in partial.read_text() and str(partial.relative_to(project)) in said
    assert store.result_path("pocket", "ann", "exp90").exists()
    assert store.result_path("pocket", "cid", "exp90").exists()

    (project / "break-bob").unlink()
    assert graph.run("pocket", cores=2, target="compared") is True
    assert sorted(trace(project)) == ["ann", "bob", "bob", "cid"]
    assert "[1/2] exp90 · bob" in (said := capsys.readouterr().out) and "[2/2] exp90 · all models" in said
    assert not partial.exists()


def test_only_what_changed_runs_again(project, capsys):
    def again():
        before = len(trace(project))
        assert graph.run("pocket", cores=2, target="measured")
        return sorted(trace(project)[before:])

    profile = project / "params/profiles/pocket.yml"
    profile.write_text(profile.read_text().replace(", cid", ""))
    assert again() == ["ann", "bob"]
    for path in (*(project / "params").rglob("*.yml"), *(project / "notebooks").iterdir()):
        path.touch()
    assert again() == []

    path = store.result_path("pocket", "ann", "exp90")
    path.write_bytes(path.read_bytes()[:-100])
    (project / "weights/bob/model.safetensors").write_bytes(b"trained again")
    capsys.readouterr()
    assert again() == ["ann", "bob"]
    said = capsys.readouterr().out
    assert "ann/exp90.nc is damaged" in said and "bob: made with other parameters or weights" in said

    book = json.loads((project / "notebooks/exp90_stub.ipynb").read_text())
    book["cells"][0]["outputs"] = []
    write_notebook(project / "notebooks/exp90_stub.ipynb", *book["cells"], markdown("More to read."))
    assert again() == ["ann", "bob"]


@pytest.mark.parametrize(
    ("warm", "kills"), [(True, (signal.SIGKILL,)), (False, (signal.SIGKILL, signal.SIGTERM))]
)
def test_a_killed_batch_is_taken_up_where_it_was(project, warm, kills, monkeypatch):
    if warm:
        monkeypatch.delenv("NBHELPERS_WARM")
    (project / "hold-cid").touch()
    for times, kill in enumerate(kills, 1):
        killed = start_batch(project)
        if times == 1:
            wait_for(lambda: said(project).count("\n[") == 2)
            assert "exp90 · ann" in said(project) and "exp90 · bob" in said(project)
        wait_for(lambda n=times: trace(project).count("cid") == n)
        os.kill(killed.pid, kill)
        status = killed.wait(300)
        assert status == (0 if kill == signal.SIGTERM else -signal.SIGKILL)

    (project / "hold-cid").unlink()
    assert start_batch(project).wait(600) == 0, said(project)
    assert store.load(store.result_path("pocket", "cid", "exp90"), experiment="exp90")
    assert (project / "_build/runs/pocket/exp90_stub_across.ipynb").exists()
    assert not list((project / "_build").rglob("*.partial*"))
    assert sorted(trace(project)) == ["ann", "bob", *["cid"] * (len(kills) + 1)]  # finished work is kept
    wait_for(lambda: not alive(project), seconds=120)


def test_a_second_batch_does_not_start_beside_the_first(project):
    with graph.sole_batch(), pytest.raises(notebooks.BatchError, match="another batch runs"):
        graph.run("pocket", cores=1, target="measured")


def test_gpus_are_shared_out_one_by_one(project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with kernels.gpu_slots(1) as first, kernels.gpu_slots(2) as second:
        assert first == {"CUDA_VISIBLE_DEVICES": "0"}
        assert second == {"CUDA_VISIBLE_DEVICES": "1,2"}
    with kernels.gpu_slots(0) as none:
        assert none == {}


def test_comments_docstrings_and_layout_change_no_version(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("def f(x):\n    return x + 1\n")
    before = versions.code_hash([path])
    path.write_text('"""What."""\n\n\n# why\ndef f(x):\n    """Add one."""\n\n    return (x + 1)\n')
    assert versions.code_hash([path]) == before
    path.write_text("def f(x):\n    return x + 2\n")
    assert versions.code_hash([path]) != before


def named(paths):
    """Return modules by their place in the package, "core/stats"."""
    return {path.relative_to(versions.package()).with_suffix("").as_posix() for path in paths}


def test_a_version_counts_the_modules_that_its_notebook_imports():
    notebook = params.ROOT / "notebooks" / params.experiment("exp00").notebook
    science = named(versions.modules(notebook))
    slices = "experiments/exp00_observations/"
    assert {
        "core/depths",
        "measures/lens",
        "models/forward",
        "measures/tuned_lens",
        f"{slices}measure",
    } <= science
    assert not {name for name in science if name.startswith(("report/", "run/", "book/"))}
    assert not science & {
        "core/params",
        "core/store",
        "core/variables",
        f"{slices}experiment",
        f"{slices}report",
    }
    across = params.ROOT / "notebooks" / params.experiment("exp09").across
    gap = "experiments/exp09_convergence_gap/"
    drawn = named(versions.modules(across, pages=True))
    assert {"report/charts", "report/ledger", f"{gap}report", f"{gap}quantities"} <= drawn


def reached(folder, source):
    """Return the modules that source reaches, read with plain patterns, "measures.lens"; records and pages left out."""
    found, waiting = set(), [source]
    while waiting:
        text = re.sub(r"\(([^)]*)\)", lambda m: m[1].replace("\n", " "), waiting.pop())
        for parent, names in re.findall(r"^from nbhelpers\.([\w.]+) import (.+)$", text, re.M):
            whole = [f"{parent}.{name.split(' as ')[0].strip()}" for name in names.split("#")[0].split(",")]
            for module in {parent, *whole}:
                path = folder / f"{module.replace('.', '/')}.py"
                head, last = module.split(".")[0], module.split(".")[-1]
                left_out = head in ("report", "run", "book") or (
                    last
                    in (
                        "experiment",
                        "quantities",
                        "report",
                        "figures",
                        "params",
                        "schemas",
                        "store",
                        "variables",
                        "cost",
                    )
                )
                if path.exists() and module not in found and not left_out:
                    found.add(module)
                    waiting.append(path.read_text())
    return found


def test_an_edited_measure_puts_exactly_the_experiments_that_reach_it_out_of_date(tmp_path, monkeypatch):
    sources = {}
    for key in params.ordered():
        cells = json.loads((params.ROOT / "notebooks" / params.experiment(key).notebook).read_text())["cells"]
        sources[key] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    shutil.copytree(params.ROOT / "nbhelpers", tmp_path / "nbhelpers")
    for name in ("params", "notebooks"):
        (tmp_path / name).symlink_to(params.ROOT / name)
    monkeypatch.setattr(params, "ROOT", tmp_path)
    folder = tmp_path / "nbhelpers"
    reach = {key: reached(folder, source) for key, source in sources.items()}

    def of_each():
        return {key: versions.code_hash(versions.modules(notebooks.notebook_path(params.experiment(key).notebook)))
                for key in sources}  # fmt: skip

    before = of_each()
    for path in sorted((folder / "measures").glob("*.py")):
        text = path.read_text()
        path.write_text(text + "\nADDED = 1\n")
        changed = {key for key, version in of_each().items() if version != before[key]}
        path.write_text(text)
        assert changed == {key for key in reach if f"measures.{path.stem}" in reach[key]}, path.stem
    reaching = set().union(*reach.values())
    unused = {path.stem for path in (folder / "measures").glob("*.py")} - {"__init__"}
    # What pages and people's labels alone use is imported outside of measurements.
    outside = "\n".join(path.read_text() for path in folder.rglob("*.py") if path.parent.name != "measures")
    used = set(re.findall(r"\w+", " ".join(re.findall(r"^from nbhelpers\.measures.*$", outside, re.M))))
    assert not {name for name in unused - used if f"measures.{name}" not in reaching}


PACKAGE = {
    "measures/science": "from nbhelpers.core import depth\nimport nbhelpers.measures.lens as l\n",
    "core/depth": "",
    "core/store": "",
    "measures/lens": "from nbhelpers.models.stream import x\n",
    "models/stream": "from nbhelpers.measures import science\nx = 1\n",
    "report/charts": "from nbhelpers.report import colours\n",
    "report/colours": "",
    "measures/other": "",
    "core/params": "",
    "run/notebooks": "",
    "experiments/__init__": "",
    "__init__": "",
}
IMPORTS = "from nbhelpers.core import store\nfrom nbhelpers.measures import science\nfrom nbhelpers.report import charts"


@pytest.fixture
def package(chained):
    """A project with a package of its own, whose exp90 notebook imports `science` and `charts`."""
    for name, source in PACKAGE.items():
        path = chained / f"nbhelpers/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(source)
    write_notebook(chained / "notebooks/exp90_stub.ipynb", code('model = "ann"', "parameters"), code(IMPORTS))
    return chained


def test_a_version_counts_the_modules_that_its_notebook_imports_by_way_of_others_too(package):
    notebook = package / "notebooks/exp90_stub.ipynb"
    science = {"core/depth", "measures/lens", "measures/science", "models/stream"}
    assert named(versions.modules(notebook)) == science
    assert named(versions.modules(notebook, pages=True)) == {*science, "report/charts", "report/colours"}


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("from nbhelpers.measures import lenses", "there is no module nbhelpers.measures.lenses"),
        ("import nbhelpers.charts", "there is no module nbhelpers.charts"),
        ("from nbhelpers.attic import old", "nbhelpers.attic.old lies in no folder that the graph knows"),
    ],
)
def test_an_unknown_module_is_an_error(package, line, sentence):
    (package / "nbhelpers/attic").mkdir()
    (package / "nbhelpers/attic/old.py").touch()
    write_notebook(package / "notebooks/exp90_stub.ipynb", code('model = "ann"', "parameters"), code(line))
    with pytest.raises(notebooks.BatchError, match=sentence):
        versions.modules(package / "notebooks/exp90_stub.ipynb")


@pytest.mark.parametrize(
    "module, measured_again",
    [("models/stream", True), ("measures/science", True), ("report/charts", False), ("measures/other", False),
     ("core/store", False)],
)  # fmt: skip
def test_only_the_science_that_a_notebook_imports_changes_its_version(package, module, measured_again):
    runs = [experiments.resolve(key, model="ann") for key in ("exp90", "exp91")]
    before = [versions.measure_version(run) for run in runs]
    with open(package / f"nbhelpers/{module}.py", "a") as file:
        file.write("y = 2\n")
    # exp91 imports none of it but builds on exp90's result.
    assert [new != old for new, old in zip(map(versions.measure_version, runs), before)] == [
        measured_again
    ] * 2


def test_what_a_run_needs_is_run_first_and_once(chained, run_cli):
    status, said, _ = run_cli("run", "exp91", "--model", "ann")
    assert status == 0 and "exp91 needs exp90 on ann: running it first" in said
    assert trace(chained) == ["ann", "ann+"]
    result = store.load(store.result_path("pocket", "ann", "exp91"), experiment="exp91")
    assert result.value.values.tolist() == [0, 10, 20, 30]
    status, said, _ = run_cli("run", "exp91", "--model", "ann", "-p", "seed=1")
    assert status == 0 and "running it first" not in said
    assert trace(chained) == ["ann", "ann+", "ann+"]


def test_a_batch_measures_what_is_needed_first_and_again_where_it_changed(chained):
    def again():
        before = len(trace(chained))
        assert graph.run("pocket", cores=2, target="measured")
        return trace(chained)[before:]

    assert again() == ["ann", "ann+"]
    resize(chained, "exp91", 4, 5)
    assert again() == ["ann+"]
    resize(chained, "exp90", 4, 3)
    assert again() == ["ann", "ann+"]
    result = store.load(store.result_path("pocket", "ann", "exp91"), experiment="exp91")
    assert result.value.values.tolist() == [0, 10, 20]


def test_a_notebook_run_by_hand_to_the_same_end_makes_nothing_out_of_date(chained, run_cli):
    assert graph.run("pocket", cores=2, target="measured") and trace(chained) == ["ann", "ann+"]
    time.sleep(1.1)  # Snakemake compares times of files
    notebooks.refresh(chained / "notebooks/exp90_stub.ipynb")
    assert graph.run("pocket", cores=2, target="measured")
    assert trace(chained) == ["ann", "ann+", "ann"]
    # Nor does a result that is lost and made again, with one that builds on it and comes out the same.
    store.result_path("pocket", "ann", "exp90").unlink()
    assert run_cli("run", "exp91", "--model", "ann")[0] == 0
    assert trace(chained)[3:] == ["ann", "ann+"]
    assert graph.run("pocket", cores=2, target="measured") and len(trace(chained)) == 5


def save(n=4, **own):
    """Write a result of exp90 as its notebook would, and return it."""
    run = experiments.resolve("exp90", model="ann", n_prompts=n, **own)
    values = xr.DataArray(np.arange(float(n)), dims="prompt", attrs={"units": "1", "long_name": "v"})
    path = store.result_path("pocket", "ann", "exp90")
    attributes = store.provenance(run, wall_time_s=0.0, device="cpu")
    return store.load(store.save(xr.Dataset({"value": values}), path, provenance=attributes))


def upstream():
    """What exp91 reads of exp90."""
    return notebooks.upstream(experiments.resolve("exp91", model="ann"), "exp90")


@pytest.mark.parametrize("within", ["", "1"])
def test_upstream_reads_what_is_there(chained, monkeypatch, within):
    saved = save()
    monkeypatch.setenv("NBHELPERS_BATCH", within)
    monkeypatch.setattr(subprocess, "run", None)  # nothing is measured
    assert upstream().identical(saved)


def test_upstream_refuses_other_parameters_within_a_batch(chained, monkeypatch):
    monkeypatch.setenv("NBHELPERS_BATCH", "1")
    save(n=3)
    with pytest.raises(store.ResultError) as error:
        upstream()
    assert str(error.value) == (
        "_build/results/pocket/ann/exp90.nc was made with other parameters than those of exp91; make it anew with "
        "`nbh run exp90 --model ann --profile pocket`."
    )
    assert trace(chained) == []


def test_upstream_says_what_is_missing_within_a_batch(chained, monkeypatch):
    monkeypatch.setenv("NBHELPERS_BATCH", "1")
    with pytest.raises(
        store.ResultError, match="there is no result .*ann/exp90.nc yet; make it with `nbh run exp90"
    ):
        upstream()


def test_upstream_measures_what_is_missing_or_made_otherwise_outside(chained, monkeypatch, capsys):
    monkeypatch.setenv("NBHELPERS_BATCH", "")
    assert upstream().value.values.tolist() == [0, 1, 2, 3]
    assert trace(chained) == ["ann"] and "exp90 of ann comes first" in capsys.readouterr().out
    save(n=3)
    (chained / "break-ann").touch()
    with pytest.raises(notebooks.BatchError) as error:
        upstream()
    said = str(error.value)
    assert said.startswith("exp90 · ann stopped in cell 6 (Measure): AssertionError") and "\n" not in said


def test_upstream_measures_again_where_a_file_beside_it_is_missing(chained, monkeypatch):
    path = chained / "params/experiments/exp90.yml"
    path.write_text(path.read_text() + "artifacts: [beside.bin]\n")
    saved, called = save(), []

    def run(command, **_):
        called.append(command[3:])
        store.artifact_path(experiments.resolve("exp90", model="ann"), "beside.bin").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv("NBHELPERS_BATCH", "")
    monkeypatch.setattr(subprocess, "run", run)
    assert upstream().identical(saved) and upstream().identical(saved)
    assert called == [["run", "exp90", "--model", "ann", "--profile", "pocket"]]


def test_refreshing_keeps_outputs_and_no_trace_of_the_machine(project):
    path = project / "notebooks/plain.ipynb"
    write_notebook(path, code("a = 2", "parameters"), code("a + 40"))
    book = json.loads(path.read_text())
    for cell in book["cells"]:  # a list of lines, as notebooks lie on disk
        cell["source"] = cell["source"].splitlines(keepends=True)
    path.write_text(json.dumps(book))
    text = notebooks.refresh(path).read_text()
    assert '"42"' in text and str(project) not in text and "papermill" not in text
