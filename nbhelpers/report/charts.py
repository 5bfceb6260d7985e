"""Building blocks of the book's figures: one panel per family, PT blue and dashed, IT orange and solid.

Figures take results, a mapping from panel title to dataset in the order of the panels (or one dataset), and
return an `alt.Chart`. Bands are 95 % BCa intervals of the mean over prompts. Importing this module registers
the theme and a renderer that outputs only a chart's specification, so the bytes are the same on every run. The
module does not know where results are stored or which families exist.
"""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import depths, stats
from nbhelpers.report import chart_text

VEGALITE = "application/vnd.vegalite.v5+json"  # what JupyterLab 4 draws, also for Altair 6
PT, IT, INK, GRID = "#2b7bba", "#d95f02", "#7a7a7a", "#8888883f"
# Different from PT's and IT's colours, readable on light and dark pages.
FIVE = ["#2a9d5c", "#9467bd", "#b07d2b", "#d6568c", "#7a7a7a"]
NAMES = {"pt": "PT", "it": "IT"}
KL = {"final_layer": "KL(final ‖ layer)", "layer_final": "KL(layer ‖ final)"}
PANEL, SINGLE = {"width": 190, "height": 140}, {"width": 420, "height": 240}
RULES = {
    "top1_first": "first top-1 match",
    "top1_strict": "top-1 match that stays",
    "top1_stable": "top-1 match over {} layers",
    "kl_first_": "first KL below {} nats",
    "kl_stays_": "KL stays below {} nats",
    "majority_below_": "KL below {} nats, as most later layers",
    "majority_": "most later layers below {} nats",
    "kl_qualified_0.5_3x": "KL below 0.5 nats, then never above 1.5",
    "entropy_": "entropy stays below {} nats",
    "cosine_": "cosine to the final state stays above {}",
}
DIGITS = 4
ROOT_TICKS = [0, 0.2, 1, 3, 6, 10, 15, 20, 30, 40]


def spec_renderer(spec, **metadata):
    """Return a chart's specification under the one MIME type that both JupyterLab and the book draw, and its text."""
    return {VEGALITE: spec, "text/plain": chart_text.text(spec)}


