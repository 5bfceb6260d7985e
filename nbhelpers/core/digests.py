"""SHA-256 digests of files, computed once a file and kept on disk by its path, size and times."""

import contextlib
import hashlib
import json
import os
import re
import time
from pathlib import Path

FRESH = 2_000_000_000  # ns; within them a file system's clock may not tell two writes apart


def sha256(path: Path, folder: Path | None = None) -> str:
    """Return the SHA-256 of a file's content in hex, read in chunks; OSError if it cannot be read.

    folder: where digests are kept, so that an unchanged file is read once; without one, none is kept.
    """
    if folder and (digest := kept(path, folder)):
        return digest
    with open(path, "rb") as file:
        before, now = _state(file.fileno()), time.time_ns()
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # The change time is the system's own; nobody can set it back, as one can the modification time.
    if folder and before == _state(path) and now - before[-1] > FRESH:
        place = _place(path, folder)
        partial = place.with_name(f".{place.name}.{os.getpid()}")  # parallel processes write the same
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(_entry(path, before, digest), encoding="ascii")
            os.replace(partial, place)
    return digest


def kept(path: Path, folder: Path) -> str | None:
    """Return the digest that is kept of a file; None if there is none, or the file or the entry has changed since."""
    try:
        text = _place(path, folder).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r'"([0-9a-f]{64})"\]\n', text)
    return found[1] if found and text == _entry(path, _state(path), found[1]) else None


def _state(file: Path | int) -> list[int]:
    state = os.stat(file)
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _entry(path: Path, state: list[int], digest: str) -> str:
    """Return what is kept of a file, with a checksum of its own."""
    body = json.dumps([os.path.realpath(path), *state, digest])
    return f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n"


def _place(path: Path, folder: Path) -> Path:
    return folder / hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
