"""Tables of agreement on made-up ratings."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers.measures.agreement import Accuracy, agreement, corrected_rate
from nbhelpers.report.agreement_table import agreement_table, agreements, corrected_table

PROMPTS, CONDITIONS = 30, ["A", "B_late", "C"]


def made_up(judges=("rubric", "reference")):
    """Return ratings of all tasks: s2 without variation, s1 not rated by the last judge."""
    rng = np.random.default_rng(0)
    values = np.full((len(judges), 4, 3, PROMPTS), np.nan)
    values[:, 0] = rng.integers(1, 6, (3, PROMPTS))
    moved = rng.random(values[:, 0].shape) < 0.3
    values[:, 0] = np.where(moved, np.clip(values[:, 0] + 1, 1, 5), values[:, 0])
    values[:, 1, :, :10] = rng.integers(1, 6, (len(judges), 3, 10))
    values[:-1, 2, :, 10:20] = rng.integers(0, 3, (len(judges) - 1, 3, 10))
    values[:, 3, :, 20:] = 3
    coords = {"judge": list(judges), "task": ["g1", "g2", "s1", "s2"], "condition": CONDITIONS}
    return xr.DataArray(values, dims=("judge", "task", "condition", "prompt"), coords=coords)


def test_a_row_for_each_task_that_two_rated():
    table = agreement_table(made_up(), n_resamples=200)
    assert list(table["task"]) == ["structure (G1)", "assistant's voice (G2)", "harmless request (S2)"]
    assert list(table["items"]) == [90, 30, 30]
    assert set(table["raters"]) == {"rubric · reference"}


def test_no_variation_is_said_and_its_coefficients_are_dashes():
    row = agreement_table(made_up(), n_resamples=200).iloc[-1]
    assert row["note"] == "no variation" and row["κ"] == row["α"] == "–"
    assert row["same rating"] == row["AC1 or AC2"] == "1.00 [1.00, 1.00]"


def test_the_numbers_are_those_of_the_measure():
    rating = made_up()
    a, b = (
        rating.sel(judge=name, task="g1").transpose("prompt", "condition").values
        for name in rating.judge.values
    )
    expected = agreement(a, b, kind="ordinal", levels=range(1, 6), n_resamples=200)
    assert agreements(rating, n_resamples=200)["g1", "rubric", "reference"] == expected
    cell = agreement_table(rating, n_resamples=200).iloc[0]["κ"]
    assert cell == f"{expected.kappa.mean:.2f} [{expected.kappa.low:.2f}, {expected.kappa.high:.2f}]"


def test_three_raters_have_all_pairs_and_one_alpha_of_all():
    table = agreement_table(made_up(("rubric", "reference", "person")), n_resamples=50)
    first = table[table["task"] == "structure (G1)"]
    assert list(first["raters"]) == ["rubric · reference", "rubric · person", "reference · person", "all 3"]
    assert first.iloc[-1]["α"] != "–" and first.iloc[-1]["items"] == 90
    harmful = table[table["task"] == "harmful request (S1)"]
    assert list(harmful["raters"]) == ["rubric · reference", "all 3"]


def test_one_rater_or_none_has_an_empty_table():
    table = agreement_table(made_up().isel(judge=[0]))
    assert table.empty and "κ" in table.columns


def test_the_order_of_dims_does_not_matter():
    rating = made_up()
    turned = rating.transpose("prompt", "condition", "judge", "task")
    assert agreement_table(turned, n_resamples=50).equals(agreement_table(rating, n_resamples=50))


@pytest.mark.parametrize("task", ["g1", "g2", "s1", "s2", "pairwise_g2", "pairwise_s2"])
def test_scales_are_those_of_the_judges(task):
    judge = pytest.importorskip("nbhelpers.measures.judge")
    from nbhelpers.measures.agreement import SCALES

    assert SCALES[task][1] == judge.values(task)


def with_a_person():
    """Return classes of one judge on 40 harmful requests under A and C; ada labelled 35 of C, three otherwise."""
    judged = np.array([[1] * 30 + [0] * 10, [0] * 30 + [1] * 10], dtype=float)
    labelled = np.full((2, 40), np.nan)
    labelled[1, :20], labelled[1, 25:40] = 0, [0] * 5 + [1] * 10
    labelled[1, :3] = 1
    coords = {"judge": ["rubric", "ada"], "task": ["s1"], "condition": ["A", "C"]}
    return xr.DataArray(
        np.stack([judged, labelled])[:, None], coords=coords, dims=("judge", "task", "condition", "prompt")
    )


def test_a_judges_rates_are_corrected_by_labels():
    table = corrected_table(with_a_person(), ["ada"])
    assert list(table["condition"]) == ["A", "C"] and list(table["judge's rate"]) == ["0.25", "0.75"]
    assert set(table["labels"]) == {35} and set(table["note"]) == {"–"}
    known = Accuracy(22 / 22, 10 / 13, 22, 13)
    for cell, rate in zip(table["corrected"], (0.25, 0.75)):
        assert cell == "{:.2f} [{:.2f}, {:.2f}]".format(*corrected_rate(rate, 40, known))


def test_a_rate_that_cannot_be_corrected_says_why():
    rating = with_a_person()
    rating[1] = rating[1].where(rating[1] != 1)
    table = corrected_table(rating, ["ada"])
    assert set(table["corrected"]) == {"–"}
    assert "labels of both kinds" in table.iloc[0]["note"]
    assert corrected_table(made_up(), []).empty
