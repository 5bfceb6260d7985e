"""A small project with a supplement to write: one pocket pair, three of its measured results, a book of one page."""

import hashlib
import shutil
from pathlib import Path

import pytest
import xarray as xr
import yaml

from nbhelpers.book import archive
from nbhelpers.core import params, sealed
from nbhelpers.run import graph, results
from tests.stubs import REPOSITORY

MODEL = "llama_pocket"
KEPT = ("exp00", "exp07_0g", "exp09")
DATA = f"datasets/pocket/{MODEL}"
FILES = ("CITATION.cff", "README.md", "LICENSE", "Snakefile", "environment.yml", ".zenodo.json")


def project(root: Path, monkeypatch) -> Path:
    """Return the root of the project, which this process works in; skips where pocket Llama has not been measured."""
    measured = REPOSITORY / "_build/results/pocket" / MODEL
    names = [f"{key}.nc" for key in KEPT] + [
        f"tuned_lens_{variant}.safetensors" for variant in params.VARIANTS
    ]
    if missing := [name for name in names if not (measured / name).exists()]:
        pytest.skip(f"{measured / missing[0]} is missing; `make test` measures it before the tests")
    parameters(root)
    (root / "pocket").symlink_to(REPOSITORY / "pocket")
    for name in FILES:
        shutil.copy(REPOSITORY / name, root)
    for folder, text in {
        "nbhelpers": '"""A package."""',
        "book": "# A book",
        "_build/html": "<p>A page",
    }.items():
        (root / folder).mkdir(parents=True)
        (root / folder / ("index.html" if "html" in folder else "one.py")).write_text(text)
    (root / "_build/results/pocket").mkdir(parents=True)
    shutil.copytree(
        measured, root / "_build/results/pocket" / MODEL, ignore=lambda _, found: set(found) - set(names)
    )
    monkeypatch.setattr(params, "ROOT", root)
    monkeypatch.setattr(graph, "outdated", lambda profile: [])
    results.shows("pocket")
    archive.note_inputs("pocket")
    return root


def parameters(root: Path) -> None:
    """Write the parameters and notebooks of the three experiments, and the profile with the one pair."""
    shutil.copytree(REPOSITORY / "params", root / "params", ignore=lambda folder, names: {
        name for name in names if Path(folder).name == "experiments" and Path(name).stem not in KEPT})  # fmt: skip
    profile = root / "params/profiles/pocket.yml"
    profile.write_text(yaml.safe_dump(yaml.safe_load(profile.read_text()) | {"models": [MODEL]}))
    (root / "notebooks").mkdir(parents=True)
    for path in (root / "params/experiments").glob("*.yml"):
        shutil.copy(
            REPOSITORY / "notebooks" / yaml.safe_load(path.read_text())["notebook"], root / "notebooks"
        )


def change(folder: Path, key: str, variable: str, alter) -> None:
    """Put `alter(values)` in place of a variable of an unpacked dataset, and repair every checksum."""
    name = f"{DATA}/{key}.nc"
    with xr.open_dataset(folder / name, engine="h5netcdf") as opened:
        dataset = opened.load()
    dataset[variable] = dataset[variable].copy(data=alter(dataset[variable].values))
    (folder / name).unlink()
    dataset.to_netcdf(folder / name, engine="h5netcdf")
    sealed.seal(folder / name)
    repair(folder, name)


def repair(folder: Path, name: str) -> None:
    """Write the checksum of one file anew into an unpacked supplement's list."""
    sums, digest = folder / archive.SUMS, hashlib.sha256((folder / name).read_bytes()).hexdigest()
    lines = [
        line if not line.endswith(f"  {name}") else f"{digest}  {name}"
        for line in sums.read_text().splitlines()
    ]
    sums.write_text("".join(f"{line}\n" for line in lines))
