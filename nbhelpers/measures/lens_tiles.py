"""One tile of a lens, tokens × some of the vocabulary: its logits, the sums that it leaves, and how these are merged.

A tile is shifted to a maximum of 0 in every row, and its sums are relative to that maximum; `total` and `mean` bring the
tiles of all blocks of the vocabulary to one. The functions write into the tiles that they are given.
"""

import math
from functools import cache, reduce

import torch

# 2^-115 is nothing beside the largest term of a softmax, 2^0, and still a normal float: denormals are slow.
_LOWEST = -115.0
_LOG2_E = math.log2(math.e)
_GROUP = 64
_PART = 256


def logits(normed, weight, softcap, out=None):
    """Never rounded to bfloat16: that alone puts a floor of some 5e-4 nats under the KL of late layers."""
    if weight.is_cuda and normed.dtype == weight.dtype != torch.float32:
        z = torch.mm(normed, weight.T, out_dtype=torch.float32)
    else:
        z = torch.mm(normed.float(), weight.float().T, out=out)
    return cap(z, softcap)


def cap(z, softcap):
    return z.div_(softcap).tanh_().mul_(softcap) if softcap else z


def floats(weight):
    """Upcast once for all layers; CUDA multiplies half precision into float32 by itself."""
    return weight if weight.is_cuda else weight.float()


def sums_of(z, final, p_final, above, scratch, wanted):
    """{name: [token]}: sums over one tile of one layer, whose logits z are shifted to a maximum of 0.

    final, p_final: shifted logits of the last layer and their exponential; None at the last layer itself,
    which returns that exponential as "p" [token, column]. above: logits of the next layer, shifted, or as they are
    with their maximum. scratch: two tiles to write into, z being the third; None where the compiler does without, and
    leaves z as it is but at the last layer.
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
    """`sums_of`, on a CPU of some rows at a time, so that what is written last is still in cache when it is read."""
    if z.device.type != "cpu":
        return sums_of(z, final, p_final, above, scratch, wanted)
    parts = []
    for start in range(0, len(z), _PART):
        z_part, *given = (
            tile if tile is None else tile[start : start + _PART] for tile in (z, final, p_final, above)
        )
        # The final layer's exponential is kept, every other one is overwritten by the next part's.
        kept = start if p_final is None else 0
        here = scratch[0][kept : kept + len(z_part)], scratch[1][: len(z_part)]
        parts.append(sums_of(z_part, *given, here, wanted))
    sums = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "p"}
    return sums | ({"p": scratch[0]} if p_final is None else {})


@cache
def compiled_sums():
    return torch.compile(sums_of, dynamic=True, recompile_limit=64)


def _group_maxima(z):
    """The maximum of every group of columns [token, group], the last of them perhaps narrower."""
    whole = z.shape[1] // _GROUP * _GROUP
    maxima = z[:, :whole].unflatten(1, (-1, _GROUP)).amax(-1)
    return maxima if whole == z.shape[1] else torch.cat([maxima, z[:, whole:].amax(-1, keepdim=True)], 1)


def _first_of_group(z, group):
    """The columns of each token's group, their logits, and the column of the first maximum, [token, …]."""
    columns = group[:, None] * _GROUP + torch.arange(_GROUP, device=z.device)
    columns.clamp_(max=z.shape[1] - 1)
    values = z.gather(1, columns)
    return columns, values, columns.gather(1, values.argmax(-1, keepdim=True))


def top(z):
    """Each row's maximum and its index, by way of the maxima of groups: five times as fast as max on a CPU."""
    maximum, group = _group_maxima(z).max(-1)
    return {"max": maximum, "top1": _first_of_group(z, group)[2][:, 0]}


def best(z, count):
    """The largest values [token, count] of a tile and their columns, the first of equals first."""
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
    """Return the Jaccard index [...] of sets of ids or columns a, b [..., k], each without repeats."""
    shared = (a[..., :, None] == b[..., None, :]).any(-1).sum(-1)
    return shared / (2 * a.shape[-1] - shared)


def _merge(values):
    """The sum over blocks [block, …], in an order that does not depend on the other dimensions, as .sum(0)'s does."""
    return reduce(torch.add, values.unbind(0))


def total(sums):
    """Each softmax's largest logit and sum over all tiles, with each tile's maximum relative to the former."""
    top = sums["max"].amax(0)
    shift = sums["max"] - top
    scale = shift.exp()
    total = _merge(scale * sums["mass"])
    return {"top": top, "shift": shift, "scale": scale, "total": total, "log_total": total.log()}


def mean(tiles, under, shift):
    """Mean of logits under the softmax `under`, from its tiles' sums of them, each relative to `shift`."""
    return _merge(under["scale"] * (tiles + under["mass"] * shift)) / under["total"]
