"""The logit lens of every layer, reduced to a few numbers per token.

The full logits, [layer, token, vocabulary], never exist. Tokens are taken `rows` at a time and the
vocabulary `columns` at a time; within such a tile the final layer comes first and the others follow
downwards, and each leaves a few sums over its softmax. The sums of all tiles are merged at the end of the
vocabulary, so the working memory is a handful of tiles, whatever the number of layers and tokens and
however large the vocabulary. Where only commitment layers are wanted, `commitment_from_top` goes from the
last layer down and leaves out what can no longer change them.

This module knows nothing about models or generation: it takes residuals and an `Unembedding`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, reduce

import torch
from torch import Tensor

METRICS = ("kl_final_layer", "kl_layer_final", "kl_adjacent", "entropy", "top1")
TARGET_METRICS = ("target_log_probability", "target_rank")
MORE_METRICS = ("top1_probability", "top5", *TARGET_METRICS)
COMMITMENT_RULES = ("kl_stays", "top1_strict")

# 2^-115 is nothing beside the largest term of a softmax, 2^0, and still a normal float: denormals are slow.
_LOWEST = -115.0
_LOG2_E = math.log2(math.e)
_GROUP = 64
_PART = 256
_SUMS = ("max", "mass", "self", "final", "above", "from_final")
_INTEGERS = ("top1", "top5", "target_rank")
_IDS = ("top1", "top5")
# Products of differently many rows may round differently, by less than this part of the norms' product.
_ROUNDING = 5e-7


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
    targets: Tensor | None = None,
    rows: int = 1024,
    columns: int | None = None,
    compile: bool = False,
) -> dict[str, Tensor]:
    """Return {metric: [layer, token]} of the lens, on the device of the unembedding.

    residuals: the residual stream after every block, before the final norm, [layer, token, d] or a list of
    [token, d]. Nats, float32: `kl_final_layer` KL(final ‖ layer), `kl_layer_final` KL(layer ‖ final), both
    0 at the last layer by definition; `kl_adjacent` KL(previous layer ‖ layer), NaN at layer 0; `entropy`.
    `top1` is int64, in the model's own token ids. Only when asked for: `top1_probability` of that token,
    `top5` [layer, token, 5] ids, best first, the lower row before its equal; and of `targets` [token], one
    id a token, `target_log_probability` (nats) and `target_rank`, 1 + the tokens with a larger logit. The
    norm runs in the model's dtype; logits, softmax and sums are float32, bfloat16 models included. rows,
    columns: tile of tokens × vocabulary; they change speed and memory, not results. columns=None takes
    4,096 on a CPU, where a tile then stays in cache, and 32,768 elsewhere. compile fuses the work on a tile
    with torch.compile, which pays from some ten thousand tokens on. ValueError names an unknown metric,
    mismatched residuals, missing targets or a target that is not in the real vocabulary.

    nostalgebraist (2020), "interpreting GPT: the logit lens".
    """
    _check(residuals, unembedding, metrics)
    wanted, device, tokens = frozenset(metrics), unembedding.weight.device, len(residuals[0])
    targets = _target_rows(targets, tokens, unembedding) if wanted.intersection(TARGET_METRICS) else None
    columns, rows = tile_columns(unembedding, columns), max(1, min(rows, tokens))
    buffers = [torch.empty(rows * columns, device=device) for _ in range(6)]
    out = _empty(metrics, len(residuals), tokens, unembedding)
    for start in range(0, tokens, rows):
        here = slice(start, start + rows)
        chunk = [residual[here].to(device) for residual in residuals]
        more = _more(chunk, unembedding, None if targets is None else targets[here], wanted)
        sums = _sums(chunk, unembedding, columns, wanted, buffers, compile, more)
        for name, values in _finish(sums, wanted).items():
            out[name][:, here] = unembedding.token_ids[values] if name in _IDS else values
    return out


@torch.no_grad()
def commitment_from_top(
    residuals: Tensor | Sequence[Tensor],
    unembedding: Unembedding,
    *,
    rule: str,
    threshold: float = 0.1,
    rows: int = 1024,
    columns: int | None = None,
) -> Tensor:
    """Return the commitment layer of every token, int64 [token], without the layers that cannot matter.

    rule: "kl_stays", KL(final ‖ layer) below `threshold` nats from that layer on, or "top1_strict", the
    final top-1 token from there on: exactly `convergence`'s rules of these names on the curves of
    `lens_metrics` with the same rows and columns. It descends from the top, and a token that has failed at a
    layer is not unembedded below it. Where rounding could tip a token, its product is made once more in the
    shape that the curve gives it. Memory: rows × vocabulary for the final distribution ("kl_stays"), and a
    few tiles. ValueError names an unknown rule or mismatched residuals.
    """
    if rule not in COMMITMENT_RULES:
        raise ValueError(f"Commitment rule {rule!r}: choose from {', '.join(COMMITMENT_RULES)}.")
    _check(residuals, unembedding, METRICS)
    device, columns = unembedding.weight.device, tile_columns(unembedding, columns)
    largest = cache(lambda: _norms(unembedding.weight).amax())
    out = torch.empty(len(residuals[0]), dtype=torch.int64, device=device)
    rows = max(1, min(rows, len(out)))
    sizes = [columns] * 3 + [len(unembedding.weight)] if rule == "kl_stays" else [columns]
    buffers = [torch.empty(rows * size, device=device) for size in sizes]
    for start in range(0, len(out), rows):
        chunk = [residual[start : start + rows].to(device) for residual in residuals]
        final = unembedding.norm(chunk[-1])
        if rule == "kl_stays":
            holds = _kl_below(final, unembedding, columns, buffers, threshold)
        else:
            holds = _top1_agrees(final, unembedding, columns, buffers)
        out[start : start + rows] = _descend(chunk, holds, unembedding.norm, largest)
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


def tile_columns(unembedding: Unembedding, columns: int | None = None) -> int:
    """Return how much of the vocabulary a tile takes: `columns`, or what suits the device, at most all."""
    usual = 4096 if unembedding.weight.device.type == "cpu" else 32768
    return min(columns or usual, len(unembedding.weight))


def _check(residuals, unembedding, metrics):
    known = (*METRICS, *MORE_METRICS)
    unknown = sorted(set(metrics) - set(known))
    if unknown or not metrics:
        raise ValueError(f"Lens metrics {unknown or 'are empty'}: choose from {', '.join(known)}.")
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
    return _cap(z, softcap)


def _cap(z, softcap):
    return z.div_(softcap).tanh_().mul_(softcap) if softcap else z


def _floats(weight):
    """Upcast once for all layers; CUDA multiplies half precision into float32 by itself."""
    return weight if weight.is_cuda else weight.float()


def _empty(metrics, layers, tokens, unembedding):
    """The arrays that `lens_metrics` returns, to be filled."""
    shapes = dict.fromkeys(metrics, (layers, tokens))
    shapes |= {"top5": (layers, tokens, min(5, len(unembedding.weight)))} if "top5" in shapes else {}
    dtypes = {name: torch.int64 if name in _INTEGERS else torch.float32 for name in metrics}
    device = unembedding.weight.device
    return {name: torch.empty(shapes[name], dtype=dtypes[name], device=device) for name in metrics}


def _target_rows(targets, tokens, unembedding):
    """The unembedding row [token] of each target id."""
    if targets is None or tuple(targets.shape) != (tokens,):
        given = "none" if targets is None else list(targets.shape)
        raise ValueError(f"Target metrics need targets, one id for each of {tokens} tokens, not {given}.")
    ids, order = unembedding.token_ids.sort()
    targets = targets.to(ids)
    at = torch.searchsorted(ids, targets).clamp_(max=len(ids) - 1)
    if missing := targets[ids[at] != targets].unique().tolist():
        raise ValueError(f"Targets {missing[:5]} are not in the real vocabulary of the unembedding.")
    return order[at]


def _sums(chunk, unembedding, columns, wanted, buffers, compile, more):
    """{name: [block, layer, token]}: what `_tile` leaves for each layer and block of the vocabulary.

    more: what `_more` returns; what it has noted joins the sums.
    """
    layers, tokens, norm, softcap = len(chunk), len(chunk[0]), unembedding.norm, unembedding.softcap
    starts = range(0, len(unembedding.weight), columns)
    sums = {name: torch.zeros(len(starts), layers, tokens, device=chunk[0].device) for name in _SUMS}
    sums["top1"] = sums["max"].long()
    tile_sums, (read, noted) = _compiled_tile() if compile else _tile_by_parts, more
    for block, start in enumerate(starts):
        weight = _floats(unembedding.weight[start : start + columns])
        final, *others, p_final, p, product = (b[: tokens * len(weight)].view(tokens, -1) for b in buffers)
        if compile:
            p_final = p = product = None
        z = _logits(norm(chunk[-1]), weight, softcap, out=final)
        read(z, layers - 1, start, product)
        found = [tile_sums(z, None, None, None, (p_final, product), wanted)]
        final, p_final = z, found[0].pop("p")
        for layer in range(layers - 2, -1, -1):
            above = z
            z = _logits(norm(chunk[layer]), weight, softcap, out=others[layer % 2])
            read(z, layer, start, product)
            found.append(tile_sums(z, final, p_final, above, (p, product), wanted))
        for layer, tile in enumerate(reversed(found)):
            for name, values in tile.items():
                sums[name][block, layer] = values
        sums["top1"][block] += start
    return sums | noted


def _more(chunk, unembedding, targets, wanted):
    """(read, noted): read(z, layer, start, scratch) takes from a tile what the further metrics need.

    noted: what it has taken so far, "target" and "better" [layer, token], "top5" {layer: (values, rows)}.
    """
    noted = {"top5": {}}
    if targets is not None:
        weight = unembedding.weight[targets].float()
        target = torch.stack([torch.linalg.vecdot(unembedding.norm(h).float(), weight) for h in chunk])
        noted["target"] = _cap(target, unembedding.softcap)
        noted["better"] = torch.zeros_like(target, dtype=torch.int64)

    def read(z, layer, start, scratch):
        if targets is not None:
            target = noted["target"][layer][:, None]
            # One value everywhere: a product of another shape may round differently and cost a rank.
            at = (targets - start).clamp_(0, z.shape[1] - 1)[:, None]
            z.scatter_(1, at, torch.where(targets[:, None] == at + start, target, z.gather(1, at)))
            noted["better"][layer] += torch.gt(z, target, out=scratch).sum(-1).long()
        if "top5" in wanted:
            values, rows = _best(z, 5)
            earlier = noted["top5"].get(layer, (values[:, :0], rows[:, :0]))
            values, rows = torch.cat([earlier[0], values], 1), torch.cat([earlier[1], rows + start], 1)
            order = values.argsort(dim=1, descending=True, stable=True)[:, :5]
            noted["top5"][layer] = values.gather(1, order), rows.gather(1, order)

    return read, noted


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
    if p_final is None or wanted & {"kl_layer_final", "kl_adjacent", "entropy"}:
        sums["self"] = torch.mul(p, z, out=scratch[1]).sum(-1)
    if p_final is None:
        return sums | {"p": p}
    if "kl_layer_final" in wanted:
        sums["final"] = torch.mul(p, final, out=scratch[1]).sum(-1)
    if "kl_adjacent" in wanted:
        sums["above"] = torch.mul(p, above, out=scratch[1]).sum(-1)
    if "kl_final_layer" in wanted:
        sums["from_final"] = torch.mul(p_final, z, out=scratch[1]).sum(-1)
    return sums


def _tile_by_parts(z, final, p_final, above, scratch, wanted):
    """`_tile`, on a CPU of some rows at a time, so that what is written last is still in cache when it is read."""
    if z.device.type != "cpu":
        return _tile(z, final, p_final, above, scratch, wanted)
    parts = []
    for start in range(0, len(z), _PART):
        z_part, *given = (
            tile if tile is None else tile[start : start + _PART] for tile in (z, final, p_final, above)
        )
        # The final layer's exponential is kept, every other one is overwritten by the next part's.
        kept = start if p_final is None else 0
        here = scratch[0][kept : kept + len(z_part)], scratch[1][: len(z_part)]
        parts.append(_tile(z_part, *given, here, wanted))
    sums = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "p"}
    return sums | ({"p": scratch[0]} if p_final is None else {})


@cache
def _compiled_tile():
    return torch.compile(_tile, dynamic=True, recompile_limit=64)


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


def _top(z):
    """Each row's maximum and its index, by way of the maxima of groups: five times as fast as max on a CPU."""
    maximum, group = _group_maxima(z).max(-1)
    return {"max": maximum, "top1": _first_of_group(z, group)[2][:, 0]}


