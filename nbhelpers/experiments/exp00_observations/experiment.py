"""The parameters of exp00."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core.cost import BYTES, Cost, batches, lens_buffers, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import GenerationParams, Size

HISTORIES = 2  # whose tokens
PER_LENS, PER_STEP = 12, 8  # numbers kept of a layer at a step and model: of each lens; of geometry


class Params(GenerationParams):
    """exp00: what is generated and measured once for all observational experiments."""

    n_cloud_prompts: int = Field(ge=16, description="prompts whose last position gives the clouds of states")
    # A subsample of four fifths must keep ten neighbours of every state.
    n_neighbours: int = Field(default=32, ge=32, description="nearest neighbours kept of every state")


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return what exp00 takes."""
    e = run.experiment
    tokens = e.n_prompts * e.max_new_tokens
    passes = HISTORIES * 2 * batches(e.n_prompts, e.batch_size) + 4 * batches(e.n_cloud_prompts, e.batch_size)
    stream = 4 * size.layers * e.batch_size * e.max_new_tokens * size.width * BYTES[run.model.dtype]
    clouds = 2.0 * e.n_cloud_prompts * size.layers * size.width * 4
    lenses = 2.0 * size.layers * size.width**2 * 4
    a_step = 4 * size.layers * 2 * (2 * PER_LENS + PER_STEP)
    held = weights(run, size, 2) + lenses + max(stream + lens_buffers(size, e.lens_rows), clouds)
    return Cost(
        e.n_prompts, 2 * tokens, 4 * tokens, passes, held + 2 * tokens * a_step, 2.0 * tokens * a_step
    )
