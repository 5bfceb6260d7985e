"""Fixtures: a small project of stub notebooks, and the command line in this process."""

import os
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock
from hypothesis import settings

from nbhelpers.core import params
from nbhelpers.models import loading
from nbhelpers.run import warm
from tests.stubs import (
    ACROSS,
    BODY,
    MEASURE,
    REPOSITORY,
    SAVE,
    code,
    markdown,
    write_notebook,
    write_params,
    write_second_experiment,
)

# The same examples on every run; `pytest --hypothesis-profile=search` looks for others.
settings.register_profile("search", deadline=None)
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


def pytest_addoption(parser):
    """Add what `make check` asks for."""
    parser.addoption(
        "--quick", action="store_true", help="leave out slow tests and those that load a pocket pair"
    )


def pytest_configure(config):
    """Skip, under --quick, every test from where it would load a pocket pair."""
    if config.getoption("quick"):
        loading.load_decoder = lambda *_: pytest.skip("loads a pair; `make test` runs it")


def pytest_collection_modifyitems(config, items):
    """Leave out what downloads a model, unless it is asked for; under --quick also what is marked as slow."""
    if "realmodel" not in config.option.markexpr:
        real = [item for item in items if item.get_closest_marker("realmodel")]
        config.hook.pytest_deselected(items=real)
        items[:] = [item for item in items if item not in real]
    if config.getoption("quick"):
        slow = [
            item for item in items if item.get_closest_marker("slow") or item.get_closest_marker("browser")
        ]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return the root of a project with three stub models, which this process and its children work in."""
    root = tmp_path / "project"
    write_params(root, ["ann", "bob", "cid"])
    parameters = code('model = "ann"\nprofile = "pocket"\nn_prompts = 4\nseed = 0', "parameters")
    write_notebook(
        root / "notebooks/exp90_stub.ipynb",
        markdown("# A stub"), parameters, code(MEASURE), markdown("## Measure"), code(BODY), code(SAVE),
    )  # fmt: skip
    write_notebook(
        root / "notebooks/exp90_stub_across.ipynb", code('profile = "pocket"', "parameters"), code(ACROSS)
    )
    shutil.copy(REPOSITORY / "Snakefile", root)
    monkeypatch.setattr(params, "ROOT", root)
    monkeypatch.setenv("NBHELPERS_ROOT", str(root))
    # Stubs import none of the libraries that a warm start has imported.
    monkeypatch.setenv("NBHELPERS_WARM", "0")
    return root


@pytest.fixture
def chained(project):
    """Return the root of a project with one stub model and a second experiment, exp91, that needs exp90."""
    write_second_experiment(project)
    return project


@pytest.fixture
def run_cli():
    """Return a function that runs `nbh` in this process and returns (status, stdout, stderr)."""
    from typer.testing import CliRunner

    from nbhelpers import cli

    def call(*arguments):
        result = CliRunner().invoke(cli.app, [str(item) for item in arguments])
        return result.exit_code, result.stdout, result.stderr

    return call


BROWSER_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


@pytest.fixture(scope="session")
def browser():
    """Return the one Chromium of a process's tests; Playwright starts no second one beside it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    with playwright.sync_playwright() as run:
        path = shutil.which("chromium")
        chromium = run.chromium.launch(executable_path=path, args=BROWSER_FLAGS, timeout=120_000)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def book_root(tmp_path_factory):
    """Return the root of a repository whose book is built from made-up results of all experiments (a minute or two).

    Under pytest-xdist the first worker that asks builds it for all.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    root = shared / "book"
    with FileLock(shared / "book.lock"):
        if not (root / "_build/html/index.html").exists():
            shutil.rmtree(root, ignore_errors=True)  # what a failed build left
            command = warm.with_server([sys.executable, "-m", "tests.synthetic", str(root)])
            variables = {"NBHELPERS_ROOT": str(root), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                command, cwd=REPOSITORY, env=os.environ | variables, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return root
