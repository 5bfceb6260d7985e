"""Corrupted results: each is detected and named, and the target that `make book` uses measures it again."""

import hashlib
import json
import re
import shutil

import pytest

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.core.variables import Variable
from nbhelpers.run import graph, results, versions
from tests.stubs import ACROSS, BODY, MEASURE, REPOSITORY, code, write_notebook, write_params

SAVE = """
value = xr.DataArray(np.arange(float(n_prompts)) + seed, dims="prompt", attrs={"units": "1", "long_name": "v"})
attributes = store.provenance(run, wall_time_s=0.0, device="cpu")
folder = store.result_path(profile, model, "exp90").parent
store.write_whole(folder / "beside.bin", f"beside {model}".encode() * 20)
more = {"experiment": "exp90_more"}
store.save(xr.Dataset({"value": value}), folder / "exp90_more.nc", provenance=attributes | more)
experiments.save(xr.Dataset({"value": value}, attrs=attributes))
"""
DATA, BESIDE, MORE, BOOK = "exp90.nc", "beside.bin", "exp90_more.nc", "exp90_stub.ipynb"


def sealed(data):
    """Return bytes with the line that ends a result."""
    return data + b"\nsha256 " + hashlib.sha256(data).hexdigest().encode() + b"\n"


def flipped(at):
    """Return a change of one bit, `at` a share of the length."""

    def change(path, model):
        raw = bytearray(path.read_bytes())
        raw[int(at * (len(raw) - 1))] ^= 1
        path.write_bytes(raw)

    return change


def cut(start=None, end=None):
    """Return a change that keeps a slice of the bytes."""
    return lambda path, model: path.write_bytes(path.read_bytes()[start:end])


def filled(text):
    """Return a change that puts other bytes in place."""
    return lambda path, model: path.write_bytes(text)


def folder(path, model):
    """Put a folder with a file in place."""
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def dangling(path, model):
    """Put a link to nothing in place."""
    path.unlink()
    path.symlink_to("nowhere")


def from_other(path, model):
    """Put the same file of another model in place, the last of the profile, which stays whole."""
    shutil.copy(path.parents[1] / MODELS[-1] / path.name, path)


def made_as(**changes):
    """Return a change that saves a whole result with other provenance."""

    def change(path, model):
        found = store.load(path)
        store.save(found, path, provenance=found.attrs | changes)

    return change


def without_variable(path, model):
    """Save a whole result that lacks its variable."""
    found = store.load(path)
    store.save(found.drop_vars("value"), path, provenance=found.attrs)


def of_fewer_prompts(path, model):
    """Save the result of other parameters."""
    write_step(model, n_prompts=3)


def outputs_changed(path, model):
    """Change one digit that an executed notebook shows."""
    path.write_text(path.read_text().replace("42", "43"))


