"""Rates by prompt: exact intervals against SciPy and brute force, and an interval that agrees with McNemar's test."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from nbhelpers.core import dose_stats
from nbhelpers.core.stats import Interval
from nbhelpers.report import rates
from nbhelpers.report.quantities import levels, shifts
from nbhelpers.report.verdicts import DOWN, OPEN, UP, bounds, mark


def level(values):
    return levels({"v": xr.DataArray(np.asarray(values, dtype=float), dims="prompt")}, "1")["v"]


def change(lost, gained, n):
    moved = np.r_[-np.ones(lost), np.ones(gained), np.zeros(n - lost - gained)]
    return shifts({"v": xr.DataArray(moved, dims="prompt")}, "1")["v"]


@pytest.mark.parametrize("n", [5, 28])
def test_all_alike_is_clopper_and_pearson(n):
    wanted = scipy.stats.binomtest(n, n).proportion_ci(0.95, "exact")
    found = rates.ends(level(np.ones(n)))
    assert found == pytest.approx((1.0, wanted.low, 1.0))
    assert rates.ends(level(np.zeros(n))) == pytest.approx((0.0, 0.0, 1 - wanted.low))
    assert rates.ends(change(0, 0, n)) == pytest.approx((0.0, wanted.low - 1, 1 - wanted.low))


def test_28_of_28_as_text():
    assert rates.written(level(np.ones(28))) == "1.00 [0.88, 1.00]"
    assert rates.written(change(0, 0, 28)) == "0.00 [−0.12, 0.12]"
    assert rates.written(level([1.0, 1.0])) == "1.00" and rates.written(level([np.nan] * 9)) == "–"


def test_what_varies_keeps_its_interval_and_missing_prompts_do_not_count():
    values = level([0.0, 1, 1, 1, 0, 1, 1, 1])
    assert rates.ends(values) == pytest.approx(bounds(values, 0.95))
    some = level([1.0] * 6 + [np.nan] * 4)
    assert rates.ends(some).low == pytest.approx(1 - rates.unseen(6))
    given = levels({"r": Interval(0.1, 0.0, 0.2)}, "1")["r"]
    assert rates.ends(given) == given.values


@pytest.mark.parametrize(
    ("lost", "gained", "sign"),
    [(5, 0, OPEN), (6, 0, DOWN), (0, 6, UP), (1, 0, OPEN), (9, 1, DOWN), (4, 3, OPEN)],
)
def test_a_change_is_sure_as_mcnemar_says(lost, gained, sign):
    one = change(lost, gained, 28)
    p = rates.exact_p(one.values)
    assert p == pytest.approx(scipy.stats.binomtest(lost, lost + gained).pvalue)
    before, after = np.r_[np.ones(lost), np.zeros(gained)], np.r_[np.zeros(lost), np.ones(gained)]
    assert p == pytest.approx(dose_stats.mcnemar(before, after).p)
    found = shifts({"v": rates.sure_change(one)}, "1")["v"]
    assert mark(found, 0.95) == sign and (sign != OPEN) == (p < 0.05)
    low, high = bounds(one, 0.95)[1:]
    assert found.values.low <= low and found.values.high >= high


def test_nothing_measured_has_no_p():
    assert np.isnan(rates.exact_p(xr.DataArray([np.nan, np.nan], dims="prompt")))
    assert rates.exact_p(xr.DataArray([0.0, 0.0], dims="prompt")) == 1
