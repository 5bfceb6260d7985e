"""Parameters and variables of exp13."""

from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.core.variables import declared


class Params(ExperimentParams):
    """Parameters of exp13: number of resamples, and seed."""


VARIABLES = declared(
    {
        ("condition", "lens", "displaced", "supported", "prompt"): {
            "replaced": ("cells", "cells whose top-1 token the graft replaces, by class of both"),
        },
        ("condition", "lens", "role", "token_class"): {
            "share": ("1", "share of a class among the displaced or the supported tokens"),
            "share_low": ("1", "lower end of its BCa interval"),
            "share_high": ("1", "upper end of its BCa interval"),
        },
        ("part", "token_class", "prompt"): {
            "n_steps": ("tokens", "steps by class of the teacher's token"),
        },
        ("part", "token_class", "condition", "lens", "prompt"): {
            "rank_gain": ("ranks", "baseline's rank of the teacher's token minus the condition's"),
            "log_rank_gain": ("1", "the same of natural logarithms of ranks"),
            "log_probability_gain": ("nats", "gain of the teacher's token's log-probability"),
            "rank_win": ("1", "share of steps where the graft moves the teacher's token up"),
            "rank_loss": ("1", "share of steps where the graft moves it down"),
        },
        ("part", "token_class", "reader", "lens", "prompt"): {
            "late_win": (
                "1",
                "share of steps whose first layer to rank the teacher's token first is a late one",
            ),
            "never": ("1", "share of steps where no layer ranks the teacher's token first"),
        },
        ("scale", "kind", "given", "feature", "measured", "lens"): {
            "r": ("1", "Pearson's r of a feature with late KL over steps"),
            "r_low": ("1", "lower end of its BCa interval over prompts"),
            "r_high": ("1", "upper end of its BCa interval over prompts"),
        },
        ("axis", "measured", "layer", "prompt"): {
            "effect": ("logits or nats", "first-order change of an axis by the layer's MLP update"),
            "projection": ("1", "length of the layer's MLP update along an axis, in units of the residual"),
            "cosine": ("1", "cosine of the layer's MLP update with an axis"),
        },
        ("measured", "lens", "prompt"): {
            "candidate_overlap": (
                "1",
                "Jaccard index of the twenty best tokens with the baseline's, mean of late layers",
            ),
        },
        (): {
            "cells_per_step": ("layers", "layers read at a step"),
        },
    }
)
