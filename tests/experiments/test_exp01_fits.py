"""Fits of logarithms equal SciPy's; their intervals are over prompts."""

import warnings

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from nbhelpers.experiments.exp01_narrowing import fits


def test_fit_equals_scipy():
    rng = np.random.default_rng(1)
    x = rng.integers(1, 30, (12, 20)).astype(float)
    y = x**0.5 * rng.lognormal(size=x.shape)
    x[0, 0], y[1, 1] = -1, 0
    fit = fits.log_log_fit(x, y, n_resamples=200)
    keep = (x > 0) & (y > 0)
    line = stats.linregress(np.log(x[keep]), np.log(y[keep]))
    rho = stats.spearmanr(x[keep], y[keep]).statistic
    np.testing.assert_allclose(fit.estimate, [line.slope, line.intercept, line.rvalue, rho])
    assert (fit.low < fit.estimate).all() and (fit.estimate < fit.high).all()
    xr.testing.assert_identical(fit, fits.log_log_fit(x, y, n_resamples=200))


def test_resamples_equal_scipy_on_the_drawn_prompts():
    """The draws of the bootstrap are SciPy's fits of the drawn prompts written out, ties and all."""
    rng = np.random.default_rng(2)
    x, y = rng.integers(1, 9, (10, 15)).astype(float), rng.integers(1, 99, (10, 15)).astype(float)
    fit = fits.log_log_fit(x, y, n_resamples=40, seed=7)

    def slow(drawn, axis=-1):
        a, b = np.log(x[drawn].ravel()), np.log(y[drawn].ravel())
        line = stats.linregress(a, b)
        return np.array([line.slope, line.intercept, line.rvalue, stats.spearmanr(a, b).statistic])

    again = stats.bootstrap(
        (np.arange(10),), slow, vectorized=False, n_resamples=40, rng=np.random.default_rng(7), batch=16
    )
    np.testing.assert_allclose(fit.draws, again.bootstrap_distribution, rtol=1e-9)
    np.testing.assert_allclose(fit.low, again.confidence_interval.low, rtol=1e-9)
    np.testing.assert_allclose(fit.high, again.confidence_interval.high, rtol=1e-9)


def test_intervals_are_of_prompts_not_features():
    """Copying every feature leaves the interval where it was; a bootstrap over features would shrink it."""
    rng = np.random.default_rng(3)
    x = rng.lognormal(size=(15, 10))
    y = x * rng.lognormal(size=(15, 1)) * rng.lognormal(size=x.shape)
    one = fits.log_log_fit(x, y, n_resamples=300)
    nine = fits.log_log_fit(np.tile(x, 9), np.tile(y, 9), n_resamples=300)
    np.testing.assert_allclose(one.high - one.low, nine.high - nine.low, rtol=1e-6)


@pytest.mark.parametrize(
    "x",
    [np.nan, 3.0, 0.0, 3.0 * (1 + 1e-15 * np.arange(30).reshape(5, 6))],
    ids=["missing", "one", "zero", "nearly"],
)
def test_a_breadth_that_does_not_vary_has_no_fit(x):
    y = np.random.default_rng(0).lognormal(size=(5, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fits.log_log_fit(np.broadcast_to(x, y.shape), y, n_resamples=100)
    assert all(found[name].isnull().all() for name in found)
    assert found.draws.shape == (4, 100)
