"""Forest plots: a row per pair, a dot with its interval, one x axis for all, and a line at zero.

For differences IT − PT and other quantities with intervals. They are drawn in ink, which is neither PT's nor IT's colour,
unless a field inside a row has colours of its own.
"""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from nbhelpers.report.charts import (
    DIGITS,
    INK,
    SHAPES,
    SINGLE,
    chosen,
    in_lines,
    interval_row,
    of_mark,
)
from nbhelpers.report.families import POOL, is_dense, mean_of
from nbhelpers.report.quantities import Source, kept, named

WIDTHS = {1: SINGLE["width"], 2: 290, 3: 155}  # of a panel, by the number of columns; row labels stand beside
ROW, DOT = 20, 11  # pixels of a row, and of each of several dots in one row


def forest_rows(results, source: Source, names: Mapping[str, Mapping], pool: bool = True) -> pd.DataFrame:
    """Return a table of mean and interval of quantities by prompt: one row per pair and name, columns `panel`, labels of
    `names`, `mean`, `low`, `high`, `prompts`.

    names: {quantity: {column: label}}. pool: with several dense pairs, their mean, prompt by prompt, is a last row. What
    a pair lacks is left out.
    """
    rows = []
    for name, labels in names.items():
        found = {t: named(source, name)(d) for t, d in results.items() if name in kept(source, d)}
        dense = [values for title, values in found.items() if is_dense(results[title])]
        if pool and len(dense) > 1:
            found[POOL] = mean_of(dense)
        rows += [interval_row(values, panel=title, **labels) for title, values in found.items()]
    return pd.DataFrame(rows)


def forest(
    rows: pd.DataFrame,
    *,
    x: str,
    title: str,
    description: str,
    by: str | None = None,
    column: str | None = None,
    toggles: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
    encodings: Mapping[str, alt.SchemaBase] | None = None,
) -> alt.Chart:
    """Return a forest plot of `mean`, `low` and `high` of rows, a row for each value of `panel`, in the order of the rows.

    x: title of the shared axis, with its unit. description: one sentence for the caption. by: a field with up to four
    values, told apart inside a row by `encodings`, by default by shape in ink. column: a field whose values stand side by
    side, on the same axis. toggles, defaults: see `charts.chosen`. Of a single pair, the rows are the values of `column`, or
    else of `by`. Rows without a mean are left out.
    """
    rows = rows.dropna(subset=["mean"]).round(DIGITS)
    row = "panel"
    if rows["panel"].nunique() == 1 and (column or by):
        row, by, column = (column, by, None) if column else (by, by if encodings else None, None)
    dots = rows[by].nunique() if by else 1
    height = max(1, rows[row].nunique()) * max(ROW, DOT * dots + 4)
    layers = [zero_line(), *_marks(row, by, rows, x, encodings)]
    if column:
        facet = alt.Facet(f"{column}:N", sort=_order(rows, column), title=None)
        columns = max(1, min(3, rows[column].nunique()))
        chart = alt.layer(*layers).properties(width=WIDTHS[columns], height=height)
        chart = chart.facet(facet=facet, data=rows, columns=columns).resolve_axis(x="independent")
    else:
        chart = alt.layer(*layers, data=rows).properties(width=SINGLE["width"], height=height)
    chart = chart.properties(title=in_lines(title), description=description)
    return chosen(chart, rows, toggles, defaults)


def zero_line() -> alt.Chart:
    """Return a dashed vertical line at zero."""
    return alt.Chart().mark_rule(strokeDash=[4, 2], strokeWidth=1).encode(x=alt.datum(0))


def _order(rows: pd.DataFrame, field: str) -> list:
    """Return the values of a field in the order of its categories, if it has them, or else of the rows."""
    if isinstance(rows[field].dtype, pd.CategoricalDtype):
        return [value for value in rows[field].cat.categories if (rows[field] == value).any()]
    return list(dict.fromkeys(rows[field]))


def _marks(row: str, by: str | None, rows: pd.DataFrame, x: str, encodings) -> list[alt.Chart]:
    """Return the intervals and the dots of a forest plot; the dots carry the tooltips."""
    axis = alt.Axis(grid=True, domain=False, ticks=False, labelLimit=170)
    place = {"y": alt.Y(f"{row}:N", sort=_order(rows, row), title=None, axis=axis)}
    marks = {}
    if by:
        marks = encodings or _shapes(by, _order(rows, by))
        order = next(iter(marks.values())).to_dict()["scale"]["domain"]
        if by == row:  # its labels say what a legend would
            marks = {channel: _without_legend(mark) for channel, mark in marks.items()}
        else:
            place["yOffset"] = alt.YOffset(f"{by}:N", sort=order)
    bar = alt.Chart().mark_rule(strokeWidth=2, color=INK)
    dot = alt.Chart().mark_point(size=50, filled=True, opacity=1, color=INK)
    return [
        bar.encode(x=alt.X("low:Q", title=x), x2="high:Q", **place, **of_mark(marks, "shape")),
        dot.encode(x=alt.X("mean:Q", title=x), tooltip=_tips(rows), **place, **of_mark(marks, "strokeDash")),
    ]


def _without_legend(mark: alt.SchemaBase) -> alt.SchemaBase:
    """Return an encoding that draws no legend."""
    bare = mark.copy(deep=False)
    bare.legend = None
    return bare


def _shapes(by: str, order: list) -> dict:
    """Return the encoding of a field by shape, in ink."""
    scale = alt.Scale(domain=order, range=list(SHAPES[: len(order)]))
    legend = alt.Legend(title=None, symbolFillColor=INK, symbolStrokeColor=INK, symbolSize=80)
    return {"shape": alt.Shape(f"{by}:N", scale=scale, legend=legend)}


def _tips(rows: pd.DataFrame) -> list[alt.Tooltip]:
    """Return the tooltips of a row: its pair, its labels, mean, interval and number of prompts."""
    ends = {"mean": "mean", "low": "interval from", "high": "to"}
    labels = [name for name in rows if name not in ("panel", "prompts", *ends)]
    tips = [alt.Tooltip("panel:N", title="pair")]
    tips += [alt.Tooltip(f"{name}:N", title=name.replace("_", " ")) for name in labels]
    tips += [alt.Tooltip(f"{name}:Q", title=shown, format=".3f") for name, shown in ends.items()]
    return tips + ([alt.Tooltip("prompts:Q")] if "prompts" in rows else [])
