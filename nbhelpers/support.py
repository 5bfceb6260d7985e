"""exp13: which tokens a graft displaces and supports, and what a late MLP update does to the prediction, in closed form.

Signs, in words. A rank gain is positive where the graft moves the teacher's token up. `support_teacher` is positive where
the update raises the logit of the teacher's token. `anti_top1` is positive where it lowers the logit of the token that
leads after the layer. `anti_kl` is positive where it carries the layer's prediction away from the model's own final one.

This module knows nothing of models or grafts: it takes states, updates, ranks and ids, and datasets of steps as
`nbhelpers.matched_prefix` makes them.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers import lens, stats
from nbhelpers.params import final_fifth
from nbhelpers.token_classes import CLASSES, token_classes

AXES = ("support_teacher", "anti_top1", "anti_kl")
PROJECTIONS = ("effect", "projection", "cosine")
PARTS = ("first", "later")
# Tokens before a candidate that decide its word; no word or mark is longer.
_CONTEXT = 24


# --- closed-form projections ------------------------------------------------------------------------------------------


def mean_rows(p: Tensor, weight: Tensor) -> Tensor:
    """Return the mean unembedding row [token, d], float32, under probabilities p [token, row] of weight [row, d]."""
    return sum(part @ rows.float() for part, rows in zip(p.split(32768, -1), weight.split(32768)))


def predictions(
    residual: Tensor, unembedding: lens.Unembedding, cells: int = 1 << 23
) -> tuple[Tensor, Tensor]:
    """Return the mean unembedding row under the lens's prediction [token, d] and its first token's row [token].

    residual: [token, d] of one layer. cells: logits held at once.
    """
    means, best = [], []
    for part in residual.split(max(1, cells // len(unembedding.weight))):
        z = lens.lens_logits(part, unembedding)
        best.append(z.argmax(-1))
        means.append(mean_rows(z.softmax(-1), unembedding.weight))
    return torch.cat(means), torch.cat(best)


def norm_pullback(norm, h: Tensor, a: Tensor) -> Tensor:
    """Return Jᵀa [token, d] for the Jacobian J of an RMS norm at h [token, d], float32, without a backward pass.

    With gain g and r = √(mean h² + ε): Jᵀa = (g∘a)/r − h ⟨h, g∘a⟩ / (d r³). The gain is read off the norm itself, so
    Gemma's 1 + weight needs no case. ValueError for a norm that is not of this kind.
    """
    h, eps = h.float(), getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 0.0
    gain = norm(torch.ones_like(h[:1])).float() * (1 + eps) ** 0.5
    r = (h.square().mean(-1, keepdim=True) + eps).sqrt()
    normed = gain * h / r
    if not torch.allclose(norm(h).float(), normed, rtol=1e-3, atol=1e-3 * float(normed.abs().amax())):
        raise ValueError(f"{type(norm).__name__} is not an RMS norm: its gradient has another closed form.")
    scaled = gain * a
    return scaled / r - h * (h * scaled).sum(-1, keepdim=True) / (h.shape[-1] * r**3)


@torch.no_grad()
def projections(
    residual: Sequence[Tensor],
    update: Sequence[Tensor],
    unembedding: lens.Unembedding,
    rows: Tensor,
    *,
    layers: Sequence[int],
    cells: int = 1 << 23,
) -> dict[str, Tensor]:
    """Return what updates do to the prediction after their layer: {name: [axis, layer, token]}, axes as in `AXES`.

    `effect`, u·g: the first-order change of the axis, in logits (teacher, top-1) or nats (KL(final ‖ layer)).
    `projection`, u·g/‖g‖: the update's length along it, in units of the residual. `cosine`: that over ‖u‖. Zero where
    the gradient is, as for `anti_kl` at the last layer.

    residual, update: [layer][token, d] of all layers, the state after each block and what its MLP added to it. rows: the
    unembedding row of the teacher's token, [token] (`matched_prefix.target_rows`). layers: those to read. The axes are
    gradients, at the state after the layer, of the teacher's logit; of minus the leading logit; and of KL(final ‖
    layer), which is Jᵀ(E_layer[w] − E_final[w]) with w the unembedding rows and J of the final norm. The study took
    three backward passes a layer; and, for Gemma and OLMo, the MLP's output before the norm that follows it.
    """
    if unembedding.softcap:
        raise ValueError("The projections' closed form holds without a soft cap of the logits only.")
    weight, device = unembedding.weight, unembedding.weight.device
    final_mean, _ = predictions(residual[-1].to(device), unembedding, cells)
    found = []
    for layer in layers:
        h, u = residual[layer].to(device), update[layer].to(device).float()
        mean, best = predictions(h, unembedding, cells)
        pushes = weight[rows].float(), -weight[best].float(), mean - final_mean
        if layer == len(residual) - 1:
            pushes = *pushes[:2], torch.zeros_like(mean)
        gradients = torch.stack([norm_pullback(unembedding.norm, h, push) for push in pushes])
        found.append(_along(u, gradients))
    return {name: torch.stack([each[name] for each in found], dim=1) for name in found[0]}


def _along(u, gradients):
    """effect, projection and cosine [axis, token] of updates [token, d] with gradients [axis, token, d]."""
    effect = (u * gradients).sum(-1)
    length, size = gradients.norm(dim=-1), u.norm(dim=-1)
    projection = torch.where(length > 0, effect / length, 0.0)
    return {"effect": effect, "projection": projection, "cosine": projection / size.clamp(min=1e-12)}


# --- token classes ----------------------------------------------------------------------------------------------------


def replies(steps: xr.Dataset) -> dict[int, list[int]]:
    """Return the teacher's ids of each prompt, {prompt index: ids}, from steps that hold them in order."""
    found = {}
    for prompt, token in zip(steps.prompt_index.values.tolist(), steps.token_id.values.tolist()):
        found.setdefault(prompt, []).append(token)
    return found


