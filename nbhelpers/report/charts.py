"""Building blocks of the book's figures: one panel per pair, PT blue and dashed, IT orange and solid, differences in ink.

Figures take results, a mapping from panel title to dataset in the order of the panels (or one dataset), and
return an `alt.Chart` whose `description` is its caption. Bands are 95 % BCa intervals of the mean over prompts. Importing
this module registers the theme and a renderer that outputs only a chart's specification, so the bytes are the same on every
run. The module does not know where results are stored or which families exist.
"""

import textwrap

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import depths, stats
from nbhelpers.report import chart_text, stored
from nbhelpers.report.captions import BANDS, ONSET, VARIANTS, caption
from nbhelpers.report.theme import CATEGORIES, DASHES, INK, IT, PANEL, PT, SHAPES, SINGLE

VEGALITE = "application/vnd.vegalite.v5+json"  # what JupyterLab 4 draws, also for Altair 6
NAMES = {"pt": "PT", "it": "IT"}
KL = {"final_layer": "KL(final ‖ layer)", "layer_final": "KL(layer ‖ final)"}
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
WIDEST = 48  # letters of a line of a title
ROOT_TICKS = [0, 0.2, 1, 3, 6, 10, 15, 20, 30, 40, 60, 80, 100]


def spec_renderer(spec, **metadata):
    """Return a chart's specification under the one MIME type that both JupyterLab and the book draw, and its text."""
    return {VEGALITE: spec, "text/plain": chart_text.text(spec)}


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

    All three are NaN where fewer than two prompts are measured; a stored mean has no interval (see `stored`).
    """
    values = values.transpose("prompt", ...)
    enough = values.notnull().sum("prompt") > 1
    values = values if enough.all() or stored.is_stored(values) else values.where(enough)
    if stored.is_stored(values):
        bounds = stored.ends(values)
    elif enough.any():
        bounds = stats.bca_mean(values.values, **options)
    else:
        bounds = np.full((3, *values.shape[1:]), np.nan)
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
            "variant:N", scale=alt.Scale(domain=names, range=list(DASHES.values())), legend=legend
        ),
    }


def by_category(field, values, title=None, colours=CATEGORIES, shapes=SHAPES) -> dict:
    """Return the encodings that distinguish the values of a field, at most four, by colour and shape, with one legend."""
    names = list(values)
    # A phone has no room for long names in one line.
    columns = 1 if sum(map(len, names)) > 40 else alt.Undefined
    legend = alt.Legend(title=title, symbolOpacity=1, symbolSize=80, columns=columns)
    colour, shape = (alt.Scale(domain=names, range=list(found)[: len(names)]) for found in (colours, shapes))
    return {
        "color": alt.Color(f"{field}:N", scale=colour, legend=legend),
        "shape": alt.Shape(f"{field}:N", scale=shape, legend=legend),
    }


def of_mark(encodings, *left_out) -> dict:
    """Return encodings without the channels that a mark has no use for, such as the "shape" of a line."""
    return {channel: encoding for channel, encoding in encodings.items() if channel not in left_out}


def packed(rows: pd.DataFrame, fields) -> pd.DataFrame:
    """Return one row for each combination of the other columns, with each of `fields` as a list, in a tenth of the bytes."""
    others = [name for name in rows if name not in fields]
    return rows.groupby(others, sort=False, dropna=False)[list(fields)].agg(list).reset_index()


def panels(
    rows,
    title,
    *layers,
    description="",
    marks=(),
    y="shared",
    toggles=None,
    defaults=None,
    lists=(),
    size=PANEL,
) -> alt.Chart:
    """Return layered marks as small multiples, one panel for each value of `rows.panel`, in the order of the rows.

    description, marks: what is drawn against what, and what its marks mean, for the caption. y: whether the panels' y
    scales are "shared" or "independent". toggles, defaults: see `chosen`. lists: fields that hold lists, each entry of
    which is a row to draw (see `packed`). size: of each panel, if there are several.
    """
    order = list(dict.fromkeys(rows["panel"]))
    if len(order) == 1:
        chart = alt.layer(*layers, data=rows).properties(**SINGLE)
    else:
        facet = alt.Facet("panel:N", sort=order, title=None)
        chart = alt.layer(*layers).properties(**size).facet(facet=facet, data=rows, columns=3)
        chart = chart.resolve_scale(x="independent", y=y)
    said = caption(description, rows, marks, toggles or {})
    chart = chosen(chart.properties(title=in_lines(title), description=said), rows, toggles, defaults)
    return chart.transform_flatten(list(lists)) if lists else chart


def in_lines(title: str) -> str | list[str]:
    """Return a title as lines that a phone's screen has room for, or as it is if one line will do."""
    return title if len(title) <= WIDEST else textwrap.wrap(title, WIDEST)


