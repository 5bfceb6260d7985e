"""The quantities of exp12, from one pair's dataset. Ratings and classes are those of the rubric judge, which follows rules.

Names end in the condition: A (PT), B (PT with IT's late MLPs), C (IT in its chat format), or in two conditions for a
difference, first less second: B_A. `scrambled` is the control of B, a change as large in no direction of use.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import stats as scipy_stats

from nbhelpers.core.closure import Closure, closure, ratio
from nbhelpers.core.stats import Interval
from nbhelpers.measures.behaviour import OUTCOMES, RUBRIC, Paired, compared, new_thread, outcome
from nbhelpers.report.families import FEWEST
from nbhelpers.report.quantities import Quantities, Quantity, levels, shifts

CONDITIONS = {"A": "A", "B": "B_late", "C": "C", "scrambled": "B_late_scrambled"}
PAIRS = (("B", "A"), ("C", "A"), ("scrambled", "A"), ("B", "scrambled"))
MAIN = ("s2_not_answered", "g2", "g1", "s1_refuses")  # the study's four, in the order of its claims
RULED = ("incoherent", "structure", "format", "choice", "arithmetic", "fact")  # scores of `scoring.METRICS`
CLOSED = {"g1": "g1", "g2": "g2", "s2_not_answered": "s2", "s1_refuses": "s1"}
REFUSED = "s1_refuses_B_A"
# The study judged its G2 on conversation alone in this experiment; requests to explain were never judged.
G2 = "g2"
RULES = "rated by rules; published by an LLM judge that its files do not name"
BARE = "harmless requests are wrapped as harmful ones are; the study's were not"
CLASS = "published as one class with refusals"
NOTES = {"g1": RULES, "g2": RULES, "s1_refuses": RULES, "s1_incoherent": RULES, "s1_complies": RULES}
SET = ("content_fact", "content_reason", "format", "conversation", "register", "harmful", "harmless", "easy")
OWN_SET = "the study's set; the pairs here answer a set of their own text world"
OWN_RUN = "a count of the study's own run"
UNMEASURED = {
    **{f"dataset.{name}": OWN_SET for name in (*SET, "printed", "total")},
    **{f"coverage.{name}": OWN_RUN for name in ("replies", "max_new_tokens", "verdicts")},
    "agreement.judge_human_kappa": "no person's labels ship; once there are some, the same code gives κ",
}


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp12's quantities: outcomes by condition, their differences, gap closure, tests, and properties of replies."""
    return (
        outcomes(result) | differences(result) | closures(result) | tests(result) | unanswered(result) | replies(result)
        | missing(result)
    )  # fmt: skip


def note(name: str) -> str:
    """Return how an outcome's definition differs from the published one."""
    own = NOTES.get(name, "")
    return own or f"{RULES}; {BARE}"


def of(result: xr.Dataset, name: str, condition: str) -> xr.DataArray:
    """Return an outcome of a condition of `CONDITIONS` by prompt, [prompt]; G2 on conversation alone, as the study's."""
    values = outcome(result, name, CONDITIONS[condition])
    return values.where(result["category"] == "conversation").drop_vars("category") if name == G2 else values


def bare(values: xr.DataArray) -> xr.DataArray:
    """Return values without coordinates beside the prompt."""
    return values.reset_coords(drop=True)


def outcomes(result: xr.Dataset) -> Quantities:
    """Return `<outcome>_<condition>`: mean ratings and shares of classes."""
    found = {}
    for name, asked in OUTCOMES.items():
        each = {f"{name}_{c}": bare(of(result, name, c)) for c in CONDITIONS}
        found |= levels(each, asked.unit, note(name))
    return found


def differences(result: xr.Dataset) -> Quantities:
    """Return `<outcome>_<condition>_<base>`: paired differences; `g2_register_…` on requests to explain or describe."""
    found = {}
    for name, asked in OUTCOMES.items():
        each = {f"{name}_{c}_{base}": bare(of(result, name, c) - of(result, name, base)) for c, base in PAIRS}
        found |= shifts(each, asked.unit, note(name))
    register = result["category"] == "register"
    each = {c: outcome(result, G2, CONDITIONS[c]).where(register) for c in CONDITIONS}
    more = {f"g2_register_{c}_{base}": bare(each[c] - each[base]) for c, base in PAIRS}
    return found | shifts(more, "points", RULES)


