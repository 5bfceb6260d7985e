"""MLP neurons: what each adds to the residual stream, and how many vocabulary tokens that affects.

A neuron's activation a is its input to the MLP's last projection, act(gate)·up or, without a gate, act(up), biases included;
its write vector w is its column of that projection. The projection's own bias is no neuron's. A norm behind the MLP (Gemma 3,
OLMo 2) is frozen at the position: its gain goes into w, its 1/rms is `scale`. In a mixture of experts the neurons of shared
experts (DeepSeek-V2) come first, then neuron i of routed expert e at shared + e·width + i; a includes the router weight, so
it is 0 where the router chose other experts. Activations are recomputed from the residual stream of `models/forward`, one
layer at a time, so [layer, token, neuron] is never in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from nbhelpers.core.params import LackingError
from nbhelpers.models.decoder import STREAM, Decoder, block_layout
from nbhelpers.models.forward import Stream
from nbhelpers.models.placement import device_of

_TILE = 2**24


def frozen_norm(norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gain [d] and scale [token] of a norm frozen at x [token, d].

    RMS norm: norm(x) = scale · gain ⊙ x,  gain = norm(1),  scale = ⟨norm(x), gain ⊙ x⟩ / ‖gain ⊙ x‖²
    LayerNorm: norm(x) = scale · gain ⊙ (x − mean x) + bias,  scale = 1 / √(var x + ε)
    An RMS norm's come from its own output, so no family's convention (weight, 1 + weight, ε) is assumed.
    """
    x = x.float()
    if isinstance(norm, nn.LayerNorm):
        gain = torch.ones_like(x[0]) if norm.weight is None else norm.weight.float()
        return gain, (x.var(-1, unbiased=False) + norm.eps).rsqrt()
    gain = norm(torch.ones_like(x[:1]))[0].float()
    plain = gain * x
    return gain, (norm(x) * plain).sum(-1) / plain.square().sum(-1).clamp_min(1e-30)


