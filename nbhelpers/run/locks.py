"""Locks between processes of one repository.

The system holds a lock for as long as its process lives. A file that is left over, whatever it holds, locks nothing.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nbhelpers.core import params


def taken(path: Path) -> IO[str] | None:
    """Return the open file that holds a lock, which closing it frees; None if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+", encoding="utf-8", errors="replace")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextlib.contextmanager
def alone(label: str, *place: str) -> Iterator[bool]:
    """Yield, in the one process that runs a step, whether another had to end first; a process that waits says so.

    place: what names the step, such as profile, model and experiment.
    """
    path = params.ROOT.joinpath("_build", "locks", ".".join(place))
    file = taken(path)
    waited = file is None
    if waited:
        print(f"{label} is being run by another process; waiting for its end", flush=True)
        file = open(path, "a+")
        fcntl.flock(file, fcntl.LOCK_EX)
    with file:
        yield waited


def require_writable() -> None:
    """Raise OSError, which names the file, if nothing can be written into `_build`."""
    path = params.ROOT / "_build" / f".writable.{os.getpid()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_bytes(bytes(64))
    finally:
        path.unlink(missing_ok=True)
