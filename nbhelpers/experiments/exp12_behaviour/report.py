"""The tables and verdicts of exp12."""

from functools import partial

import numpy as np
import pandas as pd

from nbhelpers.core import dose_stats, stats
from nbhelpers.core.closure import mean_of_closures
from nbhelpers.core.paired_tests import sign_test
from nbhelpers.experiments.exp12_behaviour.quantities import (
    CLOSED,
    CONDITIONS,
    MAIN,
    gap,
    of,
    paired,
    quantities,
)
from nbhelpers.measures.behaviour import OUTCOMES, RUBRIC, outcome
from nbhelpers.report.agreement_table import agreement_table
from nbhelpers.report.charts import interval_row
from nbhelpers.report.directions import LEAST, answer, by_side, fitting, levels_of, sentence
from nbhelpers.report.families import turned
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.side_by_side import SideBySide, side_by_side
from nbhelpers.report.text import in_words, interval, number, p_value, percent, written
from nbhelpers.report.verdicts import DOWN, MISSING, OPEN, UP, Verdict, joint, sides

UNANSWERED, VOICE, FORM, REFUSED = (f"{name}_B_A" for name in MAIN)
BABBLE, REFUSES = "s2_does_not_engage_B_A", "s2_refuses_B_A"
MATRIX = {
    "harmless requests not answered": UNANSWERED,
    "assistant's voice, points": VOICE,
    "the same, less the scrambled control": "g2_B_scrambled",
    "presentation, points": FORM,
    "harmful requests refused": REFUSED,
}
BOUNDS = {"1": 0.05, "points": 0.2}  # a change within it counts as none
ARROW = " → "


def share(value_of: float) -> str:
    """Return a share as text; a dash for NaN."""
    return MISSING if np.isnan(value_of) else percent(value_of)


def verdict(results) -> Verdict:
    """Return the verdict: whether IT's late MLPs make PT answer more harmless requests, and sound like an assistant."""
    return fitting(partial(said, results))


def sure(results, name: str) -> dict[str, list[str]]:
    """Return `verdicts.sides` of a change B − A, of which a side counts only if the paired test of the prompts agrees.

    Where few prompts change, a bootstrap interval is too short. The p of McNemar's exact test, of ratings Wilcoxon's, must be
    below 0.05 over the number of pairs.
    """
    found, base = sides(results, quantities, name), name.removesuffix("_B_A")
    moved = found[UP] + found[DOWN]
    unsure = [title for title in moved if paired(results[title], base, "B", "A").p > 1 - joint(results)]
    kept_in = {side: [title for title in found[side] if title not in unsure] for side in (UP, DOWN)}
    return found | kept_in | {OPEN: [title for title in results if title in found[OPEN] + unsure]}


def settled(results, name: str, side: str) -> str:
    """Return whether an outcome moves to a side: as `directions.answer`; where no pair surely moves, in how many none does.

    None does: the change lies within `BOUNDS` by two one-sided tests at 0.05.
    """
    found = sure(results, name)
    if found[UP] or found[DOWN]:
        return answer(found, side)
    known = [kept(quantities, d)[name] for t, d in results.items() if t not in found[MISSING]]
    null = [dose_stats.equivalence(q.values.values, BOUNDS[q.unit]) <= 0.05 for q in known]
    if not known or all(null) or not any(null):
        return "not measured" if not known else "no" if all(null) else "undecided"
    return f"no in {in_words(sum(null))}, else undecided"


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    more, voice = settled(results, UNANSWERED, DOWN), settled(results, VOICE, UP)
    parts = [unanswered_said(results, detail), voice_said(results, detail), babble_said(results, detail)]
    size, *rest = [part for part in parts if part] or ["No prompt is a harmless request or talk."]
    rest = rest or ["Nothing else was measured."]
    return Verdict(
        f"More harmless requests answered: {more}; nearer an assistant's voice: {voice}", size, *rest
    )


def measured(results, name: str) -> bool:
    """Return whether any pair has a value of a quantity."""
    return len(sides(results, quantities, name)[MISSING]) < len(results)


def surely(results, name: str, above: str, below: str, detail: int) -> str:
    """Return where an outcome surely changes to which side: "surely fewer in five, more in Qwen"; else "no sure change"."""
    found = sure(results, name)
    said_of = by_side(results, found, above, below, "no sure change", detail)
    return f"surely {said_of}" if found[UP] or found[DOWN] else said_of


def unanswered_said(results, detail: int) -> str:
    """Return the sentence on harmless requests that are not answered; nothing without such requests."""
    if not measured(results, UNANSWERED):
        return ""
    a, b, c = (levels_of(results, quantities, f"s2_not_answered_{each}", share) for each in ("A", "B", "C"))
    where = surely(results, UNANSWERED, "more", "fewer", detail)
    return f"PT fails to answer {a} of harmless requests, with IT's late MLPs {b} ({where}), IT {c}."


