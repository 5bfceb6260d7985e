"""Agreement of two raters beyond chance, whoever they are: judge and judge, judge and person, person and person.

The unit is the prompt: intervals resample prompts, with all ratings of a prompt together. Ratings without variation have no
κ and no α, which divide by the disagreement expected by chance; percent agreement and Gwet's coefficient remain.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from nbhelpers.core.resampling import bca_of_sums
from nbhelpers.core.stats import Interval, StatisticsError
from nbhelpers.measures.refusal import CLASSES

NO_VARIATION = "no variation"
NOTHING_SHARED = "nothing rated by both"
NOTHING = Interval(np.nan, np.nan, np.nan)
# The scale of each task that raters are given: its kind and its values, as `measures.judge` has them.
SCALES = {
    "g1": ("ordinal", (1, 2, 3, 4, 5)),
    "g2": ("ordinal", (1, 2, 3, 4, 5)),
    "s1": ("nominal", (0, 1, 2, 3)),
    "s2": ("nominal", tuple(range(len(CLASSES)))),
    "pairwise_g2": ("ordinal", (-1, 0, 1)),
    "pairwise_s2": ("ordinal", (-1, 0, 1)),
}


class Agreement(NamedTuple):
    """How far two raters agree on n items that both rated: percent, κ, Gwet's AC1 (AC2 if ordinal), α, with 95 % intervals.

    `note` is "" or says why a coefficient is missing.
    """

    n: int
    percent: Interval
    kappa: Interval
    ac1: Interval
    alpha: Interval
    note: str = ""


def weights(levels: Sequence[float], kind: str) -> np.ndarray:
    """Return how far two levels count as agreement, [level, level].

    w_ij = 1 − |x_i − x_j| / (max x − min x) if ordinal, else 1 where x_i = x_j and 0 elsewhere
    """
    if kind not in ("ordinal", "nominal"):
        raise StatisticsError(f"Ratings are ordinal or nominal, not {kind!r}.")
    levels = np.asarray(levels, dtype=float)
    apart = np.abs(levels[:, None] - levels)
    return 1 - apart / (np.ptp(levels) or 1) if kind == "ordinal" else (apart == 0).astype(float)


def table(a: ArrayLike, b: ArrayLike, levels: Sequence[float]) -> np.ndarray:
    """Return how often rater a gave level i and rater b level j, [prompt, i, j].

    a, b: [prompt, …]; an item that one of them left out (NaN) is not counted. StatisticsError if they differ in shape or hold
    a rating that is no level.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise StatisticsError(f"Ratings must be of the same items: got {a.shape} and {b.shape}.")
    levels = np.asarray(levels, dtype=float)
    strange = np.setdiff1d(np.concatenate([a[~np.isnan(a)], b[~np.isnan(b)]]), levels)
    if len(strange):
        raise StatisticsError(
            f"The rating {strange[0]:g} is none of the levels {', '.join(f'{x:g}' for x in levels)}."
        )
    a, b = (values.reshape(len(values), -1) for values in (a, b))
    first, second = (values[:, :, None] == levels for values in (a, b))
    return np.einsum("pri,prj->pij", first.astype(float), second.astype(float))


def kappa(counts: np.ndarray, agree: np.ndarray) -> np.ndarray:
    """Return Cohen's weighted κ for tables [..., i, j].

    κ = (p_o − p_e) / (1 − p_e),  p_o = Σ_ij w_ij p_ij,  p_e = Σ_ij w_ij p_i· p_·j
    NaN where one rater gave a single level: κ is 0 there by construction, or undefined.

    Cohen (1968), Weighted kappa, Psychological Bulletin 70.
    """
    share = _share(counts)
    rows, columns = share.sum(-1), share.sum(-2)
    seen, chance = (agree * share).sum((-2, -1)), np.einsum("...i,ij,...j->...", rows, agree, columns)
    varies = (rows.max(-1) < 1 - 1e-12) & (columns.max(-1) < 1 - 1e-12)
    return _ratio(seen - chance, np.where(varies, 1 - chance, 0.0))


