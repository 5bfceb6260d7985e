"""Verdicts: the answer that a page opens with, and the matrix of signs that it rests on.

Signs rest on intervals that hold jointly over the pairs at 95 % (BCa over prompts, Bonferroni); with a single pair, on its
own 95 % interval. A pair with too few prompts for an interval is undecided.
"""

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params, stats
from nbhelpers.report.families import FEWEST, ends
from nbhelpers.report.quantities import Quantity, Source, kept, value
from nbhelpers.report.text import in_words, interval, number

LONGEST = 60  # words of a verdict
UP, DOWN, OPEN, MISSING = "▲", "▼", "·", "–"
JOINT = (
    "▲ above and ▼ below zero by an interval that holds jointly over the pairs at 95 % (BCa over prompts, Bonferroni), on "
    "which the answer rests; · undecided: the interval includes zero. Tables and figures show single 95 % intervals, which "
    "are narrower."
)
ALONE = (
    "▲ above and ▼ below zero by the 95 % interval (BCa over prompts); · undecided: the interval includes zero. Across pairs "
    "an answer must hold jointly, by wider intervals, so the page of all pairs may leave open what this one answers."
)
PARTS = "verdict"  # the key of a verdict's parts in the metadata of a notebook's output
UNITLESS = ("", "1", "cosine", "correlation")


@dataclass(frozen=True)
class Verdict:
    """An experiment's answer, Markdown in four parts: at most 60 words together.

    answer: a word or a few, such as "Yes". size: a sentence with the size of the effect. exception: a sentence on what does
    not fit, or on the pairs in which it is otherwise. caveat: what a reader must keep in mind; one of the last two may be "".
    """

    answer: str
    size: str
    exception: str = ""
    caveat: str = ""

    def __str__(self) -> str:
        """Return the verdict as one paragraph of Markdown, the answer in bold."""
        return " ".join(filter(None, (f"**{self.answer}.**", self.size, self.exception, self.caveat)))

    __repr__ = __str__

    def _repr_markdown_(self) -> tuple[str, dict]:
        """Return what a notebook shows, and as metadata the four parts, from which other pages of the book quote."""
        return str(self), {PARTS: [self.answer, self.size, self.exception, self.caveat]}

    @property
    def words(self) -> int:
        """Return the number of words, numbers and names of the whole verdict."""
        return sum(any(map(str.isalnum, word)) for word in str(self).split())


@dataclass(frozen=True)
class Signs:
    """The titles of the pairs whose value lies above the centre, below it, or neither (`open`), of all in `results`."""

    above: list[str]
    below: list[str]
    open: list[str]


def joint(results) -> float:
    """Return the confidence of each of several intervals that hold together at 95 % (Bonferroni)."""
    return 1 - 0.05 / max(len(results), 1)


def bounds(quantity: Quantity, confidence: float) -> tuple[float, float, float]:
    """Return a quantity's value, low and high; the ends are NaN without an interval or with too few prompts.

    An interval from the dataset keeps the confidence that its run gave it.
    """
    values = quantity.values
    if isinstance(values, stats.Interval):
        return tuple(map(float, values))
    if not np.ndim(values):
        return float(values), math.nan, math.nan
    (dim,) = values.dims
    by_prompt = values.rename({dim: "prompt"} if dim != "prompt" else {}).dropna("prompt").astype(float)
    if by_prompt.sizes["prompt"] < FEWEST:
        return (float(by_prompt.mean()) if by_prompt.sizes["prompt"] else math.nan), math.nan, math.nan
    return tuple(ends(by_prompt, confidence=confidence))


def sides(results, source: Source, name: str) -> dict[str, list[str]]:
    """Return {mark: titles of the pairs with it} of a quantity, by intervals that hold jointly over the pairs.

    A quantity without an interval counts by its value.
    """
    found = {sign: [] for sign in (UP, DOWN, OPEN, MISSING)}
    for title, dataset in results.items():
        found[mark(kept(source, dataset).get(name), joint(results))].append(title)
    return found


def signs(results, source: Source, name: str) -> Signs:
    """Return `sides` of a quantity, pairs without a value among the open ones."""
    found = sides(results, source, name)
    unsure = [title for title in results if title in found[OPEN] + found[MISSING]]
    return Signs(above=found[UP], below=found[DOWN], open=unsure)


