"""Direct logit attribution of MLP neurons and layer updates at one position, and how many tokens each of them affects.

The final norm is frozen at the position, so a token's logit is the sum of the contributions of the embedding, every
attention update, every neuron (defined in `measures/neurons`) and the biases behind neurons and in the norm. Also reads the
prompts with a one-word target.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers.core.depths import depth
from nbhelpers.core.params import LackingError, ParameterError
from nbhelpers.core.unmeasured import noted
from nbhelpers.measures import neurons
from nbhelpers.measures.delta_cosine import COMPONENTS
from nbhelpers.measures.lens import check_identity, lens_metrics
from nbhelpers.measures.neurons import (
    decoder_blocks,
    frozen_norm,
    frozen_readout,
    neuron_layers,
    vocabulary_breadth,
    write_matrix,
)
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.forward import replay
from nbhelpers.models.generation import Continuation

SELECTIONS = ("attribution", "random", "impact")
# u: the logits of the real vocabulary that a neuron's write vector gives (with the prefix `update_`: a layer's whole
# update, and a = 1).
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
FEATURES = ("selection", "prompt", "feature")
OF_NEURONS = (*FEATURE_UNITS, "activation", "neuron_layer", "neuron")
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
    """Return the direct logit attribution of each prompt's target at the last prompt token, in logits, one forward a batch.

    target_logit = R[t]·e + Σ_ℓ R[t]·attention_ℓ + Σ_n a_n u_n[t],  u_n = R w_n,  R = W diag(gain) / rms(h_L) frozen at h_L
    attribution = |a u[t]|;  total_impact = |a| ‖u‖;  target_efficiency = |u[t]| / ‖u‖;  t the target, e the embedding
    All variables, formulas and units: `UNITS`. Neurons (selection, prompt, feature) come from all layers: the k with the
    largest attribution, k random active ones (the same draw for PT and IT under one seed), the k with the largest total
    impact. Updates (component, layer, prompt): each layer's block, attention and MLP update. ValueError for a target that
    is no real token; ParameterError, before any forward, for a k larger than the number of active neurons. Variables of
    neurons are NaN, and noted, if the model's MLPs are of a kind that is not known.
    Elhage et al. (2021), A Mathematical Framework for Transformer Circuits; Geva et al. (2022), arXiv 2203.14680.
    """
    lacking = _shortage(decoder, k)
    unembedding, parts, chosen = decoder.unembedding, [], []
    readout, offset = frozen_readout(unembedding.norm, unembedding.weight)
    columns = _columns(decoder, targets).to(readout.device)
    made = [Continuation((int(target),), False) for target in targets]
    for batch, stream in replay(decoder, prompts, made, batch_size=batch_size):
        check_identity(stream.last_residual, stream.last_logits, unembedding)
        scale = frozen_norm(unembedding.norm, stream.residual[-1])[1]
        column = columns[torch.as_tensor(batch.rows, device=columns.device)]
        answer = _Answer(readout, offset, scale, scale[:, None] * readout[column])
        entropy = lens_metrics(stream.residual, unembedding, metrics=("entropy",))["entropy"]
        part = {"lens_entropy": (("layer", "prompt"), entropy)} | _answers(stream, answer, column)
        parts.append(_batch_of(part | _updates(stream, answer), batch.rows))
        try:
            if not lacking:
                chosen.append(_batch_of(_neurons(decoder, stream, answer, batch.rows, k, seed), batch.rows))
        except LackingError as error:
            lacking = error
    data = xr.concat(parts, "prompt").sortby("prompt").assign(target_id=("prompt", list(targets)))
    if lacking:
        nothing = np.full((len(SELECTIONS), len(targets), k), np.nan)
        data = noted(data.assign({name: (FEATURES, nothing) for name in OF_NEURONS}), "neurons", lacking)
        return _labelled(data)
    data = data.merge(xr.concat(chosen, "prompt").sortby("prompt"))
    return _labelled(data.assign(_chosen_breadth(decoder, readout, data)))


def _batch_of(part, rows):
    values = {name: (dims, of.cpu().numpy()) for name, (dims, of) in part.items()}
    return xr.Dataset(values, coords={"prompt": rows})


class _Answer(NamedTuple):
    """readout and offset: `frozen_readout`; scale: of the frozen norm [token]; direction: scale · readout[target]."""

    readout: Tensor
    offset: Tensor | None
    scale: Tensor
    direction: Tensor


def _columns(decoder, targets):
    """Return the row of each target among the real rows of the unembedding."""
    unreal = [int(target) for target in targets if not decoder.real_tokens[target]]
    if unreal:
        raise ValueError(
            f"{decoder.key}: target id {unreal[0]} is no real token; `single_token` finds the ids."
        )
    return torch.as_tensor(np.cumsum(decoder.real_tokens)[list(targets)] - 1)


def _answers(stream, answer, column):
    final = stream.residual[-1].float()
    logits, constant = final @ answer.readout.T, 0.0
    if answer.offset is not None:
        logits, constant = answer.scale[:, None] * logits + answer.offset, answer.offset[column]
    values = {
        "target_logit": (final * answer.direction).sum(-1) + constant,
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
    """Return the variables that need only a, u[target] and ‖u‖."""
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
    return {name: (FEATURES, value) for name, value in values.items()}


def _select(activation, toward, norm, rows, k, seed):
    """Return column indices [selection, token, k] into [token, all neurons], one choice for each of `SELECTIONS`."""
    active = activation != 0
    _refuse_more_than(int(active.sum(-1).min()), k, "a prompt")
    drawn = np.stack([np.random.default_rng([seed, row]).random(active.shape[1]) for row in rows])
    drawn = torch.as_tensor(drawn, device=active.device).masked_fill(~active, -1)
    scores = ((activation * toward).abs(), drawn, activation.abs() * norm)
    return torch.stack([score.topk(k, dim=-1).indices for score in scores])


def _shortage(decoder, k):
    """Return why a model has no neurons that are known, None if it has; ParameterError for k above those that act at once."""
    try:
        _refuse_more_than(neurons.active_count(decoder), k, decoder.key)
    except LackingError as error:
        return LackingError(f"{decoder.key}: {error}")


def _refuse_more_than(active, k, where):
    if k > active:
        raise ParameterError(
            f"n_neurons = {k} neurons cannot be chosen: {where} has {active} active ones; lower n_neurons"
        )


def _chosen_breadth(decoder, readout, data):
    """Return n50, n90 and promote_ratio of the chosen neurons; a neuron that several prompts share is computed once."""
    layer, neuron, activation = (data[name].values for name in ("neuron_layer", "neuron", "activation"))
    values = {name: np.zeros(layer.shape) for name in ("n50", "n90", "promote_ratio")}
    for number in np.unique(layer):
        here = layer == number
        which, back = np.unique(neuron[here], return_inverse=True)
        breadth = vocabulary_breadth(
            write_matrix(decoder_blocks(decoder)[number])[which].to(readout.device), readout
        )
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
