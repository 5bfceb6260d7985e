"""exp13A: which kinds of token a graft displaces and supports, and what it does for the teacher's token.

Signs, in words. A rank gain is positive where the graft moves the teacher's token up.

This module knows nothing of models or grafts: it takes datasets of steps as `nbhelpers.matched_prefix` makes them, and a
tokenizer.
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
# The study's coarser classes; special tokens, which it counted as "other", stay apart.
GROUPS = {
    "format": ("structural", "punctuation", "discourse"),
    "content": ("content",),
    "function_other": ("function", "other"),
    "special": ("special",),
}
# Tokens before a candidate that decide its word; no word or mark is longer.
_CONTEXT = 24


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


def replaced(
    steps: xr.Dataset, tokenizer, *, layers: Sequence[int] | None = None, basis: str = "host"
) -> xr.DataArray:
    """Return how often a graft changes the top-1 token from one class to another, counts per prompt.

    Dims (condition, lens, displaced, supported, prompt): of the (step, layer) cells whose top-1 token differs from the
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
    about = {"units": "cells", "long_name": "cells whose top-1 token the graft replaces, by class of both"}
    found = xr.DataArray(counts, coords, dims, "replaced", about | {"cells_per_step": chosen.sizes["layer"]})
    return with_conditions(found, steps)


def shares(counts: xr.DataArray, *, n_resamples: int = 10_000, seed: int = 0) -> xr.Dataset:
    """Return the share of each class among displaced and supported tokens, `value`, BCa ends `low` and `high`.

    Dims (condition, lens, role, token_class), role "displaced", "supported" or "change", the second less the first.
    counts: of `replaced`, or `grouped`. Ratios of sums over all prompts, as the study's; prompts are resampled. To pool
    families, concatenate their counts along `prompt`. NaN where nothing is replaced.
    """
    sides = [counts.sum(other).transpose("prompt", "condition", "lens", ...).values
             for other in ("supported", "displaced")]  # fmt: skip

    def statistic(sums):
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = sums / sums.sum(-1, keepdims=True)
        lost, won = np.moveaxis(ratios, -2, 0)
        return np.stack([lost, won, won - lost], axis=-2)

    ends = resampling.bca_of_sums(np.stack(sides, axis=-2), statistic, n_resamples=n_resamples, seed=seed)
    dims = ("condition", "lens", "role", "token_class")
    coords = {"role": list(ROLES), "token_class": counts.displaced.values}
    coords |= {
        name: counts[name] for name in counts.coords if counts[name].dims in {("condition",), ("lens",)}
    }
    found = {name: (dims, end) for name, end in zip(("value", "low", "high"), ends)}
    return xr.Dataset(found, coords)


def grouped(counts: xr.DataArray, *dims: str) -> xr.DataArray:
    """Return counts summed over the classes of each of `GROUPS`, in the named dims of token classes."""
    for dim in dims:
        parts = [counts.sel({dim: list(kinds)}).sum(dim, keep_attrs=True) for kinds in GROUPS.values()]
        counts = xr.concat(parts, xr.IndexVariable(dim, list(GROUPS)))
    return counts


def grouped_means(gains: xr.Dataset) -> xr.Dataset:
    """Return means by class (`rank_gains`, `late_wins`) over the classes of each of `GROUPS`, every step counting once."""
    steps = gains.n_steps
    parts = []
    for kinds in GROUPS.values():
        here, n = gains.sel(token_class=list(kinds)).drop_vars("n_steps"), steps.sel(token_class=list(kinds))
        total = n.sum("token_class")
        parts.append(((here * n).sum("token_class") / total.where(total > 0)).assign(n_steps=total))
    return xr.concat(parts, xr.IndexVariable("token_class", list(GROUPS)))


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
    return with_conditions(by_class(xr.Dataset(found), steps), steps)


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
    kept |= {"part": list(PARTS), "token_class": list(CLASSES), "prompt": prompts}
    return xr.Dataset(found, kept)


def late_wins(steps: xr.Dataset, *, basis: str = "host") -> xr.Dataset:
    """Return, by class of the teacher's token, the share of steps whose first layer to rank it first is a late one.

    `late_win` (part, token_class, condition, lens, prompt): the first layer, of all, with the token in first place lies
    in the final fifth; `never` where no layer has it. per-prompt means, as in `by_class`. All layers must be read.
    """
    first = steps.sel(basis=basis).target_rank == 1
    layer = first.argmax("layer")
    some = first.any("layer")
    late = some & (layer >= final_fifth(steps.attrs["n_layers"]).start)
    found = {"late_win": late.astype(float), "never": (~some).astype(float)}
    return with_conditions(by_class(xr.Dataset(found).reset_coords(drop=True), steps), steps)
