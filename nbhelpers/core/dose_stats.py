"""Statistics of doses and controls: ranks among random controls, trends over doses, effect sizes, tests of "no effect".

The unit is the prompt, and conditions are paired by prompt. A NaN is a prompt that was not measured; it is left out.
`nbhelpers.core.stats` has intervals of means and Holm's correction.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from nbhelpers.core.resampling import bca_of_sums
from nbhelpers.core.stats import Interval, StatisticsError


class Trend(NamedTuple):
    """Page's L, its distance from the mean of the null in standard deviations, and the one-sided p-value."""

    statistic: float
    z: float
    p: float


class Discordance(NamedTuple):
    """How many prompts changed from 1 to 0 (`lost`, McNemar's b) and from 0 to 1 (`gained`, c), and the exact p-value."""

    lost: int
    gained: int
    p: float


class Branch(NamedTuple):
    """A rank correlation with the dose on one side of the identity: ρ, two-sided p, and the number of doses."""

    rho: float
    p: float
    n: int


def _measured(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values, dtype=float).ravel()
    return values[~np.isnan(values)]


def rank_p(observed: float, null: ArrayLike, *, two_sided: bool = False) -> float:
    """Return the rank p-value of an observed effect among those of random controls.

    p = (1 + #{null ≥ observed}) / (n + 1)
    null: [control]. two_sided: twice the smaller of both tails, at most 1, so that n = 39 controls are the fewest that can
    give 0.05. NaN without a control or an observed value.
    """
    null = _measured(null)
    if not len(null) or np.isnan(observed):
        return np.nan
    high, low = ((1 + int(tail.sum())) / (len(null) + 1) for tail in (null >= observed, null <= observed))
    return min(1.0, 2 * min(high, low)) if two_sided else high


