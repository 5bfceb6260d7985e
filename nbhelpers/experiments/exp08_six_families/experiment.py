"""Parameters, cost and variables of exp08."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from nbhelpers.core.cost import (
    PROMPT_TOKENS,
    REPLY,
    Cost,
    batches,
    decoded,
    forwarded,
    lens_buffers,
    prompt_tokens,
    states,
    steered,
    weights,
)
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import GenerationParams, Size
from nbhelpers.core.variables import declared


class Params(GenerationParams):
    """Parameters of exp08: doses of the direction, ranks of removed subspaces, points and draws of the clouds."""

    doses: tuple[float, ...] = Field(
        default=(-1.0, 0.0, 0.5, 1.0, 1.5, 2.0),
        strict=False,
        description="of the direction; 1 is the identity",
    )
    ranks: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 2, 4, 8), min_length=1, strict=False, description="of the subspaces removed"
    )
    bins: int = Field(
        default=4, ge=1, description="parts of a reply; the middle of each is a point of a cloud"
    )
    n_draws: int = Field(
        default=100, ge=20, description="halves of the prompts, and permutations of PT and IT"
    )

    @field_validator("doses")
    @classmethod
    def _with_anchors(cls, doses):
        if not {1.0, 0.0, -1.0} <= set(doses):
            raise ValueError("must hold 1 (the identity), 0 (the removal) and -1 (the reversal)")
        return tuple(sorted(doses))


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp08: IT's replies are written once, then forced once per dose and per removed subspace."""
    e, L, prompt = run.experiment, size.layers, prompt_tokens(run.profile.prompts)
    forwards = len(e.doses) + len(e.ranks) + 4
    tokens = e.n_prompts * (e.max_new_tokens + PROMPT_TOKENS)
    rows = min(e.batch_size, e.n_prompts)
    measured = rows * e.max_new_tokens
    # Unedited IT's stream, an arm's, and what enters the late window.
    streams = states(run, size, measured, 8) + lens_buffers(run, size, min(e.lens_rows, measured))
    doses = streams + forwarded(run, size, rows, prompt + e.max_new_tokens)
    removed = steered(
        run, size, len(e.ranks) + 3, e.batch_size, prompt, e.max_new_tokens, n_prompts=e.n_prompts
    )
    held = weights(run, size, 2) + max(doses, removed, decoded(run, size, rows, prompt, e.max_new_tokens))
    passes = forwards * batches(e.n_prompts, e.batch_size)
    points = e.n_prompts * e.bins
    clouds = 2 * 3 * 4.0 * L * size.width * points + 2 * 8.0 * points**2
    cells = 3 * 4.0 * 8 * needs["exp05"][0].experiment.n_prompts * L * size.width
    generated = e.n_prompts * e.max_new_tokens
    made = generated, forwards * tokens, passes
    return Cost(
        e.n_prompts, *made, held, 8.0 * e.n_prompts * (L + 60), max(clouds, cells) + REPLY * generated
    )


# What a dose may change of a reply; the last one is read on IT's own reply, not on the edited one.
OUTCOMES = {
    "format": "reply has the form that was asked for",
    "right": "reply holds the right words, letter or number, whichever its prompt asks for",
    "content": "reply holds the right words, on prompts that ask for a form",
    "choice": "right letter, on prompts that ask for one",
    "arithmetic": "right number, on prompts that ask for one",
    "engaged_harmless": "harmless request answered",
    "refusal_harmful": "harmful request refused",
    "structure": "share of structural words",
    "repetition": "share of repeated 4-grams",
    "incoherent": "reply has lost all sense by rule",
    "nll_unedited": "NLL of the reply under unedited IT, nats a token",
    "kl": "KL(unedited ‖ edited) on IT's own reply, forced, nats a token",
}
RANK_MEASURES = {
    "centred_pc1": "share of the centred variance in its first component, as the study tests it",
    "uncentred_pc1": "share of the energy in the first uncentred component",
    "energy_share": "share of the energy along the mean difference",
    "mean_share": "squared length of the mean difference over the mean squared length",
    "cosine_pc1": "|cosine| of the first uncentred component with the mean difference",
    "participation": "participation ratio of the uncentred spectrum",
}
STABILITY = {
    "split_half": "cosine of the directions of two disjoint halves of the prompts",
    "template_cosine": "cosine of the direction with the one of raw prompts",
    "agreement": "mean cosine of a prompt's difference with the mean of the others'",
}
_ENDS = {"": "", "_low": "lower end of the interval of the ", "_high": "upper end of the interval of the "}


def _with_ends(name: str, unit: str, text: str) -> dict[str, tuple[str, str]]:
    """Return a variable and the ends of its interval."""
    return {name + end: (unit, said + text) for end, said in _ENDS.items()}


VARIABLES = declared(
    {
        ("outcome", "dose", "prompt"): {
            "score": ("1", "score of the reply under each dose of the direction in the late window, by outcome"),
        },
        ("outcome", "dose"): {
            "d_z": ("1", "mean change from dose 1 over its standard deviation, paired by prompt; 0 where none moves"),
            "p_holm": ("1", "two-sided p of the change, sign flips by prompt, Holm over outcomes and doses"),
            "lost": ("prompts", "number of prompts whose score falls, by outcome and dose"),
            "gained": ("prompts", "number of prompts whose score rises, by outcome and dose"),
        },
        ("outcome", "branch"): {
            "rho": ("1", "rank correlation of the mean score with the dose, up to and from 1"),
            "rho_p": ("1", "its two-sided p, over doses"),
            "page_p": ("1", "one-sided p of Page's trend towards dose 1, prompts as blocks"),
        },
        ("outcome",): {
            "band_p": ("1", "two-sided rank p of the removal among matched random directions"),
            "band_low": ("1", "smallest change under a matched random direction at dose 0"),
            "band_high": ("1", "largest change under a matched random direction at dose 0"),
            "detectable": ("1", "smallest change at dose 0 that a paired test would find with 80 % power"),
        },
        ("dose",): {
            "incoherent": ("1", "share of replies that are incoherent at each dose"),
            **_with_ends("selectivity", "1", "loss of format compliance less the loss of right content"),
        },
        ("readout", "arm", "forced_prompt"): {
            "forced": ("nats or 1", "what each removal changes on IT's own replies, forced"),
        },
        ("rule", "endpoint", "forced_dose", "forced_prompt"): {
            "commitment": ("layers", "layer of commitment, mean over the tokens of IT's reply"),
        },
        ("rule", "forced_prompt"): {"commitment_pt": ("layers", "PT's layer of commitment on the same tokens")},
        ("estimator", "cloud_dose", "layer"): {
            "dimension": ("1", "dimension of the cloud of residuals"),
            **_with_ends("dimension_change", "1", "change of dimension from dose 1"),
        },
        ("estimator", "cloud_dose", "window"): _with_ends(
            "dimension_shift", "1", "change of dimension from dose 1, mean over the window's layers"
        ),
        ("rank_measure", "layer"): {
            **_with_ends("rank_one", "1", "measure of how far differences lie on one line"),
            "permuted": ("1", "the same with PT and IT exchanged at random prompt by prompt, mean"),
            "permuted_high": ("1", "the same, 95th percentile"),
        },
        ("calibration_prompt", "layer"): {
            "energy_along": ("1", "share of a prompt's squared difference along the others' mean difference"),
        },
        ("stability_measure", "layer"): _with_ends("stability", "1", "stability of the direction"),
    }
)  # fmt: skip
