"""Prompt-level statistics against SciPy, hand-worked cases and slow loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from nbhelpers.core import stats


@pytest.fixture
def skewed():
    return np.random.default_rng(1).lognormal(size=(40, 3))


def test_bca_equals_scipy(skewed):
    ours = stats.bca_mean(skewed, n_resamples=2000, confidence=0.9, seed=7)
    theirs = scipy_stats.bootstrap(
        (skewed,), np.mean, n_resamples=2000, confidence_level=0.9, method="BCa", rng=np.random.default_rng(7)
    ).confidence_interval
    np.testing.assert_allclose(ours.low, theirs.low, rtol=1e-12)
    np.testing.assert_allclose(ours.high, theirs.high, rtol=1e-12)
    np.testing.assert_allclose(ours.mean, skewed.mean(0), rtol=1e-15)


def test_bca_keeps_the_trailing_shape_and_scalars(skewed):
    assert stats.bca_mean(skewed.reshape(10, 4, 3), n_resamples=200).low.shape == (4, 3)
    mean, low, high = map(float, stats.bca_mean(skewed[:, 0], n_resamples=200))
    assert low < mean < high


def test_bca_of_constants_is_the_constant():
    interval = stats.bca_mean(np.full((20, 2), 0.1), n_resamples=200)
    assert np.array_equal(interval.low, interval.mean) and np.array_equal(interval.high, interval.mean)
    np.testing.assert_allclose(interval.mean, 0.1, rtol=1e-15)


def test_bca_leaves_unmeasured_prompts_out_of_their_entry_only(skewed):
    holes = skewed.copy()
    holes[[3, 8], 1] = np.nan
    got = stats.bca_mean(holes, n_resamples=500)
    alone = stats.bca_mean(np.delete(skewed[:, 1], [3, 8]), n_resamples=500)
    whole = stats.bca_mean(skewed, n_resamples=500)
    assert [got.low[1], got.high[1]] == pytest.approx([alone.low, alone.high])
    np.testing.assert_allclose(got.low[[0, 2]], whole.low[[0, 2]])


def test_bca_keeps_an_entry_that_nobody_measured_nan(skewed):
    skewed[:, 0] = np.nan
    interval = stats.bca_mean(skewed, n_resamples=200)
    assert np.isnan([end[0] for end in interval]).all() and np.isfinite(interval.low[1:]).all()


@pytest.mark.parametrize("values", [[1.0, np.nan, np.nan], [np.nan, np.nan], [1.0]])
def test_bca_refuses_fewer_than_two_prompts(values):
    with pytest.raises(stats.StatisticsError, match="two measured prompts: [01] of"):
        stats.bca_mean(values)


def test_bca_covers():
    """95 % intervals of 40 skewed values hold the true mean about as often as they say."""
    draws = np.random.default_rng(5).gamma(2.0, 1.0, size=(40, 400))
    interval = stats.bca_mean(draws, n_resamples=1000)
    share = ((interval.low < 2.0) & (interval.high > 2.0)).mean()
    assert 0.90 < share < 0.98


@pytest.mark.parametrize("scale", [1e-300, 1e-125, 1e100])
def test_bca_of_tiny_and_huge_values_is_that_of_ordinary_ones_scaled(scale):
    values = np.array([0.0, 0.3, 1.0, 5.0, 2.0])
    np.testing.assert_allclose(
        np.divide(stats.bca_mean(values * scale, n_resamples=300), scale),
        stats.bca_mean(values, n_resamples=300),
        rtol=1e-9,
    )


@settings(max_examples=30)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.floats(-5, 5), st.floats(0.1, 10))
def test_bca_is_ordered_and_follows_shift_and_scale(values, shift, scale):
    values = np.asarray(values)
    low, high = np.asarray(stats.bca_mean(values, n_resamples=300)[1:])
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9
    moved = stats.bca_mean(values * scale + shift, n_resamples=300)
    if np.ptp(values) > 1e-3:
        np.testing.assert_allclose(
            moved[1:], [low * scale + shift, high * scale + shift], rtol=1e-6, atol=1e-6
        )


def test_prompt_means_by_hand():
    values = [[1.0, 3.0, 10.0, np.nan], [0.0, 0.0, 4.0, 6.0]]
    means = stats.prompt_means(values, [0, 0, 2, 2], n_prompts=3)
    np.testing.assert_array_equal(means, [[2.0, 0.0], [np.nan, np.nan], [10.0, 5.0]])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-9, 9) | st.just(np.nan)), max_size=12))
def test_prompt_means_equal_a_slow_loop_even_without_tokens(tokens):
    prompt, values = [p for p, _ in tokens], np.array([v for _, v in tokens])
    found = stats.prompt_means(np.stack([values, 2 * values]), np.array(prompt, dtype=int), n_prompts=4)
    for i in range(4):
        own = [v for p, v in tokens if p == i and not np.isnan(v)]
        np.testing.assert_allclose(found[i], [np.mean(own), 2 * np.mean(own)] if own else [np.nan] * 2)


def test_token_weighted_mean_equals_pooling_tokens():
    rng = np.random.default_rng(2)
    tokens, prompt = rng.normal(size=(3, 50)), np.sort(rng.integers(0, 6, 50))
    means = stats.prompt_means(tokens, prompt, n_prompts=6)
    counts = np.bincount(prompt, minlength=6)
    np.testing.assert_allclose(stats.token_weighted_mean(means, counts), tokens.mean(1))
    assert np.isnan(stats.token_weighted_mean([[np.nan]], [3])).all()


def flipped(x):
    """Return SciPy's p-value that a mean of x [prompt] is zero, by flipping signs."""
    found = scipy_stats.permutation_test(
        (x, np.zeros_like(x)), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples",
        n_resamples=10_000, vectorized=True, rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.pvalue)


