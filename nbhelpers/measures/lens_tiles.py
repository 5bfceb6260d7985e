"""One tile of a lens (some tokens × one block of the vocabulary): its logits, its sums, and how tiles are merged.

Each row of a tile is shifted to a maximum of 0, and its sums are relative to that maximum. `total` and `mean` merge the
tiles of all blocks of the vocabulary. The functions write into the tiles that they are given.
"""

import math
from functools import cache, reduce

import torch

# 2^-115 is negligible beside the largest term of a softmax, 2^0, yet a normal float: denormals are slow.
_LOWEST = -115.0
_LOG2_E = math.log2(math.e)
_GROUP = 64
_PART = 256


def floats(weight):
    """Return the weight in float32, upcast once for all layers; unchanged on CUDA, where half precision needs no upcast."""
    return weight if weight.is_cuda else weight.float()


def sums_of(z, final, p_final, above, scratch, wanted):
    """Return sums over one tile of one layer, {name: [token]}, relative to the tile's maximum m of the logits z.

    mass = Σ_v e_v,  e_v = exp(z_v − m);  self = Σ_v e_v (z_v − m);  from_final = Σ_v e'_v (z_v − m), e' of the last layer
    final, above = Σ_v e_v (z'_v − m'), z' the logits of the last or the next layer
    final, p_final: shifted logits z' − m' and e' of the last layer; None at the last layer itself, which returns its e as
    "p" [token, column]. above: the next layer's logits, shifted, or (compiled) a pair of logits and their maximum.
    scratch: two tiles to write into, with z as the third; two Nones if compiled, where only the last layer changes z.
    """
    sums = top(z) if "top1" in wanted else {"max": z.amax(-1)}
    written = z if p_final is None or scratch[0] is not None else None
    z = torch.sub(z, sums["max"][:, None], out=written)
    # exp2 is three times as fast as exp on a CPU.
    p = torch.mul(z, _LOG2_E, out=scratch[0]).clamp_(min=_LOWEST).exp2_()
    sums["mass"] = p.sum(-1)
    if p_final is None or wanted & {"kl_layer_final", "kl_adjacent", "entropy"}:
        sums["self"] = torch.mul(p, z, out=scratch[1]).sum(-1)
    if p_final is None:
        return sums | {"p": p}
    if "kl_layer_final" in wanted:
        sums["final"] = torch.mul(p, final, out=scratch[1]).sum(-1)
    if "kl_adjacent" in wanted:
        above = above if scratch[0] is not None else above[0] - above[1][:, None]
        sums["above"] = torch.mul(p, above, out=scratch[1]).sum(-1)
    if "kl_final_layer" in wanted:
        sums["from_final"] = torch.mul(p_final, z, out=scratch[1]).sum(-1)
    return sums


def sums_by_parts(z, final, p_final, above, scratch, wanted):
    """Return `sums_of`, on a CPU a few rows at a time, so that data just written is still in cache when it is read."""
    if z.device.type != "cpu":
        return sums_of(z, final, p_final, above, scratch, wanted)
    parts = []
    for start in range(0, len(z), _PART):
        z_part, *given = (
            tile if tile is None else tile[start : start + _PART] for tile in (z, final, p_final, above)
        )
        # Keep the final layer's exponential; the next part overwrites those of other layers.
        kept = start if p_final is None else 0
        here = scratch[0][kept : kept + len(z_part)], scratch[1][: len(z_part)]
        parts.append(sums_of(z_part, *given, here, wanted))
    sums = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "p"}
    return sums | ({"p": scratch[0]} if p_final is None else {})


@cache
def compiled_sums(device_type):
    """Return `sums_of`, compiled by torch.compile for a type of device; None, once printed, where nothing compiles it."""
    compiled = torch.compile(sums_of, dynamic=True, recompile_limit=64)
    try:
        compiled(torch.zeros(2, 2, device=device_type), None, None, None, (None, None), frozenset())
    except RuntimeError as error:  # torch raises its own kinds, by what is missing
        why = str(error).strip().splitlines()[0]
        print(f"The lens runs without torch.compile, slower and with the same numbers: {why}", flush=True)
        return None
    return compiled


def _group_maxima(z):
    """Return the maximum of every group of columns, [token, group]; the last group may be narrower."""
    whole = z.shape[1] // _GROUP * _GROUP
    maxima = z[:, :whole].unflatten(1, (-1, _GROUP)).amax(-1)
    return maxima if whole == z.shape[1] else torch.cat([maxima, z[:, whole:].amax(-1, keepdim=True)], 1)


def _first_of_group(z, group):
    """Return the columns of each token's group, their logits, and the column of the first maximum, [token, …]."""
    columns = group[:, None] * _GROUP + torch.arange(_GROUP, device=z.device)
    columns.clamp_(max=z.shape[1] - 1)
    values = z.gather(1, columns)
    return columns, values, columns.gather(1, values.argmax(-1, keepdim=True))


def top(z):
    """Return each row's maximum and its column [token]; found by way of group maxima, five times as fast on a CPU."""
    maximum, group = _group_maxima(z).max(-1)
    return {"max": maximum, "top1": _first_of_group(z, group)[2][:, 0]}


def best(z, count):
    """Return the largest values of a tile and their columns, both [token, count], equal values in order of column."""
    maxima, found = _group_maxima(z), []
    for _ in range(min(count, z.shape[1])):
        value, group = maxima.max(-1, keepdim=True)
        columns, values, column = _first_of_group(z, group[:, 0])
        found.append((value, column))
        maxima.scatter_(1, group, values.masked_fill_(columns == column, -torch.inf).amax(-1, keepdim=True))
        z.scatter_(1, column, -torch.inf)
    values, columns = (torch.cat(each, 1) for each in zip(*found))
    z.scatter_(1, columns, values)
    return values, columns


def jaccard(a, b):
    """Return the Jaccard index [...] of sets of ids or columns a, b [..., k], each without repeats.

    jaccard = |a ∩ b| / |a ∪ b|
    """
    shared = (a[..., :, None] == b[..., None, :]).any(-1).sum(-1)
    return shared / (2 * a.shape[-1] - shared)


def _merge(values):
    """Return the sum over blocks [block, …], added in order; the order of .sum(0) depends on the other dimensions."""
    return reduce(torch.add, values.unbind(0))


def total(sums):
    """Return each softmax's largest logit `top` and sum `total` over all blocks b, from the sums of `sums_of`.

    top = max over b of max_b;  shift_b = max_b − top;  scale_b = exp(shift_b);  total = Σ_b scale_b mass_b
    """
    top = sums["max"].amax(0)
    shift = sums["max"] - top
    scale = shift.exp()
    total = _merge(scale * sums["mass"])
    return {"top": top, "shift": shift, "scale": scale, "total": total, "log_total": total.log()}


def mean(tiles, under, shift):
    """Return the mean, under the softmax `under`, of logits less their largest, from the sums `tiles` of every block b.

    mean = Σ_b scale_b (tiles_b + mass_b shift_b) / total, scale, mass and total of `under`, shift of the logits
    """
    return _merge(under["scale"] * (tiles + under["mass"] * shift)) / under["total"]
