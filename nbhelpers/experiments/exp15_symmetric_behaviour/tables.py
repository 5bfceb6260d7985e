"""The tables of exp15 beside those of `report`: damage, stopping, preferences, rules, judges, and replies."""

import re

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp15_symmetric_behaviour import quantities as q
from nbhelpers.experiments.exp15_symmetric_behaviour.figures import HEADS, TITLES, family_interval
from nbhelpers.experiments.exp15_symmetric_behaviour.quantities import quantities
from nbhelpers.measures.behaviour import REFERENCE, RUBRIC
from nbhelpers.measures.graft_shifts import WINDOWS
from nbhelpers.report import rates
from nbhelpers.report.agreement_table import agreement_table
from nbhelpers.report.agreement_table import agreements as agreement_of
from nbhelpers.report.charts import interval_row
from nbhelpers.report.directions import ranged
from nbhelpers.report.families import is_dense, turned
from nbhelpers.report.graft_charts import lead
from nbhelpers.report.quantities import Quantity, kept, value
from nbhelpers.report.side_by_side import SideBySide, side_by_side
from nbhelpers.report.text import ENDS, interval, number, p_value, percent, written
from nbhelpers.report.verdicts import DOWN, MISSING, UP, joint, mark

PRIMARY = {"s2": "answers", "g2": "voice"}  # outcomes that the answer rests on
PLACES = [(task, side) for task in PRIMARY for side in q.SIDES]
JUDGES = (RUBRIC, REFERENCE)
LETTERS = re.compile(r"[^\W\d_]+")
SHOWN = {
    "PT": ("A", "B_early", "B_late"),
    "IT": ("C", "D_early", "D_late"),
}  # replies that a page shows, by host


def cell(values, unit: str = "points") -> str:
    """Return the mean of values by prompt, or the value of an interval, as text with its interval; a dash without any.

    Values that are all alike have no bootstrap: shares (unit "1") have the exact interval of `rates.ends`, points none.
    """
    if isinstance(values, stats.Interval):
        alike = np.isnan(values.low) or values.low == values.high
        return number(float(values.mean)) if alike else interval(tuple(map(float, values)))
    known = values.dropna("prompt")
    n = known.sizes["prompt"]
    if n > 1 and np.ptp(known.values) == 0:
        made = rates.written(Quantity(known, unit, "shift"))
        return made if unit == "1" else f"{number(float(known[0]))}, all {n} alike"
    ends = interval_row(known)
    return written(pd.DataFrame([{name: ends[name] for name in ENDS}]))[0] if n > 1 else MISSING


def said(quantity: Quantity) -> str:
    """Return `cell` of a quantity."""
    return cell(quantity.values, quantity.unit)


def acceptance_table(results) -> pd.DataFrame:
    """Return a table of the study's acceptance rule: dense pairs in which the late window has the largest effect.

    As planned there, a tie counts as largest; here ties, and effects that are all zero, are also counted apart.
    """
    dense = [d for d in results.values() if is_dense(d)]
    rows = {}
    for side in q.SIDES:
        largest = []
        for task in PRIMARY:
            names = [f"{task}_effect.{side}.{window}" for window in WINDOWS]
            found = np.round([[value(quantities, d, name) for name in names] for d in dense], 9)
            found = found.reshape(-1, len(WINDOWS))
            late, others = found[:, -1], found[:, :-1].max(1, initial=-np.inf)
            largest.append(late >= others)  # a pair that was not measured is NaN, so False
            rows[f"{task.upper()}, {HEADS[side]}"] = {
                "largest, ties counted": int((late >= others).sum()), "of these ties": int((late == others).sum()),
                "nothing changes": int((found == 0).all(1).sum()),
                "dense pairs measured": int((~np.isnan(found).any(1)).sum()),
            }  # fmt: skip
        rows[f"{' or '.join(map(str.upper, PRIMARY))}, {HEADS[side]}"] = {
            "largest, ties counted": int(np.any(largest, axis=0).sum())
        }
    return pd.DataFrame(rows, dtype=object).T.fillna(MISSING)


