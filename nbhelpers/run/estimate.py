"""Cost estimates from parameters alone: prompts, tokens, forward passes, memory. No weights, no network.

The sizes of a model come from `size` in its parameter file, or else from its local checkpoint's config.json. The
counts are those of each experiment's slice.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.core import checkpoint_files
from nbhelpers.core.cost import Cost
from nbhelpers.core.params import ModelParams, ParameterError, Run
from nbhelpers.core.schemas import Size


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
    )


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
    return experiments.cost(run, size_of(run.model), {need: (of, cost(of)) for need, of in needed.items()})


def amount(n: float) -> str:
    """Return a count as short text: 1,234, 56.7 k, 8.9 M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if n >= factor:
            return f"{n / (1e3 if unit == 'k' else factor):.1f} {unit}"
    return f"{n:,.0f}" if n else "–"


def table(
    profile: str, keys: list[str], models: list[str], own: Mapping[str, dict] | None = None
) -> list[str]:
    """Return the lines of a dry run: the parameter hash and the cost of every experiment on every model.

    own: {experiment: parameters that the user sets}.
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
            run = experiments.resolve(key, model=model, profile=profile, **(own or {}).get(key, {}))
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
