"""Parameters and variables of exp04."""

from pydantic import Field

from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.core.variables import declared


class Params(ExperimentParams):
    """Parameters of exp04: intrinsic dimension, its intervals, and the permutation of layers."""

    n_subsamples: int = Field(default=100, ge=20, description="subsamples without replacement")
    n_permutations: int = Field(default=10_000, ge=100)
    mle_neighbours: int = Field(default=10, ge=3, le=10)


VARIABLES = declared(
    {
        ("estimator", "template", "variant", "layer"): {
            "dimension": ("1", "intrinsic dimension of the cloud"),
            "dimension_low": ("1", "lower end of the middle 90 % over subsamples without replacement"),
            "dimension_high": ("1", "upper end of the middle 90 % over subsamples without replacement"),
        },
        ("template", "variant", "layer"): {
            "participation_ratio": ("1", "participation ratio of the cloud's spectrum"),
            "effective_rank": ("1", "effective rank of the cloud's spectrum"),
            "first_share": ("1", "share of the variance along the first principal axis"),
            "adjacent_cka": ("1", "linear CKA of the cloud with that after the layer before"),
        },
        ("template", "variant", "cloud_prompt", "layer"): {
            "attention_entropy": ("nats", "entropy of a head's attention from the last prompt position"),
            "attention_normalised": (
                "1",
                "attention entropy over the logarithm of visible keys, mean over heads",
            ),
            "attention_entropy_no_sink": (
                "nats",
                "the same without the first token, the rest scaled to sum to one",
            ),
            "attention_sink": ("1", "attention paid to the first token"),
            "adjacent_change": ("1", "1 − cosine of a prompt's state with that after the layer before"),
        },
        ("template", "layer"): {
            "pair_cka": ("1", "linear CKA of PT's and IT's clouds of one layer"),
        },
        ("layer",): {
            "global_layer": ("1", "whether the layer attends to all tokens, not to a window"),
        },
        ("template", "variant"): {
            "lowest_layer": ("layers", "layer of the lowest dimension between 0.2 L and 0.5 L"),
            "sharpness": ("1", "|difference of dimension across the lowest layer| / the larger of the two"),
        },
        ("profile",): {
            "statistic": ("1", "mean over the window less mean over the other layers"),
            "p_permuted": ("1", "two-sided p of the statistic against layers in random order"),
            "p_window": ("1", "share of windows of this width with a statistic at least as large in size"),
            "global_statistic": ("1", "mean over layers of global attention less mean over the others"),
            "p_global": ("1", "two-sided p of it against layers in random order"),
        },
    }
)