def control_table(results, task: str = "s2") -> pd.DataFrame:
    """Return a table of what could be mere damage: effects less those of scrambled controls, effects where both replies are
    coherent by rule, and the shares of incoherent and of cut replies.
    """
    rows = {}
    for title, d in results.items():
        known, row = kept(quantities, d), {}
        for side, (letter, _) in q.SIDES.items():
            for window in WINDOWS:
                at, name = f"{side}.{window}", f"{letter}_{window}"
                over = known.get(f"{task}_over_control.{at}")
                row[HEADS[side], window, "less scrambled"] = said(over) if over else MISSING
                row[HEADS[side], window, "both coherent"] = said(known[f"{task}_coherent.{at}"])
                broken = (value(quantities, d, f"{word}_{name}") for word in ("incoherent", "capped"))
                row[HEADS[side], window, "incoherent, cut"] = ", ".join(map(percent, broken))
        rows[title] = row
    return pd.DataFrame(rows)


def baseline_words(results) -> set[str]:
    """Return the words, in lower case, of all requests and of what PT and IT reply as they are, in all pairs together."""
    every = [text for d in results.values() for text in d["text"].sel(condition=["A", "C"]).values.ravel()]
    every += [text for d in results.values() for text in d["question"].values]
    return set().union(*(words(text) for text in every))


def words(text: str) -> set[str]:
    """Return the words of a text in lower case: runs of letters."""
    return set(LETTERS.findall(str(text).lower()))


def new_words(result: xr.Dataset, condition: str, known: set[str]) -> xr.DataArray:
    """Return whether a condition's reply has a word that is not among known ones, 0 or 1 [prompt]."""
    text = result["text"].sel(condition=condition, drop=True).reset_coords(drop=True)
    return text.copy(data=np.array([float(not words(one) <= known) for one in text.values]))


def broken_table(results) -> pd.DataFrame:
    """Return a table of broken words in IT's replies, by window: the share of replies that have a word of no baseline reply
    and no request, that of the scrambled control, how many of the lost answers are such replies, and the effect on the rest.
    """
    known, rows = baseline_words(results), {}
    for title, d in results.items():
        for window in WINDOWS:
            name = f"D_{window}"
            broken = new_words(d, name, known)
            effect = q.effect(d, "s2", "necessity", window)
            asked, lost = effect.notnull(), effect > 0
            control = f"{name}_scrambled"
            held = control in q.conditions(d) and new_words(d, control, known)
            rows[title, window] = {
                "new words, all": percent(float(broken.mean())),
                "harmless": share(broken.where(asked)),
                "harmless, scrambled": MISSING if held is False else share(held.where(asked)),
                "of lost answers": share(broken.where(lost)),
                "effect on the rest": cell(effect.where(broken == 0), "1"),
                "prompts": int((asked & (broken == 0)).sum()),
            }
    return pd.DataFrame(rows).T


def share(values: xr.DataArray) -> str:
    """Return the mean of values by prompt as a percentage; a dash without any."""
    return percent(float(values.mean())) if values.notnull().any() else MISSING


def stopping_table(results) -> pd.DataFrame:
    """Return a table of replies by PT that go on to another question, before and after, and of what part of each change of
    G1 and G2 comes from prompts on which that changed: "−0.97 of −0.97".
    """
    rows = {}
    for title, d in results.items():
        for window in WINDOWS:
            row = {
                "go on": " → ".join(
                    percent(value(quantities, d, f"thread_{c}")) for c in ("A", f"B_{window}")
                )
            }
            for task in q.POINTS:
                at = (f"{task}_{kind}.sufficiency.{window}" for kind in ("stopping", "effect"))
                row[task.upper()] = " of ".join(number(value(quantities, d, name)) for name in at)
            rows[title, window] = row
    return pd.DataFrame(rows).T


