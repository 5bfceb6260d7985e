"""Matched prefix: hybrids of a pair forced through the same tokens, read layer by layer beside host and teacher.

One model, the teacher, has written a reply; every condition reads exactly those tokens. Conditions differ only in the
MLPs of some layers, so what differs in their readings is due to these. Each condition is one teacher-forced batched
forward, resumed from its baseline's where it starts to differ. A layer that two conditions share is read once, and the
reading holds the logits of a few tokens at one layer of each condition: nothing of layers × vocabulary. Experiments 11,
13 and 14.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers import convergence, geometry, lens, params, progress, stats, support, tuned_lens
from nbhelpers.capture import Batch
from nbhelpers.decoding import Continuation, batches_by_length
from nbhelpers.interventions import Edit, InterventionError, Stream, forward, graft, scramble
from nbhelpers.models import Pair, load_tokenizer
from nbhelpers.observation import described, narrow
from nbhelpers.prompts import Prompt, render
from nbhelpers.token_classes import token_classes
from nbhelpers.tokens import TokenizerError

# --- conditions -------------------------------------------------------------------------------------------------------

CONTROLS = ("graft", "block", "self", "permuted", "scrambled")
OTHER = {"pt": "it", "it": "pt"}
# The unmodified model on its own history: whose layers every condition is compared with.
TEACHER = {"it": "C", "pt": "A'"}


@dataclass(frozen=True)
class Condition:
    """A host that reads a prompt and the teacher's tokens with the MLPs of some layers replaced.

    host: "pt" or "it". prompt_format: "raw" (the text that PT reads natively) or "chat" (IT's turn). baseline: the condition
    of the same host and prompt with nothing replaced. window: the name of `layers`. control: what takes the MLPs' place,
    see `condition_edits`.
    """

    name: str
    host: str
    prompt_format: str
    baseline: str
    window: str = ""
    layers: tuple[int, ...] = ()
    control: str = "graft"


BASELINES = (Condition("C", "it", "chat", "C"), Condition("A'", "pt", "raw", "A'"))
TEMPLATE = Condition("A'_tmpl", "pt", "chat", "A'_tmpl")


def swaps(windows: Mapping[str, Sequence[int]], control: str = "graft") -> list[Condition]:
    """Return B_<window> for every window, IT's MLPs in PT, then D_<window>, PT's in IT.

    A control's name is appended to the condition's, as in "B_late_permuted".
    """
    mark = "" if control == "graft" else f"_{control}"
    return [
        Condition(f"{letter}_{name}{mark}", host, prompt, baseline, name, tuple(layers), control)
        for letter, host, prompt, baseline in (("B", "pt", "raw", "A'"), ("D", "it", "chat", "C"))
        for name, layers in windows.items()
    ]


def symmetric_conditions(n_layers: int) -> list[Condition]:
    """Return the eight conditions of experiment 14: C, A', and B and D with the early, mid and late windows."""
    return [*BASELINES, *swaps(params.windows(n_layers))]


def study_conditions(n_layers: int) -> list[Condition]:
    """Return the eight of `symmetric_conditions` with the template branch: A'_tmpl, and B2, its late graft.

    In B2 and A'_tmpl, PT reads the chat prompt, so that they match the teacher in every token.
    """
    late = tuple(params.windows(n_layers)["late"])
    return [*symmetric_conditions(n_layers), TEMPLATE, Condition("B2", "pt", "chat", "A'_tmpl", "late", late)]


def control_conditions(n_layers: int, windows: Sequence[str] = ("late",)) -> list[Condition]:
    """Return C, A' and, for the named windows, the graft and each of its controls in both hosts."""
    chosen = {name: params.windows(n_layers)[name] for name in windows}
    return [*BASELINES, *(condition for control in CONTROLS for condition in swaps(chosen, control))]


def sliding_windows(n_layers: int, width: int, step: int = 1) -> dict[str, range]:
    """Return windows of one width over all depths, {"3-6": range(3, 7)}, `step` layers apart.

    InterventionError for a width that the model has not.
    """
    if not 1 <= width <= n_layers:
        raise InterventionError(f"A window of {width} layers does not fit: this model has {n_layers}.")
    starts = range(0, n_layers - width + 1, step)
    return {f"{start}-{start + width - 1}": range(start, start + width) for start in starts}


def window_widths(n_layers: int, widths: Sequence[int]) -> dict[str, range]:
    """Return early, mid and late windows of every width, {"late_3": range(L − 3, L)}; see `params.windows`."""
    found = {}
    for width in widths:
        middle = (n_layers - width) // 2
        for name, start in (("early", 0), ("mid", middle), ("late", n_layers - width)):
            found[f"{name}_{width}"] = sliding_windows(n_layers, width)[f"{start}-{start + width - 1}"]
    return found


def shuffled(layers: Sequence[int], seed: int) -> list[int]:
    """Return the layers in a random order that leaves none in its place (one random cycle)."""
    if len(layers) < 2:
        raise InterventionError(
            f"Layers {list(layers)} cannot be permuted: a permuted donor needs two or more."
        )
    order = np.random.default_rng(seed).permutation(layers)
    following = dict(zip(order.tolist(), np.roll(order, 1).tolist()))
    return [following[layer] for layer in layers]


def condition_edits(condition: Condition, pair: Pair, seed: int = 0) -> list[Edit]:
    """Return the edits that make a condition of its host.

    Its control says what takes the MLPs' place. "graft": the other model's MLPs, the host's norms kept. "block": its
    norms too. "self": the host's own, which must change nothing. "permuted": the other model's in a random order of the
    same layers. "scrambled": a change of the same norm in no direction of use (`interventions.scramble`). seed: of the
    two random ones. InterventionError for another control.
    """
    host, donor = getattr(pair, condition.host), getattr(pair, OTHER[condition.host])
    layers = condition.layers
    if condition.control not in CONTROLS:
        raise InterventionError(f"Control {condition.control!r}: choose from {', '.join(CONTROLS)}.")
    if condition.control == "scrambled":
        return scramble(donor, layers, seed=seed)
    if condition.control == "permuted":
        return graft(donor, layers, donor_layers=shuffled(layers, seed))
    scope = "block" if condition.control == "block" else "mlp"
    return graft(host if condition.control == "self" else donor, layers, scope=scope)


# --- reading ----------------------------------------------------------------------------------------------------------

READINGS = (
    "kl_layer_final", "kl_final_layer", "kl_layer_baseline_final", "kl_layer_teacher_final", "kl_layer_teacher",
    "kl_teacher_layer", "js_teacher", "entropy", "top1", "target_log_probability", "target_rank",
)  # fmt: skip
INTEGERS = ("top1", "target_rank")
CELLS = 1 << 23
_GROUP = 64


@torch.no_grad()
def compare(
    residuals: Sequence[Sequence[Tensor]],
    unembedding: lens.Unembedding,
    targets: Tensor,
    *,
    teacher: int,
    baseline: Sequence[int],
    layers: Sequence[int] | None = None,
    cells: int = CELLS,
) -> dict[str, Tensor]:
    """Return {reading: [condition, layer, token]}: every condition's layers through one lens, beside the teacher's.

    residuals: [condition][layer][token, d], after each block and before the final norm; where two conditions hold the
    same tensor, it is read once. targets: the token that follows, [token] ids. teacher: which condition is the
    teacher; baseline: of each condition, its baseline. layers: those to read, all if None; the last layer is always the
    end point. cells: logits held at once, a handful of times over; it changes speed and memory, not results.

    Nats, float32: `kl_layer_final` KL(layer ‖ final) to the condition's own last layer and `kl_final_layer`, the other
    direction, both 0 at the last; `kl_layer_baseline_final` and `kl_layer_teacher_final` KL(layer ‖ final) to the last
    layer of its baseline and of the teacher; `kl_layer_teacher` KL(layer ‖ teacher's same layer), `kl_teacher_layer`
    the other direction, `js_teacher` their Jensen-Shannon divergence (at most log 2); `entropy`;
    `target_log_probability`. int64: `top1` ids and `target_rank`, 1 + the tokens above. ValueError for a target that
    is not in the real vocabulary and for soft-capped logits.

    KL(final ‖ layer) needs no logits beside each other: with w the unembedding rows and x a normed state it is
    E_final[w]·(x_final − x_layer) − log Z_final + log Z_layer.
    """
    if unembedding.softcap:
        raise ValueError("Conditions cannot be compared under a soft cap of the logits: read each by itself.")
    layers = list(range(len(residuals[0])) if layers is None else layers)
    rows = target_rows(targets, unembedding)
    tokens, vocabulary = len(rows), len(unembedding.weight)
    size = max(1, min(tokens, cells // (len(residuals) * vocabulary)))
    weight = unembedding.weight if unembedding.weight.is_cuda else unembedding.weight.float()
    out = _empty(len(residuals), len(layers), tokens, rows.device)
    tiles = [
        torch.empty(n * size * vocabulary, device=rows.device) for n in (*[len(residuals)] * 2, *[1] * 5)
    ]
    plan = distinct(residuals, layers, teacher)
    for start in range(0, tokens, size):
        here = slice(start, start + size)
        chunk = [[h[here].to(rows.device) for h in stack] for stack in residuals]
        part = {name: values[..., here] for name, values in out.items()}
        _compare_rows(chunk, unembedding, weight, rows[here], plan, tiles, teacher, baseline, part)
    return _settled(out, unembedding, layers, len(residuals[0]) - 1)


def _empty(conditions, layers, tokens, device):
    dtypes = {name: torch.int64 if name in INTEGERS else torch.float32 for name in READINGS}
    shape = conditions, layers, tokens
    return {name: torch.empty(shape, dtype=dtype, device=device) for name, dtype in dtypes.items()}


def _settled(out, unembedding, layers, last):
    """The readings with ids for rows, divergences not below 0 by rounding, and none of the last layer to itself."""
    out["top1"] = unembedding.token_ids[out["top1"]]
    for name in READINGS[:8]:
        out[name].clamp_(min=0)
    for name in ("kl_layer_final", "kl_final_layer"):
        out[name][:, [layer == last for layer in layers]] = 0
    return out


def target_rows(targets: Tensor, unembedding: lens.Unembedding) -> Tensor:
    """Return the unembedding row of each target id, [token]; ValueError names ids that are not in it."""
    ids, order = unembedding.token_ids.sort()
    targets = targets.to(ids)
    at = torch.searchsorted(ids, targets).clamp_(max=len(ids) - 1)
    if missing := targets[ids[at] != targets].unique().tolist():
        raise ValueError(f"The tokens {missing[:5]} are not in the real vocabulary of the unembedding.")
    return order[at]


def distinct(
    residuals: Sequence[Sequence[Tensor]], layers: Sequence[int], teacher: int
) -> list[tuple[int, int, list[int]]]:
    """Return (index, layer, conditions that share the residual) of every distinct residual, the teacher's leading."""
    found = []
    for index, layer in enumerate(layers):
        sharing = {id(residuals[teacher][layer]): []}
        for condition, stack in enumerate(residuals):
            sharing.setdefault(id(stack[layer]), []).append(condition)
        found += [(index, layer, conditions) for conditions in sharing.values()]
    return found


class _Final(NamedTuple):
    """The last layers of a chunk: log_p and p [condition, token, row], log_total and best [condition, token], normed
    states and mean unembedding rows [condition, token, d]."""

    log_p: Tensor
    p: Tensor
    log_total: Tensor
    best: Tensor
    normed: Tensor
    mean: Tensor


def _compare_rows(chunk, unembedding, weight, targets, plan, tiles, teacher, baseline, out):
    """Fill out {reading: [condition, layer, token]} for the tokens of one chunk [condition][layer][token, d]."""
    log_final, logits, p, *others = _shaped(tiles, len(targets), len(weight))
    final = _finals(chunk, unembedding, weight, log_final, logits)
    read = _reader(final, targets, teacher, baseline, others, out)
    last = len(chunk[0]) - 1
    for index, layer, (first, *rest) in plan:
        if layer == last:
            read(index, [first, *rest], *(values[first] for values in final[:5]))
    lower = [state for state in plan if state[1] != last]
    for at in range(0, len(lower), len(chunk)):
        block = lower[at : at + len(chunk)]
        normed = unembedding.norm(torch.stack([chunk[sharing[0]][layer] for _, layer, sharing in block]))
        _product(normed, weight, logits[: len(block)])
        for (index, _, sharing), log_p, x in zip(block, logits, normed.float()):
            read(index, sharing, log_p, p, *_log_softmax_(log_p, p), x)


def _shaped(tiles, tokens, vocabulary):
    """Views of flat tiles, [condition, token, row] of the first two and [token, row] of the others."""
    shape = tokens, vocabulary
    size = tokens * vocabulary
    several = [tile[: len(tile) // size * size].view(-1, *shape) for tile in tiles[:2]]
    return several + [tile[:size].view(shape) for tile in tiles[2:]]


def _finals(chunk, unembedding, weight, log_p, p):
    normed = unembedding.norm(torch.stack([stack[-1] for stack in chunk]))
    log_p, p = log_p[: len(chunk)], p[: len(chunk)]
    _product(normed, weight, log_p)
    log_total, best = (torch.stack(each) for each in zip(*map(_log_softmax_, log_p, p)))
    mean = support.mean_rows(p.flatten(0, 1), weight).view_as(normed)
    return _Final(log_p, p, log_total, best, normed.float(), mean)


def _product(normed, weight, out):
    """Put the float32 logits of normed states [..., d] in out [..., row]; never rounded to bfloat16."""
    flat, out = normed.flatten(0, -2), out.flatten(0, -2)
    if weight.dtype == torch.float32:
        torch.mm(flat.float(), weight.T, out=out)
    else:
        out.copy_(torch.mm(flat, weight.T, out_dtype=torch.float32))


def _log_softmax_(z, p):
    """Make logits z [token, row] log-probabilities and p probabilities, in place; return (log sum, top-1 row) [token]."""
    top, best = _top(z)
    z.sub_(top[:, None])
    # As in the lens: exp2 is the faster on a CPU, and denormals are slow.
    mass = torch.mul(z, math.log2(math.e), out=p).clamp_(min=-115.0).exp2_().sum(-1)
    p.div_(mass[:, None])
    z.sub_(mass.log()[:, None])
    return top + mass.log(), best


def _top(z):
    """Each row's maximum and its index, by way of the maxima of groups: several times as fast as max on a CPU."""
    whole = z.shape[1] // _GROUP * _GROUP
    if whole < z.shape[1]:
        rest, at = z[:, whole:].max(-1)
        if not whole:
            return rest, at
    groups = z[:, :whole].unflatten(1, (-1, _GROUP))
    top, group = groups.amax(-1).max(-1)
    best = group * _GROUP + groups[torch.arange(len(z), device=z.device), group].argmax(-1)
    if whole == z.shape[1]:
        return top, best
    return torch.maximum(top, rest), torch.where(rest > top, at + whole, best)


def _reader(final, targets, teacher, baseline, tiles, out):
    """read(index, conditions, log_p, p, log_total, best, x): fills out at one layer of the conditions that share it."""
    q, log_q, work, mixed = tiles
    held = {}

    def mean(values, under):
        return torch.mul(under, values, out=work).sum(-1)

    def divergences(log_p, p, entropy):
        """To and from the teacher's same layer, which q and log_q hold."""
        log_mixed = torch.log2(torch.add(p, q, out=mixed).clamp_(min=1e-30), out=work)
        own = math.log(2) - math.log(2) / 2 * torch.mul(mixed, log_mixed, out=mixed).sum(-1)
        return {
            "js_teacher": own - (entropy + held["entropy"]) / 2,
            "kl_layer_teacher": -entropy - mean(log_q, p),
            "kl_teacher_layer": -held["entropy"] - mean(log_p, q),
        }

    def read(index, conditions, log_p, p, log_total, best, x):
        entropy, target = -mean(log_p, p), log_p.gather(1, targets[:, None])
        found = {"entropy": entropy, "top1": best, "target_log_probability": target[:, 0]}
        found["target_rank"] = 1 + torch.gt(log_p, target, out=work).sum(-1).long()
        if teacher in conditions:
            q.copy_(p), log_q.copy_(log_p)
            held["entropy"] = entropy
            found |= dict.fromkeys(("js_teacher", "kl_layer_teacher", "kl_teacher_layer"), 0.0)
        else:
            found |= divergences(log_p, p, entropy)
        for name, values in found.items():
            out[name][conditions, index] = values
        ends = {*conditions, *(baseline[i] for i in conditions), teacher}
        to = {end: -entropy - mean(final.log_p[end], p) for end in ends}
        for i in conditions:
            out["kl_layer_final"][i, index] = to[i]
            out["kl_layer_baseline_final"][i, index] = to[baseline[i]]
            out["kl_layer_teacher_final"][i, index] = to[teacher]
            cross = torch.linalg.vecdot(final.mean[i], final.normed[i] - x)
            out["kl_final_layer"][i, index] = cross - final.log_total[i] + log_total

    return read


# --- one pass over the prompts ----------------------------------------------------------------------------------------

LENSES = ("raw", "tuned")
NATIVE = {"pt": "raw", "it": "chat"}
READ_DIMS = ("lens", "basis", "condition", "layer", "step")
DESCRIBED = ("host", "prompt_format", "baseline", "window", "control")
UNITS = {
    "kl_layer_final": ("nats", "KL(layer ‖ own final)"),
    "kl_final_layer": ("nats", "KL(own final ‖ layer)"),
    "kl_layer_baseline_final": ("nats", "KL(layer ‖ the baseline's final)"),
    "kl_layer_teacher_final": ("nats", "KL(layer ‖ the teacher model's final)"),
    "kl_layer_teacher": ("nats", "KL(layer ‖ the teacher model's same layer)"),
    "kl_teacher_layer": ("nats", "KL(the teacher model's same layer ‖ layer)"),
    "js_teacher": ("nats", "Jensen-Shannon divergence from the teacher model's same layer"),
    "entropy": ("nats", "entropy of the layer's lens distribution"),
    "top1": ("1", "token id that the layer's lens ranks first"),
    "target_log_probability": ("nats", "log-probability of the teacher's token"),
    "target_rank": ("1", "rank of the teacher's token, 1 is first"),
    "target_log_rank": ("1", "natural logarithm of the rank of the teacher's token"),
    "top1_final": ("1", "share of steps whose layer ranks the final first token first"),
    "commitment": ("layer", "mean commitment layer"),
    "delta_cosine": ("1", "cosine of an update with the residual stream that it is added to"),
    "update_norm": ("1", "Euclidean norm of an update"),
    "residual_cosine_teacher": ("1", "cosine of the residual stream with the teacher model's"),
    "residual_distance_teacher": (
        "1",
        "distance of the residual stream from the teacher model's, over the latter's norm",
    ),
    "nll": ("nats", "negative log-probability of the teacher's token under the condition's own output"),
    "free_top1": ("1", "token id that the condition would write next"),
    "agreement_teacher": ("1", "share of steps where the condition would write the teacher's token"),
    "agreement_baseline": ("1", "share of steps where the condition would write what its baseline would"),
    "first_divergence_teacher": (
        "tokens",
        "first step where it would not; the reply's length if there is none",
    ),
    "first_divergence_baseline": (
        "tokens",
        "first step where it would not; the reply's length if there is none",
    ),
    "effect": ("logits or nats", "first-order change of an axis by the layer's MLP update"),
    "projection": ("1", "length of the layer's MLP update along an axis, in units of the residual"),
    "cosine": ("1", "cosine of the layer's MLP update with an axis"),
    "token_id": ("1", "id of the teacher's token that the step predicts"),
    "token_class": ("1", "class of that token, an index into token_classes.CLASSES"),
    "n_tokens": ("tokens", "tokens of the teacher's reply"),
}


def check_same_ids(pt, it, rows: Sequence[Sequence[int]]) -> None:
    """Raise TokenizerError unless both tokenizers have one token for every id in rows; it names the first that differs."""
    used = list(dict.fromkeys(index for row in rows for index in row))
    ours, theirs = pt.convert_ids_to_tokens(used), it.convert_ids_to_tokens(used)
    for index, our, their in zip(used, ours, theirs):
        if our != their:
            raise TokenizerError(
                f"id {index} is {our!r} to the PT tokenizer and {their!r} to IT's, so both models cannot be forced "
                "through the same ids: use a pair that shares one tokenizer."
            )


def matched_batches(
    prompts: Mapping[str, Sequence[Sequence[int]]],
    continuations: Sequence[Continuation],
    batch_size: int,
    pad_id: int,
) -> Iterator[dict[str, Batch]]:
    """Yield {"raw", "chat": batch} whose measured positions are the same steps in the same order, right-padded.

    prompts: ids of each prompt, by rendering. The last forced token is left out of the input: nothing depends on it.
    """
    longest = [max(map(len, both)) for both in zip(*prompts.values(), strict=True)]
    rows = [range(long + len(c.ids)) for long, c in zip(longest, continuations, strict=True)]
    for chosen in batches_by_length(rows, batch_size):
        yield {name: _forced(chosen, ids, continuations, pad_id) for name, ids in prompts.items()}


def _forced(chosen, prompts, continuations, pad_id):
    rows = [[*prompts[i], *continuations[i].ids[:-1]] for i in chosen]
    ids = torch.full((len(rows), max(map(len, rows))), pad_id)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.as_tensor(row)
        mask[at, : len(row)] = 1
    steps = tuple(range(len(prompts[i]) - 1, len(row)) for i, row in zip(chosen, rows))
    targets = torch.as_tensor([token for i in chosen for token in continuations[i].ids])
    return Batch(np.asarray(chosen), ids, mask, steps, targets)


def streams(
    pair: Pair, batch: Mapping[str, Batch], conditions: Sequence[Condition], seed: int = 0
) -> Iterator[tuple[Condition, Stream]]:
    """Yield each condition with its stream, baselines first, one forward each, every other one resumed from its baseline.

    The lens of a baseline is checked against its model's own logits (`lens.LensError`).
    """
    found = {}
    for condition in sorted(conditions, key=lambda c: c.name != c.baseline):
        host, edits = getattr(pair, condition.host), condition_edits(condition, pair, seed)
        starts = [c.layers[0] for c in conditions if c.baseline == condition.name and c.layers]
        keep = starts if condition.name == condition.baseline else ()
        stream = forward(
            host, batch[condition.prompt_format], edits, resume=found.get(condition.baseline), keep=keep
        )
        if condition.name == condition.baseline:
            lens.check_identity(stream.last_residual, stream.last_logits, host.unembedding)
            found[condition.name] = stream
        yield condition, stream


def shape_of(stream: Stream) -> dict[str, Tensor]:
    """Return `geometry.stream_geometry` of a stream: cosines and norms of what each block, attention and MLP adds."""
    before = [stream.embedding, *stream.residual[:-1]]
    attention = [middle - h for middle, h in zip(stream.middle, before)]
    return geometry.stream_geometry(stream.embedding, stream.residual, attention, stream.mlp_update)


def translated(stacks: Sequence[Sequence[Tensor]], tuned: tuned_lens.TunedLens) -> list[list[Tensor]]:
    """Return stacks of residuals [stack][layer][token, d] translated; a residual that stacks share stays one tensor."""
    seen = {}
    return [
        [
            seen.setdefault((layer, id(h)), moved)
            for layer, (h, moved) in enumerate(zip(stack, tuned_lens.translate(tuned, stack)))
        ]
        for stack in stacks
    ]


def read_bases(
    pair: Pair,
    conditions: Sequence[Condition],
    residuals: Mapping[str, Sequence[Tensor]],
    targets: Tensor,
    lenses: Mapping[str, tuned_lens.TunedLens] | None,
    bases: Sequence[str],
    **options,
) -> dict[str, Tensor]:
    """Return {reading: [lens, basis, condition, layer, token]}; options and readings are those of `compare`.

    residuals: of each condition. basis: "host" reads each condition through its own model's lens, "pt" or "it" all
    through that model's; what two bases share is read once. lenses: tuned lens by variant; None for the raw lens alone.
    `teacher` is a condition's name here.
    """
    names, out = [condition.name for condition in conditions], None
    teacher = names.index(options.pop("teacher"))
    for reader in OTHER:
        through = {i for i, c in enumerate(conditions) if reader in bases or c.host == reader}
        members = sorted(through | {teacher})
        place = {i: at for at, i in enumerate(members)}
        based = [place[names.index(conditions[i].baseline)] for i in members]
        stacks = [[residuals[names[i]] for i in members]]
        stacks += [translated(stacks[0], lenses[reader])] if lenses else []
        for k, stack in enumerate(stacks):
            found = compare(stack, getattr(pair, reader).unembedding, targets, teacher=place[teacher],
                            baseline=based, **options)  # fmt: skip
            shape = len(stacks), len(bases), len(conditions)
            out = out or {name: values.new_empty(*shape, *values.shape[1:]) for name, values in found.items()}
            for b, basis in enumerate(bases):
                mine = [i for i in members if reader == (conditions[i].host if basis == "host" else basis)]
                for name, values in found.items():
                    out[name][k, b, mine] = values[[place[i] for i in mine]]
    return out


def measure(
    pair: Pair,
    prompts: Mapping[str, Sequence[Sequence[int]]],
    continuations: Sequence[Continuation],
    conditions: Sequence[Condition],
    *,
    lenses: Mapping[str, tuned_lens.TunedLens] | None = None,
    teacher: str = "it",
    shared: Sequence[str] = ("pt",),
    layers: Sequence[int] | None = None,
    projected: Sequence[str] = (),
    batch_size: int = 8,
    cells: int = CELLS,
    seed: int = 0,
) -> Iterator[xr.Dataset]:
    """Yield every reading at every step, batch by batch of whole replies; `by_prompt` and `support` reduce them.

    prompts: ids of each prompt, "raw" and "chat". continuations: the teacher's replies, whose tokens all conditions
    read. conditions: see `study_conditions`; the teacher's own, C or A', and every baseline must be among them. lenses:
    tuned lens by variant; None leaves only the raw lens. teacher: "it" or "pt". shared: variants whose lens reads all
    conditions, beside each host's own. layers: those to read; the last always is. projected: conditions whose MLP
    updates `support.projections` reads in the final fifth. cells: logits held at once. seed: of random controls.

    Dims: the readings of `compare` (lens, basis, condition, layer, step); `delta_cosine`, `update_norm` (component,
    condition, layer, step); `residual_cosine_teacher`, `residual_distance_teacher` (condition, layer, step); `nll`,
    `free_top1` (condition, step); `effect`, `projection`, `cosine` (axis, condition, layer, step), NaN where not asked
    for; `token_id`, `token_class` (step). InterventionError for a condition that is missing, TokenizerError where the
    tokenizers disagree on an id that is used.
    """
    _check(pair, prompts, continuations, conditions, teacher)
    layers = sorted({*(range(pair.n_layers) if layers is None else layers), pair.n_layers - 1})
    options = {"teacher": TEACHER[teacher], "layers": layers, "cells": cells}
    batches = list(matched_batches(prompts, continuations, batch_size, pair.it.tokenizer.pad_token_id))
    for batch in progress(batches, "matched prefix"):
        made = _made(pair, batch, conditions, projected, seed, options)
        read = read_bases(pair, conditions, made.pop("residual"), batch["raw"].targets, lenses,
                          ("host", *shared), **options)  # fmt: skip
        found = xr.Dataset({name: (READ_DIMS, narrow(values)) for name, values in read.items()} | made)
        last = found.isel(layer=-1, lens=0, basis=0, drop=True)
        found["nll"], found["free_top1"] = -last.target_log_probability, last.top1
        yield _labelled(found, pair, batch["raw"], continuations, conditions, ("host", *shared), layers)


def _check(pair, prompts, continuations, conditions, teacher):
    names = [condition.name for condition in conditions]
    needed = [TEACHER[teacher], *(condition.baseline for condition in conditions)]
    missing = [name for name in needed if name not in names]
    if missing or len(set(names)) < len(names):
        what = f"{missing[0]!r} is missing" if missing else "a name occurs twice"
        raise InterventionError(f"Conditions {', '.join(names)}: {what}; each must be given once.")
    checkpoint = getattr(pair.params, "pt", None)  # a loaded pair has IT's tokenizer in both places
    pt = load_tokenizer(checkpoint.source, checkpoint.revision) if checkpoint else pair.pt.tokenizer
    crossed = {c.prompt_format for c in conditions if c.prompt_format != NATIVE[c.host]}
    used = [c.ids for c in continuations] + [row for name in crossed for row in prompts[name]]
    check_same_ids(pt, pair.it.tokenizer, used)


def _made(pair, batch, conditions, projected, seed, options):
    """{name: (dims, array)} of what needs no lens, and "residual" {condition: [layer][token, d]}."""
    residual, shapes, pushes, layers = {}, {}, {}, options["layers"]
    for condition, stream in streams(pair, batch, conditions, seed):
        residual[condition.name], shapes[condition.name] = stream.residual, shape_of(stream)
        if condition.name in projected:
            unembedding = getattr(pair, condition.host).unembedding
            rows = target_rows(batch["raw"].targets, unembedding)
            pushes[condition.name] = _late_projections(stream, unembedding, rows, pair.n_layers, options)
    names = [condition.name for condition in conditions]
    made = {"residual": residual} | _beside_teacher(residual, names, options)
    for name in ("delta_cosine", "update_norm"):
        values = torch.stack([shapes[each][name][:, layers] for each in names], dim=1)
        made[name] = ("component", *READ_DIMS[2:]), narrow(values)
    for name in support.PROJECTIONS if pushes else ():
        nothing = torch.full_like(pushes[projected[0]][name], torch.nan)
        values = [pushes[each][name] if each in pushes else nothing for each in names]
        made[name] = ("axis", *READ_DIMS[2:]), narrow(torch.stack(values, dim=1))
    return made


def _late_projections(stream, unembedding, rows, n_layers, options):
    """{name: [axis, layer, token]} of `support.projections`, NaN outside the final fifth."""
    layers = options["layers"]
    late = [layer for layer in params.final_fifth(n_layers) if layer in layers]
    found = support.projections(stream.residual, stream.mlp_update, unembedding, rows,
                                layers=late, cells=options["cells"])  # fmt: skip
    out = {}
    for name, values in found.items():
        out[name] = values.new_full((len(values), len(layers), values.shape[-1]), torch.nan)
        out[name][:, [layers.index(layer) for layer in late]] = values
    return out


def _beside_teacher(residual, names, options):
    """Cosine and relative distance of each condition's residual to the teacher's same layer."""
    made, teacher = {}, residual[options["teacher"]]
    for name, measured in (("cosine", geometry.cosine), ("distance", _distance)):
        values = [
            torch.stack([measured(residual[each][layer], teacher[layer]) for layer in options["layers"]])
            for each in names
        ]
        made[f"residual_{name}_teacher"] = READ_DIMS[2:], narrow(torch.stack(values))
    return made


def _distance(h, reference):
    return (h.float() - reference.float()).norm(dim=-1) / reference.float().norm(dim=-1)


def _labelled(found, pair, batch, continuations, conditions, bases, layers):
    """One batch's dataset with its coordinates, token ids and classes."""
    tokenizer = pair.it.tokenizer
    kinds = [token_classes(tokenizer, continuations[row].ids) for row in batch.rows]
    found["token_id"] = "step", narrow(batch.targets)
    found["token_class"] = "step", np.concatenate(kinds)
    of = {name: ("condition", [getattr(c, name) for c in conditions]) for name in DESCRIBED}
    ends = {"first_layer": [min(c.layers, default=-1) for c in conditions],
            "last_layer": [max(c.layers, default=-1) for c in conditions]}  # fmt: skip
    of |= {name: ("condition", values) for name, values in ends.items()}
    dims = {"lens": list(LENSES)[: found.sizes["lens"]], "basis": list(bases), "layer": layers,
            "component": list(geometry.COMPONENTS), "condition": [c.name for c in conditions]}  # fmt: skip
    if "axis" in found.sizes:
        dims["axis"] = list(support.AXES)
    steps = {"prompt_index": ("step", batch.row_of_step), "token": ("step", batch.step_of_step)}
    depth = {"depth": ("layer", params.depth(pair.n_layers)[layers])}
    found = found.assign_coords(dims | of | steps | depth).assign_attrs(n_layers=pair.n_layers)
    return described(found, UNITS)


# --- per prompt -------------------------------------------------------------------------------------------------------

GRID = (0.05, 0.1, 0.2, 0.5, 1.0)
_NOT_MEANS = ("top1", "target_rank", "free_top1", "token_id", "token_class")


def matched_prefix(
    pair: Pair,
    prompts: Sequence[Prompt],
    continuations: Sequence[Continuation],
    conditions: Sequence[Condition],
    *,
    grid: Sequence[float] = GRID,
    **options,
) -> xr.Dataset:
    """Return the dataset of experiment 11 for one pair and one teacher: `by_prompt` of all that `measure` yields.

    PT hosts read each prompt's text, IT hosts (and the template branch) its chat turn. grid: thresholds of the
    commitment layers, nats. options: those of `measure`.
    """
    rows = {"raw": render(pair.pt, prompts), "chat": render(pair.it, prompts)}
    parts = [by_prompt(steps, grid) for steps in measure(pair, rows, continuations, conditions, **options)]
    found = xr.concat(parts, "prompt", data_vars="minimal").sortby("prompt")
    found = found.assign_coords(prompt=[prompts[i].id for i in found.prompt.values])
    return found.assign_attrs(teacher=options.get("teacher", "it"), n_layers=pair.n_layers)


def by_prompt(steps: xr.Dataset, grid: Sequence[float] = GRID) -> xr.Dataset:
    """Return per-prompt means over steps, all steps counted, coordinate `prompt` being the prompt's index.

    Every reading of `measure` but ids and ranks; with `target_log_rank`, `top1_final`, `commitment` (condition, lens,
    basis, rule, prompt: see `commitments`), `agreement_teacher`, `agreement_baseline`, `first_divergence_teacher`,
    `first_divergence_baseline` (condition, prompt) and `n_tokens` (prompt). steps: whole replies.
    """
    whole = steps.assign(step_values(steps, grid))
    prompts, prompt = np.unique(steps.prompt_index.values, return_inverse=True)
    found = {}
    for name, values in whole.drop_vars(_NOT_MEANS).items():
        dims = [dim for dim in values.dims if dim != "step"]
        means = stats.prompt_means(values.transpose(*dims, "step").values, prompt, len(prompts))
        found[name] = ("prompt", *dims), means.astype(np.float32)
    lengths = np.bincount(prompt)
    for name in ("teacher", "baseline"):
        agrees = whole[f"agreement_{name}"].transpose("condition", "step").values
        found[f"first_divergence_{name}"] = ("condition", "prompt"), first_miss(agrees, prompt, lengths)
    found["n_tokens"] = "prompt", lengths
    kept = {name: coord for name, coord in whole.coords.items() if "step" not in coord.dims}
    return described(xr.Dataset(found, kept | {"prompt": prompts}), UNITS)


def step_values(steps: xr.Dataset, grid: Sequence[float]) -> dict[str, xr.DataArray]:
    """Return what only makes sense step by step: log rank, agreements, and commitment layers."""
    bases = steps.free_top1.sel(condition=steps.baseline.values).values
    return {
        "target_log_rank": np.log(steps.target_rank),
        "top1_final": (steps.top1 == steps.top1.isel(layer=-1, drop=True)).astype(float),
        "agreement_teacher": (steps.free_top1 == steps.token_id).astype(float),
        "agreement_baseline": (steps.free_top1 == bases).astype(float),
        "commitment": commitments(steps, grid),
    }


def commitments(steps: xr.Dataset, grid: Sequence[float]) -> xr.DataArray:
    """Return the commitment layer of every step, (rule, lens, basis, condition, step), of the layers that were read.

    The first layer from which the rule holds to the end: KL to the condition's own final below a threshold, rules such
    as "kl_layer_final_0.1" for both directions, or the final token in first place, "top1".
    """
    layers, found = steps.layer.values, {}
    moved = {
        name: steps[name].transpose(..., "layer").values
        for name in ("kl_layer_final", "kl_final_layer", "top1")
    }
    for name in ("kl_layer_final", "kl_final_layer"):
        for threshold in grid:
            found[f"{name}_{threshold}"] = convergence.kl_stays(moved[name], threshold)
    found["top1"] = convergence.top1_strict(moved["top1"])
    dims = "rule", *(dim for dim in steps.top1.dims if dim != "layer")
    return xr.DataArray(layers[np.stack(list(found.values()))], {"rule": list(found)}, dims)


def first_miss(agrees: np.ndarray, prompt: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the first step of each prompt where `agrees` [condition, step] is 0, its length if none, [condition, prompt].

    prompt: [step], ascending steps within each; lengths: [prompt].
    """
    found = np.tile(lengths, (len(agrees), 1))
    starts = np.concatenate([np.flatnonzero(prompt == i)[:1] for i in range(len(lengths))])
    condition, step = np.nonzero(agrees == 0)
    np.minimum.at(found, (condition, prompt[step]), step - starts[prompt[step]])
    return found


def shifts(dataset: xr.Dataset) -> xr.Dataset:
    """Return every condition minus its baseline, per prompt: what a graft changes.

    Over the layers of `region`: "final_fifth", the layers from ⌊0.8 L⌋, and "window", the condition's own replaced
    layers, over which its baseline is averaged too; NaN where those layers were not read. Variables without layers are
    subtracted as they are. B_late at "final_fifth" is the study's sufficiency, D_late's necessity.
    """
    measured = [name for name in dataset.data_vars if "condition" in dataset[name].dims]
    after, before = support.against_baseline(dataset[measured], dataset)
    about = dataset.condition.sel(condition=after.condition.values).coords
    fifth, first, last = (
        params.final_fifth(dataset.attrs["n_layers"]),
        about["first_layer"],
        about["last_layer"],
    )
    regions = {"final_fifth": (0 * first + fifth.start, 0 * last + fifth.stop - 1), "window": (first, last)}
    difference, found = after - before, []
    layered = [name for name in measured if "layer" in dataset[name].dims]
    for start, end in regions.values():
        inside = (dataset.layer >= start) & (dataset.layer <= end)
        whole = inside.sum("layer") == end - start + 1
        means = difference[layered].where(inside).mean("layer").where(whole)
        found.append(difference.drop_vars(layered).assign(means))
    region = xr.IndexVariable("region", list(regions))
    joined = xr.concat(found, region, data_vars=layered, coords="minimal", compat="override")
    return described(joined.assign_coords(about), UNITS).assign_attrs(dataset.attrs)