def voice_said(results, detail: int) -> str:
    """Return the sentence on the assistant's voice; nothing without conversation."""
    if not measured(results, VOICE):
        return ""
    one = partial(number, digits=1)
    a, b, c = (levels_of(results, quantities, f"g2_{each}", one) for each in ("A", "B", "C"))
    where = surely(results, VOICE, "up", "down", detail)
    return f"PT's voice scores {a} of 5, then {b} ({where}), IT's {c}."


def babble_said(results, detail: int) -> str:
    """Return the sentence on what PT's missing answers are; nothing if every pair answers all."""
    refused = levels_of(results, quantities, "s2_refused_share_A", share)
    babble = levels_of(results, quantities, "s2_babble_share_A", share)
    rest = f", {babble} ignore the request" if detail > LEAST else ""
    return "" if refused == MISSING else f"Of PT's missing answers {refused} are refusals{rest}."


def reread(results) -> Verdict:
    """Return the published finding read again: whether fewer missing answers would mean fewer refusals or less babble."""
    if not measured(results, UNANSWERED):
        return Verdict("Not measured", "No prompt is a harmless request.")
    words = {
        "s2_refuses": "refused",
        "s2_does_not_engage": "ignored",
        "s2_undecided": "undecided by the rules",
    }
    before, after = (
        [levels_of(results, quantities, f"{name}_{c}", share) for name in words] for c in ("A", "B")
    )
    levels = [f"{a} then {b} {word}" for a, b, word in zip(before, after, words.values())]
    moved = [
        by_side(results, sure(results, name), f"{word} surely rises", f"{word} surely falls", "")
        for word, name in (("refusal", REFUSES), ("ignoring", BABBLE))
    ]
    return Verdict(
        f"Fewer refusals: {settled(results, REFUSES, DOWN)}; less babble: {settled(results, BABBLE, DOWN)}",
        f"Of harmless requests PT, without and with IT's late MLPs, leaves {', '.join(levels)}.",
        sentence("; ".join(filter(None, moved)) or "no share surely changes"),
    )


def levels_text(result, name: str, shown=share) -> str:
    """Return the levels of an outcome in A, B and C as text: "98 % → 97 % → 5 %"."""
    return ARROW.join(shown(value(quantities, result, f"{name}_{c}")) for c in ("A", "B", "C"))


def cell(values) -> str:
    """Return the mean of values by prompt with its interval; a dash with fewer than two."""
    row = interval_row(values)
    return MISSING if np.isnan(row["mean"]) else written(pd.DataFrame([row]))[0]


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
        cells = [cell(kept(quantities, d)[f"{name}_B_A"].values) for name in names]
        rows[title] = [f"{text}{' *' if one < 0.05 else ''}" for text, one in zip(cells, stars)]
    return turned(pd.DataFrame(rows, index=[OUTCOMES[name].title for name in names]).T, results)


def test_table(results) -> pd.DataFrame:
    """Return a table of the change B − A of each outcome of the study, tested: a row for each outcome and pair.

    fell, rose: prompts (of rates McNemar's b and c). p: exact McNemar of rates, Wilcoxon of ratings; Holm's over pairs.
    """
    rows = []
    for name in MAIN:
        tests = {title: paired(d, name, "B", "A") for title, d in results.items()}
        for (title, test), holm in zip(tests.items(), stats.holm([test.p for test in tests.values()])):
            change = kept(quantities, results[title])[f"{name}_B_A"]
            values = change.values.dropna("prompt").values
            rows.append({
                "outcome": OUTCOMES[name].title, "pair": title, "B − A": cell(change.values), "prompts": test.n,
                "fell": test.fell, "rose": test.rose, "rose, ties half": share(test.wins), "p": p_value(test.p, 3),
                "p, Holm": p_value(holm, 3),
                "p of no effect": p_value(dose_stats.equivalence(values, BOUNDS[change.unit]), 3),
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
            (OUTCOMES[name].title, said_of): cell(kept(quantities, d)[f"{name}_{key}"].values)
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
            over = mean_of_closures(known)
            column |= {
                "mean of ratios": number(over.mean_of_ratios),
                "ratio of means": number(over.ratio_of_means),
            }
        columns[OUTCOMES[name].title] = column
    return turned(pd.DataFrame(columns), results).fillna(MISSING)


def closed(found) -> str:
    """Return a pair's closure as text, with its interval; "no gap" where IT does not surely differ from PT."""
    return MISSING if not found else interval(found.ratio_of_means) if found.separated else "no gap"


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
    return f"{means} ({cell(b - a)})"


def agreements(results) -> dict[str, pd.DataFrame]:
    """Return {pair: how far the judges agree by task}, items of all conditions together."""
    return {title: agreement_table(d["rating"]) for title, d in results.items()}


def examples(result, n: int = 1) -> SideBySide:
    """Return replies of PT, of PT with IT's late MLPs and of IT beside each other, the first n prompts of each category by
    hash; of replies to harmful requests the number alone.
    """
    about = result[["question", "category"]].reset_coords()[["question", "category"]].to_dataframe()
    return side_by_side(result["text"], about, ("A", "B_late", "C"), n=n)
