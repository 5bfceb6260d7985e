"""Signs of rates that an exact test confirms, on hand-worked cases."""

import math

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from nbhelpers.core.dose_stats import Discordance, mcnemar
from nbhelpers.report import exact_signs, verdicts
from nbhelpers.report.quantities import shifts
from nbhelpers.report.verdicts import DOWN, MISSING, OPEN, UP

RESULTS = {"Pocket Ann": None, "Pocket Bob": None}


def test_a_sign_without_an_exact_p_below_5_per_cent_is_undecided():
    found = {UP: ["A", "B"], DOWN: ["C", "D"], OPEN: ["E"], MISSING: ["F"]}
    p = {"A": 0.04, "B": 0.05, "C": 0.0625, "D": 0.001, "E": 0.01, "F": math.nan}
    wanted = {UP: ["A"], DOWN: ["D"], OPEN: ["B", "C", "E"], MISSING: ["F"]}
    assert exact_signs.confirmed(found, p) == wanted


def test_what_was_not_tested_is_undecided():
    found = {UP: ["A"], DOWN: [], OPEN: [], MISSING: []}
    assert exact_signs.confirmed(found, {"A": math.nan})[OPEN] == ["A"]


def test_a_matrix_has_no_sign_that_an_exact_test_does_not_confirm():
    """Both columns are surely below zero by their intervals; the exact test confirms one pair of the first."""
    lost = xr.DataArray(np.repeat([-1.0, 0.0], [5, 23]), dims="prompt")
    results = {title: xr.Dataset({"lost": lost}) for title in RESULTS}

    def source(dataset):
        return shifts({"form": dataset.lost, "distance": dataset.lost - 1}, "1")

    columns = {"right forms": "form", "distance": "distance"}
    plain = verdicts.matrix(results, source, columns)
    assert plain.cells["right forms"].tolist() == ["▼ −0.18"] * 2
    signs = exact_signs.confirmed(
        verdicts.sides(results, source, "form"), {"Pocket Ann": 0.0625, "Pocket Bob": 0.04}
    )
    found = exact_signs.exact_matrix(results, source, columns, {"right forms": signs})
    assert found.cells["right forms"].tolist() == ["· −0.18", "▼ −0.18"]
    assert found.cells["distance"].equals(plain.cells["distance"]) and found.hints.equals(plain.hints)
    assert (
        found.note
        == f"{plain.note} Signs of “right forms” also need an exact test of the prompts that change, with p below 0.05."
    )


@pytest.mark.parametrize(
    ("p", "said"),
    [((0.0625,), "exact p = 0.062"), ((1e-5,), "exact p < 0.001"), ((0.01, 0.03), "exact p ≤ 0.030")],
)
def test_an_exact_p_is_never_rounded_to_zero(p, said):
    assert exact_signs.exact_p(*p) == said


def test_the_pair_that_changes_most_is_named_with_its_counts():
    lost = mcnemar([1] * 28, [0] * 5 + [1] * 23)
    assert lost.p == pytest.approx(scipy.stats.binomtest(5, 5).pvalue)
    changed = {"Pocket Ann": Discordance(2, 3, 1.0), "Pocket Bob": lost}
    said = exact_signs.most_changed(RESULTS, changed, 28, "right forms", "; rank p 0.05")
    assert said == "right forms change most in Bob: 5 of 28 lost, 0 gained (exact p = 0.062; rank p 0.05)"
    alone = exact_signs.most_changed({"Pocket Bob": None}, {"Pocket Bob": lost}, 28, "right forms")
    assert alone == "right forms change: 5 of 28 lost, 0 gained (exact p = 0.062)"


def test_no_change_at_all_is_said_as_such():
    changed = dict.fromkeys(RESULTS, Discordance(0, 0, 1.0))
    assert (
        exact_signs.most_changed(RESULTS, changed, 28, "right forms") == "no right forms are lost or gained"
    )
