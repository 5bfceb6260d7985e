"""exp09: each prompt's profiles over layers, from the steps that exp00 observed.

The measures are per-prompt means of the free-running curves, commitment layers under every rule, curves on a matched
history, by confidence and by generation step, and paired differences with intervals. This module loads no model and
draws nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from nbhelpers.core import blocks, stats
from nbhelpers.core.params import VARIANTS
from nbhelpers.core.schemas import CommitmentParams
from nbhelpers.core.store import joined
from nbhelpers.measures import convergence_gap
from nbhelpers.measures.commitment import commitment_counts, commitment_table
from nbhelpers.measures.steps import (
    STRATA,
    confidence,
    free_steps,
    history_steps,
    prompt_means,
    strata,
)

DIRECTIONS = ("final_layer", "layer_final")
KL = tuple(f"kl_{direction}" for direction in DIRECTIONS)
CURVES = (*KL, "entropy", "kl_adjacent", "top1_agreement", "top1_probability")
FIRST = (*KL, "entropy")
SHAPES = ("delta_cosine", "update_norm", "residual_norm", "cosine_to_final")


def with_agreement(steps: xr.Dataset) -> xr.Dataset:
    """Return steps with `top1_agreement`, whether a layer's top-1 token is the last layer's."""
    agreement = steps.top1 == steps.top1.isel(layer=-1, drop=True)
    return steps.assign(top1_agreement=agreement.astype("float32"))


def free_profile(observed: xr.Dataset, variant: str) -> xr.Dataset:
    """Return a variant's free-running per-prompt means, dims ([lens or component,] prompt, layer)."""
    n = observed.sizes["prompt"]
    profile = prompt_means(with_agreement(free_steps(observed, variant))[[*CURVES, *SHAPES]], n)
    first = prompt_means(free_steps(observed, variant, first=True)[list(FIRST)], n)
    return profile.assign({f"{name}_first": first[name] for name in FIRST})


def commitment_layers(steps: xr.Dataset, options: CommitmentParams) -> xr.DataArray:
    """Return the layer at which each step commits, by every rule and lens, (rule, lens, step)."""
    table = commitment_table(
        *(
            steps[name].transpose("lens", "step", "layer").values
            for name in ("top1", "kl_final_layer", "entropy")
        ),
        steps.cosine_to_final.transpose("step", "layer").values,
        threshold=options.kl_threshold,
        grid=options.kl_grid,
        share=options.majority_share,
        window=options.stable_window,
    )
    return xr.DataArray(
        np.stack(list(table.values())),
        dims=("rule", "lens", "step"),
        coords={"rule": list(table), "lens": steps.lens, "prompt_index": steps.prompt_index},
    )


def commitment(observed: xr.Dataset, variant: str, options: CommitmentParams) -> xr.Dataset:
    """Return a variant's mean commitment layer by prompt and its counts by layer, for every rule and lens."""
    layers = commitment_layers(free_steps(observed, variant), options)
    n_layers = observed.sizes["layer"]
    counts = np.apply_along_axis(commitment_counts, -1, layers.values, n_layers)
    return xr.Dataset(
        {
            "commitment": prompt_means(layers, observed.sizes["prompt"]),
            "commitment_count": (("rule", "lens", "layer"), counts),
        }
    )


def matched_curves(observed: xr.Dataset) -> xr.Dataset:
    """Return both models' per-prompt KL curves on each history, through their own and the other's lens.

    Dims (history, variant, basis, lens, prompt, layer) of `kl_final_layer_matched` and `kl_layer_final_matched`.
    """
    found, n = {}, observed.sizes["prompt"]
    for name in KL:
        histories = []
        for history in VARIANTS:
            both = observed[[name, f"{name}_cross"]].isel(
                step=np.flatnonzero(((observed.history == history) & (observed.token > 0)).values)
            )
            means = prompt_means(both, n)
            histories.append(xr.concat([means[name], means[f"{name}_cross"]], "basis"))
        found[f"{name}_matched"] = xr.concat(histories, "history")
    return xr.Dataset(found).assign_coords(history=list(VARIANTS), basis=["own", "other"])


def stratified(steps: xr.Dataset, stratum: np.ndarray, n_prompts: int) -> xr.DataArray:
    """Return per-prompt means of KL(final ‖ layer) within each stratum, (stratum, prompt, …)."""
    means = [
        prompt_means(steps.kl_final_layer.isel(step=np.flatnonzero(stratum == i)), n_prompts)
        for i in range(len(STRATA))
    ]
    return xr.concat(means, "stratum").assign_coords(stratum=list(STRATA))


def by_confidence(observed: xr.Dataset, edges: Sequence[float]) -> xr.Dataset:
    """Return KL curves by stratum of confidence, free running and matched, and the number of steps in each stratum."""
    n, free, matched, counts = observed.sizes["prompt"], [], [], []
    for owner in VARIANTS:
        own = free_steps(observed, owner)
        stratum = strata(confidence(own), edges)
        free.append(stratified(own, stratum, n))
        counts.append(np.bincount(stratum, minlength=len(STRATA)))
        both = [stratified(history_steps(observed, reader, owner), stratum, n) for reader in VARIANTS]
        matched.append(xr.concat(both, "variant"))
    return xr.Dataset(
        {
            "kl_by_confidence": xr.concat(free, "variant"),
            "kl_by_confidence_matched": xr.concat(matched, "history"),
            "steps_by_confidence": (("variant", "stratum"), np.stack(counts)),
        },
        coords={"variant": list(VARIANTS), "history": list(VARIANTS)},
    )


