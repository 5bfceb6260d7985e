"""Parameters and variables of exp07_0d."""

from pydantic import Field

from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.core.variables import declared

# Outcomes whose intervals, effect sizes and trends 0D looks at.
OUTCOMES = (
    "format",
    "choice",
    "arithmetic",
    "refusal_harmful",
    "refusal_harmless",
    "structure",
    "incoherent",
    "nll_unedited",
)
# Definitions of "structured text" that 0E compares, the study's first, then what a program checks.
DEFINITIONS = ("structure", "structure_lines", "structure_bold", "format")
CLASSES = ("STRUCTURAL", "DISCOURSE", "PUNCTUATION", "FUNCTION", "CONTENT", "OTHER")
BRANCHES = ("whole", "below", "above")
STATES = ("coherent", "incoherent")
COUNTED = ("prompt", "doubled")
# Conditions that 0E ranks: all, those that are coherent, doses of the late direction.
KINDS = ("every", "sane", "doses")


class Params(ExperimentParams):
    """Parameters of exp07_0d: resamples of prompts behind rank correlations, and which conditions are incoherent."""

    n_boot: int = Field(default=1000, ge=100, description="resamples of prompts for rank correlations")
    incoherent_share: float = Field(
        default=0.2, gt=0, le=1, description="a condition above it is left out of the sane ones"
    )


VARIABLES = declared(
    {
        ("outcome", "dose", "prompt"): {
            "score": ("by outcome", "score of the reply under a dose of the late direction"),
        },
        ("outcome", "dose", "counted"): {
            "half_width": ("by outcome", "half of the interval of the mean, rows counted once or twice"),
        },
        ("outcome", "dose"): {
            "d_paired": ("1", "mean difference from dose 1 over the standard deviation of the differences"),
            "d_pooled": ("1", "the same mean over the pooled standard deviation of both doses, as the study"),
        },
        ("outcome", "branch", "end"): {
            "rho": (
                "1",
                "rank correlation of the mean score with the dose, over all doses and on each side of dose 1",
            ),
        },
        ("outcome", "branch"): {
            "page_p": ("1", "p of Page's trend over the doses of a branch, prompts as blocks, two-sided"),
        },
        ("definition", "other", "kind", "end"): {
            "rank_agreement": ("1", "rank correlation of two definitions over conditions"),
        },
        ("definition", "condition"): {
            "condition_mean": ("1", "mean score of a condition by a definition"),
        },
        ("condition",): {
            "condition_incoherent": ("1", "share of a condition's replies that are incoherent"),
        },
        ("definition", "state", "prompt"): {
            "by_state": ("1", "mean score of a prompt's coherent and incoherent replies, over conditions"),
        },
        ("token_class", "dose", "prompt"): {
            "class_share": ("1", "share of the units of a reply that are of a class"),
        },
    }
)
