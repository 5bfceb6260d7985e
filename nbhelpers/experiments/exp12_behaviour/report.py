"""The verdicts of exp12, and the matrix that they rest on."""

from functools import partial

import numpy as np

from nbhelpers.core import dose_stats, stats
from nbhelpers.experiments.exp12_behaviour.quantities import (
    CONDITIONS,
    MAIN,
    of,
    paired,
    quantities,
    stopping,
)
from nbhelpers.measures.behaviour import REFERENCE, compared, outcome
from nbhelpers.report import verdicts
from nbhelpers.report.agreement_table import agreements
from nbhelpers.report.directions import (
    LEAST,
    answer,
    by_side,
    fitting,
    levels_of,
    ranged,
    sentence,
)
from nbhelpers.report.exact_signs import only_sure
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.text import in_words, number, percent
from nbhelpers.report.verdicts import DOWN, MISSING, OPEN, UP, Matrix, Verdict, joint, listing, short, sides

UNANSWERED, VOICE, FORM, REFUSED = (f"{name}_B_A" for name in MAIN)
BABBLE, REFUSES = "s2_does_not_engage_B_A", "s2_refuses_B_A"
MATRIX = {
    "harmless requests not answered": UNANSWERED,
    "assistant's voice, points": VOICE,
    "voice beyond the scrambled control": "g2_B_scrambled",
    "presentation, points": FORM,
    "harmful requests refused": REFUSED,
}
BOUNDS = {"1": 0.05, "points": 0.2}  # a change within it counts as none
AGREED = {"s1": "harmful requests", "s2": "harmless ones", "g2": "voice"}
MOSTLY = 0.9  # of a change; prompts that account for as much explain it
SIGNS = (
    "▲ above and ▼ below zero by the {} interval over prompts (BCa) and by the paired test of the prompts (McNemar's exact "
    "test of shares, Wilcoxon's of points, p below {}); · undecided, though the interval alone may leave zero out: it is too "
    "short where a handful of prompts change."
)
ACROSS = " The page of all pairs asks more, that all its answers hold jointly, so it may leave open what this page answers."


def share(value_of: float) -> str:
    """Return a share as text; a dash for NaN."""
    return MISSING if np.isnan(value_of) else percent(value_of)


def verdict(results) -> Verdict:
    """Return the verdict: whether IT's late MLPs make PT answer more harmless requests, and sound like an assistant."""
    return fitting(partial(said, results))


def sure(results, name: str) -> dict[str, list[str]]:
    """Return `verdicts.sides` of a change, such as B − A, of which a side counts only if the paired test of prompts agrees.

    Where few prompts change, a bootstrap interval is too short. The p of McNemar's exact test, of ratings Wilcoxon's, must be
    below 0.05 over the number of pairs.
    """
    found, asked = sides(results, quantities, name), name.rsplit("_", 2)
    moved = found[UP] + found[DOWN]
    unsure = [title for title in moved if paired(results[title], *asked).p > 1 - joint(results)]
    kept_in = {side: [title for title in found[side] if title not in unsure] for side in (UP, DOWN)}
    return found | kept_in | {OPEN: [title for title in results if title in found[OPEN] + unsure]}


def matrix(results) -> Matrix:
    """Return the matrix of `MATRIX`, pairs × outcomes, with the signs of `sure`: those that the verdict rests on."""
    unsure = {heading: sure(results, name)[OPEN] for heading, name in MATRIX.items()}
    several = "jointly held 95 %" if len(results) > 1 else "95 %"
    note = SIGNS.format(several, number(1 - joint(results), 3)) + (ACROSS if len(results) == 1 else "")
    return only_sure(verdicts.matrix(results, quantities, MATRIX), unsure, note)


def nulls(results, name: str) -> dict[str, float]:
    """Return {pair: p of no effect} of a change, by two one-sided tests against `BOUNDS`, NaN where it was not measured."""
    known = {title: kept(quantities, d)[name] for title, d in results.items()}
    return {title: dose_stats.equivalence(q.values.values, BOUNDS[q.unit]) for title, q in known.items()}


def settled(results, name: str, side: str) -> str:
    """Return whether an outcome moves to a side: as `directions.answer`; where no pair surely moves, in how many none does.

    None does: the change lies within `BOUNDS` by two one-sided tests at 0.05, with Holm's correction over pairs.
    """
    found = sure(results, name)
    if found[UP] or found[DOWN]:
        return answer(found, side)
    known = [p for p in nulls(results, name).values() if not np.isnan(p)]
    null = stats.holm(known) <= 0.05 if known else np.array([])
    if not known or null.all() or not null.any():
        return "not measured" if not known else "no" if null.all() else "undecided"
    return f"no in {in_words(int(null.sum()))}, else undecided"


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    more, voice = settled(results, UNANSWERED, DOWN), settled(results, VOICE, UP)
    parts = [unanswered_said(results, detail), refused_said(results, detail), moved_said(results, detail)]
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
    """Return the sentence on harmless requests that are answered; nothing without such requests."""
    if not measured(results, UNANSWERED):
        return ""
    a, b, c = (levels_of(results, quantities, f"s2_answers_{each}", share) for each in ("A", "B", "C"))
    where = surely(results, "s2_answers_B_A", "more", "fewer", detail)
    unclear = ranged(
        (value(quantities, d, f"s2_undecided_{c}") for d in results.values() for c in "AB"), share
    )
    unclear = f"; {unclear} undecided" if detail > LEAST else ""
    return f"Rules see PT answer {a}, with IT's late MLPs {b} ({where}{unclear}), IT {c}."


