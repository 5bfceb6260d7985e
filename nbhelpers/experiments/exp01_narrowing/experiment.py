"""The parameters of exp01."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core.cost import PROMPT_TOKENS, Cost, batches, lens_buffers, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Prompts, Size


class Params(ForwardParams):
    """exp01: which prompts, and how many neurons a prompt."""

    prompts: Prompts
    n_prompts: int = Field(ge=2)
    n_neurons: int = Field(default=500, ge=2, description="neurons of each selection, a prompt")


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return what exp01 takes: one forward a batch of prompts and model, and some neurons' logits in blocks."""
    e = run.experiment
    neurons = 4.0 * e.batch_size * size.layers * size.width * 12
    held = weights(run, size, 2) + neurons + lens_buffers(size, e.lens_rows)
    tokens = 2 * e.n_prompts * PROMPT_TOKENS
    return Cost(
        e.n_prompts, 0, tokens, 2 * batches(e.n_prompts, e.batch_size), held, e.n_prompts * e.n_neurons * 1e3
    )