def gap(result: xr.Dataset, name: str) -> Closure | None:
    """Return the closure (B − A) / (C − A) of an outcome; None with fewer prompts than an interval needs.

    It has no interval if B − A is the same for all prompts, such as 0: resampling them shows no spread.
    """
    levels_of = [of(result, name, c).values for c in ("A", "B", "C")]
    if (~np.isnan(sum(levels_of))).sum() < FEWEST:
        return None
    found = closure(*levels_of)
    alike = found.shift.low == found.shift.high
    return (
        found._replace(ratio_of_means=Interval(found.ratio_of_means.mean, np.nan, np.nan)) if alike else found
    )


def closures(result: xr.Dataset) -> Quantities:
    """Return `<task>_closure`: the share of the way from A to C that B goes, (B − A) / (C − A), a ratio of means.

    It has no value where C − A is not separated from zero.
    """
    found = {}
    for name, short in CLOSED.items():
        made = gap(result, name)
        value = made.ratio_of_means if made and made.separated else np.nan
        found[f"{short}_closure"] = Quantity(value, "1", "level", 0.0, note(name))
    return found


def tests(result: xr.Dataset) -> Quantities:
    """Return the paired tests of B against A: `<outcome>_p`, `…_fell`, `…_rose`, `…_wins` (ties half).

    McNemar's exact test for shares, with b and c as fell and rose; Wilcoxon's signed ranks for ratings.
    """
    found = {}
    for name in OUTCOMES:
        made = paired(result, name, "B", "A")
        found |= levels({f"{name}_p": made.p, f"{name}_wins": made.wins}, "1")
        found |= levels({f"{name}_fell": float(made.fell), f"{name}_rose": float(made.rose)}, "prompts")
    return found


def paired(result: xr.Dataset, name: str, condition: str, base: str) -> Paired:
    """Return the paired test of an outcome between two conditions."""
    before, after = (of(result, name, each).values for each in (base, condition))
    return compared(before, after, shares=bool(OUTCOMES[name].held))


class Stopping(NamedTuple):
    """A change of an outcome, and its `part` from the prompts of which one reply goes on to a question of its own and the
    other does not, a sum over them divided by n; `moved` counts them, n the prompts with a value.
    """

    change: float
    part: float
    moved: int
    n: int


def stopping(result: xr.Dataset, name: str, condition: str = "B", base: str = "A") -> Stopping:
    """Return how much of a change of an outcome comes from prompts whose stopping changes; NaN without a prompt."""
    change = (of(result, name, condition) - of(result, name, base)).values
    before, after = (by_rule(result, "thread", CONDITIONS[c]).values for c in (base, condition))
    known, moved = ~np.isnan(change), before != after
    n = int(known.sum())
    if not n:
        return Stopping(np.nan, np.nan, 0, 0)
    part = float(change[known & moved].sum()) / n
    return Stopping(float(change[known].mean()), part, int((known & moved).sum()), n)


def unanswered(result: xr.Dataset) -> Quantities:
    """Return `s2_babble_share_<condition>`: of the harmless requests that are not answered, the share not engaged with.

    And `s2_refused_share_<condition>`, the share refused. NaN where all are answered.
    """
    found = {}
    for c in CONDITIONS:
        whole = float(of(result, "s2_not_answered", c).mean())
        for short, name in (("babble", "s2_does_not_engage"), ("refused", "s2_refuses")):
            part = float(of(result, name, c).mean())
            found[f"s2_{short}_share_{c}"] = part / whole if whole else np.nan
    return levels(found, "1", CLASS)


def replies(result: xr.Dataset) -> Quantities:
    """Return what replies are like: `n_tokens_<condition>`, and shares `capped_…`, `thread_…` (goes on to a question of
    its own), and the scores by rules of `RULED`; with B − A of each.
    """
    found = {}
    for name in ("n_tokens", "capped", "thread", *RULED):
        each = {c: by_rule(result, name, CONDITIONS[c]) for c in CONDITIONS}
        unit = "tokens" if name == "n_tokens" else "1"
        found |= levels({f"{name}_{c}": values for c, values in each.items()}, unit)
        found |= shifts({f"{name}_{c}_{base}": each[c] - each[base] for c, base in PAIRS}, unit)
    return found


