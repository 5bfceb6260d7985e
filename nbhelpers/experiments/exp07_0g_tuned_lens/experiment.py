"""Parameters, cost and variables of exp07_0g."""

import math
from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core.cost import Cost, forwarded, lens_buffers, states, text_tokens, translators, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Size, Texts
from nbhelpers.core.variables import declared

# Of a lens's size while the second one is trained: the first, and of the second its weights, the best so far, momentum, the
# step's gradient, those that are added up and a sum of both. Tensors [layer, row, d] while a batch's rows are read.
LENSES_HELD, TENSORS = 7, 12


class Params(ForwardParams):
    """Parameters of exp07_0g: how the tuned lenses are trained and checked."""

    corpus: Texts
    form: str = Field(default="full", pattern="^(full|residual)$", description="A h + b, or h + A h + b")
    steps: int = Field(ge=2)
    tokens_per_step: int = Field(ge=64, description="tokens a gradient step is accumulated over")
    learning_rate: float = Field(default=0.1, gt=0, description="before the family's scale")
    scales: dict[str, float] = Field(
        default={}, description="learning-rate scale by family, 1 where none is given"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0, description="largest norm of one layer's gradient")
    validate_every: int = Field(default=50, ge=1, description="steps")
    max_text_tokens: int = Field(default=2048, ge=16, description="tokens of a text that are read")
    n_validation_tokens: int = Field(default=4096, ge=64)
    n_test_tokens: int = Field(default=4096, ge=64, description="held-out tokens that the lens is judged on")
    pool: int = Field(
        default=4, ge=1, description="passes that share texts of like length; smaller steps mix their tokens"
    )


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp07_0g: one lens for each variant, trained one after the other."""
    e, text = run.experiment, text_tokens(run.experiment.corpus, run.experiment.max_text_tokens)
    tokens = 2 * (e.steps * e.tokens_per_step + e.n_validation_tokens + e.n_test_tokens)
    passes = math.ceil(tokens / (e.batch_size * e.max_text_tokens))
    # Training holds a batch (or a pool, its join and the part of it in use) and the validation texts.
    batch = e.batch_size * text
    if e.pool > 1 and e.pool * batch > e.tokens_per_step:
        batch *= 2 * e.pool
    rows = min(e.lens_rows, e.tokens_per_step)
    step = TENSORS * 4.0 * size.layers * rows * size.width + lens_buffers(run, size, rows, tiles=1)
    training = states(run, size, batch + e.n_validation_tokens) + translators(size, LENSES_HELD) + step
    # The check holds the test texts apart, joined and translated.
    checking = states(run, size, e.n_test_tokens, 3) + translators(size, 2)
    checking += lens_buffers(run, size, min(e.lens_rows, e.n_test_tokens))
    reading = forwarded(run, size, e.batch_size, text) + translators(size, LENSES_HELD)
    held = weights(run, size, 2) + max(training, checking, reading)
    return Cost(0, 0, tokens, passes, held, 2.0 * size.layers * size.width**2 * 4)


VARIABLES = declared(
    {
        ("variant", "lens", "text", "layer"): {
            "kl_final_layer": ("nats", "KL(final ‖ layer) on held-out text"),
            "kl_layer_final": ("nats", "KL(layer ‖ final) on held-out text"),
            "top1_agreement": ("1", "share of tokens whose top-1 token is the final layer's"),
        },
        ("variant",): {
            "last_layer_kl": (
                "nats",
                "KL of the final distribution from the last layer read through its own translator",
            ),
            "gate": ("1", "whether the lens passes"),
        },
        ("text", "layer"): {
            "kl_transfer": ("nats", "KL(final ‖ layer) of IT read with PT's translators"),
        },
        ("variant", "step", "layer"): {
            "train_loss": ("nats", "training loss, KL(final ‖ layer), by gradient step"),
        },
        ("variant", "check", "layer"): {
            "validation_loss": ("nats", "validation loss, KL(final ‖ layer)"),
        },
        ("variant", "layer"): {
            "chosen_step": ("steps", "gradient step whose state was kept"),
        },
    }
)
