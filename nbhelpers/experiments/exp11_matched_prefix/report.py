"""The figures, tables and verdict of exp11."""

from collections.abc import Callable
from functools import partial

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.experiments.exp11_matched_prefix.quantities import quantities
from nbhelpers.measures import graft_shifts
from nbhelpers.measures.graft_shifts import shifts
from nbhelpers.report.captions import BANDS, BARS, ONSET, ZERO, caption
from nbhelpers.report.charts import banded, bands, layers_axis, onset_rule, panels, root_scale, tidy
from nbhelpers.report.directions import among, answer, claim, fitting, sentence, sides
from nbhelpers.report.families import interval_table, turned
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.graft_charts import (
    BASES,
    BY_WINDOW,
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
from nbhelpers.report.text import number, percent, written
from nbhelpers.report.verdicts import UP, Verdict, of, short, span

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


def shift_rows(results, readout="kl_layer_final") -> pd.DataFrame:
    """Return a table of each window's shift in the final fifth, by side, lens and whose lens reads, with the dense pool."""

    def values(dataset):
        shifted = shifts(of_it(dataset[[readout]]))
        parts = {name: final_fifth(study_windows(shifted, basis=key)[readout]) for key, name in BASES.items()}
        return xr.concat(parts.values(), xr.IndexVariable("basis", list(parts)))

    return window_rows(results, values, pool=True)


def window_shifts(results, readout="kl_layer_final") -> alt.Chart:
    """Return a chart of each window's shift in the final fifth; the reader chooses the lens and its model."""
    return shift_forest(shift_rows(results, readout), readout)


def shift_forest(rows: pd.DataFrame, readout: str) -> alt.Chart:
    """Return the chart of the rows of `shift_rows`."""
    _, unit = READOUTS[readout]
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
    "kl_layer_final": "KL(layer ‖ own final), nats",
    "kl_layer_teacher": "KL to the teacher's layer, nats",
    "js_teacher": "JS to the teacher's layer, nats",
    "delta_cosine": "δ-cosine of the MLP",
    "commitment": "commitment, layers",
    "nll": "NLL of the teacher's tokens, nats",
}


def late(readout="kl_layer_final", side="sufficiency", control="graft", lens="tuned") -> Callable:
    """Return the function dataset → [prompt] of the late window's shift in the final fifth, through each host's own lens."""
    return named(quantities, f"shift.{readout}.{side}.{control}.{lens}")


def late_table(results, side="sufficiency", lens="tuned") -> pd.DataFrame:
    """Return a table of the late graft's shifts by read-out as text, one row per pair and one for the dense pool."""
    columns = {}
    for readout, heading in LATE.items():
        table = interval_table(results, late(readout, side, lens=lens))
        columns[heading] = pd.Series(written(table, 3), index=table["family"])
    table = pd.DataFrame(columns).rename_axis(None)
    name = f"shift.kl_layer_final.{side}.graft.{lens}.by_token"
    tokens = {title: number(value(quantities, dataset, name), 3) for title, dataset in results.items()}
    table.insert(1, "the same by token, nats", pd.Series(tokens).reindex(table.index).fillna(""))
    return turned(table, results)


def branch_table(results, lens="tuned") -> pd.DataFrame:
    """Return a table of the late graft's shift of KL(layer ‖ own final) with the raw prompt and with the chat template."""
    columns = {
        "PT reads the plain prompt": late(lens=lens),
        "PT reads the chat turn": named(quantities, f"shift.kl_layer_final.template.{lens}"),
    }
    found = {name: interval_table(results, measure) for name, measure in columns.items()}
    texts = {name: pd.Series(written(table, 3), index=table["family"]) for name, table in found.items()}
    return turned(pd.DataFrame(texts).rename_axis(None), results)


