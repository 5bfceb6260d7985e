"""Charts of what models write under grafts: levels and classes by condition, effects of windows, preferences, closure.

Every function takes one plain table, a pandas frame whose columns its docstring names, and draws it as it is: nothing is
estimated here. `panel` is a pair's title, in the book's order of pairs; `condition` a name that `condition_names` knows. A
host keeps its model's colour, whatever is grafted into it; windows differ in shape and shade, as on the pages of grafts.
"""

from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from nbhelpers.report.captions import BARS, ZERO, caption
from nbhelpers.report.charts import DIGITS, chosen, hint, in_lines, panels
from nbhelpers.report.condition_names import ordered, parts, short
from nbhelpers.report.forest import ROW, WIDTHS, forest, zero_line
from nbhelpers.report.graft_charts import CONTROLS, SIDES, WINDOWS, by_window
from nbhelpers.report.theme import CATEGORIES, INK, IT, NO_STEP, PANEL, PT, SINGLE

# What a judge says of two replies, in the order in which bars stack.
OUTCOMES = {
    "win": "the first one wins",
    "tie": "tie",
    "loss": "the other wins",
    "flip": "the order decides",
}
OUTCOME_COLOURS = (CATEGORIES[0], NO_STEP, CATEGORIES[1], CATEGORIES[2])
# What becomes of a request, in one colour on all charts. The rules make "complies" of "answers", and "incoherent" of "does
# not engage", so these share theirs.
CLASS_COLOURS = {
    "answers": CATEGORIES[0],
    "complies": CATEGORIES[0],
    "refuses": CATEGORIES[1],
    "over_hedges": CATEGORIES[2],
    "does_not_engage": CATEGORIES[3],
    "incoherent": CATEGORIES[3],
    "undecided": NO_STEP,
}
GRAFTED = {"PT +": "PT + late is PT with IT's late MLPs", "IT +": "IT + late is IT with PT's late MLPs"}
# How a control looks beside its graft: in grey, one open, one small.
CONTROL_LOOKS = {
    "permuted": {"filled": False, "size": 45},
    "scrambled": {"filled": True, "size": 18},
    "self": {"filled": True, "size": 6},
}
CONTROLS_SAID = {"permuted": "open", "scrambled": "small", "self": "smallest"}
PAIR_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "wedge")
SLOT = 9  # pixels of one dot of a row


def condition_bars(
    rows: pd.DataFrame,
    *,
    x: str,
    ends: tuple[float, float],
    title: str,
    description: str,
    toggles: Mapping[str, str] | None = None,
) -> alt.Chart:
    """Return the level of each condition with its interval, one panel a pair: the study's Figure 10, with intervals.

    rows: `panel`, `condition`, `mean`, `low`, `high`, and the fields of `toggles`, of which the reader chooses one value.
    ends: the least and the greatest value of the scale, (1, 5) of a judge's points, (0, 1) of a share; bars start at the
    least. x: title of the axis.
    """
    rows, order = _labelled(rows)
    place = {"y": _rows_axis("condition", order)}
    scale = alt.Scale(domain=list(ends), nice=False, zero=False)
    colour = alt.Color("host:N", scale=alt.Scale(domain=["PT", "IT"], range=[PT, IT]), legend=None)
    mean = alt.X("mean:Q", title=x, scale=scale, axis=_axis(ends))
    marks = [
        alt.Chart().mark_bar(size=11, opacity=0.4).encode(x=mean, x2=alt.datum(ends[0]), color=colour, **place),
        alt.Chart().mark_rule(strokeWidth=2, color=INK).encode(
            x=alt.X("low:Q", title=x), x2="high:Q", **place
        ),
        alt.Chart().mark_point(size=45, filled=True, opacity=1).encode(
            x=mean, color=colour, tooltip=hint("condition"), **place
        ),
    ]  # fmt: skip
    return panels(
        rows, title, *marks, description=description, marks=_said(BARS, rows), toggles=toggles,
        size=_size(len(order)),
    )  # fmt: skip


