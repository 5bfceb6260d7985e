"""The quantities of exp03, from one pair's dataset."""

import xarray as xr

from nbhelpers.core import depths
from nbhelpers.measures import steps
from nbhelpers.report.quantities import (
    LEXICON,
    VARIANTS,
    Quantities,
    by_variant,
    difference,
    levels,
    over,
    shifts,
    with_shift,
)  # fmt: skip

STRUCTURAL = ("structural", "discourse", "punctuation")
MINDS = ("late_mind_change", "late_flips", "kl_adjacent_at_change")
NEURONS = "published: dictionary features; here: MLP neurons"
OF_DICTIONARIES = "needs the study's dictionaries of features, which exist for one family"
OTHER_THRESHOLD = "one threshold of commitment by confidence is kept, 0.1 nats"
BY_POSITION = "pairs steps of two texts by position; here both models read the same text (gap_by_agreement)"
AS_PUBLISHED = {
    f"{name}_by_confidence*.*": {"kl_threshold": 0.1, "confidence_edges": [0.5, 0.9]}
    for name in ("commitment", "delay", "matched_delay")
}
UNMEASURED = {
    **{f"delay_by_confidence_tau_{tau}.{s}": OTHER_THRESHOLD for tau in ("0.2", "0.5", "1") for s in steps.STRATA},
    **{f"delay_by_match_tau_{tau}.{m}": BY_POSITION for tau in ("0.1", "0.2", "0.5", "1")
       for m in ("matched", "mismatched")},
    **dict.fromkeys(("token_share.matched", "token_share.divergent"), BY_POSITION),
    **{f"kl_adjacent_burst.layers_{at}": "layers of one 34-layer model; the figure shows every layer"
       for at in ("5_6", "15_17", "27_28")},
    **{f"{name}.{v}": OF_DICTIONARIES for v in VARIANTS
       for name in ("active_features", "median_activation", "p90_activation", "last_two_layers_mass")},
    **{f"own_feature_share.{at}": OF_DICTIONARIES for at in ("early.most", "late.least", "late.most")},
    **{f"neuron_overlap.k{k}": "an MLP of the pocket size has no 100 neurons that stand out; 10, 20 and 50 are kept"
       for k in (100, 1000)},
    **{f"first_crossing_median.{v}": "a median over pooled steps; here only means by prompt are kept"
       for v in VARIANTS},
}  # fmt: skip


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp03's quantities: revision of predictions on own texts and on IT's, and concentration of neuron use."""
    parts = [result.sel(variant=v, history=v, drop=True) for v in VARIANTS]
    own = xr.concat(parts, "variant").assign_coords(variant=list(VARIANTS))
    same = result.sel(history="it", drop=True)
    late = depths.phases(result.sizes["layer"])["corrective"]
    return (
        of_phases(own) | revision_on_one_text(result) | of_minds(own, "free") | of_minds(same, "it")
        | by_confidence(own, same) | by_agreement(same) | structural(own) | concentration(result, late)
        | with_shift("delta_cosine_corrective", over(own["delta_cosine"], late), "cosine",
                     note="the whole block's update, as computed; the text says MLP", centre=0.0)
    )  # fmt: skip


def of_phases(own: xr.Dataset) -> Quantities:
    """Return adjacent divergence (nats), share of changes of mind and turnover by phase of the study, free running."""
    found, raw = {}, own.sel(lens="raw", drop=True)
    clipped = "Gemma's figures: KL(layer ‖ before), clipped, no template; here KL(before ‖ layer)"
    for phase, layers in depths.phases(own.sizes["layer"]).items():
        for lens in own["lens"].values:
            kl = own["phase_kl_adjacent"].sel(phase=phase, lens=lens, drop=True)
            found |= with_shift("phase_kl_adjacent", kl, "nats", f".{phase}.{lens}", clipped)
        found |= with_shift(
            "phase_of_mind", raw["phase_of_mind"].sel(phase=phase, drop=True), "1", f".{phase}"
        )
        # Layer 0 has no layer before it.
        found |= with_shift("turnover", over(raw["turnover"], [i for i in layers if i]), "1", f".{phase}")
    return found


def revision_on_one_text(result: xr.Dataset) -> Quantities:
    """Return IT − PT of the adjacent divergence (nats) in the corrective phase, both models on one text, by lens and text.

    `matched_revision_shift.<lens>.<text>`, text: whose tokens both models read.
    """
    kl = difference(result["phase_kl_adjacent"].sel(phase="corrective", drop=True))
    moved = {
        f"matched_revision_shift.{lens}.{text}": kl.sel(lens=lens, history=text, drop=True)
        for lens in kl["lens"].values
        for text in kl["history"].values
    }
    return shifts(moved, "nats")


def of_minds(of: xr.Dataset, text: str) -> Quantities:
    """Return late changes of mind by class of the token that follows, raw lens; text: the name of the texts in `of`."""
    found = {}
    for name in MINDS:
        values, unit = of[name].sel(lens="raw", drop=True), "nats" if name.startswith("kl") else "1"
        for kind in of["token_class"].values:
            found |= with_shift(name, values.sel(token_class=kind, drop=True), unit, f".{text}.{kind}")
    return found


def by_confidence(own: xr.Dataset, same: xr.Dataset) -> Quantities:
    """Return layer and delay of the first crossing by stratum of confidence, free running, and the delay on IT's text.

    The threshold applies to KL(final ‖ layer) and, in names with `_layer_final`, to KL(layer ‖ final), as in the study.
    """
    note, found = "published without IT's template; in layers of this model", {}
    for stratum in own["stratum"].values:
        at = dict(stratum=stratum, rule="kl_continuous", lens="raw", drop=True)
        for direction in ("", "_layer_final"):
            name = f"commitment_by_confidence{direction}"
            layer, matched = own[name].sel(**at), difference(same[name].sel(**at))
            found |= levels(by_variant(f"{name}.{stratum}", layer), "layers", note if direction else "")
            found |= shifts({f"delay_by_confidence{direction}.{stratum}": difference(layer)}, "layers", note)
            found |= shifts({f"matched_delay_by_confidence{direction}.{stratum}": matched}, "layers")
    return found


def by_agreement(same: xr.Dataset) -> Quantities:
    """Return the late-half gap (nats) on IT's text by whether the final top-1 tokens agree, and the share that agrees."""
    late = list(depths.late_half(same.sizes["layer"]))
    gap = difference(over(same["kl_by_agreement"].sel(lens="raw", drop=True), late))
    found = {
        f"gap_by_agreement.{kind}": gap.sel(agreement_of=kind, drop=True) for kind in gap.agreement_of.values
    }
    return shifts(found, "nats") | levels({"agreement.it": float(same["agreement"].sel(variant="pt"))}, "1")


