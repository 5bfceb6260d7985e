"""Gap closure against hand-worked cases, Fieller's interval, and the study's stored means."""

import csv
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from nbhelpers.core import closure
from nbhelpers.core.stats import StatisticsError
from tests.report import artifacts

CLAIMS = artifacts.FOLDER.parent / "claims.csv"


def test_closure_by_hand():
    found = closure.closure([0, 0, 1, 1], [1, 0, 2, 1], [2, 2, 3, 3])
    assert found.ratio_of_means.mean == pytest.approx(0.5 / 2)
    assert found.mean_of_ratios == pytest.approx((1 / 2 + 0 + 1 / 2 + 0) / 4)
    assert found.separated and found.n == 4
    assert found.ratio_of_means.low <= 0.25 <= found.ratio_of_means.high
    assert (found.shift.mean, found.gap.mean) == (0.5, 2.0)


def test_a_metric_that_falls_closes_its_gap_with_the_same_sign():
    rng = np.random.default_rng(0)
    a, b, c = (rng.random(60) < rate for rate in (0.7, 0.4, 0.1))
    falls, rises = closure.closure(a, b, c), closure.closure(1.0 - a, 1.0 - b, 1.0 - c)
    assert falls.ratio_of_means.mean == pytest.approx(rises.ratio_of_means.mean)
    assert falls.ratio_of_means.low == pytest.approx(rises.ratio_of_means.low)
    assert falls.gap.mean < 0 < falls.ratio_of_means.mean


def test_away_from_c_is_below_zero_and_beyond_it_above_one():
    a, c = np.zeros(8), np.arange(8) + 1.0
    assert closure.closure(a, -c, c).ratio_of_means.mean == -1
    assert closure.closure(a, 2 * c, c).ratio_of_means.mean == 2


def test_a_gap_that_may_be_zero_has_no_interval():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 30))
    found = closure.closure(a, b, a + rng.standard_normal(30) - 0.05)
    assert not found.separated and found.gap.low < 0 < found.gap.high
    assert math.isnan(found.ratio_of_means.low) and math.isnan(found.ratio_of_means.high)
    assert math.isfinite(found.ratio_of_means.mean)


def test_without_any_gap_there_is_no_ratio():
    found = closure.closure([1, 1, 0], [0, 1, 0], [1, 1, 0])
    assert math.isnan(found.ratio_of_means.mean) and math.isnan(found.mean_of_ratios) and not found.separated


def test_a_prompt_that_was_not_rated_is_left_out_of_all_three():
    whole = closure.closure([0, 1, 2], [1, 1, 2], [3, 3, 4])
    with_gap = closure.closure([0, 1, 2, math.nan], [1, 1, 2, 9], [3, 3, 4, 9])
    assert with_gap == whole


def test_the_interval_is_near_fiellers():
    rng = np.random.default_rng(2)
    shift, gap = rng.normal(0.8, 1, 200), rng.normal(2, 1, 200)
    found = closure.closure(np.zeros(200), shift, gap).ratio_of_means
    low, high = fieller(shift, gap)
    assert found.low == pytest.approx(low, abs=0.01) and found.high == pytest.approx(high, abs=0.01)


def fieller(top, bottom):
    """Return Fieller's 95 % interval of a ratio of paired means."""
    n, t = len(top), scipy_stats.t.ppf(0.975, len(top) - 1)
    (vt, cov), (_, vb) = np.cov(top, bottom) * t**2 / n
    a, b, c = bottom.mean() ** 2 - vb, cov - top.mean() * bottom.mean(), top.mean() ** 2 - vt
    return [(-b + side * math.sqrt(b * b - a * c)) / a for side in (-1, 1)]


def test_prompts_must_be_paired():
    with pytest.raises(StatisticsError, match="paired by prompt"):
        closure.closure([1, 2], [1, 2], [1])


def test_without_two_prompts_nothing_is_known():
    found = closure.closure([1, math.nan], [1, 2], [1, 2])
    assert found.n == 1 and not found.separated
    assert all(math.isnan(value) for value in (*found.ratio_of_means, *found.gap, found.mean_of_ratios))
    assert closure.mean_of_closures([found, closure.of_means(0, 1, 2)]).ratio_of_means == 0.5
    assert math.isnan(closure.mean_of_closures([]).mean_of_ratios)


def test_families_are_averaged_in_both_ways():
    small, large = closure.of_means(0.0, 1.0, 1.0), closure.of_means(0.0, 1.0, 9.0)
    nothing = closure.of_means(1.0, 1.0, 1.0)
    found = closure.mean_of_closures([small, large, nothing])
    assert found.mean_of_ratios == pytest.approx((1 + 1 / 9) / 2)
    assert found.ratio_of_means == pytest.approx(2 / 10)
    assert (found.n, found.n_separated) == (2, 0) and math.isnan(found.mean_of_separated)
    certain = closure.closure([0, 0, 0], [1, 2, 3], [2, 4, 6])
    assert closure.mean_of_closures([small, certain]).mean_of_separated == pytest.approx(0.5)


@pytest.mark.skipif(not CLAIMS.exists(), reason="the study's stored figures are not on this machine")
@pytest.mark.parametrize(
    "metric, published", [("s2", 0.4996), ("g2", 0.0699), ("g1", 0.0378), ("s1_refuse_rate", 0.0872)]
)
def test_the_studys_stored_means_give_its_published_closures(metric, published):
    with open(CLAIMS, encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["id"][:4] in ("C070", "C071", "C072", "C073")]
    of = {(row["metric"], row["family"]): float(row["value"]) for row in rows}
    families = {family for _, family in of}
    assert len(families) == 6
    names = [f"{metric}_{condition}" for condition in ("A_pt_raw", "B_graft_raw", "C_it_chat")]
    found = closure.mean_of_closures(
        closure.of_means(*(of[name, family] for name in names)) for family in families
    )
    assert found.mean_of_ratios == pytest.approx(published, abs=6e-5)
