"""The figures of exp07_0c: controls, windows, doses and formulas."""

import altair as alt
import numpy as np
import pandas as pd

from nbhelpers.experiments.exp07_0c_controls.quantities import (
    BAND,
    DOSES,
    DOUBLED,
    FORMULAS,
    by_prompt,
    firsts,
    quantities,
)
from nbhelpers.experiments.exp07_0c_controls.report import CONTROL_WORDS, FORMULA_WORDS, excess_rows
from nbhelpers.report.captions import BARS, ZERO, caption
from nbhelpers.report.charts import DIGITS, bands, by_category, interval_row, of_mark, panels, panels_of
from nbhelpers.report.forest import forest
from nbhelpers.report.quantities import kept, named, value

OWN, RANDOM = "the direction", "random directions, as long"
LOG = {"scale": alt.Scale(type="log", nice=False), "axis": alt.Axis(tickCount=4)}
ARMS = {
    "α = 0, own direction": "circle", "α = 2, own direction": "triangle-up", "α = 0, as the study": "square",
    "α = 2, as the study": "diamond", "c = 1": "cross", "c = −1": "triangle-down",
}  # fmt: skip
SHAPES_OF_ARMS = alt.Legend(title=None, symbolSize=80, columns=2)
ACROSS = "bands are 95 % intervals of the mean over prompts"