@alt.theme.register("nbhelpers", enable=True)
def theme():
    """Return the book's chart theme: no background and greys that read on light and dark pages."""
    text = {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {
        "config": {
            "background": "transparent",
            "font": "system-ui, sans-serif",
            "view": {**PANEL, "continuousWidth": 400, "continuousHeight": 240, "stroke": "transparent"},
            "title": {"color": INK, "fontSize": 13, "anchor": "start", "offset": 10},
            "axis": {**text, "gridColor": GRID, "domainColor": INK, "tickColor": INK, "tickCount": 5},
            "legend": {**text, "orient": "top", "symbolSize": 300, "symbolStrokeWidth": 2.5},
            "header": {**text, "labelFontSize": 12, "labelFontWeight": "bold", "labelAnchor": "start"},
            "facet": {"spacing": 18},
            "text": {"color": INK, "fontSize": 10},
            "rule": {"color": INK},
        }
    }


alt.renderers.register("spec", spec_renderer)
alt.renderers.enable("spec")
# Data sets named by the hash of their content keep a chart's bytes the same on every run.
alt.data_transformers.enable("default", consolidate_datasets=True, max_rows=None)


def rule_title(rule) -> str:
    """Return a commitment rule in words: `kl_stays_0.1` is "KL stays below 0.1 nats"."""
    start = next((start for start in RULES if rule.startswith(start)), None)
    return RULES[start].format(rule.removeprefix(start)) if start else rule


def panels_of(results) -> dict[str, xr.Dataset]:
    """Return results as {panel title: dataset}; the title of a single dataset is its model's key."""
    if isinstance(results, xr.Dataset):
        return {results.attrs.get("model", "model"): results}
    return dict(results)


def tidy(results, measure) -> pd.DataFrame:
    """Return the tables of `measure(dataset)` as one, with each row's `panel` and the layer `onset` of that panel."""
    frames = []
    for panel, dataset in panels_of(results).items():
        frame = measure(dataset).to_dataframe().reset_index()
        frames.append(frame.assign(panel=panel, onset=depths.onset(dataset.sizes["layer"])))
    rows = pd.concat(frames, ignore_index=True)
    if "variant" in rows:
        rows["variant"] = rows["variant"].map(NAMES)
    # Rounding keeps the bytes the same on other machines.
    return rows.round({name: DIGITS for name in rows.select_dtypes("floating")})


def banded(values: xr.DataArray, **options) -> xr.Dataset:
    """Return the mean over prompts of values [prompt, …] and its interval: `mean`, `low`, `high`, […].

    All three are NaN where fewer than two prompts are measured.
    """
    values = values.transpose("prompt", ...)
    enough = values.notnull().sum("prompt") > 1
    values = values if enough.all() else values.where(enough)
    bounds = (
        stats.bca_mean(values.values, **options) if enough.any() else np.full((3, *values.shape[1:]), np.nan)
    )
    coords = {name: values[name].values for name in values.dims[1:]}
    return xr.Dataset(
        {name: (values.dims[1:], bound) for name, bound in zip(("mean", "low", "high"), bounds, strict=True)},
        coords,
    )


def by_variant() -> dict:
    """Return the encodings that distinguish PT from IT by colour and dash, with one legend."""
    names, legend = ["PT", "IT"], alt.Legend(title=None, symbolType="stroke", symbolOpacity=1)
    return {
        "color": alt.Color("variant:N", scale=alt.Scale(domain=names, range=[PT, IT]), legend=legend),
        "strokeDash": alt.StrokeDash(
            "variant:N", scale=alt.Scale(domain=names, range=[[5, 3], [1, 0]]), legend=legend
        ),
    }


def by_category(field, values, title=None, palette=FIVE) -> dict:
    """Return the encoding that distinguishes the values of a field by colour."""
    scale = alt.Scale(domain=list(values), range=palette[: len(values)])
    legend = alt.Legend(title=title, symbolType="stroke", symbolOpacity=1)
    return {"color": alt.Color(f"{field}:N", scale=scale, legend=legend)}


def packed(rows: pd.DataFrame, fields) -> pd.DataFrame:
    """Return one row for each combination of the other columns, with each of `fields` as a list, in a tenth of the bytes."""
    others = [name for name in rows if name not in fields]
    return rows.groupby(others, sort=False, dropna=False)[list(fields)].agg(list).reset_index()


def panels(rows, title, *layers, y="shared", toggles=None, lists=(), size=PANEL) -> alt.Chart:
    """Return layered marks as small multiples, one panel for each value of `rows.panel`, in the order of the rows.

    y: whether the panels' y scales are "shared" or "independent". toggles: {field: label}, fields of which the reader
    chooses one value; a field with only one value gets no control. lists: fields that hold lists, each entry of which is
    a row to draw (see `packed`). size: of each panel, if there are several.
    """
    order = list(dict.fromkeys(rows["panel"]))
    if len(order) == 1:
        chart = alt.layer(*layers, data=rows).properties(**SINGLE, title=title)
    else:
        facet = alt.Facet("panel:N", sort=order, title=None)
        chart = alt.layer(*layers).properties(**size).facet(facet=facet, data=rows, columns=3)
        chart = chart.resolve_scale(x="independent", y=y).properties(title=title)
    for field, name in (toggles or {}).items():
        if rows[field].nunique() > 1:
            chart = chart.transform_filter(f"datum['{field}'] === shown_{field}").add_params(
                choice(rows, field, name)
            )
    return chart.transform_flatten(list(lists)) if lists else chart


def choice(rows, field, name) -> alt.Parameter:
    """Return the control with which a reader chooses one value of a field: buttons for up to four values, else a list."""
    options = list(dict.fromkeys(rows[field]))
    bind = alt.binding_radio if len(options) < 5 else alt.binding_select
    return alt.param(f"shown_{field}", value=options[0], bind=bind(options=options, name=f"{name} "))


def layers_axis(name="layer") -> alt.X:
    """Return the x encoding of layers."""
    return alt.X(
        f"{name}:Q", title="layer", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickMinStep=1)
    )


