"""The figures, tables and verdict of exp11."""

from collections.abc import Callable

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.experiments.exp11_matched_prefix.quantities import quantities
from nbhelpers.measures import graft_shifts
from nbhelpers.measures.graft_shifts import shifts
from nbhelpers.report.captions import BANDS, BARS, ONSET, ZERO, caption
from nbhelpers.report.charts import banded, bands, layers_axis, onset_rule, panels, root_scale, tidy
from nbhelpers.report.families import interval_table
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.graft_charts import (
    BASES,
    BY_WINDOW,
    CONDITIONS,
    CONTROLS,
    LENS,
    READOUTS,
    SIDES,
    WINDOWS,
    by_host,
    by_window,
    change_of,
    heading_of,
    host_and_grafts,
    study_windows,
    window_rows,
)
from nbhelpers.report.quantities import named, value
from nbhelpers.report.sentences import grounds, sentence
from nbhelpers.report.text import number, percent, written

HOSTS = {"PT": ("A'", "B_"), "IT": ("C", "D_")}


def of_it(dataset: xr.Dataset) -> xr.Dataset:
    """Return the part of exp11's dataset on IT's replies, which every condition has read."""
    return dataset.sel(teacher="it", drop=True)


def trajectories(results, readout="kl_layer_final") -> alt.Chart:
    """Return a chart of a read-out by layer for a host and its three grafts; the reader chooses the host and the lens."""

    def measure(dataset):
        parts = []
        for host, (base, letter) in HOSTS.items():
            names = [base, *(letter + window for window in WINDOWS)]
            values = of_it(dataset)[readout].sel(basis="host", condition=names, drop=True)
            values = values.reset_coords(drop=True).assign_coords(condition=["none", *WINDOWS])
            parts.append(banded(values.rename(condition="window")).expand_dims(host=[host]))
        return xr.concat(parts, "host")

    title, unit = READOUTS[readout]
    scale = root_scale() if unit == "nats" else {}
    curve = bands(layers_axis(), unit, unit, fields=("window", "layer"), colours=host_and_grafts(), **scale)
    note = " (√ scale)" if scale else ""
    return panels(
        tidy(results, measure), f"{title} by layer{note}", onset_rule(), *curve, marks=(BANDS, ONSET),
        toggles={"host": "host", "lens": "lens"}, defaults=LENS,
        description=f"{title}, {unit}, against the layer, for the chosen host, in its model's colour, and {BY_WINDOW}",
    )  # fmt: skip


def final_fifth(values: xr.DataArray) -> xr.DataArray:
    """Return shifts in the final fifth of the layers; shifts without a region are returned unchanged."""
    return values.sel(region="final_fifth", drop=True) if "region" in values.dims else values


def window_shifts(results, readout="kl_layer_final") -> alt.Chart:
    """Return a chart of each window's shift in the final fifth; the reader chooses the lens and its model."""
    title, unit = READOUTS[readout]

    def values(dataset):
        shifted = shifts(of_it(dataset[[readout]]))
        parts = {name: final_fifth(study_windows(shifted, basis=key)[readout]) for key, name in BASES.items()}
        return xr.concat(parts.values(), xr.IndexVariable("basis", list(parts)))

    rows = window_rows(results, values, pool=True)
    toggles = {"lens": "lens", "basis": "read through the lens of"} if "lens" in rows else None
    rows = rows if toggles else rows[rows["basis"] == BASES["host"]]
    what = f"Change of {change_of(readout)}, {BY_WINDOW} and host"
    return forest(
        rows, column="side", by="window", encodings=by_window(), x=unit, toggles=toggles, defaults=LENS,
        title=heading_of(readout),
        description=caption(what, rows, [BARS, ZERO], toggles or (), each="row"),
    )  # fmt: skip


