"""What exp09's results say, in sentences: the verdict, and the readings of commitment and of the δ-cosine.

Every sign rests on an interval that holds jointly over the pairs at 95 %.
"""

from nbhelpers.core import params
from nbhelpers.experiments.exp09_convergence_gap.quantities import (
    GAPS,
    LENSES,
    gap_name,
    quantities,
    threshold,
)
from nbhelpers.report.charts import NAMES
from nbhelpers.report.quantities import value
from nbhelpers.report.text import in_words, number
from nbhelpers.report.unmeasured import sentences
from nbhelpers.report.verdicts import Signs, Verdict, degree, listing, short, signs, span, where

KL_WAY = "KL's direction"


def lenses(results) -> list[str]:
    """Return the lenses that every result has."""
    return [lens for lens in LENSES if all(lens in d["lens"].values for d in results.values())]


def verdict(results) -> Verdict:
    """Return the verdict: whether IT's later layers are farther from its final prediction than PT's, and on whose text."""
    gap, pt, it = signs(results, quantities, gap_name("own")), on_text(results, "pt"), on_text(results, "it")
    whole = len(gap.above) == len(results)
    alone = whole and not pt == it == compared(gap, results)
    shared = f"one text, PT's or IT's, {pt}" if pt == it else f"PT's text, {pt}; if IT's, {it}"
    return Verdict(
        f"{answer(gap, results)}{', while each model writes its own text' if alone else ''}",
        f"{size(gap, results)}.",
        f"If both read {shared}.",
        sentences(results, "attention", "weights").strip() or f"{sharpness(results, whole)}.",
    )


def answer(gap: Signs, results) -> str:
    """Return the answer to whether the gap is above zero: its degree, the reverse, no, or undecided."""
    if gap.above:
        return degree(gap.above, results).capitalize()
    return "No, the reverse" if len(gap.below) == len(results) else "No" if gap.below else "Undecided"


def size(gap: Signs, results) -> str:
    """Return the clause on how much farther IT's later layers are, each model on its own text, and in which pairs."""
    titles, goal = (gap.above, "farther from") if gap.above else (gap.below, "nearer to")
    if not titles:
        pairs = "" if len(results) == 1 else f" {where(results, results)}"
        return f"It is undecided{pairs} whether IT's later layers are farther from its final prediction than PT's"
    pairs = "" if len(results) == 1 else f"{where(titles, results).replace('in', 'In', 1)}, "
    said = (
        f"{pairs}IT's later layers are {distance(results, titles)} nats {goal} its final prediction than PT's"
    )
    if len(titles) == len(results):
        return said + through_tuned(results, titles is gap.above)
    return said + (f"; in {count(gap.below, results)} they are nearer" if gap.above and gap.below else "")


def distance(results, titles, lens: str = "raw") -> str:
    """Return the size of the gap in the pairs with these titles, whatever its sign: "0.48–1.11"."""
    sizes = [abs(value(quantities, results[title], gap_name("own", lens=lens))) for title in titles]
    return "–".join(dict.fromkeys(number(end) for end in (min(sizes), max(sizes))))


def through_tuned(results, above: bool) -> str:
    """Return in brackets what the tuned lens says of a gap that all pairs have through the raw lens; "" without that lens."""
    if "tuned" not in lenses(results):
        return ""
    found = signs(results, quantities, gap_name("own", lens="tuned"))
    same = found.above if above else found.below
    if len(same) == len(results):
        return f" (raw lens; tuned: {distance(results, same, 'tuned')})"
    one = "the reverse" if found.above + found.below else "undecided"
    return f" (raw lens; tuned: {one if len(results) == 1 else f'in {count(same, results)}'})"


def count(titles, results) -> str:
    """Return how many of the pairs have these titles, in words: "all six", "both", "four", "none"."""
    total = in_words(len(results))
    if len(titles) == len(results):
        return "both" if total == "two" else f"all {total}"
    return in_words(len(titles))


