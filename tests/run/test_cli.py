"""The command line: help with examples, and for every mistake one sentence on stderr without a traceback."""

import os
import subprocess
import sys

import pytest

from nbhelpers import cli
from nbhelpers.cli import runs

COMMANDS = (
    "run", "batch", "book", "zip", "verify", "pdf", "import", "add", "doctor", "models", "judge", "refresh",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run_cli, command):
    status, said, _ = run_cli(command, "--help")
    assert status == 0 and f"Example: nbh {command}" in " ".join(said.split())


def test_the_help_lists_every_command(run_cli):
    _, said, _ = run_cli("--help")
    assert all(f"  {command} " in said for command in COMMANDS)


def fail(monkeypatch, capsys, *arguments):
    """Return the status and the stderr of `nbh` with these arguments, run in this process."""
    monkeypatch.setattr(sys, "argv", ["nbh", *arguments])
    with pytest.raises(SystemExit) as error:
        cli.main()
    return error.value.code, capsys.readouterr().err


MISTAKES = {
    "no model": (["run", "exp90"], "name the model with --model; allowed: ann, bob, cid."),
    "unknown model": (["run", "exp90", "--model", "anne"], "did you mean 'ann'?"),
    "unknown experiment": (["run", "exp09", "--model", "ann"], "did you mean 'exp90'?"),
    "unknown profile": (["run", "exp90", "-m", "ann", "--profile", "poket"], "did you mean 'pocket'?"),
    "unknown parameter": (["run", "exp90", "-m", "ann", "-p", "n_promts=3"], "did you mean 'n_prompts'?"),
    "bad value": (["run", "exp90", "-m", "ann", "-p", "n_prompts=many"], "'n_prompts' is 'many'"),
    "no value": (["run", "exp90", "-m", "ann", "-p", "n_prompts"], "write a parameter as name=value"),
    "model for all": (["run", "exp90_across", "-m", "ann"], "takes neither a model nor parameters"),
    "results missing": (["run", "exp90_across"], "there is no result _build/results/pocket/ann/exp90.nc yet"),
    "dry run of an unknown experiment": (
        ["run", "exp09", "--dry-run"],
        "there is no experiment 'exp09'; did you mean",
    ),
    "dry run of an unknown model": (["run", "exp90", "--dry-run", "-m", "anne"], "did you mean 'ann'?"),
    "dry run of an unknown profile": (
        ["run", "--dry-run", "--profile", "papr"],
        "there is no profile 'papr'",
    ),
    "dry run of an unknown parameter": (
        ["run", "exp90", "--dry-run", "-p", "n_promts=3"],
        "did you mean 'n_prompts'?",
    ),
    "dry run of parameters alone": (
        ["run", "--dry-run", "-p", "n_prompts=3"],
        "name the experiment that the parameters",
    ),
    "dry run without sizes": (
        ["run", "exp90", "--dry-run"],
        "weights/ann is no checkpoint that states one: add size",
    ),
    "unknown target": (["batch", "--target", "everything"], "allowed: all, compared, measured"),
    "unknown notebook": (["refresh", "exp91.ipynb"], "the notebook notebooks/exp91.ipynb is missing"),
}


@pytest.mark.parametrize("arguments, sentence", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(project, monkeypatch, capsys, arguments, sentence):
    status, said = fail(monkeypatch, capsys, *arguments)
    assert status in (1, 2) and sentence in said
    assert said.startswith("nbh: ") and said.count("\n") == 1


def test_a_traceback_is_shown_on_request(project, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nbh", "--traceback", "run", "exp90", "-m", "anne"])
    monkeypatch.setenv("NBHELPERS_TRACEBACK", "")
    with pytest.raises(cli.params.ParameterError):
        cli.main()


def test_the_module_runs_as_a_script(project):
    command = [sys.executable, "-m", "nbhelpers", "run", "exp90", "--model", "anne"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2 and "Traceback" not in done.stderr and "did you mean 'ann'" in done.stderr


def test_values_have_their_types():
    found = runs.parameters(["a=3", "b=0.5", "c=[1, 2]", "d=text", "e=null"])
    assert found == {"a": 3, "b": 0.5, "c": [1, 2], "d": "text", "e": None}


def test_importing_the_command_line_loads_no_model_library():
    loaded = "import sys, nbhelpers.cli, nbhelpers.run.graph, nbhelpers.book.build"
    code = f"{loaded}; print({{'torch', 'nnsight', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
