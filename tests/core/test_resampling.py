"""Bootstrap of sums: against SciPy's BCa of the same statistic, and by hand."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from nbhelpers.core import resampling, stats
from nbhelpers.core.stats import StatisticsError


def ratio(sums):
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def test_ratio_of_sums_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.lognormal(size=30), rng.lognormal(size=30)
    found = resampling.bca_of_sums(np.stack([x, y], axis=1), ratio, n_resamples=20_000)

    def statistic(a, b, axis):
        return a.sum(axis) / b.sum(axis)

    expected = scipy_stats.bootstrap((x, y), statistic, paired=True, n_resamples=20_000, method="BCa",
                                     rng=np.random.default_rng(1)).confidence_interval  # fmt: skip
    np.testing.assert_allclose(found.mean, x.sum() / y.sum())
    np.testing.assert_allclose([found.low, found.high], expected, rtol=0.02)


def test_mean_agrees_with_the_interval_of_plain_means():
    x = np.random.default_rng(2).normal(size=(25, 3))
    sums = np.stack([x, np.ones_like(x)], axis=-1)
    found, plain = (
        resampling.bca_of_sums(sums, ratio, n_resamples=40_000),
        stats.bca_mean(x, n_resamples=40_000),
    )
    for ours, theirs in zip(found, plain):
        np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_resampled_sums_are_sums_of_drawn_prompts():
    sums = np.eye(4)

    def found_with(seed):
        return np.concatenate(list(resampling.totals(sums, 2500, seed)))

    found = found_with(3)
    assert found.shape == (2500, 4) and (found.sum(1) == 4).all() and (found == found.round()).all()
    np.testing.assert_allclose(found.mean(0), 1, atol=0.08)
    np.testing.assert_array_equal(found, found_with(3))
    assert not np.array_equal(found, found_with(4))


def test_what_has_no_value_has_no_interval():
    found = resampling.bca_of_sums(np.zeros((5, 2)), ratio, n_resamples=50)
    assert np.isnan([found.mean, found.low, found.high]).all()
    # A ratio to nothing in some resamples only: those are left out.
    found = resampling.bca_of_sums(np.array([[1.0, 2.0], [0.0, 0.0]]), ratio, n_resamples=500)
    assert found.mean == found.low == found.high == 0.5


def test_constant_statistics_have_intervals_of_no_width():
    found = resampling.bca_of_sums(np.full((6, 2), 3.0), ratio, n_resamples=100)
    assert found.mean == found.low == found.high == 1.0


def test_one_prompt_is_too_few():
    with pytest.raises(StatisticsError, match="needs two measured prompts: 1 are"):
        resampling.bca_of_sums(np.ones((1, 2)), ratio)


def test_a_ratio_that_is_the_same_in_every_resample_has_no_width():
    parts = np.array([0.1, 0.7, 0.3, 1.9, 0.2])
    found = resampling.bca_of_sums(np.stack([3.1 * parts, parts], axis=1), ratio, n_resamples=200)
    assert found.low == found.mean == found.high == pytest.approx(3.1)


def test_a_ratio_to_zero_and_no_prompts():
    sums = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert np.isnan(resampling.bca_of_sums(sums, ratio, n_resamples=100)[1:]).all()
    with pytest.raises(stats.StatisticsError, match="two measured prompts: 0 are"):
        resampling.bca_of_sums(np.empty((0, 2)), ratio)


def test_the_interval_of_a_skewed_ratio_leans_as_scipys_does():
    """One prompt far from the others: the acceleration moves both ends, and its sign is seen."""
    x, y = np.array([1.0, 1.2, 0.8, 1.1, 0.9, 9.0]), np.ones(6)
    found = resampling.bca_of_sums(np.stack([x, y], axis=1), ratio, n_resamples=20_000)
    plain = stats.bca_mean(x, n_resamples=20_000)
    np.testing.assert_allclose([found.low, found.high], [plain.low, plain.high], rtol=0.03)
    assert found.high - found.mean > 1.5 * (found.mean - found.low)


def test_as_many_resamples_as_asked_for_in_blocks():
    parts = list(resampling.draws(3, 2500, seed=1, block=1000))
    assert [len(part) for part in parts] == [1000, 1000, 500]
    assert not np.array_equal(parts[0], parts[1])


def test_resamples_that_equal_the_value_count_as_half_below_it():
    """Ten below, eighty alike, ten above: no bias, and both ends are as far from the value."""
    boot, alike = np.repeat([1.0, 2.0, 3.0], [10, 80, 10]), np.full(3, 2.0)
    assert resampling._ends(np.float64(2.0), boot, alike, 0.8) == pytest.approx([1.9, 2.1])
