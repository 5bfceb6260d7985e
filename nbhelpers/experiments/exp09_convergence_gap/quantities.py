"""The quantities of exp09, from one pair's dataset."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.report.quantities import (
    VARIANTS,
    Quantities,
    Quantity,
    attention,
    by_variant,
    clouds,
    difference,
    levels,
    over,
    shifts,
    weights,
)  # fmt: skip

SLICES = {"depth_0.5_0.7": (5, 7), "depth_0.7_0.9": (7, 9), "depth_0.9_1.0": (9, 10)}
# Direction of the divergence → the name of its gap.
GAPS = {"final_layer": "kl_excess", "layer_final": "kl_layer_final_excess"}
LENSES = ("raw", "tuned")
TEXTS = {"own": "each on its own text", "pt": "both on PT's text", "it": "both on IT's text"}
MATCHED = {"final_layer": "matched_gap", "layer_final": "matched_layer_final_gap"}  # the same on one text
# The study's commitment rules; it counts reversals over the cells of family, rule and lens.
STUDY_RULES = ("top1_first", "top1_stable3", "kl_first_0.1", "majority_0.1")
REVERSALS = (
    "of the six rules here, the study's four (first top-1, top-1 for 3 layers, first KL < 0.1, 90 % KL < 0.1), each through "
    "both lenses, by the means"
)
AS_PUBLISHED = {
    "*.majority_*": {"majority_share": 0.9},
    "gap_by_confidence.*": {"confidence_edges": [0.5, 0.9]},
    "*_dimension_shift.mle.*": {"mle_neighbours": 10},
}
POOLED = "published: pooled over tokens; here: means by prompt"
COSINE = "the whole block's update, as computed; the text says MLP"
UNMEASURED = {
    "steps_range.least": "a figure of an older run; the steps of this run stand by variant",
    "steps_range.most": "a figure of an older run; the steps of this run stand by variant",
    "kl_excess_final_eight.tuned.least": "eight layers of one 36-layer model",
    "kl_excess_final_eight.tuned.most": "eight layers of one 36-layer model",
    "matched_delay.kl_stays_0.1": "needs PT's tuned lens for both models on IT's text, with commitment; exp09 keeps curves",
    "weight_peak_band.first": "a band of layers of one 34-layer model; the peak layer is measured",
    "weight_peak_band.last": "a band of layers of one 34-layer model; the peak layer is measured",
    "n_positive.late_dimension_shift.lpca.native": "local PCA is not computed: it has no parameter-free form",
    "threshold_validity.top1_unchanged_below_0.1": "no released file holds it, and no experiment here measures it yet",
    "threshold_validity.top5_stable_below_0.1": "no released file holds it, and no experiment here measures it yet",
}


def threshold(result: xr.Dataset) -> str:
    """Return the threshold of commitment of a run, nats, as the names of its rules have it."""
    return next(str(r) for r in result["rule"].values if r.startswith("kl_first_")).removeprefix("kl_first_")


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp09's quantities: gaps, commitment, δ-cosine, end points, weights, clouds."""
    found = updates(result) | end_point(result)
    for lens in result["lens"].values:
        found |= gaps(result, lens) | commitments(result, lens) | matched(result, lens)
        found |= strata(result, lens)
    return found | commitment_to_final_state(result) | weights(result) | clouds(result)


def gap_name(text: str, direction: str = "final_layer", lens: str = "raw") -> str:
    """Return the quantity that holds the late-half gap on a text, a key of `TEXTS`."""
    start, end = (GAPS[direction], "") if text == "own" else (MATCHED[direction], f".{text}")
    return f"{start}_late_half{end}.{lens}"


def parts(n_layers: int) -> dict[str, range]:
    """Return the layers over which a gap is averaged, by name."""
    thirds = {f"{name}_third": layers for name, layers in depths.thirds(n_layers).items()}
    return thirds | {"late_half": depths.late_half(n_layers), "final_fifth": depths.final_fifth(n_layers)}


def gaps(result: xr.Dataset, lens: str) -> Quantities:
    """Return IT − PT of the divergence from the model's own final distribution through one lens, nats, in both directions."""
    n, found = result.sizes["layer"], {}
    for direction, name in GAPS.items():
        kl = result[f"kl_{direction}"].sel(lens=lens, drop=True)
        moved = {f"{name}_{part}.{lens}": difference(over(kl, at)) for part, at in parts(n).items()}
        found |= shifts(moved, "nats", f"{POOLED}, paired")
    kl = result["kl_final_layer"].sel(lens=lens, drop=True)
    above, half = difference(kl.mean("prompt")).values > 0, list(depths.late_half(n))
    shared = f"{POOLED}, shares of its layers but the last, whose distance is zero by definition"
    by_token = {f"kl_excess_late_half_by_token.{lens}": result.convergence_gap_tokens.sel(
        lens=lens, direction="final_layer", drop=True)}  # fmt: skip
    return (
        found
        | shifts(by_token, "nats")
        | levels({f"layers_above.{lens}": above[half[:-1]].mean()}, "1", shared, centre=0.5)
        | levels({f"late_layers_above.{lens}": above[half[:-1]].sum()}, "layers")
        | levels({f"crossover.{lens}": np.argmax(above[::-1]) if above.any() else n}, "layers")
        | levels(by_variant(f"kl_first_layer.{lens}", kl.isel(layer=0).mean("prompt")), "nats",
                 "published without, here with a mask over vocabulary rows that no token has")
    )  # fmt: skip


