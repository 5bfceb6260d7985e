"""Checking a supplement, zipped or unpacked: its checksums, its datasets, and a sample of tokens measured again.

What is found is one sentence for each file; `book/recompute` measures.
"""

import hashlib
import re
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.book.archive import SUMS
from nbhelpers.core import params, store
from nbhelpers.core.store import ResultError

LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass
class Report:
    """What a check found: problems, what was skipped and why, and what was checked, each a sentence."""

    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)


def verify(path: Path, *, share: float = 0.01, seed: int = 0) -> Report:
    """Return what is wrong with a supplement, a zip or a folder that one was unpacked into.

    share: of the tokens that are measured again, 0 for none; seed: which. ResultError if `path` is no supplement.
    """
    path = Path(path)
    if path.is_dir():
        return checked_folder(path, share=share, seed=seed)
    if not path.is_file():
        raise ResultError(f"there is no file or folder {path}; `nbh zip` writes a supplement.")
    with tempfile.TemporaryDirectory() as folder:
        damaged = unpack(path, Path(folder))
        return checked_folder(Path(folder), damaged, share=share, seed=seed)


def unpack(path: Path, folder: Path) -> list[str]:
    """Return the names of the files of a zip that cannot be read, after unpacking the others; ResultError if it is no zip."""
    damaged = []
    try:
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                try:
                    file.extract(info, folder)
                except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError):
                    damaged.append(info.filename)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ResultError(
            f"{path} is no zip or its list of files is damaged ({error}); download it again."
        ) from None
    return damaged


def checked_folder(folder: Path, damaged: list[str] = (), *, share: float, seed: int) -> Report:
    """Return what is wrong with an unpacked supplement; damaged: names of files that could not be unpacked."""
    report = Report()
    check_sums(folder, damaged, report)
    found = sorted(folder.glob("datasets/*/*/*.nc"))
    sound = [
        path
        for path in found
        if path.relative_to(folder).as_posix() not in damaged and check_dataset(path, folder, report)
    ]
    report.checked.append(
        f"datasets: {len(sound)} of {len(found)} are whole and hold what their experiments declare"
    )
    if share:
        from nbhelpers.book import recompute  # loads PyTorch

        recompute.check(folder, sound, report, share=share, seed=seed)
    return report


def listed(folder: Path) -> dict[str, str]:
    """Return {name: SHA-256} of a supplement's list of checksums; ResultError if there is none or a line is none."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ResultError(
            f"there is no readable {SUMS} in the supplement, so it is none or not whole; unpack it again."
        ) from None
    found = [LINE.fullmatch(line) for line in lines]
    if not found or not all(found):
        raise ResultError(
            f"{SUMS} of the supplement is damaged: a line is no checksum and name; unpack it again."
        )
    return {name: digest for digest, name in (match.groups() for match in found)}


def check_sums(folder: Path, damaged: list[str], report: Report) -> None:
    """Report every file that is damaged, missing or extra, by the list of checksums."""
    wanted = listed(folder)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {SUMS}
    for name, digest in sorted(wanted.items()):
        if name in damaged or (name in there and digest_of(folder / name) != digest):
            report.problems.append(f"{name} is damaged: its checksum is not the one in {SUMS}.")
        elif name not in there:
            report.problems.append(f"{name} is missing.")
    report.problems += [
        f"{name} is extra: {SUMS} does not list it." for name in sorted(there - wanted.keys())
    ]
    report.checked.append(
        f"checksums: {len(wanted)} files; the list's own SHA-256 is {digest_of(folder / SUMS)}"
    )


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_dataset(path: Path, folder: Path, report: Report) -> bool:
    """Return whether a dataset is whole and holds the variables that its experiment declares, after reporting what is not."""
    try:
        store.load(path, experiment=path.stem, expects=experiments.variables(path.stem)).close()
    except (ResultError, params.ParameterError) as error:
        name = path.relative_to(folder).as_posix()
        report.problems.append(
            str(error).replace(str(path), name).partition("; make it anew")[0].rstrip(".") + "."
        )
        return False
    return True
