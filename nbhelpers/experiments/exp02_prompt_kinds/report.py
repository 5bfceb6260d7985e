"""The figures, tables and verdict of exp02."""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import depths, stats
from nbhelpers.report.charts import (
    INK,
    IT,
    PT,
    banded,
    bands,
    by_category,
    layers_axis,
    onset_rule,
    panels,
    tidy,
)
from nbhelpers.report.families import cells
from nbhelpers.report.sentences import grounds, sentence
from nbhelpers.report.text import counted, p_value


def kinds_profile(results, measure="delta_cosine") -> alt.Chart:
    """Return a profile over layers by kind of prompt, with intervals; the reader chooses the condition."""

    def values(dataset):
        curve = dataset[measure]
        curve = curve.sel(component="block", drop=True) if "component" in curve.dims else curve
        kinds = dict.fromkeys(dataset.category.values.tolist())
        parts = [banded(curve.isel(prompt=np.flatnonzero(dataset.category.values == kind))) for kind in kinds]
        return xr.concat(parts, "kind").assign_coords(kind=list(kinds))

    rows = tidy(results, values)
    names = {"delta_cosine": ("δ-cosine of the block", "δ-cosine"), "entropy": ("Lens entropy", "nats")}
    heading, unit = names.get(measure, (measure, measure))
    colours = by_category("kind", list(dict.fromkeys(rows["kind"])))
    curve, toggles = (
        bands(layers_axis(), unit, fields=("kind", "layer"), colours=colours),
        {"condition": "condition"},
    )
    return panels(rows, f"{heading} by kind of prompt", onset_rule(), *curve, toggles=toggles)


def template_overlay(results) -> alt.Chart:
    """Return the block's δ-cosine of IT with and without its chat template, and of PT."""

    def values(dataset):
        return banded(dataset.delta_cosine.sel(component="block", drop=True))

    rows = tidy(results, values)
    order = list(dict.fromkeys(rows["condition"]))
    colours = by_category("condition", order, palette=[PT, IT, INK])
    curve = bands(layers_axis(), "δ-cosine", fields=("condition", "layer"), colours=colours)
    return panels(rows, "δ-cosine with and without the chat template", onset_rule(), *curve)


def kinds_table(results) -> pd.DataFrame:
    """Return exp02's p-value that kinds of prompts differ at some layer, by measure and condition, a column a family."""
    rows = {}
    for title, d in results.items():
        for c in d.condition.values:
            for m in d.measure.values:
                p = float(d.p_layers.sel(condition=c, measure=m))
                rows.setdefault((str(m), str(c)), {})[title] = p_value(p, 3)
    return pd.DataFrame(rows).T.rename_axis(["measure", "condition"])


def template_effect(dataset: xr.Dataset, which: str) -> xr.DataArray:
    """Return IT less IT without its template of the δ-cosine, [prompt]: at the last layer, or the others' mean."""
    values = dataset.template_shift
    if which == "last":
        return values.isel(layer=-1, drop=True).dropna("prompt")
    return values.isel(layer=slice(1, -1)).mean("layer").dropna("prompt")


def late_cosine(dataset: xr.Dataset, condition: str) -> xr.DataArray:
    """Return the δ-cosine of IT under a condition less PT's in the final fifth of the layers, [prompt]."""
    block = dataset.delta_cosine.sel(component="block", drop=True)
    block = block.isel(layer=list(depths.final_fifth(dataset.sizes["layer"]))).mean("layer")
    return (block.sel(condition=condition, drop=True) - block.sel(condition="PT", drop=True)).dropna("prompt")


def template_table(results) -> pd.DataFrame:
    """Return what the template changes in the δ-cosine and how much of the late shift is left without it, by family."""
    measures = {
        "template's effect, last layer": lambda d: template_effect(d, "last"),
        "template's effect, other layers": lambda d: template_effect(d, "other"),
        "IT − PT, final fifth, with template": lambda d: late_cosine(d, "IT"),
        "IT − PT, final fifth, without": lambda d: late_cosine(d, "IT without template"),
    }
    return cells(results, measures)


def kinds_differ(results, measure: str) -> list[str]:
    """Return the families in which kinds of prompts differ in a measure under all conditions (Holm over families)."""
    p = np.array([d.p_layers.sel(measure=measure).values.max() for d in results.values()])
    return [title for title, adjusted in zip(results, stats.holm(p)) if adjusted < 0.05]


def verdict(results) -> str:
    """Return whether kinds of prompts differ, and whether the late shift needs the template."""
    total = len(results)
    cosine, entropy = kinds_differ(results, "delta_cosine"), kinds_differ(results, "entropy")
    opposed = ("stronger in IT than in PT", "weaker in IT")  # a lower cosine opposes the stream more
    with_ = sentence(results, lambda d: -late_cosine(d, "IT"), *opposed)
    without = sentence(results, lambda d: -late_cosine(d, "IT without template"), *opposed)
    last = sentence(results, lambda d: -template_effect(d, "last"), "stronger", "weaker")
    several = ", Holm over families" if total > 1 else ""
    return (
        f"In-context, out-of-context and reasoning prompts differ in the δ-cosine of some layer under all three conditions "
        f"in {counted(cosine, total)}, in lens entropy in {counted(entropy, total)} (permutation within prompt forms, "
        f"largest F over layers{several}). In the final fifth of the layers the update's opposition to the residual stream "
        f"is, with the chat template, {with_}; without it, it is {without}. At the last layer IT's opposition is, with the "
        f"template rather than without, {last}. {grounds(results)}"
    )
