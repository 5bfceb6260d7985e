"""Statistics of doses against SciPy, statsmodels-style hand counts and plain loops."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from nbhelpers.core import dose_stats
from nbhelpers.core.stats import StatisticsError


def test_rank_p_counts_controls_at_least_as_large():
    null = [0.0, 1.0, 2.0, 3.0]
    assert dose_stats.rank_p(2.0, null) == (1 + 2) / 5
    assert dose_stats.rank_p(9.0, null) == 1 / 5
    assert dose_stats.rank_p(-9.0, null) == 1.0
    assert dose_stats.rank_p(-9.0, null, two_sided=True) == 2 / 5
    assert dose_stats.rank_p(1.5, null, two_sided=True) == 1.0
    assert dose_stats.rank_p(9.0, [*null, math.nan]) == 1 / 5
    assert math.isnan(dose_stats.rank_p(1.0, []))


def test_thirty_nine_controls_reach_five_per_cent_on_two_sides_and_thirty_eight_do_not():
    assert dose_stats.rank_p(1.0, np.zeros(39), two_sided=True) == pytest.approx(0.05)
    assert dose_stats.rank_p(1.0, np.zeros(38), two_sided=True) > 0.05


@pytest.mark.parametrize("rises", [True, False])
def test_page_without_ties_is_scipys(rises):
    values = np.random.default_rng(0).standard_normal((14, 5)) + 0.3 * np.arange(5)
    found = dose_stats.page_trend(values, rises=rises)
    theirs = scipy_stats.page_trend_test(values if rises else -values, method="asymptotic")
    assert found.statistic == pytest.approx(theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue)


def test_page_with_ties_has_the_variance_of_all_permutations():
    values = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 1]], dtype=float)
    rows = [list(itertools.permutations(row)) for row in scipy_stats.rankdata(values, axis=1)]
    every = np.array([sum(np.dot(r, [1, 2, 3]) for r in pick) for pick in itertools.product(*rows)])
    found = dose_stats.page_trend(values)
    assert found.z == pytest.approx((found.statistic - every.mean()) / every.std())


def test_page_without_movement_finds_nothing_and_needs_three_doses():
    assert dose_stats.page_trend(np.ones((4, 3))).p == 1.0
    with pytest.raises(StatisticsError, match="three doses"):
        dose_stats.page_trend(np.ones((4, 2)))


def test_page_leaves_out_a_prompt_that_was_not_measured():
    values = np.random.default_rng(1).standard_normal((6, 4))
    with_gap = np.vstack([values, [math.nan, 1, 2, 3]])
    assert dose_stats.page_trend(with_gap) == dose_stats.page_trend(values)


def test_slopes_are_those_of_a_fit_to_each_prompt():
    doses = [-1.0, 0.0, 0.25, 1.0]
    values = np.random.default_rng(0).standard_normal((5, 4))
    fits = [np.polyfit(doses, row, 1)[0] for row in values]
    np.testing.assert_allclose(dose_stats.prompt_slopes(values, doses), fits)
    with pytest.raises(StatisticsError):
        dose_stats.prompt_slopes(values, [1.0] * 4)


def test_wrong_way_counts_prompts_against_the_expected_sign():
    effects = [-1.0, -1.0, 0.0, 0.5, math.nan]
    assert dose_stats.wrong_way(effects) == 1 / 4
    assert dose_stats.wrong_way(effects, towards=1) == 2 / 4
    assert dose_stats.wrong_way([0.0, 0.0]) == 0.0


@pytest.mark.parametrize("bound", [0.05, 0.3])
def test_equivalence_is_the_worse_of_two_scipy_tests(bound):
    d = np.random.default_rng(3).normal(0.02, 0.2, 30)
    low = scipy_stats.ttest_1samp(d, -bound, alternative="greater").pvalue
    high = scipy_stats.ttest_1samp(d, bound, alternative="less").pvalue
    assert dose_stats.equivalence(d, bound) == pytest.approx(max(low, high))


def test_few_prompts_without_any_movement_do_not_prove_equivalence():
    assert dose_stats.equivalence(np.zeros(24), 0.05) == pytest.approx(0.95**24)
    assert dose_stats.equivalence(np.zeros(100), 0.05) < 0.05 / 8
    assert dose_stats.equivalence(np.ones(24), 0.05) == 1.0


def test_an_effect_of_the_detectable_size_is_found_four_times_in_five():
    rng, n = np.random.default_rng(0), 40
    sizes = [dose_stats.detectable(rng.standard_normal(n)) for _ in range(200)]
    effect = float(np.mean(sizes))
    found = [scipy_stats.ttest_1samp(rng.standard_normal(n) + effect, 0).pvalue < 0.05 for _ in range(2000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_a_rate_that_falls_by_the_detectable_size_is_found_four_times_in_five():
    rng, n = np.random.default_rng(0), 28
    size = dose_stats.detectable(np.zeros(n))
    assert size == dose_stats.detectable(-np.ones(n)) > dose_stats.detectable(np.zeros(4 * n))
    for share, low, high in ((size, 0.8, 1.0), (size / 3, 0.0, 0.4)):
        lost = -(rng.random((2000, n)) < share).astype(float)
        found = [np.ptp(d) > 0 and scipy_stats.ttest_1samp(d, 0).pvalue < 0.05 for d in lost]
        assert low <= np.mean(found) <= high


def test_one_prompt_of_many_does_not_make_a_rate_look_precise():
    one = np.r_[-1.0, np.zeros(27)]
    assert dose_stats.detectable(one) == pytest.approx(dose_stats.detectable(np.zeros(28)))
    assert dose_stats.detectable(0.1 * one + 0.01) < dose_stats.detectable(one)  # no rate


def test_mcnemar_by_hand():
    before, after = [1, 1, 1, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 1, 0, 1]
    found = dose_stats.mcnemar(before, after)
    assert (found.lost, found.gained) == (5, 1)
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)  # P(≤ 1 of 6) twice
    assert dose_stats.mcnemar([1, 0], [1, 0]) == (0, 0, 1.0)
    with pytest.raises(StatisticsError, match="paired"):
        dose_stats.mcnemar([1, 0], [1])


def test_effect_sizes_by_hand():
    assert dose_stats.cohen_dz([1.0, 2.0, 3.0]) == pytest.approx(2.0)
    assert math.isnan(dose_stats.cohen_dz([1.0, 1.0]))


def test_an_inverted_u_has_two_branches():
    doses = np.array([-1.0, 0.0, 0.5, 1.0, 1.5, 2.0])
    found = dose_stats.spearman_branches(doses, -np.abs(doses - 1))
    assert found["below"] == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9), 4)
    assert found["above"].rho == pytest.approx(-1.0)
    assert math.isnan(dose_stats.spearman_branches(doses, np.ones(6))["below"].rho)


def test_groups_are_resampled_together():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 60), rng.normal(0, 1, 40)
    found = dose_stats.between_groups(a, [*b, math.nan])
    plain = scipy_stats.bootstrap(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True, method="BCa", random_state=1
    )
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert found.low == pytest.approx(plain.confidence_interval.low, abs=0.04)
    assert found.high == pytest.approx(plain.confidence_interval.high, abs=0.04)
    with pytest.raises(StatisticsError, match="two prompts"):
        dose_stats.between_groups([1.0], b)
