"""The quantities of the claims ledger, computed from one result of one pair; no model is loaded, nothing is drawn.

A metric's name says what it is of: `.raw` or `.tuned` for the lens, `.pt` or `.it` for one variant (`.it_plain` is IT
without its template); without a variant it is IT − PT. Clouds of states and attention are read under a template, `.raw`
or `.chat` for both models, `.native` for each model's own.
"""

import numpy as np
import xarray as xr

from nbhelpers import depths, graft_metrics, params, stats

VARIANTS = params.VARIANTS
SLICES = {"depth_0.5_0.7": (5, 7), "depth_0.7_0.9": (7, 9), "depth_0.9_1.0": (9, 10)}
CONDITIONS = {"pt": "PT", "it": "IT", "it_plain": "IT without template"}
KINDS = ("IC", "OOC", "R")
STRUCTURAL = ("structural", "discourse", "punctuation")
SPECTRA = ("participation_ratio", "effective_rank", "first_share")


def shift(values: xr.DataArray) -> xr.DataArray:
    """Return IT − PT, without the variant dimension."""
    return values.sel(variant="it", drop=True) - values.sel(variant="pt", drop=True)


def over(values: xr.DataArray, layers) -> xr.DataArray:
    """Return the mean over some layers, by their numbers."""
    return values.isel(layer=list(layers)).mean("layer")


