"""What tells whether a step is done: its result, its executed notebook, and the stamps by which Snakemake knows them.

Snakemake deletes what a step made before it runs the step again. So it is shown only stamps, small files that repeat a
digest; results and executed notebooks stay until new ones replace them. `graph.settle` never trusts a stamp.
"""

import json
import os
import shutil
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.core import digests, params, store


def executed_path(profile: str, notebook: str, model: str | None = None) -> Path:
    """Return the path of the executed notebook: `_build/runs/<profile>/[<model>/]<notebook>`."""
    return params.ROOT.joinpath("_build", "runs", profile, *([model] if model else []), notebook)


def fault(run: params.Run) -> str:
    """Return what is wrong with a run's result or artifacts, as a sentence; "" if they are whole and of this run."""
    path = store.result_path(run.profile.name, run.model.key, run.key)
    try:
        found = store.attributes(path, experiment=run.key, expects=experiments.variables(run.key))
    except store.ResultError as error:
        return str(error)
    shown, names = store.shown(path), params.experiment(run.key).artifacts
    if found.get("parameter_hash") != run.hash:
        return f"made with other parameters or weights ({shown})."
    recorded = json.loads(found.get("artifacts", "{}"))
    for name in names:
        beside = path.with_name(name)
        if not beside.is_file():
            return f"{store.shown(beside)} is missing."
        if recorded.get(name, digest := digests.sha256(beside, params.ROOT / "_build" / "digests")) != digest:
            return f"{store.shown(beside)} is damaged or not of {shown}."
    return ""


def signed(book: dict, version: str) -> bytes:
    """Return an executed notebook as a file that records its version and a digest of everything in it."""
    book["metadata"]["nbhelpers"] = {"version": version}
    book["metadata"]["nbhelpers"]["digest"] = params.parameter_hash(book)
    return json.dumps(book, ensure_ascii=False, indent=1).encode()


def version_of(executed: Path) -> str | None:
    """Return the version that is recorded in an executed notebook, None if there is none or the file is damaged."""
    try:
        book = json.loads(executed.read_text(encoding="utf-8"))
        noted = book["metadata"]["nbhelpers"]
        digest, version = noted.pop("digest", None), noted["version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return version if digest in (None, params.parameter_hash(book)) else None


def stamp_path(profile: str, name: str, model: str | None = None) -> Path:
    """Return the path of a stamp, `_build/steps/<profile>/[<model>/]<name>`; name: expNN.data or expNN.page."""
    return params.ROOT.joinpath("_build", "steps", profile, *([model] if model else []), name)


def book_stamp() -> Path:
    """Return the path of the book's stamp, which holds the name of the profile that `_build/html` shows."""
    return params.ROOT / "_build" / "steps" / "book"


def measured(run: params.Run, *, now: bool = False) -> None:
    """Write the stamps of a step that is done: of its dataset and of its executed notebook.

    now: whether it has run now, after those that it needs; else a stamp that still holds keeps its time.
    """
    profile, model = run.profile.name, run.model.key
    needs = [stamp_path(profile, f"{need}.data", model) for need in run.upstream] if now else []
    _stamp(
        stamp_path(profile, f"{run.key}.data", model),
        _seal(store.result_path(profile, model, run.key)),
        needs,
    )
    executed = executed_path(profile, params.experiment(run.key).notebook, model)
    _stamp(stamp_path(profile, f"{run.key}.page", model), digests.sha256(executed))


def _seal(path: Path) -> str:
    """Return the SHA-256 that an intact result ends with, without checking it."""
    with open(path, "rb") as file:
        file.seek(-65, os.SEEK_END)
        return file.read(64).decode()


def compared(key: str, profile: str) -> None:
    """Write the stamp of an executed across-model notebook."""
    executed = executed_path(profile, params.experiment(key).across)
    _stamp(stamp_path(profile, f"{key}.page"), digests.sha256(executed))


def shows(profile: str) -> None:
    """Write the stamp of a book that has been built for a profile."""
    store.write_whole(book_stamp(), profile.encode())


def _stamp(path: Path, text: str, needs: list[Path] = ()) -> None:
    """Write a stamp, unless it says the same and is no older than the stamps of `needs`."""
    newest = max((each.stat().st_mtime_ns for each in needs if each.exists()), default=0)
    if not (holds(path, text) and path.stat().st_mtime_ns >= newest):
        store.write_whole(path, text.encode())


def holds(path: Path, text: str) -> bool:
    """Return whether a file holds exactly this text."""
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def drop(*stamps: Path) -> None:
    """Remove stamps, so that their steps run again; a folder of that name is no stamp, and goes as well."""
    for path in stamps:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
