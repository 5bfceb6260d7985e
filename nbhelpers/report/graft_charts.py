"""Parts that the graft experiments share: names of conditions and read-outs, looks of windows and hosts, rows by window.

A host keeps its model's colour and dash, whatever is grafted into it. Windows are told apart by shape (early ▲, mid ■,
late ●) and by three steps of one hue, from light to dark. Intervals are 95 % BCa intervals of means over prompts.
"""

from collections.abc import Callable

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.measures import graft_shifts
from nbhelpers.report import charts
from nbhelpers.report.charts import by_category, interval_rows
from nbhelpers.report.families import POOL, is_dense, pooled
from nbhelpers.report.theme import DASHES, IT, NO_STEP, PT, STEPS

WINDOWS = dict(zip(("early", "mid", "late"), STEPS))
WINDOW_SHAPES = {"early": "triangle-up", "mid": "square", "late": "circle", "none": "diamond"}
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
LENS = {"lens": "tuned"}  # through which the graft experiments' verdicts read
WHOLE = ("commitment", "nll")  # read-outs without a region of layers
BY_WINDOW = "by grafted window (early ▲, mid ■, late ●)"
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


def by_window(**more) -> dict:
    """Return the encodings that distinguish windows by colour and shape; more: colours of further values, such as none."""
    known = WINDOWS | more
    return by_category(
        "window", known, colours=known.values(), shapes=[WINDOW_SHAPES[name] for name in known]
    )


def host_and_grafts() -> dict:
    """Return the encodings of the host that the reader chose, in its model's colour and dash, and of its grafts, by window.

    The field `window` is "none" for the host itself; the control is that of a field `host`, PT or IT.
    """
    chosen, names = "shown_host === 'PT'", ["none", *WINDOWS]
    ranges = {
        "color": [alt.ExprRef(f"{chosen} ? '{PT}' : '{IT}'"), *WINDOWS.values()],
        "strokeDash": [
            alt.ExprRef(f"{chosen} ? {DASHES['pt']} : {DASHES['it']}"),
            *[DASHES["it"]] * len(WINDOWS),
        ],
        "shape": [WINDOW_SHAPES[name] for name in names],
    }
    legend = alt.Legend(title="grafted window", symbolOpacity=1, symbolSize=80)
    channels = {"color": alt.Color, "strokeDash": alt.StrokeDash, "shape": alt.Shape}
    return {
        name: channels[name]("window:N", scale=alt.Scale(domain=names, range=found), legend=legend)
        for name, found in ranges.items()
    }


def window_colour() -> alt.Color:
    """Return the colour encoding of the windows and of none of them, for filled bars."""
    known = WINDOWS | {"none": NO_STEP}
    legend = alt.Legend(title=None, symbolType="square", symbolSize=120)
    return alt.Color(
        "window:N", scale=alt.Scale(domain=list(known), range=list(known.values())), legend=legend
    )


def by_host(field="side", hosts=None) -> dict:
    """Return the encodings that give each host its model's colour and dash; hosts: {value of the field: pt or it}."""
    hosts = dict(zip(SIDES.values(), ("pt", "it"))) if hosts is None else hosts
    looks = {"pt": (PT, DASHES["pt"]), "it": (IT, DASHES["it"])}
    colours, dashes = zip(*(looks[variant] for variant in hosts.values()))
    legend = alt.Legend(title=None, symbolType="stroke", symbolOpacity=1)
    scales = {
        name: alt.Scale(domain=list(hosts), range=list(found))
        for name, found in (("color", colours), ("dash", dashes))
    }
    return {
        "color": alt.Color(f"{field}:N", scale=scales["color"], legend=legend),
        "strokeDash": alt.StrokeDash(f"{field}:N", scale=scales["dash"], legend=legend),
    }


def window_rows(results, values: Callable, pool=False) -> pd.DataFrame:
    """Return a table of mean and interval of `values(dataset)`, [side, window, …, prompt], one row per entry and panel.

    pool: with two or more dense pairs, their mean, prompt by prompt, is a last panel.
    """
    found = {panel: interval_rows(values(dataset)) for panel, dataset in results.items()}
    if pool and sum(map(is_dense, results.values())) > 1:
        found[POOL] = interval_rows(pooled(results, values))
    rows = pd.concat(found, names=["panel"]).reset_index("panel").reset_index(drop=True)
    rows = rows.dropna(subset=["mean"])
    if "side" in rows:
        rows["side"] = rows["side"].map(SIDES)
    return rows.round(charts.DIGITS)


def heading_of(readout: str) -> str:
    """Return the title of a figure of a read-out's change, "KL(layer ‖ own final), change in the final fifth"."""
    return f"{READOUTS[readout][0]}, change{'' if readout in WHOLE else ' in the final fifth'}"


def change_of(readout: str) -> str:
    """Return what a figure of a read-out's change shows, "KL(layer ‖ own final), nats, in the final fifth"."""
    title, unit = READOUTS[readout]
    return f"{title}, {unit}{'' if readout in WHOLE else ', in the final fifth'}"
