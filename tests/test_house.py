"""The floor plan holds: folders import downwards, files stay small, and an experiment has one address.

`python -m tests.test_house` prints, for each experiment, the files that name it.
"""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from nbhelpers import experiments
from nbhelpers.core import params
from tests.stubs import REPOSITORY

PACKAGE = REPOSITORY / "nbhelpers"
# Lines of a file, of the code of a function, and of core, models and measures together. The last was 6,000 while the package
# knew six families; other pairs, files and machines took some of the rest, directions, judges of behaviour and captures
# larger than memory the most.
LARGEST, LONGEST, SCIENCE = 350, 40, 13_300
# What is written for readers may point to any experiment, and the command line's help has an example.
PROSE = ("README.md", "book/", "nbhelpers/cli/")
SUFFIXES = {".py", ".yml", ".csv", ".md", ".ipynb", ".toml", ""}
FOLDERS = ("nbhelpers", "notebooks", "params", "book")


def sources(*folders):
    """Return the Python files of folders of the package."""
    return sorted(path for folder in folders or [""] for path in (PACKAGE / folder).rglob("*.py"))


def lines(path):
    """Return how many lines a file has."""
    return len(path.read_text(encoding="utf-8").splitlines())


@cache
def named(path):
    """Return what of a file may name experiments: its text; of a notebook the code, since its Markdown links to others."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return text


def naming(key):
    """Return the files of the project, tests apart, that name an experiment, as paths from the root."""
    word = re.compile(rf"(?<![0-9A-Za-z]){key}(?![0-9A-Za-z])")
    files = [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*")]
    files += [
        REPOSITORY / name for name in ("README.md", "Makefile", "Snakefile", "conftest.py", "pyproject.toml")
    ]
    read = [
        path
        for path in files
        if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts
    ]
    here = {path.relative_to(REPOSITORY).as_posix(): path for path in read}
    return {name for name, path in here.items() if word.search(name) or word.search(named(path))}


def owned(key):
    """Return where an experiment may be named by its own files: folder, notebooks, parameters and figures published."""
    experiment = params.experiment(key)
    notebooks = {f"notebooks/{name}" for name in (experiment.notebook, experiment.across) if name}
    folder = {
        path.relative_to(REPOSITORY).as_posix()
        for path in sources(f"experiments/{experiments.slices()[key]}")
    }
    tables = {f"params/{name}.csv" for name in ("published", "figures", "differences", "published/sources")}
    stored = f"params/published/{key}.csv"  # where the study stored values of it
    tables |= {stored} if (REPOSITORY / stored).exists() else set()
    return folder | notebooks | tables | {f"params/experiments/{key}.yml"}


def builders(key):
    """Return the experiments that read a result of this one, by way of others too."""
    found = {other for other in params.keys("experiments") if key in params.experiment(other).needs}
    return found.union(*map(builders, found))


def elsewhere(key):
    """Return the files that name an experiment, do not belong to it or to one that reads it, and are no prose."""
    allowed = owned(key).union(*map(owned, builders(key)))
    return {name for name in naming(key) - allowed if not name.startswith(PROSE)}


def test_folders_import_downwards_and_experiments_stand_alone():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("key", sorted(experiments.slices()))
def test_an_experiment_is_named_where_it_lives_and_nowhere_else(key):
    assert elsewhere(key) == set()


@pytest.mark.parametrize("key", sorted(experiments.slices()))
def test_an_experiment_has_its_rooms(key):
    experiment, names = params.experiment(key), owned(key)
    folder = f"nbhelpers/experiments/{experiments.slices()[key]}"
    for module in ("experiment", "measure", "quantities", "report"):
        assert f"{folder}/{module}.py" in names
    assert (
        experiment.across and experiment.chapter and set(experiment.profiles) <= set(params.keys("profiles"))
    )
    assert all((REPOSITORY / name).exists() for name in names)
    assert list((REPOSITORY / "tests/experiments").glob(f"test_{key}*.py"))
    report, source = experiments.part(key, "report"), experiments.part(key, "quantities")
    assert callable(report.verdict) and callable(source.quantities)


def test_files_and_functions_stay_small():
    assert {path.name: n for path in sources() if (n := lines(path)) > LARGEST} == {}
    long = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                text = node.body[0] if ast.get_docstring(node) else None
                size = node.end_lineno - node.lineno + 1 - (text.end_lineno - text.lineno + 1 if text else 0)
                long |= {f"{path.name}: {node.name}": size} if size > LONGEST else {}
    assert long == {}


def test_the_science_stays_readable():
    assert sum(map(lines, sources("core", "models", "measures"))) <= SCIENCE


def test_every_module_has_its_folder():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {"core", "models", "measures", "report", "experiments", "run", "book", "cli"}
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_every_file_of_tests_has_a_name_of_its_own():
    """Of two files of one name pytest would collect one."""
    names = [path.name for path in (REPOSITORY / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_the_readme_says_where_every_formula_is():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    modules = {path.stem for path in sources("measures", "models")} - {"__init__"}
    assert {name for name in modules if not re.search(rf"\b{name}\b", text)} == set()


if __name__ == "__main__":
    for experiment in sorted(experiments.slices()):
        print(experiment, *sorted(naming(experiment)), sep="\n  ")
