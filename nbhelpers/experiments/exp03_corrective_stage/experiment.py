"""Parameters and variables of exp03."""

from nbhelpers.core.schemas import CommitmentParams
from nbhelpers.core.variables import declared


class Params(CommitmentParams):
    """Parameters of exp03: threshold of commitment and strata of confidence."""


VARIABLES = declared(
    {
        ("variant", "history", "lens", "prompt", "layer"): {
            "kl_final_layer": ("nats", "KL(final ‖ layer)"),
            "kl_adjacent": ("nats", "KL(previous layer ‖ layer)"),
            "turnover": ("1", "Jaccard index of a layer's five best tokens with the previous layer's"),
            "candidates_final": ("1", "Jaccard index of a layer's five best tokens with the last layer's"),
            "target_probability": ("1", "probability of the token that follows"),
            "target_log_rank": ("1", "natural logarithm of the rank of the token that follows"),
        },
        ("variant", "history", "token_class", "prompt", "lens"): {
            "late_mind_change": (
                "1",
                "share of a class's steps that first rank the following token first at the onset or later",
            ),
            "late_flips": ("1", "changes of the top-1 token in the corrective phase, a step"),
            "kl_adjacent_at_change": (
                "nats",
                "KL(previous layer ‖ layer) at the layer that first ranks the following token first",
            ),
        },
        ("variant", "history", "token_class"): {
            "class_share": ("1", "share of steps that predict a token of the class"),
        },
        ("variant", "history", "prompt", "layer"): {
            "delta_cosine": ("1", "δ-cosine of the block update, mean over steps"),
        },
        ("variant", "history", "phase", "prompt", "lens"): {
            "phase_kl_adjacent": ("nats", "KL(previous layer ‖ layer), mean over the layers of a phase"),
            "phase_of_mind": (
                "1",
                "share of steps whose first layer with the following token on top lies in a phase",
            ),
        },
        ("variant", "history", "stratum", "prompt", "rule", "lens"): {
            "commitment_by_confidence": (
                "layers",
                "mean commitment layer of the steps in a stratum of final probability, by KL(final ‖ layer)",
            ),
            "commitment_by_confidence_layer_final": (
                "layers",
                "mean commitment layer of the steps in a stratum of final probability, by KL(layer ‖ final)",
            ),
        },
        ("variant", "history", "agreement_of", "prompt", "lens", "layer"): {
            "kl_by_agreement": (
                "nats",
                "KL(final ‖ layer) of steps by whether both models' final top-1 token is the same",
            ),
        },
        ("variant", "history"): {
            "agreement": ("1", "share of steps at which both models' final top-1 token is the same"),
        },
        ("variant", "layer"): {
            "gini": ("1", "gini of the neurons' summed write lengths"),
            "n50": ("neurons", "n50 of the neurons' summed write lengths"),
            "n90": ("neurons", "n90 of the neurons' summed write lengths"),
        },
        ("layer", "k"): {
            "neuron_overlap": ("1", "Jaccard index of PT's and IT's top k neurons"),
        },
    }
)