def gwet(counts: np.ndarray, agree: np.ndarray) -> np.ndarray:
    """Return Gwet's AC1, with ordinal weights AC2, for tables [..., i, j].

    AC = (p_o − p_e) / (1 − p_e),  p_o = Σ_ij w_ij p_ij
    p_e = Σ_ij w_ij / (k (k − 1)) · Σ_i π_i (1 − π_i),  π_i the mean share of level i
    It needs no variation: two raters who give one and the same level have 1.

    Gwet (2008), Computing inter-rater reliability in the presence of high agreement, Brit. J. Math. Stat. Psychol. 61.
    """
    share, k = _share(counts), len(agree)
    mean = (share.sum(-1) + share.sum(-2)) / 2
    chance = agree.sum() / max(k * (k - 1), 1) * (mean * (1 - mean)).sum(-1)
    return _ratio((agree * share).sum((-2, -1)) - chance, 1 - chance)


def alpha(counts: np.ndarray, kind: str) -> np.ndarray:
    """Return Krippendorff's α of two raters, for tables [..., i, j]; NaN where all ratings are one level.

    α = 1 − D_o / D_e,  D the mean squared distance of two ratings of one item (o) and of any two ratings (e)
    Ordinal levels are (Σ_{g=i..j} n_g − (n_i + n_j) / 2)² apart, n_g the ratings of level g; nominal ones 1. The package
    `krippendorff` gives the same value.

    Krippendorff (2011), Computing Krippendorff's alpha-reliability.
    """
    both = counts + np.swapaxes(counts, -2, -1)
    n = both.sum(-1)
    total = n.sum(-1)
    apart = _ordinal_distance(n) if kind == "ordinal" else 1 - np.eye(n.shape[-1])
    seen = (both * apart).sum((-2, -1)) * (total - 1)
    return 1 - _ratio(seen, (n[..., :, None] * n[..., None, :] * apart).sum((-2, -1)))


def _ordinal_distance(n):
    """Return the squared ordinal distances [..., i, j] of levels that were given n [..., i] times."""
    middle = np.cumsum(n, -1) - n / 2
    return (middle[..., :, None] - middle[..., None, :]) ** 2


def _share(counts):
    """Return counts [..., i, j] as shares of all."""
    total = counts.sum((-2, -1), keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)


def _ratio(above, below):
    """Return above / below, NaN where below is not positive."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 1e-12)


def agreement(
    a: ArrayLike,
    b: ArrayLike,
    *,
    kind: str = "ordinal",
    levels: Sequence[float] | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Return how far two raters agree, with BCa intervals over prompts.

    κ is linear-weighted and Gwet's coefficient is AC2 if ratings are ordinal; percent agreement counts equal ratings alone.

    Parameters
    ----------
    a, b
        [prompt] or [prompt, …], ratings of the same items; NaN is not rated. Further axes, such as conditions, are further
        items of the same prompt.
    kind
        "ordinal" for scores, "nominal" for classes.
    levels
        All levels of the scale, in order. Gwet's coefficient depends on how many there are; by default those that occur.

    If both gave one level throughout, κ and α are NaN and `note` is "no variation"; if one of them did, κ is NaN, which says
    nothing of that rater. With fewer than two prompts in common the ends are NaN. StatisticsError if shapes differ or a
    rating is no level.
    """
    if levels is None:
        values = np.concatenate([np.ravel(a), np.ravel(b)]).astype(float)
        levels = np.unique(values[~np.isnan(values)])
    agree, counts = weights(levels, kind), table(a, b, levels)
    counts = counts[counts.sum((1, 2)) > 0]
    n = int(counts.sum())
    if not n:
        return Agreement(0, *[NOTHING] * 4, NOTHING_SHARED)

    def all_four(tables):
        equal = np.trace(_share(tables), axis1=-2, axis2=-1)
        return np.stack([equal, kappa(tables, agree), gwet(tables, agree), alpha(tables, kind)], axis=-1)

    if len(counts) > 1:
        found = bca_of_sums(counts, all_four, n_resamples=n_resamples, seed=seed)
    else:
        found = (all_four(counts.sum(0)), *np.full((2, 4), np.nan))
    each = [Interval(*(float(end[i]) for end in found)) for i in range(4)]
    return Agreement(n, *each, _note(counts.sum(0)))


def _note(total):
    """Return why a coefficient of a table [i, j] is missing, "" if none is."""
    a, b = ((total.sum(axis) > 0).sum() < 2 for axis in (1, 0))
    if a and b and np.trace(total) == total.sum():
        return NO_VARIATION
    return {(True, True): "no variation of either rater", (True, False): "no variation of the first rater",
            (False, True): "no variation of the second rater"}.get((bool(a), bool(b)), "")  # fmt: skip


