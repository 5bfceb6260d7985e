"""The logit lens of every layer, reduced to a few numbers per token.

The full logits, [layer, token, vocabulary], never exist. Tokens are taken `rows` at a time and the
vocabulary `columns` at a time; within such a tile the final layer comes first and the others follow
downwards, and each leaves a few sums over its softmax. The sums of all tiles are merged at the end of the
vocabulary, so the working memory is a handful of tiles, whatever the number of layers and tokens and
however large the vocabulary.

This module knows nothing about models or generation: it takes residuals and an `Unembedding`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

METRICS = ("kl_final_layer", "kl_layer_final", "kl_adjacent", "entropy", "top1")

# 2^-115 is nothing beside the largest term of a softmax, 2^0, and still a normal float: denormals are slow.
_LOWEST = -115.0
_LOG2_E = math.log2(math.e)
_GROUP = 128
_SUMS = ("max", "mass", "self", "final", "above", "from_final")


class LensError(RuntimeError):
    """The lens does not reproduce the model it is meant to read."""


@dataclass(frozen=True)
class Unembedding:
    """What turns a residual into logits: the final norm, then the unembedding rows of the real vocabulary.

    norm: maps [token, d] to [token, d]. weight: [real vocabulary, d]; rows that no text can produce
    (padding, `<unusedN>`, reserved ids) are left out, which equals a logit of -inf before every softmax and
    argmax. token_ids: [real vocabulary] int64, the model's own id of each row. softcap: tanh soft cap of
    the logits, if any.
    """

    norm: Callable[[Tensor], Tensor]
    weight: Tensor
    token_ids: Tensor
    softcap: float | None = None


@torch.no_grad()
def lens_logits(residual: Tensor, unembedding: Unembedding) -> Tensor:
    """Return the float32 logits [token, real vocabulary] of residuals [token, d] from any one layer.

    For a few tokens: this is the matrix that `lens_metrics` takes care never to hold.
    """
    return _logits(
        unembedding.norm(residual.to(unembedding.weight.device)), unembedding.weight, unembedding.softcap
    )


@torch.no_grad()
def lens_metrics(
    residuals: Tensor | Sequence[Tensor],
    unembedding: Unembedding,
    *,
    metrics: Sequence[str] = METRICS,
    rows: int = 512,
    columns: int | None = None,
    compile: bool = False,
) -> dict[str, Tensor]:
    """Return {metric: [layer, token]} of the raw lens, on the device of the unembedding.

    residuals: the residual stream after every block, before the final norm, [layer, token, d] or a list of
    [token, d]. Nats, float32: `kl_final_layer` KL(final ‖ layer), `kl_layer_final` KL(layer ‖ final), both
    0 at the last layer by definition; `kl_adjacent` KL(previous layer ‖ layer), NaN at layer 0; `entropy`.
    `top1` is int64, in the model's own token ids. The norm runs in the model's dtype; logits, softmax and
    sums are float32, bfloat16 models included. rows, columns: tile of tokens × vocabulary; they change
    speed and memory, not results. columns=None takes 4,096 on a CPU, where a tile then stays in cache, and
    32,768 elsewhere. compile fuses the work on a tile with torch.compile, which pays from some ten thousand
    tokens on. ValueError names an unknown metric or mismatched residuals.

    nostalgebraist (2020), "interpreting GPT: the logit lens".
    """
    _check(residuals, unembedding, metrics)
    device, wanted = unembedding.weight.device, frozenset(metrics)
    columns = min(columns or (4096 if device.type == "cpu" else 32768), len(unembedding.weight))
    layers, tokens = len(residuals), len(residuals[0])
    rows = max(1, min(rows, tokens))
    buffers = [torch.empty(rows * columns, device=device) for _ in range(6)]
    dtypes = {name: torch.int64 if name == "top1" else torch.float32 for name in metrics}
    out = {name: torch.empty(layers, tokens, dtype=dtype, device=device) for name, dtype in dtypes.items()}
    for start in range(0, tokens, rows):
        chunk = [residual[start : start + rows].to(device) for residual in residuals]
        sums = _sums(chunk, unembedding, columns, wanted, buffers, compile)
        for name, values in _finish(sums, wanted).items():
            out[name][:, start : start + rows] = unembedding.token_ids[values] if name == "top1" else values
    return out


@torch.no_grad()
def check_identity(
    residual_last: Tensor, logits: Tensor, unembedding: Unembedding, *, tolerance: float | None = None
) -> float:
    """Return the largest difference of the last layer's lens from the model's own logits, over their range.

    residual_last [token, d], logits [token, model vocabulary] of the same positions. Raises LensError above
    tolerance (None: 1e-3 for float32 logits, 0.03 for rounded ones). The usual cause is a residual that has
    already been through the final norm (transformers' `hidden_states[-1]` has), so that the lens would
    apply the norm twice.
    """
    own = logits[:, unembedding.token_ids.to(logits.device)].float().to(unembedding.weight.device)
    ours = lens_logits(residual_last, unembedding)
    error = ((ours - own).abs().max() / (own.amax() - own.amin()).clamp_min(1e-6)).item()
    limit = tolerance or (1e-3 if logits.dtype == torch.float32 else 0.03)
    if not error <= limit:
        raise LensError(
            f"The last layer's lens differs from the model's own logits by {error:.2g} of their range "
            f"(limit {limit:g}): pass the residual after the last block and before the final norm, which must "
            "not be applied twice, and the model's own unembedding and soft cap."
        )
    return error


def _check(residuals, unembedding, metrics):
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown or not metrics:
        raise ValueError(f"Lens metrics {unknown or 'are empty'}: choose from {', '.join(METRICS)}.")
    shapes = {tuple(residual.shape) for residual in residuals}
    width = unembedding.weight.shape[1]
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[1] != width:
        raise ValueError(f"Lens residuals must be [layer, token, {width}], one shape for all layers.")
    if len(unembedding.token_ids) != len(unembedding.weight):
        raise ValueError(
            f"The unembedding has {len(unembedding.weight)} rows but {len(unembedding.token_ids)} token ids."
        )


def _logits(normed, weight, softcap, out=None):
    """Never rounded to bfloat16: that alone puts a floor of some 5e-4 nats under the KL of late layers."""
    if weight.is_cuda and normed.dtype == weight.dtype != torch.float32:
        z = torch.mm(normed, weight.T, out_dtype=torch.float32)
    else:
        z = torch.mm(normed.float(), weight.float().T, out=out)
    return z.div_(softcap).tanh_().mul_(softcap) if softcap else z


def _sums(chunk, unembedding, columns, wanted, buffers, compile):
    """{name: [block, layer, token]}: what `_tile` leaves for each layer and block of the vocabulary."""
    layers, tokens, norm, softcap = len(chunk), len(chunk[0]), unembedding.norm, unembedding.softcap
    starts = range(0, len(unembedding.weight), columns)
    sums = {name: torch.zeros(len(starts), layers, tokens, device=chunk[0].device) for name in _SUMS}
    sums["top1"] = sums["max"].long()
    reduce = _compiled_tile() if compile else _tile
    for block, start in enumerate(starts):
        weight = unembedding.weight[start : start + columns]
        # Upcast once for all layers; CUDA multiplies half precision into float32 by itself.
        weight = weight if weight.is_cuda else weight.float()
        z, other, another, p_final, p, product = (b[: tokens * len(weight)].view(tokens, -1) for b in buffers)
        if compile:
            p_final = p = product = None
        z = final = _logits(norm(chunk[-1]), weight, softcap, out=z)
        found = [reduce(final, None, None, None, (p_final, product), wanted)]
        p_final = found[0].pop("p")
        for layer in range(layers - 2, -1, -1):
            above, out = z, (other, another)[layer % 2]
            z = _logits(norm(chunk[layer]), weight, softcap, out=out)
            found.append(reduce(z, final, p_final, above, (p, product), wanted))
        for layer, tile in enumerate(reversed(found)):
            for name, values in tile.items():
                sums[name][block, layer] = values
        sums["top1"][block] += start
    return sums


def _tile(z, final, p_final, above, scratch, wanted):
    """{name: [token]}: sums over one tile of one layer; shifts its logits z in place to a maximum of 0.

    final, p_final: shifted logits of the last layer and their exponential; None at the last layer itself,
    which returns that exponential as "p" [token, column]. above: shifted logits of the next layer. scratch:
    two tiles to write into, or None where the compiler does without.
    """
    sums = _top(z) if "top1" in wanted else {"max": z.amax(-1)}
    z.sub_(sums["max"][:, None])
    # exp2 is three times as fast as exp on a CPU.
    p = torch.mul(z, _LOG2_E, out=scratch[0]).clamp_(min=_LOWEST).exp2_()
    sums["mass"] = p.sum(-1)
    if final is None or wanted & {"kl_layer_final", "kl_adjacent", "entropy"}:
        sums["self"] = torch.mul(p, z, out=scratch[1]).sum(-1)
    if final is None:
        return sums | {"p": p}
    if "kl_layer_final" in wanted:
        sums["final"] = torch.mul(p, final, out=scratch[1]).sum(-1)
    if "kl_adjacent" in wanted:
        sums["above"] = torch.mul(p, above, out=scratch[1]).sum(-1)
    if "kl_final_layer" in wanted:
        sums["from_final"] = torch.mul(p_final, z, out=scratch[1]).sum(-1)
    return sums


@cache
def _compiled_tile():
    return torch.compile(_tile, dynamic=True, recompile_limit=64)


def _top(z):
    """Each row's maximum and its index, by way of the maxima of groups: five times as fast as max on a CPU."""
    if z.shape[1] % _GROUP:
        return dict(zip(("max", "top1"), z.max(-1)))
    groups = z.view(len(z), -1, _GROUP)
    maximum, best = groups.amax(-1).max(-1)
    within = groups[torch.arange(len(z), device=z.device), best].argmax(-1)
    return {"max": maximum, "top1": best * _GROUP + within}


def _finish(sums, wanted):
    """{metric: [layer, token]} from the sums of all tiles, each relative to the maxima of its own tile."""
    top = sums["max"].amax(0)
    shift = sums["max"] - top
    scale = shift.exp()
    mass = (scale * sums["mass"]).sum(0)
    log_mass = mass.log()

    def mean(name, of, under):
        """Mean of the logits of layers `of`, less their maximum, under the softmax of layers `under`."""
        tiles = sums[name][:, of if name == "from_final" else under]
        return (scale[:, under] * (tiles + sums["mass"][:, under] * shift[:, of])).sum(0) / mass[under]

    all_, last, lower, upper = slice(None), slice(-1, None), slice(-1), slice(1, None)
    own = mean("self", all_, all_)
    out = {}
    if "entropy" in wanted:
        out["entropy"] = log_mass - own
    if "kl_layer_final" in wanted:
        out["kl_layer_final"] = own - mean("final", last, all_) - log_mass + log_mass[-1]
    if "kl_final_layer" in wanted:
        out["kl_final_layer"] = own[-1] - mean("from_final", all_, last) - log_mass[-1] + log_mass
    for kl in out.keys() - {"entropy"}:
        out[kl][-1] = 0
    if "kl_adjacent" in wanted:
        adjacent = own[lower] - mean("above", upper, lower) - log_mass[lower] + log_mass[upper]
        out["kl_adjacent"] = torch.cat([torch.full_like(mass[:1], torch.nan), adjacent])
    if "top1" in wanted:
        out["top1"] = sums["top1"].gather(0, sums["max"].argmax(0)[None])[0]
    return {name: values if name == "top1" else values.clamp_(min=0) for name, values in out.items()}
