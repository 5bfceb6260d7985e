"""What a run would cost, from parameters alone: prompts, tokens, forward passes, memory. Loads no weights, asks no
network.

Sizes come from a local checkpoint's config.json, or from `size` in the model's file where the checkpoint is on the
hub. The counts are those of each experiment's slice.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.core.cost import Cost
from nbhelpers.core.params import ModelParams, ParameterError, Run
from nbhelpers.core.schemas import Size


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


def cost(run: Run) -> Cost:
    """Return what one run takes, by its slice's own count."""
    names = {"model": run.model.key, "profile": run.profile.name}
    needed = {need: experiments.resolve(need, **names) for need in run.upstream}
    return experiments.cost(run, size_of(run.model), {need: (of, cost(of)) for need, of in needed.items()})


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