def candidate_classes(tokenizer, steps: xr.Dataset, at: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """Return the class of candidate tokens, an index into `token_classes.CLASSES`, int8 [candidate].

    at: the step that each is a candidate for, an index into `steps`; ids: the tokens. Each is classed as it would be in
    the reply, behind the teacher's tokens so far: its bytes, not its decoded string, so that the space before a word
    is there in every family, and the end of a word belongs to its word.
    """
    written, known = replies(steps), {}
    prompt, token = steps.prompt_index.values, steps.token.values
    found = np.empty(len(ids), dtype=np.int8)
    for i, (step, candidate) in enumerate(zip(at, ids)):
        before = written[int(prompt[step])][max(0, token[step] - _CONTEXT) : token[step]]
        key = (*before, int(candidate))
        if key not in known:
            known[key] = token_classes(tokenizer, key)[-1]
        found[i] = known[key]
    return found


def read_through(steps: xr.Dataset, layers: Sequence[int] | None, basis: str) -> xr.Dataset:
    """Return steps through one basis at the final fifth of the layers, or at `layers`."""
    n_layers = steps.attrs["n_layers"]
    return steps.sel(basis=basis, layer=list(final_fifth(n_layers) if layers is None else layers))


def baselines(steps: xr.Dataset) -> dict[str, str]:
    """Return {condition: its baseline}; a baseline is its own."""
    return dict(zip(steps.condition.values.tolist(), steps.baseline.values.tolist()))


def against_baseline(values, steps: xr.Dataset):
    """Return values (array or dataset) of each grafted condition, and of its baseline under the same name."""
    base = {name: other for name, other in baselines(steps).items() if name != other}
    before = values.sel(condition=list(base.values())).assign_coords(condition=list(base))
    return values.sel(condition=list(base)).reset_coords(drop=True), before.reset_coords(drop=True)


def replaced(
    steps: xr.Dataset, tokenizer, *, layers: Sequence[int] | None = None, basis: str = "host"
) -> xr.DataArray:
    """Return how often a graft changes the first token from one class to another, counts per prompt.

    Dims (condition, lens, displaced, supported, prompt): of the (step, layer) cells whose first token differs from the
    baseline's, how many had a token of class `displaced` that the graft takes away and one of class `supported` that it
    brings; both classed in their context. Attribute `cells_per_step` is the number of layers read: all cells of a prompt
    are that times its steps. layers: those read, by default the final fifth. steps: whole replies.
    """
    chosen = read_through(steps, layers, basis)
    new, old = (
        each.transpose("condition", "lens", "layer", "step") for each in against_baseline(chosen.top1, steps)
    )
    condition, lens_, _, step = np.nonzero(new.values != old.values)
    changed = new.values != old.values
    pairs = np.stack([np.tile(step, 2), np.concatenate([old.values[changed], new.values[changed]])])
    unique, where = np.unique(pairs, axis=1, return_inverse=True)
    kinds = candidate_classes(tokenizer, steps, *unique)[where.ravel()].reshape(2, -1)
    prompts, prompt = np.unique(steps.prompt_index.values, return_inverse=True)
    counts = np.zeros((*new.shape[:2], len(CLASSES), len(CLASSES), len(prompts)), dtype=np.int32)
    np.add.at(counts, (condition, lens_, *kinds.astype(int), prompt[step]), 1)
    dims = ("condition", "lens", "displaced", "supported", "prompt")
    coords = {"condition": new.condition, "lens": new.lens, "prompt": prompts,
              "displaced": list(CLASSES), "supported": list(CLASSES)}  # fmt: skip
    about = {"units": "cells", "long_name": "cells whose first token the graft replaces, by class of both"}
    return xr.DataArray(counts, coords, dims, "replaced", about | {"cells_per_step": chosen.sizes["layer"]})


def rank_gains(steps: xr.Dataset, *, layers: Sequence[int] | None = None, basis: str = "host") -> xr.Dataset:
    """Return what grafts do for the teacher's token, by its class, per-prompt means.

    Dims (part, token_class, condition, lens, prompt), NaN where a prompt has no such token; `n_steps` (part,
    token_class, prompt) says how many it has. Averaged over `layers`, by default the final fifth, then over steps:
    `rank_gain`, the baseline's rank minus the condition's, so positive where the graft moves the token up;
    `log_rank_gain`, the same of log ranks, which a few huge ranks do not rule; `log_probability_gain`, nats; `rank_win`
    and `rank_loss`, the shares of steps with a gain above and below 0. part: the first token, whose missing space makes
    huge ranks, apart from the later ones.
    """
    chosen = read_through(steps, layers, basis)
    rank, base = against_baseline(chosen.target_rank.astype(float), steps)
    after, before = against_baseline(chosen.target_log_probability, steps)
    gain = (base - rank).mean("layer")
    found = {
        "rank_gain": gain,
        "log_rank_gain": np.log(base / rank).mean("layer"),
        "log_probability_gain": (after - before).mean("layer"),
        "rank_win": (gain > 0).astype(float),
        "rank_loss": (gain < 0).astype(float),
    }
    return by_class(xr.Dataset(found), steps)


def by_class(values: xr.Dataset, steps: xr.Dataset) -> xr.Dataset:
    """Return per-prompt means of values (…, step) over the first and the later steps of each class of teacher token.

    Dims (part, token_class, prompt, …); `n_steps` (part, token_class, prompt) counts the steps.
    """
    prompts, prompt = np.unique(steps.prompt_index.values, return_inverse=True)
    part, kind = (steps.token.values > 0).astype(int), steps.token_class.values.astype(int)
    dims = "part", "token_class", "prompt"
    counts = np.zeros((len(PARTS), len(CLASSES), len(prompts)), dtype=np.int32)
    np.add.at(counts, (part, kind, prompt), 1)
    found = {"n_steps": (dims, counts)}
    for name, array in values.items():
        array = array.transpose(..., "step")
        masked = [
            [stats.prompt_means(np.where((part == p) & (kind == k), array.values, np.nan), prompt, len(prompts))
             for k in range(len(CLASSES))] for p in range(len(PARTS))
        ]  # fmt: skip
        found[name] = (*dims, *array.dims[:-1]), np.array(masked)
    kept = {name: coord for name, coord in values.coords.items() if "step" not in coord.dims}
    return xr.Dataset(found, kept | {"part": list(PARTS), "token_class": list(CLASSES), "prompt": prompts})


def late_wins(steps: xr.Dataset, *, basis: str = "host") -> xr.Dataset:
    """Return, by class of the teacher's token, the share of steps whose first layer to rank it first is a late one.

    `late_win` (part, token_class, condition, lens, prompt): the first layer, of all, with the token in first place lies
    in the final fifth; `never` where no layer has it. per-prompt means, as in `by_class`. All layers must be read.
    """
    first = steps.sel(basis=basis).target_rank == 1
    layer = first.argmax("layer")
    some = first.any("layer")
    late = some & (layer >= final_fifth(steps.attrs["n_layers"]).start)
    return by_class(xr.Dataset({"late_win": late.astype(float), "never": (~some).astype(float)}), steps)


# --- what goes with a late shift --------------------------------------------------------------------------------------


def features(steps: xr.Dataset, *, basis: str = "host") -> xr.Dataset:
    """Return one value a step of what may go with late KL, each the mean over the final fifth of the layers.

    `value` (feature, condition, step): the cosines of `AXES` and the MLP's δ-cosine. `kl` (condition, lens, step): KL(layer
    ‖ own final), nats. Conditions are those whose updates were projected.
    """
    late = read_through(steps, None, basis)
    late = late.sel(condition=~late.cosine.isnull().all(["axis", "layer", "step"]))
    columns = [late.cosine.rename(axis="feature"),
               late.delta_cosine.sel(component="mlp", drop=True).expand_dims(feature=["delta_cosine"])]  # fmt: skip
    value = xr.concat([column.mean("layer") for column in columns], "feature")
    return xr.Dataset({"value": value, "kl": late.kl_layer_final.mean("layer")}).reset_coords(drop=True).astype(float)


def correlations(steps: xr.Dataset, *, basis: str = "host") -> xr.Dataset:
    """Return Pearson's r of each feature with late KL over steps, (feature, condition, lens).

    `level` within each condition; `within_prompt` after each prompt's mean is taken out; `shift`, of the condition's
    change of the feature with its change of KL from its baseline, step by step: NaN for a baseline, or where that was
    not projected. None pools conditions, whose offsets would then make the correlation.
    """
    found, base = features(steps, basis=basis), baselines(steps)
    measured = found.condition.values.tolist()
    names = [name for name in measured if base[name] != name and base[name] in measured]
    before = found.sel(condition=[base[name] for name in names]).assign_coords(condition=names)
    kinds = {
        "level": found,
        "within_prompt": found.map(lambda values: centred(values, steps.prompt_index.values)),
        "shift": found.sel(condition=names) - before,
    }
    found = xr.Dataset({name: xr.corr(each.value, each.kl, "step") for name, each in kinds.items()})
    return found.reindex(condition=measured)


def centred(values: xr.DataArray, prompt: np.ndarray) -> xr.DataArray:
    """Return values (…, step) minus each prompt's mean over its steps; prompt: [step]."""
    values, (prompts, at) = values.transpose(..., "step"), np.unique(prompt, return_inverse=True)
    means = stats.prompt_means(values.values, at, len(prompts))
    return values - np.moveaxis(means[at], 0, -1)