def structural(own: xr.Dataset) -> Quantities:
    """Return the share of late changes of mind that end on a structural, discourse or punctuation token."""
    rate = own["late_mind_change"].sel(lens="raw", drop=True).mean("prompt")
    late = (rate * own["class_share"]).fillna(0)
    kept = late.sel(token_class=late["token_class"].isin(STRUCTURAL))
    share = kept.sum("token_class") / late.sum("token_class")
    return with_shift(
        "late_change_structural_share",
        share,
        "1",
        note=f"from rates by token class, means over prompts; {LEXICON}",
    )


def concentration(result: xr.Dataset, layers) -> Quantities:
    """Return Gini, N50 and N90 of neuron use over `layers`, and the overlap of both models' top neurons there and overall."""
    found = {}
    for name in ("gini", "n50", "n90"):
        found |= with_shift(name, over(result[name], layers), "1", note=NEURONS)
    shared = result["neuron_overlap"]
    late = {f"neuron_overlap.k{k}": float(over(shared, layers).sel(k=k)) for k in result["k"].values}
    every = {
        f"neuron_overlap_all_layers.k{k}": float(shared.mean("layer").sel(k=k)) for k in result["k"].values
    }
    return found | levels(late, "1", NEURONS) | levels(every, "1")


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "phase_kl_adjacent*": ("main_figure", of_phases),
    "phase_of_mind*": ("emergence", of_phases),
    "turnover*": ("turnover", of_phases),
    "late_mind_change*": ("minds", of_minds),
    "late_flips*": ("minds", of_minds),
    "kl_adjacent_at_change*": ("minds", of_minds),
    "late_change_structural_share*": ("minds", structural),
    "matched_delay_by_confidence*": ("confidence_on_it", by_confidence),
    "*_by_confidence*": ("confidence", by_confidence),
    "gap_by_agreement.*": ("agreement", by_agreement),
    "agreement.*": ("agreement", by_agreement),
    "delta_cosine_corrective*": ("phase_table", quantities),
    "gini*": ("gini", concentration),
    "n?0*": ("gini_table", concentration),
    "neuron_overlap*": ("gini_table", concentration),
}
