"""The quantities of exp09, from one pair's dataset."""

import numpy as np
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.report.quantities import VARIANTS, by_variant, clouds, over, shift, weights

SLICES = {"depth_0.5_0.7": (5, 7), "depth_0.7_0.9": (7, 9), "depth_0.9_1.0": (9, 10)}


def quantile_layer(counts: xr.DataArray, share: float = 0.5) -> int:
    """Return the layer by which `share` of the pooled steps have committed, counts [layer]."""
    return int(np.argmax(np.cumsum(counts.values) >= share * counts.values.sum()))


def gaps(result: xr.Dataset, lens: str) -> dict:
    """Return distances to the own final distribution through one lens, nats, KL(final ‖ layer)."""
    kl, n = result["kl_final_layer"].sel(lens=lens, drop=True), result.sizes["layer"]
    parts = {f"{name}_third": layers for name, layers in depths.thirds(n).items()}
    parts |= {"late_half": depths.late_half(n), "final_fifth": depths.final_fifth(n)}
    found = {f"kl_excess_{name}.{lens}": shift(over(kl, layers)) for name, layers in parts.items()}
    mean = shift(kl.mean("prompt"))
    above = mean.values > 0
    found[f"layers_above.{lens}"] = above[list(depths.late_half(n))].mean()
    found[f"crossover.{lens}"] = np.argmax(above[::-1]) if above.any() else n
    return found | by_variant(f"kl_first_layer.{lens}", kl.isel(layer=0).mean("prompt"))


def commitments(result: xr.Dataset, lens: str) -> dict:
    """Return commitment delays through one lens, paired by prompt, and means and medians over pooled steps, layers."""
    counts = result["commitment_count"].sel(lens=lens, drop=True)
    delay, found = shift(result["commitment"].sel(lens=lens, drop=True)), {}
    layers = np.arange(result.sizes["layer"])
    for rule in result["rule"].values:
        of = {v: counts.sel(variant=v, rule=rule, drop=True) for v in VARIANTS}
        found[f"commitment_delay.{lens}.{rule}"] = delay.sel(rule=rule, drop=True)
        # The same by another name: the study gave it by step and by prompt.
        found[f"commitment_delay_by_prompt.{lens}.{rule}"] = found[f"commitment_delay.{lens}.{rule}"]
        for v, count in of.items():
            found[f"commitment.{lens}.{rule}.{v}"] = (count.values * layers).sum() / count.values.sum()
        median = quantile_layer(of["it"]) - quantile_layer(of["pt"])
        found[f"commitment_delay_median.{lens}.{rule}"] = median
    return found


def matched(result: xr.Dataset, lens: str) -> dict:
    """Return KL(layer ‖ final) over the final fifth when both models read IT's text, each through its own lens, nats."""
    curve = result["kl_layer_final_matched"].sel(history="it", basis="own", lens=lens, drop=True)
    late = over(curve, depths.final_fifth(result.sizes["layer"]))
    found = by_variant(f"matched_kl_final_fifth.{lens}", late)
    return found | {f"matched_gap_final_fifth.{lens}": shift(late)}


def updates(result: xr.Dataset) -> dict:
    """Return shifts of the block's δ-cosine and of the cosine to the final state."""
    cosine, n = result["delta_cosine"].sel(component="block", drop=True), result.sizes["layer"]
    parts = {name: range(a * n // 10, b * n // 10) for name, (a, b) in SLICES.items()}
    parts |= {f"{name}_third": layers for name, layers in depths.thirds(n).items()}
    # The published curve has no first layer, whose predecessor would be the embedding.
    parts["early_third"] = range(1, n // 3)
    parts |= {"final_fifth": depths.final_fifth(n), "last_layer": [n - 1]}
    found = {f"delta_cosine_shift.{name}": shift(over(cosine, at)) for name, at in parts.items() if len(at)}
    below = shift(cosine.mean("prompt")).values[list(depths.final_fifth(n))] < 0
    found["delta_cosine_layers_below.final_fifth"] = below.mean()
    found |= by_variant("delta_cosine_last_layer", cosine.isel(layer=-1, drop=True))
    to_final = result["cosine_to_final"]
    mean, onset = shift(to_final.mean("prompt")).values, to_final.isel(layer=depths.onset(n), drop=True)
    found["cosine_to_final_shift.mean"] = shift(to_final.mean("layer"))
    found["cosine_to_final_shift.extreme"] = mean[np.argmax(abs(mean))]
    found["cosine_to_final_shift.onset"] = shift(onset)
    return found | by_variant("cosine_to_final_onset", onset)


def end_point(result: xr.Dataset) -> dict:
    """Return entropy, nats, and top probability of the final distribution, and the steps that were measured."""
    last = result.sel(lens="raw").isel(layer=-1, drop=True)
    found = by_variant("final_entropy", last["entropy"])
    if "top1_probability" in result:
        found |= by_variant("final_top1_probability", last["top1_probability"])
    steps = (result["n_tokens"] - 1).clip(min=0).sum("prompt")
    return found | by_variant("steps", steps)


def quantities(result: xr.Dataset) -> dict:
    """Return exp09's quantities: gaps, commitment, δ-cosine, end points, weights, clouds."""
    found = updates(result) | end_point(result)
    for lens in result["lens"].values:
        found |= gaps(result, lens) | commitments(result, lens)
        found |= matched(result, lens) if "kl_layer_final_matched" in result else {}
    return found | (weights(result) if "weight_rms" in result else {}) | clouds(result)
