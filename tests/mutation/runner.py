"""Running tests in a copy of the tree: a child of a process that has imported the libraries, with a time limit."""

import gc
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

# nnsight is left to the children: it gives every object a `save`, and what is imported after it may trip over that.
LIBRARIES = (
    "pytest", "xdist.plugin", "hypothesis", "hypothesis.extra.numpy", "typer.testing", "filelock", "safetensors.torch",
    "numpy", "scipy.stats", "pandas", "xarray", "h5netcdf.legacyapi", "altair", "torch", "pydantic",
    "transformers.modeling_utils", "transformers.generation", "transformers.models.auto.modeling_auto", "tokenizers",
)  # fmt: skip
COPIED = ("nbhelpers", "tests", "params", "notebooks", "book", "pocket")
FILES = ("conftest.py", "pyproject.toml", "Snakefile", "README.md", "Makefile", "environment.yml")
# Without plugins that these tests do not use, and without rewritten assertions: both cost as much as many a test file.
LEFT_OUT = ("cacheprovider", "unraisableexception", "nbval", "anyio")
OPTIONS = [
    "-q",
    "-x",
    "--no-header",
    "--tb=line",
    "-r",
    "fE",
    "--assert=plain",
    *(f"-pno:{name}" for name in LEFT_OUT),
]
FORK = multiprocessing.get_context("fork")


def copied(root: Path, folder: Path) -> Path:
    """Return a copy of the tree without what is generated."""
    skipped = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        shutil.copytree(root / name, folder / name, ignore=skipped, symlinks=True)
    for name in FILES:
        shutil.copy(root / name, folder)
    return folder


def preload() -> None:
    """Import the libraries, so that each child starts with them; the package itself is imported by the children alone."""
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.dont_write_bytecode = (
        True  # a mutant of the same size and second must not run the bytecode of the last one
    )
    for name in LIBRARIES:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    loaded = [name for name in sys.modules if name.split(".")[0] == "nbhelpers"]
    assert not loaded, f"the package must not be imported before a fork: {loaded}"
    gc.collect()
    gc.freeze()  # the children need not look through what they share


def run_tests(tree: Path, tests: Sequence[str], *, quick: bool, limit: float) -> tuple[str, str]:
    """Return the outcome of test files, paths in the tree, and the output's end.

    "passed", "failed", "broken" (pytest could not collect or run them) or "timeout".
    """
    log = tree / "output.txt"
    options = [*OPTIONS, *(["--quick"] if quick else ["-m", "not browser and not realmodel"])]
    child = FORK.Process(target=_pytest, args=(tree, options, list(tests), log))
    child.start()
    child.join(limit)
    if child.is_alive():
        os.killpg(child.pid, signal.SIGKILL)
        child.join()
        return "timeout", f"longer than {limit:.0f} s"
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    failed = [line for line in said if line.startswith(("FAILED", "ERROR"))]
    outcome = {0: "passed", 1: "failed"}.get(child.exitcode, "broken")
    return outcome, (failed or said or ["no output"])[0 if failed else -1][:300]


def _pytest(tree: Path, options: list[str], tests: list[str], log: Path) -> None:
    """Run pytest in the tree, file by file until one fails, in a process group of its own."""
    os.setpgid(0, 0)
    os.chdir(tree)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(out, stream)
    # The editable install must not come first: the package is the copy's.
    sys.path[:] = [str(tree), *(entry for entry in sys.path if entry not in ("", str(Path.cwd())))]
    for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
        del sys.modules[name]  # this harness's own, whose folder is the original tree
    os.environ.update(PYTHONPATH=str(tree), NBHELPERS_ROOT=str(tree), PYTHONDONTWRITEBYTECODE="1")
    import pytest

    for test in tests:  # one by one: what the first file kills, the others need not even be collected for
        status = pytest.main([*options, test])
        status = 0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else status  # a file of slow tests alone
        if status:
            break
    package = sys.modules.get("nbhelpers")
    if package and not Path(package.__file__).is_relative_to(tree):
        print(f"the package under test is {package.__file__}, not the copy's")
        status = 3
    sys.stdout.flush()
    os._exit(int(status))
