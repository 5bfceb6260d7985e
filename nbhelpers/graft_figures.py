"""The figures of the internal-causality chapter (experiments 11 and 14), a panel a family.

Windows have one colour throughout: early blue, mid orange, late red, as in the study; hosts are grey (PT) and green (IT).
As in `charts`, functions take results and return charts; intervals are 95 % BCa intervals of means over prompts.
"""

from collections.abc import Callable

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers import charts
from nbhelpers.charts import (
    PANEL,
    banded,
    bands,
    hint,
    interval_rows,
    layers_axis,
    onset_rule,
    panels,
    root_scale,
    tidy,
)
from nbhelpers.effects import by_window, shifts
from nbhelpers.synthesis import POOL, is_dense, pooled

WINDOWS = {"early": "#4c8fd0", "mid": "#e08a1e", "late": "#d6453d"}
PT_HOST, IT_HOST = "#8a8a8a", "#2a9d5c"
SIDES = {"sufficiency": "IT's MLPs in PT", "necessity": "PT's MLPs in IT"}
BASES = {"host": "each host", "pt": "PT"}
HOSTS = {"PT": ("A'", "B_"), "IT": ("C", "D_")}
READINGS = {
    "kl_layer_final": ("KL(layer ‖ own final)", "nats"),
    "kl_final_layer": ("KL(own final ‖ layer)", "nats"),
    "kl_layer_baseline_final": ("KL(layer ‖ the host's final)", "nats"),
    "kl_layer_teacher_final": ("KL(layer ‖ the teacher's final)", "nats"),
    "kl_layer_teacher": ("KL(layer ‖ the teacher's same layer)", "nats"),
    "js_teacher": ("JS divergence from the teacher's same layer", "nats"),
    "entropy": ("entropy", "nats"),
    "commitment": ("commitment layer, KL < 0.1", "layers"),
    "delta_cosine_block": ("δ-cosine of the block", "cosine"),
    "delta_cosine_mlp": ("δ-cosine of the MLP", "cosine"),
    "nll": ("NLL of the teacher's tokens", "nats"),
}
LENSLESS = ("delta_cosine_block", "delta_cosine_mlp", "nll")  # the same through every lens
# The same where a phone must hold them.
SHORT = {
    "kl_layer_final": "KL to own final",
    "kl_final_layer": "KL from own final",
    "kl_layer_baseline_final": "KL to host's final",
    "kl_layer_teacher_final": "KL to teacher's final",
    "kl_layer_teacher": "KL to teacher's layer",
    "js_teacher": "JS to teacher's layer",
    "entropy": "entropy",
    "commitment": "commitment",
    "delta_cosine_block": "δ-cosine, block",
    "delta_cosine_mlp": "δ-cosine, MLP",
    "nll": "NLL",
}
CONTROLS = {
    "graft": "graft",
    "block": "graft with its norms",
    "self": "own MLPs (identity)",
    "permuted": "layers shuffled",
    "scrambled": "same size, scrambled",
}


def of_it(dataset: xr.Dataset) -> xr.Dataset:
    """Return exp11's readings of IT's replies, those of every condition."""
    return dataset.sel(teacher="it", drop=True)


def window_colour(windows=WINDOWS, title=None, symbol="stroke") -> alt.Color:
    """Return the encoding that tells windows apart."""
    scale = alt.Scale(domain=list(windows), range=list(windows.values()))
    legend = alt.Legend(title=title, symbolType=symbol, symbolOpacity=1, symbolSize=120)
    return alt.Color("window:N", scale=scale, legend=legend)


def trajectories(results, reading="kl_layer_final") -> alt.Chart:
    """Return a reading by layer of a host and its three grafts; the reader chooses the host and the lens."""

    def measure(dataset):
        parts = []
        for host, (base, letter) in HOSTS.items():
            names = [base, *(letter + window for window in WINDOWS)]
            values = of_it(dataset)[reading].sel(basis="host", condition=names, drop=True)
            values = values.reset_coords(drop=True).assign_coords(condition=["none", *WINDOWS])
            parts.append(banded(values.rename(condition="window")).expand_dims(host=[host]))
        return xr.concat(parts, "host")

    title, unit = READINGS[reading]
    rows, colours = (
        tidy(results, measure),
        {"color": window_colour({"none": PT_HOST, **WINDOWS}, "grafted window")},
    )
    scale = root_scale() if unit == "nats" else {}
    curve = bands(layers_axis(), unit, unit, fields=("window", "layer"), colours=colours, **scale)
    note = " (√ scale)" if scale else ""
    return panels(
        rows, f"{title} by layer{note}", onset_rule(), *curve, toggles={"host": "host", "lens": "lens"}
    )


