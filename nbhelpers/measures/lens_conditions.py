"""The logit lens of many conditions over the same tokens, each compared with its baseline and with a teacher.

`compare` takes one residual stream per condition. A residual that several conditions share is unembedded once. Memory holds
the logits of a few tokens at one layer of each condition, never layers × vocabulary. This module knows nothing of models,
prompts or grafts.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nbhelpers.measures.lens_tiles import jaccard
from nbhelpers.models.unembedding import Unembedding, cap

DIVERGENCES = ("kl_layer_final", "kl_final_layer", "kl_layer_baseline_final", "kl_layer_teacher_final",
               "kl_layer_teacher", "kl_teacher_layer", "js_teacher")  # fmt: skip
INTEGERS = ("top1", "target_rank")
READOUTS = (*DIVERGENCES, "entropy", "target_log_probability", *INTEGERS)
OVERLAP, N_CANDIDATES = "candidate_overlap", 20
CELLS = 1 << 23
# A tile of logits should fit in a core's cache, and a matrix product should have some hundred rows.
_CACHED, _STATES, _GROUP = 1 << 19, 8, 64


@torch.no_grad()
def compare(
    residuals: Sequence[Sequence[Tensor]],
    unembedding: Unembedding,
    targets: Tensor,
    *,
    teacher: int,
    baseline: Sequence[int],
    layers: Sequence[int] | None = None,
    cells: int | None = None,
    candidates: tuple[Sequence[int], Sequence[int]] | None = None,
) -> dict[str, Tensor]:
    """Return the measures in `READOUTS`, {name: [condition, layer, token]}: float32 nats, or int64 (`INTEGERS`).

    kl_layer_final = KL(p_ℓ ‖ p_L);  kl_final_layer = KL(p_L ‖ p_ℓ);  KL(a ‖ b) = Σ_v a(v) (log a(v) − log b(v))
    kl_layer_baseline_final = KL(p_ℓ ‖ b_L);  kl_layer_teacher_final = KL(p_ℓ ‖ q_L)
    kl_layer_teacher = KL(p_ℓ ‖ q_ℓ);  kl_teacher_layer = KL(q_ℓ ‖ p_ℓ)
    js_teacher = H((p_ℓ + q_ℓ) / 2) − (H(p_ℓ) + H(q_ℓ)) / 2;  entropy = H(p_ℓ) = −Σ_v p_ℓ(v) log p_ℓ(v)
    target_log_probability = log p_ℓ(target);  top1 = argmax_v p_ℓ(v);  target_rank = 1 + #{v : z_ℓ(v) > z_ℓ(target)}
    candidate_overlap = |A ∩ B| / |A ∪ B|, A and B the `N_CANDIDATES` most probable tokens of p_ℓ and b_ℓ
    p_ℓ is the lens distribution (logits z_ℓ) of the condition at layer ℓ, b_ℓ of its baseline, q_ℓ of the teacher; L is the
    last layer. residuals: [condition][layer][token, d] after each block, before the final norm; a shared tensor is
    unembedded once. targets: the id of the next token, [token]. teacher: index of the teacher's condition. baseline: index
    of each condition's baseline. layers: those to measure, None for all. cells: logits in each of the buffers
    (None: `cells_for`); they change no result. candidates: (conditions, layers) at which to add `candidate_overlap`, NaN
    elsewhere. ValueError for targets outside the real vocabulary.
    """
    layers = list(range(len(residuals[0])) if layers is None else layers)
    rows, weight = unembedding.rows(targets), unembedding.weight
    weight, states = weight if weight.is_cuda else weight.float(), max(_STATES, len(residuals))
    cells = cells_for(rows.device) if cells is None else cells
    size = tile_rows(len(weight), states, len(rows), cells, cached=not rows.is_cuda)
    out = _empty(len(residuals), len(layers), len(rows), rows.device)
    if candidates is not None:
        out[OVERLAP] = torch.full_like(out["entropy"], torch.nan)
    counts = len(residuals), len(residuals), states, *[1] * 5
    tiles = [rows.new_empty(n * size * len(weight), dtype=torch.float32) for n in counts]
    plan = distinct(residuals, layers, teacher)
    for start in range(0, len(rows), size):
        here = slice(start, start + size)
        chunk = [[h[here].to(rows.device) for h in stack] for stack in residuals]
        part = {name: values[..., here] for name, values in out.items()}
        note = _overlaps(*(candidates or ([], [])), layers, baseline, part)
        _compare_rows(chunk, unembedding, weight, rows[here], plan, tiles, teacher, baseline, note, part)
    return _settled(out, unembedding, layers, len(residuals[0]) - 1)


def tile_rows(vocabulary: int, states: int, tokens: int, cells: int, *, cached: bool = True) -> int:
    """Return how many tokens go together within `cells`; if `cached` (CPU), as many as fit its cache or fill a product."""
    wanted = max(_CACHED // vocabulary, 512 // states) if cached else tokens
    return max(1, min(tokens, cells // (states * vocabulary), wanted))


def cells_for(device: torch.device) -> int:
    """Return how many logits of one kind to hold: `CELLS` on a CPU; on a GPU, as many as fit in half its free memory."""
    if device.type != "cuda":
        return CELLS
    free, _ = torch.cuda.mem_get_info(device)
    return max(CELLS, free // (8 * 4 * 4))


def _empty(conditions, layers, tokens, device):
    dtypes = {name: torch.int64 if name in INTEGERS else torch.float32 for name in READOUTS}
    shape = conditions, layers, tokens
    return {name: torch.empty(shape, dtype=dtype, device=device) for name, dtype in dtypes.items()}


def _settled(out, unembedding, layers, last):
    """Return `out` with ids in place of rows, rounding errors below 0 removed, and 0 as the last layer's KL to itself."""
    out["top1"] = unembedding.token_ids[out["top1"]]
    for name in (*DIVERGENCES, "entropy"):
        out[name].clamp_(min=0)
    for name in DIVERGENCES[:2]:
        out[name][:, [layer == last for layer in layers]] = 0
    return out


