"""The logit lens of every layer, reduced to a few numbers per token.

The full logits [layer, token, vocabulary] are never in memory. Tokens are taken `rows` at a time and the vocabulary
`columns` at a time. Each such tile handles the final layer first, then the others from top to bottom, and keeps a few sums
over each softmax. After the last tile of the vocabulary the sums are merged. Memory is a handful of tiles, whatever the
number of layers and tokens and the size of the vocabulary. `measures/lens_tiles` does the work on one tile. This module
knows nothing about models or generation: it takes residuals and an `Unembedding`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nbhelpers.measures import lens_tiles
from nbhelpers.models.unembedding import Unembedding, cap, logits, rounding

METRICS = ("kl_final_layer", "kl_layer_final", "kl_adjacent", "entropy", "top1")
TARGET_METRICS = ("target_log_probability", "target_rank")
MORE_METRICS = ("top1_probability", "top5", *TARGET_METRICS)
_SUMS = ("max", "mass", "self", "final", "above", "from_final")
_INTEGERS = ("top1", "top5", "target_rank")
_IDS = ("top1", "top5")


class LensError(RuntimeError):
    """The lens of the last layer does not reproduce the model's own logits."""


@torch.no_grad()
def lens_logits(residual: Tensor, unembedding: Unembedding) -> Tensor:
    """Return the logit lens of residuals [token, d] from any one layer, float32 logits [token, real vocabulary].

    lens_logits = cap(W norm(h)),  cap(z) = softcap · tanh(z / softcap), the identity without a soft cap
    Use it for a few tokens only: `lens_metrics` never holds this matrix.
    """
    return unembedding.logits(residual)


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
    """Return metrics of each layer's lens distribution, {metric: [layer, token]}, on the device of the unembedding.

    kl_final_layer = Σ_v p_L(v) (log p_L(v) − log p_ℓ(v)), nats, 0 at the last layer by definition
    kl_layer_final = Σ_v p_ℓ(v) (log p_ℓ(v) − log p_L(v)), nats, 0 at the last layer by definition
    kl_adjacent = Σ_v p_{ℓ−1}(v) (log p_{ℓ−1}(v) − log p_ℓ(v)), nats, NaN at layer 0
    entropy = −Σ_v p_ℓ(v) log p_ℓ(v), nats
    top1 = argmax_v p_ℓ(v), int64, the model's own token id
    top1_probability = max_v p_ℓ(v)
    top5 = the ids of the five largest p_ℓ(v) [layer, token, 5], largest first, equal ones in order of row
    target_log_probability = log p_ℓ(target), nats;  target_rank = 1 + #{v : z_ℓ(v) > z_ℓ(target)}, int64
    p_ℓ = softmax(z_ℓ) with z_ℓ the `lens_logits` of layer ℓ, p_L that of the last
    residuals: the residual stream after every block, before the final norm, [layer, token, d] or a list of [token, d].
    `METRICS` are the default; the last four are computed only on request. targets: one id a token [token]. The norm runs in
    the model's dtype; logits, softmax and sums are float32, also for bfloat16 models. rows, columns: tile of tokens ×
    vocabulary; they change speed and memory, not results. columns=None takes 4,096 on a CPU, where a tile then fits in
    cache, and 32,768 elsewhere. compile fuses the work on a tile with torch.compile, which pays off from some ten thousand
    tokens; a machine that has no compiler says so and goes on without. ValueError names an unknown metric, mismatched
    residuals, missing targets or a target that is not in the real vocabulary. nostalgebraist (2020), "interpreting GPT: the
    logit lens".
    """
    check(residuals, unembedding, metrics)
    wanted, device, tokens = frozenset(metrics), unembedding.weight.device, len(residuals[0])
    targets = _target_rows(targets, tokens, unembedding) if wanted.intersection(TARGET_METRICS) else None
    columns, rows = tile_columns(unembedding, columns), max(1, min(rows, tokens))
    compiled = lens_tiles.compiled_sums(device.type) if compile else None
    buffers = [torch.empty(rows * columns, device=device) for _ in range(6)]
    out = _empty(metrics, len(residuals), tokens, unembedding)
    for start in range(0, tokens, rows):
        here = slice(start, start + rows)
        chunk = [residual[here].to(device) for residual in residuals]
        more = _more(chunk, unembedding, None if targets is None else targets[here], wanted)
        sums = _sums(chunk, unembedding, columns, wanted, buffers, compiled, more)
        for name, values in _finish(sums, wanted).items():
            out[name][:, here] = unembedding.token_ids[values] if name in _IDS else values
    return out


