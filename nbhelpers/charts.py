"""The study's figures as Vega-Lite charts: a panel a family, PT blue and dashed, IT orange and solid.

Every function takes results, a mapping from panel title to dataset in the order of the panels (or one
dataset), and returns an `alt.Chart`. Bands are 95 % BCa intervals of the mean over prompts. Importing
this module registers the theme and a renderer that shows a chart as its specification alone, the same
bytes on every run. The module knows nothing of where results are stored or which families there are.
"""

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers import params, stats

VEGALITE = "application/vnd.vegalite.v5+json"  # what JupyterLab 4 draws, Altair 6's specifications too
PT, IT, INK, GRID = "#2b7bba", "#d95f02", "#7a7a7a", "#8888883f"
NAMES = {"pt": "PT", "it": "IT"}
KL = {"final_layer": "KL(final ‖ layer)", "layer_final": "KL(layer ‖ final)"}
COMPONENTS = {"block": "whole block", "attention": "attention", "mlp": "MLP"}
PANEL, SINGLE = {"width": 190, "height": 140}, {"width": 420, "height": 240}
RULES = {
    "top1_first": "first top-1 match",
    "top1_strict": "top-1 match that stays",
    "top1_stable": "top-1 match over {} layers",
    "kl_first_": "first KL below {} nats",
    "kl_stays_": "KL stays below {} nats",
    "majority_below_": "KL below {} nats, as most later layers",
    "majority_": "most later layers below {} nats",
}
DIGITS = 4
ROOT_TICKS = [0, 0.2, 1, 3, 6, 10, 15, 20, 30, 40]
KL_TICKS = [0.05, 0.1, 0.2, 0.5, 1.0]


def spec_renderer(spec, **metadata):
    """Return a chart's specification under the one type that JupyterLab and the book draw."""
    title = spec.get("title", "untitled")
    return {VEGALITE: spec, "text/plain": f"<chart: {title['text'] if isinstance(title, dict) else title}>"}


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
    """Return results as panel title → dataset; a single dataset is titled by its model."""
    if isinstance(results, xr.Dataset):
        return {results.attrs.get("model", "model"): results}
    return dict(results)


def tidy(results, measure) -> pd.DataFrame:
    """Return the tables of `measure(dataset)` as one, with each row's panel and its onset layer."""
    frames = []
    for panel, dataset in panels_of(results).items():
        frame = measure(dataset).to_dataframe().reset_index()
        frames.append(frame.assign(panel=panel, onset=params.onset(dataset.sizes["layer"])))
    rows = pd.concat(frames, ignore_index=True)
    if "variant" in rows:
        rows["variant"] = rows["variant"].map(NAMES)
    # Fewer digits than the machine's keep the bytes the same on another one.
    return rows.round({name: DIGITS for name in rows.select_dtypes("floating")})


def banded(values: xr.DataArray, **options) -> xr.Dataset:
    """Return `mean`, `low` and `high` over prompts of values [prompt, …], entry by entry."""
    values = values.transpose("prompt", ...)
    bounds = stats.bca_mean(values.values, **options)
    coords = {name: values[name].values for name in values.dims[1:]}
    return xr.Dataset(
        {name: (values.dims[1:], bound) for name, bound in zip(("mean", "low", "high"), bounds, strict=True)},
        coords,
    )


def by_variant() -> dict:
    """Return the encodings that tell PT from IT, by colour and by dash, with one legend."""
    names, legend = ["PT", "IT"], alt.Legend(title=None, symbolType="stroke", symbolOpacity=1)
    return {
        "color": alt.Color("variant:N", scale=alt.Scale(domain=names, range=[PT, IT]), legend=legend),
        "strokeDash": alt.StrokeDash(
            "variant:N", scale=alt.Scale(domain=names, range=[[5, 3], [1, 0]]), legend=legend
        ),
    }