def chosen(chart, rows, toggles=None, defaults=None) -> alt.Chart:
    """Return a chart of rows with a control for each of `toggles` that has more than one value in the rows.

    toggles: {field: label}, fields of which the reader chooses one value. defaults: {field: value}, those that are not the
    first of their rows.
    """
    for field, name in (toggles or {}).items():
        if rows[field].nunique() > 1:
            control = choice(rows, field, name, (defaults or {}).get(field))
            chart = chart.transform_filter(f"datum['{field}'] === shown_{field}").add_params(control)
    return chart


def choice(rows, field, name, first=None) -> alt.Parameter:
    """Return the control with which a reader chooses one value of a field: buttons for up to four values, else a list.

    first: the value shown at the beginning, by default that of the first row.
    """
    options = list(dict.fromkeys(rows[field]))
    bind = alt.binding_radio if len(options) < 5 else alt.binding_select
    value = options[0] if first is None else first
    return alt.param(f"shown_{field}", value=value, bind=bind(options=options, name=f"{name} "))


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
    """Return the marks of a curve with its interval: band, line, and points that carry the tooltips.

    colours: the encodings of the curves, by default those of PT and IT; the band has the colour, the line the dash, the
    points the shape.
    """
    colours = by_variant() if colours is None else colours
    low, mean = (alt.Y(f"{name}:Q", title=y, **y_options) for name in ("low", "mean"))
    points = alt.Chart().mark_point(size=28 if "shape" in colours else 16, filled=True, opacity=1)
    band, point = of_mark(colours, "strokeDash", "shape"), of_mark(colours, "strokeDash")
    return [
        alt.Chart().mark_area(opacity=0.2).encode(x=x, y=low, y2="high:Q", **band),
        alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=mean, **of_mark(colours, "shape")),
        points.encode(x=x, y=mean, tooltip=hint(*fields, unit=unit), **point),
    ]


def layer_profile(
    results,
    values,
    *,
    y,
    title,
    description="",
    unit="",
    resolve="shared",
    toggles=None,
    defaults=None,
    **y_options,
) -> alt.Chart:
    """Return a chart of `values(dataset)` over layers, PT and IT; values: [prompt, variant, layer, fields of `toggles`].

    description: what the values are, with their unit, for the caption.
    """
    rows = tidy(results, lambda dataset: banded(values(dataset)))
    curve = bands(layers_axis(), y, unit, **y_options)
    return panels(
        rows, title, onset_rule(), *curve, y=resolve, toggles=toggles, defaults=defaults, marks=(BANDS, ONSET),
        description=f"{description}, against the layer, for {VARIANTS}",
    )  # fmt: skip


def shift_profile(
    results, values, *, y, title, description, unit="", toggles=None, defaults=None
) -> alt.Chart:
    """Return a chart of the paired difference IT − PT of `values(dataset)` over layers, with a line at zero.

    description: what the values are, with their unit, for the caption.
    """
    rows = tidy(results, lambda dataset: banded(difference(values(dataset))))
    zero = alt.Chart().transform_filter("datum.layer === 0")
    zero = zero.mark_rule().encode(y=alt.datum(0, axis=alt.Axis(grid=True)))
    curve = bands(layers_axis(), y, unit, fields=("layer",), colours={"color": alt.value(INK)})
    return panels(
        rows, title, onset_rule(), zero, *curve, toggles=toggles, defaults=defaults, marks=(BANDS, ONSET),
        description=f"{description}, IT − PT, against the layer",
    )  # fmt: skip


def root_scale() -> dict:
    """Return the options of a square-root y axis; on a linear one, the first layers would flatten the late ones."""
    # A format would round to the digits that an even step needs, 40 to "4e+1".
    axis = alt.Axis(
        values=ROOT_TICKS,
        tickCount=len(ROOT_TICKS),
        labelOverlap="greedy",
        labelSeparation=-3,
        labelExpr="datum.value",
    )
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
    description = f"Loss on held-out text, nats per token, against training tokens, for {VARIANTS}"
    return panels(pd.DataFrame(rows), "Held-out loss in training", line, dots, description=description)


def difference(values: xr.DataArray) -> xr.DataArray:
    """Return IT − PT of values with a `variant` dimension."""
    return values.sel(variant="it", drop=True) - values.sel(variant="pt", drop=True)


def interval_row(values: xr.DataArray, **labels) -> dict:
    """Return the labels with the mean of values [prompt], its interval and the number of prompts."""
    kept = values.dropna("prompt")
    if stored.is_stored(kept):
        return (
            labels | dict(zip(("mean", "low", "high"), map(float, stored.ends(kept)))) | {"prompts": np.nan}
        )
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
    if stored.is_stored(values):
        found, counts = np.array([ends.ravel() for ends in stored.ends(values)]), np.nan
    elif (counts > 1).any():
        found[:, counts > 1] = stats.bca_mean(columns[:, counts > 1])
    labels = {name: values[name].values for name in values.dims[1:]}
    rows = pd.MultiIndex.from_product(labels.values(), names=labels).to_frame(index=False)
    return rows.assign(**dict(zip(("mean", "low", "high"), found)), prompts=counts)
