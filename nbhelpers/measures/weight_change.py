"""Size of the weight change W_IT − W_PT by kind of module and layer, read from the files of checkpoints.

No model is built and no checkpoint is loaded whole: a pair of tensors is read a few rows at a time, in float32 whatever the
dtype of the files. A tensor's kind follows from the full name of its module, never a part of it: post_attention_layernorm
is a norm, gate_proj is no router. The vision tower and projector are left out.
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from huggingface_hub import snapshot_download
from safetensors import safe_open

from nbhelpers import progress
from nbhelpers.core import checkpoint_files
from nbhelpers.core.depths import depth
from nbhelpers.core.params import Checkpoint, LackingError, ParameterError, require

GROUPS = ("attention", "mlp", "routed", "shared", "router", "norm")
OUTSIDE = ("embedding", "final_norm", "unembedding")
# Full names of modules inside a layer, without ".weight" or ".bias". Dense, shared and routed MLPs are all "mlp".
_MODULES = {
    "attention": r"self_attn\.([qkvo]|qkv|q_a|q_b|kv_b)_proj|self_attn\.kv_a_proj_with_mqa",
    "dense": r"mlp\.((gate|up|down|gate_up)_proj|c_fc|c_proj)",
    "routed": r"mlp\.experts\.(\d+\.)?(gate|up|down|gate_up)_proj|block_sparse_moe\.experts\.\d+\.w[123]",
    "shared": r"mlp\.shared_experts\.(gate|up|down)_proj",
    "router": r"(mlp|block_sparse_moe)\.gate",
    "norm": r"(input|post_attention|pre_feedforward|post_feedforward|post_self_attn|post_mlp)_layernorm"
    r"|self_attn\.([qk]_norm|q_a_layernorm|kv_a_layernorm|[qk]_layernorm(\.norms\.\d+)?)",
}
_OUTSIDE = {"embed_tokens": "embedding", "norm": "final_norm", "lm_head": "unembedding"}
# Prefixes of the text stack in checkpoints; multimodal ones have used two orders of the first.
_STACK = re.compile(r"(language_model\.model|model\.language_model|language_model|model)\.")
_NOT_TEXT = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")
# A table of frequencies that old checkpoints store with the parameters.
_NOT_LEARNT = re.compile(r".*\.rotary_emb\.inv_freq")
_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_BY_TOKEN = ("embedding", "unembedding")  # a row for each token
_FILES = ("model*.safetensors", "model.safetensors.index.json")
_CHUNK = 1 << 22


class Change(NamedTuple):
    """One tensor's weight change: its name in the text stack, layer (None outside), kind, and sums of squares.

    `kind` is one of attention, dense, routed, shared, router, norm, embedding, final_norm and unembedding. `delta` is
    Σ (W_IT − W_PT)² and `before` Σ W_PT², over `n` parameters.
    """

    name: str
    layer: int | None
    kind: str
    delta: float
    before: float
    n: int


def checkpoint_folder(checkpoint: Checkpoint, model: str) -> Path:
    """Return the folder with a checkpoint's safetensors files, downloaded first if the checkpoint is on the hub.

    Only `model*.safetensors` and the index are downloaded, at the pinned revision, and only if not in the cache.
    ParameterError, which names `model`, if a local folder is missing.
    """
    if require(checkpoint, model).folder:
        return checkpoint.folder
    return Path(snapshot_download(checkpoint.hub, revision=checkpoint.revision, allow_patterns=list(_FILES)))


def text_name(stored: str) -> str | None:
    """Return a stored tensor's name within the text stack, e.g. "layers.3.mlp.up_proj.weight"; None if it is not in it.

    Prefixes ("language_model.model.", "model.language_model.", "model.") are removed; vision tower and projector give None.
    """
    if _NOT_TEXT.match(stored) or _NOT_LEARNT.fullmatch(stored):
        return None
    return _STACK.sub("", stored, count=1) if _STACK.match(stored) else stored


def kind_of(name: str) -> tuple[int | None, str]:
    """Return layer (None outside the layers) and kind (see `Change`) by `text_name`; LackingError if it is unknown."""
    module = name.removesuffix(".weight").removesuffix(".bias").removesuffix(".e_score_correction_bias")
    if module in _OUTSIDE:
        return None, _OUTSIDE[module]
    if found := re.fullmatch(r"layers\.(\d+)\.(.+)", module):
        for kind, pattern in _MODULES.items():
            if re.fullmatch(pattern, found[2]):
                return int(found[1]), kind
    raise LackingError(f"the tensor {name!r} belongs to no kind of module that is known here")


def stored_tensors(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return the file and stored name of every tensor of the text stack, by `text_name`.

    Reads `model.safetensors` or its shards, else `pytorch_model.bin` or its shards. ParameterError if none is whole.
    """
    if fault := checkpoint_files.fault(Path(folder)):
        raise ParameterError(f"{folder} {fault}.")
    held = {stored: path for path in checkpoint_files.weights(Path(folder)) for stored in _names(path)}
    names = {text_name(stored): stored for stored in held}
    return {name: (held[stored], stored) for name, stored in names.items() if name}


