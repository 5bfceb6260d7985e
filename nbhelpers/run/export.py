"""A dose of a measured direction as a LoRA adapter of rank 1 in PEFT's format, which other software can serve.

The adapter holds A = dᵀW and B = (α − 1)d of the last map of each MLP that it changes, so that W + BA is the folded weight
(`models/folding`). It is for IT, whose MLP outputs the direction rescales.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from nbhelpers import experiments
from nbhelpers.core import depths, params, store
from nbhelpers.core.params import ParameterError
from nbhelpers.run import results

DIRECTIONS = "_directions.nc"  # how the name of an experiment's artifact ends that holds directions


def export(
    model: str, out: Path, *, alpha: float, kind: str = "mean", layers: str = "late", profile: str = ""
) -> Iterator[str]:
    """Write a dose of a measured direction as a LoRA adapter of a pair's IT; yield what was written, line by line.

    out: a folder that does not exist yet. alpha: 0 removes the direction, −1 reverses it, 2 doubles it. kind: of the
    directions that were measured. layers: a window (early, mid, late) or numbers ("7,8,9"). ParameterError for what cannot
    be exported (an α of 1, a mixture of experts); `store.ResultError` if the direction is missing, out of date or of another
    pair.
    """
    if not math.isfinite(alpha) or alpha == 1:
        raise ParameterError(
            f"--alpha {alpha:g} is no dose to export: give a number other than 1, which changes nothing."
        )
    if out.exists():
        raise ParameterError(
            f"{store.shown(out)} exists already: remove it or name another folder with --out."
        )
    record = params.model_params(model)
    directions = measured(model, profile or params.profile_of(model), kind)
    chosen = chosen_layers(layers, len(directions))
    adapter = rank_one(record, chosen, directions, alpha)
    about = {"model": model, "kind": kind, "layers": ",".join(map(str, chosen)), "alpha": f"{alpha:g}"}
    write_adapter(out, adapter, record.it, about)
    yield f"wrote {store.shown(out)}: α = {alpha:g} of the direction {kind} at layers {about['layers']} of {model} (IT)"
    yield "W + BA of each of these MLPs' last maps is the dose; h' = h + (α − 1)(d·h)d of what the MLP returns"


def measured(model: str, profile: str, kind: str) -> np.ndarray:
    """Return the directions of a kind that were measured on a pair, [layer, d].

    ResultError if their result is missing, out of date or of other checkpoints; ParameterError for an unknown kind.
    """
    from nbhelpers.measures import directions

    key, name = source()
    if fault := results.fault(experiments.resolve(key, model=model, profile=profile)):
        raise store.ResultError(
            f"the directions of {model}: {fault.rstrip('.')}; measure them with `nbh run {key} --model {model} "
            f"--profile {profile}`."
        )
    found = directions.check_pair(experiments.load(profile, model, name), params.model_params(model))
    if kind not in (kinds := found["kind"].values.tolist()):
        raise ParameterError(f"there is no direction {kind!r}; {params.suggestion(kind, kinds)}.")
    return found["direction"].sel(kind=kind).transpose("layer", "feature").values


def source() -> tuple[str, str]:
    """Return which experiment measures directions, and the name of the dataset with them; ParameterError if none does."""
    for key in params.ordered():
        for name in params.experiment(key).artifacts:
            if name.endswith(DIRECTIONS):
                return key, name.removesuffix(".nc")
    raise ParameterError(f"no experiment of params/experiments writes an artifact that ends in {DIRECTIONS}.")


def chosen_layers(text: str, n_layers: int) -> list[int]:
    """Return the layers that "late", "mid", "early" or "7,8,9" names; ParameterError for anything else."""
    windows = depths.windows(n_layers)
    if text in windows:
        return list(windows[text])
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdecimal() and int(number) < n_layers for number in numbers):
        raise ParameterError(
            f"--layers {text} names no layers: write {', '.join(windows)}, or numbers from 0 to {n_layers - 1} such as 7,8."
        )
    return sorted(set(map(int, numbers)))


def rank_one(record: params.ModelParams, layers, directions: np.ndarray, alpha: float) -> dict:
    """Return {path of a last map: (A, B)} of a pair's IT; ParameterError where `folding.rank_one` refuses."""
    import torch

    from nbhelpers.models import folding, loading
    from nbhelpers.models.edits import InterventionError

    decoder = loading.load_decoder(record, "it")
    try:
        return folding.rank_one(decoder, layers, torch.as_tensor(directions), alpha)
    except InterventionError as error:
        raise ParameterError(f"{record.key}: {error}") from None


def configuration(paths: list[str], base: params.Checkpoint) -> dict:
    """Return what adapter_config.json says: LoRA of rank 1 and scale 1 of the named modules, of this base."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.source,
        "revision": base.revision,
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "target_modules": paths,  # whole paths: no other layer has modules of these names
    }


def write_adapter(out: Path, adapter: Mapping, base: params.Checkpoint, about: Mapping[str, str]) -> None:
    """Write adapter_config.json and adapter_model.safetensors into a new folder, whole or not at all.

    adapter: {path of a module: (A [1, in], B [out, 1])}; about: texts that go into the safetensors file.
    """
    from safetensors.torch import save

    tensors = {}
    for path, (a, b) in adapter.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = a.cpu().contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = b.cpu().contiguous()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    text = json.dumps(configuration(list(adapter), base), ensure_ascii=False, indent=2) + "\n"
    (partial / "adapter_config.json").write_text(text, encoding="utf-8")
    data = save(tensors, {"format": "pt", **about})
    (partial / "adapter_model.safetensors").write_bytes(data)
    os.replace(partial, out)
