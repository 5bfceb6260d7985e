"""Commitment layers without the curve: from the top layer down, leaving out what can no longer change them.

`commitment_from_top` equals `convergence`'s rules on the curves of `lens`, token by token, to the last bit.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from nbhelpers.measures import lens, lens_tiles
from nbhelpers.models.unembedding import Unembedding

COMMITMENT_RULES = ("kl_stays", "top1_strict")
# Products of differently many rows may round differently, by less than this part of the norms' product.
_ROUNDING = 5e-7


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
    lens.check(residuals, unembedding, lens.METRICS)
    device, columns = unembedding.weight.device, lens.tile_columns(unembedding, columns)
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
        weight = lens_tiles.floats(unembedding.weight[start : start + columns])
        z = buffer[: len(normed) * len(weight)].view(len(normed), -1)
        yield start, lens_tiles.logits(normed, weight, unembedding.softcap, out=z)


def _stack(parts):
    """{name: [block, token]} of a list of {name: [token]}, without the softmax tile itself."""
    parts = list(parts)
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0] if name != "p"}


def _kl_below(normed_last, unembedding, columns, buffers, threshold):
    """`holds` of `_descend` for KL(final ‖ layer) < threshold; keeps the final softmax, unnormalised."""
    tokens, wanted = len(normed_last), {"kl_final_layer"}
    logits, first, second, kept = buffers
    kept = [
        part.view(tokens, -1) for part in kept[: tokens * len(unembedding.weight)].split(tokens * columns)
    ]

    def blocks(normed, index=None):
        for (_, z), p_final in zip(_tiles(normed, unembedding, columns, logits), kept):
            p, product = (buffer[: z.numel()].view_as(z) for buffer in (first, second))
            if index is None:
                yield lens_tiles.sums_of(z, None, None, None, (p_final, product), wanted)
            else:
                if len(index) < tokens:
                    p_final = torch.index_select(p_final, 0, index, out=product)
                yield lens_tiles.sums_of(z, None, p_final, None, (p, p), wanted)

    finals = _stack(blocks(normed_last))
    finals |= lens_tiles.total(finals)
    finals["own"] = lens_tiles.mean(finals["self"], finals, finals["shift"])

    def holds(normed, index):
        final = finals
        if len(index) < tokens:
            final = {name: values[..., index] for name, values in finals.items()}
        layer = _stack(blocks(normed, index))
        layer |= lens_tiles.total(layer)
        cross = lens_tiles.mean(layer["from_final"], final, layer["shift"])
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

    _, top1 = best([lens_tiles.top(z) for _, z in _tiles(normed_last, unembedding, columns, buffer)])

    def holds(normed, index):
        own, others, aim = torch.zeros(len(index), 1, device=normed.device), [], top1[index][:, None]
        for start, z in _tiles(normed, unembedding, columns, buffer):
            at = (aim - start).clamp_(0, z.shape[1] - 1)
            value, here = z.gather(1, at), at + start == aim
            own = torch.where(here, value, own)
            z.scatter_(1, at, value.masked_fill(here, -torch.inf))
            others.append(lens_tiles.top(z))
        own, aim, (other, row) = own[:, 0], aim[:, 0], best(others)
        return torch.where((own == other) & (aim < row), torch.finfo(own.dtype).tiny, own - other)

    return holds
