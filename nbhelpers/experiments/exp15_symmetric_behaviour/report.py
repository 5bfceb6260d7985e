"""The verdict and the tables of exp15."""

from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp15_symmetric_behaviour import quantities as q
from nbhelpers.experiments.exp15_symmetric_behaviour.figures import HEADS, TITLES
from nbhelpers.experiments.exp15_symmetric_behaviour.quantities import quantities
from nbhelpers.measures.graft_shifts import WINDOWS
from nbhelpers.report.agreement_table import agreement_table
from nbhelpers.report.charts import interval_row
from nbhelpers.report.directions import LEAST, NAMES, among, claim, fitting, sentence, sides
from nbhelpers.report.families import is_dense, turned
from nbhelpers.report.graft_charts import lead
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.side_by_side import SideBySide, side_by_side
from nbhelpers.report.text import ENDS, in_words, interval, number, p_value, percent, written
from nbhelpers.report.verdicts import DOWN, MISSING, UP, Verdict, bounds, degree, joint, told

PRIMARY = {"s2": "answers", "g2": "voice"}  # outcomes that the answer rests on
MATRIX = {
    "answers, IT's late MLPs into PT": "s2_effect.sufficiency.late",
    "its lead over other windows": "s2_lead.sufficiency",
    "answers, PT's late MLPs into IT": "s2_effect.necessity.late",
    "lead of this one": "s2_lead.necessity",
    "voice, lead into PT": "g2_lead.sufficiency",
    "voice, lead into IT": "g2_lead.necessity",
}
SHOWN = ("A", "B_late", "C", "D_early", "D_late")  # conditions of the replies that a page shows


def points(share: float) -> str:
    """Return a share as points of a hundred."""
    return f"{100 * share:.0f}"


def leading(results, side: str) -> dict[str, list[str]]:
    """Return {outcome in words: the pairs in which the late window is surely ahead of the others on a side}.

    Surely: the interval of the lead is above zero, jointly over pairs, and exchanged windows rarely lead as far, with p below
    0.05 over the number of pairs. Where few prompts change, an interval alone is too short.
    """
    found = {word: sides(results, quantities, f"{task}_lead.{side}")[UP] for task, word in PRIMARY.items()}
    level = 1 - joint(results)
    return {
        word: [t for t in found[word] if value(quantities, results[t], f"order_p.{task}.{side}") <= level]
        for task, word in PRIMARY.items()
    }


def measured(results) -> bool:
    """Return whether any pair has an effect on answers or on voice."""
    names = [f"{task}_effect.{side}.late" for task in PRIMARY for side in q.SIDES]
    return any(len(sides(results, quantities, name)[MISSING]) < len(results) for name in names)


def verdict(results) -> Verdict:
    """Return the verdict: whether what IT's MLPs change in replies is specific to late layers, on each side."""
    if not measured(results):
        return Verdict("Not measured", "No prompt of this run is judged by answers or by voice.", caveat=LEFT)
    return fitting(partial(said, results))


LEFT = "Its tables hold what rules score."


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    found = [leading(results, side) for side in q.SIDES]
    both = [specific(results, side, led) for side, led in zip(q.SIDES, found)]
    answer = both[0].capitalize() if both[0] == both[1] else f"In PT {both[0]}, in IT {both[1]}"
    first, second = (led_by(results, led, detail) for led in found)
    ahead = f"The late window surely leads {first} in PT; in IT {second}."
    if first == second:
        ahead = f"The late window surely leads {first} on either side."
    return Verdict(answer, changed(results, detail), ahead, "" if detail == LEAST else beside(results))


