"""Dose–response figures: a score against the dose of a direction, with what random directions do and where text breaks down.

A figure has up to four parts, each a table of rows: the curve with its interval, the grey band of random directions, lines
for PT and IT as they are, and a shade over doses whose replies are too often incoherent. `parts` joins them, `dose_response`
draws them, one panel a pair.
"""

from collections.abc import Callable, Mapping

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.report.captions import BANDS
from nbhelpers.report.charts import DIGITS, NAMES, banded, bands, panels
from nbhelpers.report.text import percent
from nbhelpers.report.theme import DASHES, INK, IT, PT

CURVE, RANDOM, END, BROKEN = "curve", "random", "end", "incoherent"
Measure = Callable[[xr.Dataset], xr.DataArray]
BAND = "the grey band with dotted edges is the range of random directions of the same size"
ENDS_SAID = "horizontal lines are PT (blue, dashed) and IT (orange, thin) as they are"
SHADE = "shaded doses write more than {} incoherent replies"
IDENTITY = "the dotted line marks {:g}, which changes nothing"


def _tables(results, make: Callable[[xr.Dataset], xr.Dataset | xr.DataArray], part: str) -> pd.DataFrame:
    """Return the tables of `make(dataset)` as one, with each row's panel and part."""
    frames = [
        make(dataset).to_dataframe().reset_index().assign(panel=title, part=part)
        for title, dataset in results.items()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def curve_rows(results, values: Measure, **options) -> pd.DataFrame:
    """Return the mean over prompts and its interval of `values(dataset)`, (prompt, dose, …), one row per dose and panel."""
    return _tables(results, lambda dataset: banded(values(dataset), **options), CURVE)


def random_rows(results, values: Measure) -> pd.DataFrame:
    """Return the range of `values(dataset)`, (control, dose, …), over controls: smallest and largest."""

    def ends(dataset):
        each = values(dataset)
        return xr.Dataset({"low": each.min("control"), "high": each.max("control")})

    return _tables(results, ends, RANDOM)


def end_rows(results, values: Measure) -> pd.DataFrame:
    """Return `values(dataset)`, (variant, …), the scores of PT and IT as they are."""
    rows = _tables(results, lambda dataset: values(dataset).rename("mean"), END)
    return rows.assign(variant=rows["variant"].map(NAMES))


def broken_doses(share: xr.DataArray, limit: float) -> np.ndarray:
    """Return which doses write incoherent replies too often, bool [dose]: a share above the limit. share: (dose)."""
    return share.values > limit


def broken_rows(results, share: Measure, limit: float) -> pd.DataFrame:
    """Return the spans of doses whose share of incoherent replies is above the limit, `low` to `high`; share: (dose).

    A dose's span ends half-way to its neighbours.
    """
    rows = []
    for title, dataset in results.items():
        one = share(dataset).sortby("dose")
        doses = one["dose"].values.astype(float)
        middles = (doses[1:] + doses[:-1]) / 2
        spans = zip([doses[0], *middles], [*middles, doses[-1]])
        rows += [
            {"panel": title, "part": BROKEN, "low": low, "high": high}
            for broken, (low, high) in zip(broken_doses(one, limit), spans)
            if broken
        ]
    return pd.DataFrame(rows, columns=["panel", "part", "low", "high"])


def parts(*tables: pd.DataFrame) -> pd.DataFrame:
    """Return tables of rows as one, rounded; a shade, which has no choice of its own, is repeated for each choice."""
    rows = pd.concat([table for table in tables if len(table)], ignore_index=True)
    return rows.round({name: DIGITS for name in rows.select_dtypes("floating")})


def repeated(table: pd.DataFrame, field: str, values) -> pd.DataFrame:
    """Return a table once for each value of a field that the reader chooses."""
    return pd.concat([table.assign(**{field: value}) for value in values], ignore_index=True)


def dose_axis(title: str = "dose α") -> alt.X:
    """Return the x encoding of doses."""
    return alt.X(
        "dose:Q", title=title, scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickMinStep=0.5)
    )


def _of(part: str) -> alt.Chart:
    return alt.Chart().transform_filter(f"datum.part === '{part}'")


def _shade(title) -> alt.Chart:
    x = alt.X("low:Q", title=title)
    return _of(BROKEN).mark_rect(opacity=0.15, color=INK).encode(x=x, x2="high:Q")


def _random(x, y) -> list[alt.Chart]:
    """Return a pale band with edges, which the band of a curve does not hide."""
    band = _of(RANDOM).mark_area(opacity=0.15, color=INK).encode(x=x, y=alt.Y("low:Q", title=y), y2="high:Q")
    line = _of(RANDOM).mark_line(strokeWidth=1, strokeDash=[1, 2], color=INK)
    return [band, *(line.encode(x=x, y=alt.Y(f"{end}:Q", title=y)) for end in ("low", "high"))]


def _ends(y) -> list[alt.Chart]:
    """Return the lines of PT and IT, each with its own colour, which leaves the colours of the curves alone."""
    tips = [alt.Tooltip("variant:N", title="model"), alt.Tooltip("mean:Q", format=".3f")]
    line = alt.Chart().mark_rule
    return [
        line(strokeWidth=1.5 if key == "pt" else 0.75, color=colour, strokeDash=DASHES[key])
        .transform_filter(f"datum.part === '{END}' && datum.variant === '{NAMES[key]}'")
        .encode(y=alt.Y("mean:Q", title=y), tooltip=tips)
        for key, colour in (("pt", PT), ("it", IT))
    ]


def dose_response(
    rows: pd.DataFrame,
    *,
    y: str,
    title: str,
    description: str,
    unit: str = "",
    fields=(),
    colours: Mapping | None = None,
    toggles: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
    x: str = "dose α",
    identity: float = 1,
    limit: float = 0.2,
) -> alt.Chart:
    """Return small multiples of rows of `parts`, a score against the dose; what is in the rows is drawn, and said.

    y: title of the axis. fields: names that tell curves of a panel apart, with their encodings in `colours`; by default
    there is one curve, in IT's colour. identity: the dose that changes nothing. limit: the share of incoherent replies of
    the shade, for the caption.
    """
    axis, has = dose_axis(x), set(rows["part"])
    marks = [
        alt.Chart().mark_rule(strokeDash=[1, 3]).encode(x=alt.datum(identity, type="quantitative", title=x))
    ]
    said = [BANDS, IDENTITY.format(identity)]
    for part, drawn, words in (
        (BROKEN, [_shade(x)], SHADE.format(percent(limit))), (RANDOM, _random(axis, y), BAND), (END, _ends(y), ENDS_SAID),
    ):  # fmt: skip
        if part in has:
            marks += drawn
            said.append(words)
    looks = {"color": alt.value(IT)} if colours is None else colours
    curve = [mark.transform_filter(f"datum.part === '{CURVE}'") for mark in
             bands(axis, y, unit, fields=(*fields, "dose"), colours=looks)]  # fmt: skip
    return panels(
        rows, title, *marks, *curve, description=description, marks=said, toggles=toggles, defaults=defaults
    )
