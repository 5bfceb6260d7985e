"""MLP neurons as features: what each adds to the residual stream, and how broadly that acts on the vocabulary.

A neuron's activation a is what enters down_proj, act(gate)·up; its write vector w is its column of down_proj. A norm
behind the MLP (Gemma 3, OLMo 2) is frozen at the position: its gain goes into w, its 1/rms is `scale`. In a mixture of
experts (DeepSeek-V2) the shared experts' neurons come first, then neuron i of routed expert e at shared + e·width + i;
a holds the router weight, so it is 0 where the router chose other experts.

All follows from the stream that `capture.capture` takes in one trace: activations are computed from it again, a layer at
a time, so [layer, token, neuron] never exists.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from nbhelpers.capture import Stream, replay
from nbhelpers.decoding import Continuation
from nbhelpers.geometry import COMPONENTS
from nbhelpers.lens import check_identity, lens_metrics
from nbhelpers.models import STREAM, Decoder, block_layout
from nbhelpers.params import ROOT, depth
from nbhelpers.prompts import Prompt, chat_ids, read_prompts, text_ids

SELECTIONS = ("attribution", "random", "impact")
STATISTICS = ("slope", "intercept", "pearson", "spearman")
# u: the write vector (or, with the prefix `update_` and a = 1, a layer's whole update) in logits of the real vocabulary.
FEATURE_UNITS = {
    "target_contribution": ("logits", "a·u[target], signed"),
    "attribution": ("logits", "|a·u[target]|"),
    "logit_norm": ("logits", "‖u‖"),
    "total_impact": ("logits", "|a|·‖u‖"),
    "target_efficiency": ("1", "|u[target]| / ‖u‖"),
    "n50": ("tokens", "fewest tokens with half of Σ|a·u|, −1 if it is 0"),
    "n90": ("tokens", "fewest tokens with 90 % of Σ|a·u|, −1 if it is 0"),
    "promote_ratio": ("1", "share of Σ|a·u| that raises logits"),
}
UNITS = FEATURE_UNITS | {f"update_{name}": units for name, units in FEATURE_UNITS.items()}
UNITS |= {
    "activation": ("1", "a, the router weight included"),
    "neuron_layer": ("1", "layer of the neuron"),
    "neuron": ("1", "index of the neuron in its layer"),
    "lens_entropy": ("nats", "entropy of the layer's lens distribution; its exp is the effective support"),
    "target_id": ("1", "token id of the target"),
    "target_logit": ("logits", "logit of the target, before any soft cap"),
    "target_rank": ("1", "rank of the target among the real tokens, 1 is best"),
    "embedding_contribution": ("logits", "what the token embedding contributes to the target's logit"),
}
_TILE = 2**24


def frozen_norm(norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gain [d] and scale [token] of an RMS norm frozen at x [token, d]: norm(x) = scale · gain ⊙ x.

    Both are read off the norm's own output, so no family's convention (weight, 1 + weight, ε) is assumed.
    """
    x = x.float()
    gain = norm(torch.ones_like(x[:1]))[0].float()
    plain = gain * x
    return gain, (norm(x) * plain).sum(-1) / plain.square().sum(-1).clamp_min(1e-30)


def neuron_activations(mlp, x: Tensor) -> Tensor:
    """Return the activations [token, neuron] of an MLP module for its inputs x [token, d], in the order given above."""
    if not hasattr(mlp, "experts"):
        return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
    experts, (_, weights, chosen) = mlp.experts, mlp.gate(x)
    router = x.new_zeros(len(x), experts.num_experts).scatter(1, chosen, weights.to(x.dtype))
    gate, up = torch.einsum("td,ehd->teh", x, experts.gate_up_proj).chunk(2, dim=-1)
    routed = experts.act_fn(gate) * up * router[..., None]
    return torch.cat([neuron_activations(mlp.shared_experts, x), routed.flatten(1)], dim=-1)


def write_matrix(block) -> Tensor:
    """Return the write vectors [neuron, d] of a block's MLP, float32, with the gain of a norm behind it folded in."""
    mlp = block.mlp
    if hasattr(mlp, "experts"):
        routed = mlp.experts.down_proj.transpose(1, 2).flatten(0, 1)
        write = torch.cat([mlp.shared_experts.down_proj.weight.T, routed]).float()
    else:
        write = mlp.down_proj.weight.T.float()
    norm = _norm(block, "mlp_update")
    return write if norm is None else write * frozen_norm(norm, write[:1])[0]


