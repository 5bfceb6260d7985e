"""Sentences on the side and size of a difference, on quantities whose values are known."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.report import directions, verdicts
from nbhelpers.report.directions import COUNTS, LEAST, NAMES
from nbhelpers.report.quantities import Quantities, levels, shifts

WORDS = ("longer", "shorter")


def pairs(*values, names=("Ann", "Bob", "Cid", "Dot", "Eve", "Fay")):
    """Results of pairs whose quantity `x` has the given mean over prompts, sharply known; None: it is about zero."""
    noise = np.linspace(-0.1, 0.1, 21)
    spread = np.where(np.arange(21) % 2, 1.0, -1.0)
    arrays = [spread if value is None else value + noise for value in values]
    return {
        f"Own {name}": xr.Dataset({"x": ("prompt", array)}, attrs={"profile": "none known"})
        for name, array in zip(names, arrays)
    }


def source(dataset) -> Quantities:
    """The quantities of a made-up pair; one without a value has none."""
    return shifts({"x": dataset["x"]}, "nats") if float(dataset["x"].mean()) > -90 else {}


def claim(results, **options):
    """The sentence on the made-up quantity."""
    return directions.claim(
        results, source, "x", "Texts are {size} {word}", "Which are longer is undecided", WORDS, **options
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((1, 2, 3), "Texts are 1.00–3.00 longer in all three pairs"),
        ((-1, -2, -3), "Texts are 1.00–3.00 shorter in all three pairs"),
        ((1, 2), "Texts are 1.00–2.00 longer in both pairs"),
        ((1, 2, -3), "Texts are 1.00–2.00 longer in two of three pairs (shorter in Cid)"),
        ((-1, 2, -3), "Texts are 1.00–3.00 shorter in two of three pairs (longer in Bob)"),
        ((1, None, 2), "Texts are 1.00–2.00 longer in two of three pairs (undecided in Bob)"),
        ((1, None, None), "Texts are 1.00 longer in one of three pairs (Ann), undecided in the others"),
        ((1, -1, None), "Texts are 1.00 longer in one of three pairs (shorter in Bob; undecided in Cid)"),
        ((1, -1, None, None, 2, -99), "Texts are 1.00–2.00 longer in two of six pairs (shorter in Bob; undecided in Cid and "
                                      "Dot; not measured in Fay)"),
        ((None, None), "Which are longer is undecided in both pairs"),
        ((None, None, None), "Which are longer is undecided in all three pairs"),
        ((1,), "Texts are 1.00 longer"),
        ((-1,), "Texts are 1.00 shorter"),
        ((None,), "Which are longer is undecided"),
    ],
)  # fmt: skip
def test_a_claim_names_the_side_the_size_and_the_others(values, text):
    assert claim(pairs(*values)) == text


def test_a_claim_says_less_of_the_others_where_asked():
    results = pairs(1, 2, -3, None)
    assert (
        claim(results, detail=NAMES, again=True)
        == "Texts are 1.00–2.00 longer in two of four (shorter in Cid; undecided in Dot)"
    )
    assert (
        claim(results, detail=COUNTS, again=True)
        == "Texts are 1.00–2.00 longer in two, shorter in one, undecided in one"
    )
    assert claim(results, detail=LEAST) == "Texts are 1.00–2.00 longer in two of four pairs"
    assert claim(results, detail=LEAST, again=True) == "Texts are 1.00–2.00 longer in two"


def test_signs_of_a_claim_hold_jointly_over_the_pairs():
    """An interval that clears zero alone includes it at the confidence that six pairs need."""
    values = np.array([-1, 0, 1, 1, 2, 3, -2, 4, 1, 0.5, 1, -1.5]) + 0.2
    confidence = {n: 1 - 0.05 / n for n in (1, 6)}
    low = {n: stats.bca_mean(values, confidence=level)[1] for n, level in confidence.items()}
    assert low[6] < 0 < low[1]
    one = {"Own Ann": xr.Dataset({"x": ("prompt", values)})}
    six = {f"Own {name}": xr.Dataset({"x": ("prompt", values)}) for name in "ABCDEF"}
    assert directions.sides(one, source, "x")[verdicts.UP] == ["Own Ann"]
    assert directions.sides(six, source, "x")[verdicts.OPEN] == list(six)


@pytest.mark.parametrize(
    ("values", "answer", "word"),
    [
        ((1, 2, 3), "yes", "up"), ((1, 2, -3), "mostly", "up"), ((1, -2), "in part", "either"),
        ((1, None, None), "hardly", "either"), ((-1, -2, 3), "hardly", "down"), ((-1, None), "no", "either"),
        ((-1, -1), "no", "down"), ((None, None), "undecided", "either"),
    ],
)  # fmt: skip
def test_answers_follow_the_share_of_the_pairs(values, answer, word):
    results = pairs(*values)
    assert directions.yes_or_no(results, source, "x") == answer
    assert directions.most(results, source, "x", "up", "down", "either") == word


def test_pairs_on_the_larger_side_or_all():
    assert list(directions.on_side(pairs(1, -2, -3), source, "x")) == ["Own Bob", "Own Cid"]
    assert list(directions.on_side(pairs(None, None), source, "x")) == ["Own Ann", "Own Bob"]


@pytest.mark.parametrize(
    ("values", "shown", "text"),
    [
        ((0.104, 0.182), None, "0.10–0.18"), ((0.101, 0.104), None, "0.10"), ((float("nan"), 0.5), None, "0.50"),
        ((float("nan"),), None, "–"), ((0.5, 0.75), lambda x: f"{100 * x:.0f} %", "50–75 %"),
        ((0.5,), lambda x: f"{100 * x:.0f} %", "50 %"),
    ],
)  # fmt: skip
def test_ranges(values, shown, text):
    assert directions.ranged(values, *([shown] if shown else [])) == text


def test_a_verdict_keeps_the_most_detail_that_fits():
    lengths = {NAMES: 61, COUNTS: 60, LEAST: 10}

    def make(detail):
        return verdicts.Verdict("Yes", " ".join(["word"] * (lengths[detail] - 1)) + ".")

    assert directions.fitting(make).words == 60
    lengths[NAMES] = 60
    assert directions.fitting(make) == make(NAMES)
    lengths.update({NAMES: 70, COUNTS: 65})
    assert directions.fitting(make).words == 10


def test_what_was_not_measured_stands_after_the_caveat_or_for_it():
    assert directions.caveat("A caveat.", " Not measured: x.", NAMES) == "A caveat. Not measured: x."
    assert directions.caveat("A caveat.", " Not measured: x.", LEAST) == "Not measured: x."
    assert directions.caveat("A caveat.", "", LEAST) == "A caveat."


def test_a_matrix_says_which_columns_have_no_interval():
    def mixed(dataset):
        return shifts({"x": dataset["x"]}, "nats") | levels(
            {"point": 0.5, "end": stats.Interval(1, 0, 2)}, "1"
        )

    found = verdicts.matrix(pairs(1, 2), mixed, {"over prompts": "x", "by value": "point", "stored": "end"})
    assert found.note.endswith(
        "zero. Without an interval, marked by the value alone: by value."
    ) or found.note.endswith("narrower. Without an interval, marked by the value alone: by value.")
    assert "Without" not in verdicts.matrix(pairs(1, 2), mixed, {"over prompts": "x"}).note


@pytest.mark.parametrize(
    ("values", "answer", "opposite"),
    [
        ((1, 2), "yes", "no"), ((-1, -2, -3), "no", "yes"), ((None, None), "undecided", "undecided"),
        ((1, None, None), "hardly", "no"), ((1, 1, -1), "mostly", "hardly"), ((1, -1), "in part", "in part"),
        ((-99, -99), "undecided", "undecided"), ((-99, 1), "in part", "no"),
    ],
)  # fmt: skip
def test_the_answer_for_either_side(values, answer, opposite):
    found = directions.sides(pairs(*values), source, "x")
    assert directions.answer(found) == answer and directions.answer(found, verdicts.DOWN) == opposite


@pytest.mark.parametrize(
    ("count", "of", "said", "counted", "least"),
    [
        (0, 6, "in none", "in none", "in none"), (1, 6, "in Ann", "in Ann", "in Ann"), (2, 6, *["in Ann and Bob"] * 3),
        (4, 6, "in four of six (not in Eve or Fay)", "in four of six", "in four"), (6, 6, *["in all six"] * 3),
        (2, 2, *["in both"] * 3), (1, 2, *["in Ann"] * 3), (1, 1, "", "", ""), (0, 1, "", "", ""),
    ],
)  # fmt: skip
def test_among_which_pairs(count, of, said, counted, least):
    results = pairs(*[1] * of)
    titles = list(results)[:count]
    assert [directions.among(titles, results, detail) for detail in (NAMES, COUNTS, LEAST)] == [
        said,
        counted,
        least,
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((1, 1, 1, 1, 1, None), "up in five of six (not in Fay)"), ((1, 1, 1, 1, 1, -1), "up in five of six, down in Fay"),
        ((-1, -1, -1, 1, None, None), "down in three of six, up in Dot"), ((None, None), "neither"), ((-1,), "down"),
        ((1, -1), "up in Ann, down in Bob"),
    ],
)  # fmt: skip
def test_what_is_so_on_either_side(values, said):
    results = pairs(*values)
    assert (
        directions.by_side(results, directions.sides(results, source, "x"), "up", "down", "neither") == said
    )


def test_the_other_side_is_called_by_its_first_word():
    said = directions.claim(
        pairs(1, 2, -1), source, "x", "They lie {size} {word} it", "Undecided", ("farther from", "nearer to")
    )
    assert said == "They lie 1.00–2.00 farther from it in two of three pairs (nearer in Cid)"


def test_where_each_sign_holds_and_in_how_many_pairs():
    results = pairs(1, -1, None, 2, 3, 4)
    words = {verdicts.UP: "more", verdicts.DOWN: "less", verdicts.OPEN: "undecided"}
    said = directions.by_mark(results, source, "x", words)
    assert said == "more in four of six, less in Bob, undecided in Cid"
    assert directions.by_mark(pairs(1), source, "x", words) == "more"
    titles = list(results)
    assert directions.in_pairs(titles[:2], results) == "in two of six"
    assert (
        directions.in_pairs([], results) == "in none" and directions.in_pairs(titles, results) == "in all six"
    )
    assert directions.in_pairs(["Own Ann"], pairs(1)) == "yes" and directions.in_pairs([], pairs(1)) == "no"
