"""Rates by prompt, and changes of them: exact intervals and tests where few prompts differ, or none.

A bootstrap of values that are all alike has no width, however few the prompts are.
"""

import numpy as np
import xarray as xr
from scipy import stats as scipy_stats

from nbhelpers.core import dose_stats
from nbhelpers.core.stats import Interval
from nbhelpers.report.quantities import Quantity
from nbhelpers.report.text import interval, number
from nbhelpers.report.verdicts import bounds


def unseen(n: int, confidence: float = 0.95) -> float:
    """Return the largest share of prompts that may differ although none of n does, 1 − ((1 − confidence) / 2)^(1/n).

    It is the upper end of Clopper and Pearson's interval of 0 of n.
    """
    return 1 - ((1 - confidence) / 2) ** (1 / n)


def ends(quantity: Quantity, confidence: float = 0.95) -> Interval:
    """Return the mean of a rate by prompt, or of a change of one, with its interval: BCa, or exact if all prompts are alike.

    Of values that are all alike, as many prompts may differ as `unseen` says, each by at most 1. With too few prompts the
    ends are NaN.
    """
    found = Interval(*bounds(quantity, confidence))
    if isinstance(quantity.values, Interval) or not np.ndim(quantity.values):
        return found
    known = quantity.values.dropna(quantity.values.dims[0]).values
    if not len(known) or np.ptp(known) > 0 or np.isnan(found.low):
        return found
    least, reach = (-1.0 if quantity.kind == "shift" else 0.0), unseen(len(known), confidence)
    return Interval(found.mean, max(found.mean - reach, least), min(found.mean + reach, 1.0))


def written(quantity: Quantity, digits: int = 2) -> str:
    """Return a rate or a change of one as text, with the interval of `ends`; a dash if it was not measured."""
    found = ends(quantity)
    return number(found.mean, digits) if np.isnan(found.low) else interval(found, digits)


def exact_p(change: xr.DataArray) -> float:
    """Return McNemar's exact p of changes of an outcome that is 0 or 1, [prompt]; NaN without a prompt, 1 if none changes."""
    known = change.dropna(change.dims[0]).values
    return dose_stats.mcnemar(known < 0, known > 0).p if len(known) else np.nan


def sure_change(quantity: Quantity, confidence: float = 0.95) -> Interval:
    """Return the mean change of an outcome that is 0 or 1 with an interval that leaves out zero only if McNemar's exact test
    does.

    It spans the interval of `ends` and the exact one of the sign among the prompts that change: with g of m changes upwards,
    (2p − 1) m / n for p in Clopper and Pearson's interval of g of m.
    """
    found, change = ends(quantity, confidence), quantity.values
    known = change.dropna(change.dims[0]).values
    moved = int((known != 0).sum())
    if np.isnan(found.low) or not moved:
        return found
    ups = scipy_stats.binomtest(int((known > 0).sum()), moved).proportion_ci(confidence, "exact")
    low, high = ((2 * p - 1) * moved / len(known) for p in ups)
    return Interval(found.mean, min(found.low, low), max(found.high, high))