CORRUPTIONS = {
    "result cut at its end": (DATA, cut(end=-100)),
    "result of one byte": (DATA, cut(end=1)),
    "result empty": (DATA, filled(b"")),
    "result cut at its head": (DATA, cut(start=100)),
    "result doubled": (DATA, lambda path, model: path.write_bytes(path.read_bytes() * 2)),
    "result with a byte more": (DATA, lambda path, model: path.write_bytes(path.read_bytes() + b"x")),
    "first bit flipped": (DATA, flipped(0)),
    "bit flipped in the middle": (DATA, flipped(0.5)),
    "bit flipped in the seal": (DATA, flipped(0.999)),
    "zeros": (DATA, lambda path, model: path.write_bytes(bytes(path.stat().st_size))),
    "seal missing": (DATA, lambda path, model: path.write_bytes(path.read_bytes()[:-73])),
    "sealed text": (DATA, filled(sealed(b"not a dataset"))),
    "text": (DATA, filled(b"to do")),
    "folder as result": (DATA, folder),
    "link to nothing": (DATA, dangling),
    "other model's result": (DATA, from_other),
    "other experiment's result": (DATA, made_as(experiment="exp91")),
    "other hash": (DATA, made_as(parameter_hash="0" * 12)),
    "other parameters' result": (DATA, of_fewer_prompts),
    "artifact missing": (BESIDE, lambda path, model: path.unlink()),
    "artifact cut": (BESIDE, cut(end=-1)),
    "artifact empty": (BESIDE, filled(b"")),
    "artifact with a bit flipped": (BESIDE, flipped(0.5)),
    "artifact of another model": (BESIDE, from_other),
    "artifact as folder": (BESIDE, folder),
    "second artifact cut": (MORE, cut(end=-100)),
    "second artifact with a bit flipped": (MORE, flipped(0.3)),
    "second artifact of another model": (MORE, from_other),
    "second artifact replaced by the result": (MORE, lambda path, model: shutil.copy(path.with_name(DATA), path)),
    "notebook cut": (BOOK, cut(end=-5)),
    "notebook empty": (BOOK, filled(b"")),
    "notebook of no cells": (BOOK, filled(b"{}")),
    "notebook with an output changed": (BOOK, outputs_changed),
    "notebook that is no text": (BOOK, filled(b"\xff\xfe\x00")),
    "folder as notebook": (BOOK, folder),
}  # fmt: skip
# Only a declared variable can be missed, and stubs declare none: detected, not measured again here.
MODELS = [f"m{number:02}" for number in range(len(CORRUPTIONS))] + ["whole"]


def path_of(name, model):
    """Return the path of one of a model's files."""
    if name == BOOK:
        return results.executed_path("pocket", BOOK, model)
    return store.result_path("pocket", model, "exp90").with_name(name)


