"""Signs of rates that an exact test confirms, and what a rate's prompts say: how many lose it, how many gain it.

A bootstrap interval of a rate of which a handful of prompts change is too short, so its sign alone is no sure one.
"""

from collections.abc import Mapping
from dataclasses import replace

from nbhelpers.core.dose_stats import Discordance
from nbhelpers.report.quantities import Source
from nbhelpers.report.text import p_value
from nbhelpers.report.verdicts import DOWN, OPEN, UP, Matrix, listing, matrix, short

LEVEL = 0.05


def confirmed(found: Mapping[str, list[str]], p: Mapping[str, float]) -> dict[str, list[str]]:
    """Return signs, as of `verdicts.sides`, of which those without an exact p below 0.05 are undecided.

    found: {mark: titles}. p: {title: p of an exact test}, in the order of the results; NaN confirms nothing.
    """
    sure = {sign: [title for title in found[sign] if p[title] < LEVEL] for sign in (UP, DOWN)}
    unsure = {title for sign in (UP, DOWN, OPEN) for title in found[sign]} - {*sure[UP], *sure[DOWN]}
    return {**found, **sure, OPEN: [title for title in p if title in unsure]}


def only_sure(made: Matrix, unsure: Mapping[str, list[str]], note: str) -> Matrix:
    """Return a matrix whose signs are open where a further test does not confirm them, with a note that says so.

    unsure: {column: titles of the pairs}.
    """
    cells = made.cells.copy()
    for heading, titles in unsure.items():
        for title in titles:
            cells.loc[title, heading] = f"{OPEN}{cells.loc[title, heading][1:]}"
    return replace(made, cells=cells, note=note)


def exact_matrix(
    results, source: Source, columns: Mapping[str, str], sure: Mapping[str, Mapping[str, list[str]]]
) -> Matrix:
    """Return `verdicts.matrix`; the columns of `sure` have a sign only where `confirmed` left one, and the note says so.

    sure: {heading: {mark: titles}}.
    """
    made, named = matrix(results, source, columns), listing([f"“{heading}”" for heading in sure])
    note = f"{made.note} Signs of {named} also need an exact test of the prompts that change, with p below {LEVEL}."
    return only_sure(made, {heading: signs[OPEN] for heading, signs in sure.items()}, note)


def exact_p(*p: float) -> str:
    """Return "exact p = 0.062", "exact p < 0.001" or, of several, "exact p ≤ 0.031", the largest."""
    text = p_value(max(p), 3)
    return f"exact p {text}" if text.startswith("<") else f"exact p {'≤' if len(p) > 1 else '='} {text}"


def furthest(changed: Mapping[str, Discordance]) -> str:
    """Return the title of the pair in which most prompts change on balance; of several, the first."""
    return max(changed, key=lambda title: abs(changed[title].lost - changed[title].gained))


def most_changed(results, changed: Mapping[str, Discordance], n: int, what: str, more: str = "") -> str:
    """Return the clause on where most prompts change: "requested forms change most in Llama: 5 of 28 lost, 0 gained (…)".

    changed: {title: lost, gained, exact p}. n: prompts of that pair. what: the rate in words, in the plural. more: what the
    brackets say besides p.
    """
    title = furthest(changed)
    lost, gained, p = changed[title]
    if not any(each.lost or each.gained for each in changed.values()):
        return f"no {what} are lost or gained"
    where = f" most in {short(results)[title]}" if len(results) > 1 else ""
    return f"{what} change{where}: {lost} of {n} lost, {gained} gained ({exact_p(p)}{more})"