def refused_said(results, detail: int) -> str:
    """Return the sentence on harmful requests that are refused; nothing without such requests."""
    if not measured(results, REFUSED):
        return ""
    a, b = (levels_of(results, quantities, f"s1_refuses_{each}", share) for each in ("A", "B"))
    if a != b:
        return f"Harmful refusals: {a}, then {b} ({surely(results, REFUSED, 'more', 'fewer', detail)})."
    seen = ranged((visible(d, REFUSED) for d in results.values()), partial(number, digits=0))
    blind = f" (under {seen} points go unseen)" if detail > LEAST and seen != MISSING else ""
    return f"Harmful refusals stay at {a}{blind}."


def visible(result, name: str) -> float:
    """Return the smallest change of a share, in percentage points, that a pair's prompts show with a power of 80 %."""
    return 100 * dose_stats.detectable(kept(quantities, result)[name].values.dropna("prompt").values)


def moved_said(results, detail: int) -> str:
    """Return the sentence on sure changes of voice and presentation, and whether replies stopping explains them."""
    if not measured(results, VOICE):
        return ""
    voice, form = (sure(results, name) for name in (VOICE, FORM))
    alike = all(voice[side] == form[side] for side in (UP, DOWN))
    says = [("voice and presentation", voice)] if alike else [("voice", voice), ("presentation", form)]
    if detail == LEAST:
        says = says[:1]
    first, *others = [f"{what} {moves(results, found, detail)}" for what, found in says]
    if voice[UP] or voice[DOWN]:
        others = [text.replace("surely ", "") for text in others]  # the first has said it
    why = ": replies stop or open new questions" if by_stopping(results) else ""
    return sentence("; ".join([first, *others]) + why)


def moves(results, found, detail: int) -> str:
    """Return where something surely changes: "surely up in OLMo, down in Qwen"; else "without sure change"."""
    said_of = by_side(results, found, "up", "down", "", detail)
    return f"surely {said_of}" if said_of else "without sure change"


def by_stopping(results) -> bool:
    """Return whether prompts whose stopping changes account for nearly all of every sure change of voice and presentation."""
    parts = [
        stopping(results[title], name)
        for name in ("g2", "g1")
        for side in (UP, DOWN)
        for title in sure(results, f"{name}_B_A")[side]
    ]
    return bool(parts) and all(each.part / each.change >= MOSTLY for each in parts)


def judges_agree(results) -> Verdict:
    """Return whether the reference judge sees the changes of voice that the rubric judge is sure of, and the judges' κ."""
    moved = {side: sure(results, VOICE)[side] for side in (UP, DOWN)}
    surely_moved = [title for title in results if title in moved[UP] + moved[DOWN]]
    seen = [title for title in surely_moved if witnessed(results, title, title in moved[UP])]
    lacking = [short(results)[title] for title in surely_moved if title not in seen]
    kappa = [f"{kappas(results, task)} on {what}" for task, what in AGREED.items()]
    head = (
        "no sure change to agree on"
        if not surely_moved
        else "yes"
        if not lacking
        else "in part"
        if seen
        else "no"
    )
    second = (
        f"The reference judge does not see the rules' change of voice in {listing(lacking)}."
        if lacking
        else ""
    )
    return Verdict(f"On changes of voice: {head}", f"κ over all conditions is {listing(kappa)}.", second)


def witnessed(results, title: str, rises: bool) -> bool:
    """Return whether the reference judge, too, is sure that a pair's voice changes B − A to a side."""
    result = results[title]
    mine = of(result, "g2", "A").notnull()
    before, after = (outcome(result, "g2", CONDITIONS[c], REFERENCE).where(mine).values for c in ("A", "B"))
    found = compared(before, after, shares=False)
    return found.p <= 1 - joint(results) and (found.rose > found.fell) == rises


def kappas(results, task: str) -> str:
    """Return the range over pairs of the two offline judges' κ on a task, a dash where nothing varies."""
    found = [agreements(d["rating"].sel(task=[task]), n_resamples=10) for d in results.values()]
    first = [next(iter(each.values())).kappa.mean for each in found if each]
    return ranged([float(each) for each in first])


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
        f"{word} surely {where}"
        for word, name in (("refusal", REFUSES), ("ignoring", BABBLE))
        if (where := by_side(results, sure(results, name), "rises", "falls", ""))
    ]
    return Verdict(
        f"Fewer refusals: {fewer(results, REFUSES, 'refuses')}; less babble: {fewer(results, BABBLE, 'ignores')}",
        f"Of harmless requests PT, without and with IT's late MLPs, leaves {', '.join(levels)}.",
        sentence("; ".join(moved) or "no share surely changes"),
    )


def fewer(results, name: str, does: str) -> str:
    """Return whether a share of harmless requests falls, as `settled`; where PT has none to lose, that it cannot be seen."""
    found, levels = (
        sure(results, name),
        [value(quantities, d, name.replace("_B_A", "_A")) for d in results.values()],
    )
    if not (found[UP] or found[DOWN]) and not np.nanmax(levels):
        return f"cannot be seen, PT {does} none"
    return settled(results, name, DOWN)