def quantile_layer(counts: xr.DataArray, share: float = 0.5) -> int:
    """Return the layer by which `share` of the pooled steps have committed, counts [layer]."""
    return int(np.argmax(np.cumsum(counts.values) >= share * counts.values.sum()))


def commitments(result: xr.Dataset, lens: str) -> Quantities:
    """Return commitment delays through one lens, paired by prompt, and means and medians over pooled steps, layers."""
    counts = result["commitment_count"].sel(lens=lens, drop=True)
    delay, found = difference(result["commitment"].sel(lens=lens, drop=True)), {}
    layers = np.arange(result.sizes["layer"])
    for rule in [str(rule) for rule in result["rule"].values if rule != "cosine_0.95"]:
        of = {v: counts.sel(variant=v, rule=rule, drop=True) for v in VARIANTS}
        one, name = delay.sel(rule=rule, drop=True), f"{lens}.{rule}"
        found |= shifts({f"commitment_delay.{name}": one}, "layers", f"{POOLED}; in layers of this model")
        # The same values under another name, because the study reports the delay by step and by prompt.
        steps = "published without each text's first five steps; in layers of this model"
        found |= shifts({f"commitment_delay_by_prompt.{name}": one}, "layers", steps)
        means = {v: (n.values * layers).sum() / n.values.sum() for v, n in of.items()}
        found |= levels({f"commitment.{name}.{v}": mean for v, mean in means.items()}, "layers")
        median = quantile_layer(of["it"]) - quantile_layer(of["pt"])
        found |= shifts({f"commitment_delay_median.{name}": median}, "layers", _as_computed(rule))
    stays = delay.sel(rule=f"kl_stays_{threshold(result)}", drop=True)
    return found | shifts(
        {f"commitment_delay_kl_stays.{lens}": stays}, "layers", "by the run's own threshold"
    )


def _as_computed(rule: str) -> str:
    """Return how the study's code differs from its text for a rule, "" if it does not."""
    if rule == "top1_first":
        return "published as the first match, computed as one that stays"
    return (
        "published as the first crossing, computed as the one that stays"
        if rule.startswith("kl_first")
        else ""
    )


def commitment_to_final_state(result: xr.Dataset) -> Quantities:
    """Return the commitment delay by the cosine to the final residual, which needs no lens; empty if it was not measured."""
    if "cosine_0.95" not in result["rule"].values:
        return {}
    layer = result["commitment"].isel(lens=0, drop=True).sel(rule="cosine_0.95", drop=True)
    return shifts(
        {"commitment_delay.cosine_0.95": difference(layer)}, "layers", f"{POOLED}; in layers of this model"
    )


def matched(result: xr.Dataset, lens: str) -> Quantities:
    """Return gaps, nats, when both models read one text, each through its own lens: both directions over the late half on
    either text, and KL(layer ‖ final) over the final fifth on IT's text.
    """
    n, found = result.sizes["layer"], {}
    for direction, name in MATCHED.items():
        curves = result[f"kl_{direction}_matched"].sel(basis="own", lens=lens, drop=True)
        for history in VARIANTS:
            gap = difference(over(curves.sel(history=history, drop=True), depths.late_half(n)))
            found |= shifts({f"{name}_late_half.{history}.{lens}": gap}, "nats")
    curve = result["kl_layer_final_matched"].sel(history="it", basis="own", lens=lens, drop=True)
    late, note = over(curve, depths.final_fifth(n)), "published: means over steps; here: by prompt"
    found |= levels(by_variant(f"matched_kl_final_fifth.{lens}", late), "nats", note)
    return found | shifts({f"matched_gap_final_fifth.{lens}": difference(late)}, "nats", note)


def strata(result: xr.Dataset, lens: str) -> Quantities:
    """Return the late-half gap, nats, by confidence of the final prediction (free running, on IT's text) and by category."""
    half, found = depths.late_half(result.sizes["layer"]), {}
    free = difference(over(result["kl_by_confidence"].sel(lens=lens, drop=True), half))
    same = result["kl_by_confidence_matched"].sel(history="it", lens=lens, drop=True)
    same = difference(over(same, half))
    for stratum in result["stratum"].values:
        found[f"gap_by_confidence.{stratum}.free.{lens}"] = free.sel(stratum=stratum, drop=True)
        found[f"gap_by_confidence.{stratum}.it.{lens}"] = same.sel(stratum=stratum, drop=True)
    for direction, name in GAPS.items():
        gap = difference(over(result[f"kl_{direction}"].sel(lens=lens, drop=True), half))
        for category in dict.fromkeys(result["category"].values.tolist()):
            inside = np.flatnonzero(result["category"].values == category)
            found[f"{name}_by_category.{category}.{lens}"] = gap.isel(prompt=inside)
    return shifts(found, "nats")