def by_variant(name: str, values: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return values of each variant by name and variant, `name.pt` and `name.it`."""
    return {f"{name}.{v}": values.sel(variant=v, drop=True) for v in VARIANTS}


def quantile_layer(counts: xr.DataArray, share: float = 0.5) -> int:
    """Return the layer by which `share` of the pooled steps have committed, counts [layer]."""
    return int(np.argmax(np.cumsum(counts.values) >= share * counts.values.sum()))


def ratio(part: xr.DataArray, whole: xr.DataArray) -> xr.DataArray:
    """Return values [prompt] whose mean is mean(part) / mean(whole) and whose spread is that ratio's, to first order."""
    found = part.mean() / whole.mean()
    return found + (part - found * whole) / whole.mean()


# exp09


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


def weights(result: xr.Dataset) -> dict:
    """Return how much parameters moved, RMS, by kind of module: mean, spread, peak, late over early layers."""
    found, n = {}, result.sizes["layer"]
    for group in ("mlp", "attention"):
        rms = result["weight_rms"].sel(group=group).values
        found[f"weight_mean.{group}"] = rms.mean()
        found[f"weight_variation.{group}"] = rms.std() / rms.mean()
        found[f"weight_peak_layer.{group}"] = np.argmax(rms)
        for name, start in {"late": depths.onset(n), "last_third": 2 * n // 3}.items():
            found[f"weight_{name}_ratio.{group}"] = rms[start:].mean() / rms[:start].mean()
    return found


def read_as(values: xr.DataArray, reading: str) -> xr.DataArray:
    """Return values under one template for both models, or under each model's native one."""
    if reading != "native":
        return values.sel(template=reading, drop=True)
    parts = [values.sel(variant=v, template=template, drop=True) for v, template in params.NATIVE.items()]
    return xr.concat(parts, "variant").assign_coords(variant=list(params.NATIVE))


def clouds(result: xr.Dataset) -> dict:
    """Return dimension and spectrum of the states at the prompt's end, and attention entropy there, where measured."""
    found, n = {}, result.sizes["layer"]
    late = depths.final_fifth(n)
    for reading in ("raw", "chat", "native"):
        for estimator in result["estimator"].values if "dimension" in result else ():
            one = shift(read_as(result["dimension"].sel(estimator=estimator, drop=True), reading))
            found[f"late_dimension_shift.{estimator}.{reading}"] = over(one, late)
            found[f"last_dimension_shift.{estimator}.{reading}"] = one.isel(layer=-1)
        for name in SPECTRA:
            if name in result:
                found[f"late_{name}_shift.{reading}"] = over(shift(read_as(result[name], reading)), late)
        if "attention_entropy" in result:
            found |= attention(read_as(result["attention_entropy"], reading), reading)
    return found


def attention(entropy: xr.DataArray, reading: str) -> dict:
    """Return shifts of attention entropy, nats, [cloud_prompt]: over all layers and around a third of the depth."""
    by_prompt, n = shift(entropy), entropy.sizes["layer"]
    centre, reach = round(0.33 * n), max(1, n // 10)
    around = range(max(centre - reach, 0), min(centre + reach + 1, n))
    return {
        f"attention_entropy_shift.{reading}": by_prompt.mean("layer"),
        f"attention_entropy_shift_third.{reading}": over(by_prompt, around),
        f"attention_entropy_shift_third_layer.{reading}": by_prompt.isel(layer=centre, drop=True),
        f"attention_entropy_peak_layer.{reading}": np.argmax(abs(by_prompt.mean("cloud_prompt").values)),
    }


def exp09(result: xr.Dataset) -> dict:
    """Return exp09's quantities: gaps, commitment, δ-cosine, end points, weights, clouds."""
    found = updates(result) | end_point(result)
    for lens in result["lens"].values:
        found |= gaps(result, lens) | commitments(result, lens)
        found |= matched(result, lens) if "kl_layer_final_matched" in result else {}
    return found | (weights(result) if "weight_rms" in result else {}) | clouds(result)


# exp02, exp03, exp04


def exp02(result: xr.Dataset) -> dict:
    """Return the block's δ-cosine of each kind of prompt, with and without the template, and weight change."""
    block, found = result["delta_cosine"].sel(component="block", drop=True), weights(result)
    for kind in KINDS:
        of = {"prompt": np.flatnonzero((result["category"] == kind).values)}
        for place, at in {"onset": depths.onset(result.sizes["layer"]), "last_layer": -1}.items():
            one = block.isel(layer=at, drop=True).isel(of)
            for name, condition in CONDITIONS.items():
                found[f"delta_cosine_{place}.{kind}.{name}"] = one.sel(condition=condition, drop=True)
            found[f"template_shift.{place}.{kind}"] = (
                found[f"delta_cosine_{place}.{kind}.it"] - found[f"delta_cosine_{place}.{kind}.it_plain"]
            )
    return found


def with_shift(name: str, values: xr.DataArray, suffix: str = "") -> dict:
    """Return values of each variant and IT − PT: `name.suffix.pt`, `name.suffix.it`, `name_shift.suffix`."""
    return by_variant(name + suffix, values) | {f"{name}_shift{suffix}": shift(values)}


def exp03(result: xr.Dataset) -> dict:
    """Return how predictions are revised, each model on its own text, and how concentrated its use of neurons is."""
    parts = [result.sel(variant=v, history=v, drop=True) for v in VARIANTS]
    own = xr.concat(parts, "variant").assign_coords(variant=list(VARIANTS))
    raw = own.sel(lens="raw", drop=True)
    found, ranges = {}, depths.phases(result.sizes["layer"])
    for phase, layers in ranges.items():
        for lens in result["lens"].values:
            kl = own["phase_kl_adjacent"].sel(phase=phase, lens=lens, drop=True)
            found |= with_shift("phase_kl_adjacent", kl, f".{phase}.{lens}")
        found |= with_shift("phase_of_mind", raw["phase_of_mind"].sel(phase=phase, drop=True), f".{phase}")
        # Layer 0 has no layer before it.
        turnover = over(raw["turnover"], [i for i in layers if i])
        found |= with_shift("turnover", turnover, f".{phase}")
    for stratum in result["stratum"].values:
        layer = raw["commitment_by_confidence"].sel(stratum=stratum, rule="kl_continuous", drop=True)
        found |= by_variant(f"commitment_by_confidence.{stratum}", layer)
        found[f"delay_by_confidence.{stratum}"] = shift(layer)
    found |= with_shift("delta_cosine_corrective", over(raw["delta_cosine"], ranges["corrective"]))
    found |= with_shift("late_change_structural_share", structural_share(raw))
    return found | concentration(result, ranges["corrective"])


def structural_share(own: xr.Dataset) -> xr.DataArray:
    """Return the share of late changes of mind that end on a structural token, discourse or punctuation, (variant)."""
    late = (own["late_mind_change"].mean("prompt") * own["class_share"]).fillna(0)
    structural = late.sel(token_class=late["token_class"].isin(STRUCTURAL))
    return structural.sum("token_class") / late.sum("token_class")


def concentration(result: xr.Dataset, layers) -> dict:
    """Return Gini, N50 and N90 of the use of neurons, and PT's and IT's shared ones, mean over some layers."""
    found = {}
    for name in ("gini", "n50", "n90"):
        found |= with_shift(name, over(result[name], layers))
    shared = over(result["neuron_overlap"], layers)
    return found | {f"neuron_overlap.k{k}": shared.sel(k=k) for k in result["k"].values}


def exp04(result: xr.Dataset) -> dict:
    """Return dimension, its lowest layer and how sharp it is there, both models on plain text, and the clouds."""
    plain = result.sel(template="raw")
    two_nn = plain["dimension"].sel(estimator="two_nn", drop=True)
    at, sharp = plain["lowest_layer"], plain["sharpness"]
    found = by_variant("lowest_layer", at) | by_variant("sharpness", sharp)
    found["sharpness_ratio"] = sharp.sel(variant="it") / sharp.sel(variant="pt").where(lambda x: x > 0)
    found |= by_variant("dimension_lowest", two_nn.sel(layer=at))
    found |= by_variant("dimension_last", two_nn.isel(layer=-1))
    return (
        found | by_variant("dimension_minimum_layer", two_nn.fillna(np.inf).argmin("layer")) | clouds(result)
    )


# exp07


def exp07_0g(result: xr.Dataset) -> dict:
    """Return by how much the tuned lens is closer than the raw one at 0.6 of the depth, and how often each agrees."""
    n, found = result.sizes["layer"], {}
    for v in VARIANTS:
        kl = result["kl_final_layer"].sel(variant=v).isel(layer=int(0.6 * n))
        raw, tuned = (kl.sel(lens=name, drop=True) for name in ("raw", "tuned"))
        found[f"lens_improvement.{v}"] = ratio(raw - tuned, raw)
        for lens in ("raw", "tuned"):
            top1 = result["top1_agreement"].sel(variant=v, lens=lens, drop=True)
            found[f"top1_agreement.{lens}.{v}"] = top1.mean("layer")
            found[f"top1_agreement_last_layer.{lens}.{v}"] = top1.isel(layer=-1)
    return found | by_variant("last_layer_kl", result["last_layer_kl"])


def exp07_0j(result: xr.Dataset) -> dict:
    """Return the layer from which the block's δ-cosine falls, −1 for none, under each rule, and how rules differ."""
    block, n = result.sel(component="block"), result.sizes["layer"]
    found, layers = {}, {}
    for rule in result["rule"].values:
        number, drop = rule.removesuffix(" σ"), rule.removeprefix("drop ")
        name = f"drop_{drop}" if rule.startswith("drop ") else f"sigma_{number}"
        one = [float(block[part].sel(rule=rule)) for part in ("onset", "onset_low", "onset_high")]
        found[f"onset.{name}"] = stats.Interval(*one)
        layers[name] = one[0]
    for name, start in {"sigma": "sigma", "all": ""}.items():
        reached = [layer for rule, layer in layers.items() if rule.startswith(start) and layer >= 0]
        found[f"onset_span.{name}"] = max(reached) - min(reached) if reached else np.nan
    return found | {
        "onset_depth.least": min(reached) / n if reached else np.nan,
        "onset_depth.most": max(reached) / n if reached else np.nan,
    }


QUANTITIES = {
    "exp02": exp02,
    "exp03": exp03,
    "exp04": exp04,
    "exp07_0g": exp07_0g,
    "exp07_0j": exp07_0j,
    "exp09": exp09,
    "exp11": graft_metrics.exp11,
    "exp13": graft_metrics.exp13,
    "exp14": graft_metrics.exp14,
}