def _norm(block, name):
    """The norm whose input or output is this tensor of the stream, or None where the MLP itself holds it."""
    module = STREAM[block_layout(block)][name][0]
    return None if module == "mlp" else getattr(block, module)


def _blocks(decoder):
    return decoder.module.get_submodule(decoder.stack_path).layers


class NeuronLayer(NamedTuple):
    """One layer's neurons at the measured positions; neuron n adds activation[n] · scale · write[n] to the stream.

    activation [token, neuron]; scale [token], 1 unless a norm follows the MLP; write [neuron, d]; float32.
    """

    activation: Tensor
    scale: Tensor
    write: Tensor


@torch.no_grad()
def neuron_layers(decoder: Decoder, stream: Stream) -> Iterator[NeuronLayer]:
    """Yield each layer's neurons for one batch's captured stream; one layer is in memory at a time.

    ValueError unless activation · scale · write, summed over neurons, is `stream.mlp_update` (but for rounding): the MLP is
    of a kind that this module does not know.
    """
    before = [stream.embedding, *stream.residual]
    for layer, block in enumerate(_blocks(decoder)):
        x, output = before[layer] + stream.attention_update[layer], stream.mlp_output[layer]
        enter, leave = _norm(block, "residual_mid"), _norm(block, "mlp_update")
        activation = neuron_activations(block.mlp, x if enter is None else enter(x)).float()
        scale = torch.ones_like(activation[:, 0]) if leave is None else frozen_norm(leave, output)[1]
        write, update = write_matrix(block), stream.mlp_update[layer].float()
        error = (scale[:, None] * (activation @ write) - update).norm()
        if not error <= 0.1 * update.norm() + 1e-3:
            raise ValueError(f"{decoder.key}: the neurons of layer {layer} do not add up to its MLP update.")
        yield NeuronLayer(activation, scale, write)


def neuron_mass(layers: Iterable[NeuronLayer]) -> xr.DataArray:
    """Return Σ_token |activation|·‖write vector‖ (layer, neuron) of one batch, float64: add up those of all batches.

    NaN where a layer has fewer neurons than the widest.
    """
    sums = [((x.scale @ x.activation.abs()) * x.write.norm(dim=-1)).double().cpu() for x in layers]
    mass = torch.nn.utils.rnn.pad_sequence(sums, batch_first=True, padding_value=torch.nan)
    return xr.DataArray(mass.numpy(), dims=("layer", "neuron"))


def share_count(mass, shares: Sequence[float]) -> Tensor:
    """Return the fewest entries of mass [..., n] that hold each share of its sum, int64 [..., share]; −1 if it is 0.

    Negative and missing entries count as 0.
    """
    ranked = torch.as_tensor(mass).nan_to_num().clamp_min(0).sort(dim=-1, descending=True).values
    running = ranked.cumsum(-1, dtype=torch.float64)  # in float32 a large vocabulary is miscounted
    total = running[..., -1:]
    goal = total * (torch.tensor(shares, dtype=torch.float64, device=total.device) * (1 - 1e-9))
    return torch.where(total > 0, torch.searchsorted(running, goal) + 1, -1)


