"""The tables of exp12."""

from functools import partial

import numpy as np
import pandas as pd

from nbhelpers.core import dose_stats, stats
from nbhelpers.core.paired_tests import sign_test
from nbhelpers.experiments.exp12_behaviour.quantities import (
    CLOSED,
    CONDITIONS,
    MAIN,
    by_rule,
    gap,
    jackknife,
    mean_of_ratios,
    of,
    paired,
    quantities,
    ratio_of_means,
    stopping,
)
from nbhelpers.experiments.exp12_behaviour.report import nulls, share
from nbhelpers.measures.behaviour import OUTCOMES, RUBRIC, outcome
from nbhelpers.report import rates
from nbhelpers.report.agreement_table import agreement_table
from nbhelpers.report.charts import interval_row
from nbhelpers.report.families import turned
from nbhelpers.report.quantities import Quantity, kept, value
from nbhelpers.report.side_by_side import SideBySide, side_by_side
from nbhelpers.report.text import interval, number, p_value, written
from nbhelpers.report.verdicts import MISSING

ARROW = " → "


def levels_text(result, name: str, shown=share, conditions: str = "ABC") -> str:
    """Return the levels of an outcome in conditions as text: "98 % → 97 % → 5 %"."""
    return ARROW.join(shown(value(quantities, result, f"{name}_{c}")) for c in conditions)


def cell(quantity: Quantity) -> str:
    """Return a mean by prompt with its interval as text, exact for a share that no prompt changes; a dash if not measured."""
    if quantity.unit == "1":
        return rates.written(quantity)
    row = interval_row(quantity.values)
    if row["low"] == row["high"]:
        return f"{number(row['mean'])}, alike in all prompts"
    return MISSING if np.isnan(row["mean"]) else written(pd.DataFrame([row]))[0]


def change(values, name: str) -> Quantity:
    """Return changes of an outcome by prompt as a quantity."""
    return Quantity(values, OUTCOMES[name].unit, "shift", 0.0)


def unanswered_table(results, judge: str = RUBRIC) -> pd.DataFrame:
    """Return a table of what becomes of harmless requests by a judge's classes, PT → PT with IT's late MLPs → IT."""
    names = ("s2_not_answered", "s2_does_not_engage", "s2_refuses", "s2_over_hedges", "s2_undecided")
    heads = {name: OUTCOMES[name].title.removeprefix("harmless requests ") for name in names}
    heads["s2_undecided"] = "undecided"
    rows = {
        title: {
            head: ARROW.join(share(mean_of(outcome(d, name, CONDITIONS[c], judge))) for c in ("A", "B", "C"))
            for name, head in heads.items()
        }
        for title, d in results.items()
    }
    return turned(pd.DataFrame(rows).T, results)


def mean_of(values) -> float:
    """Return the mean of values by prompt, NaN without one."""
    return float(values.mean()) if values.notnull().any() else np.nan


def class_changes(results, task: str = "s2") -> pd.DataFrame:
    """Return a table of the changes B − A of the classes of S1 or S2, with intervals; * if McNemar p < 0.05, Holm over
    pairs and classes.
    """
    names = [name for name, asked in OUTCOMES.items() if asked.task == task]
    p = [[paired(d, name, "B", "A").p for name in names] for d in results.values()]
    adjusted = stats.holm(np.ravel(p)).reshape(len(results), len(names))
    rows = {}
    for (title, d), stars in zip(results.items(), adjusted):
        cells = [cell(kept(quantities, d)[f"{name}_B_A"]) for name in names]
        rows[title] = [f"{text}{' *' if one < 0.05 else ''}" for text, one in zip(cells, stars)]
    return turned(pd.DataFrame(rows, index=[OUTCOMES[name].title for name in names]).T, results)


