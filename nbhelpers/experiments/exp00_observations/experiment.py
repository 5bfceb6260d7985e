"""Parameters, cost and variables of exp00."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core.cost import (
    Cost,
    afterwards,
    batches,
    decoded,
    in_blocks,
    lens_buffers,
    prompt_tokens,
    replayed,
    states,
    stored,
    translators,
    weights,
)
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import GenerationParams, KeptBits, Size
from nbhelpers.core.variables import declared

HISTORIES = 2  # PT's tokens and IT's
READINGS = 4  # of a state: two lenses of the model's own, two of the other's
PER_LENS, PER_STEP = 12, 8  # numbers kept per layer, step and model: for each lens; for geometry
READ_OUT = (
    90  # bytes of one lens's metrics of a layer and step on the device, ids and five best tokens included
)
COPIES, CLOUD = 4, 12.0  # copies of a block's steps while blocks are joined; bytes of a number of a cloud


FEWEST = 16  # states of a cloud that differ: a subsample of four fifths must hold ten neighbours of each


class Params(GenerationParams):
    """Parameters of exp00, which generates and measures once for all observational experiments."""

    n_cloud_prompts: int = Field(
        ge=FEWEST, description="prompts whose last position gives the clouds of states"
    )
    # A subsample of four fifths must keep ten neighbours of every state.
    n_neighbours: int = Field(default=32, ge=32, description="nearest neighbours kept of every state")
    kept_bits: KeptBits = 23


def step_bytes(n_layers: int) -> int:
    """Return how many bytes both models' measurements of one step of a history take in memory."""
    return 2 * 4 * n_layers * (2 * PER_LENS + PER_STEP)


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp00: both models write, both read both texts through four lenses, then clouds of prompts."""
    e = run.experiment
    n, rows = e.n_prompts * e.max_new_tokens, min(e.batch_size, e.n_prompts)
    prompt = prompt_tokens(run.profile.prompts)
    passes = HISTORIES * 2 * batches(e.n_prompts, e.batch_size) + 4 * batches(e.n_cloud_prompts, e.batch_size)
    tokens, stream = rows * e.max_new_tokens, states(run, size, rows * e.max_new_tokens, 4)
    translated = states(run, size, tokens) + 2.0 * READ_OUT * size.layers * tokens
    read = stream + translated + lens_buffers(run, size, min(e.lens_rows, tokens))
    forced = replayed(run, size, rows, e.n_prompts, prompt, e.max_new_tokens)
    batch = max(read, forced, decoded(run, size, rows, prompt, e.max_new_tokens))
    held = weights(run, size, 2) + translators(size, 2) + batch
    steps, clouds = 2.0 * n * step_bytes(size.layers), CLOUD * e.n_cloud_prompts * size.layers * size.width
    # While batches are measured their numbers add up; behind the last one they are joined.
    host = max(in_blocks(steps), afterwards(run, max(in_blocks(COPIES * steps), clouds), batch))
    made = 2 * n, 4 * n, passes
    return Cost(e.n_prompts, *made, held, stored(steps, e.kept_bits), host, READINGS * 4.0 * n * size.layers)


VARIABLES = declared(
    {
        ("variant", "lens", "layer", "step"): {
            "kl_final_layer": ("nats", "KL(final ‖ layer)"),
            "kl_layer_final": ("nats", "KL(layer ‖ final)"),
            "kl_adjacent": ("nats", "KL(previous layer ‖ layer)"),
            "entropy": ("nats", "entropy of the layer's lens distribution"),
            "top1": ("1", "token id that the layer's lens ranks first"),
            "top1_probability": ("1", "probability of the layer's own top-1 token"),
            "target_log_probability": ("nats", "log-probability of the token that follows"),
            "target_rank": ("1", "rank of the token that follows, 1 is first"),
            "turnover": ("1", "Jaccard index of a layer's five best tokens with the previous layer's"),
            "candidates_final": ("1", "Jaccard index of a layer's five best tokens with the last layer's"),
            "kl_final_layer_cross": ("nats", "KL(final ‖ layer) read through the other model's lens"),
            "kl_layer_final_cross": ("nats", "KL(layer ‖ final) read through the other model's lens"),
        },
        ("variant", "component", "layer", "step"): {
            "delta_cosine": ("1", "cosine of an update with the residual stream that it is added to"),
            "update_norm": ("1", "Euclidean norm of an update"),
        },
        ("variant", "layer", "step"): {
            "residual_norm": ("1", "Euclidean norm of the residual stream after the layer"),
            "cosine_to_final": ("1", "cosine of the residual stream with that after the last layer"),
        },
        ("step",): {
            "token_id": ("1", "id of the token that the step predicts"),
            "token_class": (
                "1",
                "class of the token that the step predicts, an index into token_classes.CLASSES",
            ),
        },
        ("variant", "layer", "neuron"): {
            "neuron_mass": ("1", "Σ |activation|·‖write vector‖ of a neuron over the model's own steps"),
        },
        ("variant", "prompt"): {
            "n_tokens": ("tokens", "generated tokens, the stop token included"),
            "stopped": ("1", "whether the model ended its turn before the cap"),
            "near_ties": (
                "tokens",
                "generated tokens that the forced pass ranks second within rounding",
            ),
            "text": ("1", "generated text"),
        },
        ("prompt",): {
            "category": ("1", "category of the prompt"),
            "message": ("1", "what IT is asked"),
        },
        ("template", "variant", "layer", "cloud_prompt", "neighbour"): {
            "neighbour_distance": ("1", "distance to the nearest other prompts' states"),
            "neighbour_index": ("1", "which prompts those are, −1 where a state repeats another"),
        },
        ("template", "variant", "layer", "axis"): {
            "spectrum": ("1", "eigenvalues of the covariance of the cloud, largest first"),
        },
        ("template", "variant", "layer"): {
            "adjacent_cka": ("1", "linear CKA of the cloud with that after the layer before"),
        },
        ("template", "variant", "cloud_prompt", "layer"): {
            "adjacent_cosine": ("1", "cosine of a prompt's state with that after the layer before"),
            "visible_keys": ("tokens", "keys that the last position may attend to"),
        },
        ("template", "variant", "cloud_prompt", "layer", "head"): {
            "attention_entropy": ("nats", "entropy of a head's attention from the last prompt position"),
            "attention_entropy_no_sink": (
                "nats",
                "the same without the first token, the rest scaled to sum to one",
            ),
            "attention_sink": ("1", "attention paid to the first token"),
        },
        ("template", "layer"): {
            "pair_cka": ("1", "linear CKA of PT's and IT's clouds of one layer"),
        },
        ("layer",): {
            "global_layer": ("1", "whether the layer attends to all tokens, not to a window"),
        },
        ("group", "layer"): {
            "weight_rms": ("1", "RMS weight change"),
            "weight_relative": ("1", "relative weight change"),
            "weight_count": ("1", "parameters"),
        },
        ("outside",): {
            "outside_rms": ("1", "RMS weight change"),
            "outside_relative": ("1", "relative weight change"),
            "outside_n_parameters": ("1", "parameters"),
        },
    }
)
