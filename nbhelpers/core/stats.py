"""Statistics whose unit is the prompt: BCa intervals, means by prompt, sign-flip tests, Holm's correction.

Tokens of one generation are correlated, so intervals and tests here resample prompts (axis 0), never tokens. This
module knows nothing of layers or models: further axes are carried along.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

ROUNDING = 1e-13  # a spread below this share of the values is rounding


class StatisticsError(ValueError):
    """Too few prompts, or arrays that do not match; the message is one sentence."""


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval, each shaped as the data without the first axis."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bca_mean(
    values: ArrayLike, *, n_resamples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean over prompts (axis 0) and its bias-corrected and accelerated bootstrap interval.

    values: [prompt, ...]; every trailing entry gets its own interval from the same resampled prompts. NaN
    means not measured: such a prompt is left out of that entry, and an entry that is NaN for every prompt
    (adjacent KL at layer 0) stays NaN. Data that are constant up to rounding give an interval of width zero.
    StatisticsError if an entry has only one measured prompt, or no entry has any. With the same seed the result agrees with
    `scipy.stats.bootstrap(method="BCa")`, which gives no interval for constant data and takes 15 times as
    long for 96 prompts × 12 layers.

    Efron (1987), Better bootstrap confidence intervals, JASA 82.
    """
    values = np.asarray(values, dtype=float)
    columns = values.reshape(len(values), int(np.prod(values.shape[1:])))
    measured = ~np.isnan(columns)
    counts = measured.sum(0)
    if not counts.any() or (counts == 1).any():
        few = counts[counts < 2].max(initial=0)
        raise StatisticsError(f"An interval needs two measured prompts: {few} of {len(values)} are.")
    ends = np.full((3, columns.shape[1]), np.nan)
    for pattern in np.unique(measured[:, counts > 0], axis=1).T:
        same = (measured == pattern[:, None]).all(0)
        ends[:, same] = _bca(columns[np.ix_(pattern, same)], n_resamples, confidence, seed)
    return Interval(*ends.reshape(3, *values.shape[1:]))


def _bca(x, n_resamples, confidence, seed):
    """Return mean, low and high of the columns of x [prompt, entry], which has no NaN."""
    mean = x.mean(0)
    constant = np.ptp(x, axis=0) <= ROUNDING * np.abs(x).max(0)
    centred = np.where(constant, 0.0, x - mean)
    boot = _resampled_means(centred, n_resamples, seed)
    largest = np.abs(centred).max(0)
    ties = 1e-12 * largest
    below = ((boot < -ties).mean(0) + (boot <= ties).mean(0)) / 2
    # Cubes of values near 1e-125 are zero: skewness is taken of values of the order of one.
    unit = np.divide(centred, largest, out=np.zeros_like(centred), where=largest > 0)
    levels = bca_levels(below, unit, n_resamples, confidence)
    ends = [mean + np.array([np.quantile(b, q) for b, q in zip(boot.T, level)]) for level in levels]
    return [mean, *ends]


def bca_levels(
    below: np.ndarray, pull: np.ndarray, n_resamples: int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the quantiles of the resamples at which BCa intervals end, low and high, [entry].

    level = Φ(z₀ + (z₀ + z) / (1 − a (z₀ + z))),  z₀ = Φ⁻¹(below),  a = Σ_i pull_i³ / (6 (Σ_i pull_i²)^1.5)
    z = Φ⁻¹(½ ± ½ confidence)
    below [entry]: the share of resamples below the value. pull [prompt, entry]: what a prompt adds to the value, up to a
    factor: the mean of the leave-one-out values less its own.
    """
    bias = special.ndtri(np.clip(below, 0.5 / n_resamples, 1 - 0.5 / n_resamples))
    square = np.square(pull).sum(0)
    acceleration = np.divide((pull**3).sum(0), 6 * square**1.5, out=np.zeros_like(square), where=square > 0)
    z = [bias + special.ndtri(tail) for tail in ((1 - confidence) / 2, (1 + confidence) / 2)]
    low, high = (special.ndtr(bias + each / (1 - acceleration * each)) for each in z)
    return low, high


def _resampled_means(x, n_resamples, seed):
    """Return means [resample, entry] over prompts drawn with replacement, as the product of draw counts and values."""
    few = len(x) * n_resamples <= _KEPT_SIZE
    times = (_kept_draws if few else _draws)(len(x), n_resamples, seed)
    return np.concatenate([block @ x / len(x) for block in times])


_KEPT_SIZE = 2_000_000


def _draws(n, n_resamples, seed, block=1000):
    """Yield how often each prompt is drawn, [resample, prompt], one block of resamples at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, n_resamples, block):
        drawn = rng.integers(0, n, (min(block, n_resamples - start), n))
        drawn += n * np.arange(len(drawn))[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)