def _names(path: Path) -> list[str]:
    """Return the stored names of the tensors in one file."""
    if path.suffix == ".bin":
        return list(_bin(path))
    with safe_open(path, "pt") as file:
        return list(file.keys())


def _bin(path: Path) -> dict[str, torch.Tensor]:
    """Return {stored name: tensor} of a file that `torch.save` wrote, mapped into memory; no code in it is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception:  # foreign bytes make the unpickler raise anything
        raise ParameterError(f"{path} is damaged or holds more than weights: download it again.") from None


def tensor_changes(pt_folder: Path, it_folder: Path) -> Iterator[Change]:
    """Yield the `Change` of every tensor of the text stack, one after another, sorted by file.

    If only one checkpoint stores an unembedding, it is compared with the other's embedding, which is tied there. An
    embedding or unembedding with more rows in one is compared over the rows that both have. ParameterError names the first
    tensor that one checkpoint lacks or that has another shape; LackingError, one of no known kind.
    """
    pt, it = stored_tensors(pt_folder), stored_tensors(it_folder)
    for side in (pt, it):
        if _HEAD in pt.keys() | it.keys() and _EMBEDDING in side:
            side.setdefault(_HEAD, side[_EMBEDDING])
    if lone := sorted(pt.keys() ^ it.keys()):
        lacking = pt_folder if lone[0] in it else it_folder
        raise ParameterError(f"{lacking} holds no {lone[0]}, which the other checkpoint of the pair holds.")
    kinds = {name: kind_of(name) for name in pt}
    with ExitStack() as stack:
        files: dict[Path, object] = {}
        for name in progress(sorted(pt, key=pt.get), "weights"):
            slices = [_slice(files, stack, *side[name]) for side in (pt, it)]
            yield Change(name, *kinds[name], *_squares(name, *slices, shared=kinds[name][1] in _BY_TOKEN))


def _slice(files: dict, stack: ExitStack, path: Path, stored: str):
    """Return a handle to a tensor of a file, not yet read; the file stays open for the next tensor."""
    if path not in files:
        files[path] = _bin(path) if path.suffix == ".bin" else stack.enter_context(safe_open(path, "pt"))
    return files[path][stored] if path.suffix == ".bin" else files[path].get_slice(stored)


def _shape(tensor) -> list[int]:
    """Return the shape of a tensor or of a handle to one."""
    return list(tensor.shape) if isinstance(tensor, torch.Tensor) else tensor.get_shape()


def _squares(name: str, pt, it, *, shared: bool) -> tuple[float, float, int]:
    """Return Σ (W_IT − W_PT)², Σ W_PT² and the number of parameters of one tensor, read a few rows at a time.

    shared: whether a tensor with more rows in one model is compared over the rows that both have.
    """
    shape, other = _shape(pt), _shape(it)
    if shape[shared:] != other[shared:]:
        raise ParameterError(f"{name} is {shape} in PT and {other} in IT, so they are no pair.")
    shape = [min(shape[0], other[0]), *shape[1:]]
    n = int(np.prod(shape))
    rows = max(1, _CHUNK * shape[0] // n)
    delta = before = 0.0
    for start in range(0, shape[0], rows):
        a, b = (tensor[start : min(start + rows, shape[0])].float() for tensor in (pt, it))
        before += a.square().sum(dtype=torch.float64).item()
        # A slice may be the memory-mapped file itself, so a and b are not changed in place.
        delta += (b - a).square_().sum(dtype=torch.float64).item()
    return delta, before, n


def weight_change(pt_folder: Path, it_folder: Path) -> xr.Dataset:
    """Return the weight change of each group of parameters (group, layer) and of those outside the layers (outside).

    rms = √(Σ ‖W_IT − W_PT‖² / Σ numel), the study's measure
    relative = √(Σ ‖W_IT − W_PT‖² / Σ ‖W_PT‖²), which can be compared across families
    n_parameters = Σ numel; sums over the tensors of a group
    The variables of embedding, final norm and unembedding have the prefix `outside_`. NaN and 0 where a layer has no such
    group. Groups: "attention" (projections, MLA's too), "mlp" (dense, shared and routed), "routed" and "shared" also on
    their own, "router", "norm" (layer, query, key and latent norms). A tied unembedding that neither checkpoint stores
    counts once, as the embedding. Gemma stores a norm's gain minus one, so its relative norm change is not comparable.
    Folders: `checkpoint_folder`. ParameterError as in `tensor_changes`. The study's L3 is this measure, but with names
    matched by their parts, which counted norms as attention.
    """
    changes = list(tensor_changes(pt_folder, it_folder))
    n_layers = 1 + max(change.layer for change in changes if change.layer is not None)
    inside, outside = np.zeros((3, len(GROUPS), n_layers)), np.zeros((3, len(OUTSIDE)))
    for change in changes:
        sums = [change.delta, change.before, change.n]
        if change.layer is None:
            outside[:, OUTSIDE.index(change.kind)] += sums
        for group in _groups(change.kind):
            inside[:, GROUPS.index(group), change.layer] += sums
    return _labelled(inside, outside)


def nothing(n_layers: int) -> xr.Dataset:
    """Return what `weight_change` returns of a pair without parameters: NaN and counts of 0."""
    return _labelled(np.zeros((3, len(GROUPS), n_layers)), np.zeros((3, len(OUTSIDE))))


def _labelled(inside: np.ndarray, outside: np.ndarray) -> xr.Dataset:
    """Return the dataset of `weight_change` from its sums, [sum, group, layer] and [sum, outside]."""
    n_layers = inside.shape[-1]
    coords = {"group": list(GROUPS), "layer": range(n_layers), "outside": list(OUTSIDE)}
    variables = _variables(inside, ("group", "layer"), "") | _variables(outside, ("outside",), "outside_")
    return xr.Dataset(variables, coords).assign_coords(depth=("layer", depth(n_layers)))


def _groups(kind: str) -> tuple[str, ...]:
    """Return the groups of `weight_change` that a kind belongs to; none for a kind outside the layers."""
    if kind in OUTSIDE:
        return ()
    return {"dense": ("mlp",), "routed": ("mlp", "routed"), "shared": ("mlp", "shared")}.get(kind, (kind,))


def _variables(sums: np.ndarray, dims: tuple[str, ...], prefix: str) -> dict[str, tuple]:
    """Return the three variables of `weight_change` from Σ delta², Σ PT² and the counts, stacked on axis 0."""
    delta, before, n = sums
    empty = np.full(n.shape, np.nan)
    rms = np.sqrt(np.divide(delta, n, out=empty.copy(), where=n > 0))
    relative = np.sqrt(np.divide(delta, before, out=empty.copy(), where=before > 0))
    return {
        f"{prefix}rms": (dims, rms, {"units": "1", "long_name": "RMS weight change"}),
        f"{prefix}relative": (dims, relative, {"units": "1", "long_name": "relative weight change"}),
        f"{prefix}n_parameters": (dims, n.astype(np.int64), {"units": "1", "long_name": "parameters"}),
    }