def distinct(
    residuals: Sequence[Sequence[Tensor]], layers: Sequence[int], teacher: int
) -> list[tuple[int, int, list[int]]]:
    """Return (index, layer, conditions that share the residual) of every distinct residual, the teacher's first."""
    found = []
    for index, layer in enumerate(layers):
        sharing = {id(residuals[teacher][layer]): []}
        for condition, stack in enumerate(residuals):
            sharing.setdefault(id(stack[layer]), []).append(condition)
        found += [(index, layer, conditions) for conditions in sharing.values()]
    return found


def _compare_rows(chunk, unembedding, weight, targets, plan, tiles, teacher, baseline, note, out):
    """Fill out {name: [condition, layer, token]} for the tokens of one chunk [condition][layer][token, d].

    note: a function of (index of a layer, conditions, logits), called before the logits are overwritten (`_overlaps`).
    """
    log_final, p_final, logits, p, work, mixed, *held = _shaped(tiles, len(targets), len(weight))
    _unembed([stack[-1] for stack in chunk], unembedding, weight, log_final)
    for final in zip(log_final, p_final):
        _tile(*final, targets, None, [], (work, mixed))
    read = _reader((log_final, p_final), targets, teacher, baseline, held, (work, mixed), out)
    last = len(chunk[0]) - 1
    for index, layer, sharing in plan:
        if layer == last:
            z = logits[0].copy_(log_final[sharing[0]])
            note(index, sharing, z)
            read(index, sharing, z, p)
    lower = [state for state in plan if state[1] != last]
    for at in range(0, len(lower), len(logits)):
        block = lower[at : at + len(logits)]
        _unembed([chunk[sharing[0]][layer] for _, layer, sharing in block], unembedding, weight, logits)
        for (index, _, sharing), z in zip(block, logits):
            note(index, sharing, z)
            read(index, sharing, z, p)