def window_rows(results, values: Callable) -> pd.DataFrame:
    """Return mean and interval of `values(dataset)`, (side, window, …, prompt), a row for each entry and panel."""
    found = {panel: interval_rows(values(dataset)) for panel, dataset in results.items()}
    rows = pd.concat(found, names=["panel"]).reset_index("panel").reset_index(drop=True)
    rows = rows.dropna(subset=["mean"])
    if "side" in rows:
        rows["side"] = rows["side"].map(SIDES)
    return rows.round(charts.DIGITS)


def grouped_dots(
    rows, label, *, x, title, colour, by="window", toggles=None, sort=None, width=PANEL["width"]
) -> alt.Chart:
    """Return dots with intervals, a row for each value of `label`, in it one dot for each value of `by`."""
    order = sort or list(dict.fromkeys(rows[label]))
    height = max(PANEL["height"], 9 * rows[label].nunique() * rows[by].nunique())
    axis = alt.Axis(grid=True, domain=False, ticks=False, labelLimit=170)
    y = alt.Y(f"{label}:N", sort=order, title=None, axis=axis)
    offset = alt.YOffset(f"{by}:N", sort=list(dict.fromkeys(rows[by])))
    bar = alt.Chart().mark_rule(strokeWidth=2)
    bar = bar.encode(x=alt.X("low:Q", title=x), x2="high:Q", y=y, yOffset=offset, color=colour)
    dot = alt.Chart().mark_point(size=45, filled=True, opacity=1)
    tips = [*hint(label, by), "prompts:Q"]
    dot = dot.encode(x=alt.X("mean:Q", title=x), y=y, yOffset=offset, color=colour, tooltip=tips)
    size = {"width": width, "height": height}
    return panels(rows, title, zero_line_x(), bar, dot, toggles=toggles, size=size)


def zero_line_x() -> alt.Chart:
    """Return a dashed vertical line at zero."""
    return alt.Chart().mark_rule(strokeDash=[4, 2]).encode(x=alt.datum(0))


def final_fifth(values: xr.DataArray) -> xr.DataArray:
    """Return shifts in the final fifth of the layers; those of no region as they are."""
    return values.sel(region="final_fifth", drop=True) if "region" in values.dims else values


def windows_of(dataset: xr.Dataset, control="graft", basis="host") -> xr.Dataset:
    """Return the shifts of exp11 by side and window, IT's replies, one basis, the study's windows."""
    return study_windows(shifts(of_it(dataset)), control, basis)


def study_windows(shifted: xr.Dataset, control="graft", basis="host") -> xr.Dataset:
    """Return `effects.shifts` by side and window, one basis, the study's windows."""
    chosen = by_window(shifted, control)
    chosen = chosen.sel(basis=basis, drop=True) if "basis" in chosen.dims else chosen
    return chosen.sel(window=[name for name in WINDOWS if name in chosen.window.values])


def window_shifts(results, reading="kl_layer_final") -> alt.Chart:
    """Return what each window's graft changes in the final fifth; the reader chooses the lens and whose it is."""
    title, unit = READINGS[reading]

    def values(dataset):
        shifted = shifts(of_it(dataset[[reading]]))
        parts = {name: final_fifth(study_windows(shifted, basis=key)[reading]) for key, name in BASES.items()}
        return xr.concat(parts.values(), xr.IndexVariable("basis", list(parts)))

    rows = window_rows(results, values)
    toggles = {"lens": "lens", "basis": "read through the lens of"} if "lens" in rows else None
    rows = rows if toggles else rows[rows["basis"] == BASES["host"]]
    return grouped_dots(
        rows,
        "side",
        x=unit,
        title=f"{title}, change in the final fifth",
        colour=window_colour(),
        toggles=toggles,
    )


