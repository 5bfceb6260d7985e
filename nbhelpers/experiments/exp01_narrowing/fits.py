"""Fits of logarithms over the features of many prompts, with intervals over prompts."""

from functools import partial

import numpy as np
import xarray as xr
from scipy import stats

STATISTICS = ("slope", "intercept", "pearson", "spearman")


def log_log_fit(x, y, *, n_resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Return slope, intercept, Pearson and Spearman r of ln y on ln x over all features, with BCa intervals over prompts.

    ln y = slope · ln x + intercept, least squares;  pearson = corr(ln x, ln y);  spearman = corr(rank x, rank y)
    x, y: [prompt, feature]; features where x or y is not positive are left out; where x or y does not vary, all is NaN.
    Variables: `estimate`, `low`, `high` (statistic) and `draws` (statistic, resample). Whole prompts are resampled, as
    features of a prompt are not independent.
    Resamples depend only on seed and number of prompts, so IT's draws minus PT's are draws of the paired difference.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = (x > 0) & (y > 0)
    logs, prompt = (np.log(x[keep]), np.log(y[keep])), np.nonzero(keep)[0]
    if not keep.any() or any(np.ptp(values) <= 1e-12 * np.abs(values).max() for values in logs):
        nothing = np.full((len(STATISTICS), n_resamples), np.nan)
        ends = {name: ("statistic", nothing[:, 0]) for name in ("estimate", "low", "high")}
        data = ends | {"draws": (("statistic", "resample"), nothing)}
        return xr.Dataset(data, coords={"statistic": list(STATISTICS)})
    line = stats.linregress(*logs)
    found = stats.bootstrap(
        (np.arange(len(x)),),
        partial(_resampled_fits, [(values, *_ties(values)) for values in logs], prompt, len(x)),
        n_resamples=n_resamples,
        confidence_level=confidence,
        batch=16,
        rng=np.random.default_rng(seed),
    )
    estimate = [line.slope, line.intercept, line.rvalue, stats.spearmanr(*logs).statistic]
    values = dict(zip(("estimate", "low", "high"), (estimate, *found.confidence_interval)))
    data = {name: ("statistic", value) for name, value in values.items()}
    data["draws"] = (("statistic", "resample"), found.bootstrap_distribution)
    return xr.Dataset(data, coords={"statistic": list(STATISTICS)})


def _resampled_fits(points, prompt, n, drawn, axis=-1):
    """Return fits [statistic, resample] for draws [resample, prompt]: a feature's weight is how often its prompt is drawn."""
    times = (drawn[..., None] == np.arange(n)).sum(-2).astype(float)
    weights = times.T[prompt]
    shape = (-1, *[1] * (weights.ndim - 1))
    logs = (values.reshape(shape) for values, *_ in points)
    ranks = (_ranks(*ties, weights) for _, *ties in points)
    return np.stack([*_line(*logs, weights), _line(*ranks, weights)[2]])


def _line(x, y, weights):
    """Return slope, intercept and correlation [resample] under weights [feature, resample]."""
    wx, wy, total = weights * x, weights * y, weights.sum(0)
    mx, my = wx.sum(0) / total, wy.sum(0) / total
    xx, xy, yy = (np.einsum("f...,f...->...", a, b) / total for a, b in ((wx, x), (wx, y), (wy, y)))
    xx, xy, yy = xx - mx * mx, xy - mx * my, yy - my * my
    return xy / xx, my - xy / xx * mx, xy / np.sqrt(xx * yy)


def _ties(values):
    """Return each value's index among the distinct values, the sorting order, and where each distinct value starts in it."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    return group, order, np.flatnonzero(np.diff(group[order], prepend=-1))


def _ranks(group, order, starts, weights):
    """Return mid-ranks, up to a constant, of values that occur weights [feature, resample] times."""
    sums = np.add.reduceat(weights[order], starts, axis=0)
    return (sums.cumsum(0) - sums / 2)[group]
