"""What a run takes, counted from its parameters: tokens, forward passes, bytes. Each experiment's own count is in its slice.

Counts of tokens are upper bounds: every text is taken to run to its cap. Memory is the largest of what must be held at
once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nbhelpers.core.params import Run
from nbhelpers.core.schemas import Size

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PROMPT_TOKENS = 128  # of a prompt, about; the study's mean about 60, with a template 90


@dataclass(frozen=True)
class Cost:
    """What one notebook on one model takes: prompts, tokens generated and forced, forward passes, bytes held and left."""

    prompts: int = 0
    generated: int = 0
    forced: int = 0
    forwards: int = 0
    memory: float = 0.0
    result: float = 0.0


def weights(run: Run, size: Size, n_models: int) -> float:
    """Return the bytes of the weights of n models."""
    return n_models * size.parameters * BYTES[run.model.dtype]


def lens_buffers(size: Size, rows: int, *, tiles: int = 6, columns: int = 32768) -> float:
    """Return the bytes of the lens's work tiles and of a float32 copy of one block of the unembedding."""
    columns = min(columns, size.vocabulary)
    return 4.0 * columns * (tiles * rows + size.width)


def batches(n: int, batch_size: int) -> int:
    """Return the number of batches of n rows."""
    return math.ceil(n / batch_size)


def generation_cost(run: Run, size: Size, conditions: int) -> Cost:
    """Return what an experiment takes that continues its prompts under several conditions."""
    e = run.experiment
    tokens = conditions * e.n_prompts * e.max_new_tokens
    stream = 4 * size.layers * e.batch_size * e.max_new_tokens * size.width * BYTES[run.model.dtype]
    held = weights(run, size, 2) + stream + lens_buffers(size, e.lens_rows)
    result = conditions * e.n_prompts * size.layers * 8 * 12.0
    return Cost(e.n_prompts, tokens, tokens, conditions * batches(e.n_prompts, e.batch_size), held, result)


def reading_cost(needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return what an experiment takes that only reads the results of others: memory."""
    return Cost(memory=2.0 * sum(cost.result for _, cost in needs.values()))
