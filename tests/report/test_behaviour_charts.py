"""Charts of behaviour on tables of which every number is known."""

from itertools import combinations

import pandas as pd
import pytest

from nbhelpers.measures.behaviour import RATED
from nbhelpers.report import behaviour_charts as charts
from nbhelpers.report.graft_charts import WINDOWS
from nbhelpers.report.theme import IT, NO_STEP, PT
from tests import looks
from tests.report.test_theme import APART, VISION, distance, on
from tests.specs import chart_makers, controls, encodings, pairs_of, rows, spec_of

PAIRS = ["Pocket Bob", "Pocket Ann"]  # the order of the rows is that of the panels
CONDITIONS = ["A", "B_late", "C", "D_late", "B_late_permuted"]
CLASSES = ("answers", "refuses", "over_hedges", "does_not_engage", "undecided")
SAID = {"title": "T", "description": "Something that is counted"}
LOOKS = (looks.has_a_caption, looks.has_words, looks.fits_a_phone, looks.has_the_models_colours)


def ends(mean, half=0.1):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def levels(pairs=PAIRS):
    return pd.DataFrame(
        [
            {"panel": pair, "condition": name, "judge": judge, **ends(1.5 + at)}
            for pair in pairs
            for judge in ("rubric", "reference")
            for at, name in enumerate(CONDITIONS)
        ]
    )


def shares(pairs=PAIRS):
    parts = dict(zip(CLASSES, (0.5, 0.2, 0.1, 0.15, 0.05)))
    return pd.DataFrame(
        [
            {"panel": pair, "condition": name, "class": kind, "share": share, "replies": 40}
            for pair in pairs
            for name in ("A", "B_late", "C")
            for kind, share in parts.items()
        ]
    )


def preferences(pairs=PAIRS):
    parts = {"flip": 0.1, "loss": 0.2, "tie": 0.3, "win": 0.4}
    return pd.DataFrame(
        [
            {"panel": pair, "comparison": title, "outcome": name, "share": share, "replies": 30}
            for pair in pairs
            for title in ("PT + late or PT", "IT or IT + late")
            for name, share in parts.items()
        ]
    )


def effects(pairs=PAIRS, kinds=("graft", "permuted", "scrambled")):
    return pd.DataFrame(
        [
            {"panel": pair, "measure": name, "side": side, "window": window, "control": kind}
            | ends(size * (at + 1) * (1 if kind == "graft" else 0.1))
            for pair in pairs
            for side in ("necessity", "sufficiency")
            for name, size in (("S2", 0.1), ("G2", 1.0))
            for at, window in enumerate(WINDOWS)
            for kind in kinds
        ]
    )


def closures(pairs=PAIRS, separated=True):
    return pd.DataFrame(
        [
            {"panel": pair, "measure": name, "separated": separated or name == "G2", **ends(0.4)}
            for pair in pairs
            for name in ("S2", "G2")
        ]
    )


def inside(pairs=PAIRS):
    return effects(pairs, ("graft",)).drop(columns="control").assign(internal=range(12 * len(pairs)))


FIGURES = {
    "condition_bars": lambda pairs: charts.condition_bars(
        levels(pairs), x="points", ends=(1, 5), toggles={"judge": "judge"}, **SAID
    ),
    "class_shares": lambda pairs: charts.class_shares(shares(pairs), classes=CLASSES, **SAID),
    "preference_bars": lambda pairs: charts.preference_bars(preferences(pairs), **SAID),
    "window_shifts": lambda pairs: charts.window_shifts(effects(pairs), x="effect", **SAID),
    "closure_forest": lambda pairs: charts.closure_forest(closures(pairs), **SAID),
    "internal_scatter": lambda pairs: charts.internal_scatter(inside(pairs), x="nats", y="points", **SAID),
}  # fmt: skip


@pytest.fixture(params=[(name, n) for name in FIGURES for n in (1, 2)], ids=lambda p: f"{p[0]}-{p[1]}")
def spec(request):
    """Return the specification of a figure of one or two pairs."""
    name, n = request.param
    return spec_of(FIGURES[name](PAIRS[:n]))


