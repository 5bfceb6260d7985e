"""Correlates of a late shift: correlations of late KL with late MLP updates and with the rank gain of the teacher's token.

A correlation here is over steps, within one condition or between a condition and its baseline; its interval resamples
prompts. "pooled" joins all conditions, as in the study; offsets between conditions then count as correlation. This
module takes datasets of steps from `nbhelpers.measures.matched_prefix`.
"""

import numpy as np
import xarray as xr

from nbhelpers.core import blocks, resampling, stats
from nbhelpers.core.depths import final_fifth
from nbhelpers.measures.graft_shifts import AXES, PROJECTIONS, baselines

OF_UPDATES = (*AXES, "delta_cosine", "remainder")
FEATURES = (*OF_UPDATES, "rank_gain")
KINDS = ("level", "within_prompt", "shift")
# What a correlation holds fixed: nothing, the entropy of the same layers, or the entropy of the condition's output.
GIVEN = ("nothing", "late_entropy", "final_entropy")
POOLED = "pooled"


def features(steps: xr.Dataset, *, basis: str = "host", scale: str = "cosine") -> xr.Dataset:
    """Return late KL and the features that may correlate with it, float64, by step: means over the final fifth.

    `value` (feature, condition, step): the update along each of `AXES`; the MLP's δ-cosine; `remainder`, the length of the
    update without its part along `anti_kl` (on the scale "cosine", as a share of the update's length); and `rank_gain` of
    the teacher's token over the baseline, raw lens, 0 for a baseline. `kl` (condition, lens, step): KL(layer ‖ own final),
    nats; `late_entropy` and `final_entropy`: entropy of the same layers and of the last layer, nats. Conditions are those
    whose updates were projected. scale: one of `graft_shifts.PROJECTIONS`; "projection" is the study's, and its units
    differ between families. ValueError for any other.
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
    **draws,
) -> xr.Dataset:
    """Return Pearson's r of each feature with late KL over steps, `value`, and its BCa ends `low` and `high`.

    Dims (kind, given, feature, condition, lens). kind "level": over the steps of each condition; "within_prompt": after
    subtracting each prompt's mean; "shift": of the changes of feature and KL from the baseline, step by step, NaN for a
    baseline or if the baseline was not projected. given: the entropy that a partial correlation holds fixed, see `GIVEN`;
    for "shift", its change. Condition "pooled": all conditions together.
    """
    sums, about = {}, {}
    for block in blocks.each(steps):
        for kind, found in by_kind(block, basis=basis, scale=scale).items():
            # Any block's spread serves: standardising changes no correlation, it only keeps sums exact.
            first = about.setdefault(kind, (found.drop_dims("step"), scaling(stacked(found))))
            values = standardised(stacked(found), first[1])
            sums.setdefault(kind, []).append(moments(values, block.prompt_index.values))
    measured = about["level"][0].condition.values.tolist()
    found = [
        correlated(np.concatenate(sums[kind]), about[kind][0], **draws).reindex(condition=[*measured, POOLED])
        for kind in sums
    ]
    return xr.concat(found, xr.IndexVariable("kind", list(sums)))


def by_kind(steps: xr.Dataset, **options) -> dict[str, xr.Dataset]:
    """Return {kind: features} of `KINDS`, the same variables as levels, within prompts, and as shifts from the baseline."""
    levels, base, prompt = features(steps, **options), baselines(steps), steps.prompt_index.values
    measured = levels.condition.values.tolist()
    grafted = [name for name in measured if base[name] != name and base[name] in measured]
    before = levels.sel(condition=[base[name] for name in grafted]).assign_coords(condition=grafted)
    kinds = (
        levels,
        levels.map(lambda values: centred(values, prompt)),
        levels.sel(condition=grafted) - before,
    )
    return {kind: each for kind, each in zip(KINDS, kinds) if each.sizes["condition"]}


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


def correlated(sums: np.ndarray, found: xr.Dataset, **draws) -> xr.Dataset:
    """Return r of each feature with KL, plain and partial, and its ends over prompts, (given, feature, condition, lens).

    sums: from `moments`; found: what holds their coordinates. The last condition, "pooled", joins all others. A step that
    lacks a value is left out. StatisticsError with fewer than two prompts.
    """
    sums = np.concatenate([sums, sums.sum(1, keepdims=True)], axis=1)
    ends = resampling.bca_of_sums(sums, _partial_correlations, **draws)
    dims = ("condition", "lens", "given", "feature")
    coords = {"condition": [*found.condition.values, POOLED], "lens": found.lens.values,
              "given": list(GIVEN), "feature": found.feature.values}  # fmt: skip
    out = xr.Dataset({name: (dims, end) for name, end in zip(("value", "low", "high"), ends)}, coords)
    return out.transpose("given", "feature", "condition", "lens")


def stacked(found: xr.Dataset) -> np.ndarray:
    """Return features, KL and both entropies of every step, [condition, lens, variable, step]."""
    value = found.value.expand_dims(lens=found.lens).transpose("condition", "lens", "feature", "step").values
    rest = [found[name].transpose("condition", "lens", "step").values[:, :, None]
            for name in ("kl", *GIVEN[1:])]  # fmt: skip
    return np.concatenate([value, *rest], axis=2)


def scaling(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the spread of each variable over all conditions and steps, [1, lens, variable, 1]."""
    over = dict(axis=(0, 3), keepdims=True)
    return np.nanmean(values, **over), np.nanstd(values, **over)


def standardised(values: np.ndarray, scale: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return values [condition, lens, variable, step] less the mean and over the spread of `scaling`."""
    mean, spread = scale
    return (values - mean) / np.where(spread > 0, spread, 1.0)


def moments(values: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Return each prompt's sums of products, [prompt, condition, lens, variable + 1, variable + 1]; the last variable is 1.

    values: [condition, lens, variable, step]; a step that lacks any variable is left out.
    """
    whole = ~np.isnan(values).any(2, keepdims=True)
    both = np.concatenate([np.where(whole, values, 0.0), whole.astype(float)], axis=2)
    parts = [both[..., prompt == each] for each in np.unique(prompt)]
    return np.stack([part @ np.swapaxes(part, -1, -2) for part in parts])


def _partial_correlations(sums):
    """Return r of every feature with KL, [n, condition, lens, given, feature], from sums [n, condition, lens, …]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[..., :-1, -1] / sums[..., -1:, -1]
        covariance = sums[..., :-1, :-1] / sums[..., -1:, -1:] - mean[..., None] * mean[..., None, :]
        variance = np.diagonal(covariance, axis1=-2, axis2=-1)
        variance = np.where(variance > 1e-12, variance, np.nan)  # a constant variable has no correlation
        r = covariance / np.sqrt(variance[..., None] * variance[..., None, :])
        n = r.shape[-1] - len(GIVEN)
        with_kl, found = r[..., :n, n], []
        for at in range(n, n + len(GIVEN)):
            # The first of `GIVEN` is "nothing"; among the variables, KL has its place.
            given, kl_given = (r[..., :n, at], r[..., n, at][..., None]) if at > n else (0.0, 0.0)
            left = (1 - given**2) * (1 - kl_given**2)  # NaN if the given variable determines one of the two
            found.append((with_kl - given * kl_given) / np.sqrt(np.where(left > 1e-12, left, np.nan)))
        return np.stack(found, axis=-2)