def class_shares(
    rows: pd.DataFrame,
    *,
    classes: Sequence[str],
    title: str,
    description: str,
    toggles: Mapping[str, str] | None = None,
) -> alt.Chart:
    """Return the shares of classes of replies as one stacked bar a condition, one panel a pair.

    rows: `panel`, `condition`, `class`, `share` (0 to 1), `replies` (how many were judged), and the fields of `toggles`.
    classes: their names in the order in which bars stack; ValueError for one that `CLASS_COLOURS` does not know.
    """
    if unknown := [name for name in classes if name not in CLASS_COLOURS]:
        raise ValueError(f"Classes have fixed colours, and {', '.join(unknown)} has none.")
    colours = [CLASS_COLOURS[name] for name in classes]
    rows, order = _labelled(rows)
    names = {name: name.replace("_", " ") for name in classes}
    rows = _ranked(rows, "class", names)
    bar = _stack(rows, "class", names, colours).encode(y=_rows_axis("condition", order))
    said = _said(f"bars stack {', '.join(names.values())} from left to right", rows)
    return panels(
        rows, title, bar, description=description, marks=said, toggles=toggles, size=_size(len(order))
    )


def preference_bars(
    rows: pd.DataFrame, *, title: str, description: str, toggles: Mapping[str, str] | None = None
) -> alt.Chart:
    """Return how often a judge prefers one condition's reply to another's: stacked bars, a row a pair, a column a comparison.

    rows: `panel`, `comparison` (a title, "PT + late or PT"; the condition named first is that which wins or loses),
    `outcome` (a key of `OUTCOMES`), `share` (0 to 1), `replies` (how many pairs of replies), and the fields of `toggles`.
    Of a single pair, the rows are the comparisons.
    """
    row, column = ("comparison", None) if rows["panel"].nunique() == 1 else ("panel", "comparison")
    rows = _ranked(rows, "outcome", OUTCOMES)
    bar = _stack(rows, "outcome", OUTCOMES, OUTCOME_COLOURS).encode(y=_rows_axis(row, _order(rows, row)))
    said = f"bars stack {', '.join(_shown(rows, 'outcome', OUTCOMES))} from left to right"
    chart = _grid([bar], rows, column, max(2, rows[row].nunique()) * ROW)
    return _finished(chart, rows, title, description, [said], toggles)


def window_shifts(
    rows: pd.DataFrame,
    *,
    x: str,
    title: str,
    description: str,
    toggles: Mapping[str, str] | None = None,
) -> alt.Chart:
    """Return the effect of each grafted window, with its interval and its controls beside: a panel a measure and side.

    rows: `panel`, `measure` (a short title, "S2"), `side` (sufficiency or necessity), `window` (early, mid, late),
    `control` (a key of `graft_charts.CONTROLS`; "graft" is the graft itself), `mean`, `low`, `high`, and the fields of
    `toggles`. Both sides of a measure share their x axis. Two measures make the study's symmetric panel, 2 × 2. Of a single
    pair, the rows are the windows.
    """
    rows = _cells(rows)
    rows["axis from"] = rows.groupby("measure")["low"].transform("min")
    rows["axis to"] = rows.groupby("measure")["high"].transform("max")
    found = [name for name in CONTROLS if (rows["control"] == name).any()]
    slots = [f"{window} {name}" for window in WINDOWS for name in found]
    rows = rows.assign(slot=rows["window"] + " " + rows["control"])
    row, offset, dots = (
        ("window", "control", found) if rows["panel"].nunique() == 1 else ("panel", "slot", slots)
    )
    order = list(WINDOWS) if row == "window" else _order(rows, row)
    place = {
        "y": _rows_axis(row, order),
        "yOffset": alt.YOffset(f"{offset}:N", sort=dots),
    }
    # Marks that nobody sees, at the ends of each measure, give both of its panels one scale.
    unseen = alt.Chart().mark_point(opacity=0, size=0)
    layers = [unseen.encode(x=alt.X(f"{end}:Q", title=x)) for end in ("axis from", "axis to")]
    layers.append(zero_line())
    for name in found:
        layers += _dots(name, x, place)
    chart = _grid(layers, rows, "cell", rows[row].nunique() * max(ROW, SLOT * len(dots) + 6), x="independent")
    said = [BARS, ZERO, *_controls_said(found)]
    return _finished(chart, rows, title, description, said, toggles)