def page_trend(values: ArrayLike, *, rises: bool = True) -> Trend:
    """Return Page's test of a trend over ordered doses, with prompts as blocks.

    L = Σ_prompt Σ_j j · rank_ij
    values: [prompt, dose], doses in order; rises: the trend that is asked for. Ties share their mean rank, and the variance
    is that of ranks permuted within a prompt, Σ_i Σ_j (j − j̄)² Σ_j (r_ij − r̄)² / (k − 1), so ties are allowed for: without
    any, it is `scipy.stats.page_trend_test` with its normal approximation. Prompts with a NaN are left out. p = 1 if no
    prompt varies.
    StatisticsError with fewer than three doses.

    Page (1963), Ordered hypotheses for multiple treatments, JASA 58.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or values.shape[1] < 3:
        raise StatisticsError(f"A trend needs [prompt, dose] with three doses or more: got {values.shape}.")
    values = values[~np.isnan(values).any(1)]
    ranks = scipy_stats.rankdata(values if rises else -values, axis=1) if len(values) else values
    order = np.arange(1, values.shape[1] + 1)
    centred = ranks - ranks.mean(1, keepdims=True) if len(values) else ranks
    spread = np.square(order - order.mean()).sum() * np.square(centred).sum() / (len(order) - 1)
    statistic = float((ranks * order).sum())
    if spread == 0:
        return Trend(statistic, 0.0, 1.0)
    z = float((centred * order).sum() / np.sqrt(spread))
    return Trend(statistic, z, float(scipy_stats.norm.sf(z)))


def prompt_slopes(values: ArrayLike, doses: ArrayLike) -> np.ndarray:
    """Return each prompt's least-squares slope over doses, [prompt], in units of the value per unit of dose.

    values: [prompt, dose]; a prompt with a NaN gives NaN. StatisticsError if all doses are equal.
    """
    doses = np.asarray(doses, dtype=float)
    centred = doses - doses.mean()
    if not centred.any():
        raise StatisticsError("A slope needs two different doses.")
    return np.asarray(values, dtype=float) @ centred / np.square(centred).sum()


def wrong_way(effects: ArrayLike, towards: int = 0) -> float:
    """Return the share of prompts that move against the expected sign.

    wrong_way = #{sgn(effect) = −towards} / #prompts
    effects: [prompt]; towards: +1 or −1, or 0 for the sign of the mean effect. NaN without a prompt; 0 if nothing moves.
    """
    effects = _measured(effects)
    if not len(effects):
        return np.nan
    sign = towards or np.sign(effects.mean())
    return float((effects * sign < 0).mean())


def equivalence(differences: ArrayLike, bound: float, *, span: float = 1.0) -> float:
    """Return the p-value of "the mean difference lies outside ±bound", from two one-sided t-tests (TOST).

    p = max(p(mean > −bound), p(mean < bound))
    differences: [prompt]. Differences that are all equal have no spread to test with; there it is the chance that not one
    of n prompts moves if a share of them moves by `span` so that the mean is at the bound: (1 − (bound − |mean|) / span)ⁿ.
    NaN with fewer than two prompts.

    Schuirmann (1987), J. Pharmacokinet. Biopharm. 15.
    """
    d = _measured(differences)
    if len(d) < 2:
        return np.nan
    if np.ptp(d) == 0:
        left = np.clip((bound - abs(d[0])) / span, 0.0, 1.0)
        return float((1 - left) ** len(d))
    error = d.std(ddof=1) / np.sqrt(len(d))
    above, below = (d.mean() + bound) / error, (bound - d.mean()) / error
    return float(scipy_stats.t.sf(min(above, below), len(d) - 1))


def detectable(
    differences: ArrayLike, *, power: float = 0.8, level: float = 0.05, span: float = 1.0
) -> float:
    """Return the smallest mean difference that a paired two-sided test on these prompts would find with this power.

    δ = t · sd / √n,  t = t_{1 − level/2} + t_{power} at n − 1 degrees of freedom,  sd the spread of the differences
    Prompts that move by `span` or not at all have a spread of at least √(δ (span − δ)) if the mean is δ, whatever little was
    seen of it, so there δ ≥ span · t² / (n + t²); this is also the answer if nothing moves. In the units of the differences;
    NaN with fewer than two prompts.
    """
    d = _measured(differences)
    if len(d) < 2:
        return np.nan
    quantiles = scipy_stats.t.ppf([1 - level / 2, power], len(d) - 1).sum()
    seen = quantiles * d.std(ddof=1) / np.sqrt(len(d))
    steps = np.ptp(d) == 0 or np.isin(np.abs(d), (0.0, span)).all()
    least = span * quantiles**2 / (len(d) + quantiles**2) if steps else 0.0
    return float(max(seen, least))


def mcnemar(before: ArrayLike, after: ArrayLike) -> Discordance:
    """Return McNemar's exact test of paired outcomes 0 or 1, [prompt] each.

    p = min(1, 2 P(X ≤ min(b, c))),  X ~ Bin(b + c, ½)
    It is 1 if no prompt changes; statsmodels computes it. StatisticsError if the arrays differ in length.
    """
    from statsmodels.stats import contingency_tables

    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if before.shape != after.shape:
        raise StatisticsError(
            f"Outcomes must be paired by prompt: got {before.shape} before and {after.shape} after."
        )
    known = ~np.isnan(before + after)
    was, now = before[known] > 0.5, after[known] > 0.5
    lost, gained = int((was & ~now).sum()), int((~was & now).sum())
    table = [[int((was & now).sum()), lost], [gained, int((~was & ~now).sum())]]
    return Discordance(lost, gained, float(contingency_tables.mcnemar(table, exact=True).pvalue))


def cohen_dz(differences: ArrayLike) -> float:
    """Return the mean of paired differences [prompt] over their standard deviation; NaN without spread.

    d_z = mean(d) / sd(d)
    """
    d = _measured(differences)
    spread = d.std(ddof=1) if len(d) > 1 else 0.0
    return float(d.mean() / spread) if spread > 0 else np.nan


def spearman_branches(doses: ArrayLike, means: ArrayLike, *, centre: float = 1.0) -> dict[str, Branch]:
    """Return the rank correlation of a mean with the dose {"below": dose ≤ centre, "above": dose ≥ centre}.

    A dose–response curve with its top at the identity has no single trend. Constant means, or fewer than three doses, give
    NaN. doses, means: [dose]; n is a number of doses, not of prompts, so p is that of the order of means alone.
    """
    doses, means = np.asarray(doses, dtype=float), np.asarray(means, dtype=float)
    known, found = ~np.isnan(means), {}
    for side, chosen in {"below": known & (doses <= centre), "above": known & (doses >= centre)}.items():
        x, y = doses[chosen], means[chosen]
        if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
            found[side] = Branch(np.nan, np.nan, len(x))
            continue
        rho, p = scipy_stats.spearmanr(x, y)
        found[side] = Branch(float(rho), float(p), len(x))
    return found


def between_groups(a: ArrayLike, b: ArrayLike, *, n_resamples: int = 10_000, seed: int = 0) -> Interval:
    """Return mean(a) − mean(b) over two disjoint sets of prompts and its BCa interval, prompts of both resampled together.

    a, b: [prompt], NaN left out. StatisticsError unless both have two prompts.
    """
    a, b = _measured(a), _measured(b)
    if min(len(a), len(b)) < 2:
        raise StatisticsError(
            f"A difference of two groups needs two prompts in each: got {len(a)} and {len(b)}."
        )
    sums = np.zeros((len(a) + len(b), 4))
    sums[: len(a), 0], sums[: len(a), 1] = a, 1
    sums[len(a) :, 2], sums[len(a) :, 3] = b, 1

    def difference(total):
        with np.errstate(invalid="ignore", divide="ignore"):
            return (total[:, 0] / total[:, 1] - total[:, 2] / total[:, 3])[:, None]

    found = bca_of_sums(sums, difference, n_resamples=n_resamples, seed=seed)
    return Interval(*(float(end[0]) for end in found))