@torch.no_grad()
def check_identity(
    residual_last: Tensor, own: Tensor, unembedding: Unembedding, *, tolerance: float | None = None
) -> float:
    """Return the largest error of the last layer's lens against the logits z of the model itself, as a share of their range.

    check_identity = max |lens_logits(residual_last) − z| / (max z − min z)
    residual_last [token, d] and own z [token, model vocabulary] are of the same positions. Raises LensError above
    tolerance (None: `rounding` of the logits' dtype). The usual cause is a residual after the final norm, such as
    transformers' `hidden_states[-1]`, to which the lens then applies the norm a second time.
    """
    error = unembedding.error(residual_last, own)
    limit = rounding(own.dtype) if tolerance is None else tolerance
    if not error <= limit:
        raise LensError(
            f"The last layer's lens differs from the model's own logits by {error:.2g} of their range "
            f"(limit {limit:g}): pass the residual after the last block and before the final norm, which must "
            "not be applied twice, and the model's own unembedding, soft cap and factor of the logits."
        )
    return error


def greedy_ties(
    top1: np.ndarray, generated: np.ndarray, gap: np.ndarray, dtype: torch.dtype, what: str
) -> np.ndarray:
    """Return which generated tokens are not the arg max of the forced pass, bool [token]: near-ties, tipped by rounding.

    greedy_ties[t] = [argmax_v z_t(v) ≠ token t]
    top1, generated: ids [token]. gap [token]: log max_v p(v) − log p(generated), nats, of the model's own distribution in the
    forced pass. dtype: the model's. what: the model in messages. Greedy text may lie behind the best token by 0.01 nats in
    float32 and by 2 in half precision, whose logits are that coarse in deep models (0.24 in bfloat16 pocket pairs);
    LensError beyond.
    """
    tied = top1 != generated
    limit, worst = 0.01 if dtype == torch.float32 else 2.0, float(np.max(gap, where=tied, initial=0.0))
    if not worst <= limit:
        raise LensError(
            f"{what}: a generated token is {worst:.2g} nats less likely than the best one of the forced pass (limit "
            f"{limit:g}): the text is not this model's greedy text, or its cached and its forced pass differ."
        )
    return tied


def tile_columns(unembedding: Unembedding, columns: int | None = None) -> int:
    """Return how many vocabulary rows a tile takes: `columns` or the device's default, at most the whole vocabulary."""
    usual = 4096 if unembedding.weight.device.type == "cpu" else 32768
    return min(columns or usual, len(unembedding.weight))


def check(residuals, unembedding, metrics):
    """Raise ValueError for unknown or no metrics, residuals of other shapes, or another number of token ids than rows."""
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


def _empty(metrics, layers, tokens, unembedding):
    """Return the empty arrays that `lens_metrics` fills."""
    shapes = dict.fromkeys(metrics, (layers, tokens))
    shapes |= {"top5": (layers, tokens, min(5, len(unembedding.weight)))} if "top5" in shapes else {}
    dtypes = {name: torch.int64 if name in _INTEGERS else torch.float32 for name in metrics}
    device = unembedding.weight.device
    return {name: torch.empty(shapes[name], dtype=dtypes[name], device=device) for name in metrics}


def _target_rows(targets, tokens, unembedding):
    """Return the unembedding row of each target id, [token]."""
    if targets is None or tuple(targets.shape) != (tokens,):
        given = "none" if targets is None else list(targets.shape)
        raise ValueError(f"Target metrics need targets, one id for each of {tokens} tokens, not {given}.")
    return unembedding.rows(targets)