def changed(results, detail: int) -> str:
    """Return the sentence on answers to harmless requests: PT's with IT's late MLPs, and IT's with PT's."""
    gains, losses = (f"s2_effect.{side}.late" for side in q.SIDES)
    moved = sides(results, quantities, gains)
    gained = told([], results, "", "IT's late MLPs surely change no answers of PT")
    if moved[UP] or moved[DOWN]:
        says = "With IT's late MLPs, PT answers {size} points {word} harmless requests"
        gained = claim(results, quantities, gains, says, "", ("more", "fewer"), shown=points, detail=detail)
    lost = claim(
        results, quantities, losses, "with PT's, IT answers {size} points {word} harmless requests",
        "with PT's, IT's answers do not surely change", ("fewer", "more"), shown=points, again=True, detail=detail,
    )  # fmt: skip
    return sentence(f"{gained}; {lost}")


def specific(results, side: str, led: dict[str, list[str]]) -> str:
    """Return the answer for one side: the share of pairs and outcomes in which the late window surely leads, as a word.

    "undecided" if no pair has the prompts for an interval.
    """
    leads = [kept(quantities, d)[f"{task}_lead.{side}"] for task in PRIMARY for d in results.values()]
    if all(np.isnan(bounds(one, joint(results))[1]) for one in leads):
        return "undecided"
    return degree(sum(led.values(), []), leads)


def led_by(results, led: dict[str, list[str]], detail: int) -> str:
    """Return by which outcomes the late window leads, and in which pairs: "by voice in Gemma", or "nowhere"."""
    every = list(led.values())
    led = {" and ".join(led): every[0]} if every.count(every[0]) == len(every) else led
    found = [
        f"by {word} {counted(titles, results, detail)}".strip() for word, titles in led.items() if titles
    ]
    return ", ".join(found) or "nowhere"


def counted(titles, results, detail: int) -> str:
    """Return in which pairs something holds, with names or, where words are short, as a count; nothing of a single pair."""
    if len(results) == 1 or detail == NAMES or len(titles) == len(results):
        return among(titles, results, detail)
    return f"in {in_words(len(titles))}"


def beside(results) -> str:
    """Return the sentence on scrambled changes of the same size: how many answers they cost IT."""
    names = [f"s2_control.necessity.{window}" for window in WINDOWS]
    known = [
        value(quantities, d, name) for d in results.values() for name in names if name in kept(quantities, d)
    ]
    cost = max((one for one in known if not np.isnan(one)), default=np.nan)
    return "" if np.isnan(cost) else f"Scrambled changes cost at most {points(max(cost, 0))} points."


def cell(values) -> str:
    """Return the mean of values by prompt, or the value of an interval, as text with its interval; a dash without any."""
    if isinstance(values, stats.Interval):
        return number(float(values.mean)) if np.isnan(values.low) else interval(tuple(map(float, values)))
    ends = interval_row(values.dropna("prompt"))
    return written(pd.DataFrame([{name: ends[name] for name in ENDS}]))[0] if ends["prompts"] > 1 else MISSING


def effect_table(results, task: str = "s2") -> pd.DataFrame:
    """Return a table of effects by side and window; * if p < 0.05 in the paired test, Holm over pairs, sides and windows."""
    places = [(side, window) for side in q.SIDES for window in WINDOWS]
    p = [value(quantities, d, f"p.{task}.{s}.{w}") for d in results.values() for s, w in places]
    sure = iter(stats.holm(p) < 0.05)
    rows = {
        title: {
            (HEADS[side], window): cell(kept(quantities, d)[f"{task}_effect.{side}.{window}"].values)
            + (" *" if next(sure) else "")
            for side, window in places
        }
        for title, d in results.items()
    }
    return turned(pd.DataFrame(rows).T, results)


def test_table(results, side: str = "necessity") -> pd.DataFrame:
    """Return a table of paired tests on one side: prompts lost and gained, win shares, p by Holm over pairs and windows."""
    rows = {(task, w): test_row(results, task, f"{side}.{w}") for task in q.TASKS for w in WINDOWS}
    for task in q.TASKS:
        p = [value(quantities, d, f"p.{task}.{side}.{w}") for w in WINDOWS for d in results.values()]
        adjusted = iter(stats.holm(p))
        for window in WINDOWS:
            rows[task, window] = {
                t: f"{text}, p {p_value(next(adjusted), 3)}" for t, text in rows[task, window].items()
            }
    table = pd.DataFrame(rows).rename(columns={task: task.upper() for task in q.TASKS}, level=0)
    return turned(table, results)