def onset_rule() -> alt.Chart:
    """Return a dotted vertical line at the onset of the late window, round(0.6 L)."""
    return alt.Chart().mark_rule(strokeDash=[1, 3]).encode(x=alt.X("mean(onset):Q", title="layer"))


def hint(*fields, unit="") -> list[alt.Tooltip]:
    """Return tooltips that show the named fields, the mean and its interval."""
    shown = [
        alt.Tooltip("panel:N", title="model"),
        *(alt.Tooltip(f"{name}:N", title=name) for name in fields),
    ]
    numbers = {"mean": f"mean{unit and f', {unit}'}", "low": "interval from", "high": "to"}
    return shown + [alt.Tooltip(f"{name}:Q", title=title, format=".3f") for name, title in numbers.items()]


def bands(x, y, unit="", fields=("variant", "layer"), colours=None, **y_options) -> list[alt.Chart]:
    """Return the marks of a curve with its interval: band, line, and points that carry the tooltips."""
    colours = by_variant() if colours is None else colours
    stroke = {name: channel for name, channel in colours.items() if name != "strokeDash"}
    low, mean = (alt.Y(f"{name}:Q", title=y, **y_options) for name in ("low", "mean"))
    points = alt.Chart().mark_point(size=16, filled=True, opacity=1)
    return [
        alt.Chart().mark_area(opacity=0.2).encode(x=x, y=low, y2="high:Q", **stroke),
        alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=mean, **colours),
        points.encode(x=x, y=mean, tooltip=hint(*fields, unit=unit), **stroke),
    ]


def layer_profile(
    results, values, *, y, title, unit="", resolve="shared", toggles=None, **y_options
) -> alt.Chart:
    """Return a chart of `values(dataset)` over layers, PT and IT; values: [prompt, variant, layer, fields of `toggles`]."""
    rows = tidy(results, lambda dataset: banded(values(dataset)))
    curve = bands(layers_axis(), y, unit, **y_options)
    return panels(rows, title, onset_rule(), *curve, y=resolve, toggles=toggles)


def shift_profile(results, values, *, y, title, unit="", toggles=None) -> alt.Chart:
    """Return a chart of the paired difference IT − PT of `values(dataset)` over layers, with a line at zero."""

    def measure(dataset):
        both = values(dataset)
        return banded(both.sel(variant="it", drop=True) - both.sel(variant="pt", drop=True))

    zero = alt.Chart().transform_filter("datum.layer === 0")
    zero = zero.mark_rule().encode(y=alt.datum(0, axis=alt.Axis(grid=True)))
    curve = bands(layers_axis(), y, unit, fields=("layer",), colours={"color": alt.value(IT)})
    return panels(tidy(results, measure), title, onset_rule(), zero, *curve, toggles=toggles)


def root_scale() -> dict:
    """Return the options of a square-root y axis; on a linear one, the first layers would flatten the late ones."""
    axis = alt.Axis(values=ROOT_TICKS, tickCount=len(ROOT_TICKS), labelOverlap=False, format="~g")
    return {"scale": alt.Scale(type="sqrt"), "axis": axis}


def training_loss(cards) -> alt.Chart:
    """Return a chart of held-out loss, nats, against training tokens, for model cards with a title and `loss` pairs."""
    rows = [
        {
            "panel": card["title"],
            "variant": NAMES[variant],
            "tokens": tokens / 1e6,
            "loss": round(loss, DIGITS),
        }
        for card in cards.values()
        for variant, points in card["loss"].items()
        for tokens, loss in points
    ]
    x = alt.X("tokens:Q", title="training tokens, millions")
    y = alt.Y("loss:Q", title="nats per token", scale=alt.Scale(zero=False))
    tips = [
        "panel:N",
        "variant:N",
        alt.Tooltip("tokens:Q", format=".2f"),
        alt.Tooltip("loss:Q", format=".3f"),
    ]
    line = alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y, **by_variant())
    dots = alt.Chart().mark_point(size=16, filled=True, opacity=1)
    dots = dots.encode(x=x, y=y, color=by_variant()["color"], tooltip=tips)
    return panels(pd.DataFrame(rows), "Held-out loss in training", line, dots)