def packed(rows: pd.DataFrame, fields) -> pd.DataFrame:
    """Return rows with each of `fields` as a list, a row for each combination of the other columns: a tenth of the bytes."""
    others = [name for name in rows if name not in fields]
    return rows.groupby(others, sort=False, dropna=False)[list(fields)].agg(list).reset_index()


def panels(rows, title, *layers, y="shared", toggles=None, lists=(), size=PANEL) -> alt.Chart:
    """Return layered marks as small multiples, a panel for each value of `rows.panel`, in the rows' order.

    The panels' y scales are shared or independent. `toggles` are fields whose values the reader chooses from, field →
    what the choice is called; a field with one value gives no choice. `lists` are fields that hold lists, of which each
    entry is a row to draw (see `packed`). `size` is that of one of several panels.
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
    """Return the control with which a reader chooses one value of a field: buttons for a few, a list for many."""
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
    """Return tooltips of the named fields, then the mean and its interval."""
    shown = [
        alt.Tooltip("panel:N", title="model"),
        *(alt.Tooltip(f"{name}:N", title=name) for name in fields),
    ]
    numbers = {"mean": f"mean{unit and f', {unit}'}", "low": "95 % from", "high": "to"}
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
    """Return PT and IT curves over layers of `values(dataset)`, [prompt, variant, layer] and what is chosen from."""
    rows = tidy(results, lambda dataset: banded(values(dataset)))
    curve = bands(layers_axis(), y, unit, **y_options)
    return panels(rows, title, onset_rule(), *curve, y=resolve, toggles=toggles)


def shift_profile(results, values, *, y, title, unit="", toggles=None) -> alt.Chart:
    """Return the paired difference IT − PT over layers of `values(dataset)`, with a line at zero."""

    def measure(dataset):
        both = values(dataset)
        return banded(both.sel(variant="it", drop=True) - both.sel(variant="pt", drop=True))

    zero = alt.Chart().transform_filter("datum.layer === 0")
    zero = zero.mark_rule().encode(y=alt.datum(0, axis=alt.Axis(grid=True)))
    curve = bands(layers_axis(), y, unit, fields=("layer",), colours={"color": alt.value(IT)})
    return panels(tidy(results, measure), title, onset_rule(), zero, *curve, toggles=toggles)


def of_lens(values: xr.DataArray, lens: str | None) -> xr.DataArray:
    """Return the values of one lens, or of all, to choose from, where none is named."""
    return values.sel(lens=lens, drop=True) if lens else values


def kl_curves(results, direction="final_layer", lens=None) -> alt.Chart:
    """Return each layer's KL divergence from the model's own final distribution, its entropy written beside.

    `direction` is final_layer for KL(final ‖ layer) or layer_final for KL(layer ‖ final); nats, on a
    square-root scale. Where no lens is named the reader chooses one.
    """

    def measure(dataset):
        curve = banded(of_lens(dataset[f"kl_{direction}"], lens))
        entropy = of_lens(dataset["entropy"], lens).isel(layer=-1, drop=True).mean("prompt")
        return curve.assign(entropy=entropy)

    rows = tidy(results, measure)
    rows["entropy"] = [f"entropy {value:.2f}" for value in rows["entropy"]]
    notes = [entropy_note("PT", 4), entropy_note("IT", 17)]
    curve = bands(layers_axis(), f"{KL[direction]}, nats", "nats", **root_scale())
    name = f", {lens} lens" if lens else ""
    title = f"{KL[direction]} by layer{name} (√ scale)"
    return panels(rows, title, onset_rule(), *curve, *notes, toggles=None if lens else {"lens": "lens"})


def root_scale() -> dict:
    """Return the options of a square-root y axis: on a linear one the first layers would flatten the late ones."""
    axis = alt.Axis(values=ROOT_TICKS, tickCount=len(ROOT_TICKS), labelOverlap=False, format="~g")
    return {"scale": alt.Scale(type="sqrt"), "axis": axis}


def entropy_note(variant, height) -> alt.Chart:
    """Return one variant's final entropy, at the top right of each panel, where the curves have come down."""
    only = alt.Chart().transform_filter(f"datum.variant === '{variant}' && datum.layer === 0")
    text = only.mark_text(align="right", baseline="top", fontSize=10, color=PT if variant == "PT" else IT)
    return text.encode(x=alt.value("width"), y=alt.value(height), text="entropy:N")


