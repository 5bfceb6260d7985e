"""Parameters, cost and variables of exp07_0c."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core import depths
from nbhelpers.core.cost import PROMPT_TOKENS, REPLY, Cost, decoded, edits, prompt_tokens, steered, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Size
from nbhelpers.core.variables import declared

FORCED = ("kl", "nll", "agreement", "residual_change")
SCORED = ("format", "choice", "arithmetic", "alignment", "structure", "incoherent")
OUTCOMES = (*FORCED, *SCORED)
FORMULAS = 14  # arms of 0I beside one a late layer


class Params(ForwardParams):
    """Parameters of exp07_0c: how many controls of each kind, and the dose on which the study's headline rests."""

    n_prompts: int = Field(ge=2, description="of the steering run's requests for a form")
    n_covariance: int = Field(default=20, ge=1, description="directions that vary as IT's MLP outputs do")
    n_permuted: int = Field(default=20, ge=1, description="directions of exchanged labels")
    n_unit: int = Field(
        default=10, ge=1, description="random directions that are rescaled themselves, as in the study"
    )
    n_window_random: int = Field(
        default=2, ge=1, description="matched random directions in each sliding window"
    )
    n_degenerate: int = Field(default=3, ge=1, description="matched random directions at the degenerate dose")
    degenerate_dose: float = Field(default=5.0, gt=2, description="the dose of the study's headline")


def width(n_layers: int) -> int:
    """Return the width of the sliding windows, half of the late window's, at least 1."""
    return max(1, len(depths.windows(n_layers)["late"]) // 2)


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp07_0c: every arm reads IT's replies; some also answer."""
    e, L, steering = run.experiment, size.layers, needs["exp06"][0].experiment
    cap, prompt = steering.max_new_tokens, prompt_tokens(steering.prompts)
    windows = (L - width(L) + 1) * (1 + e.n_window_random)
    formulas = FORMULAS + len(depths.windows(L)["late"])
    answering = e.n_covariance + e.n_degenerate + 1 + formulas
    arms = answering + e.n_permuted + e.n_unit + windows
    tokens = e.n_prompts * arms * (cap + PROMPT_TOKENS)
    rows, batch = e.n_prompts * answering, min(e.batch_size, e.n_prompts * answering)
    passes = -(-e.n_prompts * arms // e.batch_size) + -(-rows // e.batch_size) * cap
    writing = decoded(run, size, batch, prompt, cap) + edits(size, batch)
    forcing = steered(run, size, arms, e.batch_size, prompt, cap, n_prompts=e.n_prompts)
    held, result = weights(run, size, 2) + max(writing, forcing), 4.0 * arms * e.n_prompts * len(OUTCOMES)
    return Cost(e.n_prompts, rows * cap, tokens, passes, held, result, edits(size, rows) + REPLY * rows * cap)


VARIABLES = declared(
    {
        ("outcome", "arm", "prompt"): {
            "effect": ("by outcome", "what an arm does to a prompt's reply, NaN where it was not read"),
        },
        ("prompt",): {
            "role": ("1", "what the prompt asks for"),
        },
        ("arm",): {
            "control": ("1", "what the arm controls, or the direction itself"),
            "dose": ("1", "α of a rescaled or matched arm, c of an added one"),
            "member": ("1", "number of a direction among those of its kind"),
            "first": ("layer", "first edited layer"),
            "last": ("layer", "last edited layer"),
        },
    }
)
