"""exp09: profiles over layers of each prompt, from the steps that exp00 observed.

Per-prompt means of the free-running curves, commitment layers under every rule, the same curves under a matched
history, by confidence and by generation step, and paired differences with intervals. Loads no model, draws nothing.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.core.params import VARIANTS
from nbhelpers.core.schemas import CommitmentParams
from nbhelpers.core.store import described, joined
from nbhelpers.measures import convergence_gap
from nbhelpers.measures.commitment import commitment_counts, commitment_table
from nbhelpers.measures.steps import (
    OBSERVED,
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
NAMES = {
    "top1_agreement": ("1", "share of steps whose top-1 token is the final layer's"),
    "kl_final_layer_first": ("nats", "KL(final ‖ layer) at the last prompt position"),
    "kl_layer_final_first": ("nats", "KL(layer ‖ final) at the last prompt position"),
    "entropy_first": ("nats", "entropy at the last prompt position"),
    "kl_final_layer_matched": (
        "nats",
        "KL(final ‖ layer) of either model on one history, by whose lens reads it",
    ),
    "kl_layer_final_matched": (
        "nats",
        "KL(layer ‖ final) of either model on one history, by whose lens reads it",
    ),
    "kl_by_confidence": (
        "nats",
        "KL(final ‖ layer) of steps in a stratum of final top-1 probability, free running",
    ),
    "kl_by_confidence_matched": ("nats", "the same on one history, strata by the confidence of its writer"),
    "steps_by_confidence": ("steps", "free-running steps in a stratum"),
    "delta_cosine_by_step": ("1", "δ-cosine of the block update, by generation step, mean over prompts"),
    "commitment": ("layers", "mean commitment layer of a prompt's steps"),
    "commitment_count": ("steps", "steps that commit at the layer, pooled over prompts"),
    "convergence_gap": ("nats", "mean over the late half of IT − PT, by prompt"),
    "convergence_gap_low": ("nats", "lower end of the interval of the convergence gap"),
    "convergence_gap_high": ("nats", "upper end of the interval of the convergence gap"),
    "convergence_gap_tokens": ("nats", "convergence gap with every step weighted equally"),
    "commitment_delay": ("layers", "IT − PT of a prompt's mean commitment layer"),
    "commitment_delay_low": ("layers", "lower end of the interval of the delay"),
    "commitment_delay_high": ("layers", "upper end of the interval of the delay"),
}


def with_agreement(steps: xr.Dataset) -> xr.Dataset:
    """Return steps with `top1_agreement`, whether a layer's first token is the last layer's."""
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
        steps.top1.transpose("lens", "step", "layer").values,
        steps.kl_final_layer.transpose("lens", "step", "layer").values,
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
    """Return KL curves by stratum of confidence, free running and matched, and how many steps each holds."""
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


def cosine_by_step(observed: xr.Dataset, fewest: int = 5) -> xr.DataArray:
    """Return the mean δ-cosine of the block by generation step, (variant, token, layer); NaN under `fewest` prompts."""
    width, found = int(observed.token.max()) + 1, []
    for variant in VARIANTS:
        steps = free_steps(observed, variant)
        values = steps.delta_cosine.sel(component="block", drop=True).transpose("layer", "step")
        means = stats.prompt_means(values.values, steps.token.values, width)
        means[np.bincount(steps.token.values, minlength=width) < fewest] = np.nan
        found.append(means)
    coords = {"variant": list(VARIANTS), "token": np.arange(width)}
    return xr.DataArray(np.stack(found), dims=("variant", "token", "layer"), coords=coords)


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


def summarise(observed: xr.Dataset, options: CommitmentParams) -> xr.Dataset:
    """Return exp09's dataset for one pair: what `contents.REQUIRED["exp09"]` lists, with units and names."""
    parts = [joined(free_profile(observed, v), commitment(observed, v, options)) for v in VARIANTS]
    profile = xr.concat(parts, "variant").assign_coords(variant=list(VARIANTS))
    kept = ("n_tokens", "stopped", "category")
    profile = profile.assign({name: observed[name] for name in kept})
    profile = profile.assign_coords({name: observed[name] for name in ("prompt", "layer", "depth")})
    strata_of = by_confidence(observed, options.confidence_edges)
    profile = joined(profile, matched_curves(observed), strata_of)
    profile["delta_cosine_by_step"] = cosine_by_step(observed)
    return described(joined(profile, gaps_and_delays(profile, options)), OBSERVED | NAMES)