@torch.no_grad()
def vocabulary_breadth(vectors: Tensor, readout: Tensor) -> dict[str, Tensor]:
    """Return n50, n90, promote_ratio and norm [feature] of the logits that vectors [feature, d] make through a readout.

    readout [vocabulary, d]: an unembedding with the final norm's gain folded in. A vector's length changes only the
    norm; its sign replaces promote_ratio p by 1 − p. The logits exist for a few vectors at a time.
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
    """Return the Gini coefficient of the positive entries of x: 0 where all are equal, towards 1 where one has all."""
    x = np.sort(np.ravel(x).astype(float))
    x = x[x > 0]
    n = len(x)
    return float(2 * (np.arange(1, n + 1) @ x) / (n * x.sum()) - (n + 1) / n) if n else float("nan")


def concentration(mass: xr.DataArray, *, dim: str = "neuron") -> xr.Dataset:
    """Return gini, n50 and n90 of neuron masses: the dims of mass without `dim`.

    To pool layers, stack them with the neurons and name the stacked dim.
    """
    over = partial(xr.apply_ufunc, input_core_dims=[[dim]])
    counts = over(lambda m: share_count(m, (0.5, 0.9)).numpy(), mass, output_core_dims=[["share"]])
    data = xr.Dataset(
        {"gini": over(gini, mass, vectorize=True), "n50": counts[..., 0], "n90": counts[..., 1]}
    )
    for name, units in (("gini", "1"), ("n50", "neurons"), ("n90", "neurons")):
        data[name].attrs = {"units": units, "long_name": f"{name} of the neurons' summed write lengths"}
    return data


def top_k_jaccard(
    pt: xr.DataArray, it: xr.DataArray, ks: Sequence[int], *, dim: str = "neuron"
) -> xr.DataArray:
    """Return the overlap |∩|/|∪| of PT's and IT's k neurons of most mass, (…, k); NaN with fewer than k neurons.

    pt, it: (…, dim), as `neuron_mass` gives them; to pool layers, see `concentration`.
    """
    core = {"input_core_dims": [[dim]], "output_core_dims": [[dim]]}
    places = [
        xr.apply_ufunc(lambda m: (-m).argsort(-1, kind="stable").argsort(-1), x, **core) for x in (pt, it)
    ]
    k = xr.DataArray(list(ks), dims="k", coords={"k": list(ks)})
    both = ((places[0] < k) & (places[1] < k)).sum(dim)
    jaccard = (both / (2 * k - both)).where(k <= pt.notnull().sum(dim)).rename("jaccard")
    return jaccard.assign_attrs(units="1", long_name="Jaccard index of PT's and IT's top k neurons")


@torch.no_grad()
def direct_attribution(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    targets: Sequence[int],
    *,
    k: int = 500,
    seed: int = 0,
    batch_size: int = 32,
) -> xr.Dataset:
    """Return the linearised direct logit attribution of each prompt's target at its last position, one forward a batch.

    Variables and units: `UNITS`. Neurons (selection, prompt, feature): of all layers, the k of most attribution, k random
    active ones (drawn alike for PT and IT under one seed), the k of most total impact. Updates (component, layer, prompt):
    each layer's block, attention and MLP update. The final norm is frozen, so a target's logit is that of the embedding
    plus those of all attention updates and all neurons. ValueError: a target that is no real token, or too large a k.

    Elhage et al. (2021), A Mathematical Framework for Transformer Circuits; Geva et al. (2022), arXiv 2203.14680.
    """
    unembedding, parts = decoder.unembedding, []
    readout = unembedding.weight.float() * frozen_norm(unembedding.norm, unembedding.weight[:1])[0]
    columns = _columns(decoder, targets).to(readout.device)
    made = [Continuation((int(target),), False) for target in targets]
    for batch, stream in replay(decoder, prompts, made, batch_size=batch_size):
        check_identity(stream.last_residual, stream.last_logits, unembedding)
        scale = frozen_norm(unembedding.norm, stream.residual[-1])[1]
        column = columns[torch.as_tensor(batch.rows, device=columns.device)]
        answer = _Answer(readout, scale, scale[:, None] * readout[column])
        entropy = lens_metrics(stream.residual, unembedding, metrics=("entropy",))["entropy"]
        part = {"lens_entropy": (("layer", "prompt"), entropy)} | _answers(stream, answer, column)
        part |= _updates(stream, answer) | _neurons(decoder, stream, answer, batch.rows, k, seed)
        part = {name: (dims, values.cpu().numpy()) for name, (dims, values) in part.items()}
        parts.append(xr.Dataset(part, coords={"prompt": batch.rows}))
    data = xr.concat(parts, "prompt").sortby("prompt").assign(target_id=("prompt", list(targets)))
    return _labelled(data.assign(_chosen_breadth(decoder, readout, data)))


class _Answer(NamedTuple):
    """readout [vocabulary, d]; the frozen final norm's scale [token]; scale · readout[target], [token, d]."""

    readout: Tensor
    scale: Tensor
    direction: Tensor


def _columns(decoder, targets):
    """Rows of the targets in the real part of the unembedding."""
    unreal = [int(target) for target in targets if not decoder.real_tokens[target]]
    if unreal:
        raise ValueError(
            f"{decoder.key}: target id {unreal[0]} is no real token; `single_token` finds the ids."
        )
    return torch.as_tensor(np.cumsum(decoder.real_tokens)[list(targets)] - 1)


def _answers(stream, answer, column):
    final = stream.residual[-1].float()
    logits = final @ answer.readout.T
    values = {
        "target_logit": (final * answer.direction).sum(-1),
        "target_rank": 1 + (logits > logits.gather(1, column[:, None])).sum(-1),
        "embedding_contribution": (stream.embedding.float() * answer.direction).sum(-1),
    }
    return {name: (("prompt",), value) for name, value in values.items()}


