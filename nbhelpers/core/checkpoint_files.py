"""The files in a checkpoint's folder: which hold weights, which decide what the model computes, what is wrong with them."""

import json
from pathlib import Path

# In the order in which `transformers` looks for them; each may be an index of shards instead.
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_BESIDE = (
    "*config.json", "*.index.json", "adapter_model*", "tokenizer*", "*.jinja", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "*.model",
)  # fmt: skip
_OTHER = {".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"}


def weights(folder: Path) -> list[Path]:
    """Return the files that hold a folder's weights, as its index names them if there are shards; none if it has none."""
    for name in _SINGLE:
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            return sorted({folder / shard for shard in shards(index).values()})
    return []


def shards(index: Path) -> dict[str, str]:
    """Return {stored name of a tensor: name of its file} of an index of shards; empty if it is no such index."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(name, str) for name in found.values())
    return found if whole else {}


def deciding(folder: Path) -> list[Path]:
    """Return the files of a folder that decide what its model computes and reads: weights, configurations, tokenizer."""
    beside = {path for pattern in _BESIDE for path in folder.glob(pattern)}
    return sorted(path for path in beside.union(weights(folder)) if path.is_file())


def fault(folder: Path, *needed: str) -> str:
    """Return why a folder is no whole checkpoint, as a clause ("is missing"); "" if its weights and `needed` are there."""
    if not folder.exists():
        return "is missing"
    if not folder.is_dir():
        return "is a file: give the folder that holds config.json and the weights"
    found, adapter = weights(folder), (folder / "adapter_config.json").exists()
    if adapter and not found:
        return "is a LoRA adapter, not a model: merge it into its base with `nbh add`"
    if adapter:  # `transformers` would load the adapter if PEFT is installed, else the weights
        return f"holds both {found[0].name} and adapter_config.json: move away the files of the one that is not meant"
    if not found:
        other = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER)
        held = f"holds {other[0]}, but no" if other else "holds no weights: no"
        return f"{held} model.safetensors, no pytorch_model.bin and no whole index of either"
    lost = [path.name for path in (*found, *map(folder.joinpath, needed)) if not path.is_file()]
    return f"lacks {lost[0]}" if lost else ""