def controls(results) -> alt.Chart:
    """Return a forest plot of what removing the direction does to IT's predictions beyond what each control does."""
    rows = excess_rows(results)
    what = (
        "KL(unedited ‖ edited) per token from removing the late direction, less that of each control, on replies to format "
        "requests"
    )
    return forest(
        rows, x="nats per token", by="control", encodings=by_category("control", CONTROL_WORDS.values()),
        title="What the direction does beyond its controls",
        description=caption(what, rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


def curves(results, names: dict[str, dict]) -> pd.DataFrame:
    """Return a table of means and intervals of quantities by prompt, with labels; names: {quantity: labels}."""
    rows = [
        interval_row(named(quantities, name)(d), panel=panel, **labels)
        for panel, d in panels_of(results).items()
        for name, labels in names.items()
        if name in kept(quantities, d)
    ]
    return pd.DataFrame(rows).dropna(subset=["mean"]).round(DIGITS)


def behaviour(results) -> alt.Chart:
    """Return a chart of the change of format compliance against the dose, the direction beside matched random directions."""
    names = {f"format_change.direction.dose_{d}": {"direction": OWN, "dose": float(d)} for d in DOSES}
    names |= {f"format_change.matched.dose_{d}": {"direction": RANDOM, "dose": float(d)} for d in BAND}
    return dose_curves(
        curves(results, names), y="change of compliance", title="Format compliance by dose",
        description="Change of format compliance from dose 1 against the dose of the late direction, and of random "
        "directions along which the activation changes by as much, their mean",
    )  # fmt: skip


def dose_curves(rows: pd.DataFrame, *, y: str, title: str, description: str, toggles=None) -> alt.Chart:
    """Return the chart of a table of means by panel, `direction` (up to four), `dose` and the fields of `toggles`."""
    x = alt.X("dose:Q", title="dose α", scale=alt.Scale(nice=False))
    colours = by_category("direction", list(dict.fromkeys(rows["direction"])))
    marks = bands(x, y, fields=("direction", "dose"), colours=colours)
    return panels(rows, title, *marks, marks=(ACROSS,), description=description, toggles=toggles)


def window_rows(dataset, panel: str) -> list[dict]:
    """Return KL and KL per unit of dose of every sliding window, the direction's and the mean of random ones, as rows."""
    rows, n = [], int(dataset.attrs["n_layers"])
    forms = dataset.isel(prompt=np.flatnonzero((dataset["role"] == "format").values))
    for control, words in {"window": OWN, "window_random": RANDOM}.items():
        for first in firsts(dataset, control):
            kl, dose = (
                by_prompt(forms, o, control, 0.0, first).dropna("prompt") for o in ("kl", "residual_change")
            )
            at = {"panel": panel, "direction": words, "first": first, "depth": (first + 1) / n}
            rows.append(interval_row(kl, read="KL, nats per token", **at))
            rows.append(interval_row(kl / dose, read="KL per unit of dose", **at))
    return rows


def windows(results) -> alt.Chart:
    """Return a chart of the effect of removing the direction in sliding windows against the window's first layer."""
    rows = pd.DataFrame([row for panel, d in panels_of(results).items() for row in window_rows(d, panel)])
    rows = rows.dropna(subset=["mean"]).round(DIGITS)
    x = alt.X(
        "first:Q",
        title="first layer of the window",
        axis=alt.Axis(tickMinStep=1),
        scale=alt.Scale(nice=False),
    )
    marks = bands(
        x,
        "nats per token, or per unit of dose",
        fields=("direction", "first"),
        colours=by_category("direction", [OWN, RANDOM]),
        scale=alt.Scale(type="sqrt"),
    )
    return panels(
        rows, "Windows of one width over all layers", *marks, marks=(ACROSS, "the axis is square-root"),
        toggles={"read": "read"},
        y="independent",
        description="Effect of removing the direction in each sliding window, against its first layer, beside that of random "
        "directions of the same length there",
    )  # fmt: skip


def kind_of(name: str) -> str:
    """Return the tensor that a formula changes."""
    return "added gap" if name.startswith("add") else {"attention": "attention", "residual": "stream"}.get(
        name.split("_")[0], "MLP, scaled"
    )  # fmt: skip


def arm_of(name: str, at: str) -> str:
    """Return along what a formula edits and at which dose, for the shape of its point."""
    if name.startswith("add"):
        return f"c = {name.removeprefix('add_').replace('-', '−')}"
    return f"α = {at}, {'as the study' if name.endswith('_mlp') else 'own direction'}"


def formulas(results) -> alt.Chart:
    """Return a chart of KL against the dose of every formula, both axes logarithmic: at equal dose, formulas compare."""
    rows = []
    for panel, d in panels_of(results).items():
        for at, names in (("0", FORMULAS), ("2", DOUBLED)):
            for name in names:
                kl, dose = (
                    value(quantities, d, f"formula_{what}.{name}.dose_{at}") for what in ("kl", "dose")
                )
                if round(kl, 6) > 0 and round(dose, 6) > 0:  # a logarithmic axis has no zero
                    said = (
                        FORMULA_WORDS[name] if name.startswith("add") else f"{FORMULA_WORDS[name]}, α = {at}"
                    )
                    rows.append(
                        {
                            "panel": panel,
                            "kind": kind_of(name),
                            "arm": arm_of(name, at),
                            "formula": said,
                            "kl": kl,
                            "dose": dose,
                        }  # fmt: skip
                    )
    table = pd.DataFrame(rows).round(6)
    tips = [alt.Tooltip("panel:N", title="model"), "formula:N", alt.Tooltip("dose:Q", format=".3f"),
            alt.Tooltip("kl:Q", title="KL", format=".4f")]  # fmt: skip
    point = alt.Chart().mark_point(size=60, filled=True, opacity=0.9).encode(
        x=alt.X("dose:Q", title="dose: change of the last residual", **LOG),
        y=alt.Y("kl:Q", title="KL, nats per token", **LOG),
        tooltip=tips, **of_mark(by_category("kind", ["MLP, scaled", "attention", "stream", "added gap"]), "shape"),
        shape=alt.Shape("arm:N", scale=alt.Scale(domain=list(ARMS), range=list(ARMS.values())), legend=SHAPES_OF_ARMS),
    )  # fmt: skip
    return panels(
        table, "Formulas at their doses", point,
        marks=("both axes are logarithmic", "a formula below a millionth of a nat is left out"),
        description="KL(unedited ‖ edited) per token against the dose, one point a formula in the late layers; the colour is "
        "what is edited, the shape its dose and direction",
    )  # fmt: skip
