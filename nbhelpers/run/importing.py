"""The study's own results as data of this project: its compact JSON files, found by name below any folder.

Each slice with a `published` module says which files it reads (`FILES`: {pattern of the path's end: function of the parsed
file that yields rows}) and which it leaves (`UNUSED`: {pattern: reason}). Here they are found, read and written: as datasets
of the profile `published`, or as the tables that ship with the project. A file that is damaged or unknown is named and does
not stop the others. No model is loaded, and nothing of the files' text or code is kept.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path, PurePosixPath
from types import ModuleType

import pandas as pd
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params, sealed, store
from nbhelpers.core.variables import Variable
from nbhelpers.report import published

LARGEST = 2_000_000  # bytes of all shipped tables together
SOURCE = {
    "study": "https://github.com/yifan1207/PT-IT-Model-Differences",
    "commit": "ae40079",
    "licence": "MIT",
}
WHOSE = "the study's authors' own stored values, no measurement of this project"
NOT_RECORDED = "not recorded in the study's files"
BROKEN = (KeyError, IndexError, TypeError, AttributeError, ValueError)


@dataclass
class Found:
    """What a folder holds: rows by experiment, the files that were read, left, unknown or damaged, with what is to say."""

    rows: dict[str, list[dict]] = field(default_factory=dict)
    read: dict[str, list[str]] = field(default_factory=dict)  # file → experiments
    left: dict[str, str] = field(default_factory=dict)  # file → reason
    unknown: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)  # file → what is wrong


@cache
def slices() -> dict[str, ModuleType]:
    """Return {key: module} of the experiments that read files of the study."""
    return {
        key: experiments.part(key, "published")
        for key, folder in experiments.slices().items()
        if (experiments.FOLDER / folder / "published.py").exists()
    }


def declared(key: str) -> dict[str, Variable]:
    """Return the variables that an experiment's stored values may have: its own, and those of summaries that it stores."""
    return experiments.variables(key) | getattr(slices()[key], "STORED_VARIABLES", {})


def readers(name: str) -> dict[str, Callable]:
    """Return {experiment: function that reads this file}; name: the file's path below the folder."""
    found = {}
    for key, module in slices().items():
        for pattern, reader in module.FILES.items():
            if PurePosixPath(name).match(pattern):
                found[key] = reader
    return found


def reason_left(name: str) -> str | None:
    """Return why no experiment reads a known file; None if the file is not known."""
    for module in slices().values():
        for pattern, why in getattr(module, "UNUSED", {}).items():
            if PurePosixPath(name).match(pattern):
                return why
    return None


def gathered(folder: Path) -> Found:
    """Return what the JSON files below a folder hold; ParameterError if there is no such folder."""
    if not folder.is_dir():
        raise params.ParameterError(
            f"there is no folder {folder}; give the path of a checkout of the study's repository."
        )
    found = Found()
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        if ".git" in path.relative_to(folder).parts or not path.is_file():
            continue
        if known := readers(name):
            take(path, name, known, found)
        elif why := reason_left(name):
            found.left[name] = why
        else:
            found.unknown.append(name)
    return found


def take(path: Path, name: str, known: dict[str, Callable], found: Found) -> None:
    """Add to `found` the rows of a file, or what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = {key: [row | {"source": name} for row in read(content)] for key, read in known.items()}
    except (json.JSONDecodeError, UnicodeDecodeError):
        found.damaged[name] = "it is no whole JSON file"
    except OSError as error:
        found.damaged[name] = f"it cannot be read: {error.strerror}"
    except BROKEN as error:
        found.damaged[name] = clause(error)
    else:
        found.read[name] = sorted(rows)
        for key, of in rows.items():
            found.rows.setdefault(key, []).extend(of)


def clause(error: Exception) -> str:
    """Return what is wrong with a file, as a clause."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    if isinstance(error, ValueError):  # a reader's own sentence, or a number that is none
        return str(error)
    return f"its parts are not where they should be ({type(error).__name__})"