def closure_forest(
    rows: pd.DataFrame, *, title: str, description: str, toggles: Mapping[str, str] | None = None
) -> alt.Chart:
    """Return how much of the distance from PT to IT a graft closes, with its interval, a row a pair, a column a measure.

    rows: `panel`, `measure` (a short title), `mean` (0 closes nothing, 1 all), `low`, `high`, `separated` (whether IT
    differs from PT at all: where not, nothing can be closed and nothing is drawn), and the fields of `toggles`. The caption
    names what is left out.
    """
    drawn = rows[rows["separated"].astype(bool)].drop(columns="separated")
    left = rows[~rows["separated"].astype(bool)]
    said = [BARS, ZERO]
    if len(left):
        each = dict.fromkeys(f"{row.panel} ({row.measure})" for row in left.itertuples())
        said.append(f"nothing is drawn where IT does not differ from PT: {', '.join(each)}")
    if drawn.empty:
        raise ValueError("There is no gap between PT and IT to close in any row of the table.")
    words = caption(description, rows, said, toggles or {}, each="row")
    chart = forest(
        drawn, x="share of the gap closed", title=title, description=words, column="measure", toggles=toggles
    )
    if drawn["panel"].nunique() > 1 and drawn["measure"].nunique() == 4:
        chart.columns = 2
    return chart


def internal_scatter(
    rows: pd.DataFrame,
    *,
    x: str,
    y: str,
    title: str,
    description: str,
    toggles: Mapping[str, str] | None = None,
) -> alt.Chart:
    """Return what a graft changes in the text against what it changes inside, one point a pair and window.

    rows: `panel`, `measure`, `side`, `window`, `internal` (the change inside, on the x axis), `mean`, `low`, `high` (the
    change of the text), and the fields of `toggles`. A panel is a measure and a side, with axes of its own; pairs differ in
    shape, windows in shade.
    """
    rows = _cells(rows.dropna(subset=["internal", "mean"]))
    across, up = alt.X("internal:Q", title=x), alt.Y("mean:Q", title=y)
    tips = [*hint("window"), alt.Tooltip("internal:Q", title="inside", format=".3f")]
    colour, shape = by_window()["color"], _pair_shapes(_order(rows, "panel"))
    layers = [
        zero_line(),
        alt.Chart().mark_rule(strokeDash=[4, 2], strokeWidth=1).encode(y=alt.datum(0)),
        alt.Chart().mark_rule(opacity=0.6).encode(
            x=across, y=alt.Y("low:Q", title=y), y2="high:Q", color=colour
        ),
        alt.Chart().mark_point(size=60, filled=True, opacity=1).encode(
            x=across, y=up, tooltip=tips, color=colour, shape=shape
        ),
    ]  # fmt: skip
    height = SINGLE["height"] if rows["cell"].nunique() == 1 else 170
    chart = _grid(layers, rows, "cell", height, x="independent", y="independent")
    said = [BARS, "dashed lines mark zero"]
    return _finished(chart, rows, title, description, said, toggles, each="shape")


def _order(rows: pd.DataFrame, field: str) -> list:
    """Return the values of a field in the order of the rows."""
    return list(dict.fromkeys(rows[field]))


def _shown(rows: pd.DataFrame, field: str, names: Mapping[str, str]) -> list[str]:
    """Return the titles of a field that the rows hold, in the order of `names`."""
    return [title for title in names.values() if (rows[field] == title).any()]