def _updates(stream, answer):
    after, attention, mlp = (
        torch.stack(x).float() for x in (stream.residual, stream.attention_update, stream.mlp_update)
    )
    before = torch.cat([stream.embedding[None].float(), after[:-1]])
    updates = torch.stack([after - before, attention, mlp])
    breadth = vocabulary_breadth(updates.flatten(0, 2), answer.readout)
    values = {name: value.view(updates.shape[:3]) for name, value in breadth.items()}
    norm, toward = answer.scale * values.pop("norm"), (updates * answer.direction).sum(-1)
    values |= _sizes(torch.ones_like(norm), toward, norm)
    return {f"update_{name}": (("component", "layer", "prompt"), value) for name, value in values.items()}


def _sizes(activation, toward, norm):
    """What follows from a, u[target] and ‖u‖."""
    return {
        "target_contribution": activation * toward,
        "attribution": (activation * toward).abs(),
        "logit_norm": norm,
        "total_impact": activation.abs() * norm,
        "target_efficiency": toward.abs() / norm,
    }


def _neurons(decoder, stream, answer, rows, k, seed):
    gram, found, widths = answer.readout.T @ answer.readout, [], []
    for layer in neuron_layers(decoder, stream):
        length = ((layer.write @ gram) * layer.write).sum(-1).clamp_min(0).sqrt()
        toward = layer.scale[:, None] * (answer.direction @ layer.write.T)
        found.append((layer.activation, toward, torch.outer(layer.scale * answer.scale, length)))
        widths.append(len(length))
    activation, toward, norm = (torch.cat(column, dim=-1) for column in zip(*found))
    index = _select(activation, toward, norm, rows, k, seed)
    ends = torch.tensor([0, *widths], device=index.device).cumsum(0)
    layer = torch.searchsorted(ends, index, right=True) - 1
    picked = [x.expand(len(index), -1, -1).gather(-1, index) for x in (activation, toward, norm)]
    values = _sizes(*picked) | {"activation": picked[0], "neuron_layer": layer, "neuron": index - ends[layer]}
    return {name: (("selection", "prompt", "feature"), value) for name, value in values.items()}


def _select(activation, toward, norm, rows, k, seed):
    """Positions [selection, token, k] in [token, all neurons], by each of `SELECTIONS`."""
    active = activation != 0
    fewest = int(active.sum(-1).min())
    if k > fewest:
        raise ValueError(f"k = {k} neurons cannot be chosen where {fewest} are active: lower k.")
    drawn = np.stack([np.random.default_rng([seed, row]).random(active.shape[1]) for row in rows])
    drawn = torch.as_tensor(drawn, device=active.device).masked_fill(~active, -1)
    scores = ((activation * toward).abs(), drawn, activation.abs() * norm)
    return torch.stack([score.topk(k, dim=-1).indices for score in scores])


def _chosen_breadth(decoder, readout, data):
    """Breadth of the chosen neurons; one that several prompts chose is unfolded over the vocabulary once."""
    layer, neuron, activation = (data[name].values for name in ("neuron_layer", "neuron", "activation"))
    values = {name: np.zeros(layer.shape) for name in ("n50", "n90", "promote_ratio")}
    for number in np.unique(layer):
        here = layer == number
        which, back = np.unique(neuron[here], return_inverse=True)
        breadth = vocabulary_breadth(write_matrix(_blocks(decoder)[number])[which], readout)
        for name in values:
            values[name][here] = breadth[name].cpu().numpy()[back]
    ratio, dims = values.pop("promote_ratio"), data.neuron.dims
    found = {name: (dims, np.where(activation == 0, -1, count).astype(int)) for name, count in values.items()}
    return found | {"promote_ratio": (dims, np.where(activation < 0, 1 - ratio, ratio))}


def _labelled(data):
    for name, (units, long_name) in UNITS.items():
        data[name].attrs = {"units": units, "long_name": long_name}
    n = data.sizes["layer"]
    labels = {"selection": list(SELECTIONS), "component": list(COMPONENTS), "layer": np.arange(n)}
    return data.assign_coords(labels | {"depth": ("layer", depth(n))})


