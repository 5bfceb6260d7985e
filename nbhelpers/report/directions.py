"""Sentences of verdicts on a difference: to which side it goes, how far, in which pairs, and where it is otherwise."""

import math
from collections.abc import Callable

from nbhelpers.report.quantities import Source, kept, value
from nbhelpers.report.text import in_words, number
from nbhelpers.report.verdicts import (
    DOWN,
    LONGEST,
    MISSING,
    OPEN,
    UP,
    Verdict,
    degree,
    listing,
    noun,
    of,
    short,
    sides,
    where,
)

NAMES, COUNTS, LEAST = 2, 1, 0  # how much a verdict says of the pairs that differ
ELSE = {OPEN: "undecided", MISSING: "not measured"}


def most(results, source: Source, name: str, above: str, below: str, neither: str) -> str:
    """Return the words for the side on which a quantity lies in more than half of the pairs; `neither` if on none."""
    found = sides(results, source, name)
    return next(
        (word for sign, word in ((UP, above), (DOWN, below)) if 2 * len(found[sign]) > len(results)), neither
    )


def larger_side(found: dict[str, list[str]]) -> str:
    """Return the mark of the side on which more pairs lie; of two alike, the upper one."""
    return UP if len(found[UP]) >= len(found[DOWN]) else DOWN


def ranged(values, shown: Callable[[float], str] = number) -> str:
    """Return the least and the largest of values as text, "0.10–0.18" or "54–69 %"; one text if they read alike."""
    known = sorted(value for value in values if not math.isnan(value))
    if not known:
        return MISSING
    low, high = shown(known[0]), shown(known[-1])
    return high if low == high else f"{low.removesuffix(' %')}–{high}"


def levels_of(results, source: Source, name: str, shown: Callable[[float], str] = number) -> str:
    """Return the range of a quantity over pairs as text."""
    return ranged((value(source, d, name) for d in results.values() if name in kept(source, d)), shown)


def claim(
    results, source: Source, name: str, says: str, open_: str, words: tuple[str, str], *, shown=number, again=False,
    detail=NAMES, found=None,
) -> str:  # fmt: skip
    """Return a sentence, without its full stop, on the side and size of a quantity in most pairs, and on the others.

    says: the sentence, with {word} for the one of `words` (above, below) that holds and, if wanted, {size} for the range of
    the distances from zero among these pairs, as `shown` writes them. open_: the sentence where no pair has a side. again:
    the verdict has said what the pairs are. detail: whether the pairs that differ are named, counted, or left to the matrix.
    Of words such as "farther from" and "nearer to" the first stands for the other side. found: the signs, by default those
    of `verdicts.sides`.
    """
    found = found or sides(results, source, name)
    side = larger_side(found)
    if not found[side]:
        return f"{open_} {everywhere(results, again)}".rstrip()
    size = ranged((abs(value(source, results[title], name)) for title in found[side]), shown)
    otherwise = {DOWN if side == UP else UP: words[side == UP].split()[0], **ELSE}
    said = says.format(size=size, word=words[side == DOWN])
    return f"{said} {places(results, found, side, otherwise, again, detail)}".rstrip()


def everywhere(results, again: bool = False) -> str:
    """Return "in all six pocket pairs", or nothing for a single pair."""
    return where(results, results, again) if len(results) > 1 else ""


def places(
    results, found, side: str, otherwise: dict[str, str], again: bool = False, detail: int = NAMES
) -> str:
    """Return in which pairs a quantity lies on a side, and what is so in the others; nothing for a single pair.

    found: as `sides` returns it. otherwise: {mark: word} for the others: "in five of six pocket pairs (undecided in Qwen)".
    """
    titles = found[side]
    if len(results) == 1 or len(titles) == len(results):
        return everywhere(results, again)
    called = short(results)
    head = f"in {in_words(len(titles))} of {in_words(len(results))}{'' if again else f' {noun(results)}'}"
    rest = [(word, found[sign]) for sign, word in otherwise.items() if found[sign]]
    if detail < NAMES:
        head = head.removesuffix(f" of {in_words(len(results))}")
    if detail == LEAST:
        return head
    if detail == COUNTS:
        return ", ".join([head, *(f"{word} in {in_words(len(others))}" for word, others in rest)])
    if len(rest) == 1 and len(titles) < len(rest[0][1]):
        return f"{head} ({listing([called[title] for title in titles])}), {rest[0][0]} in the others"
    listed = (f"{word} in {listing([called[title] for title in others])}" for word, others in rest)
    return f"{head} ({'; '.join(listed)})"