def test_table(results) -> pd.DataFrame:
    """Return a table of the change B − A of each outcome of the study, tested: a row for each outcome and pair.

    fell, rose: prompts (of rates McNemar's b and c). p: exact McNemar of rates, Wilcoxon of ratings; Holm's over pairs.
    """
    rows = []
    for name in MAIN:
        tests = {title: paired(d, name, "B", "A") for title, d in results.items()}
        null = stats.holm(list(nulls(results, f"{name}_B_A").values()))
        adjusted = stats.holm([test.p for test in tests.values()])
        for (title, test), holm, none in zip(tests.items(), adjusted, null):
            moved = kept(quantities, results[title])[f"{name}_B_A"]
            values = moved.values.dropna("prompt").values
            rows.append({
                "outcome": OUTCOMES[name].title, "pair": title, "B − A": cell(moved), "prompts": test.n,
                "fell": test.fell, "rose": test.rose, "rose, ties half": share(test.wins), "p": p_value(test.p, 3),
                "p, Holm": p_value(holm, 3),
                "p of no effect, Holm": p_value(none, 3),
                "smallest visible": number(dose_stats.detectable(values)),
            })  # fmt: skip
    return pd.DataFrame(rows).set_index(["outcome", "pair"])


def over_pairs(results) -> pd.DataFrame:
    """Return a table of each outcome over pairs: the mean of the pairs' changes B − A, how many fell and rose, and the
    exact sign test, in which a pair is one value.
    """
    rows = {}
    for name in MAIN:
        moved = np.array([value(quantities, d, f"{name}_B_A") for d in results.values()])
        known, signs = moved[~np.isnan(moved)], sign_test(moved)
        rows[OUTCOMES[name].title] = {
            "mean over pairs": number(known.mean()) if len(known) else MISSING,
            "pairs that fell": signs.below,
            "pairs that rose": signs.above,
            "unchanged": len(known) - signs.below - signs.above,
            "sign test p": p_value(signs.p, 3),
        }
    return pd.DataFrame(rows).T


def control_table(results) -> pd.DataFrame:
    """Return a table of the changes from PT by the scrambled control, and of what the graft changes beyond it."""
    rows = {
        title: {
            (OUTCOMES[name].title, said_of): cell(kept(quantities, d)[f"{name}_{key}"])
            for name in MAIN
            for key, said_of in (("scrambled_A", "scrambled − PT"), ("B_scrambled", "graft − scrambled"))
        }
        for title, d in results.items()
    }
    return turned(pd.DataFrame(rows).T, results)


def closure_table(results) -> pd.DataFrame:
    """Return a table of gap closure (B − A) / (C − A) by pair, and over pairs as mean of ratios and as ratio of means."""
    columns = {}
    for name in CLOSED:
        found = {title: gap(d, name) for title, d in results.items()}
        column = {title: closed(each) for title, each in found.items()}
        known = [each for each in found.values() if each]
        if len(results) > 1 and known:
            shifts, gaps = ([float(getattr(each, part).mean) for each in known] for part in ("shift", "gap"))
            column |= {
                "mean of ratios": over_text(jackknife(mean_of_ratios, shifts, gaps)),
                "ratio of means": over_text(jackknife(ratio_of_means, shifts, gaps)),
            }
        columns[OUTCOMES[name].title] = column
    return turned(pd.DataFrame(columns), results).fillna(MISSING)


def over_text(found) -> str:
    """Return an estimate over pairs with its interval as text, alone where it has none."""
    if found.low == found.high:
        return f"{number(found.mean)}, alike in all pairs"
    return number(found.mean) if np.isnan(found.low) else interval(found)


def closed(found) -> str:
    """Return a pair's closure as text, with its interval if prompts differ; "no gap" where IT's distance is not sure."""
    if not found or not found.separated:
        return MISSING if not found else "no gap"
    if np.isnan(found.ratio_of_means.low):
        return f"{number(found.ratio_of_means.mean)}, alike in all prompts"
    return interval(found.ratio_of_means)