def controls(results, readout="kl_layer_final") -> alt.Chart:
    """Return a chart of the late graft's shift beside its controls; the reader chooses the lens."""
    names = {
        f"shift.{readout}.{side}.{control}.{lens}": {
            "side": place,
            "control": CONTROLS[control],
            "lens": lens,
        }
        for lens in ("raw", "tuned")
        for control in CONTROLS
        for side, place in SIDES.items()
    }
    rows = forest_rows(results, quantities, names)
    title, unit = READOUTS[readout]
    what = f"Change of {change_of(readout)}, by the late graft and its controls, in PT (blue, dashed) and IT (orange, solid)"
    return forest(
        rows, column="control", by="side", encodings=by_host(), x=unit, toggles={"lens": "lens"}, defaults=LENS,
        title=f"{title}, late window and its controls",
        description=caption(what, rows, [BARS, ZERO], ["lens"], each="row"),
    )  # fmt: skip


def sweep_rows(results, readout: str, chosen: Callable) -> pd.DataFrame:
    """Return a table of a swept read-out's means, intervals, first layer and width, for the windows that `chosen` accepts."""

    def values(dataset):
        names = [name for name in dataset.sweep.values.tolist() if chosen(name)]
        return dataset[f"sweep_{readout}"].sel(sweep=names)

    rows = window_rows(results, values)
    spans = {
        (panel, name): (int(d.sweep_first.sel(sweep=name)), int(d.sweep_width.sel(sweep=name)))
        for panel, d in results.items()
        for name in d.sweep.values.tolist()
    }
    first, width = zip(*(spans[key] for key in zip(rows["panel"], rows["sweep"])))
    onset = {panel: depths.onset(d.attrs["n_layers"]) for panel, d in results.items()}
    return rows.assign(first=first, width=width, onset=rows["panel"].map(onset))


def sliding(results, readout="kl_layer_final") -> alt.Chart:
    """Return a chart of the shift in the final fifth by the position of a sliding window, one curve per side, by lens."""
    title, unit = READOUTS[readout]
    rows = sweep_rows(results, readout, lambda name: name[0].isdigit())
    rows["centre"] = rows["first"] + (rows["width"] - 1) / 2
    name = "centre of the window, layer"
    x = alt.X("centre:Q", title=name, scale=alt.Scale(nice=False, zero=False))
    onset = alt.Chart().mark_rule(strokeDash=[1, 3]).encode(x=alt.X("mean(onset):Q", title=name))
    curve = bands(x, unit, unit, fields=("side", "sweep"), colours=by_host())
    zero = alt.Chart().mark_rule().encode(y=alt.datum(0))
    width = int(rows["width"].iloc[0])
    return panels(
        rows, f"{heading_of(readout)} by a window of {width} layers", onset, zero, *curve,
        description=f"Change of {change_of(readout)}, against the centre of a window of {width} layers, for IT's MLPs in "
        "PT (blue, dashed) and PT's MLPs in IT (orange, solid)",
        marks=(BANDS, ONSET), toggles={"lens": "lens"}, defaults=LENS,
    )  # fmt: skip


def widths(results, readout="kl_layer_final") -> alt.Chart:
    """Return a chart of the shift in the final fifth by a window's width, one curve per place, by side and lens."""
    title, unit = READOUTS[readout]
    rows = sweep_rows(results, readout, lambda name: not name[0].isdigit())
    rows["window"] = rows["sweep"].str.split("_").str[0]
    x = alt.X("width:Q", title="layers replaced", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False))
    curve = bands(x, unit, unit, fields=("window", "width"), colours=by_window())
    zero = alt.Chart().mark_rule().encode(y=alt.datum(0))
    return panels(
        rows, f"{heading_of(readout)} by width", zero, *curve, marks=[BANDS],
        description=f"Change of {change_of(readout)}, against the number of layers, {BY_WINDOW}, for the chosen graft",
        toggles={"side": "graft", "lens": "lens"}, defaults=LENS,
    )  # fmt: skip


