"""Gap closure: how much of the way from one baseline (A) to another (C) an intervention (B) goes, (B − A) / (C − A).

A gap that is not separated from zero has no closure worth an interval: its sign is not known.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nbhelpers.core.resampling import bca_of_sums
from nbhelpers.core.stats import Interval, StatisticsError, bca_mean

NO_ENDS = (np.nan, np.nan)
NOTHING = Interval(np.nan, *NO_ENDS)


class Closure(NamedTuple):
    """Closure of one family: `ratio_of_means` = mean(B − A) / mean(C − A), NaN ends unless the gap is `separated` from zero.

    `mean_of_ratios` averages (b − a) / (c − a) over the prompts on which c differs from a. `shift` is mean(B − A), `gap` is
    mean(C − A), each with its interval; n counts prompts.
    """

    ratio_of_means: Interval
    mean_of_ratios: float
    separated: bool
    shift: Interval
    gap: Interval
    n: int


class FamilyClosure(NamedTuple):
    """Closure over families: the mean of their ratios, that of the `n_separated` families alone, the ratio of pooled means.

    The number of families is n. No interval is given: families are few, and one small gap moves a mean of ratios.
    """

    mean_of_ratios: float
    mean_of_separated: float
    ratio_of_means: float
    n: int
    n_separated: int


def ratio(shift: ArrayLike, gap: ArrayLike) -> np.ndarray:
    """Return shift / gap elementwise, NaN where the gap is 0."""
    shift, gap = np.asarray(shift, dtype=float), np.asarray(gap, dtype=float)
    return np.divide(shift, gap, out=np.full(np.broadcast(shift, gap).shape, np.nan), where=gap != 0)


def closure(a: ArrayLike, b: ArrayLike, c: ArrayLike, *, n_resamples: int = 10_000, seed: int = 0) -> Closure:
    """Return how much of the gap from A to C is closed by B, with a BCa interval.

    closure = (mean B − mean A) / (mean C − mean A)
    a, b, c: [prompt], paired by prompt; a prompt with a NaN in any of them is left out. 1 is C's level, 0 is A's, below 0 is
    away from C, whether the metric rises or falls from A to C. The interval resamples prompts, numerator and denominator
    together; its ends are NaN, and `separated` is False, if the 95 % interval of mean(C − A) holds 0. With fewer than two
    prompts nothing is known: all is NaN. StatisticsError if the arrays differ in length.
    """
    a, b, c = (np.asarray(values, dtype=float) for values in (a, b, c))
    if not a.shape == b.shape == c.shape or a.ndim != 1:
        raise StatisticsError(
            f"A closure needs A, B and C paired by prompt: got {a.shape}, {b.shape} and {c.shape}."
        )
    pairs = np.stack([b - a, c - a], axis=1)
    pairs = pairs[~np.isnan(pairs).any(1)]
    if len(pairs) < 2:
        return Closure(NOTHING, np.nan, False, NOTHING, NOTHING, len(pairs))
    both = bca_mean(pairs, n_resamples=n_resamples, seed=seed)
    shift, gap = (Interval(*(float(end[i]) for end in both)) for i in (0, 1))
    separated = gap.low > 0 or gap.high < 0
    each = ratio(*pairs[pairs[:, 1] != 0].T)
    return Closure(
        _of_means(pairs, separated, n_resamples, seed), float(each.mean()) if len(each) else np.nan,
        separated, shift, gap, len(pairs),
    )  # fmt: skip


def _of_means(pairs, separated, n_resamples, seed):
    """Return the ratio of the means of shift and gap, [prompt, 2], with its interval if the gap is separated from 0."""
    if not separated:
        return Interval(float(ratio(*pairs.mean(0))), *NO_ENDS)
    found = bca_of_sums(pairs, lambda sums: ratio(*sums.T)[:, None], n_resamples=n_resamples, seed=seed)
    return Interval(*(float(end[0]) for end in found))


def of_means(a: float, b: float, c: float) -> Closure:
    """Return the closure of three mean levels alone, such as published ones: no interval, `separated` False, n 0."""
    shift, gap = Interval(b - a, *NO_ENDS), Interval(c - a, *NO_ENDS)
    return Closure(Interval(float(ratio(b - a, c - a)), *NO_ENDS), np.nan, False, shift, gap, 0)


def mean_of_closures(closures: Iterable[Closure]) -> FamilyClosure:
    """Return the closure over families in two ways, as the mean of the families' ratios and as the ratio of pooled means.

    mean_of_ratios = mean_f (B_f − A_f) / (C_f − A_f);  ratio_of_means = Σ_f (B_f − A_f) / Σ_f (C_f − A_f)
    A family whose ratio is NaN is left out. The study publishes the mean of ratios of six families.
    """
    known = list(closures)
    ratios = np.array([each.ratio_of_means.mean for each in known], dtype=float)
    certain = np.array([each.separated for each in known], dtype=bool) & ~np.isnan(ratios)
    shift, gap = (float(np.nansum([getattr(each, name).mean for each in known])) for name in ("shift", "gap"))
    ratios_known = ratios[~np.isnan(ratios)]
    return FamilyClosure(
        _mean(ratios_known), _mean(ratios[certain]), float(ratio(shift, gap)), len(ratios_known), int(certain.sum())
    )  # fmt: skip


def _mean(values):
    """Return the mean of values, NaN if there is none."""
    return float(values.mean()) if len(values) else np.nan