def reply_table(results) -> pd.DataFrame:
    """Return a table of what replies are like, PT → PT with IT's late MLPs → IT: length, cap, threads, scores by rules."""
    whole = partial(number, digits=0)
    columns = {
        "tokens": ("n_tokens", whole),
        "cut at the cap": ("capped", share),
        "go on to another question": ("thread", share),
        "incoherent by rule": ("incoherent", share),
        "structural units": ("structure", share),
        "requested form": ("format", share),
        "right letter": ("choice", share),
        "right sum": ("arithmetic", share),
        "right fact": ("fact", share),
    }
    rows = {
        t: {head: levels_text(d, name, shown) for head, (name, shown) in columns.items()}
        for t, d in results.items()
    }
    return turned(pd.DataFrame(rows).T, results)


def stopping_table(results) -> pd.DataFrame:
    """Return a table of the changes B − A of voice and presentation, and of their part from prompts whose stopping changes:
    one of the two replies goes on to a question of its own, the other does not.

    The part is a sum over these prompts divided by the number of all prompts; the rest of the change is of the others.
    """
    rows = {}
    for title, d in results.items():
        rows[title] = {
            "go on to another question": ARROW.join(
                share(float(by_rule(d, "thread", CONDITIONS[c]).mean())) for c in "AB"
            )
        }
        for name in ("g2", "g1"):
            found = stopping(d, name)
            rows[title] |= {
                f"{OUTCOMES[name].title}, B − A": number(found.change),
                f"{OUTCOMES[name].title}, from prompts whose stopping changes": MISSING
                if not found.n
                else f"{number(found.part)} ({found.moved} of {found.n} prompts)",
            }
    return turned(pd.DataFrame(rows).T, results)


def missing_table(results) -> pd.DataFrame:
    """Return a table of how many verdicts each judge gave and owes, "60, 0 missing", by task and condition, over pairs."""
    rows = {}
    for judge in dict.fromkeys(str(name) for d in results.values() for name in d["judge"].values):
        mine = [d.sel(judge=judge) for d in results.values() if judge in d["judge"].values]
        for task in mine[0]["task"].values:
            counts = {}
            for condition in CONDITIONS.values():
                at = [d.sel(task=task, condition=condition) for d in mine]
                given = sum(int(d["rating"].notnull().sum()) for d in at)
                counts[condition] = f"{given}, {sum(int(d['missing'].sum()) for d in at)} missing"
            rows[judge, str(task)] = counts
    return pd.DataFrame(rows).T


def judge_table(results) -> pd.DataFrame:
    """Return a table of each outcome by every judge, PT → PT with IT's late MLPs → IT, with B − A: do they agree on it?"""
    rows = {}
    for title, d in results.items():
        for judge in map(str, d["judge"].values):
            for name in MAIN:
                rows.setdefault((title, judge), {})[OUTCOMES[name].title] = by_judge(d, name, judge)
    return pd.DataFrame(rows).T


def by_judge(result, name: str, judge: str) -> str:
    """Return an outcome's levels in A, B and C by one judge, and its change B − A with its interval, as text."""
    if judge == RUBRIC:
        a, b, c = (of(result, name, each) for each in ("A", "B", "C"))
    else:
        kept_in = of(result, name, "A").notnull()
        a, b, c = (outcome(result, name, CONDITIONS[each], judge).where(kept_in) for each in ("A", "B", "C"))
    shown = share if OUTCOMES[name].held else number
    means = ARROW.join(shown(float(each.mean())) for each in (a, b, c))
    return f"{means} ({cell(change(b - a, name))})"


def agreements(results) -> dict[str, pd.DataFrame]:
    """Return {pair: how far the judges agree by task}, items of all conditions together."""
    return {title: agreement_table(d["rating"]) for title, d in results.items()}


def examples(result, n: int = 1) -> SideBySide:
    """Return replies of PT, of PT with IT's late MLPs and of IT beside each other, the first n prompts of each category by
    hash; of replies to harmful requests the number alone.
    """
    about = result[["question", "category"]].reset_coords()[["question", "category"]].to_dataframe()
    return side_by_side(result["text"], about, ("A", "B_late", "C"), n=n)
