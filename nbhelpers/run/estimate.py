"""Cost estimates from parameters alone: prompts, tokens, forward passes, memory. No weights, no network.

The sizes of a model come from `size` in its parameter file, or else from its local checkpoint's config.json. The
counts are those of each experiment's slice.
"""

import functools
import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from nbhelpers import experiments
from nbhelpers.core import checkpoint_files, params
from nbhelpers.core.cost import BYTES, Cost, weights
from nbhelpers.core.params import ModelParams, ParameterError, Run
from nbhelpers.core.schemas import Size

GPU_RATE = 300.0  # TFLOPS in bf16; a third of what an H100 promises
GPU_BANDWIDTH = 2.0  # TB/s of its memory; three fifths


def size_of(model: ModelParams) -> Size:
    """Return a model's sizes; ParameterError if neither its parameter file nor a local checkpoint states them."""
    if model.size:
        return model.size
    lacking = "its checkpoint is not here"
    if model.it.folder and (model.it.folder / "config.json").is_file():
        try:
            return _stated(model.it.folder)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError):
            lacking = f"{model.it.path} is no checkpoint that states one"
    raise ParameterError(
        f"params/models/{model.key}.yml gives no size and {lacking}: add size: {{layers, width, "
        "vocabulary, parameters, heads}."
    )


def _stated(folder: Path) -> Size:
    """Return the sizes in a checkpoint's configuration and headers; an error of any kind if these are spoilt."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    width = 4 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
    return Size(
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        vocabulary=config["vocab_size"],
        heads=config["num_attention_heads"],
        parameters=sum(n_parameters(path, width) for path in checkpoint_files.weights(folder)),
        inner=neurons(config),
        cached=cached(config),
    )


def neurons(config: Mapping) -> int | None:
    """Return how many neurons act on a token in one layer, by a configuration; None if it does not say."""
    dense, expert = config.get("intermediate_size"), config.get("moe_intermediate_size")
    used = (config.get("num_experts_per_tok") or 0) + (config.get("n_shared_experts") or 0)
    return max(dense or 0, used * (expert or dense or 0)) or None


def cached(config: Mapping) -> int | None:
    """Return how many numbers of a token the KV cache holds in one layer, by a configuration; None if it does not say."""
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    if config.get("kv_lora_rank"):  # latent attention, of which the cache holds keys and values of all heads
        keys = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
        return config["num_attention_heads"] * (keys + config["v_head_dim"])
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 2 * heads * width


def n_parameters(path: Path, width: int = 2) -> int:
    """Return how many parameters a file of weights holds, by a safetensors header or a .bin at `width` bytes each."""
    if path.suffix == ".bin":
        return path.stat().st_size // width
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def cost(run: Run) -> Cost:
    """Return the cost of one run, as its slice counts it."""
    names = {"model": run.model.key, "profile": run.profile.name}
    needed = {need: experiments.resolve(need, **names) for need in run.upstream}
    size = size_of(run.model)
    return placed(
        run, size, experiments.cost(run, size, {need: (of, cost(of)) for need, of in needed.items()})
    )


def placed(run: Run, size: Size, cost: Cost) -> Cost:
    """Return a cost with the memory of one GPU by `placement`: with IT on another GPU or on the host, without its weights.

    Slices count both models on one device. What a batch holds may lie on either GPU and stays counted.
    """
    if run.model.placement == "together" or not run.profile.gpus or not cost.memory:
        return cost
    it = weights(run, size, 1)
    on_host = it if run.model.placement == "it_on_host" else 0.0
    return replace(cost, memory=cost.memory - it, host=cost.host + on_host)


def amount(n: float) -> str:
    """Return a count as short text: 1,234, 56.7 k, 8.9 M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if n >= factor:
            return f"{n / (1e3 if unit == 'k' else factor):.1f} {unit}"
    return f"{n:,.0f}" if n else "–"


def flops(cost: Cost, size: Size) -> float:
    """Return the operations of a run's matrix products: 2 a parameter and token, 2·V·d a residual that is unembedded."""
    passes = 2.0 * size.parameters * (cost.generated + cost.forced)
    return passes + 2.0 * size.vocabulary * size.width * cost.read


def measured_rate(width: int = 1024, repeats: int = 5) -> float:
    """Return the TFLOPS that a float32 matrix product reaches on this machine's processor, the best of some tries."""
    a = np.ones((width, width), np.float32)
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2e-12 * width**3 / best