def test_row(results, task: str, at: str) -> dict[str, str]:
    """Return {title: what a test rests on}: "b 3, c 12", prompts lost and gained, or the share of prompts that rise."""
    if task in q.POINTS:
        return {
            t: f"win share {number(value(quantities, d, f'win_share.{task}.{at}'))}"
            for t, d in results.items()
        }
    counts = ("lost", "gained")
    found = {t: [value(quantities, d, f"{word}.{task}.{at}") for word in counts] for t, d in results.items()}
    return {title: f"b {lost:.0f}, c {gained:.0f}" for title, (lost, gained) in found.items()}


def order_table(results) -> pd.DataFrame:
    """Return a table of windows in the order of their effects, with the lead of the late one, the chance of such a lead, and
    the share of resamples in which it is the strongest.
    """
    rows = {}
    for title, d in results.items():
        row = {}
        for task in PRIMARY:
            for side in q.SIDES:
                head = f"{task.upper()}, {HEADS[side]}"
                row[head, "order"] = ranked(d, task, side)
                row[head, "late less the next"] = cell(kept(quantities, d)[f"{task}_margin.{side}"].values)
                row[head, "p"] = p_value(value(quantities, d, f"order_p.{task}.{side}"), 3)
                share = value(quantities, d, f"strongest.{task}.{side}.late")
                row[head, "late strongest"] = MISSING if np.isnan(share) else percent(share)
        rows[title] = row
    return turned(pd.DataFrame(rows).T, results)


def ranked(result: xr.Dataset, task: str, side: str) -> str:
    """Return the windows from the largest effect to the smallest, "late > early = mid"; a dash if not measured."""
    found = {w: value(quantities, result, f"{task}_effect.{side}.{w}") for w in WINDOWS}
    if any(np.isnan(list(found.values()))):
        return MISSING
    names = sorted(WINDOWS, key=lambda w: -round(found[w], 9))
    said = names[0]
    for before, name in zip(names, names[1:]):
        said += f" {'=' if round(found[before] - found[name], 9) == 0 else '>'} {name}"
    return said


def acceptance_table(results) -> pd.DataFrame:
    """Return a table of the study's acceptance rule: dense pairs in which the late window has the largest effect.

    As planned there, a tie counts as largest; here ties, and effects that are all zero, are also counted apart.
    """
    dense = {title: d for title, d in results.items() if is_dense(d)}
    rows = {}
    for side in q.SIDES:
        for task in PRIMARY:
            found = [
                [value(quantities, d, f"{task}_effect.{side}.{w}") for w in WINDOWS] for d in dense.values()
            ]
            known = np.round([one for one in found if not np.isnan(one).any()], 9).reshape(-1, len(WINDOWS))
            late, others = known[:, -1], known[:, :-1].max(1, initial=-np.inf)
            rows[f"{task.upper()}, {HEADS[side]}"] = {
                "largest, ties counted": int((late >= others).sum()), "of these ties": int((late == others).sum()),
                "nothing changes": int((known == 0).all(1).sum()), "dense pairs measured": len(known),
            }  # fmt: skip
    return pd.DataFrame(rows).T