def divergence_table(results) -> pd.DataFrame:
    """Return a table of the first step at which a condition would write another token than the teacher, and of the share of
    steps at which it would write the same: one column per pair.
    """
    columns = {}
    for title, dataset in results.items():
        of = {
            name: [value(quantities, dataset, f"{name}.{c}") for c in SPELLED]
            for name in ("first_miss", "agreement")
        }
        heading = title if len(results) > 1 else "this pair"
        columns[heading] = [f"{number(step, 1)} · {percent(share)}" for step, share in zip(*of.values())]
    return pd.DataFrame(columns, index=list(SPELLED.values()))


# Name of a condition in quantities → what it is: host, what is grafted, and how the prompt is read if not as usual.
SPELLED = (
    {"a": "PT"}
    | {f"b_{window}": f"PT with IT's {window} MLPs" for window in WINDOWS}
    | {"a_template": "PT, chat turn", "b2": "PT with IT's late MLPs, chat turn"}
    | {f"d_{window}": f"IT with PT's {window} MLPs" for window in WINDOWS}
)


BEYOND = "beyond.scrambled.tuned"
GRAFT = "shift.kl_layer_final.sufficiency.{}.tuned"
MATRIX = {
    "IT's late MLPs in PT": GRAFT.format("graft"),
    "more than a scrambled change": BEYOND,
    "more than shuffled layers": "beyond.permuted.tuned",
    "IT's late MLPs after the chat turn": "shift.kl_layer_final.template.tuned",
    "PT's distance from IT's layers": "shift.kl_layer_teacher.sufficiency.graft.tuned",
}


def verdict(results) -> Verdict:
    """Return the verdict: whether IT's late MLPs give PT the late delay, beyond what any change of their size would do."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    moved = sides(results, quantities, GRAFT.format("graft"))
    size = claim(
        results, quantities, GRAFT.format("graft"),
        "By the tuned lens, IT's late MLPs put PT's late layers {size} nats {word} its final prediction",
        "Whether IT's late MLPs put PT's late layers farther from its final prediction is undecided",
        ("farther from", "nearer to"), detail=detail,
    )  # fmt: skip
    told = moved[UP] or list(results)
    more = [title for title in sides(results, quantities, BEYOND)[UP] if title in told]
    passed = ", and not through just any change" if moved[UP] and more == told else ""
    return Verdict(
        f"{answer(moved).capitalize()}{passed}",
        sentence(size),
        scrambled_sentence(results, told, more, detail),
        shuffled_sentence(of(results, moved[UP])),
    )


def scrambled_sentence(results, told, more, detail: int) -> str:
    """Return the sentence on a change of the same size in scrambled directions.

    told: the pairs that the graft moves, or all if it moves none; more: those in which it does more than this change.
    """
    size = span(of(results, told), quantities, GRAFT.format("scrambled"))
    if not more:
        compared = "not clearly less"
    elif more == told:
        where = (
            ""
            if len(results) == 1
            else " in each"
            if len(told) == len(results)
            else " in those"
            if told[1:]
            else " there"
        )
        compared = f"clearly less{where}"
    else:
        compared = f"clearly less {among(more, results, detail)}"
    return f"A scrambled change of equal size gives {size} nats, {compared}."


def shuffled_sentence(moved) -> str:
    """Return the sentence on the share of the graft's effect that its MLPs keep in shuffled order; "" if it moves no pair."""
    shares = {
        short(moved)[title]: value(quantities, d, GRAFT.format("permuted")) / value(quantities, d, GRAFT.format("graft"))
        for title, d in moved.items()
    }  # fmt: skip
    if not shares:
        return ""
    least, most = (choose(shares, key=shares.get) for choose in (min, max))
    shown = {title: f"{number(100 * share, 0)} %" for title, share in shares.items()}
    if shown[least] == shown[most]:
        return f"With IT's layers in shuffled order, {shown[least]} is left."
    return f"With IT's layers in shuffled order, {shown[least]} ({least}) to {shown[most]} ({most}) is left."
