"""Versions of steps: digests of what a step's result depends on.

A step depends on the content of its parameters, weights, notebook and the modules that the notebook imports. A fresh
clone, a touched file or an edited comment does not change a version. A module's folder determines its effect: edited
science makes measurements out of date, edited drawing code makes pages out of date.
"""

import ast
from functools import cache
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.run import notebooks

# A module's folder determines its role: SCIENCE computes measurements, DRAWING makes pages from them.
SCIENCE, DRAWING = ("core", "models", "measures"), ("report",)
# Modules of `core` that declare parameters and results. Their code is not hashed: values are hashed, results checked.
RECORDS = {"core.params", "core.schemas", "core.store", "core.variables", "core.cost", "core.mistakes", "core.digests",
           "core.yaml_loader", "core.sealed"}  # fmt: skip
# Modules of a slice that measure nothing.
DECLARED, DRAWN = "experiment", ("quantities", "report", "figures")


@cache
def parsed(source: str) -> ast.Module:
    """Return the syntax tree of Python source, cached because many versions need the tree of the same module."""
    return ast.parse(source)


def package() -> Path:
    """Return the package's folder: the one in the current repository, or the installed one if that has none."""
    own = params.ROOT / "nbhelpers"
    return own if own.exists() else Path(__file__).parents[1]


@cache
def imported(source: str, folder: Path) -> frozenset[str]:
    """Return the modules of the package that Python source imports, as "core.params"; BatchError for one that is missing."""
    found = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("nbhelpers."):
            found |= {_module(node.module, alias.name, folder) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {_module(a.name, "", folder) for a in node.names if a.name.startswith("nbhelpers.")}
    return frozenset(found - {""})


def _module(parent: str, name: str, folder: Path) -> str:
    """Return the module that `from parent import name` reads, "" for the package itself."""
    inside = parent.split(".")[1:]
    whole, above = [*inside, *filter(None, [name])], folder.joinpath(*inside)
    if _is_module(folder.joinpath(*whole)):
        return ".".join(whole)
    holder = above / "__init__.py"
    if above.with_name(f"{above.name}.py").exists() or (
        holder.exists() and name in holder.read_text(encoding="utf-8")
    ):
        return ".".join(inside)
    raise notebooks.BatchError(f"there is no module {'.'.join(['nbhelpers', *whole])}.")


def _is_module(path: Path) -> bool:
    """Return whether a path without its suffix is a module or a package."""
    return path.with_name(f"{path.name}.py").exists() or (path / "__init__.py").exists()


def counts(module: str, pages: bool) -> bool:
    """Return whether a module measures or, with `pages`, draws; BatchError for an unknown folder."""
    head, *rest = module.split(".")
    if head == "experiments":
        return bool(rest[1:]) and rest[-1] != DECLARED and (pages or rest[-1] not in DRAWN)
    if head not in (*SCIENCE, *DRAWING, "run", "book", "cli"):
        raise notebooks.BatchError(f"nbhelpers.{module} lies in no folder that the graph knows.")
    return (head in SCIENCE or (pages and head in DRAWING)) and module not in RECORDS


def modules(notebook: Path, *, pages: bool = False) -> list[Path]:
    """Return the science modules that a notebook imports, directly or through others; with `pages`, drawing modules too."""
    cells = notebooks.read(notebook)["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    folder, found = package(), {}
    waiting = set(imported(source, folder))
    while waiting:
        module = waiting.pop()
        if module not in found and counts(module, pages):
            path = folder.joinpath(*module.split("."))
            path = path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")
            found[module] = path
            waiting |= imported(path.read_text(encoding="utf-8"), folder)
    return [found[module] for module in sorted(found)]


def code_hash(paths) -> str:
    """Return a digest of Python modules and their places in the package; comments and layout do not change it."""
    found = []
    for path in paths:
        place = path.relative_to(package()) if path.is_relative_to(package()) else Path(path.name)
        found.append([place.as_posix(), dumped(path.read_text(encoding="utf-8"))])
    return params.parameter_hash(found)


@cache
def dumped(source: str) -> str:
    """Return the syntax tree of Python source as text, without docstrings."""
    tree = ast.parse(source)  # not the kept one, which is read elsewhere
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def notebook_hash(path: Path) -> str:
    """Return a digest of a notebook's cells and tags; its outputs do not change it."""
    cells = notebooks.read(path)["cells"]
    content = [[c["cell_type"], "".join(c["source"]), c["metadata"].get("tags")] for c in cells]
    return params.parameter_hash(content)


def measure_version(run: params.Run, known: dict | None = None) -> str:
    """Return the version of one run: a digest of parameters, weights, notebook, modules, and the versions that it needs.

    known: what calls on one state of the files have found; give all of them one dictionary.
    """
    known = {} if known is None else known
    notebook = notebooks.notebook_path(params.experiment(run.key).notebook)
    needed = [step_version(need, run.model.key, run.profile.name, known) for need in run.upstream]
    if notebook not in known:
        known[notebook] = notebook_hash(notebook), code_hash(modules(notebook))
    return params.parameter_hash([run.hash, *known[notebook], needed])


def step_version(key: str, model: str, profile: str, known: dict | None = None) -> str:
    """Return `measure_version` with the profile's own parameters."""
    known, step = {} if known is None else known, (key, model, profile)
    if step not in known:
        known[step] = measure_version(experiments.resolve(key, model=model, profile=profile), known)
    return known[step]


def compare_version(key: str) -> str:
    """Return the version of an across-model notebook, which leaves its datasets out."""
    notebook = notebooks.notebook_path(params.experiment(key).across)
    published = params.files_hash([params.ROOT / "params" / "published.csv"])
    return params.parameter_hash(
        [notebook_hash(notebook), code_hash(modules(notebook, pages=True)), published]
    )


def book_version() -> str:
    """Return the version of the book without its notebooks: of sources, parameters, cards, package."""
    folders = {"book": "**/*", "params": "**/*", "pocket/checkpoints": "*/card.json", "nbhelpers": "**/*.py"}
    root = params.ROOT
    found = [path for folder, pattern in folders.items() for path in (root / folder).glob(pattern)]
    return params.files_hash(sorted(path for path in found if path.is_file()))