def test_sign_flips_are_exact_for_few_prompts():
    assert stats.sign_flip([[1.0], [2.0], [3.0]])[0] == pytest.approx(2 / 8)


def test_holm_by_hand():
    np.testing.assert_allclose(stats.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(stats.holm([0.5, 0.9]), [1.0, 1.0])


def test_sign_flips_agree_with_scipy_and_with_every_flip():
    rng = np.random.default_rng(3)
    x = rng.normal(0.4, 1, (9, 3))
    x[:, 2] = 0
    exact = stats.sign_flip(x)
    for column in range(2):
        slow = [abs((x[:, column] * signs).sum()) for signs in itertools.product((1, -1), repeat=9)]
        assert exact[column] == np.mean(np.array(slow) >= abs(x[:, column].sum()) - 1e-12)
        assert exact[column] == pytest.approx(flipped(x[:, column]), abs=1e-9)
    assert exact[2] == 1
    many = rng.normal(0.2, 1, (40, 2))
    drawn = stats.sign_flip(many, n_resamples=20_000)
    for column in range(2):
        assert drawn[column] == pytest.approx(flipped(many[:, column]), abs=0.015)


def test_sign_flips_leave_missing_prompts_out():
    x = np.random.default_rng(4).normal(0.5, 1, (8, 1))
    padded = np.vstack([x, [[np.nan]]])
    assert stats.sign_flip(padded) == pytest.approx(stats.sign_flip(x))
    with pytest.raises(stats.StatisticsError, match="two measured prompts"):
        stats.sign_flip(x[:1])


@pytest.mark.parametrize("values", [[], np.empty((0, 3)), np.empty((4, 0))])
def test_bca_of_nothing_is_refused(values):
    with pytest.raises(stats.StatisticsError, match="two measured prompts: 0 of"):
        stats.bca_mean(values)


@pytest.mark.parametrize("n", [2, 5, 10])
@pytest.mark.parametrize("size", [1.0, -1e-9, 3e7])
def test_bca_of_values_that_differ_by_rounding_has_no_width(size, n):
    values = size * (1 + np.random.default_rng(0).normal(size=n) * 2e-15)
    mean, low, high = stats.bca_mean(values, n_resamples=200)
    assert low == mean == high == pytest.approx(size)


def test_bca_of_two_prompts_spans_them():
    mean, low, high = stats.bca_mean([1.0, 2.0], n_resamples=400)
    assert (mean, low, high) == (1.5, 1.0, 2.0)


def test_a_spread_that_is_no_rounding_is_kept():
    values = 1 + np.arange(8) * 1e-10
    _, low, high = stats.bca_mean(values, n_resamples=400)
    assert 1e-10 < high - low < 7e-10


def test_sign_flips_of_a_column_that_nobody_measured_are_no_test():
    x = np.array([[1.0, np.nan, np.nan], [2.0, np.nan, 3.0], [3.0, np.nan, np.nan]])
    np.testing.assert_array_equal(stats.sign_flip(x), [0.25, np.nan, np.nan])


def test_holm_leaves_out_what_is_no_test():
    np.testing.assert_allclose(stats.holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    assert np.isnan(stats.holm([np.nan, np.nan])).all() and len(stats.holm([])) == 0


def test_a_drawn_p_value_is_never_zero():
    """More prompts than signs can be tried for, all of one sign: no draw is as extreme, and the observed one counts."""
    assert stats.sign_flip(np.ones((30, 1)), n_resamples=99, seed=1)[0] == 1 / 100
    assert stats.sign_flip(np.zeros((30, 1)), n_resamples=99)[0] == 1


def test_all_sign_patterns_are_used_up_to_the_number_of_resamples():
    x = [[1.0], [2.0], [3.0]]
    assert (
        stats.sign_flip(x, n_resamples=8)[0] == 2 / 8
    )  # the observed signs and their opposites, of all eight
    drawn = stats.sign_flip(x, n_resamples=7)[0]
    assert (drawn * 8).is_integer() and drawn >= 1 / 8


def test_flips_that_equal_the_observed_sum_but_for_rounding_count():
    """Sums of tenths round; the same sums in tenfold are whole."""
    whole = np.random.default_rng(6).integers(-9, 10, (8, 40)).astype(float)
    np.testing.assert_array_equal(stats.sign_flip(whole / 10), stats.sign_flip(whole))


def test_bca_by_hand_of_its_two_corrections():
    """Quantile levels from Efron's formula, written out: bias z0 and acceleration a of a skewed sample."""
    pull, below, confidence = np.array([[3.0], [-1.0], [-1.0], [-1.0]]), np.array([0.6]), 0.8
    z0, z = scipy_stats.norm.ppf(0.6), scipy_stats.norm.ppf(0.9)
    a = (27 - 3) / (6 * (9 + 3) ** 1.5)
    wanted = [scipy_stats.norm.cdf(z0 + (z0 + e) / (1 - a * (z0 + e))) for e in (-z, z)]
    np.testing.assert_allclose(np.ravel(stats.bca_levels(below, pull, 1000, confidence)), wanted)


def test_a_share_of_nothing_is_cut_at_half_a_resample():
    low, high = stats.bca_levels(np.array([0.0]), np.zeros((2, 1)), 50, 0.95)
    z0 = scipy_stats.norm.ppf(0.5 / 50)
    np.testing.assert_allclose(
        [low[0], high[0]], scipy_stats.norm.cdf(2 * z0 + np.array([-1, 1]) * 1.959963985)
    )


def test_holms_values_never_fall_and_never_exceed_one():
    np.testing.assert_allclose(stats.holm([0.02, 0.021, 0.6]), [0.06, 0.06, 0.6])
    np.testing.assert_allclose(stats.holm([0.4, 0.3, 0.9]), [0.9, 0.9, 0.9])
    assert stats.holm([0.7, 0.9]).max() == 1


def test_token_weights_by_hand():
    """Two tokens at 1 and six at 5; a prompt that lacks an entry takes its weight with it."""
    found = stats.token_weighted_mean([[1.0, 1.0], [5.0, np.nan]], [2, 6])
    np.testing.assert_allclose(found, [(2 + 30) / 8, 1.0])