def control_table(results, task: str = "s2") -> pd.DataFrame:
    """Return a table of what could be mere damage: effects less those of scrambled controls, effects where both replies are
    coherent, and the shares of incoherent and of cut replies.
    """
    rows = {}
    for title, d in results.items():
        known, row = kept(quantities, d), {}
        for side, (letter, _) in q.SIDES.items():
            for window in WINDOWS:
                at, name = f"{side}.{window}", f"{letter}_{window}"
                over = known.get(f"{task}_over_control.{at}")
                row[HEADS[side], window, "less scrambled"] = cell(over.values) if over else MISSING
                row[HEADS[side], window, "both coherent"] = cell(known[f"{task}_coherent.{at}"].values)
                broken = (value(quantities, d, f"{word}_{name}") for word in ("incoherent", "capped"))
                row[HEADS[side], window, "incoherent, cut"] = ", ".join(map(percent, broken))
        rows[title] = row
    return pd.DataFrame(rows)


def preference_table(results) -> pd.DataFrame:
    """Return a table of preferences: wins less losses with intervals, the sign test's p, and how often the order decides."""
    rows = {}
    for title, d in results.items():
        row = {}
        for task in q.PAIRWISE:
            for side in q.COMPARED:
                at, head = f"{task}.{side}", f"{task.upper()}, {HEADS[side]}"
                row[head, "wins less losses"] = cell(kept(quantities, d)[f"net_preference.{at}"].values)
                row[head, "p"] = p_value(value(quantities, d, f"sign_p.{at}"), 3)
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
                row = {TITLES[r]: cell(known[f"{r}_effect.{side}.{window}"].values) for r in q.RULES}
                lost = value(quantities, d, f"unparsed_{letter}_{window}")
                rows[title, HEADS[side], window] = row | {
                    "no answer to read": MISSING if np.isnan(lost) else percent(lost)
                }
    return pd.DataFrame(rows).T


def closure_table(results) -> pd.DataFrame:
    """Return a table of the share of the way between PT and IT that late MLPs go; no interval where these are not apart."""
    rows = {}
    for title, d in results.items():
        known = kept(quantities, d)
        names = {
            (HEADS[side], task.upper()): f"{task}_closure.{side}.late" for side in q.SIDES for task in q.TASKS
        }
        rows[title] = {
            head: cell(known[name].values) if name in known else MISSING for head, name in names.items()
        }
    return turned(pd.DataFrame(rows).T, results)


def null_table(results) -> pd.DataFrame:
    """Return a table of what a null of the late window means: p of "within 5 points", and the smallest change to be seen."""
    rows = {}
    for title, d in results.items():
        row = {}
        for task in q.RATES:
            for side in q.SIDES:
                at, head = f"{task}.{side}.late", f"{task.upper()}, {HEADS[side]}"
                row[head, "p of no effect"] = p_value(value(quantities, d, f"equivalence_p.{at}"), 3)
                row[head, "smallest visible"] = number(value(quantities, d, f"detectable.{at}"))
        rows[title] = row
    return turned(pd.DataFrame(rows).T, results)


def judge_table(results) -> pd.DataFrame:
    """Return a table of the late window's effects, and of how far it leads, by every judge: do they agree on them?"""
    rows = {}
    for title, d in results.items():
        for judge in map(str, d["judge"].values):
            row = rows.setdefault((title, judge), {})
            for task in PRIMARY:
                for side in q.SIDES:
                    found = {w: q.effect(d, task, side, w, judge=judge) for w in WINDOWS}
                    row[f"{task.upper()}, {HEADS[side]}", "late"] = cell(found["late"])
                    row[f"{task.upper()}, {HEADS[side]}", "lead"] = cell(lead(found))
    return pd.DataFrame(rows).T


def agreements(results) -> dict[str, pd.DataFrame]:
    """Return {pair: how far the judges agree by task}, items of all conditions together."""
    return {title: agreement_table(d["rating"]) for title, d in results.items()}


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


def examples(result: xr.Dataset, n: int = 1) -> SideBySide:
    """Return the replies of five conditions side by side, to the first n prompts of each category by hash, none harmful."""
    about = result[["question", "category"]].reset_coords()[["question", "category"]].to_dataframe()
    return side_by_side(result["text"], about, SHOWN, n=n)
