"""What grafts change, prompt by prompt: means over a reply's steps, differences from the baseline, the strongest window.

Everything here starts from the dataset of steps that `matched_prefix` makes, (lens, basis, condition, layer,
step), and works on numbers alone: no model, no lens.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core import depths, resampling, stats
from nbhelpers.core.params import NATIVE
from nbhelpers.measures import commitment

GRID = (0.05, 0.1, 0.2, 0.5, 1.0)
ABOUT = ("host", "prompt_format", "baseline", "window", "control", "first_layer", "last_layer")
TESTED = ("mean", "low", "high", "p", "p_holm")
_NOT_MEANS = ("top1", "target_rank", "free_top1", "token_id", "token_class", "candidate_overlap")
# The axes of late MLP updates, and how they are measured: see `update_directions`.
AXES = ("support_teacher", "anti_top1", "anti_kl")
PROJECTIONS = ("effect", "projection", "cosine")


def by_prompt(steps: xr.Dataset, grid: Sequence[float] = GRID) -> xr.Dataset:
    """Return per-prompt means over steps, all steps counted, coordinate `prompt` being the prompt's index.

    It holds every read-out of `measure` but ids, ranks and overlaps of candidates; and `target_log_rank`, `top1_final`,
    `commitment` (condition, lens, basis, rule, prompt: see `commitments`), `agreement_teacher`, `agreement_baseline`,
    `first_divergence_teacher`, `first_divergence_baseline` (condition, prompt) and `n_tokens` (prompt). steps: whole
    replies.
    """
    whole = steps.assign(step_values(steps, grid))
    prompts, prompt = np.unique(steps.prompt_index.values, return_inverse=True)
    found = {}
    for name, values in whole.drop_vars(_NOT_MEANS, errors="ignore").items():
        dims = [dim for dim in values.dims if dim != "step"]
        means = stats.prompt_means(values.transpose(*dims, "step").values, prompt, len(prompts))
        found[name] = ("prompt", *dims), means.astype(np.float32)
    lengths = np.bincount(prompt)
    for name in ("teacher", "baseline"):
        agrees = whole[f"agreement_{name}"].transpose("condition", "step").values
        found[f"first_divergence_{name}"] = ("condition", "prompt"), first_miss(agrees, prompt, lengths)
    found["n_tokens"] = "prompt", lengths
    kept = {name: coord for name, coord in whole.coords.items() if "step" not in coord.dims}
    return xr.Dataset(found, kept | {"prompt": prompts}, steps.attrs)


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
            found[f"{name}_{threshold}"] = commitment.kl_stays(moved[name], threshold)
    found["top1"] = commitment.top1_strict(moved["top1"])
    dims = "rule", *(dim for dim in steps.top1.dims if dim != "layer")
    return xr.DataArray(layers[np.stack(list(found.values()))], {"rule": list(found)}, dims)


def first_miss(agrees: np.ndarray, prompt: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the first step of each prompt where `agrees` [condition, step] is 0, its length if none, [condition, prompt].

    first_miss[i] = min {s : agrees[s] = 0}, s over the steps of prompt i
    prompt: [step], ascending steps within each; lengths: [prompt].
    """
    found = np.tile(lengths, (len(agrees), 1))
    starts = np.concatenate([np.flatnonzero(prompt == i)[:1] for i in range(len(lengths))])
    condition, step = np.nonzero(agrees == 0)
    np.minimum.at(found, (condition, prompt[step]), step - starts[prompt[step]])
    return found


def baselines(steps: xr.Dataset) -> dict[str, str]:
    """Return {condition: its baseline}; a baseline is its own."""
    return dict(zip(steps.condition.values.tolist(), steps.baseline.values.tolist()))


def against_baseline(values, about: xr.Dataset):
    """Return values (array or dataset) of each grafted condition, and of its baseline under the same name.

    about: what holds the conditions' coordinates; of the values' own only those of their dims are kept.
    """
    base = {name: other for name, other in baselines(about).items() if name != other}
    before = values.sel(condition=list(base.values())).assign_coords(condition=list(base))
    return values.sel(condition=list(base)).reset_coords(drop=True), before.reset_coords(drop=True)


def with_conditions(found, about: xr.Dataset):
    """Return an array or dataset with the coordinates of its conditions (host, window, control, …) taken from `about`."""
    of = about.condition.sel(condition=found.condition.values).coords
    return found.assign_coords({name: ("condition", of[name].values) for name in ABOUT if name in of})