def entropy_profile(results) -> alt.Chart:
    """Return the entropy of each layer's lens distribution, nats; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["entropy"], y="entropy, nats", unit="nats",
        title="Entropy of each layer's prediction", toggles={"lens": "lens"},
    )  # fmt: skip


def confidence_profile(results) -> alt.Chart:
    """Return the probability of each layer's own first token; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["top1_probability"], y="probability",
        title="Probability of each layer's first token", toggles={"lens": "lens"},
    )  # fmt: skip


def adjacent_profile(results) -> alt.Chart:
    """Return KL(previous layer ‖ layer), nats, on a square-root scale; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["kl_adjacent"], y="nats", unit="nats",
        title="KL(previous layer ‖ layer) (√ scale)", toggles={"lens": "lens"}, **root_scale(),
    )  # fmt: skip


def cosine_to_final(results) -> alt.Chart:
    """Return the cosine of the residual stream with that after the last layer."""
    return layer_profile(
        results, lambda dataset: dataset["cosine_to_final"], y="cosine", title="Cosine to the final residual"
    )


def delta_cosine(results, component="block") -> alt.Chart:
    """Return the cosine between each layer's update and the residual stream before it."""
    return layer_profile(
        results, lambda dataset: dataset["delta_cosine"].sel(component=component, drop=True),
        y="cosine(update, residual)", title=f"δ-cosine of the {COMPONENTS[component]} update",
    )  # fmt: skip


def delta_cosine_shift(results, component="block") -> alt.Chart:
    """Return the difference IT − PT of the δ-cosine by layer; below zero IT opposes the residual more."""
    return shift_profile(
        results, lambda dataset: dataset["delta_cosine"].sel(component=component, drop=True),
        y="IT − PT", title=f"δ-cosine of the {COMPONENTS[component]} update, IT − PT",
    )  # fmt: skip


def norms(results, variable="residual_norm", component="block") -> alt.Chart:
    """Return the norm by layer of the residual stream (`residual_norm`) or an update (`update_norm`)."""

    def values(dataset):
        norm = dataset[variable]
        return norm.sel(component=component, drop=True) if "component" in norm.dims else norm

    what = "residual stream" if variable == "residual_norm" else f"{COMPONENTS[component]} update"
    # Families differ in norm by orders of magnitude: only the shapes compare.
    return layer_profile(
        results, values, y="Euclidean norm", title=f"Norm of the {what}", resolve="independent"
    )


def shares(results, rule=None) -> pd.DataFrame:
    """Return the shares of steps that commit at and up to each layer, and their mean layer, by lens and rule."""

    def measure(dataset):
        count = dataset["commitment_count"]
        count = count.sel(rule=[rule]) if rule else count
        share = count / count.sum("layer")
        return xr.Dataset(
            {"share": share, "sum": share.cumsum("layer"), "centre": (share * count["layer"]).sum("layer")}
        )

    rows = tidy(results, measure)
    return rows.assign(rule=rows["rule"].map(rule_title))


def step_tips(share: str) -> list:
    """Return the tooltips of a share of steps at a layer."""
    return [
        alt.Tooltip("panel:N", title="model"),
        "variant:N",
        "layer:Q",
        alt.Tooltip(f"{share}:Q", format=".1%"),
    ]