def cosine_sums(observed: xr.Dataset) -> xr.Dataset:
    """Return the sum of the block's δ-cosine by generation step, and how many values and prompts it has.

    `cosine_sum`, `cosine_count` (variant, token, layer); `prompts_at` (variant, token).
    """
    width, sums, counts, prompts = int(observed.token.max()) + 1, [], [], []
    for variant in VARIANTS:
        steps = free_steps(observed, variant)
        values = steps.delta_cosine.sel(component="block", drop=True).transpose("layer", "step").values
        token, known = steps.token.values, ~np.isnan(values)
        sums.append([np.bincount(token, row, width) for row in np.where(known, values.astype(float), 0.0)])
        counts.append([np.bincount(token, row, width) for row in known])
        prompts.append(np.bincount(token, minlength=width))
    dims = ("variant", "layer", "token")
    found = {"cosine_sum": (dims, sums), "cosine_count": (dims, counts), "prompts_at": (dims[::2], prompts)}
    coords = {"variant": list(VARIANTS), "token": np.arange(width), "layer": observed.layer.values}
    return xr.Dataset(found, coords).transpose("variant", "token", "layer")


def cosine_by_step(sums: xr.Dataset, fewest: int = 5) -> xr.DataArray:
    """Return the mean δ-cosine of the block by generation step, (variant, token, layer); NaN below `fewest` prompts."""
    means = sums.cosine_sum / sums.cosine_count.where(sums.cosine_count > 0)
    return means.where(sums.prompts_at >= fewest).transpose("variant", "token", "layer")


def gaps_and_delays(profile: xr.Dataset, options: CommitmentParams) -> xr.Dataset:
    """Return the convergence gap and the commitment delays, IT − PT paired by prompt, with BCa intervals, by lens."""
    bootstrap = dict(n_resamples=options.n_resamples, confidence=options.confidence, seed=options.seed)
    it, pt = (profile.sel(variant=variant, drop=True) for variant in ("it", "pt"))
    curves = [[one[name].transpose("lens", "prompt", "layer").values for name in KL] for one in (it, pt)]
    gaps = convergence_gap.convergence_gap(*map(np.array, curves))  # direction, lens, prompt
    delays = (it.commitment - pt.commitment).transpose("prompt", "lens", "rule").values
    out = xr.Dataset(coords={"direction": list(DIRECTIONS), "rule": profile.rule, "lens": profile.lens})
    by_prompt = {
        "convergence_gap": (("direction", "lens"), np.moveaxis(gaps, -1, 0)),
        "commitment_delay": (("lens", "rule"), delays),
    }
    for name, (dims, values) in by_prompt.items():
        for suffix, bound in zip(("", "_low", "_high"), stats.bca_mean(values, **bootstrap)):
            out[name + suffix] = (dims, bound)
    steps = [one.n_tokens.values - 1 for one in (it, pt)]
    by_token = [
        [convergence_gap.token_weighted_gap(a, b, *steps) for a, b in zip(*pair)] for pair in zip(*curves)
    ]
    out["convergence_gap_tokens"] = (("direction", "lens"), by_token)
    return out


def of_both(observed: xr.Dataset, measure: Callable, *options) -> xr.Dataset:
    """Return `measure(observed, variant, *options)` of both models, with a dim `variant`."""
    parts = [measure(observed, variant, *options) for variant in VARIANTS]
    return xr.concat(parts, "variant").assign_coords(variant=list(VARIANTS))


def of_block(observed: xr.Dataset, options: CommitmentParams) -> xr.Dataset:
    """Return all measures of one block of prompts that come from steps."""
    own = of_both(observed, free_profile), of_both(observed, commitment, options)
    strata_of = by_confidence(observed, options.confidence_edges)
    return joined(*own, matched_curves(observed), strata_of, cosine_sums(observed))


def assembled(observed: xr.Dataset, *parts: xr.Dataset) -> xr.Dataset:
    """Return measures of all blocks as one dataset, with the texts' lengths and categories and the δ-cosine by step."""
    kept = {name: observed[name] for name in ("n_tokens", "stopped", "category")}
    coords = {name: observed[name] for name in ("prompt", "layer", "depth")}
    sums = ["cosine_sum", "cosine_count", "prompts_at"]
    found = joined(*parts)
    by_step = cosine_by_step(found[sums])
    return found.drop_vars(sums).assign(kept).assign_coords(coords).assign(delta_cosine_by_step=by_step)


def profiles(observed: xr.Dataset, options: CommitmentParams) -> xr.Dataset:
    """Return all measures that come from steps, block by block of prompts."""
    return assembled(observed, blocks.over(observed, of_block, options))


def summarise(observed: xr.Dataset, options: CommitmentParams) -> xr.Dataset:
    """Return exp09's dataset for one pair, without its side panels: the profiles, the gaps and the delays."""
    profile = profiles(observed, options)
    return joined(profile, gaps_and_delays(profile, options))