def alpha_of_all(ratings: ArrayLike, *, kind: str = "ordinal") -> float:
    """Return Krippendorff's α over any number of raters, with what some of them left out; NaN without variation.

    α = 1 − D_o / D_e, as in `alpha`
    ratings: [rater, item …], NaN is not rated.
    """
    import krippendorff

    values = np.asarray(ratings, dtype=float).reshape(len(ratings), -1)
    values = values[:, (~np.isnan(values)).sum(0) > 1]
    if len(np.unique(values[~np.isnan(values)])) < 2:
        return np.nan
    return float(krippendorff.alpha(reliability_data=values, level_of_measurement=kind))


class Accuracy(NamedTuple):
    """A judge against labels: sensitivity and specificity for one outcome, and the items labelled with and without it."""

    sensitivity: float
    specificity: float
    n_positive: int
    n_negative: int


def accuracy(judged: ArrayLike, labelled: ArrayLike) -> Accuracy:
    """Return a judge's sensitivity and specificity on items with a label.

    sensitivity = #{judged = labelled = 1} / #{labelled = 1};  specificity = #{judged = labelled = 0} / #{labelled = 0}
    judged, labelled: [item], 1 where the outcome was seen, 0 where not, NaN where not rated. NaN without an item of a kind.
    """
    judged, labelled = np.ravel(judged).astype(float), np.ravel(labelled).astype(float)
    known = ~np.isnan(judged + labelled)
    judged, labelled = judged[known] > 0.5, labelled[known] > 0.5
    rates = [each.mean() if len(each) else np.nan for each in (judged[labelled], ~judged[~labelled])]
    return Accuracy(float(rates[0]), float(rates[1]), int(labelled.sum()), int((~labelled).sum()))


def corrected_rate(observed: float, n: int, judge: Accuracy, *, confidence: float = 0.95) -> Interval:
    """Return the rate of an outcome corrected for a judge's errors, with an interval that carries those of the calibration.

    θ = (p + q₀ − 1) / (q₀ + q₁ − 1), kept within 0 and 1
    half-width = z √(p (1 − p) / n + (1 − θ)² v₀ + θ² v₁) / (q₀ + q₁ − 1),  v = q (1 − q) / m over m labelled items
    p is the observed rate among n prompts, q₁ the sensitivity and q₀ the specificity of the judge (Rogan and Gladen 1978).
    The interval adds prior counts to all three (z²/2 of z² to p, 1 of 2 to q₀ and q₁) and shifts the centre by
    2 z² (θ v₁ − (1 − θ) v₀).
    With so few labels that the judge with prior counts is no better than chance, the interval is [0, 1].
    StatisticsError if q₀ + q₁ ≤ 1, where the judge says nothing, or without labels of both kinds.

    Lee, Zeng, Jeong, Sohn and Lee (2025), How to correctly report LLM-as-a-judge evaluations, arXiv 2511.21140.
    """
    q1, q0, m1, m0 = judge
    if not m0 or not m1:
        raise StatisticsError(
            f"A rate is corrected with labels of both kinds: there are {m1} with the outcome and {m0} without it."
        )
    if q0 + q1 <= 1:
        raise StatisticsError(
            f"A judge of sensitivity {q1:.2f} and specificity {q0:.2f} is no better than chance; it corrects nothing."
        )
    rate = float(np.clip((observed + q0 - 1) / (q0 + q1 - 1), 0, 1))
    z = scipy_stats.norm.ppf((1 + confidence) / 2)
    p, q0, q1 = (n * observed + z**2 / 2) / (n + z**2), (m0 * q0 + 1) / (m0 + 2), (m1 * q1 + 1) / (m1 + 2)
    if q0 + q1 <= 1:
        return Interval(rate, 0.0, 1.0)
    theta, v0, v1 = (p + q0 - 1) / (q0 + q1 - 1), q0 * (1 - q0) / (m0 + 2), q1 * (1 - q1) / (m1 + 2)
    centre = theta + 2 * z**2 * (theta * v1 - (1 - theta) * v0)
    error = np.sqrt(p * (1 - p) / (n + z**2) + (1 - theta) ** 2 * v0 + theta**2 * v1) / (q0 + q1 - 1)
    return Interval(rate, *(float(np.clip(centre + side * z * error, 0, 1)) for side in (-1, 1)))
