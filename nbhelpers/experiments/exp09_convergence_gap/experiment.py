"""Parameters and variables of exp09."""

from pydantic import Field

from nbhelpers.core.schemas import CommitmentParams
from nbhelpers.core.variables import declared


class Params(CommitmentParams):
    """Parameters of exp09: thresholds and windows of the commitment rules, strata, and the dimension of clouds."""

    n_subsamples: int = Field(
        default=100, ge=20, description="subsamples without replacement, for dimensions"
    )
    mle_neighbours: int = Field(
        default=10, ge=3, le=10, description="neighbours of the maximum-likelihood dimension"
    )


VARIABLES = declared(
    {
        ("variant", "lens", "prompt", "layer"): {
            "kl_final_layer": ("nats", "KL(final ‖ layer)"),
            "kl_layer_final": ("nats", "KL(layer ‖ final)"),
            "entropy": ("nats", "entropy of the layer's lens distribution"),
            "kl_adjacent": ("nats", "KL(previous layer ‖ layer)"),
            "top1_agreement": ("1", "share of steps whose top-1 token is the final layer's"),
            "top1_probability": ("1", "probability of the layer's own top-1 token"),
            "kl_final_layer_first": ("nats", "KL(final ‖ layer) at the last prompt position"),
            "kl_layer_final_first": ("nats", "KL(layer ‖ final) at the last prompt position"),
            "entropy_first": ("nats", "entropy at the last prompt position"),
        },
        ("variant", "component", "prompt", "layer"): {
            "delta_cosine": ("1", "cosine of an update with the residual stream that it is added to"),
            "update_norm": ("1", "Euclidean norm of an update"),
        },
        ("variant", "prompt", "layer"): {
            "residual_norm": ("1", "Euclidean norm of the residual stream after the layer"),
            "cosine_to_final": ("1", "cosine of the residual stream with that after the last layer"),
        },
        ("variant", "lens", "rule", "prompt"): {
            "commitment": ("layers", "mean commitment layer of a prompt's steps"),
        },
        ("variant", "lens", "rule", "layer"): {
            "commitment_count": ("steps", "steps that commit at the layer, pooled over prompts"),
        },
        ("variant", "prompt"): {
            "n_tokens": ("tokens", "generated tokens, the stop token included"),
            "stopped": ("1", "whether the model ended its turn before the cap"),
        },
        ("prompt",): {
            "category": ("1", "category of the prompt"),
        },
        ("history", "variant", "basis", "lens", "prompt", "layer"): {
            "kl_final_layer_matched": (
                "nats",
                "KL(final ‖ layer) of either model on one history, by whose lens reads it",
            ),
            "kl_layer_final_matched": (
                "nats",
                "KL(layer ‖ final) of either model on one history, by whose lens reads it",
            ),
        },
        ("variant", "stratum", "prompt", "lens", "layer"): {
            "kl_by_confidence": (
                "nats",
                "KL(final ‖ layer) of steps in a stratum of final top-1 probability, free running",
            ),
        },
        ("history", "variant", "stratum", "prompt", "lens", "layer"): {
            "kl_by_confidence_matched": (
                "nats",
                "the same on one history, strata by the confidence of its writer",
            ),
        },
        ("variant", "stratum"): {
            "steps_by_confidence": ("steps", "free-running steps in a stratum"),
        },
        ("variant", "token", "layer"): {
            "delta_cosine_by_step": (
                "1",
                "δ-cosine of the block update, by generation step, mean over prompts",
            ),
        },
        ("lens", "direction"): {
            "convergence_gap": ("nats", "mean over the late half of IT − PT, by prompt"),
            "convergence_gap_low": ("nats", "lower end of the interval of the convergence gap"),
            "convergence_gap_high": ("nats", "upper end of the interval of the convergence gap"),
            "convergence_gap_tokens": ("nats", "convergence gap with every step weighted equally"),
        },
        ("lens", "rule"): {
            "commitment_delay": ("layers", "IT − PT of a prompt's mean commitment layer"),
            "commitment_delay_low": ("layers", "lower end of the interval of the delay"),
            "commitment_delay_high": ("layers", "upper end of the interval of the delay"),
        },
        ("estimator", "template", "variant", "layer"): {
            "dimension": ("1", "intrinsic dimension of the cloud"),
            "dimension_low": ("1", "lower end of the middle 90 % over subsamples without replacement"),
            "dimension_high": ("1", "upper end of the middle 90 % over subsamples without replacement"),
        },
        ("template", "variant", "layer"): {
            "participation_ratio": ("1", "participation ratio of the cloud's spectrum"),
            "effective_rank": ("1", "effective rank of the cloud's spectrum"),
            "first_share": ("1", "share of the variance along the first principal axis"),
        },
        ("template", "variant", "cloud_prompt", "layer"): {
            "attention_entropy": ("nats", "entropy of a head's attention from the last prompt position"),
            "attention_normalised": (
                "1",
                "attention entropy over the logarithm of visible keys, mean over heads",
            ),
        },
        ("group", "layer"): {
            "weight_rms": ("1", "RMS weight change"),
            "weight_relative": ("1", "relative weight change"),
        },
    }
)
