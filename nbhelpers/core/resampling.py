"""Bootstrap over prompts for statistics that are functions of sums: ratios, correlations, the order of means.

The sums over tokens are computed once for each prompt. A resample of prompts is then a product with a matrix of counts.
`nbhelpers.core.stats` has the intervals of plain means.
"""

from collections.abc import Callable, Iterator

import numpy as np

from nbhelpers.core.stats import ROUNDING, Interval, StatisticsError, bca_levels


def draws(n_prompts: int, n_resamples: int, seed: int = 0, block: int = 1000) -> Iterator[np.ndarray]:
    """Yield how often each prompt is drawn in each resample, [resample, prompt], `block` resamples at a time."""
    rng, even = np.random.default_rng(seed), np.full(n_prompts, 1 / n_prompts)
    for start in range(0, n_resamples, block):
        yield rng.multinomial(n_prompts, even, min(block, n_resamples - start)).astype(float)


def totals(sums: np.ndarray, n_resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield the totals [resample, …] of sums [prompt, …] over prompts drawn with replacement, block by block of `draws`."""
    flat = sums.reshape(len(sums), -1)
    for times in draws(len(sums), n_resamples, seed):
        yield (times @ flat).reshape(-1, *sums.shape[1:])


def bca_of_sums(
    sums: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return a statistic of sums over prompts (`mean`) and its BCa interval, each with the statistic's shape.

    sums: [prompt, …], without NaN. statistic: maps sums [n, …] to values [n, …], row by row; NaN where it is undefined,
    such as a ratio to zero. Resamples that are not finite are left out of the interval; if all are the same up to rounding,
    its width is zero. StatisticsError with fewer than two prompts.

    Efron (1987), Better bootstrap confidence intervals, JASA 82.
    """
    sums = np.asarray(sums, dtype=float)
    if len(sums) < 2:
        raise StatisticsError(f"An interval needs two measured prompts: {len(sums)} are.")
    total = sums.sum(0)
    value = statistic(total[None])[0]
    boot = np.concatenate([statistic(part) for part in totals(sums, n_resamples, seed)])
    without = statistic(total - sums)
    columns = zip(value.ravel(), boot.reshape(len(boot), -1).T, without.reshape(len(sums), -1).T)
    ends = np.array([_ends(*column, confidence) for column in columns])
    return Interval(value, *ends.T.reshape(2, *value.shape))


def _ends(value, boot, without, confidence):
    """Return both ends for one value, from its resamples [resample] and leave-one-out values [prompt]."""
    boot, without = boot[np.isfinite(boot)], without[np.isfinite(without)]
    if not np.isfinite(value) or not len(boot) or not len(without):
        return np.nan, np.nan
    if np.abs(boot - value).max() <= ROUNDING * np.abs(value):
        return value, value
    ties = 1e-12 * np.abs(boot - value).max(initial=0.0)
    share = ((boot < value - ties).mean() + (boot <= value + ties).mean()) / 2
    pull = without.mean() - without
    return np.quantile(boot, bca_levels(share, pull, len(boot), confidence))
