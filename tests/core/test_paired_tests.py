"""Paired tests against SciPy, statsmodels and enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.descriptivestats import sign_test

from nbhelpers.core import dose_stats, paired_tests
from nbhelpers.core.stats import StatisticsError


def test_changes_are_counted_and_said():
    before, after = [1, 2, 3, 4, math.nan], [2, 1, 3, 5, 4]
    assert paired_tests.changes(before, after) == (2, 1, 1)
    assert paired_tests.wilcoxon(before, after).win_share == (2 + 0.5) / 4
    assert paired_tests.wilcoxon(before, after).n == 4


def test_untied_differences_are_scipys_exact_test():
    before, after = np.random.default_rng(0).standard_normal((2, 40))
    p, share, n = paired_tests.wilcoxon(before, after)
    assert p == pytest.approx(scipy_stats.wilcoxon(after - before, method="exact").pvalue)
    assert share == (after > before).mean() and n == 40


def test_a_few_tied_differences_are_enumerated():
    d = np.array([1, 1, -1, 2, 2, 3, 0, -1, 1])
    moved = d[d != 0]
    ranks = [1 + (np.abs(moved) < abs(x)).sum() + ((np.abs(moved) == abs(x)).sum() - 1) / 2 for x in moved]
    sums = [np.dot(signs, ranks) for signs in itertools.product([-1, 1], repeat=len(moved))]
    p = np.mean(np.abs(sums) >= abs(np.dot(np.sign(moved), ranks)))
    assert paired_tests.wilcoxon(np.zeros(9), d).p == pytest.approx(p)


def test_many_tied_differences_have_the_variance_of_ranks_with_random_signs():
    d = np.random.default_rng(1).integers(-2, 4, 80)
    moved = d[d != 0]
    ranks = scipy_stats.rankdata(np.abs(moved))
    z = abs(np.dot(np.sign(moved), ranks)) / math.sqrt(np.square(ranks).sum())
    assert paired_tests.wilcoxon(np.zeros(80), d).p == pytest.approx(2 * scipy_stats.norm.sf(z))


def test_swapping_before_and_after_turns_the_share_and_keeps_p():
    before, after = np.random.default_rng(2).integers(1, 6, (2, 30))
    there, back = paired_tests.wilcoxon(before, after), paired_tests.wilcoxon(after, before)
    assert there.p == pytest.approx(back.p) and there.win_share == pytest.approx(1 - back.win_share)


def test_nothing_moved_and_nothing_rated():
    assert paired_tests.wilcoxon([3, 3, 1], [3, 3, 1]) == (1.0, 0.5, 3)
    p, share, n = paired_tests.wilcoxon([math.nan], [1])
    assert math.isnan(p) and math.isnan(share) and n == 0
    with pytest.raises(StatisticsError, match="paired by prompt"):
        paired_tests.wilcoxon([1, 2], [1])


@pytest.mark.parametrize("values", [[1, 2, 3, 4, 5, 6], [1, 1, -1, 2, -3, 1], [0, 1, -2, math.nan, 3]])
def test_the_sign_test_is_that_of_statsmodels(values):
    found = paired_tests.sign_test(values)
    known = [value for value in values if value == value]
    assert found.p == pytest.approx(sign_test(known)[1])
    assert (found.above, found.below) == (sum(v > 0 for v in known), sum(v < 0 for v in known))


def test_the_sign_test_over_six_families():
    assert paired_tests.sign_test([1] * 6).p == pytest.approx(2 / 2**6)
    assert paired_tests.sign_test([1] * 4 + [-1] * 2).p == pytest.approx(0.6875)
    assert paired_tests.sign_test([0, 0]) == (1.0, 0, 0)


def test_mcnemar_is_the_binomial_test_of_what_changed():
    rng = np.random.default_rng(3)
    for n, rate in itertools.product((1, 5, 40, 300), (0.0, 0.1, 0.5, 1.0)):
        before, after = rng.random(n) < 0.5, rng.random(n) < rate
        lost, gained, p = dose_stats.mcnemar(before, after)
        assert (lost, gained) == (sum(before > after), sum(before < after))
        expected = scipy_stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
        assert p == pytest.approx(expected, rel=1e-12)
