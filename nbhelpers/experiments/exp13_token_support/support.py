"""Classes of the tokens that a graft displaces and supports, and gains of the teacher's token.

A rank gain is positive if the graft moves the teacher's token up. This module knows nothing of models or grafts: it takes
datasets of steps from `nbhelpers.measures.matched_prefix`, and a tokenizer.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core import resampling, stats
from nbhelpers.core.depths import final_fifth
from nbhelpers.measures.graft_shifts import against_baseline, with_conditions
from nbhelpers.models.token_classes import CLASSES, token_classes

PARTS = ("first", "later")
ROLES = ("displaced", "supported", "change")
# The study's coarser classes; special tokens, which it classed by their letters, mostly as content, stay apart.
GROUPS = {
    "format": ("structural", "punctuation", "discourse"),
    "content": ("content",),
    "function_other": ("function", "other"),
    "special": ("special",),
}
# Number of preceding tokens that can belong to a candidate's word; no word or mark is longer.
_CONTEXT = 24


def replies(steps: xr.Dataset) -> dict[int, list[int]]:
    """Return the teacher's ids of each prompt, {prompt index: ids}, from steps that hold them in order."""
    found = {}
    for prompt, token in zip(steps.prompt_index.values.tolist(), steps.token_id.values.tolist()):
        found.setdefault(prompt, []).append(token)
    return found


def candidate_classes(tokenizer, steps: xr.Dataset, at: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """Return the class of candidate tokens, an index into `token_classes.CLASSES`, int8 [candidate].

    at: each candidate's step, an index into `steps`; ids: the candidates. Each is classified as it would be in the reply,
    after the teacher's tokens so far. Its bytes are used, not its decoded string, so that the space before a word is kept
    in every family and the end of a word belongs to its word.
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
    """Return the steps of one basis at `layers`, by default the final fifth of the layers."""
    n_layers = steps.attrs["n_layers"]
    return steps.sel(basis=basis, layer=list(final_fifth(n_layers) if layers is None else layers))


def replaced(
    steps: xr.Dataset, tokenizer, *, layers: Sequence[int] | None = None, basis: str = "host"
) -> xr.DataArray:
    """Return how often a graft changes the top-1 token from one class to another, counts per prompt.

    Dims (condition, lens, displaced, supported, prompt). A cell is one layer at one step. Counted are the cells whose top-1
    token differs from the baseline's, by the class of the baseline's token (`displaced`) and of the graft's (`supported`),
    both classified in context. Attribute `cells_per_step`: the number of layers read; a prompt has that many cells per
    step. layers: those read, by default the final fifth. steps: whole replies.
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
    about = {"units": "cells", "long_name": "cells whose top-1 token the graft replaces, by class of both"}
    found = xr.DataArray(counts, coords, dims, "replaced", about | {"cells_per_step": chosen.sizes["layer"]})
    return with_conditions(found, steps)


def shares(counts: xr.DataArray, **draws) -> xr.Dataset:
    """Return the share of each class among displaced and supported tokens, `value`, and its BCa ends `low` and `high`.

    Dims (condition, lens, role, token_class), role "displaced", "supported" or "change", supported minus displaced.
    counts: from `replaced` or `grouped`. Shares are ratios of sums over all prompts, as in the study; prompts are
    resampled. To pool families, concatenate their counts along `prompt`. NaN if nothing is replaced.
    """
    sides = [counts.sum(other).transpose("prompt", "condition", "lens", ...).values
             for other in ("supported", "displaced")]  # fmt: skip

    def statistic(sums):
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = sums / sums.sum(-1, keepdims=True)
        lost, won = np.moveaxis(ratios, -2, 0)
        return np.stack([lost, won, won - lost], axis=-2)

    ends = resampling.bca_of_sums(np.stack(sides, axis=-2), statistic, **draws)
    dims = ("condition", "lens", "role", "token_class")
    coords = {"role": list(ROLES), "token_class": counts.displaced.values}
    coords |= {
        name: counts[name] for name in counts.coords if counts[name].dims in {("condition",), ("lens",)}
    }
    found = {name: (dims, end) for name, end in zip(("value", "low", "high"), ends)}
    return xr.Dataset(found, coords)


def grouped(counts: xr.DataArray, *dims: str) -> xr.DataArray:
    """Return counts summed over the classes of each of `GROUPS`, along the named dims."""
    for dim in dims:
        parts = [counts.sel({dim: list(kinds)}).sum(dim, keep_attrs=True) for kinds in GROUPS.values()]
        counts = xr.concat(parts, xr.IndexVariable(dim, list(GROUPS)))
    return counts


def grouped_means(gains: xr.Dataset) -> xr.Dataset:
    """Return the means of `rank_gains` or `late_wins` over each of `GROUPS` of classes; every step has the same weight."""
    steps = gains.n_steps
    parts = []
    for kinds in GROUPS.values():
        here, n = gains.sel(token_class=list(kinds)).drop_vars("n_steps"), steps.sel(token_class=list(kinds))
        total = n.sum("token_class")
        parts.append(((here * n).sum("token_class") / total.where(total > 0)).assign(n_steps=total))
    return xr.concat(parts, xr.IndexVariable("token_class", list(GROUPS)))


def rank_gains(steps: xr.Dataset, *, layers: Sequence[int] | None = None, basis: str = "host") -> xr.Dataset:
    """Return the gains of the teacher's token by grafts, by its class, per-prompt means.

    Dims (part, token_class, condition, lens, prompt), NaN if a prompt has no such token; `n_steps` (part, token_class,
    prompt) counts them. Values are means over `layers`, by default the final fifth, then over steps. `rank_gain`: the
    baseline's rank minus the condition's, positive if the graft moves the token up. `log_rank_gain`: the same of log
    ranks, which a few huge ranks do not dominate. `log_probability_gain`: nats. `rank_win`, `rank_loss`: the shares of
    steps with a gain above and below 0. part: "first" for a reply's first token, whose missing space gives huge ranks,
    "later" for all others.
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
    return with_conditions(by_class(xr.Dataset(found), steps), steps)


def by_class(values: xr.Dataset, steps: xr.Dataset) -> xr.Dataset:
    """Return per-prompt means of values (…, step) by part, first or later steps, and by class of the teacher's token.

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
    kept |= {"part": list(PARTS), "token_class": list(CLASSES), "prompt": prompts}
    return xr.Dataset(found, kept)


def late_wins(steps: xr.Dataset, *, basis: str = "host") -> xr.Dataset:
    """Return the share of steps at which the first layer that ranks the teacher's token first is a late one, by its class.

    `late_win` (part, token_class, condition, lens, prompt): the first such layer lies in the final fifth; `never`: no layer
    ranks the token first. Both are per-prompt means, as in `by_class`. steps must hold all layers.
    """
    first = steps.sel(basis=basis).target_rank == 1
    layer = first.argmax("layer")
    some = first.any("layer")
    late = some & (layer >= final_fifth(steps.attrs["n_layers"]).start)
    found = {"late_win": late.astype(float), "never": (~some).astype(float)}
    return with_conditions(by_class(xr.Dataset(found).reset_coords(drop=True), steps), steps)
