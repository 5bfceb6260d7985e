"""The cost of a run, counted from its parameters: tokens, forward passes, bytes. Each slice has its experiment's own count.

Token counts are upper bounds: every text is assumed to reach its cap. Memory is the most that must be held at once, on the
model's device (`memory`) and in arrays of the host (`host`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nbhelpers.core.params import Run
from nbhelpers.core.schemas import Size

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK_MEMORY = 4.0 * 2**30  # bytes that the host holds of a block of prompts and its copies, at most
PROMPT_TOKENS = 128  # assumed length of a prompt; the study's mean is about 60, with a template 90


@dataclass(frozen=True)
class Cost:
    """The cost of one notebook on one model: prompts, generated and forced tokens, forward passes, memory, result (bytes).

    memory: tensors of the model's device; host: arrays beside it, without Python and its libraries. read: residuals that a
    lens unembeds.
    """

    prompts: int = 0
    generated: int = 0
    forced: int = 0
    forwards: int = 0
    memory: float = 0.0
    result: float = 0.0
    host: float = 0.0
    read: float = 0.0


def in_blocks(n_bytes: float) -> float:
    """Return what the host holds of numbers that are written or read block by block, bytes."""
    return min(n_bytes, BLOCK_MEMORY)


def stored(n_bytes: float, kept_bits: int) -> float:
    """Return the size on disk of float32 numbers of which `kept_bits` bits of mantissa are kept, bytes.

    stored = n_bytes · (kept_bits + 2) / 32: compressed, sign and exponent take some two bits more (measured on captures of
    pocket pairs: 0.24 for 6 bits, 0.32 for 8, 0.64 for all 23).
    """
    return n_bytes * (kept_bits + 2) / 32


def weights(run: Run, size: Size, n_models: int) -> float:
    """Return the size of the weights of n models, bytes."""
    return n_models * size.parameters * BYTES[run.model.dtype]


def lens_buffers(size: Size, rows: int, *, tiles: int = 6, columns: int = 32768) -> float:
    """Return the size of the lens's work tiles and of a float32 copy of one block of the unembedding, bytes."""
    columns = min(columns, size.vocabulary)
    return 4.0 * columns * (tiles * rows + size.width)


def batches(n: int, batch_size: int) -> int:
    """Return the number of batches of n rows."""
    return math.ceil(n / batch_size)


def generation_cost(run: Run, size: Size, conditions: int) -> Cost:
    """Return the cost of an experiment that generates a continuation of each prompt under several conditions."""
    e = run.experiment
    tokens = conditions * e.n_prompts * e.max_new_tokens
    stream = 4 * size.layers * e.batch_size * e.max_new_tokens * size.width * BYTES[run.model.dtype]
    held = weights(run, size, 2) + stream + lens_buffers(size, e.lens_rows)
    result = conditions * e.n_prompts * size.layers * 8 * 12.0
    passes = conditions * batches(e.n_prompts, e.batch_size)
    return Cost(e.n_prompts, tokens, tokens, passes, held, result, result, 1.0 * tokens * size.layers)


def reading_cost(needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of an experiment that only reads the results of others: memory of the host alone."""
    return Cost(host=in_blocks(2.0 * sum(cost.result for _, cost in needs.values())))