def shifts(dataset: xr.Dataset) -> xr.Dataset:
    """Return every condition minus its baseline, per prompt: what a graft changes.

    shifts = mean_{ℓ ∈ region} (x[condition, ℓ] − x[baseline, ℓ])
    Over the layers of `region`: "final_fifth", the layers from ⌊0.8 L⌋, and "window", the condition's own replaced
    layers, over which its baseline is averaged too; NaN where those layers were not read. Variables without layers have
    no region. B_late at "final_fifth" is the study's sufficiency, D_late's necessity.
    """
    measured = [name for name in dataset.data_vars if "condition" in dataset[name].dims]
    layered = [name for name in measured if "layer" in dataset[name].dims]
    after, before = against_baseline(dataset[measured], dataset)
    difference, found = after - before, []
    if not layered:
        return with_conditions(difference, dataset).assign_attrs(dataset.attrs)
    regions = regions_of(with_conditions(after, dataset), dataset.attrs["n_layers"])
    for start, end in regions.values():
        inside = (dataset.layer >= start) & (dataset.layer <= end)
        whole = inside.sum("layer") == end - start + 1
        means = difference[layered].where(inside).mean("layer").where(whole)
        found.append(difference.drop_vars(layered).assign(means))
    region = xr.IndexVariable("region", list(regions))
    joined = xr.concat(found, region, data_vars=layered, coords="minimal", compat="override")
    joined = with_conditions(joined.drop_dims("layer"), dataset)
    return joined.assign_attrs(dataset.attrs)


def regions_of(about: xr.Dataset, n_layers: int) -> dict[str, tuple[xr.DataArray, xr.DataArray]]:
    """Return the first and last layer of each region of `shifts`, (condition)."""
    first, last, fifth = about.first_layer, about.last_layer, depths.final_fifth(n_layers)
    return {
        "final_fifth": (xr.full_like(first, fifth.start), xr.full_like(last, fifth.stop - 1)),
        "window": (first, last),
    }


def by_window(shifted: xr.Dataset, control: str = "graft") -> xr.Dataset:
    """Return `shifts` with dims side and window for condition, each host under its native prompt.

    side "sufficiency": IT's MLPs in PT, against A'; "necessity": PT's in IT, against C. control: see `condition_edits`.
    """
    found = []
    for host, prompt_format in NATIVE.items():
        chosen = (
            (shifted.host == host) & (shifted.prompt_format == prompt_format) & (shifted.control == control)
        )
        part = shifted.isel(condition=np.flatnonzero(chosen))
        found.append(part.reset_coords(drop=True).assign_coords(condition=part.window.values))
    side = xr.IndexVariable("side", ["sufficiency", "necessity"])
    return xr.concat(found, side).rename(condition="window")


def strongest_window(values: xr.DataArray, *, n_resamples: int = 10_000, seed: int = 0) -> xr.DataArray:
    """Return the bootstrap probability that each window has the largest mean over prompts and that above zero, (…, window).

    strongest_window[w] = P(mean_i x[i, w] = max_u mean_i x[i, u] > 0), i over resampled prompts
    values: (prompt, window, …). Turn the sign of a necessity first, whose strongest window is the most negative. Where no
    window's mean is above zero none is the strongest, so that probabilities may add up to less than 1. All
    windows of a resample have the same prompts; windows that tie share it. A prompt that lacks a value is left out. For a
    pool, average families of the same prompts first. StatisticsError with fewer than two prompts.
    """
    values = values.transpose("prompt", ..., "window").dropna("prompt")
    if values.sizes["prompt"] < 2:
        raise stats.StatisticsError(f"Resampling needs two measured prompts: {values.sizes['prompt']} are.")
    share = np.zeros(values.shape[1:])
    for sums in resampling.totals(values.values, n_resamples, seed):
        best = (sums >= sums.max(-1, keepdims=True)) & (sums > 0)
        share += (best / best.sum(-1, keepdims=True).clip(1)).sum(0)
    share /= n_resamples
    about = {"units": "1", "long_name": "bootstrap probability of being the strongest window"}
    return values.isel(prompt=0, drop=True).copy(data=share).assign_attrs(about)


def tested(
    values: xr.DataArray,
    *,
    within: Sequence[str] = (),
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Return `mean`, BCa ends `low` and `high`, `p` and `p_holm` of paired differences, over prompts, (…).

    values: (prompt, …), shifts or differences of shifts between windows. p: two-sided, by flipping signs of the mean.
    p_holm: Holm's, over all entries given, or over those that share their place in the dims `within`. Entries without two
    prompts are NaN.
    """
    values = values.transpose("prompt", ...)
    rest = values.isel(prompt=0, drop=True)
    columns = values.values.reshape(values.sizes["prompt"], -1)
    enough = (~np.isnan(columns)).sum(0) > 1
    found = {name: np.full(columns.shape[1], np.nan) for name in TESTED}
    options = {"n_resamples": n_resamples, "seed": seed}
    if enough.any():
        for name, ends in zip(found, stats.bca_mean(columns[:, enough], confidence=confidence, **options)):
            found[name][enough] = ends
        p = stats.sign_flip(columns[:, enough], **options)
        found["p"][enough] = p
    p = rest.copy(data=found["p"].reshape(rest.shape))
    apart = p.transpose(*within, ...).values.reshape(int(np.prod([p.sizes[dim] for dim in within])), -1)
    corrected = np.stack([stats.holm(row) for row in apart])
    back = p.transpose(*within, ...)
    found["p_holm"] = back.copy(data=corrected.reshape(back.shape)).transpose(*rest.dims).values.ravel()
    arrays = {name: rest.copy(data=entry.reshape(rest.shape)) for name, entry in found.items()}
    return xr.Dataset(arrays)


WINDOWS = ("early", "mid", "late")
STUDY_THRESHOLD = 0.1  # nats
RULE = f"kl_layer_final_{STUDY_THRESHOLD}"
