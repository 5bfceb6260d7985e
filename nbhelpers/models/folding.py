"""A rescaled direction written into weights: the same change of what MLPs return as an edit makes, at no cost a token.

An MLP ends in a linear map, so h + (α − 1)(d·h)d of its output is another linear map: W' = W + (α − 1) d (dᵀW), and likewise
for its bias. A norm behind the MLP (Gemma 3, OLMo 2) reads the changed output, as it does under an edit. The output of a
mixture is a weighted sum over experts, so every expert and the shared MLP get the change. What depends on the token (an
added multiple of ‖h‖, a random direction matched to d·h) and the residual stream cannot be folded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nbhelpers.models.decoder import Decoder, module_path
from nbhelpers.models.edits import InterventionError
from nbhelpers.models.unembedding import rounding

# What the last linear map of an MLP is called. That of fused experts is one parameter [expert, d, ff].
LAST_MAPS = ("down_proj", "c_proj", "w2")


def rescaled(weight: Tensor, d: Tensor, alpha: float) -> Tensor:
    """Return W + (α − 1) d (dᵀW) [..., d, ff] for a unit vector d [d], summed in float32 and cast once.

    A bias is a W of one column, [d, 1].
    """
    wide, d = weight.float(), d.to(weight.device, torch.float32)
    return (wide + (alpha - 1) * d[:, None] * (d @ wide)[..., None, :]).to(weight.dtype)


def last_maps(mlp: nn.Module, width: int) -> list[nn.Parameter]:
    """Return the parameters that write an MLP's output of `width`: weights [..., d, ff] and biases [..., d] of its last maps.

    One weight of a dense MLP; of a mixture one of fused experts or of each expert, and those of shared ones.
    """
    found = []
    for name, parameter in mlp.named_parameters():
        of, kind = name.rpartition(".")[::2]
        if of.rpartition(".")[2] in LAST_MAPS and (
            kind == "weight" and parameter.shape[-2] == width or kind == "bias"
        ):
            found.append(parameter)
        elif kind in LAST_MAPS and parameter.ndim == 3 and parameter.shape[1] == width:
            found.append(parameter)
    return found


def unit(directions: Tensor, layer: int, decoder: Decoder) -> Tensor:
    """Return the unit vector of one layer, [d] in float32, from directions [layer, d] of all layers.

    InterventionError for a layer that the model lacks, directions of another shape, or one without a length.
    """
    if not 0 <= layer < decoder.n_layers:
        raise InterventionError(f"There is no layer {layer}: this model's are 0 to {decoder.n_layers - 1}.")
    shape = (decoder.n_layers, decoder.config.hidden_size)
    if tuple(directions.shape) != shape:
        raise InterventionError(
            f"Directions have the shape {tuple(directions.shape)}; this model's are {shape}, one a layer."
        )
    direction = directions[layer].float()
    if not (length := float(direction.norm())) > 0 or not torch.isfinite(direction).all():
        raise InterventionError(
            f"The direction of layer {layer} has length {length:g}: it cannot be rescaled."
        )
    return direction / length


@contextmanager
def folded(decoder: Decoder, layers: Sequence[int], directions: Tensor, alpha: float) -> Iterator[int]:
    """Fold h ↦ h + (α − 1)(d·h)d of the MLP outputs at `layers` into a decoder's weights; yield how many tensors changed.

    directions [layer, d], one for every layer of the model; their lengths do not matter. The weights are as before, bit for
    bit, when the block ends. α = 1 leaves every weight as it is. InterventionError if no layer is named, if the last map of
    a layer's MLP is not found, or if an MLP with its new weights does not compute the change (tried on random input).
    """
    chosen = {layer: unit(directions, layer, decoder) for layer in dict.fromkeys(layers)}
    if not chosen:
        raise InterventionError("No layer is named, so nothing would be folded: name at least one.")
    kept = []
    try:
        for layer, d in chosen.items():
            _fold(decoder.stack._module.layers[layer].mlp, d, alpha, f"layer {layer}", kept)
        yield len(kept)
    finally:
        _write(kept)


@torch.no_grad()
def _write(values):
    """Write tensors into parameters, [(parameter, tensor)]."""
    for parameter, value in values:
        parameter.copy_(value)


@torch.no_grad()
def _fold(mlp, d, alpha, where, kept):
    """Fold into one MLP; add what its parameters were to `kept`, [(parameter, copy)]."""
    maps = last_maps(mlp, len(d))
    if not maps:
        raise InterventionError(f"The MLP of {where} has no last map of a known name: use edits instead.")
    x = _tried(maps[0], len(d))
    before = _output(mlp, x)
    kept += [(parameter, parameter.clone()) for parameter in maps]
    _write([(parameter, _folded(parameter, d, alpha)) for parameter in maps])
    _check_change(before, _output(mlp, x), d.to(x.device), alpha, rounding(x.dtype), where)


def _folded(parameter, d, alpha):
    """The new value of a weight [..., d, ff] or a bias [d]."""
    if parameter.ndim == 1:
        return rescaled(parameter[:, None], d, alpha)[:, 0]
    return rescaled(parameter, d, alpha)


def _tried(like, width):
    """Random input [1, 16, d], the same at every call."""
    return torch.randn(1, 16, width, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)


def _output(mlp, x):
    """What an MLP makes of x, [1, position, d] in float32; hooks on the MLP itself are passed by."""
    output = mlp.forward(x)
    return (output[0] if isinstance(output, tuple) else output).reshape(x.shape).float()


def _check_change(before, after, d, alpha, share, where):
    """Raise InterventionError unless `after` is `before` with its part along d times α, up to a share of either."""
    along, now = before @ d, after @ d
    rest = after - before - (now - along)[..., None] * d
    share *= 1 + abs(alpha)
    # Apart, since the part along d is a small one of the whole.
    if (now - alpha * along).norm() > share * along.norm() or rest.norm() > share * before.norm():
        raise InterventionError(
            f"Folding into the MLP of {where} does not rescale its output: part of what it adds up is not known. Use edits."
        )


def rank_one(
    decoder: Decoder, layers: Sequence[int], directions: Tensor, alpha: float
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A = dᵀW [1, ff] and B = (α − 1)d [d, 1], in float32, of every layer's last map by its path: W + BA is `folded`.

    directions [layer, d], one for every layer of the model. InterventionError if a layer's MLP does not end in one linear
    map (a mixture of experts), or if a bias of it has a part along d, which no product of matrices can change.
    """
    found = {}
    for layer in dict.fromkeys(layers):
        d = unit(directions, layer, decoder)
        linear = _only_map(decoder.stack._module.layers[layer].mlp, len(d), f"layer {layer}")
        d = d.to(linear.weight.device)
        if linear.bias is not None and (d @ linear.bias.detach().float()).abs() > 0:
            raise InterventionError(
                f"The MLP of layer {layer} has a bias, which a LoRA cannot rescale: fold instead."
            )
        path = module_path(decoder.module, linear)
        found[path] = ((d @ linear.weight.detach().float())[None], (alpha - 1) * d[:, None])
    return found


def _only_map(mlp, width, where):
    """The one linear module that an MLP ends in."""
    weights = [parameter for parameter in last_maps(mlp, width) if parameter.ndim > 1]
    linear = [m for m in mlp.modules() if isinstance(m, nn.Linear) and any(m.weight is w for w in weights)]
    if len(weights) != 1 or len(linear) != 1:
        raise InterventionError(
            f"The MLP of {where} is a mixture of experts, whose weights a LoRA does not reach: fold instead."
        )
    return linear[0]
