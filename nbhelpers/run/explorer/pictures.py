"""The explorer's charts: a grid of what each layer would say at each token, and the curves over layers of one token.

Both draw rows as `rows` makes them, and take what is shown as parameters of Vega-Lite (`SHOWN`): lens, measure, the chosen
token and layer, and whose names stand in the legend. The book's page sets these by its own controls.
"""

import json

import altair as alt
import numpy as np
import xarray as xr

from nbhelpers.report.theme import CATEGORIES, FILL, INK, IT, PT

NAMES = {"pt": "PT", "it": "IT", "grafted": "grafted", "scaled": "scaled"}
COLOURS = dict(zip(NAMES.values(), (PT, IT, CATEGORIES[0], CATEGORIES[1])))
DASHES = dict(zip(NAMES.values(), ([4, 2], [1, 0], [6, 2], [2, 2])))
DIGITS = {"top1_probability": 3, "entropy": 2, "kl_final_layer": 3}
MARKS = {"\n": "↵", "\t": "⇥"}
# What is read of each layer, with its unit.
TITLES = {
    "top1_probability": ("probability of the top-1 token", "1"),
    "entropy": ("entropy of the layer's distribution", "nats"),
    "kl_final_layer": ("KL(final ‖ layer)", "nats"),
}
LISTS = ("token", "column", "top1", *TITLES)
SHOWN = {"lens": "raw", "measure": "kl_final_layer", "at_token": 0, "at_layer": 0, "whos": ["PT", "IT"]}
CELL, ROW = 37, 18  # px; 16 cells and their axis fit the book's column of 672 px
TEXT = CATEGORIES[3]  # reads on a filled cell, on light and dark pages
MOST_FILL = 0.55


def word(text: str) -> str:
    """Return a token as a cell shows it: without its space, line breaks as ↵."""
    for character, mark in MARKS.items():
        text = text.replace(character, mark)
    return text.strip() or "␣"


def compact(view: xr.Dataset) -> dict:
    """Return a view of `reading.explore` as a small tree of words and numbers, which `rows` and the book's page read.

    {"tokens": words, "whos": {name: {lens: {"top1": [layer][token], measure: [layer][token], …}}}}
    """
    whos = {}
    for who in map(str, view["who"].values):
        for lens in map(str, view["lens"].values):
            here = view.sel(who=who, lens=lens)
            found = {name: rounded(here[name].values, DIGITS[name]) for name in TITLES}
            found["top1"] = [[word(str(text)) for text in row] for row in here["top1_text"].values]
            whos.setdefault(NAMES[who], {})[lens] = found
    return {"tokens": [word(str(text)) for text in view["token_text"].values], "whos": whos}


def rows(tree: dict) -> list[dict]:
    """Return a view as `compact` makes it as rows for the charts, one for each arm, lens and layer; tokens are lists."""
    columns = [f"{i} {text}" for i, text in enumerate(tree["tokens"])]
    return [
        {"who": who, "lens": lens, "layer": layer, "token": list(range(len(columns))), "column": columns}
        | {name: values[name][layer] for name in LISTS[2:]}
        for who, lenses in tree["whos"].items()
        for lens, values in lenses.items()
        for layer in range(len(values["top1"]))
    ]


def rounded(values: np.ndarray, digits: int) -> list:
    """Return values as nested lists of numbers with so many digits after the point."""
    return np.round(values.astype(float), digits).tolist()


def parameters() -> list:
    """Return the parameters of a chart, with what is shown first."""
    return [alt.param(name, value=value) for name, value in SHOWN.items()]


def filled(spec: dict, data: list[dict], **shown) -> dict:
    """Return a chart's specification with its rows, and with the values of some of `SHOWN`."""
    params = [
        each | ({"value": shown[each["name"]]} if each["name"] in shown else {}) for each in spec["params"]
    ]
    return spec | {"datasets": {"cells": data}, "params": params}


def _title() -> alt.Title:
    """Return a chart's title, which names the measure that is shown."""
    names = [
        f"measure === '{name}' ? {json.dumps(title if unit == '1' else f'{title}, {unit}', ensure_ascii=False)} : "
        for name, (title, unit) in TITLES.items()
    ]
    return alt.Title(text=alt.ExprRef("".join(names) + "''"))


def _framed(layers, field: str, size: dict, columns: int, about: str) -> alt.Chart:
    """Return layers as a panel for each value of a field, with the measure as `value`."""
    facet = alt.Facet(f"{field}:N", title=None, sort=[*NAMES.values()])
    chart = (
        alt.layer(*layers).properties(**size).facet(facet=facet, data=alt.NamedData("cells"), columns=columns)
    )
    chart = chart.properties(datasets={"cells": []}, title=_title(), description=about).add_params(
        *parameters()
    )
    return chart.transform_flatten(list(LISTS)).transform_calculate(value="datum[measure]")