def mark(quantity: Quantity | None, confidence: float) -> str:
    """Return ▲, ▼, · or, where nothing was measured, a dash."""
    if quantity is None:
        return MISSING
    point, low, high = bounds(quantity, confidence)
    centre = quantity.centre or 0.0
    if math.isnan(point):
        return MISSING
    if math.isnan(low):
        return OPEN if np.ndim(quantity.values) or point == centre else UP if point > centre else DOWN
    return UP if low > centre else DOWN if high < centre else OPEN


def noun(results) -> str:
    """Return what a page calls its pairs, such as "pocket pairs": the noun of the results' profile."""
    profiles = {dataset.attrs.get("profile") for dataset in results.values()}
    known = [name for name in profiles if name in params.keys("profiles")]
    return params.profile_params(known[0]).noun if len(profiles) == len(known) == 1 else "pairs"


def short(results) -> dict[str, str]:
    """Return {title: title without the word that all titles begin with}, for prose that has said it: "Gemma"."""
    first = {title.split(" ")[0] for title in results}
    return {
        t: t.split(" ", 1)[1] if len(results) > 1 and len(first) == 1 and " " in t else t for t in results
    }


def where(names, results, again: bool = False) -> str:
    """Return in which pairs something holds: "in all six pocket pairs", "in five of six pocket pairs (not in Gemma)".

    again: the verdict has already said what the pairs are: "in all six", "in five of six (not in Gemma)".
    """
    called, total = short(results), in_words(len(results))
    shown = [called[title] for title in results if title in names]
    missing = [called[title] for title in results if title not in names]
    pairs = "" if again else f" {noun(results)}"
    if len(results) == 1:
        return "in this pair" if shown else "not in this pair"
    if not shown:
        return f"in none{'' if again else f' of the {total}{pairs}'}"
    if not missing:
        return f"in {'both' if total == 'two' else f'all {total}'}{pairs}"
    listed = f"not in {listing(missing, 'or')}" if len(missing) <= len(shown) else listing(shown)
    return f"in {in_words(len(shown))} of {total}{pairs} ({listed})"


def told(names, results, does: str, does_not: str, again: bool = False) -> str:
    """Return a clause that says what is so and in which pairs; where it is so in none, what is not so.

    does: "IT is farther"; does_not: "IT is not farther". With a single pair, one of the two alone.
    """
    if len(results) == 1:
        return does if names else does_not
    pairs = "" if again else f" {noun(results)}"
    return (
        f"{does} {where(names, results, again)}"
        if names
        else f"{does_not} in any of the {in_words(len(results))}{pairs}"
    )


def listing(names, word: str = "and") -> str:
    """Return names as a list in prose: "Gemma, Llama and Qwen"."""
    *rest, last = names
    return f"{', '.join(rest)} {word} {last}" if rest else last


def degree(names, results) -> str:
    """Return the answer to whether something holds, by its share of the pairs: yes, mostly, in part, hardly or no.

    With a single pair it is yes or no.
    """
    share = len(names) / len(results)
    if share in (0, 1):
        return "yes" if share else "no"
    return "mostly" if share > 0.6 else "in part" if share > 0.4 else "hardly"


def span(results, source: Source, name: str, digits: int = 2, signed: bool = False) -> str:
    """Return the least and the largest value of a quantity over pairs, "0.10–0.18"; with one pair or one value, that.

    signed: with a plus or minus sign before each and "to" between them, "−0.04 to +0.09", for values of either sign.
    """
    values = [value(source, dataset, name) for dataset in results.values() if name in kept(source, dataset)]
    values = [v for v in values if not math.isnan(v)]
    if not values:
        return MISSING
    shown = list(dict.fromkeys(number(end, digits) for end in (min(values), max(values))))
    if signed:
        shown = [text if text.startswith("−") or float(text) == 0 else f"+{text}" for text in shown]
    return (" to " if signed or any(text.startswith("−") for text in shown) else "–").join(shown)