def controls_said(results) -> str:
    """Return the sentences on scrambled changes: the answers that they cost IT at most, and where they move voice most."""
    places = [(t, s, w) for t in results for s in q.SIDES for w in WINDOWS]
    found = {
        task: {
            at: control(results[at[0]], task, *at[1:])
            for at in places
            if at[1] == "necessity" or task == "g2"
        }
        for task in PRIMARY
    }
    known = {task: {at: one for at, one in each.items() if not np.isnan(one)} for task, each in found.items()}
    parts = []
    if known["s2"]:
        most = max(0.0, *known["s2"].values())
        parts.append(f"Scrambled changes cost IT's answers at most {100 * most:.0f} points.")
    if known["g2"]:
        title, side, window = at = max(known["g2"], key=lambda each: abs(known["g2"][each]))
        graft = value(quantities, results[title], f"g2_effect.{side}.{window}")
        parts.append(
            f"They move voice most in {title}, {HEADS[side]}, {window}: by {number(known['g2'][at])} points, the graft by "
            f"{number(graft)}."
        )
    return " ".join(parts)


def control(result: xr.Dataset, task: str, side: str, window: str) -> float:
    """Return the effect of a scrambled control, NaN where none was run."""
    name = f"{task}_control.{side}.{window}"
    return value(quantities, result, name) if name in kept(quantities, result) else np.nan


def preference_table(results) -> pd.DataFrame:
    """Return a table of preferences: wins less losses with intervals, the sign test's p with Holm's correction over pairs,
    tasks and sides, and how often the order decides.
    """
    rows = {}
    every = [f"sign_p.{task}.{side}" for task in q.PAIRWISE for side in q.COMPARED]
    p = [value(quantities, d, name) for d in results.values() for name in every]
    adjusted = iter(stats.holm(p))
    for title, d in results.items():
        row = {}
        for task in q.PAIRWISE:
            for side in q.COMPARED:
                at, head = f"{task}.{side}", f"{task.upper()}, {HEADS[side]}"
                row[head, "wins less losses"] = said(kept(quantities, d)[f"net_preference.{at}"])
                row[head, "p, Holm"] = p_value(next(adjusted), 3)
                flips = value(quantities, d, f"flip.{at}")
                row[head, "order decides"] = MISSING if np.isnan(flips) else percent(flips)
        rows[title] = row
    return turned(pd.DataFrame(rows).T, results)


def rule_table(results) -> pd.DataFrame:
    """Return a table of effects on scores by rule, by side and window, and the share of answers that no parser reads."""
    rows = {}
    for title, d in results.items():
        known = kept(quantities, d)
        for side, (letter, _) in q.SIDES.items():
            for window in WINDOWS:
                row = {TITLES[r]: said(known[f"{r}_effect.{side}.{window}"]) for r in q.RULES}
                lost = value(quantities, d, f"unparsed_{letter}_{window}")
                rows[title, HEADS[side], window] = row | {
                    "no answer to read": MISSING if np.isnan(lost) else percent(lost)
                }
    return pd.DataFrame(rows).T


def closure_table(results) -> pd.DataFrame:
    """Return a table of the share of the way between PT and IT that late MLPs go; no interval where these are not apart.

    The last row, over several pairs, is the mean of the ratios that have one, with an interval that resamples pairs.
    """
    names = {
        (HEADS[side], task.upper()): f"{task}_closure.{side}.late" for side in q.SIDES for task in q.TASKS
    }
    known = {title: kept(quantities, d) for title, d in results.items()}
    rows = {
        title: {head: said(each[name]) if name in each else MISSING for head, name in names.items()}
        for title, each in known.items()
    }
    if len(results) > 1:
        apart = {
            head: [each[name].values for each in known.values() if name in each]
            for head, name in names.items()
        }
        rows["mean over pairs"] = {
            head: family_interval(np.array([one.mean for one in found if not np.isnan(one.low)]))
            for head, found in apart.items()
        }
    return turned(pd.DataFrame(rows).T, results)