def controls(results, reading="kl_layer_final") -> alt.Chart:
    """Return the late graft's shift beside its controls; the reader chooses the lens."""

    def values(dataset):
        shifted = shifts(of_it(dataset[[reading]]))
        parts = [
            final_fifth(study_windows(shifted, control)[reading]).sel(window="late", drop=True)
            for control in CONTROLS
        ]
        return xr.concat(parts, xr.IndexVariable("control", list(CONTROLS.values())))

    title, unit = READINGS[reading]
    rows = window_rows(results, values).sort_values("side", ascending=True, kind="stable")
    hosts = {SIDES["sufficiency"]: WINDOWS["late"], SIDES["necessity"]: IT_HOST}
    scale = alt.Scale(domain=list(hosts), range=list(hosts.values()))
    colour = alt.Color(
        "side:N", scale=scale, legend=alt.Legend(title=None, symbolType="circle", symbolSize=60)
    )
    return grouped_dots(
        rows, "control", x=unit, title=f"{title}, late window and its controls", colour=colour, by="side",
        toggles={"lens": "lens"}, sort=list(CONTROLS.values()),
    )  # fmt: skip


def sweep_rows(results, reading: str, chosen: Callable) -> pd.DataFrame:
    """Return means of a swept reading with intervals, of the windows whose names `chosen` keeps, with first and width."""

    def values(dataset):
        names = [name for name in dataset.sweep.values.tolist() if chosen(name)]
        return dataset[f"sweep_{reading}"].sel(sweep=names)

    rows = window_rows(results, values)
    spans = {
        (panel, name): (int(d.sweep_first.sel(sweep=name)), int(d.sweep_width.sel(sweep=name)))
        for panel, d in results.items()
        for name in d.sweep.values.tolist()
    }
    first, width = zip(*(spans[key] for key in zip(rows["panel"], rows["sweep"])))
    onset = {panel: charts.depths.onset(d.attrs["n_layers"]) for panel, d in results.items()}
    return rows.assign(first=first, width=width, onset=rows["panel"].map(onset))


def sliding(results, reading="kl_layer_final") -> alt.Chart:
    """Return the shift in the final fifth by the depth of a sliding window, a curve a side; the lens to choose."""
    title, unit = READINGS[reading]
    rows = sweep_rows(results, reading, lambda name: name[0].isdigit())
    rows["centre"] = rows["first"] + (rows["width"] - 1) / 2
    hosts = {SIDES["sufficiency"]: PT_HOST, SIDES["necessity"]: IT_HOST}
    legend = alt.Legend(title=None, symbolType="stroke", symbolOpacity=1)
    scale = alt.Scale(domain=list(hosts), range=list(hosts.values()))
    colours = {"color": alt.Color("side:N", scale=scale, legend=legend)}
    name = "centre of the window, layer"
    x = alt.X("centre:Q", title=name, scale=alt.Scale(nice=False, zero=False))
    onset = alt.Chart().mark_rule(strokeDash=[1, 3]).encode(x=alt.X("mean(onset):Q", title=name))
    curve = bands(x, unit, unit, fields=("side", "sweep"), colours=colours)
    zero = alt.Chart().mark_rule().encode(y=alt.datum(0))
    width = int(rows["width"].iloc[0])
    return panels(
        rows, f"{title}, change in the final fifth by a window of {width} layers", onset, zero, *curve,
        toggles={"lens": "lens"},
    )  # fmt: skip


def widths(results, reading="kl_layer_final") -> alt.Chart:
    """Return the shift in the final fifth by a window's width, a curve a place; the reader chooses side and lens."""
    title, unit = READINGS[reading]
    rows = sweep_rows(results, reading, lambda name: not name[0].isdigit())
    rows["window"] = rows["sweep"].str.split("_").str[0]
    x = alt.X("width:Q", title="layers replaced", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False))
    curve = bands(x, unit, unit, fields=("window", "width"), colours={"color": window_colour()})
    zero = alt.Chart().mark_rule().encode(y=alt.datum(0))
    return panels(
        rows,
        f"{title}, change in the final fifth by width",
        zero,
        *curve,
        toggles={"side": "graft", "lens": "lens"},
    )