def _labelled(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return rows with the labels and hosts of their conditions, rounded, and the labels in the book's order."""
    order = [short(name) for name in ordered(rows["condition"])]
    host = rows["condition"].map(lambda name: parts(name)[0])
    rows = _rounded(rows.assign(condition=rows["condition"].map(short), host=host))
    return rows, order


def _rounded(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.round({name: DIGITS for name in rows.select_dtypes("floating")})


def _rows_axis(field: str, order: list) -> alt.Y:
    """Return the y encoding of the rows of a chart."""
    axis = alt.Axis(domain=False, ticks=False, labelLimit=170)
    return alt.Y(f"{field}:N", sort=order, title=None, axis=axis)


def _axis(ends: tuple[float, float]) -> alt.Axis:
    """Return the axis of a scale: per cent of a share, whole points of a judge's scale."""
    if ends == (0, 1):
        return alt.Axis(format="%", tickCount=4)
    return alt.Axis(values=list(range(round(ends[0]), round(ends[1]) + 1)), format="d")


def _size(n_rows: int) -> dict:
    """Return the size of a panel with a row a condition."""
    return {"width": PANEL["width"], "height": max(3, n_rows) * ROW}


def _said(first: str, rows: pd.DataFrame) -> list[str]:
    """Return clauses of a caption: the first, and what grafted conditions are called if there are any."""
    return [first, *(text for host, text in GRAFTED.items() if rows["condition"].str.startswith(host).any())]


def _ranked(rows: pd.DataFrame, field: str, names: Mapping[str, str]) -> pd.DataFrame:
    """Return rows, rounded, with the titles of a field and their rank in the order of `names`."""
    rank = {name: at for at, name in enumerate(names)}
    return _rounded(rows.assign(**{field: rows[field].map(names), "rank": rows[field].map(rank)}))


def _stack(rows: pd.DataFrame, field: str, names: Mapping[str, str], colours) -> alt.Chart:
    """Return stacked bars of `share` by a field of `_ranked` rows."""
    shown = _shown(rows, field, names)
    used = [colour for title, colour in zip(names.values(), colours) if title in shown]
    columns = 1 if sum(map(len, shown)) > 40 else alt.Undefined
    legend = alt.Legend(title=None, symbolType="square", symbolSize=120, columns=columns)
    x = alt.X("share:Q", title="share", stack="zero", scale=alt.Scale(domain=[0, 1]), axis=_axis((0, 1)))
    labels = [name for name in ("panel", "condition", "comparison", field) if name in rows]
    tips = [*(f"{name}:N" for name in labels), alt.Tooltip("share:Q", format=".0%"), "replies:Q"]
    return alt.Chart().mark_bar(size=13).encode(
        x=x, color=alt.Color(f"{field}:N", scale=alt.Scale(domain=shown, range=used), legend=legend),
        order=alt.Order("rank:O"), tooltip=tips,
    )  # fmt: skip


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows, measure by measure and side by side, with the title of their panel, "S2: IT's MLPs in PT"."""
    sides, measures = list(SIDES), _order(rows, "measure")
    rows = rows.assign(_measure=rows["measure"].map(measures.index), _side=rows["side"].map(sides.index))
    rows = rows.sort_values(["_measure", "_side"], kind="stable").drop(columns=["_measure", "_side"])
    rows = rows.assign(side=rows["side"].map(SIDES))
    return _rounded(rows.assign(cell=rows["measure"] + ": " + rows["side"]).reset_index(drop=True))


def _dots(control: str, x: str, place: dict) -> list[alt.Chart]:
    """Return the intervals and dots of one control, or of the graft itself, by window."""
    part = f"datum.control === '{control}'"
    looks, colours = by_window(), {}
    point = {"size": 50, "filled": True}
    if control == "graft":
        colours = {"color": looks["color"]}
    else:
        point = CONTROL_LOOKS.get(control, CONTROL_LOOKS["self"]) | {"color": INK}
    rule = alt.Chart().mark_rule(strokeWidth=2 if colours else 1, color=INK).transform_filter(part)
    dot = alt.Chart().mark_point(opacity=1, **point).transform_filter(part)
    return [
        rule.encode(x=alt.X("low:Q", title=x), x2="high:Q", **colours, **place),
        dot.encode(
            x=alt.X("mean:Q", title=x), shape=looks["shape"], tooltip=hint("window", "side"), **colours, **place
        ),
    ]  # fmt: skip


def _pair_shapes(pairs: list[str]) -> alt.Shape:
    """Return the shape encoding of pairs, up to six and a pool."""
    scale = alt.Scale(domain=pairs, range=[*PAIR_SHAPES][: len(pairs)])
    legend = alt.Legend(title=None, symbolSize=80, columns=1, symbolFillColor=INK, symbolStrokeColor=INK)
    return alt.Shape("panel:N", scale=scale, legend=legend)


def _controls_said(found: list[str]) -> list[str]:
    """Return the clauses of a caption on the grey dots, none without controls."""
    said = [f"{CONTROLS_SAID.get(name, 'smallest')}: {CONTROLS[name]}" for name in found if name != "graft"]
    return [f"grey dots are the graft's controls ({', '.join(said)})"] if said else []


def _grid(layers, rows: pd.DataFrame, column: str | None, height: int, x="shared", y="shared"):
    """Return layers as panels of a field's values, up to two side by side, or as one panel; x, y: how panels share scales."""
    if column is None or rows[column].nunique() == 1:
        return alt.layer(*layers, data=rows).properties(width=SINGLE["width"], height=height)
    facet = alt.Facet(f"{column}:N", sort=_order(rows, column), title=None)
    chart = alt.layer(*layers).properties(width=WIDTHS[2], height=height)
    chart = chart.facet(facet=facet, data=rows, columns=2)
    return chart.resolve_axis(x="independent").resolve_scale(x=x, y=y)


def _finished(chart, rows: pd.DataFrame, title: str, description: str, said: list[str], toggles, each="row"):
    """Return a chart with its title, its caption and the reader's choices."""
    words = caption(description, rows, said, toggles or {}, each=each)
    return chosen(chart.properties(title=in_lines(title), description=words), rows, toggles)
