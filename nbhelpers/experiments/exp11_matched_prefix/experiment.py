"""Parameters, cost and variables of exp11."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from nbhelpers.core import depths
from nbhelpers.core.cost import BYTES, PROMPT_TOKENS, Cost, batches, in_blocks, stored, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, KeptBits, Size
from nbhelpers.core.variables import declared

GRAFTED, EIGHT, CELLS = 18, 8, 1 << 23  # all conditions; `symmetric_conditions`; logits read at once


class Params(ForwardParams):
    """Parameters of exp11: which of exp00's replies are read again, and the windows of the sweep."""

    n_prompts: int = Field(ge=2, description="of exp00's prompts, balanced over categories")
    kl_grid: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.05, 0.1, 0.2, 0.5, 1.0),
        min_length=1,
        strict=False,
        description="nats, for commitment; the study's 0.1 is always measured",
    )
    sliding_width: int = Field(default=3, ge=1, description="layers of the window that slides over the depth")
    sliding_step: int = Field(default=1, ge=1, description="layers between two such windows")
    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1, 2, 4), min_length=1, strict=False, description="of early, mid and late windows"
    )
    kept_bits: KeptBits = 23


def step_bytes(n_layers: int) -> int:
    """Return how many bytes the steps that later experiments read take in memory for one token of a reply."""
    return EIGHT * n_layers * (2 * 24 + 44)  # for each lens, and for the MLP's geometry and projections


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp11: exp00's replies are forced under every condition; a batch's residuals are held at once."""
    e, L = run.experiment, size.layers
    reply = needs["exp00"][0].experiment.max_new_tokens
    sliding = len(range(0, L - e.sliding_width + 1, e.sliding_step))
    swept = 2 + 2 * (sliding + 3 * len(e.widths))
    forwards = GRAFTED + EIGHT + swept
    tokens = e.n_prompts * (reply + PROMPT_TOKENS)
    stream = L * size.width * BYTES[run.model.dtype] * e.batch_size * reply
    readouts = 2 * 2 * L * 4 * e.n_prompts * GRAFTED * 2 * 11  # teachers or lenses, bases, float32, read-outs
    kept = 1.0 * step_bytes(L) * e.n_prompts * reply
    translators = 2.0 * L * size.width**2 * 4
    fifth = len(depths.final_fifth(L)) / L  # the sweep keeps no other layers
    # Residuals and their translations; the streams of three baselines, which later conditions resume from.
    streams = (2 * max(GRAFTED, swept * fifth) + 3 * 5) * stream
    held = weights(run, size, 2) + translators + streams + 4.0 * CELLS * 8
    passes = forwards * batches(e.n_prompts, e.batch_size)
    read = 4.0 * (GRAFTED + EIGHT + swept * fifth) * L * e.n_prompts * reply  # two lenses, two bases
    # Nine of 23 numbers are NaN but in the final fifth under half of the conditions; what is NaN takes no room.
    result = readouts + stored(0.65 * kept, e.kept_bits)
    return Cost(e.n_prompts, 0, forwards * tokens, passes, held, result, readouts + in_blocks(4 * kept), read)


VARIABLES = declared(
    {
        ("teacher", "prompt", "lens", "basis", "condition", "layer"): {
            "kl_layer_final": ("nats", "KL(layer ‖ own final)"),
            "kl_final_layer": ("nats", "KL(own final ‖ layer)"),
            "kl_layer_baseline_final": ("nats", "KL(layer ‖ the baseline's final)"),
            "kl_layer_teacher_final": ("nats", "KL(layer ‖ the teacher model's final)"),
            "kl_layer_teacher": ("nats", "KL(layer ‖ the teacher model's same layer)"),
            "kl_teacher_layer": ("nats", "KL(the teacher model's same layer ‖ layer)"),
            "js_teacher": ("nats", "Jensen-Shannon divergence from the teacher model's same layer"),
            "entropy": ("nats", "entropy of the layer's lens distribution"),
            "target_log_probability": ("nats", "log-probability of the teacher's token"),
            "target_log_rank": ("1", "natural logarithm of the rank of the teacher's token"),
            "top1_final": ("1", "share of steps whose layer ranks the final top-1 token first"),
        },
        ("teacher", "prompt", "condition", "layer"): {
            "residual_cosine_teacher": ("1", "cosine of the residual stream with the teacher model's"),
            "residual_distance_teacher": (
                "1",
                "distance of the residual stream from the teacher model's, over its norm",
            ),
        },
        ("teacher", "prompt", "component", "condition", "layer"): {
            "delta_cosine": ("1", "cosine of an update with the residual stream that it is added to"),
            "update_norm": ("1", "Euclidean norm of an update"),
        },
        ("teacher", "prompt", "axis", "condition", "layer"): {
            "effect": ("logits or nats", "first-order change of an axis by the layer's MLP update"),
            "projection": ("1", "length of the layer's MLP update along an axis, in units of the residual"),
            "cosine": ("1", "cosine of the layer's MLP update with an axis"),
        },
        ("teacher", "prompt", "condition"): {
            "nll": (
                "nats",
                "negative log-probability of the teacher's token under the condition's own output",
            ),
            "agreement_teacher": ("1", "share of steps where the condition would write the teacher's token"),
            "agreement_baseline": (
                "1",
                "share of steps where the condition would write what its baseline would",
            ),
            "first_divergence_teacher": (
                "tokens",
                "first step where it would not, the reply's length if there is none",
            ),
            "first_divergence_baseline": (
                "tokens",
                "first step where it would not, the reply's length if there is none",
            ),
        },
        ("teacher", "prompt", "rule", "lens", "basis", "condition"): {
            "commitment": ("layer", "mean commitment layer"),
        },
        ("teacher", "prompt"): {
            "n_tokens": ("tokens", "tokens of the teacher's reply"),
        },
        ("side", "sweep", "lens", "prompt"): {
            "sweep_kl_layer_final": ("nats", "KL(layer ‖ own final): change by a window, final fifth"),
            "sweep_kl_final_layer": ("nats", "KL(own final ‖ layer): change by a window, final fifth"),
            "sweep_kl_layer_teacher": (
                "nats",
                "KL(layer ‖ the teacher model's same layer): change by a window, final fifth",
            ),
            "sweep_js_teacher": (
                "nats",
                "Jensen-Shannon divergence from the teacher model's same layer: change by a window, final fifth",
            ),
        },
        ("side", "sweep", "prompt"): {
            "sweep_nll": (
                "nats",
                "negative log-probability of the teacher's token under the own output: change by a window, final fifth",
            ),
        },
        ("sweep",): {
            "sweep_first": ("layer", "first layer of the window"),
            "sweep_width": ("layers", "width of the window"),
        },
        ("prompt",): {
            "category": ("1", "category of the prompt"),
            "message": ("1", "what IT is asked"),
        },
    }
)


# The steps that later experiments read are in a file of their own beside the dataset.
STEPS = declared(
    {
        ("lens", "basis", "condition", "layer", "step"): {
            "top1": ("1", "token id that the layer's lens ranks first"),
            "target_rank": ("1", "rank of the teacher's token, 1 is first"),
            "target_log_probability": ("nats", "log-probability of the teacher's token"),
            "kl_layer_final": ("nats", "KL(layer ‖ own final)"),
            "entropy": ("nats", "entropy of the layer's lens distribution"),
            "candidate_overlap": ("1", "Jaccard index of the twenty best tokens with the baseline's"),
        },
        ("component", "condition", "layer", "step"): {
            "delta_cosine": ("1", "cosine of an update with the residual stream that it is added to"),
            "update_norm": ("1", "Euclidean norm of an update"),
        },
        ("axis", "condition", "layer", "step"): {
            "effect": ("logits or nats", "first-order change of an axis by the layer's MLP update"),
            "projection": ("1", "length of the layer's MLP update along an axis, in units of the residual"),
            "cosine": ("1", "cosine of the layer's MLP update with an axis"),
        },
        ("step",): {
            "token_id": ("1", "id of the teacher's token that the step predicts"),
            "token_class": ("1", "class of that token, an index into token_classes.CLASSES"),
        },
    }
)
ARTIFACTS = {"exp11_steps": STEPS}