def grid(tokens: int) -> alt.Chart:
    """Return the grid: a panel for each arm, layers upwards, tokens to the right, the top-1 token in each cell.

    The fuller a cell, the larger the measure. It has no rows yet: see `filled`. tokens: of a reply, for the caption.
    """
    x = alt.X(
        "column:N",
        sort=None,
        title=None,
        axis=alt.Axis(labelAngle=-60, labelLimit=70, grid=False, domain=False),
    )
    y = alt.Y("layer:O", sort="descending", title="layer", axis=alt.Axis(grid=False, domain=False))
    chosen = "datum.token === at_token && datum.layer === at_layer"
    tips = [alt.Tooltip(f"{name}:N", title=title) for name, title in
            (("who", "model"), ("column", "token"), ("layer", "layer"), ("top1", "top-1 token"))]  # fmt: skip
    tips += [alt.Tooltip(f"{name}:Q", title=title) for name, (title, _) in TITLES.items()]
    fill = alt.Opacity(
        "value:Q",
        scale=alt.Scale(type="sqrt", range=[0.02, MOST_FILL], zero=True),
        legend=alt.Legend(title=None),
    )
    cell = alt.Chart().mark_rect(fill=FILL).encode(x=x, y=y, opacity=fill, tooltip=tips)
    ring = (
        alt.Chart()
        .transform_filter(chosen)
        .mark_rect(fillOpacity=0, stroke=INK, strokeWidth=2.5)
        .encode(x=x, y=y)
    )
    said = (
        alt.Chart()
        .mark_text(fontSize=9, limit=CELL - 3, color=TEXT)
        .encode(x=x, y=y, text="top1:N", tooltip=tips)
    )
    size = {"width": alt.Step(CELL), "height": alt.Step(ROW)}
    chart = _framed([cell, ring, said], "who", size, 1, GRID_ABOUT.format(tokens))
    return chart.transform_filter("datum.lens === lens").resolve_scale(x="shared")


GRID_ABOUT = (
    "What each layer of PT and IT would say (its top-1 token) at each of the first {} tokens of one reply, which stands "
    "whole below; a fuller cell has more of the measure above. The outlined cell is the chosen one."
)
CURVES_ABOUT = (
    "The measure above against the layer, at the chosen token, for PT (blue, dashed) and IT (orange, solid), a panel for "
    "each lens; the dotted line is the chosen layer."
)


def curves() -> alt.Chart:
    """Return the measure of one token against the layer, a panel for each lens, a line for each arm, without rows yet."""
    legend = alt.Legend(title=None, symbolType="stroke", symbolOpacity=1, values=alt.ExprRef("whos"))
    names = list(COLOURS)
    colour = alt.Color("who:N", scale=alt.Scale(domain=names, range=list(COLOURS.values())), legend=legend)
    dash = alt.StrokeDash("who:N", scale=alt.Scale(domain=names, range=list(DASHES.values())), legend=legend)
    x = alt.X("layer:Q", title="layer", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickMinStep=1))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=True))
    tips = [alt.Tooltip("who:N", title="model"), alt.Tooltip("layer:Q"), alt.Tooltip("top1:N", title="top-1 token"),
            alt.Tooltip("value:Q", format=".3f")]  # fmt: skip
    rule = alt.Chart().transform_filter("datum.layer === at_layer").mark_rule(strokeDash=[1, 3]).encode(x=x)
    line = alt.Chart().mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash)
    points = (
        alt.Chart().mark_point(size=24, filled=True, opacity=1).encode(x=x, y=y, color=colour, tooltip=tips)
    )
    chart = _framed([rule, line, points], "lens", {"width": 260, "height": 180}, 2, CURVES_ABOUT)
    return chart.transform_filter("datum.token === at_token")


def said(view: xr.Dataset, token: int, layer: int, lens: str) -> str:
    """Return in words what a cell holds: each arm's top-1 token, its probability, entropy and KL to its last layer."""
    here = view.sel(lens=lens, layer=layer, token=token)
    parts = [
        f"{NAMES[str(who)]} says “{word(str(cell['top1_text'].item()))}” (p {cell['top1_probability'].item():.2f}, entropy "
        f"{cell['entropy'].item():.2f} nats, KL to its last layer {cell['kl_final_layer'].item():.2f} nats)"
        for who in view["who"].values
        for cell in [here.sel(who=who)]
    ]
    return f"Layer {layer}, {lens} lens, where “{word(str(here['token_text'].item()))}” stands: {'; '.join(parts)}."