def _best(z, count):
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


def _merge(values):
    """The sum over blocks [block, …], in an order that does not depend on the other dimensions, as .sum(0)'s does."""
    return reduce(torch.add, values.unbind(0))


def _total(sums):
    """Each softmax's largest logit and sum over all tiles, with each tile's maximum relative to the former."""
    top = sums["max"].amax(0)
    shift = sums["max"] - top
    scale = shift.exp()
    total = _merge(scale * sums["mass"])
    return {"top": top, "shift": shift, "scale": scale, "total": total, "log_total": total.log()}


def _mean(tiles, under, shift):
    """Mean of logits under the softmax `under`, from its tiles' sums of them, each relative to `shift`."""
    return _merge(under["scale"] * (tiles + under["mass"] * shift)) / under["total"]


def _finish(sums, wanted):
    """{metric: [layer, token]} from the sums of all tiles, each relative to the maxima of its own tile."""
    sums = sums | _total(sums)
    shift, log_total = sums["shift"], sums["log_total"]
    every, last, lower, upper = slice(None), slice(-1, None), slice(-1), slice(1, None)

    def under(layers):
        return {name: sums[name][..., layers, :] for name in ("scale", "mass", "total")}

    own, out = _mean(sums["self"], under(every), shift), {}
    if "entropy" in wanted:
        out["entropy"] = log_total - own
    if "kl_layer_final" in wanted:
        cross = _mean(sums["final"], under(every), shift[:, last])
        out["kl_layer_final"] = own - cross - log_total + log_total[-1]
    if "kl_final_layer" in wanted:
        cross = _mean(sums["from_final"], under(last), shift)
        out["kl_final_layer"] = own[-1] - cross - log_total[-1] + log_total
    for kl in out.keys() - {"entropy"}:
        out[kl][-1] = 0
    if "kl_adjacent" in wanted:
        cross = _mean(sums["above"][:, lower], under(lower), shift[:, upper])
        adjacent = own[lower] - cross - log_total[lower] + log_total[upper]
        out["kl_adjacent"] = torch.cat([torch.full_like(own[:1], torch.nan), adjacent])
    return {name: values.clamp_(min=0) for name, values in out.items()} | _finish_tops(sums, wanted)