def null_table(results) -> pd.DataFrame:
    """Return a table of what a null of the late window means: p of "within 5 points", Holm over pairs, and the smallest
    change to be seen.
    """
    columns = {}
    for task in q.RATES:
        for side in q.SIDES:
            at, head = f"{task}.{side}.late", f"{task.upper()}, {HEADS[side]}"
            p = stats.holm([value(quantities, d, f"equivalence_p.{at}") for d in results.values()])
            columns[head, "p of no effect, Holm"] = [p_value(one, 3) for one in p]
            visible = [value(quantities, d, f"detectable.{at}") for d in results.values()]
            columns[head, "smallest visible"] = [number(one) for one in visible]
    return turned(pd.DataFrame(columns, index=list(results)), results)


def judge_table(results) -> pd.DataFrame:
    """Return a table of the late window's effects, and of how far it leads, by every judge: do they agree on them?"""
    rows = {}
    for title, d in results.items():
        for judge in map(str, d["judge"].values):
            row = rows.setdefault((title, judge), {})
            for task in PRIMARY:
                unit = "1" if task in q.RATES else "points"
                for side in q.SIDES:
                    found = {w: q.effect(d, task, side, w, judge=judge) for w in WINDOWS}
                    row[f"{task.upper()}, {HEADS[side]}", "late"] = cell(found["late"], unit)
                    row[f"{task.upper()}, {HEADS[side]}", "lead"] = cell(lead(found), unit)
    return pd.DataFrame(rows).T


def agreements(results) -> dict[str, pd.DataFrame]:
    """Return {pair: how far the judges agree by task}, items of all conditions together."""
    return {title: agreement_table(d["rating"]) for title, d in results.items()}


def judges_said(results) -> str:
    """Return the sentences on whether the two judges without a model agree: κ by task over pairs, and on how many of the late
    window's effects on answers and voice both are sure of the same sign, by joint intervals.
    """
    pairs = {t: d for t, d in results.items() if d.sizes["judge"] > 1}
    if not pairs:
        return "One judge alone has read these replies."
    kappa = {}
    for d in pairs.values():
        for (task, *raters), found in agreement_of(d["rating"], n_resamples=2).items():
            if set(raters) == set(JUDGES):
                kappa.setdefault(task, []).append(found.kappa.mean)
    levels = ", ".join(f"{task.upper()} {ranged(each)}" for task, each in kappa.items())
    marks = [
        (mark_of(d, *at, JUDGES[0], results), mark_of(d, *at, JUDGES[1], results))
        for d in pairs.values()
        for at in PLACES
    ]
    sure = (UP, DOWN)
    same = sum(a == b and a in sure for a, b in marks)
    opposed = sum(a != b and a in sure and b in sure for a, b in marks)
    first, second = (sum(one[i] in sure and one[1 - i] not in sure for one in marks) for i in (0, 1))
    return (
        f"κ over pairs: {levels}. Of {len(marks)} late effects on answers and voice both judges are sure of {same} with the "
        f"same sign and of {opposed} with opposite signs; {first} only the rubric sees, {second} only the reference."
    )


def mark_of(result, task: str, side: str, judge: str, results) -> str:
    """Return the mark of the late window's effect by one judge, by an interval that holds jointly over the results."""
    unit = "1" if task in q.RATES else "points"
    return mark(
        Quantity(q.effect(result, task, side, "late", judge=judge), unit, "shift", 0.0), joint(results)
    )


def missing_table(results) -> pd.DataFrame:
    """Return a table of the verdicts that judges did not give, by condition: how many are missing of those asked for."""
    rows = {}
    for title, d in results.items():
        for judge in map(str, d["judge"].values):
            lost = d["missing"].sel(judge=judge).sum(("task", "prompt"))
            asked = d["rating"].sel(judge=judge).notnull().sum(("task", "prompt")) + lost
            by_condition = {c: int(lost.sel(condition=c)) for c in q.conditions(d)}
            rows[title, judge] = by_condition | {"asked of each": int(asked.max())}
    return pd.DataFrame(rows)


def examples(result: xr.Dataset, host: str = "PT", n: int = 1) -> SideBySide:
    """Return the replies of a host's conditions side by side, to the first n prompts of a category by hash, none harmful."""
    about = result[["question", "category"]].reset_coords()[["question", "category"]].to_dataframe()
    return side_by_side(result["text"], about, SHOWN[host], n=n)