def _shaped(tiles, tokens, vocabulary):
    """Return views of flat tiles: two [condition, token, row], one [state, token, row], the others [token, row]."""
    size, whole = tokens * vocabulary, len(tiles[-1])
    views = [tile[: len(tile) // whole * size].view(-1, tokens, vocabulary) for tile in tiles]
    return views[:3] + [view[0] for view in views[3:]]


def _unembed(states, unembedding, weight, out):
    """Write the float32 logits of residuals [token, d] into out [state, token, row]; never rounded to bfloat16."""
    normed, out = unembedding.norm(torch.stack(states)).flatten(0, 1), out[: len(states)].flatten(0, 1)
    if weight.dtype == torch.float32:
        torch.mm(normed.float(), weight.T, out=out)
    else:
        out.copy_(torch.mm(normed, weight.T, out_dtype=torch.float32))
    cap(out, unembedding.softcap)


def _tile(z, p, targets, teacher, ends, scratch):
    """Return {name: [token]} of one layer's logits z [token, row]; overwrites z with log p and the buffer p with p.

    teacher: q, log q and entropy of the teacher's same layer, or None. ends: (log p, p) of last layers i: ("to", i) is the
    KL to them, ("from", i) the cross-entropy from them, or nothing if p is None. scratch: two tiles to write into.
    """
    work, mixed = scratch

    def mean(values, under):
        return torch.mul(under, values, out=work).sum(-1)

    target, top = z.gather(1, targets[:, None]), z.amax(-1, keepdim=True)
    found = {"target_rank": 1 + torch.gt(z, target, out=work).sum(-1).long(), "top1": _top(z)}
    # As in the lens: exp2 is faster than exp on a CPU, and denormals are slow.
    mass = torch.mul(z.sub_(top), math.log2(math.e), out=p).clamp_(min=-115.0).exp2_().sum(-1, keepdim=True)
    p.div_(mass), z.sub_(mass.log())
    found["target_log_probability"] = (target - top - mass.log())[:, 0]
    found["entropy"] = entropy = -mean(z, p)
    if teacher is not None:
        q, log_q, of_teacher = teacher
        crossed = 1 - mean(torch.log2(torch.add(p, q, out=mixed).clamp_(min=1e-30), out=work), mixed) / 2
        found["js_teacher"] = math.log(2) * crossed - (entropy + of_teacher) / 2
        found["kl_layer_teacher"] = -entropy - mean(log_q, p)
        found["kl_teacher_layer"] = -of_teacher - mean(z, q)
    for i, (log_end, p_end) in enumerate(ends):
        found["to", i] = -entropy - mean(log_end, p)
        if p_end is not None:
            found["from", i] = -mean(z, p_end)
    return found


def _top(z):
    """Return the first column of each row's maximum; by way of group maxima, several times as fast as argmax on a CPU."""
    whole = z.shape[1] // _GROUP * _GROUP
    rest = z[:, whole:].max(-1) if whole < z.shape[1] else None
    if not whole:
        return rest.indices
    groups = z[:, :whole].unflatten(1, (-1, _GROUP))
    top, group = groups.amax(-1).max(-1)
    best = group * _GROUP + groups[torch.arange(len(z), device=z.device), group].argmax(-1)
    return best if rest is None else torch.where(rest.values > top, rest.indices + whole, best)


def _overlaps(conditions, near, layers, baseline, out):
    """Return note(index, conditions, z), which keeps the best tokens of logits z [token, row] and fills out's overlaps."""
    wanted, best = {*conditions, *(baseline[i] for i in conditions)}, {}

    def note(index, sharing, z):
        mine = wanted.intersection(sharing) if layers[index] in near else ()
        if mine:
            best.update(
                dict.fromkeys(((index, i) for i in mine), z.topk(min(N_CANDIDATES, z.shape[1])).indices)
            )
        for i in conditions if mine else ():
            pair = (index, i), (index, baseline[i])
            if mine.intersection((i, baseline[i])) and all(key in best for key in pair):
                out[OVERLAP][i, index] = jaccard(*(best[key] for key in pair))

    return note


def _reader(final, targets, teacher, baseline, held, scratch, out):
    """Return read(index, conditions, z, p), which fills out for the conditions that share the logits z of one layer."""
    (log_final, p_final), (q, log_q), of_teacher = final, held, {}
    own = [-(log_end * p_end).sum(-1) for log_end, p_end in zip(*final)]

    def read(index, conditions, z, p):
        ends = sorted({*conditions, *(baseline[i] for i in conditions), teacher})
        given = [(log_final[end], p_final[end] if end in conditions else None) for end in ends]
        beside = None if teacher in conditions else (q, log_q, of_teacher["entropy"])
        found = _tile(z, p, targets, beside, given, scratch)
        if teacher in conditions:
            q.copy_(p), log_q.copy_(z), of_teacher.update(entropy=found["entropy"])
            found |= dict.fromkeys(DIVERGENCES[4:], 0.0)
        for name in found.keys() & set(READOUTS):
            out[name][conditions, index] = found[name]
        for i in conditions:
            for name, end in zip(("", "_baseline", "_teacher"), (i, baseline[i], teacher)):
                out[f"kl_layer{name}_final"][i, index] = found["to", ends.index(end)]
            out["kl_final_layer"][i, index] = found["from", ends.index(i)] - own[i]

    return read
