"""The figure, table and verdict of exp07_0j."""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.experiments.exp07_0j_onset.quantities import quantities
from nbhelpers.report.charts import panels, tidy
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.text import in_words, percent, whether
from nbhelpers.report.theme import FILL


def onset_matrix(results, component="block") -> alt.Chart:
    """Return a chart of the layers that meet each threshold rule, with the onset of each rule marked."""

    def measure(dataset):
        one = dataset.sel(component=component, drop=True)
        return xr.Dataset({"meets": one.meets.astype(int), "first": one.onset})

    rows = tidy(results, measure)
    rows["is_onset"] = (rows["layer"] == rows["first"]).astype(int)
    y = alt.Y("rule:N", sort=list(dict.fromkeys(rows["rule"])), title=None)
    x = alt.X("layer:O", title="layer", axis=alt.Axis(labelOverlap=True, labelAngle=0))
    fill = alt.Color("meets:N", scale=alt.Scale(domain=[0, 1], range=["#88888826", FILL]), legend=None)
    cells = (
        alt.Chart()
        .mark_rect(stroke="#88888840")
        .encode(
            x=x,
            y=y,
            color=fill,
            tooltip=[alt.Tooltip("panel:N", title="model"), "rule:N", "layer:Q", "first:Q"],
        )
    )
    mark = alt.Chart().transform_filter("datum.is_onset === 1")
    mark = mark.mark_point(shape="diamond", filled=True, size=45, color="white", opacity=1).encode(x=x, y=y)
    of = {"block": "whole block", "attention": "attention", "mlp": "MLP"}[component]
    return panels(
        rows, f"Layers that meet a δ-cosine rule, {of}", cells, mark,
        description=f"Layers (columns) at which IT − PT of the δ-cosine of the {of} meets each threshold rule (rows)",
        marks=["filled cells meet the rule", "a diamond marks the onset under it"],
    )  # fmt: skip


def onset_table(results, component: str = "block") -> pd.DataFrame:
    """Return a table of the onset by rule, with its interval and false-alarm rate: one column per family."""
    columns = {}
    for title, d in results.items():
        one = d.sel(component=component)
        rows = zip(one.onset.values, one.onset_low.values, one.onset_high.values, one.found_exchanged.values)
        columns[title] = [f"{_layer(o)} [{_layer(a)}, {_layer(b)}] · {percent(p)}" for o, a, b, p in rows]
    rules = next(iter(results.values()))["rule"].values
    return pd.DataFrame(columns, index=[str(rule) for rule in rules]).rename_axis("onset · by chance")


def _layer(value: float) -> str:
    """Return a layer as text, a dash for none."""
    return "–" if np.isnan(value) or value < 0 else f"{value:.0f}"


def found_onsets(dataset: xr.Dataset) -> np.ndarray:
    """Return the onset layers of the block's δ-cosine under the rules that find one."""
    onsets = [q.values.mean for name, q in kept(quantities, dataset).items() if name.startswith("onset.")]
    return np.array([layer for layer in onsets if layer >= 0])


def agree(dataset: xr.Dataset) -> bool:
    """Return whether all rules find an onset and the onsets lie within 15 % of the depth of each other."""
    found, allowed = found_onsets(dataset), max(1, round(0.15 * dataset.sizes["layer"]))
    return len(found) == dataset.sizes["rule"] and int(np.ptp(found)) <= allowed


def verdict(results) -> str:
    """Return the verdict: whether the threshold rules agree on an onset, and how often chance gives one."""
    total, onsets = len(results), {title: found_onsets(d) for title, d in results.items()}
    agreeing = [title for title, d in results.items() if agree(d)]
    some = {t: f"{t} {_span(found)}" for t, found in onsets.items() if len(found)}
    layers = f" (layers: {'; '.join(some.values())})" if some else ""
    alarm = max(value(quantities, dataset, "onset_by_chance.most") for dataset in results.values())
    rules = in_words(next(iter(results.values())).sizes["rule"])
    near = "an onset within 15 % of the depth of each other"
    yes, no = f"All {rules} rules find {near}", f"The {rules} rules do not all find {near}"
    if rules == "one":
        yes, no = "The one rule finds an onset", "The one rule finds no onset"
    some_rule = whether(list(some), total, "at least one rule finds one", "no rule finds one")
    return (
        f"{whether(agreeing, total, yes, no)}; {some_rule}{layers}. If PT and IT are exchanged at random, the most "
        f"trigger-happy rule still finds an onset in {'up to ' if total > 1 else ''}{percent(alarm)} of the draws."
    )


def _span(layers: np.ndarray) -> str:
    """Return the range of layers as text."""
    first, last = layers.min(), layers.max()
    return f"{first:.0f}–{last:.0f}" if first < last else f"{first:.0f}"