def fitting(make: Callable[[int], Verdict]) -> Verdict:
    """Return the verdict `make(detail)` with as much detail on the pairs that differ as fits; the matrix has all of it."""
    for detail in (NAMES, COUNTS):
        if (verdict := make(detail)).words <= LONGEST:
            return verdict
    return make(LEAST)


def caveat(said: str, lacking: str, detail: int) -> str:
    """Return a caveat and what was not measured; the latter alone where words are short."""
    return lacking.strip() if lacking and detail == LEAST else f"{said}{lacking}".strip()


def yes_or_no(results, source: Source, name: str) -> str:
    """Return the answer to whether a quantity is above its centre: yes, mostly, in part, hardly, no or undecided."""
    return answer(sides(results, source, name))


def on_side(results, source: Source, name: str) -> dict:
    """Return the results of the pairs on the larger side of a quantity; all of them if no pair has a side."""
    found = sides(results, source, name)
    return of(results, found[larger_side(found)]) or dict(results)


def capital(text: str) -> str:
    """Return a text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Return a clause as a sentence: with a capital and a full stop; nothing of nothing."""
    return f"{capital(text)}." if text else ""


def answer(found: dict[str, list[str]], side: str = UP) -> str:
    """Return the answer to whether pairs lie on a side: as `verdicts.degree`, or "undecided" where none has a sure sign."""
    if not found[UP] and not found[DOWN]:
        return "undecided"
    return degree(found[side], [title for titles in found.values() for title in titles])


def among(titles, results, detail: int = NAMES) -> str:
    """Return in which pairs something holds, once the verdict has said what they are: "in Gemma and Qwen", "in all six".

    One or two pairs are named; more are counted as by `verdicts.where`, with names only where `detail` has them. With a
    single pair it is "".
    """
    if len(results) == 1:
        return ""
    if 0 < len(titles) <= 2 and len(titles) < len(results):
        called = short(results)
        return f"in {listing([called[title] for title in results if title in titles])}"
    said = where(titles, results, again=True)
    counted = said if detail == NAMES else said.split(" (")[0]
    return counted.removesuffix(f" of {in_words(len(results))}") if detail == LEAST else counted


def by_side(
    results, found: dict[str, list[str]], above: str, below: str, neither: str, detail: int = NAMES
) -> str:
    """Return where a quantity lies on each side: "farther in Qwen and OLMo, nearer in DeepSeek".

    The side of more pairs comes first; `neither` stands where no sign is sure. The verdict has said what the pairs are.
    """
    detail = min(detail, COUNTS) if found[UP] and found[DOWN] else detail
    order = sorted([(found[UP], above), (found[DOWN], below)], key=lambda side: -len(side[0]))
    said = [f"{word} {among(titles, results, detail)}".strip() for titles, word in order if titles]
    return ", ".join(said) or neither


def in_pairs(titles, results) -> str:
    """Return in how many pairs something holds, "in two of six" or "in none"; of a single pair, yes or no."""
    if len(results) == 1:
        return "yes" if titles else "no"
    return where(titles, results, again=True).split(" (")[0]


def by_mark(results, source: Source, name: str, words: dict[str, str], detail: int = COUNTS) -> str:
    """Return in which pairs a quantity has each mark: "more in Gemma, undecided in Llama and Qwen"; words: {mark: word}."""
    found = sides(results, source, name)
    return ", ".join(
        f"{word} {among(found[m], results, detail)}".strip() for m, word in words.items() if found[m]
    )
