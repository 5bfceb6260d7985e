"""Parameters, cost and variables of exp10."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from nbhelpers.core.cost import (
    PROMPT_TOKENS,
    REPLY,
    Cost,
    cache,
    decoded,
    edits,
    lens_buffers,
    logits,
    prompt_tokens,
    replayed,
    states,
    translators,
    weights,
)
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Prompts, Size
from nbhelpers.core.variables import declared

Count = Annotated[int, Field(ge=0)]


class Params(ForwardParams):
    """Parameters of exp10: which prompts train the probes, which judge them, what is patched and at which doses."""

    n_prompts: int = Field(ge=5, description="of exp00's prompts, whose replies by IT train the probes")
    n_test: int = Field(
        ge=5, description="others of exp00's prompts, on which the probes are judged and PT is patched"
    )
    per_prompt: int = Field(default=64, ge=5, description="positions of each reply, spread evenly")
    prompts: Prompts = Field(description="prompts that steered IT answers, whose replies a program can score")
    counts: dict[str, Count] = Field(description="of them, by role")
    max_new_tokens: int = Field(ge=2, le=8192, description="cap on generated tokens a reply")
    n_patched_prompts: int = Field(ge=2, description="prompts at which PT is patched")
    n_patched_layers: int = Field(
        default=2, ge=1, description="layers patched in the whole stack, and in its late part"
    )
    n_forced: int = Field(ge=2, description="prompts whose replies steered IT reads")
    n_random: int = Field(
        default=39, ge=1, description="random directions with the length of the probe's part"
    )
    n_large: int = Field(default=20, ge=1, description="random directions of full size, and in steered IT")
    n_permuted: int = Field(default=20, ge=1, description="probes of the gap with its tokens in random order")
    doses: tuple[float, ...] = Field(
        default=(-1.0, 0.0, 1.0, 2.0, 3.0), strict=False, description="α in steered IT; 1 changes nothing"
    )

    @field_validator("doses")
    @classmethod
    def _identity(cls, doses):
        if not {0, 1, 2} <= set(doses):
            raise ValueError(
                "must hold the doses 0, which removes a direction, 1, which changes nothing, and 2"
            )
        return tuple(sorted(doses))


def n_arms(params: Params) -> int:
    """Return how many arms write replies."""
    return 1 + 2 * len(params.doses) + 2


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp10: probes' tokens are forced twice, patches are one token each, arms write and read replies."""
    e, L = run.experiment, size.layers
    prompt = max(map(prompt_tokens, (run.profile.prompts, e.prompts)))
    n, reply = sum(e.counts.values()), needs["exp00"][0].experiment.max_new_tokens
    conditions = e.n_random + e.n_large + 13
    patches = 2 * e.n_patched_layers * conditions
    forced = 2 * (e.n_prompts + e.n_test) * (reply + PROMPT_TOKENS)
    forced += 5 * e.n_patched_prompts * patches + (n_arms(e) + e.n_large) * e.n_forced * (
        reply + PROMPT_TOKENS
    )
    passes = (
        2 * (e.n_prompts + e.n_test) // e.batch_size + 5 * e.n_patched_prompts + n_arms(e) * e.max_new_tokens
    )
    train, test = (count * min(e.per_prompt, reply) for count in (e.n_prompts, e.n_test))
    rows, few = max(conditions, 4 * e.batch_size), min(e.batch_size, e.n_prompts)
    # Joining the batches and putting them in order holds them three times; IT's residuals stay on the device.
    most, tokens = max(3 * train, train + 3 * test), few * reply
    # Both models' streams, and what is kept of them; the batch before is still there while the next one runs.
    reading = replayed(run, size, few, e.n_prompts, prompt, reply) + states(run, size, tokens, 8)
    matched = max(reading, states(run, size, tokens, 11) + lens_buffers(run, size, min(e.lens_rows, tokens)))
    patching = cache(run, size, rows, prompt) + edits(size, rows) + logits(size, rows + L, 6)
    writing = decoded(run, size, min(e.batch_size, n), prompt, e.max_new_tokens)
    batch = states(run, size, train + test) + max(matched, patching, writing)
    held = weights(run, size, 2) + translators(size, 2) + max(batch, states(run, size, most))
    differences = 2 * 4.0 * L * size.width * most
    made = n * n_arms(e) * e.max_new_tokens, forced, passes
    return Cost(n, *made, held, 4.0 * n * (patches * 4 + L * 16), differences + REPLY * made[0])


VARIABLES = declared(
    {
        ("space", "lens", "layer"): {
            "r2": ("1", "R² of a probe of the gap on prompts that it has not seen"),
            "r2_cv": ("1", "R² over the left-out folds of the training prompts"),
            "penalty": ("1", "λ of the probe, features of standard deviation 1"),
        },
        ("space", "lens", "layer", "sum", "test_prompt"): {
            "r2_sums": ("nats", "sums that R² is a function of, by prompt"),
        },
        ("space", "lens", "window"): {
            "r2_mean": ("1", "mean R² over a window's layers, unseen prompts"),
            "r2_low": ("1", "lower end of its BCa interval over prompts"),
            "r2_high": ("1", "upper end of its BCa interval over prompts"),
        },
        ("space", "permutation", "layer"): {
            "r2_permuted": ("1", "R² of probes of the gap with its tokens in random order"),
        },
        ("lens", "layer"): {
            "r2_position": ("1", "R² of the mean gap at the same generated token"),
        },
        ("lens", "layer", "test_prompt"): {
            "gap": ("nats", "KL(layer ‖ own final), IT − PT on the same ids, mean over tokens"),
        },
        ("direction", "space", "layer", "feature"): {
            "vector": ("1", "unit direction"),
        },
        ("direction", "space", "layer"): {
            "energy_share": ("1", "share of the energy of IT − PT differences along a direction"),
            "deviation": ("1", "standard deviation of IT − PT differences along a direction"),
        },
        ("space", "layer"): {
            "slope": ("nats", "gap that the probe predicts per unit along its direction"),
            "cosine_mean": ("1", "cosine of the probe's direction with the mean IT − PT difference"),
            "cosine_pattern": ("1", "cosine of the probe's direction with what varies with its prediction"),
            "cosine_gradient": (
                "1",
                "cosine of the probe's direction with the gradient of KL(layer ‖ final)",
            ),
        },
        ("readout", "condition", "patched_layer", "patched_prompt"): {
            "patch_shift": ("nats or layers", "patched − unpatched PT at the patched position"),
        },
        ("condition", "patched_layer", "patched_prompt"): {
            "patch_size": ("1", "length of what a patch adds, as a share of the full difference"),
        },
        ("patched_layer", "patched_prompt"): {
            "patch_gap": ("nats", "gap above the patched layer at the patched positions"),
        },
        ("metric", "arm", "prompt"): {
            "score": ("by metric", "score of an arm's reply, NaN where it does not apply or was not written"),
        },
        ("shown_arm", "prompt"): {"text": ("1", "reply")},
        ("arm", "forced_prompt"): {
            "kl_late": (
                "nats",
                "KL(layer ‖ own final) over late layers but the last, tuned lens, IT's reply",
            ),
            "kl_unedited": ("nats", "KL(unedited ‖ edited) of the next token on IT's reply"),
            "residual_change": ("1", "change of the last residual as a share of its norm"),
        },
        ("prompt",): {
            "role": ("1", "what the prompt asks for"),
            "message": ("1", "what IT is asked"),
        },
    }
)
