"""Parameters, cost and variables of exp12."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core.cost import REPLY, Cost, batches, decoded, prompt_tokens, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Prompts, Size
from nbhelpers.core.variables import declared

CONDITIONS = ("A", "B_late", "C", "B_late_scrambled")
DECODED = len(CONDITIONS) + 1  # with room for the check that PT's own MLPs change nothing


class Params(ForwardParams):
    """Parameters of exp12: the prompts of the evaluation, and how much each condition may write."""

    prompts: Prompts = Field(description="evaluation prompts, of eight categories")
    n_prompts: int = Field(ge=2, description="prompts, in proportion to the categories")
    max_new_tokens: int = Field(ge=2, le=8192, description="cap on generated tokens a reply")


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp12: every condition answers every prompt."""
    e = run.experiment
    rows, new = e.n_prompts * DECODED, e.max_new_tokens
    held = decoded(run, size, min(e.batch_size, rows), prompt_tokens(e.prompts), new)
    passes, text = batches(rows, e.batch_size) * new, 4.0 * rows * new  # about four bytes a token
    result = text + rows * 40 * 4.0
    return Cost(
        e.n_prompts,
        rows * new,
        0,
        passes,
        weights(run, size, 2) + held,
        result,
        REPLY * rows * new + 2 * result,
    )


VARIABLES = declared(
    {
        ("condition", "prompt"): {
            "text": ("1", "reply"),
            "n_tokens": ("tokens", "length of the reply"),
            "capped": ("1", "whether the reply was cut at the cap"),
            "engagement": ("1", "how the reply meets the request, an index into refusal.CLASSES"),
        },
        ("metric", "condition", "prompt"): {
            "score": ("by metric", "score of the reply by rules, NaN where a metric does not apply"),
        },
        ("judge", "task", "condition", "prompt"): {
            "rating": (
                "by task",
                "a judge's rating, 1 to 5 or the index of a class; NaN where none was asked or given",
            ),
            "missing": ("1", "whether a judge was asked and gave no verdict"),
        },
    }
)