def _finish_tops(sums, wanted):
    """The metrics [layer, token] of single tokens: the top ones and the targets."""
    out = {}
    if "top1" in wanted:
        out["top1"] = sums["top1"].gather(0, sums["max"].argmax(0)[None])[0]
    if "top1_probability" in wanted:
        out["top1_probability"] = 1 / sums["total"]
    if "top5" in wanted:
        out["top5"] = torch.stack([sums["top5"][layer][1] for layer in range(len(sums["top"]))])
    if "target_log_probability" in wanted:
        out["target_log_probability"] = sums["target"] - sums["top"] - sums["log_total"]
    if "target_rank" in wanted:
        out["target_rank"] = 1 + sums["better"]
    return out


def _norms(rows):
    return torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float32)


def _descend(chunk, holds, norm, largest):
    """The first layer [token] from which a rule holds to the end, of the tokens of one chunk.

    holds(normed, index): how far within the rule the tokens `index` [k] are, whose final-normed residuals are
    [k, d]: above 0 if it holds, in logits or nats. largest(): the largest norm of an unembedding row.
    """
    last, tokens = len(chunk) - 1, len(chunk[-1])
    everyone = alive = torch.arange(tokens, device=chunk[-1].device)
    out = torch.full_like(alive, last)
    for layer in range(last - 1, -1, -1):
        normed = norm(chunk[layer] if len(alive) == tokens else chunk[layer][alive])
        margin = holds(normed, alive)
        if len(alive) < tokens and not (margin.abs() > _ROUNDING * largest() * _norms(normed)).all():
            # A product's rounding depends on its shape: give it the curve's, with zeros for the others.
            whole = normed.new_zeros(tokens, normed.shape[1]).index_copy_(0, alive, normed)
            margin = holds(whole, everyone)[alive]
        alive = alive[margin > 0]
        out[alive] = layer
        if not len(alive):
            break
    return out


