"""exp13 full: what goes with a late shift. Correlations of late MLP updates, and of what the teacher's token gains, with
late KL, with intervals over prompts.

A correlation here is over steps, within one condition or between a condition and its baseline; its interval resamples
prompts. "pooled" throws the conditions together as the study did: offsets between them then count as correlation.
This module takes datasets of steps as `nbhelpers.matched_prefix` makes them.
"""

import numpy as np
import xarray as xr

from nbhelpers.core import resampling, stats
from nbhelpers.core.depths import final_fifth
from nbhelpers.measures.graft_shifts import AXES, PROJECTIONS, baselines

OF_UPDATES = (*AXES, "delta_cosine", "remainder")
FEATURES = (*OF_UPDATES, "rank_gain")
KINDS = ("level", "within_prompt", "shift")
# What a correlation is partialled for: the entropy over the same layers, or of the condition's own output.
GIVEN = ("nothing", "late_entropy", "final_entropy")
POOLED = "pooled"


def features(steps: xr.Dataset, *, basis: str = "host", scale: str = "cosine") -> xr.Dataset:
    """Return one value a step of what may go with late KL, each the mean over the final fifth of the layers, float64.

    `value` (feature, condition, step): the update along each of `AXES`; the MLP's δ-cosine; `remainder`, what is left of
    the update without its part along `anti_kl`, its length, or its share of the update's on the scale "cosine"; and
    `rank_gain` of the teacher's token over the baseline, raw lens, 0 for a baseline. `kl` (condition, lens, step):
    KL(layer ‖ own final), nats; `late_entropy` and `final_entropy`, of the same layers and of the last, nats. Conditions
    are those whose updates were projected. scale: one of `effects.PROJECTIONS`; "projection" is the study's, whose
    units differ between families. ValueError for another.
    """
    if scale not in PROJECTIONS:
        raise ValueError(f"The scale is {scale!r}; choose from {', '.join(PROJECTIONS)}.")
    late = steps.sel(basis=basis, layer=list(final_fifth(steps.attrs["n_layers"])))
    rank = late.target_rank.sel(lens="raw", drop=True).astype(float)
    before = rank.sel(condition=late.baseline.values).assign_coords(condition=late.condition.values)
    late = late.sel(condition=~late[scale].isnull().all(["axis", "layer", "step"]))
    size = late.update_norm.sel(component="mlp", drop=True) if scale != "cosine" else 1.0
    along = late["cosine" if scale == "cosine" else "projection"].sel(axis="anti_kl", drop=True)
    beside = {
        "delta_cosine": late.delta_cosine.sel(component="mlp", drop=True),
        "remainder": np.sqrt((size**2 - along.astype(float) ** 2).clip(min=0)),
        "rank_gain": (before - rank).sel(condition=late.condition.values),
    }
    columns = [late[scale].rename(axis="feature")]
    columns += [values.expand_dims(feature=[name]) for name, values in beside.items()]
    found = {
        "value": xr.concat([column.mean("layer").reset_coords(drop=True) for column in columns], "feature"),
        "kl": late.kl_layer_final.mean("layer"),
        "late_entropy": late.entropy.mean("layer"),
        "final_entropy": late.entropy.isel(layer=-1, drop=True),
    }
    return xr.Dataset(found).reset_coords(drop=True).astype(float)


def correlations(
    steps: xr.Dataset,
    *,
    basis: str = "host",
    scale: str = "cosine",
    n_resamples: int = 10_000,
    seed: int = 0,
) -> xr.Dataset:
    """Return Pearson's r of each feature with late KL over steps, `value`, and its BCa ends `low` and `high`.

    Dims (kind, given, feature, condition, lens). kind "level" is within each condition; "within_prompt" after each
    prompt's mean is taken out; "shift", of the condition's change of the feature with its change of KL from its
    baseline, step by step: NaN for a baseline, or where that was not projected. given: the entropy that a partial
    correlation holds fixed, see `GIVEN`; its change, where the others are changes. Condition "pooled": all together.
    """
    levels, base = features(steps, basis=basis, scale=scale), baselines(steps)
    measured = levels.condition.values.tolist()
    grafted = [name for name in measured if base[name] != name and base[name] in measured]
    before = levels.sel(condition=[base[name] for name in grafted]).assign_coords(condition=grafted)
    prompt = steps.prompt_index.values
    kinds = {
        "level": levels,
        "within_prompt": levels.map(lambda values: centred(values, prompt)),
        "shift": levels.sel(condition=grafted) - before,
    }
    found = [
        correlated(each, prompt, n_resamples=n_resamples, seed=seed).reindex(condition=[*measured, POOLED])
        for each in kinds.values()
        if each.sizes["condition"]
    ]
    known = [kind for kind, each in kinds.items() if each.sizes["condition"]]
    return xr.concat(found, xr.IndexVariable("kind", known))


