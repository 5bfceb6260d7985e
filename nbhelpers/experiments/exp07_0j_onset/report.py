"""The figure, table and verdict of exp07_0j."""

from functools import partial

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.experiments.exp07_0j_onset.quantities import quantities
from nbhelpers.report.charts import panels, tidy
from nbhelpers.report.directions import NAMES, among, fitting, ranged, sentence
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.text import in_words, percent
from nbhelpers.report.theme import FILL
from nbhelpers.report.verdicts import Verdict, degree, of, told, where


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
    """Return a table of the onset by rule, with its interval, and how often chance finds one: one column per pair."""
    columns = {}
    for title, d in results.items():
        one = d.sel(component=component)
        rows = zip(one.onset.values, one.onset_low.values, one.onset_high.values, one.found_exchanged.values)
        name = title if len(results) > 1 else "this pair"
        columns[name] = [
            f"{_onset(*ends)}{'' if np.isnan(p) else f'; chance {percent(p)}'}" for *ends, p in rows
        ]
    rules = next(iter(results.values()))["rule"].values
    names = [str(rule).replace("drop ", "fall of ").replace(" σ", " σ below") for rule in rules]
    return pd.DataFrame(columns, index=names)


def _onset(layer: float, low: float, high: float) -> str:
    """Return an onset as text, "layer 8 (3–11)"; without an interval of more than that layer, "layer 8"; or "none"."""
    if layer < 0:
        return "none"
    return (
        f"layer {layer:.0f}"
        if low == high == layer or np.isnan(low)
        else f"layer {layer:.0f} ({low:.0f}–{high:.0f})"
    )


MATRIX = {
    "layers between onsets": "onset_spread",
    "rules without onset": "rules_without_onset",
    "σ rules, onset in the first half": "onsets_in_first_half",
}
ANSWER = {
    "yes": "It depends on the threshold", "mostly": "It mostly depends on the threshold",
    "in part": "It depends on the threshold in part", "hardly": "It hardly depends on the threshold",
    "no": "It does not depend on the threshold",
}  # fmt: skip


def far_apart(dataset: xr.Dataset) -> bool:
    """Return whether the onsets of the rules lie farther apart than the study allows, 15 % of the depth."""
    spread = kept(quantities, dataset)["onset_spread"]
    return bool(spread.values > spread.centre)


def some_find_none(dataset: xr.Dataset) -> bool:
    """Return whether some of the rules find no onset."""
    return value(quantities, dataset, "rules_without_onset") > 0


def verdict(results) -> Verdict:
    """Return the verdict: whether the threshold rules agree on an onset, where it lies, and how often chance gives one."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    differ = [title for title, d in results.items() if far_apart(d) or some_find_none(d)]
    lacking = [title for title, d in results.items() if some_find_none(d)]
    inside = [title for title, d in results.items() if value(quantities, d, "onsets_in_first_half") > 0]
    n_rules = next(iter(results.values())).sizes["rule"]
    exceptions = []
    if lacking and not nothing_found(results) and n_rules > 1:
        exceptions.append(f"Some rules find none {among(lacking, results, detail)}".rstrip() + ".")
    if inside:
        exceptions.append(
            f"Some onsets lie inside their own baseline {among(inside, results, detail)}".rstrip() + "."
        )
    answered = ANSWER[degree(differ, results)] if n_rules > 1 else "One threshold cannot tell"
    return Verdict(
        "No onset" if nothing_found(results) else answered,
        place_sentence(results, n_rules, detail),
        " ".join(exceptions),
        chance_sentence(results),
    )


def nothing_found(results) -> bool:
    """Return whether no rule finds an onset in any pair."""
    return all(np.isnan(value(quantities, dataset, "onset_spread")) for dataset in results.values())


def place_sentence(results, n_rules: int, detail: int) -> str:
    """Return the sentence on how far apart the rules put the onset."""
    if nothing_found(results):
        return told([], results, "", "No rule finds an onset") + "."
    rules = f"the {in_words(n_rules)} rules put" if n_rules > 1 else "the one rule puts"
    wide = [title for title, dataset in results.items() if far_apart(dataset)]
    shown = of(results, wide or list(results))
    apart = ranged((value(quantities, d, "onset_spread") for d in shown.values()), "{:.0f}".format)
    total = {dataset.sizes["layer"] for dataset in results.values()}
    total = f" of {total.pop()}" if len(total) == 1 else ""
    if not wide:
        onsets = {title: layers for title, d in results.items() if len(layers := found_onsets(d))}
        found = ranged(np.concatenate(list(onsets.values())), "{:.0f}".format)
        places = where(list(onsets), results) if len(results) > 1 else ""
        near = ", within the study's 15 %" if n_rules > 1 else ""
        return sentence(f"{rules} the onset at layer {found}{total} {places}".rstrip() + near)
    places = where(wide, results) if len(results) > 1 else ""
    places = places if detail == NAMES else places.split(" (")[0]
    return sentence(
        f"{rules} the onset {apart}{total} layers apart {places}".rstrip() + ", more than the study's 15 %"
    )


def found_onsets(dataset: xr.Dataset) -> np.ndarray:
    """Return the onset layers of the block's δ-cosine under the rules that find one."""
    onsets = [q.values.mean for name, q in kept(quantities, dataset).items() if name.startswith("onset.")]
    return np.array([layer for layer in onsets if layer >= 0])


def chance_sentence(results) -> str:
    """Return the sentence on how often the loosest rule finds an onset where there is none."""
    alarms = ranged((value(quantities, d, "onset_by_chance.most") for d in results.values()), percent)
    return f"With PT and IT exchanged at random, the loosest rule fires in {alarms} of draws."
