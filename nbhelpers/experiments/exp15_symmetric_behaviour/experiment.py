"""Parameters, cost and variables of exp15."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator

from nbhelpers.core.cost import PROMPT_TOKENS, REPLY, Cost, decoded, prompt_tokens, steered, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Prompts, Size
from nbhelpers.core.variables import declared

Count = Annotated[int, Field(ge=0)]
ARMS = 12  # eight conditions and four scrambled controls
OPTIONS = 4  # candidates of a choice
CANDIDATE = 24  # assumed tokens of a candidate
# Which replies are compared: that with IT's late MLPs, then the other. The names are those of LLM judges' files.
COMPARISONS = {"pt_late_vs_a": ("B_late", "A"), "it_c_vs_dlate": ("C", "D_late")}


class Params(ForwardParams):
    """Parameters of exp15: which prompts are answered, how many of each kind, and for how long."""

    prompts: Prompts = Field(description="prompts of eight categories, with what a reply is checked against")
    counts: dict[str, Count] = Field(description="prompts by bucket of the core subset")
    max_new_tokens: int = Field(ge=2, le=8192, description="cap on generated tokens a reply")
    subset_seed: int = Field(
        default=20260420,
        ge=0,
        description="of the hashes that choose the prompts; the default is the study's",
    )

    @field_validator("counts")
    @classmethod
    def _some(cls, counts):
        if not any(counts.values()):
            raise ValueError("must give a count of at least 1 for one bucket")
        return counts


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp15: every condition answers every prompt, and reads the four candidates of each choice."""
    e = run.experiment
    n, rows, cap = sum(e.counts.values()), e.batch_size, e.max_new_tokens
    prompt, few = prompt_tokens(e.prompts), min(rows, n * ARMS)
    read = n * ARMS * (cap + PROMPT_TOKENS) + ARMS * OPTIONS * e.counts.get("content_fact", 0) * PROMPT_TOKENS
    candidates = steered(run, size, ARMS // 2, rows, prompt, CANDIDATE, n_prompts=OPTIONS * n)
    held = weights(run, size, 2) + max(decoded(run, size, few, prompt, cap), candidates)
    passes, result = -(-n * ARMS // rows) * cap, n * ARMS * (60 * 4.0 + 5.0 * cap)
    return Cost(n, n * ARMS * cap, read, passes, held, result, REPLY * n * ARMS * cap + 2 * result)


VARIABLES = declared(
    {
        ("condition", "prompt"): {
            "text": ("1", "reply"),
            "n_tokens": ("tokens", "length of the reply"),
            "capped": ("1", "reply that ends at the cap on new tokens"),
            "engagement": ("1", "how the reply meets the request, an index into refusal.CLASSES"),
        },
        ("metric", "condition", "prompt"): {
            "score": ("by metric", "score of the reply by rule, NaN where a metric does not apply"),
        },
        ("judge", "task", "condition", "prompt"): {
            "rating": ("by task", "a judge's rating or class of the reply, NaN where a task does not apply"),
            "missing": ("1", "1 where a task applies and the judge gave no verdict"),
        },
        ("pair_task", "comparison", "order", "prompt"): {
            "preference": ("1", "+1 target preferred, 0 tie, −1 other, by the rubric judge"),
            "preference_missing": ("1", "1 where a comparison applies and the judge gave no verdict"),
        },
        ("side", "window", "internal_prompt"): {
            "internal_shift": (
                "nats",
                "change of KL(layer ‖ own final) in the final fifth under the same graft, forced, tuned lens",
            ),
        },
    }
)