def updates(result: xr.Dataset) -> Quantities:
    """Return shifts of the block's δ-cosine and of the cosine to the final state."""
    cosine, n = result["delta_cosine"].sel(component="block", drop=True), result.sizes["layer"]
    at = {name: range(a * n // 10, b * n // 10) for name, (a, b) in SLICES.items()}
    at |= {f"{name}_third": layers for name, layers in depths.thirds(n).items()}
    # The published curve leaves out the first layer, whose predecessor is the embedding.
    at |= {"early_third": range(1, n // 3), "final_fifth": depths.final_fifth(n), "last_layer": [n - 1]}
    moved = {f"delta_cosine_shift.{name}": difference(over(cosine, to)) for name, to in at.items() if len(to)}
    below = difference(cosine.mean("prompt")).values[list(depths.final_fifth(n))] < 0
    last, final = cosine.isel(layer=-1, drop=True), result["cosine_to_final"]
    mean, onset = difference(final.mean("prompt")).values, final.isel(layer=depths.onset(n), drop=True)
    to_final = {
        "cosine_to_final_shift.mean": difference(final.mean("layer")),
        "cosine_to_final_shift.extreme": mean[np.argmax(abs(mean))],
        "cosine_to_final_shift.onset": difference(onset),
    }
    return (
        shifts(moved, "cosine", COSINE)
        | levels({"delta_cosine_layers_below.final_fifth": below.mean()}, "1", COSINE, centre=0.5)
        | levels(by_variant("delta_cosine_last_layer", last), "cosine", COSINE, centre=0.0)
        | levels(
            by_variant("delta_cosine_final_fifth", over(cosine, at["final_fifth"])),
            "cosine",
            COSINE,
            centre=0.0,
        )
        | shifts(to_final, "cosine")
        | levels(by_variant("cosine_to_final_onset", onset), "cosine")
    )


def end_point(result: xr.Dataset) -> Quantities:
    """Return entropy (nats) and top-1 probability of the final distribution, and the number of measured steps."""
    last = result.sel(lens="raw").isel(layer=-1, drop=True)
    steps = (result["n_tokens"] - 1).clip(min=0).sum("prompt")
    return (
        levels(by_variant("final_entropy", last["entropy"]), "nats")
        | shifts({"final_entropy_shift": difference(last["entropy"])}, "nats")
        | levels(by_variant("final_top1_probability", last["top1_probability"]), "1")
        | levels(by_variant("steps", steps), "steps", "fewer prompts and shorter texts than in the study")
    )


def across(found: Mapping[str, Quantities]) -> Quantities:
    """Return the number of cells of family, rule and lens in which IT commits earlier, counted as in the study."""
    cells = [f"commitment_delay.{lens}.{rule}" for lens in ("raw", "tuned") for rule in STUDY_RULES]
    if not all(cell in of for of in found.values() for cell in cells):
        return {}
    delays = [of[cell].values for of in found.values() for cell in cells]
    earlier = float(sum(float(delay.mean()) < 0 for delay in delays))
    return {"reversals": Quantity(earlier, "cells", "level", None, REVERSALS)}


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "kl_layer_final_excess_by_category.*": ("categories", strata),
    "kl_excess_by_category.*": ("categories", strata),
    "kl_layer_final_excess_*": ("other_direction", gaps),
    "kl_excess_*_third.*": ("third_table", gaps),
    "kl_excess_final_fifth.*": ("third_table", gaps),
    "kl_excess_*": ("gap_figure", gaps),
    "*layers_above.*": ("gap_table", gaps),
    "crossover.*": ("main_figure", gaps),
    "kl_first_layer.*": ("main_figure", gaps),
    "gap_by_confidence.*": ("strata", strata),
    "matched_*gap_late_half.*": ("gap_figure", matched),
    "matched_*": ("matched", matched),
    "reversals": ("delay_table", across),
    "commitment_delay.cosine_*": ("delay_table", commitment_to_final_state),
    "commitment_delay.*": ("delay_figure", commitments),
    "commitment*": ("delay_table", commitments),
    "cosine_to_final_*": ("to_final", updates),
    "delta_cosine_final_fifth.*": ("cosine_levels", updates),
    "delta_cosine_last_layer.*": ("cosine_figure", updates),
    "delta_cosine_*": ("cosine_shift", updates),
    "final_*": ("entropy_figure", end_point),
    "steps.*": ("main_figure", end_point),
    "weight_*": ("weights", weights),
    "attention_*": ("attention", attention),
    "*_dimension_shift.*": ("dimension", clouds),
    "late_*_shift.*": ("dimension", clouds),
}