def measured_bandwidth(n_bytes: int = 2**26, repeats: int = 5) -> float:
    """Return the TB/s that this machine's memory moves while an array is copied, the best of some tries."""
    a = np.ones(n_bytes // 4, np.float32)
    b, best = np.empty_like(a), math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        np.copyto(b, a)
        best = min(best, time.perf_counter() - start)
    return 2e-12 * n_bytes / best


@functools.cache
def bandwidth_of(on_gpu: bool) -> float:
    """Return the TB/s at which weights are assumed to be read: `GPU_BANDWIDTH`, or what this machine's memory moves."""
    return GPU_BANDWIDTH if on_gpu else measured_bandwidth()


@functools.cache
def rate_of(on_gpu: bool) -> float:
    """Return the TFLOPS that a run is assumed to reach: `GPU_RATE`, or what this machine's processor does."""
    return GPU_RATE if on_gpu else measured_rate()


def seconds(run: Run, rate: float | None = None, bandwidth: float | None = None) -> float:
    """Return the time of a run's matrix products and of reading weights for tokens that are decoded; all else comes on top.

    A step of decoding reads every weight once for a whole batch: it takes what its products take at `rate` TFLOPS, or the
    weights at `bandwidth` TB/s, whichever is longer. By default these are `rate_of` and `bandwidth_of`.
    """
    on_gpu, size, c = run.profile.gpus > 0, size_of(run.model), cost(run)
    rate, bandwidth = rate or rate_of(on_gpu), bandwidth or bandwidth_of(on_gpu)
    rows = min(getattr(run.experiment, "batch_size", 1), max(c.prompts, 1))
    products = 2.0 * size.parameters * c.generated / (rate * 1e12)
    read = c.generated / rows * size.parameters * BYTES[run.model.dtype] / (bandwidth * 1e12)
    return flops(c, size) / (rate * 1e12) + max(0.0, read - products)


def duration(seconds: float) -> str:
    """Return a time as short text: 40 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gib(n_bytes: float) -> str:
    """Return a number of bytes as text, in GiB."""
    return f"{n_bytes / 2**30:.1f} GiB"


COLUMNS = {"model": 18, "experiment": 12, "parameters": 14, "prompts": 9, "generated": 11, "forced": 11, "forwards": 10,
           "GPU": 11, "host": 11, "disk": 11, "time": 10}  # fmt: skip


def table(
    profile: str,
    keys: list[str],
    models: list[str],
    own: Mapping[str, dict] | None = None,
    rate: float | None = None,
) -> list[str]:
    """Return the lines of a dry run: the parameter hash and the cost of every experiment on every model, and their sums.

    own: {experiment: parameters that the user sets}. rate: TFLOPS; None takes `GPU_RATE` in a profile with GPUs, else what
    `measured_rate` finds. Memory is that of one GPU; without a GPU, the host holds the model too.
    """
    on_gpu = params.profile_params(profile).gpus > 0
    rate = rate or rate_of(on_gpu)
    lines, spent, disk = [_row(COLUMNS)], 0.0, 0.0
    for model in models:
        for key in keys:
            run = experiments.resolve(key, model=model, profile=profile, **(own or {}).get(key, {}))
            c = cost(run)
            takes = seconds(run, rate)
            spent, disk = spent + takes, disk + c.result
            counts = [amount(n) for n in (c.prompts, c.generated, c.forced, c.forwards)]
            memory = (gib(c.memory), gib(c.host)) if on_gpu else ("–", gib(c.memory + c.host))
            lines.append(_row([model, key, run.hash, *counts, *memory, gib(c.result), duration(takes)]))
    total = f"In all: {gib(disk)} of results, {gib(_downloads(models))} of weights from the hub"
    return [
        *lines,
        f"{total}, {duration(spent)} of matrix products at {rate:.3g} TFLOPS and, while decoding, of reading weights at "
        f"{bandwidth_of(on_gpu):.2g} TB/s, one run after the other.",
    ]


def _row(cells) -> str:
    return "".join(str(cell).ljust(width) for cell, width in zip(cells, COLUMNS.values())).rstrip()


def _downloads(models: list[str]) -> float:
    """Return the size of the weights that pairs take from the hub, 16 bits a parameter, bytes."""
    pairs = [params.model_params(model) for model in models]
    return 2.0 * sum(size_of(p).parameters * sum(c.hub is not None for c in (p.pt, p.it)) for p in pairs)
