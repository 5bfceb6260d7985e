"""Save and load tuned lenses in a safetensors format tied to one model; read those of the `tuned-lens` library.

A file stores the digest of the unembedding that the lens was trained for; a lens of another model is refused.
"""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from nbhelpers.core import store
from nbhelpers.core.store import shown
from nbhelpers.measures.tuned_lens import (
    TunedLens,
    TunedLensError,
    fingerprint,
    unembedding_digest,
    untrained,
)
from nbhelpers.models.unembedding import Unembedding

FORMAT = "nbhelpers tuned lens 1"
LIBRARY_TYPE = "linear_tuned_lens"


def save(tuned: TunedLens, path: Path | str) -> Path:
    """Return `path` once the lens is written, a safetensors file with its form, digest and metadata (JSON).

    `store.ResultError` if it cannot be written; an earlier file then stays unchanged.
    """
    tensors = {"weight": tuned.weight.cpu().contiguous(), "bias": tuned.bias.cpu().contiguous()}
    header = {"format": FORMAT, "form": tuned.form, "unembedding": tuned.digest, "content": fingerprint(tensors.values()),
              "layers": str(tuned.weight.shape[0]), "width": str(tuned.weight.shape[1]),
              "metadata": json.dumps(tuned.metadata)}  # fmt: skip
    store.write_whole(Path(path), _ordered(safetensors.torch.save(tensors, header)))
    return Path(path)


def _ordered(data: bytes) -> bytes:
    """Return a safetensors file with its header sorted, whose order safetensors leaves to chance."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def load(path: Path | str, unembedding: Unembedding) -> TunedLens:
    """Return a lens that `save` wrote, on the device of the unembedding.

    TunedLensError names a file that is missing, damaged, not a tuned lens or of another model, and the remedy.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            header, found = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise TunedLensError(
            f"There is no tuned lens {shown(path)}: train it, or correct the path."
        ) from None
    except (OSError, safetensors.SafetensorError) as error:
        raise TunedLensError(f"{shown(path)} is damaged ({error}): train this tuned lens again.") from None
    if header.get("format") != FORMAT:
        raise TunedLensError(f"{shown(path)} is no tuned lens of this project: correct the path.")
    if set(found) != {"weight", "bias"} or header["content"] != fingerprint([found["weight"], found["bias"]]):
        raise TunedLensError(f"{shown(path)} is damaged (its values changed): train this tuned lens again.")
    ours, theirs = unembedding_digest(unembedding), header["unembedding"]
    if ours != theirs:
        raise TunedLensError(
            f"{shown(path)} belongs to a model whose unembedding has digest {theirs}, and this model's has {ours}: "
            "train a lens for this model, or load the model that it was trained for."
        )
    moved = (found[name].to(unembedding.weight.device) for name in ("weight", "bias"))
    return TunedLens(*moved, header["form"], ours, json.loads(header["metadata"]))


def library_hash(head_weight: Tensor) -> str:
    """Return the `tuned-lens` library's hash of a model's whole unembedding matrix [row, d].

    library_hash = SHA-256 of NumPy's printout of the float32 matrix to one decimal, which shows only the corners
    """
    with np.printoptions(threshold=1000, edgeitems=3, linewidth=75, floatmode="maxprec", suppress=False):
        text = np.array_str(head_weight.detach().cpu().float().numpy(), precision=1)
    return hashlib.sha256(text.encode()).hexdigest()


def read_library(
    folder: Path | str, unembedding: Unembedding, *, head_weight: Tensor | None = None
) -> TunedLens:
    """Return a lens stored in the format of the `tuned-lens` library 0.2: config.json and params.pt, residual form.

    In the library, translator 0 takes the embedding, translator i the output of block i − 1; the last block has
    none. Here translator ℓ takes the output of block ℓ: it is the library's ℓ + 1. The library's translator 0 is dropped,
    and the last layer's is the identity. head_weight: the model's whole unembedding [row, d], needed if `unembedding`
    leaves rows out; it must match the library's hash, if there is one. TunedLensError names what is missing, damaged, of
    another kind or of another model.
    """
    folder, width = Path(folder), unembedding.weight.shape[1]
    config = _library_config(folder / "config.json", width)
    ours = library_hash(unembedding.weight if head_weight is None else head_weight)
    if config.get("unembed_hash") not in (None, ours):
        raise TunedLensError(
            f"{shown(folder)} belongs to a model whose unembedding has hash {config['unembed_hash']}, and this one has "
            f"{ours}: load {config.get('base_model_name_or_path')}, and give its whole matrix as head_weight."
        )
    layers = config["num_hidden_layers"]
    state = _library_state(folder / "params.pt", layers, width, config.get("bias", True))
    tuned = untrained(layers, unembedding, form="residual", metadata={"library": config})
    for layer in range(layers - 1):
        tuned.weight[layer] = state[f"{layer + 1}.weight"]
        tuned.bias[layer] = state.get(f"{layer + 1}.bias", torch.zeros(width))
    return tuned


def _library_config(path, width):
    try:
        config = json.loads(path.read_text())
        kind, theirs, layers = (config[name] for name in ("lens_type", "d_model", "num_hidden_layers"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TunedLensError(f"{shown(path)} is no configuration of a tuned lens ({error!r}).") from None
    if (kind, theirs) != (LIBRARY_TYPE, width) or not isinstance(layers, int):
        raise TunedLensError(
            f"{shown(path)} describes a {kind} of width {theirs}, not a {LIBRARY_TYPE} of width {width}."
        )
    return config


def _library_state(path, layers, width, bias):
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = str(error).split("\n")[0]
        raise TunedLensError(f"{shown(path)} is missing or damaged ({why}): fetch the lens again.") from None
    expected = {f"{i}.weight": (width, width) for i in range(layers)}
    expected |= {f"{i}.bias": (width,) for i in range(layers)} if bias else {}
    if (
        not isinstance(state, dict)
        or {k: tuple(getattr(v, "shape", ())) for k, v in state.items()} != expected
    ):
        raise TunedLensError(f"{shown(path)} does not hold {layers} translators of width {width}.")
    return state
