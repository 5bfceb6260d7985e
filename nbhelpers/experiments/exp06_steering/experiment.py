"""Parameters, cost and variables of exp06."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from nbhelpers.core.cost import (
    PROMPT_TOKENS,
    REPLY,
    Cost,
    decoded,
    edits,
    forwarded,
    lens_buffers,
    prompt_tokens,
    states,
    steered,
    translators,
    weights,
)
from nbhelpers.core.depths import onset
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Prompts, Size, Texts
from nbhelpers.core.variables import declared

ROWS = 2048  # rows whose edits are held at once
CONTROLLED = ("format", "choice")  # roles of the prompts that all random controls answer
Doses = Annotated[tuple[float, ...], Field(min_length=3, strict=False)]
Count = Annotated[int, Field(ge=0)]


class Params(ForwardParams):
    """Parameters of exp06: which prompts are answered, under which doses and how many controls."""

    prompts: Prompts = Field(description="prompts whose replies a program can score")
    corpus: Texts = Field(description="neutral text, on which a dose is sized")
    counts: dict[str, Count] = Field(description="prompts of the evaluation by role")
    n_tuning: int = Field(ge=0, description="further prompts of role format, on which one dose is chosen")
    max_new_tokens: int = Field(ge=2, le=8192, description="cap on generated tokens a reply")
    doses: Doses = Field(
        default=(-1, -0.5, 0, 0.25, 0.5, 0.75, 1, 1.5, 2), description="α of the late direction"
    )
    raw_doses: Doses = Field(default=(-1, 0, 0.5, 1, 2), description="α without the chat template")
    band_doses: Doses = Field(default=(-1, 0, 2), description="α of the random band and of other windows")
    factors: Doses = Field(default=(0, 0.5, 1, 2), description="c of the gap that is added to PT")
    n_random: int = Field(default=20, ge=1, description="matched random directions at each dose of the band")
    n_random_removed: int = Field(default=39, ge=1, description="the same at dose 0")
    n_elsewhere: int = Field(
        default=3, ge=0, description="of them at each dose, those that answer more than forms and choices"
    )
    n_texts: int = Field(default=16, ge=2, description="neutral texts")
    text_tokens: int = Field(default=64, ge=8, description="tokens read of each")
    force_every: int = Field(
        default=2, ge=1, description="IT's replies to every n-th prompt are read by all arms"
    )
    incoherent_share: float = Field(default=0.2, gt=0, le=1, description="a dose above it is marked")
    bound: float = Field(default=0.05, gt=0, lt=1, description="a shift of a rate within it counts as none")

    @field_validator("doses", "raw_doses")
    @classmethod
    def _identity(cls, doses):
        if 1 not in doses or 0 not in doses:
            raise ValueError(
                "must hold the doses 0, which removes the direction, and 1, which changes nothing"
            )
        return tuple(sorted(doses))

    @field_validator("counts")
    @classmethod
    def _formats(cls, counts):
        if not counts.get("format"):
            raise ValueError("must give a count of at least 1 for the role format")
        return counts


def n_band(params: Params) -> int:
    """Return how many matched random directions there are, over all doses."""
    return params.n_random * (len(params.band_doses) - (0 in params.band_doses)) + params.n_random_removed


def n_arms(params: Params, n_layers: int) -> int:
    """Return how many arms are decoded."""
    others = len(params.doses) + len(params.raw_doses) + 3 * len(params.band_doses) + len(params.factors)
    return n_band(params) + others + 6 + n_layers + n_layers - onset(n_layers)


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp06: every arm answers every prompt, then reads IT's replies."""
    e = run.experiment
    n, arms = sum(e.counts.values()), n_arms(e, size.layers)
    left_out = max(0, n_band(e) - e.n_elsewhere * len(e.band_doses))
    rows = n * arms - left_out * (n - sum(e.counts.get(role, 0) for role in CONTROLLED))
    replies = rows * e.max_new_tokens
    read = rows * (e.max_new_tokens + PROMPT_TOKENS)
    read += (
        4 * e.counts.get("choice", 0) * arms * PROMPT_TOKENS + 2 * len(e.doses) * e.n_texts * e.text_tokens
    )
    passes = -(-rows // e.batch_size) * (e.max_new_tokens + 3)
    prompt, batch, few = prompt_tokens(e.prompts), min(e.batch_size, rows), min(e.batch_size, n)
    writing = decoded(run, size, batch, prompt, e.max_new_tokens) + edits(size, batch)
    forcing = steered(run, size, arms, e.batch_size, prompt, e.max_new_tokens, n_prompts=n)
    # Unedited IT's stream, that of an arm, its translation, and what enters the first edited layers.
    tokens = few * e.max_new_tokens
    gap = (
        states(run, size, tokens, 9)
        + lens_buffers(run, size, min(e.lens_rows, tokens))
        + translators(size, 2)
    )
    held = weights(run, size, 2) + max(
        writing, forcing, gap + forwarded(run, size, few, prompt + e.max_new_tokens)
    )
    return Cost(n, replies, read, passes, held, arms * n * 30 * 4.0, edits(size, ROWS) + REPLY * replies)


VARIABLES = declared(
    {
        ("metric", "arm", "prompt"): {
            "score": (
                "by metric",
                "score of the reply that an arm writes, NaN where a metric does not apply or no reply was asked for",
            ),
        },
        ("arm", "prompt"): {
            "engagement": (
                "1",
                "how the reply meets the request, an index into refusal.CLASSES; −1 without a reply",
            ),
            "edited_positions": ("tokens", "positions whose activations were edited"),
            "forced_nll": ("nats", "NLL of a token of IT's unedited reply"),
            "forced_kl_unedited": ("nats", "KL(unedited ‖ edited) on IT's unedited reply"),
            "forced_agreement": ("1", "share of steps with the unedited top-1 token, on IT's unedited reply"),
            "forced_entropy": ("nats", "entropy of the next token on IT's unedited reply"),
            "forced_residual_change": ("1", "change of the last residual as a share of its norm"),
        },
        ("shown_arm", "prompt"): {"text": ("1", "reply")},
        ("tuned_arm", "tuning_prompt"): {
            "tuning_format": ("1", "format compliance on the prompts that choose the dose"),
            "tuning_incoherent": ("1", "incoherence on the prompts that choose the dose"),
        },
        ("neutral_arm", "text_id"): {
            "neutral_kl": ("nats", "KL(unedited ‖ edited) on neutral text, mean over tokens"),
            "neutral_residual_change": (
                "1",
                "change of the last residual on neutral text, as a share of its norm",
            ),
        },
        ("reader", "lens", "layer", "prompt"): {
            "kl_layer_final": ("nats", "KL(layer ‖ own final) on IT's unedited reply"),
            "kl_layer_unedited_final": ("nats", "KL(layer ‖ unedited IT's final) on IT's unedited reply"),
        },
        ("reader", "lens", "rule", "prompt"): {
            "commitment": ("layer", "mean commitment layer on IT's unedited reply"),
        },
    }
)