def on_text(results, text: str) -> str:
    """Return a clause on the gap when both models read PT's or IT's text, by both lenses and both directions of KL."""
    cells = {
        (lens, direction): signs(results, quantities, gap_name(text, direction, lens))
        for lens in lenses(results)
        for direction in GAPS
    }
    found = list(cells.values())
    if all(one == found[0] for one in found):
        return compared(found[0], results)
    least = min(found, key=lambda one: len(one.above))
    if len(results) > 1 and least.above and not any(one.below for one in found):
        return f"IT is farther in at least {count(least.above, results)}"
    by_lens = any(cells["raw", direction] != one for (_, direction), one in cells.items())
    by_direction = any(cells[lens, "final_layer"] != one for (lens, _), one in cells.items())
    return f"that depends on {listing(['lens'] * by_lens + [KL_WAY] * by_direction)}"


def compared(gap: Signs, results) -> str:
    """Return a clause on the signs of a gap, with counts of pairs: "IT is farther in all six", "IT is nearer in four"."""
    if gap.above and gap.below:
        return "that differs between pairs"
    words, titles = ("IT is farther", gap.above) if gap.above else ("IT is nearer", gap.below)
    if not titles:
        return "that is undecided"
    return words if len(results) == 1 else f"{words} in {count(titles, results)}"


def sharpness(results, gap: bool) -> str:
    """Return a clause on whose final predictions are sharper, by their entropy.

    gap: whether IT is farther in all pairs, which this may explain in part.
    """
    found = signs(results, quantities, "final_entropy_shift")
    if len(found.below) == len(results):
        return f"IT's predictions end sharper{', which can widen the gap' if gap else ''}"
    if found.below:
        return f"IT's predictions end sharper in {count(found.below, results)}"
    return (
        "IT's predictions end less sharp"
        if len(found.above) == len(results)
        else "IT's predictions do not clearly end sharper"
    )


def split(found: Signs, results, above: str, below: str, neither: str) -> str:
    """Return a clause that says what holds in which pairs, by name: "rise in all six", "rise in Gemma, fall in Qwen"."""
    called, groups = (
        short(results),
        {above: found.above, below: found.below, neither: found.open},
    )
    parts = [
        words if len(results) == 1
        else f"{words} in {count(titles, results) if len(titles) == len(results) else listing([called[t] for t in titles])}"
        for words, titles in groups.items() if titles
    ]  # fmt: skip
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def updates(results) -> str:
    """Return sentences on whether the updates of the last fifth of the layers reinforce the residual stream or oppose it."""

    def of_model(variant):
        name = f"delta_cosine_final_fifth.{variant}"
        said = split(
            signs(results, quantities, name),
            results,
            "reinforce the stream",
            "oppose it",
            "do neither for sure",
        )
        return f"{NAMES[variant]}'s updates {said} (cosine {span(results, quantities, name, signed=True)})"

    shift = signs(results, quantities, "delta_cosine_shift.final_fifth")
    order = split(shift, results, "higher", "lower", "of undecided order")
    by = span(results, quantities, "delta_cosine_shift.final_fifth", signed=True)
    pt, it = map(of_model, params.VARIANTS)
    return f"In the last fifth of the layers, {pt}; {it}. IT's cosine is {order} (IT − PT: {by})."


def commitment(results) -> str:
    """Return a sentence on whether IT commits later, by the rule that the study's code used, through each lens."""
    said = []
    for lens in lenses(results):
        name = f"commitment_delay_kl_stays.{lens}"
        order = split(signs(results, quantities, name), results, "later", "earlier", "undecided")
        said.append(
            f"{order} through the {lens} lens ({span(results, quantities, name, signed=True)} layers)"
        )
    tau = threshold(next(iter(results.values())))
    return f"By the rule “KL stays below {tau} nats”, IT's commitment is {', and '.join(said)}."