def teachers(results, readout="kl_layer_final") -> alt.Chart:
    """Return a chart of each window's shift with IT's and PT's replies as forced tokens; the reader chooses side and lens."""

    def values(dataset):
        parts = []
        for teacher in ("it", "pt"):
            one = graft_shifts.by_window(shifts(dataset[[readout]].sel(teacher=teacher, drop=True)))
            one = final_fifth(one.sel(basis="host", window=list(WINDOWS), drop=True)[readout])
            parts.append(one)
        return xr.concat(parts, xr.IndexVariable("teacher", ["IT's replies", "PT's replies"]))

    rows, toggles = window_rows(results, values, pool=True), {"side": "graft", "lens": "lens"}
    title, unit = READOUTS[readout]
    what = (
        f"Change of {change_of(readout)}, by whose replies are forced and {BY_WINDOW}, for the chosen graft"
    )
    return forest(
        rows, column="teacher", by="window", encodings=by_window(), x=unit, toggles=toggles, defaults=LENS,
        title=f"{heading_of(readout)} by teacher",
        description=caption(what, rows, [BARS, ZERO], toggles, each="row"),
    )  # fmt: skip


LATE = {
    "kl_layer_final": "KL(layer ‖ own final)",
    "kl_layer_teacher": "KL to the teacher's layer",
    "js_teacher": "JS to the teacher's layer",
    "delta_cosine": "δ-cosine of the MLP",
    "commitment": "commitment, layers",
    "nll": "NLL of the teacher's tokens",
}


def late(readout="kl_layer_final", side="sufficiency", control="graft", lens="tuned") -> Callable:
    """Return the function dataset → [prompt] of the late window's shift in the final fifth, through each host's own lens."""
    return named(quantities, f"shift.{readout}.{side}.{control}.{lens}")


def late_table(results, side="sufficiency", lens="tuned") -> pd.DataFrame:
    """Return a table of the late graft's shifts by read-out as text, one row per family and one for the dense pool."""
    columns = {}
    for readout, heading in LATE.items():
        table = interval_table(results, late(readout, side, lens=lens))
        columns[heading] = pd.Series(written(table, 3), index=table["family"])
    table = pd.DataFrame(columns).rename_axis(None)
    name = f"shift.kl_layer_final.{side}.graft.{lens}.by_token"
    tokens = {title: number(value(quantities, dataset, name), 3) for title, dataset in results.items()}
    table.insert(1, "the same by token", pd.Series(tokens).reindex(table.index).fillna(""))
    return table


def branch_table(results, lens="tuned") -> pd.DataFrame:
    """Return a table of the late graft's shift of KL(layer ‖ own final) with the raw prompt and with the chat template."""
    columns = {
        "plain prompt, B_late − A'": late(lens=lens),
        "chat turn, B2 − A'_tmpl": named(quantities, f"shift.kl_layer_final.template.{lens}"),
    }
    found = {name: interval_table(results, measure) for name, measure in columns.items()}
    texts = {name: pd.Series(written(table, 3), index=table["family"]) for name, table in found.items()}
    return pd.DataFrame(texts).rename_axis(None)


def divergence_table(results) -> pd.DataFrame:
    """Return a table of the first step at which a condition would write another token than the teacher, and its agreement."""
    shown = {short: name for short, name in CONDITIONS.items() if name != "C"}
    rows = {}
    for title, dataset in results.items():
        steps, shares = (
            [value(quantities, dataset, f"{of}.{c}") for c in shown] for of in ("first_miss", "agreement")
        )
        rows[title] = [f"{number(step, 1)} · {percent(share)}" for step, share in zip(steps, shares)]
    return pd.DataFrame(rows, index=list(shown.values())).T.rename_axis(None)


def verdict(results) -> str:
    """Return the verdict on the effect of IT's late MLPs in PT on the same tokens, and on its controls."""
    later = ("above the host's", "below the host's")
    tuned, raw = (sentence(results, late(lens=lens), *later) for lens in ("tuned", "raw"))
    branch = sentence(results, named(quantities, "shift.kl_layer_final.template.tuned"), *later)
    scrambled = sentence(results, late(control="scrambled"), *later)
    closer = ("closer to the teacher's", "farther from them")
    cross = sentence(results, lambda dataset: -late("kl_layer_teacher")(dataset), *closer)
    return (
        f"With IT's late MLPs, PT's distance KL(layer ‖ own final) in the final fifth is, tuned lens, {tuned}; raw lens, "
        f"{raw}. In the template branch it is {branch}. After a change of the same size in scrambled directions it is "
        f"{scrambled}. The late distributions of the graft are, compared with the host's, {cross}. {grounds(results)}"
    )