@lru_cache(maxsize=4)
def _kept_draws(n, n_resamples, seed):
    """Return the blocks of `_draws`, cached for the many intervals of a page over the same prompts."""
    return list(_draws(n, n_resamples, seed))


def prompt_means(values: ArrayLike, prompt: ArrayLike, n_prompts: int) -> np.ndarray:
    """Return each prompt's mean over its tokens, [prompt, ...], the input of every statistic here.

    values: [..., token], pooled over prompts; prompt: [token], the prompt that each token belongs to. NaN
    values are left out; a prompt without a value is NaN.
    """
    values, prompt = np.asarray(values, dtype=float), np.asarray(prompt)
    flat = values.reshape(int(np.prod(values.shape[:-1])), values.shape[-1])
    measured = ~np.isnan(flat)
    sums = np.stack([np.bincount(prompt, row, n_prompts) for row in np.where(measured, flat, 0.0)], axis=1)
    counts = np.stack([np.bincount(prompt, row, n_prompts) for row in measured], axis=1)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return means.reshape(n_prompts, *values.shape[:-1])


def token_weighted_mean(values: ArrayLike, counts: ArrayLike) -> np.ndarray:
    """Return the mean over prompts (axis 0), each weighted by its number of tokens, as in the published curves.

    token_weighted_mean = Σ_i n_i x_i / Σ_i n_i
    values [prompt, ...] are per-prompt means over counts [prompt] tokens; a NaN is left out with its
    weight, and an entry with no weight left is NaN.
    """
    values = np.asarray(values, dtype=float)
    counts = np.asarray(counts, dtype=float).reshape(-1, *[1] * (values.ndim - 1))
    weights = np.where(np.isnan(values), 0.0, counts)
    total, summed = weights.sum(0), (weights * np.nan_to_num(values)).sum(0)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)


def sign_flip(differences: ArrayLike, *, n_resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """Return the two-sided p-value of the hypothesis that a column's mean is zero, [column], by flipping signs of prompts.

    p = #{pattern s : |Σ_i s_i d_i| ≥ |Σ_i d_i|} / #patterns,  s_i = ±1
    differences: [prompt, column]; a NaN is left out, and a column of fewer than two values gives NaN. All 2ⁿ sign patterns
    are used if they are at most n_resamples; otherwise n_resamples random ones, the same for all columns, and the observed
    one. A column of zeros gives 1. StatisticsError with fewer than two prompts.
    """
    x = np.asarray(differences, dtype=float)
    known, x = (~np.isnan(x)).sum(0) > 1, np.nan_to_num(x)
    if len(x) < 2:
        raise StatisticsError(f"Flipping signs needs two measured prompts: {len(x)} are.")
    every = 2 ** len(x) <= n_resamples
    if every:
        signs = 1.0 - 2.0 * (np.arange(2 ** len(x))[:, None] >> np.arange(len(x)) & 1)
    else:
        signs = 1.0 - 2.0 * np.random.default_rng(seed).integers(2, size=(n_resamples, len(x)))
    # The tolerance keeps rounding from separating a flip from the observed sum that it equals.
    hits = (np.abs(signs @ x) >= np.abs(x.sum(0)) - 1e-12 * np.abs(x).sum(0)).sum(0)
    p = hits / len(signs) if every else (hits + 1) / (len(signs) + 1)
    return np.where(known, p, np.nan)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return Holm's adjusted p-values [test], which control the family-wise error rate over model families or rules.

    p_(k) adjusted = max_{j ≤ k} min(1, (n − j + 1) p_(j)),  p_(1) ≤ … ≤ p_(n)
    A NaN is no test: it stays NaN and is not counted.

    Holm (1979), A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)[: np.isfinite(p).sum()]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted = np.full_like(p, np.nan)
    adjusted[order] = np.maximum.accumulate(steps).clip(max=1.0)
    return adjusted
