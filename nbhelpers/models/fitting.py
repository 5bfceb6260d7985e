"""Batches that fit into memory: a batch for which memory does not suffice is halved, and so are those behind it.

The size that fitted is remembered in this process, by what is computed on which model, so that memory runs out once.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from nbhelpers.core.params import ParameterError

_FITTED: dict[str, int] = {}


class TooLargeError(ParameterError, MemoryError):
    """One row alone does not fit into memory; where its work is part of a larger one, that has fewer rows then."""


def in_batches(
    order: Sequence[int], batch_size: int, work: Callable[[np.ndarray], Any], what: str
) -> Iterator[tuple[np.ndarray, Any]]:
    """Yield (rows, work(rows)) for parts of `order` of at most `batch_size` rows, less where memory does not suffice.

    order: indices of rows, longest first, so that memory runs out at once if at all. what: names the work and the model; the
    size that fitted is remembered under it. work must leave nothing behind if it fails; it may have batches of its own.
    TooLargeError if one row alone does not fit.
    """
    size, at, order = min(batch_size, _FITTED.get(what, batch_size)), 0, np.asarray(order)
    while at < len(order):
        rows = order[at : at + size]
        fits, made = _tried(work, rows)
        if fits:
            yield rows, made
            at += len(rows)
        else:
            size = _FITTED[what] = _halved(len(rows), what)


def _tried(work, rows):
    """Return (whether memory sufficed, what work made of the rows)."""
    try:
        return True, work(rows)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    _release()  # behind the `except`: the error holds the tensors of its frames
    return False, None


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of a GPU or of the host, does not suffice."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _halved(n: int, what: str) -> int:
    """Return half a number of rows, after saying so; TooLargeError if there was one."""
    if n == 1:
        raise TooLargeError(
            f"{what}: one row alone does not fit into memory; free memory, lower max_new_tokens, or spread the model over "
            "more GPUs."
        )
    print(f"{what}: memory does not suffice for a batch of {n}; it goes on with {n // 2}.")
    return n // 2
