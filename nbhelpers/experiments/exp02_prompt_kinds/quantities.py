"""The quantities of exp02, from one pair's dataset."""

import numpy as np
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.report.quantities import Quantities, levels, shifts, weights

CONDITIONS = {"pt": "PT", "it": "IT", "it_plain": "IT without template"}
KINDS = ("IC", "OOC", "R")
OWN = "kinds of prompts are this project's own"
BLOCK = "the whole block's update, as computed; the text says MLP"
UNMEASURED = {}


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp02's quantities: the block's δ-cosine by kind of prompt and template, tests of kinds, weight change."""
    return of_kinds(result) | of_template(result) | tests(result) | weights(result)


def of_kinds(result: xr.Dataset) -> Quantities:
    """Return the δ-cosine at the onset and at the last layer by kind and condition, and its shift by the template."""
    block, found = result["delta_cosine"].sel(component="block", drop=True), {}
    for kind in KINDS:
        of = {"prompt": np.flatnonzero((result["category"] == kind).values)}
        for place, at in {"onset": depths.onset(result.sizes["layer"]), "last_layer": -1}.items():
            one = block.isel(layer=at, drop=True).isel(of)
            each = {v: one.sel(condition=name, drop=True) for v, name in CONDITIONS.items()}
            named = {f"delta_cosine_{place}.{kind}.{v}": values for v, values in each.items()}
            found |= levels(named, "cosine", BLOCK, centre=0.0)
            found |= shifts({f"template_shift.{place}.{kind}": each["it"] - each["it_plain"]}, "cosine", OWN)
    return found


def of_template(result: xr.Dataset) -> Quantities:
    """Return the template's effect on IT's δ-cosine, its level in the final fifth by condition, and IT − PT there."""
    template = result["template_shift"]
    block = result["delta_cosine"].sel(component="block", drop=True)
    late = block.isel(layer=list(depths.final_fifth(result.sizes["layer"]))).mean("layer")
    pt = late.sel(condition="PT", drop=True)
    moved = {
        "template_effect.last": template.isel(layer=-1, drop=True),
        # Without the first layer, which adds to the embedding, and the last, which has its own quantity.
        "template_effect.other": template.isel(layer=slice(1, -1)).mean("layer"),
        "late_cosine_shift.it": late.sel(condition=CONDITIONS["it"], drop=True) - pt,
        "late_cosine_shift.it_plain": late.sel(condition=CONDITIONS["it_plain"], drop=True) - pt,
    }
    each = {f"late_cosine.{v}": late.sel(condition=name, drop=True) for v, name in CONDITIONS.items()}
    return shifts(moved, "cosine") | levels(each, "cosine", BLOCK, centre=0.0)


def tests(result: xr.Dataset) -> Quantities:
    """Return the p-values that all kinds of prompts have one profile: `kinds_p.<measure>`, the largest over conditions,
    and `kinds_p.<measure>.<condition>`.
    """
    found = {}
    for measure in result["measure"].values:
        p = result["p_layers"].sel(measure=measure, drop=True)
        found[f"kinds_p.{measure}"] = float(p.max("condition"))
        found |= {f"kinds_p.{measure}.{v}": float(p.sel(condition=name)) for v, name in CONDITIONS.items()}
    return levels(found, "1")


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "template_shift.*": ("main_figure", of_kinds),
    "delta_cosine_*": ("kinds", of_kinds),
    "template_effect.*": ("template_table", of_template),
    "late_cosine_shift.*": ("template_table", of_template),
    "kinds_p.*": ("kinds_table", tests),
    "weight_*": ("weights", weights),
}