def of(results, titles) -> dict[str, xr.Dataset]:
    """Return the results with the given titles, in the results' order."""
    return {title: dataset for title, dataset in results.items() if title in titles}


@dataclass(frozen=True, repr=False)
class Matrix:
    """The signs of a few quantities, one row per pair and one column per measure: ▲ ▼ · and the value.

    cells: what each shows. hints: its interval, on hover. note: what the signs rest on. As text it is a plain table.
    """

    cells: pd.DataFrame
    hints: pd.DataFrame
    note: str

    def _rows(self) -> str:
        """Return the rows of the table as HTML."""
        rows = []
        for title in self.cells.index:
            cells = (
                f'<td title="{html.escape(hint)}">{html.escape(text)}</td>'
                for text, hint in zip(self.cells.loc[title], self.hints.loc[title])
            )
            rows.append(f'<tr><th scope="row">{html.escape(title)}</th>{"".join(cells)}</tr>')
        return "".join(rows)

    def _repr_html_(self) -> str:
        """Return the matrix as a table of HTML with its note."""
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in self.cells.columns)
        return (
            f'<table class="dataframe matrix"><thead><tr><td></td>{head}</tr></thead><tbody>{self._rows()}</tbody></table>'
            f'<p class="matrix-note">{self.note}</p>'
        )

    def __repr__(self) -> str:
        """Return the matrix as plain text."""
        return self.cells.to_string()


def matrix(results, source: Source, columns: Mapping[str, str]) -> Matrix:
    """Return the matrix of quantities, pairs × measures; columns: {heading: name of the quantity}."""
    confidence, cells, hints = joint(results), {}, {}
    for heading, name in columns.items():
        found = [kept(source, dataset).get(name) for dataset in results.values()]
        cells[heading] = [_cell(quantity, confidence) for quantity in found]
        hints[heading] = [_hint(quantity, confidence) for quantity in found]
    index = pd.Index(list(results))
    return Matrix(pd.DataFrame(cells, index), pd.DataFrame(hints, index), _note(results, source, columns))


def _note(results, source: Source, columns: Mapping[str, str]) -> str:
    """Return what a matrix rests on, the columns that have no interval, and those held against another line than zero."""
    plain, held, confidence = [], [], joint(results)
    for heading, name in columns.items():
        found = [quantity for d in results.values() if (quantity := kept(source, d).get(name)) is not None]
        lines = sorted({number(quantity.centre or 0.0, _digits(quantity)) for quantity in found})
        if found and all(not np.ndim(q.values) and math.isnan(bounds(q, confidence)[1]) for q in found):
            plain.append(heading)
        if any(float(line.replace("−", "-")) for line in lines):
            many = f"{lines[0]}–{lines[-1]}, by pair," if len(lines) > 2 else " or ".join(lines)
            held.append(f"“{heading}” is held against {many} instead of zero.")
    if len(plain) == len(columns):
        return " ".join(["▲ above and ▼ below zero; these numbers have no interval.", *held])
    without = [f"Without an interval, marked by the value alone: {listing(plain)}."] if plain else []
    return " ".join([ALONE if len(results) == 1 else JOINT, *without, *held])


def _digits(quantity: Quantity) -> int:
    """Return the decimals that a quantity is shown with: none for a whole number of layers or rules, else two."""
    whole = not np.ndim(quantity.values) and float(bounds(quantity, 0.95)[0]).is_integer()
    return 0 if whole and quantity.unit not in UNITLESS else 2


def _cell(quantity: Quantity | None, confidence: float) -> str:
    """Return a cell: the mark and the value."""
    sign = mark(quantity, confidence)
    return sign if sign == MISSING else f"{sign} {number(bounds(quantity, confidence)[0], _digits(quantity))}"


def _hint(quantity: Quantity | None, confidence: float) -> str:
    """Return what a cell says on hover: value, interval and unit."""
    if quantity is None or math.isnan(bounds(quantity, confidence)[0]):
        return "not measured"
    found = bounds(quantity, confidence)
    unit = "" if quantity.unit in UNITLESS else f" {quantity.unit}"
    return (
        f"{number(found[0], 3)}{unit}, no interval" if math.isnan(found[1]) else f"{interval(found, 3)}{unit}"
    )