def test_every_figure_is_here():
    assert chart_makers(charts) == set(FIGURES)


@pytest.mark.parametrize("look", LOOKS)
def test_every_figure_looks_as_the_book_does(spec, look):
    look(spec)


def sorted_axis(spec, channel="y"):
    """Return field and order of the first encoding of a channel that has an order."""
    return next(
        (e[channel]["field"], e[channel]["sort"]) for e in encodings(spec) if "sort" in e.get(channel, {})
    )


# What is drawn


def test_levels_stand_by_condition_in_the_colour_of_their_host():
    spec = spec_of(FIGURES["condition_bars"](PAIRS))
    assert pairs_of(spec) == PAIRS and controls(spec) == {"judge": ["rubric", "reference"]}
    order = ["PT", "PT + late", "PT + late, shuffled", "IT", "IT + late"]
    assert sorted_axis(spec) == ("condition", order)
    table = rows(spec)
    assert dict(zip(table["condition"], table["host"])) == dict(zip(order, ["PT"] * 3 + ["IT"] * 2))
    means = table.groupby("condition")["mean"].first()
    assert means[order].tolist() == [1.5, 2.5, 5.5, 3.5, 4.5]
    colours = [e["color"]["scale"] for e in encodings(spec) if "scale" in e.get("color", {})]
    assert all(c == {"domain": ["PT", "IT"], "range": [PT, IT]} for c in colours) and len(colours) == 2
    assert all(e["x2"] == {"datum": 1} for e in encodings(spec) if "datum" in e.get("x2", {}))
    assert table["mean"].tolist() == levels()["mean"].tolist()


def test_ends_of_a_share_are_per_cent():
    chart = charts.condition_bars(levels(), x="share", ends=(0, 1), **SAID)
    axes = [e["x"]["axis"] for e in encodings(spec_of(chart)) if "axis" in e["x"]]
    assert axes and all(axis["format"] == "%" for axis in axes)


def test_classes_stack_in_their_order_and_are_words():
    spec = spec_of(FIGURES["class_shares"](PAIRS))
    (scale,) = [e["color"]["scale"] for e in encodings(spec)]
    words = [name.replace("_", " ") for name in CLASSES]
    assert scale["domain"] == words and len(set(scale["range"])) == 5
    table = rows(spec)
    assert table.groupby(["panel", "condition"])["share"].sum().tolist() == pytest.approx([1] * 6)
    assert table.drop_duplicates("class").sort_values("rank")["class"].tolist() == words
    assert "answers, refuses, over hedges, does not engage, undecided from left" in spec["description"]
    some = shares()[lambda t: t["class"] != "refuses"]
    spec = spec_of(charts.class_shares(some, classes=CLASSES, **SAID))
    (scale,) = [e["color"]["scale"] for e in encodings(spec)]
    assert "refuses" not in scale["domain"] and len(scale["domain"]) == len(scale["range"]) == 4


def colours_of(classes):
    """Return {class in words: colour} of a chart of these classes."""
    rows = shares().assign(**{"class": lambda t: t["class"].map(dict(zip(CLASSES, classes)))}).dropna()
    (scale,) = [
        e["color"]["scale"] for e in encodings(spec_of(charts.class_shares(rows, classes=classes, **SAID)))
    ]
    return dict(zip(scale["domain"], scale["range"]))


def test_a_class_has_one_colour_on_all_charts_and_undecided_is_grey():
    harmless, harmful = colours_of(RATED["s2"]), colours_of(RATED["s1"])
    assert harmless["undecided"] == harmful["undecided"] == NO_STEP
    assert harmless["refuses"] == harmful["refuses"]
    assert harmless["answers"] == harmful["complies"] and harmless["does not engage"] == harmful["incoherent"]
    assert len(set(harmless.values())) == 5 and len(set(harmful.values())) == 4


def test_a_class_without_a_colour_of_its_own_is_refused():
    with pytest.raises(ValueError, match="other has none"):
        charts.class_shares(shares(), classes=[*CLASSES, "other"], **SAID)