def write_step(model, **own):
    """Leave what a run of exp90 leaves, without a kernel."""
    exec(MEASURE + SAVE, {"model": model, "profile": "pocket", "n_prompts": 4, "seed": 0} | own)
    path = path_of(BOOK, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    version = versions.measure_version(experiments.resolve("exp90", model=model))
    path.write_bytes(results.signed(executed("42"), version))


def executed(said):
    """Return an executed notebook with one output."""
    output = {"output_type": "stream", "name": "stdout", "text": said}
    cell = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [output], "execution_count": 1}
    return {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def write_project(root):
    """Write a project with as many models as corruptions, whose every step is done, and whose book is a file."""
    write_params(root, MODELS)
    path = root / "params/experiments/exp90.yml"
    path.write_text(path.read_text() + f"artifacts: [{BESIDE}, {MORE}]\n")
    parameters = code('model = "m00"\nprofile = "pocket"\nn_prompts = 4\nseed = 0', "parameters")
    write_notebook(root / "notebooks" / BOOK, parameters, code(MEASURE), code(BODY), code(SAVE))
    across = root / "notebooks/exp90_stub_across.ipynb"
    write_notebook(across, code('profile = "pocket"', "parameters"), code(ACROSS))
    rules, book = (REPOSITORY / "Snakefile").read_text(), "nbhelpers book --profile {{params.profile:q}}"
    assert book in rules
    made = '-c \'import pathlib; pathlib.Path("{output}").write_text("pocket")\''
    rules = rules.replace(f'f"{{PYTHON_M}} {book}"', f"{f'python {made}'!r}")
    (root / "Snakefile").write_text(rules)
    for model in MODELS:
        write_step(model)
    page = results.executed_path("pocket", across.name)
    page.write_bytes(results.signed(executed("42"), versions.compare_version("exp90")))
    (root / "_build/html").mkdir()
    (root / "_build/html/index.html").touch()
    results.shows("pocket")
    assert graph.settle("pocket") == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the root of a finished project, which tests copy."""
    root = tmp_path_factory.mktemp("whole") / "project"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(params, "ROOT", root)
        write_project(root)
    return root


@pytest.fixture
def finished(whole, tmp_path, monkeypatch):
    """Return the root of a finished project, which this process and its children work in."""
    root = tmp_path / "project"
    shutil.copytree(whole, root)
    monkeypatch.setattr(params, "ROOT", root)
    monkeypatch.setenv("NBHELPERS_ROOT", str(root))
    monkeypatch.setenv("NBHELPERS_WARM", "0")
    return root


def stamps(model):
    """Return which stamps a model's step has."""
    names = ("exp90.data", "exp90.page")
    return [name for name in names if results.stamp_path("pocket", name, model).exists()]


def shrink(root, *models):
    """Leave only these models in the profile."""
    path = root / "params/profiles/pocket.yml"
    path.write_text(re.sub(r"models: \[.*\]", f"models: [{', '.join(models)}]", path.read_text()))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_detected_and_named(finished, name):
    file, corrupt = CORRUPTIONS[name]
    shrink(finished, "m00", "whole")
    corrupt(path_of(file, "m00"), "m00")
    (said,) = graph.settle("pocket")
    assert said.startswith("exp90 · m00: ") and file in said and said.endswith("Measuring anew.")
    assert stamps("m00") == [] and stamps("whole") == ["exp90.data", "exp90.page"]


def test_a_missing_variable_is_named(finished, monkeypatch):
    shrink(finished, "m00", "whole")
    monkeypatch.setattr(experiments, "variables", lambda key: {"value": Variable(("prompt",), "1", "v")})
    assert graph.settle("pocket") == []
    without_variable(path_of(DATA, "m00"), "m00")
    assert "exp90.nc is not complete: no value" in graph.settle("pocket")[0] and stamps("m00") == []


def test_a_damaged_page_across_models_is_named(finished):
    shrink(finished, "m00", "whole")
    path = results.executed_path("pocket", "exp90_stub_across.ipynb")
    path.write_text(path.read_text()[:-20])
    assert graph.settle("pocket") == [
        "exp90: _build/runs/pocket/exp90_stub_across.ipynb is damaged. Running it anew."
    ]
    assert not results.stamp_path("pocket", "exp90.page").exists()


@pytest.mark.parametrize("spoil", [filled(b"garbage"), filled(b""), folder, dangling])
def test_stamps_are_never_trusted(finished, spoil):
    shrink(finished, "m00", "whole")
    stamp = results.stamp_path("pocket", "exp90.data", "m00")
    before = stamp.read_text()
    spoil(stamp, "m00")
    assert graph.settle("pocket") == [] and stamp.read_text() == before
    path_of(DATA, "m00").write_bytes(b"")
    spoil(stamp, "m00")
    assert len(graph.settle("pocket")) == 1 and stamps("m00") == []


def test_the_book_of_another_profile_is_not_this_ones(finished):
    shrink(finished, "m00", "whole")
    results.shows("mine")
    graph.settle("pocket")
    assert not results.book_stamp().exists()


@pytest.mark.slow
def test_everything_corrupted_is_measured_again_by_the_target_of_make_book(finished, monkeypatch, capsys):
    monkeypatch.delenv("NBHELPERS_WARM")  # dozens of runs: forked, they take a third of the time
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for model, (file, corrupt) in zip(MODELS, CORRUPTIONS.values()):
        corrupt(path_of(file, model), model)
    assert graph.run("pocket", cores=2)
    said = capsys.readouterr().out
    for model, (file, _) in zip(MODELS, CORRUPTIONS.values()):
        assert re.search(rf"exp90 · {model}: .*{file}.*anew", said), model
    assert sorted((finished / "trace.txt").read_text().split()) == MODELS[:-1]  # all but the whole one, once
    assert graph.settle("pocket") == [] and results.version_of(path_of(BOOK, "m00"))
    for model in MODELS:
        assert stamps(model) == ["exp90.data", "exp90.page"]
        recorded = json.loads(store.attributes(path_of(DATA, model))["artifacts"])
        assert recorded[BESIDE] == hashlib.sha256(f"beside {model}".encode() * 20).hexdigest()
    assert graph.run("pocket", cores=2) and "nothing to run" in capsys.readouterr().out
