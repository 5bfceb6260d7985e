"""Files that are written whole or not at all and that end with one line, the SHA-256 of everything before it.

A NetCDF reader ignores the line. Files may be larger than memory: they are written, checked and read as streams.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nbhelpers.core import params

_SEAL = b"\nsha256 "
_SEAL_SIZE = len(_SEAL) + 64 + 1


class ResultError(RuntimeError):
    """A result that is missing, damaged or not what was asked for; the message is one sentence."""


class DamagedError(Exception):
    """A sealed file whose content is not what its last line says."""


def shown(path: Path) -> str:
    """Return a path as messages show it: relative to the repository's root if it lies inside."""
    path = Path(path)
    return path.relative_to(params.ROOT).as_posix() if path.is_relative_to(params.ROOT) else str(path)


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to a file beside `path`, sync it, and rename it to `path`; ResultError if that fails."""
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an empty file beside `path`; when the block ends, sync it and rename it to `path`; ResultError if that fails.

    A block that removes the file leaves `path` as it was. Of two processes that write one file, the second waits. A folder
    that stands in the way is moved aside. Write in place: the file's lock holds for this very file.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial) as file:
            yield partial
            if not partial.exists():
                return
            os.fsync(file.fileno())
            if path.is_dir() and not path.is_symlink():
                path.rename(path.with_name(f"{path.name}.{os.getpid()}.aside"))
            os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise unwritable(path, error) from None


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """Open a file, emptied, that no other process writes."""
    while True:
        with open(partial, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Another process may have renamed the file while this one waited for it.
            if partial.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(partial)):
                file.truncate(0)
                yield file
                return


def unwritable(path: Path, error: OSError) -> ResultError:
    """Return the error for a file that could not be written."""
    return ResultError(
        f"{shown(path)} could not be written ({error.strerror or error}); what was there is untouched: free some room or "
        "allow writing, and run it again."
    )


def seal(path: Path) -> None:
    """Append to a file the line that holds the SHA-256 of its content."""
    with open(path, "r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(_SEAL + digest.encode() + b"\n")


def opened(path: Path) -> BinaryIO:
    """Return a sealed file opened at its start, after its content was checked, because HDF5 may crash on a damaged file.

    Raises DamagedError if it does not end with its own SHA-256, OSError if it cannot be read.
    """
    file = open(path, "rb")
    try:
        _check(file)
    except BaseException:
        file.close()
        raise
    return file


def _check(file: BinaryIO) -> None:
    left, digest = os.fstat(file.fileno()).st_size - _SEAL_SIZE, hashlib.sha256()
    while left > 0 and (piece := file.read(min(left, 1 << 20))):
        digest.update(piece)
        left -= len(piece)
    if file.read() != _SEAL + digest.hexdigest().encode() + b"\n":
        raise DamagedError("its checksum is wrong")
    file.seek(0)


def is_whole(path: Path) -> bool:
    """Return whether a sealed file is there and undamaged."""
    try:
        opened(path).close()
    except (DamagedError, OSError):
        return False
    return True
