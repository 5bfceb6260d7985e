"""What a run would cost, from parameters alone: prompts, tokens, forward passes, memory. Loads no weights, asks no
network.

Sizes come from a local checkpoint's config.json, or from `size` in the model's file where the checkpoint is on the
hub. Counts of tokens are upper bounds: every text is taken to run to its cap. Memory is the largest of what must be
held at once.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nbhelpers import params
from nbhelpers.params import ModelParams, ParameterError, Run
from nbhelpers.schemas import GenerationParams, GraftParams, NarrowingParams, Size, TunedLensParams

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PROMPT_TOKENS = 128  # of a prompt, about; the study's mean about 60, with a template 90
HISTORIES = 2  # whose tokens
GRAFTED, EIGHT, CELLS = 18, 8, 1 << 23  # conditions of exp11, those of exp14; logits read at once
PER_LENS, PER_STEP = (
    12,
    8,
)  # numbers that exp00 keeps of a layer at a step and model: of each lens; of geometry


@dataclass(frozen=True)
class Cost:
    """What one notebook on one model takes: prompts, tokens generated and forced, forward passes, bytes held and left."""

    prompts: int = 0
    generated: int = 0
    forced: int = 0
    forwards: int = 0
    memory: float = 0.0
    result: float = 0.0


def size_of(model: ModelParams) -> Size:
    """Return a model's sizes; ParameterError where neither its checkpoint nor its file tells them."""
    if model.size:
        return model.size
    file = model.it.folder and model.it.folder / "config.json"
    if not file or not file.is_file():
        raise ParameterError(
            f"params/models/{model.key}.yml gives no size and its checkpoint is not here: add size: {{layers, width, "
            "vocabulary, parameters, heads}."
        )
    config = json.loads(file.read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    return Size(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        vocabulary=config["vocab_size"],
        heads=config["num_attention_heads"],
        parameters=sum(map(n_parameters, model.it.folder.glob("*.safetensors"))),
    )


def n_parameters(path: Path) -> int:
    """Return how many numbers a safetensors file holds, from its header alone."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def weights(run: Run, size: Size, n_models: int) -> float:
    """Return the bytes of the weights of n models."""
    return n_models * size.parameters * BYTES[run.model.dtype]


def lens_buffers(size: Size, rows: int, *, tiles: int = 6, columns: int = 32768) -> float:
    """Return the bytes of the lens's work tiles and of a float32 copy of one block of the unembedding."""
    columns = min(columns, size.vocabulary)
    return 4.0 * columns * (tiles * rows + size.width)


def batches(n: int, batch_size: int) -> int:
    """Return the number of batches of n rows."""
    return math.ceil(n / batch_size)


def observation_cost(run: Run, size: Size) -> Cost:
    """Return what exp00 takes."""
    e = run.experiment
    tokens = e.n_prompts * e.max_new_tokens
    passes = HISTORIES * 2 * batches(e.n_prompts, e.batch_size) + 4 * batches(e.n_cloud_prompts, e.batch_size)
    stream = 4 * size.layers * e.batch_size * e.max_new_tokens * size.width * BYTES[run.model.dtype]
    clouds = 2.0 * e.n_cloud_prompts * size.layers * size.width * 4
    lenses = 2.0 * size.layers * size.width**2 * 4
    a_step = 4 * size.layers * 2 * (2 * PER_LENS + PER_STEP)
    held = weights(run, size, 2) + lenses + max(stream + lens_buffers(size, e.lens_rows), clouds)
    return Cost(
        e.n_prompts, 2 * tokens, 4 * tokens, passes, held + 2 * tokens * a_step, 2.0 * tokens * a_step
    )


def lens_training_cost(run: Run, size: Size) -> Cost:
    """Return what exp07_0g takes: one lens for each variant, one after the other."""
    e = run.experiment
    tokens = 2 * (e.steps * e.tokens_per_step + e.n_validation_tokens + e.n_test_tokens)
    passes = math.ceil(tokens / (e.batch_size * e.max_text_tokens))
    translators = 4.0 * size.layers * size.width**2 * 4  # parameters, gradients, momentum, the best so far
    # In training a batch, or passes pooled and mixed, and the validation texts; then the test texts, plain and translated.
    batch = e.batch_size * e.max_text_tokens
    if e.pool > 1 and e.pool * batch > e.tokens_per_step:
        batch *= 2 * e.pool
    held_tokens = max(batch + e.n_validation_tokens, 2 * e.n_test_tokens)
    residuals = size.layers * size.width * BYTES[run.model.dtype] * held_tokens
    held = weights(run, size, 2) + translators + residuals + lens_buffers(size, e.lens_rows, tiles=3)
    return Cost(0, 0, tokens, passes, held, 2.0 * size.layers * size.width**2 * 4)


def generation_cost(run: Run, size: Size, conditions: int) -> Cost:
    """Return what an experiment takes that continues its prompts under several conditions."""
    e = run.experiment
    tokens = conditions * e.n_prompts * e.max_new_tokens
    stream = 4 * size.layers * e.batch_size * e.max_new_tokens * size.width * BYTES[run.model.dtype]
    held = weights(run, size, 2) + stream + lens_buffers(size, e.lens_rows)
    result = conditions * e.n_prompts * size.layers * 8 * 12.0
    return Cost(e.n_prompts, tokens, tokens, conditions * batches(e.n_prompts, e.batch_size), held, result)


def prompt_cost(run: Run, size: Size) -> Cost:
    """Return what exp01 takes: one forward a batch of prompts and model, and some neurons' logits in blocks."""
    e = run.experiment
    neurons = 4.0 * e.batch_size * size.layers * size.width * 12
    held = weights(run, size, 2) + neurons + lens_buffers(size, e.lens_rows)
    tokens = 2 * e.n_prompts * PROMPT_TOKENS
    return Cost(
        e.n_prompts, 0, tokens, 2 * batches(e.n_prompts, e.batch_size), held, e.n_prompts * e.n_neurons * 1e3
    )


def graft_cost(run: Run, size: Size) -> Cost:
    """Return what exp11 takes: exp00's replies, forced under every condition; a batch's residuals are held at once."""
    e, L = run.experiment, size.layers
    reply = params.resolve("exp00", model=run.model.key, profile=run.profile.name).experiment.max_new_tokens
    sliding = len(range(0, L - e.sliding_width + 1, e.sliding_step))
    swept = 2 + 2 * (sliding + 3 * len(e.widths))
    forwards = GRAFTED + EIGHT + swept
    tokens = e.n_prompts * (reply + PROMPT_TOKENS)
    stream = L * size.width * BYTES[run.model.dtype] * e.batch_size * reply
    readings = 2 * 2 * L * 4 * e.n_prompts * GRAFTED * 2 * 11  # teachers or lenses, bases, float32, readings
    kept = (
        EIGHT * L * (2 * 24.0 + 60.0) * e.n_prompts * reply
    )  # of each lens, and of geometry and projections
    translators = 2.0 * L * size.width**2 * 4
    held = weights(run, size, 2) + translators + 2 * max(GRAFTED, swept) * stream + 4.0 * CELLS * 8 + kept
    passes = forwards * batches(e.n_prompts, e.batch_size)
    return Cost(e.n_prompts, 0, forwards * tokens, passes, held, readings + kept)


def cost(run: Run) -> Cost:
    """Return what one run takes; nothing but its memory where it only reads the results of others."""
    size, e = size_of(run.model), run.experiment
    if run.key == "exp00":
        return observation_cost(run, size)
    if isinstance(e, TunedLensParams):
        return lens_training_cost(run, size)
    if isinstance(e, NarrowingParams):
        return prompt_cost(run, size)
    if isinstance(e, GraftParams):
        return graft_cost(run, size)
    if isinstance(e, GenerationParams):
        return generation_cost(run, size, conditions=3 if run.key == "exp02" else 2)
    read = [
        cost(params.resolve(need, model=run.model.key, profile=run.profile.name)).result
        for need in run.upstream
    ]
    return Cost(memory=2.0 * sum(read))


def amount(n: float) -> str:
    """Return a count in short: 1,234, 56.7 k, 8.9 M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if n >= factor:
            return f"{n / (1e3 if unit == 'k' else factor):.1f} {unit}"
    return f"{n:,.0f}" if n else "–"


def table(
    profile: str, keys: list[str], models: list[str], own: Mapping[str, dict] | None = None
) -> list[str]:
    """Return the lines of a dry run: for every model and experiment its parameters' hash and its cost.

    `own` holds parameters that the user sets, by experiment.
    """
    widths = (18, 12, 14, 9, 11, 11, 10, 12, 10)
    header = (
        "model",
        "experiment",
        "parameters",
        "prompts",
        "generated",
        "forced",
        "forwards",
        "memory",
        "result",
    )
    lines = ["".join(name.ljust(width) for name, width in zip(header, widths))]
    for model in models:
        for key in keys:
            run = params.resolve(key, model=model, profile=profile, **(own or {}).get(key, {}))
            c = cost(run)
            counts = [amount(n) for n in (c.prompts, c.generated, c.forced, c.forwards)]
            cells = (
                model,
                key,
                run.hash,
                *counts,
                f"{c.memory / 2**30:.1f} GiB",
                f"{c.result / 2**20:.0f} MiB",
            )
            lines.append("".join(str(cell).ljust(width) for cell, width in zip(cells, widths)).rstrip())
    return lines