def _sums(chunk, unembedding, columns, wanted, buffers, compiled, more):
    """Return {name: [block, layer, token]}, the sums of `lens_tiles.sums_of` for each layer and vocabulary block.

    compiled: that function, compiled, or None. more: the pair that `_more` returns; its notes are added to the sums.
    """
    layers, tokens, norm, softcap = len(chunk), len(chunk[0]), unembedding.norm, unembedding.softcap
    starts = range(0, len(unembedding.weight), columns)
    sums = {name: torch.zeros(len(starts), layers, tokens, device=chunk[0].device) for name in _SUMS}
    sums["top1"] = sums["max"].long()
    tile_sums, (read, noted) = compiled or lens_tiles.sums_by_parts, more
    for block, start in enumerate(starts):
        weight = lens_tiles.floats(unembedding.weight[start : start + columns])
        final, *others, p_final, p, product = (b[: tokens * len(weight)].view(tokens, -1) for b in buffers)
        if compiled:
            p_final = p = product = None
        z = logits(norm(chunk[-1]), weight, softcap, out=final)
        read(z, layers - 1, start, product)
        found = [tile_sums(z, None, None, None, (p_final, product), wanted)]
        final, p_final = z, found[0].pop("p")
        above = (z, torch.zeros_like(found[0]["max"])) if compiled else z
        for layer in range(layers - 2, -1, -1):
            z = logits(norm(chunk[layer]), weight, softcap, out=others[layer % 2])
            read(z, layer, start, product)
            found.append(tile_sums(z, final, p_final, above, (p, product), wanted))
            above = (z, found[-1]["max"]) if compiled else z
        for layer, tile in enumerate(reversed(found)):
            for name, values in tile.items():
                sums[name][block, layer] = values
        sums["top1"][block] += start
    return sums | noted


def _more(chunk, unembedding, targets, wanted):
    """Return (read, noted): read(z, layer, start, scratch) takes from one tile what the optional metrics need.

    noted: the results so far, "target" and "better" [layer, token], "top5" {layer: (values, rows)}.
    """
    noted = {"top5": {}}
    if targets is not None:
        weight = unembedding.weight[targets].float()
        target = torch.stack([torch.linalg.vecdot(unembedding.norm(h).float(), weight) for h in chunk])
        noted["target"] = cap(target, unembedding.softcap)
        noted["better"] = torch.zeros_like(target, dtype=torch.int64)

    def read(z, layer, start, scratch):
        if targets is not None:
            target = noted["target"][layer][:, None]
            # The target's logit must be the same number everywhere: another product may round it to another rank.
            at = (targets - start).clamp_(0, z.shape[1] - 1)[:, None]
            z.scatter_(1, at, torch.where(targets[:, None] == at + start, target, z.gather(1, at)))
            noted["better"][layer] += torch.gt(z, target, out=scratch).sum(-1).long()
        if "top5" in wanted:
            values, rows = lens_tiles.best(z, 5)
            earlier = noted["top5"].get(layer, (values[:, :0], rows[:, :0]))
            values, rows = torch.cat([earlier[0], values], 1), torch.cat([earlier[1], rows + start], 1)
            order = values.argsort(dim=1, descending=True, stable=True)[:, :5]
            noted["top5"][layer] = values.gather(1, order), rows.gather(1, order)

    return read, noted


def _finish(sums, wanted):
    """Return {metric: [layer, token]} from the sums of all tiles, each relative to the maxima of its own tile."""
    sums = sums | lens_tiles.total(sums)
    shift, log_total = sums["shift"], sums["log_total"]
    every, last, lower, upper = slice(None), slice(-1, None), slice(-1), slice(1, None)

    def under(layers):
        return {name: sums[name][..., layers, :] for name in ("scale", "mass", "total")}

    own, out = lens_tiles.mean(sums["self"], under(every), shift), {}
    if "entropy" in wanted:
        out["entropy"] = log_total - own
    if "kl_layer_final" in wanted:
        cross = lens_tiles.mean(sums["final"], under(every), shift[:, last])
        out["kl_layer_final"] = own - cross - log_total + log_total[-1]
    if "kl_final_layer" in wanted:
        cross = lens_tiles.mean(sums["from_final"], under(last), shift)
        out["kl_final_layer"] = own[-1] - cross - log_total[-1] + log_total
    for kl in out.keys() - {"entropy"}:
        out[kl][-1] = 0
    if "kl_adjacent" in wanted:
        cross = lens_tiles.mean(sums["above"][:, lower], under(lower), shift[:, upper])
        adjacent = own[lower] - cross - log_total[lower] + log_total[upper]
        out["kl_adjacent"] = torch.cat([torch.full_like(own[:1], torch.nan), adjacent])
    return {name: values.clamp_(min=0) for name, values in out.items()} | _finish_tops(sums, wanted)


def _finish_tops(sums, wanted):
    """Return the metrics [layer, token] of the top tokens and of the targets."""
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
