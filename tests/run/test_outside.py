"""The world outside a run: interrupts, full and read-only disks, second runs, notebooks that other tools left."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from nbhelpers import cli, experiments
from nbhelpers.cli import runs
from nbhelpers.core import params, store
from nbhelpers.run import doctor, graph, locks, notebooks, results, versions
from tests.run.test_batch import alive, measure, start_batch, trace, wait_for
from tests.stubs import code, write_notebook

NBH = [sys.executable, "-m", "nbhelpers"]
BOOK = "notebooks/exp90_stub.ipynb"


def start(*arguments, **options):
    """Return a running `nbh` whose words, on either stream, can be read."""
    return subprocess.Popen(
        [*NBH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


@pytest.mark.parametrize(
    ("number", "in_batch", "status"),
    [(signal.SIGINT, "0", 130), (signal.SIGTERM, "0", 0), (signal.SIGTERM, "1", 130)],
)
def test_a_stopped_run_names_its_partial_notebook(project, number, in_batch, status, monkeypatch):
    before = measure()
    executed = results.executed_path("pocket", "exp90_stub.ipynb", "ann").read_bytes()
    (project / "hold-ann").touch()
    monkeypatch.setenv("NBHELPERS_BATCH", in_batch)
    run = start("run", "exp90", "--model", "ann")
    wait_for(lambda: trace(project) == ["ann", "ann"])
    run.send_signal(number)
    said = run.communicate(timeout=60)[0]
    partial = "_build/runs/pocket/ann/exp90_stub.partial.ipynb"
    assert run.returncode == status and f"exp90 · ann was stopped. The notebook so far: {partial}\n" in said
    assert json.loads((project / partial).read_text())["cells"]
    assert store.load(store.result_path("pocket", "ann", "exp90")).identical(before)
    assert results.executed_path("pocket", "exp90_stub.ipynb", "ann").read_bytes() == executed
    wait_for(lambda: not alive(project))


def test_of_two_equal_runs_the_second_waits_and_says_so(project):
    (project / "hold-ann").touch()
    first = start("run", "exp90", "--model", "ann")
    wait_for(lambda: trace(project) == ["ann"])
    second = start("run", "exp90", "--model", "ann")
    assert "exp90 · ann is being run by another process; waiting" in second.stdout.readline()
    assert trace(project) == ["ann"]
    (project / "hold-ann").unlink()
    assert first.wait(60) == second.wait(60) == 0 and trace(project) == ["ann", "ann"]


def test_a_killed_run_frees_its_lock(project):
    (project / "hold-ann").touch()
    first = start("run", "exp90", "--model", "ann")
    wait_for(lambda: trace(project) == ["ann"])
    first.kill()
    first.wait()
    (project / "hold-ann").unlink()
    assert measure().sizes["prompt"] == 4


def test_what_another_process_has_just_measured_is_not_measured_again(chained, monkeypatch):
    run = experiments.resolve("exp90", model="ann")
    measure()
    monkeypatch.setattr(notebooks, "alone", lambda *_: contextlib.nullcontext(True))
    notebooks.measure(run, version=versions.measure_version(run), again=False)
    assert trace(chained) == ["ann"]
    notebooks.measure(run, version=versions.measure_version(run))
    assert trace(chained) == ["ann", "ann"]


@pytest.mark.parametrize(
    "room", [1000, 9000]
)  # bytes: for no notebook; for the notebook, hardly for the result
def test_a_full_disk_is_one_sentence_and_loses_nothing(project, room):
    measure()
    path, executed = (
        store.result_path("pocket", "ann", "exp90"),
        project / "_build/runs/pocket/ann/exp90_stub.ipynb",
    )
    before = path.read_bytes(), executed.read_bytes()

    def little():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    run = start("run", "exp90", "--model", "ann", "-p", "n_prompts=6", preexec_fn=little)
    said = run.communicate(timeout=60)[0]
    assert run.returncode in (1, 2) and said.startswith("nbh: ") and said.count("\n") == 1, said
    assert "could not be written (File too large)" in said
    assert (path.read_bytes(), executed.read_bytes()) == before


def test_a_failed_step_leaves_what_was_there(project, capsys):
    assert graph.run("pocket", cores=2, target="measured")
    path, executed = (
        store.result_path("pocket", "ann", "exp90"),
        project / "_build/runs/pocket/ann/exp90_stub.ipynb",
    )
    before = path.read_bytes(), executed.read_bytes()
    book = json.loads((project / BOOK).read_text())
    write_notebook(project / BOOK, *book["cells"][:-1], code("value = None"), book["cells"][-1])
    (project / "break-ann").touch()
    assert not graph.run("pocket", cores=2, target="measured")
    assert (path.read_bytes(), executed.read_bytes()) == before
    (project / "break-ann").unlink()
    assert graph.run("pocket", cores=2, target="measured") and trace(project).count("ann") == 3
    assert executed.read_bytes() != before[1]


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(params.ROOT / "_build/x"))


@pytest.mark.parametrize(
    "arguments", [["run", "exp90", "-m", "ann"], ["run", "exp90_across"], ["batch"], ["book"]]
)
def test_a_read_only_build_folder_is_one_sentence(project, monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["nbh", *arguments])
    monkeypatch.setattr(locks.Path, "mkdir", read_only)
    monkeypatch.setattr(locks.Path, "write_bytes", read_only)
    with pytest.raises(SystemExit) as error:
        cli.main()
    said = capsys.readouterr().err
    assert error.value.code == 1 and said.startswith(
        "nbh: _build/x cannot be read or written: Read-only file system"
    )
    assert said.count("\n") == 1


def test_a_file_where_build_should_be_is_one_sentence(project):
    (project / "_build").write_text("")
    for arguments in (["run", "exp90", "-m", "ann"], ["batch"], ["book"]):
        run = start(*arguments)
        said = run.communicate(timeout=60)[0]
        assert run.returncode == 1 and said.startswith("nbh: _build") and said.count("\n") == 1, said


def test_the_doctor_sees_that_build_cannot_be_written(project, monkeypatch):
    assert not [check for check in doctor.check_machine("pocket") if "_build" in check.text]
    monkeypatch.setattr(locks.Path, "write_bytes", read_only)
    (found,) = [check for check in doctor.check_machine("pocket") if "_build" in check.text]
    assert found.well is False and found.text == "_build cannot be written (Read-only file system)"


def test_too_many_prompts_are_refused_before_anything_starts(chained, monkeypatch):
    (chained / "stub").write_text('{"id": 1}\n\n{"id": 2}\n{"id": 3}\n')
    said = "exp90: n_prompts is 4, but stub holds 3 prompts; choose at most 3."
    for refused in (
        measure,
        lambda: graph.run("pocket", cores=1),
        lambda: runs.measure("exp90", "ann", "", {}, False),
    ):
        with pytest.raises(params.ParameterError, match=re.escape(said)):
            refused()
    assert trace(chained) == []
    assert measure(n_prompts=3).sizes["prompt"] == 3


MARKERS = '<<<<<<< HEAD\n"metadata": {},\n=======\n"metadata": 1,\n>>>>>>> theirs\n'
LEFT = {
    "a merge": (
        lambda text: text.replace('"cells": [', f'"cells": [\n\n\n{MARKERS}'),
        "line 4 is not JSON: resolve the conflict",
    ),
    "a cut": (lambda text: text[:-9], "line 1 is not JSON: .*; restore it"),
    "nothing": (lambda text: "", "line 1 is not JSON"),
    "a long number": (lambda text: "9" * 5000, "cannot be read; restore it"),
    "deep nesting": (lambda text: "[" * 100_000, "cannot be read; restore it"),
    "another format": (
        lambda text: text.replace('"nbformat": 4', '"nbformat": 3'),
        "no notebook of format 4",
    ),
    "a list": (lambda text: "[]", "no notebook of format 4"),
    "no cells": (lambda text: "{}", "no notebook of format 4"),
}


@pytest.mark.parametrize("change, sentence", LEFT.values(), ids=LEFT)
def test_a_notebook_that_is_none_is_one_sentence(project, change, sentence):
    path = project / BOOK
    path.write_text(change(path.read_text()))
    run = experiments.resolve("exp90", model="ann")
    for refused in (
        lambda: versions.measure_version(run),
        lambda: notebooks.refresh(path),
        lambda: notebooks.declared(path),
    ):
        with pytest.raises(notebooks.BatchError, match=f"^{BOOK} .*{sentence}") as error:
            refused()
        assert "\n" not in str(error.value)
    assert f"notebook {path.name}: {BOOK}" in [c for c in doctor.check_notebooks() if c.well is False][0].text


def test_a_notebook_without_metadata_runs(project):
    path = project / BOOK
    book = json.loads(path.read_text())
    book["metadata"] = {}
    for cell in book["cells"]:
        if not cell["metadata"].get("tags"):
            del cell["metadata"]
        cell.pop("outputs", None)
    path.write_text(json.dumps(book))
    assert measure().sizes["prompt"] == 4 and notebooks.refresh(path)


def test_a_failing_refresh_leaves_the_notebook_as_it_was(project):
    path = project / "notebooks/plain.ipynb"
    write_notebook(path, code("a = 2", "parameters"), code("a / 0"))
    before = path.read_bytes()
    with pytest.raises(
        notebooks.BatchError, match="plain.ipynb is as it was, since a cell stopped: ZeroDivisionError"
    ):
        notebooks.refresh(path)
    assert path.read_bytes() == before


def test_an_error_of_many_lines_is_one_sentence(project):
    path = project / BOOK
    book = json.loads(path.read_text())
    book["cells"][-2]["source"] = "raise ValueError('\\nthe sizes differ\\nand here is\\na table of them')"
    path.write_text(json.dumps(book))
    with pytest.raises(notebooks.BatchError) as error:
        measure()
    assert "ValueError: the sizes differ. The notebook so far: " in str(error.value)
    with pytest.raises(notebooks.BatchError) as again:
        notebooks.refresh(path)
    assert str(again.value).endswith("since a cell stopped: ValueError: the sizes differ.")
    assert "\n" not in f"{error.value}{again.value}"


@pytest.mark.parametrize(
    "garbage", [b"", b"garbage", b"\xff\xfe", b"-1", b"99999999999999999999", b"{pid} abc"]
)
def test_a_batch_lock_that_holds_anything_ends_no_process(project, garbage):
    other = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=project, start_new_session=True
    )
    token = "0" * 32
    for text in (garbage, f"{other.pid}".encode(), f"{other.pid} {token}".encode()):
        (project / "_build").mkdir(exist_ok=True)
        (project / "_build/batch.lock").write_bytes(text.replace(b"{pid}", str(other.pid).encode()))
        with graph.sole_batch():
            assert other.poll() is None
    other.communicate(b"\n")
    assert other.returncode == 0


def test_a_batch_whose_leader_is_killed_ends_by_itself(project):
    (project / "hold-cid").touch()
    leader = start_batch(project)
    wait_for(lambda: "cid" in trace(project))
    leader.kill()
    leader.wait()
    wait_for(lambda: not alive(project), seconds=60)


def test_a_key_reaches_no_shell(project):
    text = (project / "Snakefile").read_text()
    shells = re.findall(r"shell:\n\s+(.+)", text)
    assert len(shells) == 3
    for line in shells:
        filled = re.findall(r"\{+([\w.:]+)\}+", line)
        assert filled[0] == "PYTHON_M" and all(name.endswith(":q") for name in filled[1:]), line


def test_a_batch_takes_any_path_and_any_name(project):
    """Braces are wildcards to Snakemake, and it would take 1e5 for a number."""
    folder = project / "weights/{model} {{x}} {"
    shutil.move(project / "weights/ann", folder)
    file = project / "params/models/ann.yml"
    file.write_text(file.read_text().replace("weights/ann", f'"weights/{folder.name}"'))
    text = (project / "params/profiles/pocket.yml").read_text().replace("[ann, bob, cid]", "[ann]")
    (project / "params/profiles/1e5.yml").write_text(text.replace("name: pocket", "name: '1e5'"))
    sizes = project / "params/experiments/exp90.yml"
    sizes.write_text(sizes.read_text() + "  '1e5': {n_prompts: 3, max_new_tokens: 4, batch_size: 2}\n")
    for weights, ran in ((b"ann", 1), (b"ann", 1), (b"trained again", 2)):
        (folder / "model.safetensors").write_bytes(weights)
        assert graph.run("1e5", cores=1, target="measured") and trace(project) == ["ann"] * ran


def test_a_batch_speaks_at_once_and_says_what_it_reads(project, capsys, monkeypatch):
    for model in ("ann", "bob"):
        (project / f"weights/{model}/model.safetensors").write_bytes(bytes(2000))
    graph.read_weights(["ann", "bob"])
    assert capsys.readouterr().out == ""  # too little to wait for
    graph.read_weights(["ann", "bob"], least=3000)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"reading weights {n} of 2, 0.0 GB: weights/{model}/model.safetensors"
        for n, model in ((1, "ann"), (2, "bob"))
    ]

    def stop(profile):
        raise KeyboardInterrupt

    monkeypatch.setattr(graph, "settle", stop)
    with pytest.raises(KeyboardInterrupt):
        graph.run("pocket", cores=1)
    assert capsys.readouterr().out.startswith("profile pocket: looking for what is missing")


def test_a_comparison_of_results_that_are_out_of_date_is_refused(project, run_cli, monkeypatch, capsys):
    for model in ("ann", "bob", "cid"):
        measure(model)
    assert run_cli("run", "exp90_across")[0] == 0
    measure("bob", n_prompts=3)
    with pytest.raises(
        store.ResultError,
        match=r"exp90 · bob: made with other .* Make it anew with `nbh run exp90 --model bob",
    ):
        runs.compare("exp90", "pocket")


def test_executed_notebooks_that_are_out_of_date_are_known(project):
    across = project / "_build/runs/pocket/exp90_stub_across.ipynb"
    assert graph.run("pocket", cores=2, target="compared") and graph.outdated("pocket") == []
    (project / "weights/bob/model.safetensors").write_bytes(b"trained again")
    across.write_text("{}")
    bob = results.executed_path("pocket", "exp90_stub.ipynb", "bob")
    assert graph.outdated("pocket") == [bob, across]