def log_log_fit(x, y, *, n_resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Return slope, intercept, Pearson and Spearman r of ln y on ln x over all features, with intervals over prompts.

    x, y: [prompt, feature]; a feature enters where both are positive. Variables: `estimate`, `low`, `high` (statistic),
    BCa, and `draws` (statistic, resample). Whole prompts are resampled, as their features are not independent. The same
    seed and prompts give the same resamples: the draws of IT less those of PT are draws of the paired difference.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = (x > 0) & (y > 0)
    logs, prompt = (np.log(x[keep]), np.log(y[keep])), np.nonzero(keep)[0]
    line = stats.linregress(*logs)
    found = stats.bootstrap(
        (np.arange(len(x)),),
        partial(_resampled_fits, [(values, *_ties(values)) for values in logs], prompt, len(x)),
        n_resamples=n_resamples,
        confidence_level=confidence,
        batch=16,
        rng=np.random.default_rng(seed),
    )
    estimate = [line.slope, line.intercept, line.rvalue, stats.spearmanr(*logs).statistic]
    values = dict(zip(("estimate", "low", "high"), (estimate, *found.confidence_interval)))
    data = {name: ("statistic", value) for name, value in values.items()}
    data["draws"] = (("statistic", "resample"), found.bootstrap_distribution)
    return xr.Dataset(data, coords={"statistic": list(STATISTICS)})


def _resampled_fits(points, prompt, n, drawn, axis=-1):
    """[statistic, resample] of prompts drawn [resample, prompt]: fits that weigh each feature as often as it is drawn."""
    times = (drawn[..., None] == np.arange(n)).sum(-2).astype(float)
    weights = times.T[prompt]
    shape = (-1, *[1] * (weights.ndim - 1))
    logs = (values.reshape(shape) for values, *_ in points)
    ranks = (_ranks(*ties, weights) for _, *ties in points)
    return np.stack([*_line(*logs, weights), _line(*ranks, weights)[2]])


def _line(x, y, weights):
    """Slope, intercept and correlation [resample] under weights [feature, resample]."""
    wx, wy, total = weights * x, weights * y, weights.sum(0)
    mx, my = wx.sum(0) / total, wy.sum(0) / total
    xx, xy, yy = (np.einsum("f...,f...->...", a, b) / total for a, b in ((wx, x), (wx, y), (wy, y)))
    xx, xy, yy = xx - mx * mx, xy - mx * my, yy - my * my
    return xy / xx, my - xy / xx * mx, xy / np.sqrt(xx * yy)


def _ties(values):
    """Each value's place among the distinct ones, the order that sorts values, and where each distinct one starts."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    return group, order, np.flatnonzero(np.diff(group[order], prepend=-1))


def _ranks(group, order, starts, weights):
    """Mid-ranks (less a constant) of values that occur weights [feature, resample] times."""
    sums = np.add.reduceat(weights[order], starts, axis=0)
    return (sums.cumsum(0) - sums / 2)[group]


@dataclass(frozen=True)
class Stub(Prompt):
    """A prompt that one word completes: `target`, with the space before it, and its group within the category."""

    group: str
    target: str


def read_stubs(file: str | Path) -> list[Stub]:
    """Return the stubs of a JSON Lines file; raises as `prompts.read_prompts`, and KeyError where there is no target."""
    prompts = read_prompts(file)
    records = [json.loads(line) for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    return [Stub(**vars(p), group=r["group"], target=r["target"]) for p, r in zip(prompts, records)]


def single_token(
    decoder: Decoder, stubs: Sequence[Stub], *, chat: bool = False
) -> list[tuple[Stub, list[int], int]]:
    """Return the stubs that one token completes in this tokenizer, each with its prompt ids and the id of its target.

    chat=False: `text`, then the target; where the tokenizer keeps digits apart from the space before them, that space
    ends the prompt. chat=True: `message` as a user turn, and the target as the template writes a reply.
    """
    complete = _reply_ids if chat else _text_ids
    return [(stub, ids[:-1], ids[-1]) for stub in stubs if (ids := complete(decoder, stub))]


def _text_ids(decoder, stub):
    """Ids of the text and its target, or None."""
    for text, word in ((stub.text, stub.target), (stub.text + " ", stub.target.lstrip())):
        ids = text_ids(decoder, text + word)
        if ids[:-1] == text_ids(decoder, text):
            return ids
    return None


def _reply_ids(decoder, stub):
    """Ids of the chat prompt and of the token that opens a reply and is the whole word, or None."""
    ids, tokenizer, word = chat_ids(decoder, stub.message), decoder.tokenizer, stub.target.strip()
    turns = [{"role": "user", "content": stub.message}, {"role": "assistant", "content": word}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, **decoder.template_options)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"][: len(ids) + 1]
    return whole if whole[:-1] == ids and tokenizer.decode(whole[-1:]).strip() == word else None