def _tiles(normed, unembedding, columns, buffer):
    """Yield the first row and the logits [token, column] of every block of the vocabulary."""
    for start in range(0, len(unembedding.weight), columns):
        weight = _floats(unembedding.weight[start : start + columns])
        z = buffer[: len(normed) * len(weight)].view(len(normed), -1)
        yield start, _logits(normed, weight, unembedding.softcap, out=z)


def _stack(tiles):
    """{name: [block, token]} of a list of {name: [token]}, without the softmax tile itself."""
    tiles = list(tiles)
    return {name: torch.stack([tile[name] for tile in tiles]) for name in tiles[0] if name != "p"}


def _kl_below(normed_last, unembedding, columns, buffers, threshold):
    """`holds` of `_descend` for KL(final ‖ layer) < threshold; keeps the final softmax, unnormalised."""
    tokens, wanted = len(normed_last), {"kl_final_layer"}
    logits, first, second, kept = buffers
    kept = [
        part.view(tokens, -1) for part in kept[: tokens * len(unembedding.weight)].split(tokens * columns)
    ]

    def tiles(normed, index=None):
        for (_, z), p_final in zip(_tiles(normed, unembedding, columns, logits), kept):
            p, product = (buffer[: z.numel()].view_as(z) for buffer in (first, second))
            if index is None:
                yield _tile(z, None, None, None, (p_final, product), wanted)
            else:
                if len(index) < tokens:
                    p_final = torch.index_select(p_final, 0, index, out=product)
                yield _tile(z, None, p_final, None, (p, p), wanted)

    finals = _stack(tiles(normed_last))
    finals |= _total(finals)
    finals["own"] = _mean(finals["self"], finals, finals["shift"])

    def holds(normed, index):
        final = finals
        if len(index) < tokens:
            final = {name: values[..., index] for name, values in finals.items()}
        layer = _stack(tiles(normed, index))
        layer |= _total(layer)
        cross = _mean(layer["from_final"], final, layer["shift"])
        kl = (final["own"] - cross - final["log_total"] + layer["log_total"]).clamp_(min=0)
        return threshold - kl

    return holds


def _top1_agrees(normed_last, unembedding, columns, buffers):
    """`holds` of `_descend` for the layer's top-1 token being the final one, the first of equals."""
    (buffer,) = buffers

    def best(tops):
        tops = _stack(tops)
        values, block = tops["max"].max(0)
        return values, tops["top1"].gather(0, block[None])[0] + block * columns

    _, top1 = best([_top(z) for _, z in _tiles(normed_last, unembedding, columns, buffer)])

    def holds(normed, index):
        own, others, aim = torch.zeros(len(index), 1, device=normed.device), [], top1[index][:, None]
        for start, z in _tiles(normed, unembedding, columns, buffer):
            at = (aim - start).clamp_(0, z.shape[1] - 1)
            value, here = z.gather(1, at), at + start == aim
            own = torch.where(here, value, own)
            z.scatter_(1, at, value.masked_fill(here, -torch.inf))
            others.append(_top(z))
        own, aim, (other, row) = own[:, 0], aim[:, 0], best(others)
        return torch.where((own == other) & (aim < row), torch.finfo(own.dtype).tiny, own - other)

    return holds