def test_preferences_stack_from_winning_to_what_the_order_decides():
    spec = spec_of(FIGURES["preference_bars"](PAIRS))
    assert spec["facet"]["field"] == "comparison" and sorted_axis(spec) == ("panel", PAIRS)
    table = rows(spec).drop_duplicates("outcome").sort_values("rank")
    assert table["outcome"].tolist() == list(charts.OUTCOMES.values())
    assert table["share"].tolist() == [0.4, 0.3, 0.2, 0.1]
    one = spec_of(FIGURES["preference_bars"](PAIRS[:1]))
    assert "facet" not in one and sorted_axis(one)[0] == "comparison"


def test_windows_make_a_symmetric_panel_with_one_scale_a_measure():
    spec = spec_of(FIGURES["window_shifts"](PAIRS))
    assert spec["facet"]["sort"] == [
        "S2: IT's MLPs in PT",
        "S2: PT's MLPs in IT",
        "G2: IT's MLPs in PT",
        "G2: PT's MLPs in IT",
    ]
    table = rows(spec)
    scales = table.groupby("measure")[["axis from", "axis to"]].agg(["nunique", "first"])
    assert (scales.xs("nunique", axis=1, level=1) == 1).all(axis=None)
    assert scales.loc["G2", ("axis to", "first")] == pytest.approx(3.1)
    assert scales.loc["S2", ("axis to", "first")] == pytest.approx(0.4)
    _, slots = sorted_axis(spec, "yOffset")
    assert slots[:3] == ["early graft", "early permuted", "early scrambled"] and len(slots) == 9
    assert "layers shuffled" in spec["description"] and "scrambled" in spec["description"]


def test_the_windows_of_a_single_pair_are_rows_and_without_controls_none_are_spoken_of():
    chart = charts.window_shifts(effects(PAIRS[:1], ("graft",)), x="effect", **SAID)
    spec = spec_of(chart)
    assert sorted_axis(spec) == ("window", list(WINDOWS)) and "grey" not in spec["description"]


def test_closure_is_drawn_only_where_there_is_a_gap():
    spec = spec_of(charts.closure_forest(closures(separated=False), **SAID))
    assert set(rows(spec)["measure"]) == {"G2"}
    assert "IT does not differ from PT: Pocket Bob (S2), Pocket Ann (S2)" in spec["description"]
    assert "does not differ" not in spec_of(FIGURES["closure_forest"](PAIRS))["description"]
    with pytest.raises(ValueError, match="no gap between PT and IT"):
        charts.closure_forest(closures().assign(separated=False), **SAID)


def test_a_point_of_the_scatter_is_a_pair_and_a_window():
    table = inside()
    table.loc[0, "internal"] = float("nan")
    spec = spec_of(charts.internal_scatter(table, x="nats", y="points", **SAID))
    shown = rows(spec)
    assert len(shown) == len(table) - 1 and shown["internal"].notna().all()
    expected = table.set_index(["panel", "measure", "side", "window"])["internal"]
    for row in shown.itertuples():
        side = {"IT's MLPs in PT": "sufficiency", "PT's MLPs in IT": "necessity"}[row.side]
        assert expected[row.panel, row.measure, side, row.window] == row.internal
    shapes = next(e["shape"]["scale"] for e in encodings(spec) if "shape" in e)
    assert shapes["domain"] == PAIRS and len(set(shapes["range"])) == 2


@pytest.mark.parametrize("page", ["light", "dark"])
@pytest.mark.parametrize("colours", [tuple(set(charts.CLASS_COLOURS.values())), charts.OUTCOME_COLOURS])
def test_colours_that_touch_in_a_bar_are_told_apart(colours, page):
    for one, other in combinations(colours, 2):
        for vision in VISION:
            assert distance(on(page, one), on(page, other), vision) >= APART, (one, other, vision)


def test_tables_are_left_as_they_were():
    for table, draw in (
        (levels(), lambda t: charts.condition_bars(t, x="points", ends=(1, 5), **SAID)),
        (shares(), lambda t: charts.class_shares(t, classes=CLASSES, **SAID)),
        (effects(), lambda t: charts.window_shifts(t, x="effect", **SAID)),
    ):
        before = table.copy()
        draw(table)
        pd.testing.assert_frame_equal(table, before)
