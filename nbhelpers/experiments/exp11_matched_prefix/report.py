"""The figures, tables and verdict of exp11."""

from collections.abc import Callable

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import depths, stats
from nbhelpers.measures.graft_shifts import by_window, shifts
from nbhelpers.report.charts import banded, bands, layers_axis, onset_rule, panels, root_scale, tidy
from nbhelpers.report.families import interval_table
from nbhelpers.report.graft_charts import (
    BASES,
    IT_HOST,
    PT_HOST,
    READINGS,
    SIDES,
    WINDOWS,
    grouped_dots,
    window_colour,
    window_rows,
)
from nbhelpers.report.sentences import grounds, sentence
from nbhelpers.report.text import number, percent, written

HOSTS = {"PT": ("A'", "B_"), "IT": ("C", "D_")}
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
    onset = {panel: depths.onset(d.attrs["n_layers"]) for panel, d in results.items()}
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


LATE = {
    "kl_layer_final": "KL(layer ‖ own final)",
    "kl_layer_teacher": "KL to the teacher's layer",
    "js_teacher": "JS to the teacher's layer",
    "delta_cosine": "δ-cosine of the MLP",
    "commitment": "commitment, layers",
    "nll": "NLL of the teacher's tokens",
}


def late_shift(
    dataset: xr.Dataset, reading: str, side: str, lens="tuned", window="late", control="graft"
) -> xr.DataArray:
    """Return what one window's graft changes in the final fifth by prompt, [prompt], from exp11's dataset."""
    return of_window(windows_of(dataset[[reading]], control)[reading], side, lens, window)


def of_window(shifted: xr.DataArray, side: str, lens="tuned", window="late") -> xr.DataArray:
    """Return one window's shifts in the final fifth by prompt, [prompt], from those of `windows_of`."""
    wanted = {"region": "final_fifth", "lens": lens, "rule": "kl_layer_final_0.1", "component": "mlp"}
    one = shifted.sel(side=side, window=window)
    one = one.sel({dim: value for dim, value in wanted.items() if dim in one.dims})
    return one.reset_coords(drop=True).dropna("prompt")


def late_table(results, side="sufficiency", lens="tuned") -> pd.DataFrame:
    """Return the late graft's shifts of several readings as text, a row a family and one for the dense pool."""
    columns, shifted = {}, {title: windows_of(dataset[[*LATE]]) for title, dataset in results.items()}
    for reading, heading in LATE.items():
        table = interval_table(shifted, lambda d, r=reading: of_window(d[r], side, lens))
        columns[heading] = pd.Series(written(table, 3), index=table["family"])
    table = pd.DataFrame(columns).rename_axis(None)
    tokens = {title: number(by_token(dataset, side, lens), 3) for title, dataset in results.items()}
    table.insert(1, "the same by token", pd.Series(tokens).reindex(table.index).fillna(""))
    return table


def by_token(dataset: xr.Dataset, side="sufficiency", lens="tuned") -> float:
    """Return the late graft's shift of KL(layer ‖ own final) with every token counting once, as the study pooled, nats."""
    shift, n = late_shift(dataset, "kl_layer_final", side, lens), dataset.n_tokens.sel(teacher="it")
    return float(stats.token_weighted_mean(shift.values, n.sel(prompt=shift.prompt).values))


def template_shift(dataset: xr.Dataset, reading: str, lens="tuned") -> xr.DataArray:
    """Return B2 − A'_tmpl in the final fifth, [prompt]: IT's late MLPs in PT, which reads the chat turn."""
    one = shifts(of_it(dataset[[reading]]))[reading].sel(
        condition="B2", basis="host", region="final_fifth", lens=lens
    )
    return one.reset_coords(drop=True).dropna("prompt")


def branch_table(results, lens="tuned") -> pd.DataFrame:
    """Return the late graft's shift of KL(layer ‖ own final) under the raw prompt and in the template branch, as text."""
    columns = {
        "plain prompt, B_late − A'": lambda d: late_shift(d, "kl_layer_final", "sufficiency", lens),
        "chat turn, B2 − A'_tmpl": lambda d: template_shift(d, "kl_layer_final", lens),
    }
    found = {name: interval_table(results, measure) for name, measure in columns.items()}
    return pd.DataFrame(
        {name: pd.Series(written(table, 3), index=table["family"]) for name, table in found.items()}
    ).rename_axis(None)


def divergence_table(results) -> pd.DataFrame:
    """Return where each condition would first write another token than the teacher, and how often it agrees, as text."""
    names = ["A'", "B_early", "B_mid", "B_late", "A'_tmpl", "B2", "D_early", "D_mid", "D_late"]
    rows = {}
    for title, dataset in results.items():
        one = of_it(dataset).sel(condition=names)
        step, share = one.first_divergence_teacher.mean("prompt"), one.agreement_teacher.mean("prompt")
        rows[title] = [f"{number(float(s), 1)} · {percent(a)}" for s, a in zip(step.values, share.values)]
    return pd.DataFrame(rows, index=names).T.rename_axis(None)


def verdict(results) -> str:
    """Return what IT's late MLPs do in PT under the same tokens, and what the controls do."""
    later = ("above the host's", "below the host's")
    late = sentence(results, lambda d: late_shift(d, "kl_layer_final", "sufficiency"), *later)
    raw = sentence(results, lambda d: late_shift(d, "kl_layer_final", "sufficiency", "raw"), *later)
    branch = sentence(results, lambda d: template_shift(d, "kl_layer_final"), *later)
    scrambled = sentence(
        results, lambda d: late_shift(d, "kl_layer_final", "sufficiency", control="scrambled"), *later
    )
    cross = sentence(
        results,
        lambda d: -late_shift(d, "kl_layer_teacher", "sufficiency"),
        "closer to the teacher's",
        "farther from them",
    )
    return (
        f"With IT's late MLPs, PT's distance KL(layer ‖ own final) in the final fifth is, tuned lens, {late}; raw lens, "
        f"{raw}. In the template branch it is {branch}. After a change of the same size in scrambled directions it is "
        f"{scrambled}. The late distributions of the graft are, compared with the host's, {cross}. {grounds(results)}"
    )