def tables(found: Found) -> dict[str, pd.DataFrame]:
    """Return {experiment: table of its rows}, each value once."""
    made = {key: published.table(found.rows[key]) for key in sorted(found.rows)}
    return {key: without_repeats(frame, found) for key, frame in made.items() if len(frame)}


def without_repeats(frame: pd.DataFrame, found: Found) -> pd.DataFrame:
    """Return the table without values that stand in an earlier file; a file that gives another value is named as damaged."""
    same = ["model", "variable", *published.labels_of(frame)]
    first = frame.groupby(same, dropna=False, sort=False)["value"].transform("first")
    for name in frame.loc[frame["value"] != first, "source"].unique():
        found.damaged[name] = "some of its values differ from those of another file, which are kept"
    return frame.drop_duplicates(same)


def datasets(made: dict[str, pd.DataFrame]) -> Iterator[tuple[str, str, xr.Dataset]]:
    """Yield (experiment, model, dataset) for every model that a table names."""
    for key, frame in made.items():
        for model in dict.fromkeys(frame["model"]):
            yield key, model, published.dataset(frame, model, declared(key))


def provenance(key: str, model: str, files: list[str]) -> dict[str, str | int | float]:
    """Return the attributes of an imported dataset: whose it is, from which files, and what nobody recorded."""
    return {
        "experiment": key,
        "model": model,
        "profile": published.PROFILE,
        "authors_data": WHOSE,
        "source": json.dumps(SOURCE | {"files": files}),
        "parameter_hash": NOT_RECORDED,
        "code_version": store.code_version(),
        "libraries": NOT_RECORDED,
        "model_revisions": NOT_RECORDED,
        "seed": NOT_RECORDED,
        "wall_time_s": NOT_RECORDED,
        "device": NOT_RECORDED,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save(made: dict[str, pd.DataFrame]) -> list[Path]:
    """Return the paths of the datasets of profile `published` after writing them."""
    paths = []
    for key, model, dataset in datasets(made):
        frame = made[key]
        files = sorted(frame.loc[frame["model"] == model, "source"].unique())
        path = store.result_path(published.PROFILE, model, key)
        paths.append(store.save(dataset, path, provenance=provenance(key, model, files)))
    return paths


def ship(made: dict[str, pd.DataFrame], found: Found) -> list[Path]:
    """Return the paths of the tables that ship with the project after writing them, and their list of sources.

    ParameterError, and nothing is written, if they are larger than `LARGEST` together.
    """
    texts = {f"{key}.csv": published.csv(frame) for key, frame in made.items()}
    texts["sources.csv"] = sources(found)
    size = sum(len(text.encode()) for text in texts.values())
    if size > LARGEST:
        raise params.ParameterError(
            f"the tables hold {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}; drop a variable."
        )
    paths = []
    for name, text in texts.items():
        path = params.ROOT / published.FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sealed.write_whole(path, text.encode())
        paths.append(path)
    return paths


def sources(found: Found) -> str:
    """Return the list of the study's files as CSV: its path, the experiments that have values of it, or why none has."""
    rows = [{"file": name, "experiments": " ".join(keys), "reason": ""} for name, keys in found.read.items()]
    rows += [{"file": name, "experiments": "", "reason": why} for name, why in found.left.items()]
    frame = pd.DataFrame(rows, columns=["file", "experiments", "reason"]).sort_values("file")
    return frame.to_csv(index=False, lineterminator="\n")


def report(found: Found, made: dict[str, pd.DataFrame]) -> list[str]:
    """Return what is to say of an import: a line for each file that was not read, and a summary."""
    said = [f"damaged: {name}: {why}" for name, why in found.damaged.items()]
    said += [f"unused: {name}: {why}" for name, why in found.left.items()]
    said += [f"unknown, skipped: {name}" for name in found.unknown]
    values = sum(map(len, made.values()))
    counts = f"{len(found.damaged)} damaged, {len(found.left)} unused, {len(found.unknown)} unknown"
    said.append(f"read {len(found.read)} files ({counts}): {values} values of {len(made)} experiments")
    return said