def by_rule(result: xr.Dataset, name: str, condition: str) -> xr.DataArray:
    """Return the length, a property or a score by rules of a condition's replies, [prompt]."""
    if name == "thread":
        return bare(new_thread(result, condition))
    if name in RULED:
        return bare(result["score"].sel(metric=name, condition=condition)).astype(float)
    return bare(result[name].sel(condition=condition)).astype(float)


def missing(result: xr.Dataset) -> Quantities:
    """Return `missing_<task>_<condition>`: requests on which the rubric judge was asked and gave no verdict."""
    none = result["missing"].sel(judge=RUBRIC)
    found = {
        f"missing_{task}_{c}": float(none.sel(task=task, condition=condition).sum())
        for task in none["task"].values for c, condition in CONDITIONS.items()
    }  # fmt: skip
    return levels(found, "replies")


def across(found: Mapping[str, Quantities]) -> Quantities:
    """Return what the study publishes of all families together, from {family: quantities}; `n_unchanged` counts families.

    closure_of_means = Σ (B − A) / Σ (C − A) over families, a name for each task
    """

    def means(name):
        return np.array([float(each[name].values.mean()) for each in found.values()])

    shares = {}
    for name, short in CLOSED.items():
        shares[f"{short}_closure_of_means"] = ratio_of_means(means(f"{name}_B_A"), means(f"{name}_C_A"))
    same = {f"n_unchanged.{REFUSED}": float((means(REFUSED) == 0).sum())}
    return levels(shares, "1", RULES, centre=0.0) | levels(same, "families", RULES)


def mean_of_ratios(shift, gap) -> float:
    """Return the mean over pairs of (B − A) / (C − A), pairs without a gap left out."""
    return float(np.nanmean(ratio(shift, gap))) if np.any(gap) else np.nan


def ratio_of_means(shift, gap) -> float:
    """Return Σ (B − A) / Σ (C − A) over pairs, NaN if the sum of the gaps is 0."""
    return float(ratio(np.sum(shift), np.sum(gap)))


def jackknife(estimate: Callable, shift, gap) -> Interval:
    """Return an estimate of pairs' shifts and gaps, [pair] each, with a 95 % interval in which a pair is one value.

    Pseudo-values n θ − (n − 1) θ₋ᵢ, of which the mean ± t · sd / √n are the ends around θ: of a mean of ratios this is the t
    interval. Ends are NaN with fewer than three pairs with a value. Tukey (1958), Ann. Math. Stat. 29.
    """
    both = np.stack([shift, gap]).astype(float)
    both = both[:, ~np.isnan(both).any(0)]
    n, whole = both.shape[1], estimate(*both) if both.shape[1] else np.nan
    if n < 3 or np.isnan(whole):
        return Interval(whole, np.nan, np.nan)
    without = np.array([estimate(*np.delete(both, i, axis=1)) for i in range(n)])
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    reach = float(scipy_stats.t.ppf(0.975, n - 1) * error)
    return Interval(whole, whole - reach, whole + reach)


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "*_closure": ("closure", closures),
    "*_closure_of_means": ("closure_table", across),
    "n_unchanged.*": ("class_changes_s1", across),
    "s1_*_?_A": ("class_changes_s1", differences),
    "s2_*_?_A": ("class_changes", differences),
    "g?_?_A": ("changes", differences),
    "g2_register_*": ("changes", differences),
    "s1_*_[ABC]": ("classes_s1", outcomes),
    "s2_not_answered_[ABC]": ("main_figure", outcomes),
    "s2_*_share_*": ("unanswered", unanswered),
    "s2_*_[ABC]": ("unanswered", outcomes),
    "g?_[ABC]": ("ratings", outcomes),
    "[gs]?_*": ("tests", tests),
    "missing_*": ("missing", missing),
    "*": ("replies", replies),
}
