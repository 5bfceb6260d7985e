"""The parameters of exp11."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core.cost import BYTES, PROMPT_TOKENS, Cost, batches, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Size

GRAFTED, EIGHT, CELLS = 18, 8, 1 << 23  # conditions, those of exp14; logits read at once


class Params(ForwardParams):
    """exp11: which of exp00's replies are read again, and the windows of the sweep."""

    n_prompts: int = Field(ge=2, description="of exp00's prompts, balanced over categories")
    kl_grid: tuple[float, ...] = Field(
        default=(0.05, 0.1, 0.2, 0.5, 1.0), min_length=1, strict=False, description="nats, for commitment"
    )
    sliding_width: int = Field(default=3, ge=1, description="layers of the window that slides over the depth")
    sliding_step: int = Field(default=1, ge=1, description="layers between two such windows")
    widths: tuple[int, ...] = Field(
        default=(1, 2, 4), strict=False, description="of early, mid and late windows"
    )


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return what exp11 takes: exp00's replies, forced under every condition; a batch's residuals are held at once."""
    e, L = run.experiment, size.layers
    reply = needs["exp00"][0].experiment.max_new_tokens
    sliding = len(range(0, L - e.sliding_width + 1, e.sliding_step))
    swept = 2 + 2 * (sliding + 3 * len(e.widths))
    forwards = GRAFTED + EIGHT + swept
    tokens = e.n_prompts * (reply + PROMPT_TOKENS)
    stream = L * size.width * BYTES[run.model.dtype] * e.batch_size * reply
    readings = 2 * 2 * L * 4 * e.n_prompts * GRAFTED * 2 * 11  # teachers or lenses, bases, float32, readings
    kept = (
        EIGHT * L * (2 * 24.0 + 60.0) * e.n_prompts * reply
    )  # of each lens, and of geometry and projections
    translators = 2.0 * L * size.width**2 * 4
    held = weights(run, size, 2) + translators + 2 * max(GRAFTED, swept) * stream + 4.0 * CELLS * 8 + kept
    passes = forwards * batches(e.n_prompts, e.batch_size)
    return Cost(e.n_prompts, 0, forwards * tokens, passes, held, readings + kept)
