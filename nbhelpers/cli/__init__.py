"""The command line, `nbh` or `python -m nbhelpers`: run notebooks, build the book, check the set-up."""

import logging
import os
import signal
import sys
from pathlib import Path

from nbhelpers.cli import pairs, runs, supplement  # noqa: F401 (each registers its commands)
from nbhelpers.cli.app import Asked, app
from nbhelpers.core import params, store
from nbhelpers.run import notebooks

USER_ERRORS = (params.ParameterError, store.ResultError, notebooks.BatchError)


def main() -> None:
    """Run the command line; a user's error prints one sentence on stderr and gives status 2, a failed notebook status 1."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a scheduler's SIGTERM is an interrupt too
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        app()
    except USER_ERRORS as error:
        _fail(str(error), 1 if isinstance(error, notebooks.BatchError) else 2, error)
    except OSError as error:  # a disk that is full or read-only, a file that may not be read
        place = store.shown(Path(os.fsdecode(error.filename))) if error.filename else "a file"
        _fail(
            f"{place} cannot be read or written: {error.strerror or error}; `nbh doctor` checks `_build`.",
            1,
            error,
        )
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(number, frame):
    """Raise KeyboardInterrupt; what libraries would log of kernels that are ended with this process tells nothing."""
    logging.disable(logging.CRITICAL)
    raise Asked if number == signal.SIGTERM else KeyboardInterrupt


def _fail(sentence: str, status: int, error: Exception) -> None:
    """Print a sentence on stderr and end with a status; with --traceback, raise the error instead."""
    if os.environ.get("NBHELPERS_TRACEBACK"):
        raise error
    in_batch = os.environ.get("NBHELPERS_BATCH") == "1"
    print(f"{notebooks.MARK} ✘ {sentence}" if in_batch else f"nbh: {sentence}", file=sys.stderr)
    sys.exit(status)