def commitment_histograms(results, rule=None) -> alt.Chart:
    """Return the layers at which steps commit, as histograms with means; pooled over steps.

    The reader chooses the lens, and the rule where none is named.
    """
    colours, rows, lists = by_variant(), shares(results, rule), ("layer", "share")
    y = alt.Y("share:Q", stack=None, title="share of steps", axis=alt.Axis(format="%"))
    bars = alt.Chart().transform_calculate(left="datum.layer - 0.45", right="datum.layer + 0.45")
    tips = step_tips("share")
    bars = bars.mark_rect(opacity=0.45).encode(
        layers_axis("left"), y, x2="right:Q", y2=alt.datum(0), color=colours["color"], tooltip=tips
    )
    means = alt.Chart().mark_rule(strokeWidth=2).encode(x=alt.X("mean(centre):Q", title="layer"), **colours)
    title = f"Commitment: {rule_title(rule)}" if rule else "Layer of commitment"
    rows, toggles = packed(rows.drop(columns=["sum", "depth"]), lists), {"rule": "rule", "lens": "lens"}
    return panels(rows, title, bars, onset_rule(), means, toggles=toggles, lists=lists)


def commitment_cdf(results, rule=None) -> alt.Chart:
    """Return the share of steps that have committed by each depth, (layer + 1) / L; pooled over steps."""
    y = alt.Y("sum:Q", title="share committed", axis=alt.Axis(format="%"))
    x = alt.X("depth:Q", title="depth, (layer + 1) / L", scale=alt.Scale(domain=[0, 1], nice=False))
    marks = alt.Chart().mark_line(interpolate="step-after", strokeWidth=2).encode(x=x, y=y, **by_variant())
    dots = alt.Chart().mark_point(size=16, filled=True, opacity=1)
    dots = dots.encode(x=x, y=y, color=by_variant()["color"], tooltip=step_tips("sum"))
    title = f"Committed by each depth: {rule_title(rule)}" if rule else "Committed by each depth"
    rows, lists = shares(results, rule).drop(columns=["share", "centre", "onset"]), ("layer", "depth", "sum")
    toggles = {"rule": "rule", "lens": "lens"}
    return panels(packed(rows, lists), title, marks, dots, toggles=toggles, lists=lists)


def threshold_sensitivity(results, family="kl_stays") -> alt.Chart:
    """Return the mean commitment depth, layer / L, against the KL threshold τ of the rules `family`_τ, by lens."""

    def measure(dataset):
        rules = [rule for rule in dataset["rule"].values.tolist() if rule.startswith(f"{family}_")]
        depth = dataset["commitment"].sel(rule=rules) / dataset.sizes["layer"]
        thresholds = [float(rule.rsplit("_", 1)[1]) for rule in rules]
        return banded(depth.rename(rule="threshold").assign_coords(threshold=thresholds))

    x = alt.X(
        "threshold:Q",
        title="threshold τ, nats",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=KL_TICKS),
    )
    curve = bands(x, "commitment layer / L", fields=("variant", "threshold"))
    title = "Commitment depth against the KL threshold"
    return panels(tidy(results, measure), title, *curve, toggles={"lens": "lens"})


def intervals(table, *, x, title, label="family") -> alt.Chart:
    """Return dots with intervals for a table with the columns `label`, mean, low and high, in its order."""
    rows = table.round(DIGITS)
    y = alt.Y(
        f"{label}:N", sort=list(rows[label]), title=None, axis=alt.Axis(grid=True, domain=False, ticks=False)
    )
    tips = [
        alt.Tooltip(f"{label}:N"),
        *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("mean", "low", "high")),
    ]
    zero = alt.Chart(rows.head(1)).mark_rule(strokeDash=[4, 2]).encode(x=alt.datum(0))
    bar = (
        alt.Chart(rows).mark_rule(strokeWidth=2, color=IT).encode(x=alt.X("low:Q", title=x), x2="high:Q", y=y)
    )
    dot = alt.Chart(rows).mark_point(size=60, filled=True, opacity=1, color=IT)
    dot = dot.encode(x=alt.X("mean:Q", title=x), y=y, tooltip=tips)
    return alt.layer(zero, bar, dot).properties(width=460, height=alt.Step(24), title=title)


def training_loss(cards) -> alt.Chart:
    """Return held-out loss against training tokens for model cards with a title and `loss` pairs."""
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
