"""Parameters, cost and variables of exp11."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from nbhelpers.core import depths
from nbhelpers.core.cost import (
    BYTES,
    PROMPT_TOKENS,
    Cost,
    afterwards,
    batches,
    forwarded,
    in_blocks,
    logits,
    prompt_tokens,
    states,
    stored,
    translators,
    weights,
)
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, KeptBits, Size
from nbhelpers.core.variables import declared

GRAFTED, EIGHT = 18, 8  # all conditions; `symmetric_conditions`
BASELINES, LATE = 3, 11  # of all conditions: those without a graft, those grafted in the late window
CELLS, CACHED = 1 << 23, 1 << 19  # logits read at once, at most and where a processor's cache decides
# Bytes of all read-outs of a layer and step: on the device; on the host, in float32 and while means of prompts are taken.
READ_OUT, MEANS, COPIES = 60, 80, 4


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
    e, L, prompt = run.experiment, size.layers, prompt_tokens(run.profile.prompts)
    reply, rows = needs["exp00"][0].experiment.max_new_tokens, min(e.batch_size, e.n_prompts)
    windows = len(range(0, L - e.sliding_width + 1, e.sliding_step)) + 3 * len(e.widths)
    swept, fifth = 2 + 2 * windows, len(depths.final_fifth(L)) / L  # the sweep reads no other layers
    forwards, tokens = GRAFTED + EIGHT + swept, e.n_prompts * (reply + PROMPT_TOKENS)
    one = states(run, size, rows * reply)
    entering = rows * (prompt + reply) * size.width * BYTES[run.model.dtype]
    numbers = 4.0 * rows * reply * L  # of one read-out of one condition: two lenses, two bases
    main = held_at_once(run, size, GRAFTED, distinct(L) * one, one, 9 * entering, numbers, rows * reply)
    again, part = 2 * min(L, windows) * entering, fifth * numbers / 2
    sweep = held_at_once(run, size, swept, swept * fifth * one, one, again, part, rows * reply)
    batch = forwarded(run, size, rows, prompt + reply) + max(main, sweep)
    held = weights(run, size, 2) + translators(size, 2) + batch
    passes = forwards * batches(e.n_prompts, e.batch_size)
    read = 4.0 * (GRAFTED + EIGHT + swept * fifth) * L * e.n_prompts * reply  # two lenses, two bases
    readouts = 2 * 2 * L * 4 * e.n_prompts * GRAFTED * 2 * 11  # teachers or lenses, bases, float32, read-outs
    kept = 1.0 * step_bytes(L) * e.n_prompts * reply
    # Nine of 23 numbers are NaN but in the final fifth under half of the conditions; what is NaN takes no room.
    result = readouts + stored(0.65 * kept, e.kept_bits)
    # A batch's read-outs are reduced when its tensors are gone, and joined with others behind the last batch.
    reduced = 2 * readouts + in_blocks(kept) + MEANS * GRAFTED * numbers
    host = max(readouts + in_blocks(kept), afterwards(run, max(reduced, in_blocks(COPIES * kept)), batch))
    return Cost(e.n_prompts, 0, forwards * tokens, passes, held, result, host, read)


def distinct(n_layers: int) -> float:
    """Return how many residual streams the conditions have, those below a graft counted once, with its baseline's."""
    spans = depths.windows(n_layers)
    above = {name: 1 - layers.start / n_layers for name, layers in spans.items()}
    return BASELINES + 2 * above["early"] + 2 * above["mid"] + LATE * above["late"]


def held_at_once(run: Run, size: Size, conditions: int, residuals: float, one: float, entering: float, numbers: float,
                 tokens: float) -> float:  # fmt: skip
    """Return what a pass holds of its batch: streams of baselines while conditions run, or what the lens needs afterwards.

    The lens holds all residuals and their translations, tiles of logits, and the read-outs of both bases and of one stack.
    """
    streaming = residuals + (3 * BASELINES + 4) * one + entering
    group = max(8, conditions)
    at_once = min(tokens, CELLS // (group * size.vocabulary), max(CACHED // size.vocabulary, 512 // group))
    tiles = logits(size, max(1, at_once), 2 * conditions + group + 5)
    whole = 0 if run.profile.gpus or run.model.dtype == "float32" else logits(size, size.width)
    return max(streaming, 2 * residuals + tiles + whole + 1.5 * READ_OUT * conditions * numbers)


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
