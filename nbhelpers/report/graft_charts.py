"""Parts that the graft experiments share: names of conditions and read-outs, colours, and dots by window.

Windows have the study's colours in all figures: early blue, mid orange, late red. Hosts are grey (PT) and green (IT).
As in `charts`, functions take results and return charts; intervals are 95 % BCa intervals of means over prompts.
"""

from collections.abc import Callable

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.measures import graft_shifts
from nbhelpers.report import charts
from nbhelpers.report.charts import PANEL, hint, interval_rows, panels

WINDOWS = {"early": "#4c8fd0", "mid": "#e08a1e", "late": "#d6453d"}
PT_HOST, IT_HOST = "#8a8a8a", "#2a9d5c"
SIDES = {"sufficiency": "IT's MLPs in PT", "necessity": "PT's MLPs in IT"}
BASES = {"host": "each host", "pt": "PT"}
READOUTS = {
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
# Name of a condition in quantities → its name in the datasets.
CONDITIONS = {
    "a": "A'", "b_early": "B_early", "b_mid": "B_mid", "b_late": "B_late", "a_template": "A'_tmpl",
    "b2": "B2", "c": "C", "d_early": "D_early", "d_mid": "D_mid", "d_late": "D_late",
}  # fmt: skip
CONTROLS = {
    "graft": "graft",
    "block": "graft with its norms",
    "self": "own MLPs (identity)",
    "permuted": "layers shuffled",
    "scrambled": "same size, scrambled",
}
# Notes on definitions that differ from the published ones.
BY_PROMPT = "published: means over steps; here: by prompt"
LAST = "; published: the last layer through its translator"
UPDATED_MLP = "published: Gemma's and OLMo's MLPs before the norm that follows"


def lead(changed: dict[str, xr.DataArray]) -> xr.DataArray:
    """Return the late window's values minus those of the other window with the largest mean, or minus zero, [prompt].

    changed: {window: [prompt]}. Zero is used if no other mean is above it, so a late change against the direction that
    the study claims is no lead.
    """
    others = [changed[name] for name in WINDOWS if name != "late"] + [0 * changed["late"]]
    return changed["late"] - max(others, key=lambda values: float(values.mean()))


def margin(changed: dict[str, xr.DataArray]) -> xr.DataArray:
    """Return the late window's values minus those of the other window with the larger mean, [prompt], as in the study.

    changed: {window: [prompt]}. Unlike `lead`, it is large where the others move the other way.
    """
    others = [changed[name] for name in WINDOWS if name != "late"]
    return changed["late"] - max(others, key=lambda values: float(values.mean()))


def study_windows(shifted: xr.Dataset, control="graft", basis="host") -> xr.Dataset:
    """Return `graft_shifts.shifts` by side and window, for one control, one basis and the study's windows."""
    chosen = graft_shifts.by_window(shifted, control)
    chosen = chosen.sel(basis=basis, drop=True) if "basis" in chosen.dims else chosen
    return chosen.sel(window=[name for name in WINDOWS if name in chosen.window.values])


def window_colour(windows=WINDOWS, title=None, symbol="stroke") -> alt.Color:
    """Return the colour encoding of windows."""
    scale = alt.Scale(domain=list(windows), range=list(windows.values()))
    legend = alt.Legend(title=title, symbolType=symbol, symbolOpacity=1, symbolSize=120)
    return alt.Color("window:N", scale=scale, legend=legend)


def window_rows(results, values: Callable) -> pd.DataFrame:
    """Return a table of mean and interval of `values(dataset)`, [side, window, …, prompt], one row per entry and panel."""
    found = {panel: interval_rows(values(dataset)) for panel, dataset in results.items()}
    rows = pd.concat(found, names=["panel"]).reset_index("panel").reset_index(drop=True)
    rows = rows.dropna(subset=["mean"])
    if "side" in rows:
        rows["side"] = rows["side"].map(SIDES)
    return rows.round(charts.DIGITS)


def grouped_dots(
    rows, label, *, x, title, colour, by="window", toggles=None, sort=None, width=PANEL["width"]
) -> alt.Chart:
    """Return a chart of dots with intervals: one row for each value of `label`, in it one dot for each value of `by`."""
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