def teachers(results, reading="kl_layer_final") -> alt.Chart:
    """Return each window's shift with IT's and with PT's replies as the forced tokens; the reader chooses side and lens."""

    def values(dataset):
        parts = []
        for teacher in ("it", "pt"):
            one = by_window(shifts(dataset[[reading]].sel(teacher=teacher, drop=True)))
            one = final_fifth(one.sel(basis="host", window=list(WINDOWS), drop=True)[reading])
            parts.append(one)
        return xr.concat(parts, xr.IndexVariable("teacher", ["IT's replies", "PT's replies"]))

    title, unit = READINGS[reading]
    return grouped_dots(
        window_rows(results, values), "teacher", x=unit, title=f"{title}, change in the final fifth by teacher",
        colour=window_colour(), toggles={"side": "graft", "lens": "lens"},
    )  # fmt: skip


# exp14: datasets of `causality.summarise`.


def causality_rows(results, readout: str) -> pd.DataFrame:
    """Return exp14's means and intervals of one read-out in the final fifth, a row for each panel (side), family and choice.

    With two dense families or more, their pool, prompt by prompt, is a family too.
    """

    def values(dataset):
        return dataset["shift"].sel(region="final_fifth", readout=readout, drop=True).astype(float)

    families = dict(results)
    if sum(map(is_dense, results.values())) > 1:
        pool = pooled(results, values)
        families[POOL] = xr.Dataset({"shift": pool.expand_dims(region=["final_fifth"], readout=[readout])})
    rows = window_rows(families, values).rename(columns={"panel": "family", "side": "panel"})
    return rows.assign(basis=rows["basis"].map(BASES))


def sufficiency_necessity(results, readout="kl_layer_final") -> alt.Chart:
    """Return Figure 2 of the study with intervals: each window's shift, put into PT and taken out of IT, by family.

    The reader chooses the lens and whose it is, where there is one; the region is the final fifth of the layers.
    """
    rows, (title, unit) = causality_rows(results, readout), READINGS[readout]
    toggles = {"lens": "lens", "basis": "read through the lens of"}
    if readout in LENSLESS:
        rows, toggles = rows[(rows["lens"] == "raw") & (rows["basis"] == BASES["host"])], None
    return grouped_dots(
        rows, "family", x=unit, title=f"{title}, change in the final fifth", colour=window_colour(), toggles=toggles,
        width=290,
    )  # fmt: skip


def strongest(results) -> alt.Chart:
    """Return by read-out how probable it is that each window has the strongest change, a stacked bar a read-out.

    Strongest means: most in the study's direction; *none*, that no window goes there. The reader chooses side and lens.
    """

    def measure(dataset):
        chosen = dataset.strongest.sel(region="final_fifth", basis="host", drop=True)
        none = (1 - chosen.sum("window", skipna=False)).clip(0).expand_dims(window=["none"])
        return xr.concat([chosen, none], "window").rename("share").to_dataset()

    frames = [measure(d).to_dataframe().reset_index().assign(panel=panel) for panel, d in results.items()]
    rows = pd.concat(frames, ignore_index=True).dropna(subset=["share"]).round(charts.DIGITS)
    rows["side"] = rows["side"].map(SIDES)
    rows["readout"] = rows["readout"].map(SHORT)
    rows["rank"] = rows["window"].map({name: i for i, name in enumerate([*WINDOWS, "none"])})
    y = alt.Y("readout:N", sort=list(SHORT.values()), title=None, axis=alt.Axis(ticks=False, domain=False))
    x = alt.X("share:Q", title="probability", axis=alt.Axis(format="%"), stack="zero")
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "readout:N",
        "window:N",
        alt.Tooltip("share:Q", format=".0%"),
    ]
    bar = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=x,
            y=y,
            color=window_colour({**WINDOWS, "none": "#b8b8b8"}, symbol="square"),
            order=alt.Order("rank:O"),
            tooltip=tips,
        )
    )
    return panels(rows, "Which window is the strongest?", bar, toggles={"side": "graft", "lens": "lens"})