def frozen_readout(norm, weight: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the readout R [vocabulary, d] and offset [vocabulary] of an unembedding W behind a norm frozen at x, float32.

    W norm(x) = scale · R x + offset;  R = W diag(gain), centred along d for a LayerNorm;  offset = W bias, None without one
    """
    readout = weight.float() * frozen_norm(norm, weight[:1])[0]
    if not isinstance(norm, nn.LayerNorm):
        return readout, None
    offset = None if norm.bias is None else weight.float() @ norm.bias.float()
    return readout - readout.mean(-1, keepdim=True), offset


def _part(module, *names):
    """Return the first of the named parts that a module has; LackingError if it has none."""
    for name in names:
        if (found := getattr(module, name, None)) is not None:
            return found
    raise LackingError(
        f"the neurons of a {type(module).__name__} are not known: it has no {' or '.join(names)}"
    )


def neuron_activations(mlp, x: Tensor) -> Tensor:
    """Return the activations [token, neuron] of an MLP module for its inputs x [token, d], in the module docstring's order.

    neuron_activations = act(gate_proj x) ⊙ up_proj x, or act(c_fc x), for a routed expert times its router weight
    LackingError for a module of another kind.
    """
    if not hasattr(mlp, "experts"):
        act = _part(mlp, "act_fn", "activation_fn", "act")
        if hasattr(mlp, "c_fc"):
            return act(mlp.c_fc(x))
        if hasattr(mlp, "gate_up_proj"):
            gate, up = mlp.gate_up_proj(x).chunk(2, dim=-1)
            return act(gate) * up
        return act(_part(mlp, "gate_proj")(x)) * _part(mlp, "up_proj")(x)
    experts, (_, weights, chosen) = mlp.experts, _part(mlp, "gate")(x)
    router = x.new_zeros(len(x), experts.num_experts).scatter(1, chosen, weights.to(x.dtype))
    gate, up = torch.einsum("td,ehd->teh", x, _part(experts, "gate_up_proj")).chunk(2, dim=-1)
    routed = (experts.act_fn(gate) * up * router[..., None]).flatten(1)
    shared = getattr(mlp, "shared_experts", None)
    return routed if shared is None else torch.cat([neuron_activations(shared, x), routed], dim=-1)


def _projection(mlp):
    """Return the last projection of a dense MLP, whose columns are the write vectors."""
    return _part(mlp, "down_proj", "c_proj")


def write_matrix(block) -> Tensor:
    """Return the write vectors [neuron, d] of a block's MLP, float32.

    write_matrix[n] = m · gain ⊙ down_proj[:, n], with the gain of a norm behind the MLP and the residual multiplier m
    """
    return _written(block, _columns(block.mlp))


def write_bias(block) -> Tensor | None:
    """Return what the bias of an MLP's last projection adds to the residual stream at scale 1, [d]; None without one."""
    dense = getattr(block.mlp, "shared_experts", None) if hasattr(block.mlp, "experts") else block.mlp
    bias = None if dense is None else _projection(dense).bias
    return None if bias is None else _written(block, bias[None].float())[0]


def active_count(decoder: Decoder) -> int:
    """Return how many neurons of all layers act at one position: every dense one, and those of the experts in use."""
    count = 0
    for block in decoder_blocks(decoder):
        mlp, columns = block.mlp, len(_columns(block.mlp))
        if hasattr(mlp, "experts"):
            routed = mlp.experts.down_proj.shape[0] * mlp.experts.down_proj.shape[2]
            used = decoder.config.num_experts_per_tok * mlp.experts.down_proj.shape[2]
            columns += used - routed
        count += columns
    return count


def _columns(mlp):
    """Return the columns [neuron, d] of an MLP's last projections, float32."""
    if not hasattr(mlp, "experts"):
        return _projection(mlp).weight.T.float()
    routed = mlp.experts.down_proj.transpose(1, 2).flatten(0, 1)
    shared = getattr(mlp, "shared_experts", None)
    return (routed if shared is None else torch.cat([_projection(shared).weight.T, routed])).float()


def _written(block, vectors):
    """Return what vectors [n, d] that leave a block's MLP add to the residual stream, with the norm behind it at scale 1."""
    norm, multiplier = _norm(block, "mlp_update"), getattr(block, "residual_multiplier", 1.0)
    return vectors * multiplier if norm is None else vectors * multiplier * frozen_norm(norm, vectors[:1])[0]


def _norm(block, name):
    """Return the norm whose input or output is this tensor of the residual stream; None if that is the MLP's own."""
    module = STREAM[block_layout(block)][name][0]
    return None if module == "mlp" else getattr(block, module)


def decoder_blocks(decoder: Decoder):
    """Return the decoder blocks of a model as plain modules (no envoys), in order."""
    return decoder.module.get_submodule(decoder.stack_path).layers


class NeuronLayer(NamedTuple):
    """One layer's neurons at the measured positions; neuron n adds activation[n] · scale · write[n] to the residual stream.

    activation [token, neuron]; scale [token], 1 unless a norm follows the MLP; write [neuron, d]; bias [d], added at the same
    scale by no neuron, None without one; float32.
    """

    activation: Tensor
    scale: Tensor
    write: Tensor
    bias: Tensor | None = None


@torch.no_grad()
def neuron_layers(decoder: Decoder, stream: Stream) -> Iterator[NeuronLayer]:
    """Yield each layer's neurons for one batch's captured stream; one layer is in memory at a time.

    mlp_update = scale · (Σ_n activation[n] · write[n] + bias)
    LackingError if the MLP is of a kind that is not known, or if this differs from `stream.mlp_update` beyond rounding.
    """
    before = [stream.embedding, *stream.residual]
    for layer, block in enumerate(decoder_blocks(decoder)):
        x, output = before[layer] + stream.attention_update[layer], stream.mlp_output[layer]
        place = device_of(block, x.device)
        try:
            found = neuron_layer(block, x.to(place), output.to(place))
        except LackingError as error:
            raise LackingError(f"{decoder.key}: in layer {layer}, {error}") from None
        found = NeuronLayer(*(each if each is None else each.to(x.device) for each in found))
        update, made = stream.mlp_update[layer].float(), found.activation @ found.write
        made = found.scale[:, None] * (made if found.bias is None else made + found.bias)
        if not (made - update).norm() <= 0.1 * update.norm() + 1e-3:
            raise LackingError(
                f"{decoder.key}: the neurons of layer {layer} do not add up to its MLP update ({type(block.mlp).__name__})"
            )
        yield found


def neuron_layer(block, x: Tensor, output: Tensor) -> NeuronLayer:
    """Return one block's neurons where its MLP branch starts from x and its MLP returns `output`, both [token, d].

    LackingError if the MLP is of a kind that is not known.
    """
    enter, leave = _norm(block, "residual_mid"), _norm(block, "mlp_update")
    activation = neuron_activations(block.mlp, x if enter is None else enter(x)).float()
    scale = torch.ones_like(activation[:, 0]) if leave is None else frozen_norm(leave, output)[1]
    return NeuronLayer(activation, scale, write_matrix(block), write_bias(block))


def neuron_mass(layers: Iterable[NeuronLayer]) -> xr.DataArray:
    """Return the summed write length of every neuron in one batch, float64 (layer, neuron); masses of batches can be added.

    neuron_mass = Σ_token |activation| · scale · ‖write‖, NaN in layers with fewer neurons than the widest
    """
    sums = [((x.scale @ x.activation.abs()) * x.write.norm(dim=-1)).double().cpu() for x in layers]
    mass = torch.nn.utils.rnn.pad_sequence(sums, batch_first=True, padding_value=torch.nan)
    return xr.DataArray(mass.numpy(), dims=("layer", "neuron"))


def share_count(mass, shares: Sequence[float]) -> Tensor:
    """Return how few entries of mass [..., n] hold each share of its sum, int64 [..., share]; −1 if the sum is 0.

    share_count = min{m : Σ_{i≤m} mass_i ≥ share · Σ_i mass_i}, mass in descending order, negative and missing entries as 0
    """
    ranked = torch.as_tensor(mass).nan_to_num().clamp_min(0).sort(dim=-1, descending=True).values
    running = ranked.cumsum(-1, dtype=torch.float64)  # in float32 a large vocabulary is miscounted
    total = running[..., -1:]
    goal = total * (torch.tensor(shares, dtype=torch.float64, device=total.device) * (1 - 1e-9))
    return torch.where(total > 0, torch.searchsorted(running, goal) + 1, -1)


@torch.no_grad()
def vocabulary_breadth(vectors: Tensor, readout: Tensor) -> dict[str, Tensor]:
    """Return n50 and n90 (tokens), promote_ratio and norm, each [feature], of the logits of vectors [feature, d].

    promote_ratio = Σ_v max(z_v, 0) / Σ_v |z_v|;  norm = ‖z‖;  n50, n90 = `share_count` of |z| at 0.5 and 0.9;  z = R x
    readout R [vocabulary, d]: the unembedding with the final norm's gain folded in. Scaling a vector x changes only the
    norm; flipping its sign turns promote_ratio p into 1 − p. Only a few vectors' logits are in memory at a time.
    """
    parts = []
    for some in vectors.split(max(1, _TILE // len(readout))):
        logits = some @ readout.T
        mass = logits.abs()
        rises = logits.clamp_min(0).sum(-1) / mass.sum(-1)
        parts.append((*share_count(mass, (0.5, 0.9)).unbind(-1), rises, logits.norm(dim=-1)))
    names = ("n50", "n90", "promote_ratio", "norm")
    return {name: torch.cat(column) for name, column in zip(names, zip(*parts))}


def gini(x) -> float:
    """Return the Gini coefficient of the positive entries of x: 0 if all are equal, near 1 if one has all; NaN if none.

    gini = 2 Σ_i i x_i / (n Σ_i x_i) − (n + 1) / n, x in ascending order, i = 1 … n
    """
    x = np.sort(np.ravel(x).astype(float))
    x = x[x > 0]
    n = len(x)
    return float(2 * (np.arange(1, n + 1) @ x) / (n * x.sum()) - (n + 1) / n) if n else float("nan")


def concentration(mass: xr.DataArray, *, dim: str = "neuron") -> xr.Dataset:
    """Return `gini` and the `share_count` of 50 % (n50) and 90 % (n90) of neuron masses over `dim`, by the other dims; NaN
    where every mass is missing.

    To pool layers, stack them with the neurons and give the stacked dim.
    """
    over = partial(xr.apply_ufunc, input_core_dims=[[dim]])
    counts = over(lambda m: share_count(m, (0.5, 0.9)).numpy(), mass, output_core_dims=[["share"]])
    counts = counts if mass.notnull().any(dim).all() else counts.where(mass.notnull().any(dim))
    data = xr.Dataset(
        {"gini": over(gini, mass, vectorize=True), "n50": counts[..., 0], "n90": counts[..., 1]}
    )
    for name, units in (("gini", "1"), ("n50", "neurons"), ("n90", "neurons")):
        data[name].attrs = {"units": units, "long_name": f"{name} of the neurons' summed write lengths"}
    return data


def top_k_jaccard(
    pt: xr.DataArray, it: xr.DataArray, ks: Sequence[int], *, dim: str = "neuron"
) -> xr.DataArray:
    """Return the Jaccard index of PT's and IT's k neurons with the most mass, (…, k); NaN with fewer than k neurons.

    top_k_jaccard = |P_k ∩ I_k| / |P_k ∪ I_k|, the sets of PT and of IT
    pt, it: (…, dim), as `neuron_mass` returns them; to pool layers, see `concentration`.
    """
    core = {"input_core_dims": [[dim]], "output_core_dims": [[dim]]}
    places = [
        xr.apply_ufunc(lambda m: (-m).argsort(-1, kind="stable").argsort(-1), x, **core) for x in (pt, it)
    ]
    k = xr.DataArray(list(ks), dims="k", coords={"k": list(ks)})
    both = ((places[0] < k) & (places[1] < k)).sum(dim)
    jaccard = (both / (2 * k - both)).where(k <= pt.notnull().sum(dim)).rename("jaccard")
    return jaccard.assign_attrs(units="1", long_name="Jaccard index of PT's and IT's top k neurons")