def difference(values: xr.DataArray) -> xr.DataArray:
    """Return IT − PT of values with a `variant` dimension."""
    return values.sel(variant="it", drop=True) - values.sel(variant="pt", drop=True)


def interval_row(values: xr.DataArray, **labels) -> dict:
    """Return the labels with the mean of values [prompt], its interval and the number of prompts."""
    kept = values.dropna("prompt")
    if kept.sizes["prompt"] < 2:
        return labels | dict(mean=np.nan, low=np.nan, high=np.nan, prompts=kept.sizes["prompt"])
    bound = stats.bca_mean(kept.values)
    return labels | dict(zip(("mean", "low", "high"), map(float, bound))) | {"prompts": kept.sizes["prompt"]}


def interval_rows(values: xr.DataArray) -> pd.DataFrame:
    """Return a table like `interval_row`, one row for each entry of values [prompt, …], labelled by the other dims."""
    values = values.transpose("prompt", ...)
    columns = values.values.reshape(values.sizes["prompt"], -1)
    counts = (~np.isnan(columns)).sum(0)
    found = np.full((3, len(counts)), np.nan)
    if (counts > 1).any():
        found[:, counts > 1] = stats.bca_mean(columns[:, counts > 1])
    labels = {name: values[name].values for name in values.dims[1:]}
    rows = pd.MultiIndex.from_product(labels.values(), names=labels).to_frame(index=False)
    return rows.assign(**dict(zip(("mean", "low", "high"), found)), prompts=counts)


def dots(rows: pd.DataFrame, label: str, *, x: str, title: str, toggles=None) -> alt.Chart:
    """Return a chart of dots with intervals: one row per value of `label`, one panel per model, in the order of `rows`."""
    rows = rows.dropna(subset=["mean"]).round(DIGITS)
    axis = alt.Axis(grid=True, domain=False, ticks=False, labelLimit=140)
    y = alt.Y(f"{label}:N", sort=list(dict.fromkeys(rows[label])), title=None, axis=axis)
    zero = alt.Chart().mark_rule(strokeDash=[4, 2]).encode(x=alt.datum(0))
    bar = alt.Chart().mark_rule(strokeWidth=2, color=IT).encode(x=alt.X("low:Q", title=x), x2="high:Q", y=y)
    dot = alt.Chart().mark_point(size=50, filled=True, opacity=1, color=IT)
    tips = [*hint(label), "prompts:Q"]
    dot = dot.encode(x=alt.X("mean:Q", title=x), y=y, tooltip=tips)
    return panels(rows, title, zero, bar, dot, toggles=toggles)


def variant_dots(
    rows: pd.DataFrame, label: str, order: list[str], *, x: str, title: str, zero=False
) -> alt.Chart:
    """Return a chart of dots with intervals, PT and IT: a row per value of `label`, a panel per model; zero: a line at 0."""
    y = alt.Y(f"{label}:N", title=None, sort=order, axis=alt.Axis(grid=True, ticks=False))
    offset, colour = alt.YOffset("variant:N", sort=["PT", "IT"]), by_variant()["color"]
    bar = alt.Chart().mark_rule(strokeWidth=2)
    bar = bar.encode(x=alt.X("low:Q", title=x), x2="high:Q", y=y, yOffset=offset, color=colour)
    dot = alt.Chart().mark_point(size=40, filled=True, opacity=1)
    tips = [*hint(label, "variant"), *(["prompts:Q"] if "prompts" in rows else [])]
    dot = dot.encode(x=alt.X("mean:Q", title=x), y=y, yOffset=offset, color=colour, tooltip=tips)
    line = [alt.Chart().mark_rule(strokeDash=[4, 2]).encode(x=alt.datum(0))] if zero else []
    return panels(rows, title, *line, bar, dot)
