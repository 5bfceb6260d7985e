"""Which test files reach a module of the package: by what they import, and by the experiments that they name."""

import ast
import re
from collections import deque
from functools import cache
from pathlib import Path

# The quick half of the tests (`make check`); the others run notebooks, batches and browsers.
FOLDERS = ("core", "models", "measures", "report", "experiments")


def module_of(path: Path, root: Path) -> str:
    """Return the dotted name of a Python file below root."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file may import: modules, and names that may be modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@cache
def graph(root: Path) -> dict[str, set[str]]:
    """Return {module: modules that it imports} of the package and of its tests.

    A test that names an experiment also loads its slice: slices are loaded by name, not imported.
    """
    files = {module_of(p, root): p for name in ("nbhelpers", "tests") for p in (root / name).rglob("*.py")}
    slices = {name for name in files if name.startswith("nbhelpers.experiments.exp") and name.count(".") == 3}
    found = {}
    for name, path in files.items():
        found[name] = imported(path) & files.keys()
        if name.startswith("tests."):
            words = set(re.findall(r"exp\d+(?:_0[a-z])?", path.read_text(encoding="utf-8")))
            found[name] |= {each for each in slices if key_of(each) in words}
    return found


def key_of(module: str) -> str:
    """Return the key of the experiment that a module belongs to, "" if it belongs to none."""
    found = re.match(r"nbhelpers\.experiments\.(exp\d+(?:_0[a-z])?)_", module)
    return found[1] if found else ""


def distances(root: Path, start: str) -> dict[str, int]:
    """Return {module: number of imports from `start` to it}."""
    links, found, queue = graph(root), {start: 0}, deque([start])
    while queue:
        name = queue.popleft()
        for each in links.get(name, ()):
            if each not in found:
                found[each] = found[name] + 1
                queue.append(each)
    return found


def tests_of(root: Path, file: str, most: int) -> list[Path]:
    """Return the test files that reach a file of the package, `most` at most.

    First those of the mirrored folder: the one of the file's name, of a slice those named by its key; then the nearest by
    imports, small files first.
    """
    module, ranked = module_of(root / "nbhelpers" / file, root), []
    for folder in FOLDERS:
        for path in sorted((root / "tests" / folder).glob("test_*.py")):
            found = distances(root, module_of(path, root)).get(module)
            if found is not None:
                own, of_slice = f"test_{Path(file).stem}", path.stem.startswith(f"test_{key_of(module)}")
                named = 2 if path.stem == own else 1 if of_slice else 0
                mirrored = folder == Path(file).parts[0]
                ranked.append((not mirrored, -named, found, path.stat().st_size, path))
    return [path for *_, path in sorted(ranked)[:most]]
