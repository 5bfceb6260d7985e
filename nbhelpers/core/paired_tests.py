"""Tests of paired ordinal ratings by prompt, and of effects by family: Wilcoxon's signed ranks, win shares, the sign test.

A NaN is a prompt that was not rated; it is left out. McNemar's test of paired outcomes stands in `dose_stats`, Holm's
correction in `stats`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from nbhelpers.core.stats import StatisticsError


class Changes(NamedTuple):
    """How many prompts rose, fell and stayed the same."""

    rose: int
    fell: int
    tied: int


class SignedRanks(NamedTuple):
    """Wilcoxon's two-sided p, the share of n prompts that rose (a tie counts half), and n."""

    p: float
    win_share: float
    n: int


class Signs(NamedTuple):
    """The sign test's two-sided exact p, and how many values are above and below zero."""

    p: float
    above: int
    below: int


def _differences(before: ArrayLike, after: ArrayLike) -> np.ndarray:
    """Return after − before of the prompts that both rated."""
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if before.shape != after.shape:
        raise StatisticsError(
            f"Ratings must be paired by prompt: got {before.shape} before and {after.shape} after."
        )
    differences = (after - before).ravel()
    return differences[~np.isnan(differences)]


def changes(before: ArrayLike, after: ArrayLike) -> Changes:
    """Return how many prompts rose, fell and tied from `before` to `after`, [prompt] each.

    StatisticsError if the arrays differ in length.
    """
    d = _differences(before, after)
    return Changes(int((d > 0).sum()), int((d < 0).sum()), int((d == 0).sum()))


def wilcoxon(before: ArrayLike, after: ArrayLike) -> SignedRanks:
    """Return Wilcoxon's signed-rank test of paired ratings, [prompt] each, with the share of prompts that rose.

    win_share = (#{after > before} + ½ #{after = before}) / n, so 0.5 is no shift
    p leaves ties out, as Wilcoxon does; 1 if nothing moves, NaN without a prompt. It is exact for up to 50 prompts that
    moved by different amounts, and for up to 13 otherwise; beyond, the normal approximation allows for ties.
    StatisticsError if the arrays differ in length.

    Wilcoxon (1945), Individual comparisons by ranking methods, Biometrics Bulletin 1.
    """
    d = _differences(before, after)
    if not len(d):
        return SignedRanks(np.nan, np.nan, 0)
    share = float(((d > 0) + 0.5 * (d == 0)).mean())
    moved = d[d != 0]
    return SignedRanks(_signed_rank_p(moved) if len(moved) else 1.0, share, len(d))


def _signed_rank_p(moved: np.ndarray) -> float:
    """Return the two-sided p of differences other than zero."""
    untied = len(np.unique(np.abs(moved))) == len(moved)
    if len(moved) <= EXACT and not untied:
        return _every_sign(moved)
    return float(
        scipy_stats.wilcoxon(moved, method="exact" if untied and len(moved) <= 50 else "asymptotic").pvalue
    )


EXACT = 13  # prompts for which all 2ⁿ signs are tried


def _every_sign(moved: np.ndarray) -> float:
    """Return the two-sided exact p over all signs of the ranks of |d|, ties sharing their mean rank."""
    ranks = scipy_stats.rankdata(np.abs(moved))
    signs = 1 - 2 * (np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1)
    seen = abs(float(ranks @ np.sign(moved)))
    return float((np.abs(signs @ ranks) >= seen - 1e-9).mean())


def sign_test(values: ArrayLike) -> Signs:
    """Return the exact sign test of values, such as one effect a family: are as many above zero as below?

    values: [family]; zeros and NaN are left out. p = 1 if none is left; six of six give 2 · 2⁻⁶ = 0.031.
    """
    values = np.asarray(values, dtype=float).ravel()
    above, below = int((values > 0).sum()), int((values < 0).sum())
    p = float(scipy_stats.binomtest(above, above + below).pvalue) if above + below else 1.0
    return Signs(p, above, below)