def by_scale(steps: xr.Dataset, **draws) -> xr.Dataset:
    """Return `correlations` of updates measured by their cosine and by their projection, with a dim `scale`."""
    scales = ("cosine", "projection")
    found = [correlations(steps, scale=scale, **draws) for scale in scales]
    return xr.concat(found, xr.IndexVariable("scale", list(scales)))


def centred(values: xr.DataArray, prompt: np.ndarray) -> xr.DataArray:
    """Return values (…, step) minus each prompt's mean over its steps; prompt: [step]."""
    values, (prompts, at) = values.transpose(..., "step"), np.unique(prompt, return_inverse=True)
    means = stats.prompt_means(values.values, at, len(prompts))
    return values - np.moveaxis(means[at], 0, -1)


def correlated(
    found: xr.Dataset, prompt: np.ndarray, *, n_resamples: int = 10_000, seed: int = 0
) -> xr.Dataset:
    """Return r of each feature with KL, plain and partial, and its ends over prompts, (given, feature, condition, lens).

    found: as `features` returns; prompt: [step]. The last condition, "pooled", is all of them. A step that lacks a value
    is left out. StatisticsError with fewer than two prompts.
    """
    sums = moments(stacked(found), prompt)
    sums = np.concatenate([sums, sums.sum(1, keepdims=True)], axis=1)
    ends = resampling.bca_of_sums(sums, _partial_correlations, n_resamples=n_resamples, seed=seed)
    dims = ("condition", "lens", "given", "feature")
    coords = {"condition": [*found.condition.values, POOLED], "lens": found.lens.values,
              "given": list(GIVEN), "feature": found.feature.values}  # fmt: skip
    out = xr.Dataset({name: (dims, end) for name, end in zip(("value", "low", "high"), ends)}, coords)
    return out.transpose("given", "feature", "condition", "lens")


def stacked(found: xr.Dataset) -> np.ndarray:
    """Return features, KL and both entropies of every step, [condition, lens, variable, step], each in units of its spread.

    Every variable is standardised over all conditions and steps, which changes no correlation and keeps sums exact.
    """
    value = found.value.expand_dims(lens=found.lens).transpose("condition", "lens", "feature", "step").values
    rest = [found[name].transpose("condition", "lens", "step").values[:, :, None]
            for name in ("kl", *GIVEN[1:])]  # fmt: skip
    both = np.concatenate([value, *rest], axis=2)
    spread = np.nanstd(both, axis=(0, 3), keepdims=True)
    return (both - np.nanmean(both, axis=(0, 3), keepdims=True)) / np.where(spread > 0, spread, 1.0)


def moments(values: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Return each prompt's sums of products, [prompt, condition, lens, variable + 1, variable + 1], a one being the last.

    values: [condition, lens, variable, step]; a step that lacks any variable counts for nothing.
    """
    whole = ~np.isnan(values).any(2, keepdims=True)
    both = np.concatenate([np.where(whole, values, 0.0), whole.astype(float)], axis=2)
    parts = [both[..., prompt == each] for each in np.unique(prompt)]
    return np.stack([part @ np.swapaxes(part, -1, -2) for part in parts])


def _partial_correlations(sums):
    """r of every feature with KL, [n, condition, lens, given, feature], of sums of products [n, condition, lens, …]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[..., :-1, -1] / sums[..., -1:, -1]
        covariance = sums[..., :-1, :-1] / sums[..., -1:, -1:] - mean[..., None] * mean[..., None, :]
        variance = np.diagonal(covariance, axis1=-2, axis2=-1)
        variance = np.where(variance > 1e-12, variance, np.nan)  # one that does not vary has no correlation
        r = covariance / np.sqrt(variance[..., None] * variance[..., None, :])
        n = r.shape[-1] - len(GIVEN)
        with_kl, found = r[..., :n, n], []
        for at in range(n, n + len(GIVEN)):
            # The first of `GIVEN` is nothing, whose place among the variables is KL's.
            given, kl_given = (r[..., :n, at], r[..., n, at][..., None]) if at > n else (0.0, 0.0)
            left = (1 - given**2) * (1 - kl_given**2)  # nothing where the given says all of one of them
            found.append((with_kl - given * kl_given) / np.sqrt(np.where(left > 1e-12, left, np.nan)))
        return np.stack(found, axis=-2)
