"""The verdict of exp15, the matrix that it rests on, and the tables of effects, tests and windows."""

from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import dose_stats, stats
from nbhelpers.experiments.exp15_symmetric_behaviour import quantities as q
from nbhelpers.experiments.exp15_symmetric_behaviour.figures import HEADS
from nbhelpers.experiments.exp15_symmetric_behaviour.quantities import quantities
from nbhelpers.experiments.exp15_symmetric_behaviour.tables import PRIMARY, said
from nbhelpers.measures.graft_shifts import WINDOWS
from nbhelpers.report import verdicts
from nbhelpers.report.directions import (
    LEAST,
    NAMES,
    among,
    claim,
    fitting,
    levels_of,
    ranged,
    sentence,
)
from nbhelpers.report.exact_signs import only_sure
from nbhelpers.report.families import turned
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.text import in_words, number, p_value, percent
from nbhelpers.report.verdicts import DOWN, MISSING, OPEN, UP, Verdict, degree, joint, sides

MATRIX = {
    "answers PT gains, IT's late MLPs": "s2_effect.sufficiency.late",
    "lead of late in that gain": "s2_lead.sufficiency",
    "answers IT loses, PT's late MLPs": "s2_effect.necessity.late",
    "lead of late in that loss": "s2_lead.necessity",
    "lead of late in voice PT gains": "g2_lead.sufficiency",
    "lead of late in voice IT loses": "g2_lead.necessity",
}
HOSTS = {"sufficiency": "PT", "necessity": "IT"}
BOUNDS = {"s2": 0.05, "g2": 0.2}  # a change within it counts as none
NOTE = (
    "▲ above and ▼ below zero, as the verdict counts it: by an interval that holds jointly over the pairs at 95 % (BCa over "
    "prompts, Bonferroni), if the paired test of the effect has a * below and, of a lead, exchanged windows rarely lead as "
    "far; · undecided. "
    "Tables and figures show single 95 % intervals, which are narrower."
)


def points(share: float) -> str:
    """Return a share as points of a hundred."""
    return f"{100 * share:.0f}"


def starred(results, task: str) -> dict[tuple[str, str, str], bool]:
    """Return {(pair, side, window): whether an effect's paired test has p < 0.05}, Holm over pairs, sides and windows."""
    where = [(title, side, window) for title in results for side in q.SIDES for window in WINDOWS]
    p = [value(quantities, results[title], f"p.{task}.{side}.{window}") for title, side, window in where]
    return dict(zip(where, stats.holm(p) < 0.05))


def sure(results, name: str) -> dict[str, list[str]]:
    """Return `verdicts.sides` of an effect or a lead, of which a side counts only if the paired tests agree.

    An effect, and the late one of a lead above zero, needs its * (`starred`), a lead below zero that of any window. A lead
    above zero also needs that exchanged windows rarely lead as far, with p below 0.05 over the number of pairs. Where few
    prompts change, an interval alone is too short.
    """
    (task, kind), (side, *_) = name.split(".")[0].split("_"), name.split(".")[1:]
    found, stars = sides(results, quantities, name), starred(results, task)
    rare = {
        t: value(quantities, d, f"order_p.{task}.{side}") <= 1 - joint(results) for t, d in results.items()
    }
    agrees = {
        UP: lambda t: (
            stars[t, side, name.rsplit(".")[-1] if kind == "effect" else "late"]
            and (kind == "effect" or rare[t])
        ),
        DOWN: lambda t: any(stars[t, side, window] for window in WINDOWS),
    }
    kept_in = {mark: [t for t in found[mark] if agrees[mark](t)] for mark in agrees}
    known = [t for titles in kept_in.values() for t in titles] + found[MISSING]
    return found | kept_in | {OPEN: [t for t in results if t not in known]}


def matrix(results) -> verdicts.Matrix:
    """Return the matrix of `MATRIX`, with a sign only where `sure` has one."""
    unsure = {heading: sure(results, name)[OPEN] for heading, name in MATRIX.items()}
    return only_sure(verdicts.matrix(results, quantities, MATRIX), unsure, NOTE)


def measured(results) -> bool:
    """Return whether any pair has an effect on answers or on voice."""
    names = [f"{task}_effect.{side}.late" for task in PRIMARY for side in q.SIDES]
    return any(len(sides(results, quantities, name)[MISSING]) < len(results) for name in names)


def verdict(results) -> Verdict:
    """Return the verdict: whether what IT's MLPs change in replies is specific to late layers, on each side."""
    if not measured(results):
        return Verdict("Not measured", "No prompt of this run is judged by answers or by voice.", caveat=LEFT)
    return fitting(partial(told, results))


LEFT = "Its tables hold what rules score."


