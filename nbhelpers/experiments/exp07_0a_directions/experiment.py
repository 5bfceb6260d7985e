"""Parameters, cost and variables of exp07_0a."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from nbhelpers.core.cost import PROMPT_TOKENS, Cost, batches, prompt_tokens, steered, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Size
from nbhelpers.core.variables import declared

REMOVED = 9  # conditions in which a reply is forced: six sets, all, exchanged labels, unedited


class Params(ForwardParams):
    """Parameters of exp07_0a: subset sizes and draws of 0A, resamples of 0B, held-out prompts of 0H."""

    n_held: int = Field(
        ge=2, description="prompts of the capture on which directions are removed; none gave one"
    )
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(2, 4, 8, 16, 32, 64, 128, 256),
        strict=False,
        description="prompts of a direction, at most half of all",
    )
    n_draws: int = Field(default=50, ge=10, description="random halves, subsets and exchanges")
    n_boot: int = Field(default=1000, ge=100, description="bootstrap resamples of the composition")
    bound: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="two directions do the same within this share of the effect of all prompts' one",
    )


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp07_0a: replies forced under nine conditions; all else is arithmetic on stored means."""
    e, reply, prompt = (
        run.experiment,
        needs["exp00"][0].experiment.max_new_tokens,
        prompt_tokens(run.profile.prompts),
    )
    # The eight cells are held as stored, as each prompt's difference, and once more while one is compared.
    cells = 3 * 4.0 * 8 * needs["exp05"][0].experiment.n_prompts * size.layers * size.width
    held = weights(run, size, 2) + steered(
        run, size, REMOVED, e.batch_size, prompt, reply, n_prompts=e.n_held
    )
    tokens, passes = reply + PROMPT_TOKENS, batches(e.n_held * (REMOVED + 1), e.batch_size)
    return Cost(e.n_held, 0, e.n_held * (REMOVED + 1) * tokens, passes, held, 1e6, cells)


VARIABLES = declared(
    {
        ("draw", "layer"): {
            "split_half": ("cosine", "directions of two disjoint halves of the prompts"),
            "chance": ("cosine", "the same with PT and IT exchanged in half of the prompts at random"),
        },
        ("layer",): {
            "pairwise": (
                "cosine",
                "mean cosine of the directions of two bootstrap resamples, as the study measures it",
            ),
        },
        ("size", "draw", "layer"): {
            "disjoint": ("cosine", "direction of so many prompts with that of another half of them"),
            "nested": ("cosine", "direction of so many prompts with that of all prompts, these included"),
        },
        ("part", "against", "place", "end"): {
            "cosine": (
                "cosine",
                "a part of the direction with the direction: value and ends of its interval",
            ),
        },
        ("part", "place", "end"): {
            "norm": ("1", "length of a part of the direction"),
            "share": ("1", "share of the direction that a part makes up, v·d / ‖d‖²"),
        },
        ("calibration",): {
            "contrast": ("1", "how much IT and PT differ on a prompt"),
        },
        ("third", "calibration"): {
            "member": ("1", "whether a prompt belongs to a calibration set"),
        },
        ("from_set", "other_set", "layer"): {
            "set_cosine": ("cosine", "directions of two calibration sets"),
        },
        ("set", "prompt"): {
            "removal_kl": (
                "nats",
                "KL(unedited ‖ edited) per token of IT's reply, a set's direction removed late",
            ),
            "removal_nll": (
                "nats",
                "rise of the negative log-probability of IT's reply, the direction removed late",
            ),
            "removal_agreement": ("1", "share of tokens on which edited and unedited IT agree"),
            "removal_dose": ("1", "change of the last residual over its length"),
        },
    }
)
