"""The figures, tables and verdict of exp02."""

from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp02_prompt_kinds.quantities import quantities
from nbhelpers.report.captions import BANDS, ONSET
from nbhelpers.report.charts import (
    DASHES,
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
from nbhelpers.report.quantities import named, value
from nbhelpers.report.sentences import grounds, sentence
from nbhelpers.report.text import counted, p_value
from nbhelpers.report.unmeasured import sentences

KINDS = {"IC": "in context", "OOC": "out of context", "R": "reasoning"}
MEASURES = {
    "delta_cosine": ("δ-cosine of the block", "δ-cosine"),
    "entropy": ("Entropy of each layer's prediction", "nats"),
}
CONDITIONS = {
    "PT": (PT, DASHES["pt"]),
    "IT": (IT, DASHES["it"]),
    "IT without template": (IT, [2, 3]),
}  # colour and dash


def kinds_profile(results, measure="delta_cosine") -> alt.Chart:
    """Return a chart of a measure over layers by kind of prompt, with intervals; the reader chooses the condition."""

    def values(dataset):
        curve = dataset[measure]
        curve = curve.sel(component="block", drop=True) if "component" in curve.dims else curve
        kinds = dict.fromkeys(dataset.category.values.tolist())
        parts = [banded(curve.isel(prompt=np.flatnonzero(dataset.category.values == kind))) for kind in kinds]
        return xr.concat(parts, "kind").assign_coords(kind=list(kinds))

    rows = tidy(results, values)
    rows["kind"] = rows["kind"].map(KINDS)
    heading, unit = MEASURES[measure]
    colours = by_category("kind", [shown for shown in KINDS.values() if shown in set(rows["kind"])])
    return panels(
        rows, f"{heading} by kind of prompt", onset_rule(),
        *bands(layers_axis(), unit, fields=("kind", "layer"), colours=colours), toggles={"condition": "condition"},
        description=f"{heading} against the layer, by kind of prompt, under the chosen condition", marks=(BANDS, ONSET),
    )  # fmt: skip


def template_overlay(results) -> alt.Chart:
    """Return a chart of the block's δ-cosine of IT with and without its chat template, and of PT."""

    def values(dataset):
        return banded(dataset.delta_cosine.sel(component="block", drop=True))

    rows = tidy(results, values)
    names, legend = list(CONDITIONS), alt.Legend(title=None, symbolType="stroke", symbolOpacity=1)
    colours, dashes = (alt.Scale(domain=names, range=list(found)) for found in zip(*CONDITIONS.values()))
    looks = {
        "color": alt.Color("condition:N", scale=colours, legend=legend),
        "strokeDash": alt.StrokeDash("condition:N", scale=dashes, legend=legend),
    }
    curve = bands(layers_axis(), "δ-cosine", fields=("condition", "layer"), colours=looks)
    return panels(
        rows, "δ-cosine with and without the chat template", onset_rule(), *curve, marks=(BANDS, ONSET),
        description="δ-cosine of the whole block's update against the layer, for PT (blue, dashed), IT with its chat "
        "template (orange, solid) and IT without it (orange, dotted)",
    )  # fmt: skip


def kinds_table(results) -> pd.DataFrame:
    """Return a table of the p-values of differences between kinds of prompts at any layer: one column per family."""
    rows = {}
    for title, d in results.items():
        for c in d.condition.values:
            for m in d.measure.values:
                p = float(d.p_layers.sel(condition=c, measure=m))
                rows.setdefault((str(m), str(c)), {})[title] = p_value(p, 3)
    return pd.DataFrame(rows).T.rename_axis(["measure", "condition"])


def template_table(results) -> pd.DataFrame:
    """Return a table of the template's effect on the δ-cosine, and of the late shift with and without it, by family."""
    names = {
        "template's effect, last layer": "template_effect.last",
        "template's effect, other layers": "template_effect.other",
        "IT − PT, final fifth, with template": "late_cosine_shift.it",
        "IT − PT, final fifth, without": "late_cosine_shift.it_plain",
    }
    return cells(results, {heading: named(quantities, name) for heading, name in names.items()})


def kinds_differ(results, measure: str) -> list[str]:
    """Return the families in which kinds of prompts differ in a measure under all conditions (Holm over families)."""
    p = [value(quantities, d, f"kinds_p.{measure}") for d in results.values()]
    return [title for title, adjusted in zip(results, stats.holm(p)) if adjusted < 0.05]


def opposition(name: str) -> Callable:
    """Return a function dataset → [prompt] of minus a δ-cosine shift: a lower cosine opposes the stream more."""
    return lambda dataset: -named(quantities, name)(dataset)


def verdict(results) -> str:
    """Return the verdict: whether kinds of prompts differ, and whether the late shift needs the template."""
    total = len(results)
    cosine, entropy = kinds_differ(results, "delta_cosine"), kinds_differ(results, "entropy")
    opposed = ("stronger in IT than in PT", "weaker in IT")
    with_ = sentence(results, opposition("late_cosine_shift.it"), *opposed)
    without = sentence(results, opposition("late_cosine_shift.it_plain"), *opposed)
    last = sentence(results, opposition("template_effect.last"), "stronger", "weaker")
    do = {True: "they do", False: "they do not"}
    differ = (
        f"differ in the δ-cosine of some layer under all three conditions in {counted(cosine, total)}, in lens entropy in "
        f"{counted(entropy, total)}"
        if total > 1
        else f"{'differ' if cosine else 'do not differ'} under all three conditions in the δ-cosine of some layer; in lens "
        f"entropy {do[bool(entropy)]}"
    )
    several = ", Holm over families" if total > 1 else ""
    return (
        f"In-context, out-of-context and reasoning prompts {differ} (permutation within prompt forms, "
        f"largest F over layers{several}). In the final fifth of the layers the update's opposition to the residual stream "
        f"is, with the chat template, {with_}; without it, it is {without}. At the last layer IT's opposition is, with the "
        f"template rather than without, {last}. {grounds(results)}{sentences(results, 'weights')}"
    )