def told(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    found = {
        side: {word: sure(results, f"{task}_lead.{side}") for task, word in PRIMARY.items()}
        for side in q.SIDES
    }
    both = [specific(results, side, found[side]) for side in q.SIDES]
    first = both[0].capitalize() if both[0] == both[1] else f"In PT {both[0]}, in IT {both[1]}"
    lost = sure(results, "s2_effect.necessity.late")[UP]
    damage = "Damage is possible." if lost and detail > LEAST else ""
    size = changed(results, detail) or "No prompt is a harmless request."
    return Verdict(first, size, ahead(results, found, detail), damage)


def specific(results, side: str, found: dict[str, dict[str, list[str]]]) -> str:
    """Return the answer for one side: the share of pairs and outcomes in which the late window surely leads, as a word.

    Where it surely leads in none: "no" if in all of them it is surely behind or leads by less than `BOUNDS` by two one-sided
    tests at 0.05; else "undecided".
    """
    led = [title for marks in found.values() for title in marks[UP]]
    leads = [(t, task) for task, word in PRIMARY.items() for t in results if t not in found[word][MISSING]]
    if led or not leads:
        return degree(led, leads) if led else "undecided"
    return (
        "no" if all(none(results, task, side, t, found[PRIMARY[task]]) for t, task in leads) else "undecided"
    )


def none(results, task: str, side: str, title: str, marks: dict[str, list[str]]) -> bool:
    """Return whether a pair's late window surely does not lead: it is behind, or its lead lies within `BOUNDS`."""
    lead = kept(quantities, results[title])[f"{task}_lead.{side}"].values.values
    return title in marks[DOWN] or dose_stats.equivalence(lead, BOUNDS[task]) <= 0.05


def changed(results, detail: int) -> str:
    """Return the sentences on answers to harmless requests: PT's with IT's late MLPs, IT's with PT's late and early ones."""
    gains, losses = (f"s2_effect.{side}.late" for side in q.SIDES)
    moved = sure(results, gains)
    if len(moved[MISSING]) == len(results):
        return ""
    visible = levels_of(results, quantities, "detectable.s2.sufficiency.late", points)
    seen = "" if visible == MISSING else f" (under {visible} points go unseen)"
    gained = f"no sure change of PT's answers{seen}"
    if moved[UP] or moved[DOWN]:
        says = "with IT's late MLPs, PT answers {size} points {word} harmless requests"
        gained = claim(
            results, quantities, gains, says, "", ("more", "fewer"), shown=points, detail=detail, found=moved
        )
    lost, where = "with PT's late MLPs, IT's answers do not surely change", sure(results, losses)
    if where[UP] or where[DOWN]:
        more = early(results) if detail > LEAST else ""
        says = f"with PT's late MLPs IT answers {{size}} points {{word}} harmless requests{more}"
        lost = claim(
            results,
            quantities,
            losses,
            says,
            "",
            ("fewer", "more"),
            shown=points,
            again=True,
            detail=detail,
            found=where,
        )
    return f"{sentence(gained)} {sentence(lost)}"


def early(results) -> str:
    """Return what PT's early MLPs cost IT in the pairs in which they surely do, " (early ones 25–75)", or nothing."""
    name = "s2_effect.necessity.early"
    cost = ranged((value(quantities, results[t], name) for t in sure(results, name)[UP]), points)
    return "" if cost == MISSING else f" (early ones {cost})"


def ahead(results, found, detail: int) -> str:
    """Return the sentence on where the late window surely leads, and where it surely trails: by which outcome, in what."""
    leads, behind = by_host(results, found, detail), trails(results, found, detail)
    parts = [f"late surely leads {leads}" if leads else "late has no sure lead"]
    parts += [f"{'' if leads else 'it surely '}trails {behind}"] if behind else []
    return sentence("; ".join(parts))


def by_host(results, found, detail: int, mark: str = UP) -> str:
    """Return in which host and by which outcomes the lead has a mark: "in IT by answers in Gemma, by voice in three"."""
    said_of = {
        HOSTS[side]: by_word(results, {w: m[mark] for w, m in found[side].items()}, detail)
        for side in q.SIDES
    }
    if len(set(said_of.values())) == 1:
        return next(iter(said_of.values()))
    return " and ".join(f"in {host} {words}" for host, words in said_of.items() if words)


def trails(results, found, detail: int) -> str:
    """Return by which outcomes the late window trails, where: "by voice in Qwen (PT) and OLMo (IT)"; nothing if nowhere."""
    first, second = (found[side] for side in q.SIDES)
    if all(first[word][DOWN] == second[word][DOWN] for word in first):
        return by_host(results, found, detail, DOWN)
    parts = []
    for word in PRIMARY.values():
        each = {side: found[side][word][DOWN] for side in q.SIDES}
        hosts = [f"{counted(t, results, detail)} ({HOSTS[side]})".strip() for side, t in each.items() if t]
        parts += [f"by {word} {' and '.join(hosts)}".replace(" and in ", " and ")] if hosts else []
    return ", ".join(parts)


def by_word(results, led: dict[str, list[str]], detail: int) -> str:
    """Return by which outcomes the late window leads, and in which pairs: "by voice in Gemma"; nothing if in none."""
    every = list(led.values())
    led = {" and ".join(led): every[0]} if every.count(every[0]) == len(every) else led
    found = [
        f"by {word} {counted(titles, results, detail)}".strip() for word, titles in led.items() if titles
    ]
    return ", ".join(found)


def counted(titles, results, detail: int) -> str:
    """Return in which pairs something holds, with names or, where words are short, as a count; nothing of a single pair."""
    if len(results) == 1 or detail == NAMES or len(titles) == len(results):
        return among(titles, results, detail)
    return among(titles, results, LEAST) if len(titles) == 1 else f"in {in_words(len(titles))}"


def effect_table(results, task: str = "s2") -> pd.DataFrame:
    """Return a table of effects by side and window; * if p < 0.05 in the paired test, Holm over pairs, sides and windows."""
    stars = starred(results, task)
    rows = {
        title: {
            (HEADS[side], window): said(kept(quantities, d)[f"{task}_effect.{side}.{window}"])
            + (" *" if stars[title, side, window] else "")
            for side in q.SIDES
            for window in WINDOWS
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
                row[head, "lead of late"] = said(kept(quantities, d)[f"{task}_lead.{side}"])
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
