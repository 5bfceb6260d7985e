"""A pytest plugin: nbval compares the outputs of a notebook by words and marks exactly, by numbers with room for rounding.

A number may differ by 2 % of the larger of two values and one unit of its last printed digit. A whole number below 100,
such as a count of families or a layer, may not differ unless it is a percentage. Spaces that align a table do not count. A
mark (✓ ▲ *) is a word: it tips only where an interval ends within rounding of its centre; then look at its page.
A greedy token that tips would change the rest of a reply, so texts that a notebook shows, and counts of steps, may differ on
hardware of another kind; none did with other vector instructions and thread numbers (`test_planted_errors`).
"""

import re

from nbval import plugin

NUMBER = re.compile(r"(?<![\w.−-])[−-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w|\.\d)")
SHARE = 0.02  # of the larger of two numbers
COUNTS = 100  # whole numbers below it are compared exactly
SHOWN = 10  # differing numbers that a message lists
# Drawings and HTML repeat what the plain text says; what goes to stderr is progress.
UNCOMPARED = ("stderr", "text/html", "application/vnd.vegalite.v5+json", "image/svg+xml")


def value_and_unit(text: str) -> tuple[float, float]:
    """Return a printed number's value and the unit of its last digit, 0.01 for "0.69" and 100 for "1.2e+03"."""
    mantissa, _, exponent = text.replace("−", "-").replace(",", "").partition("e")
    digits = len(mantissa.partition(".")[2])
    return float(f"{mantissa}e{exponent or 0}"), 10.0 ** (int(exponent or 0) - digits)


def near(reference: str, fresh: str, percent: bool = False) -> bool:
    """Return whether two printed numbers agree; percent: whether they are percentages, also whole ones are rounded then."""
    (wanted, unit), (found, other) = value_and_unit(reference), value_and_unit(fresh)
    size = max(abs(wanted), abs(found))
    if min(unit, other) >= 1 and size < COUNTS and not percent:
        return wanted == found
    return abs(wanted - found) <= (SHARE * size + max(unit, other)) * (1 + 1e-9)


def differences(reference: str, fresh: str) -> list[str]:
    """Return one sentence for each difference of two texts that counts: first the words, or if they are equal the numbers."""
    wanted, found = (NUMBER.sub("#", text).split() for text in (reference, fresh))
    if wanted != found:
        pairs = enumerate(zip(wanted + [""], found + [""]))
        place = next((i for i, (one, other) in pairs if one != other), min(len(wanted), len(found)))
        before, after = (" ".join(words[max(place - 5, 0) : place + 6]) for words in (wanted, found))
        return [f"words differ: reference “{before}”, now “{after}” (# is a number)"]
    numbers = zip(NUMBER.finditer(reference), NUMBER.finditer(fresh))
    return [
        f"line {reference.count(chr(10), 0, one.start()) + 1}: reference {one[0]}, now {other[0]}"
        for one, other in numbers
        if not near(one[0], other[0], re.match(r"\s*%", reference[one.end() :]) is not None)
    ]


class Compared(str):
    """A text that equals another one if no difference between them counts."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return isinstance(other, str) and not differences(self, other)

    def __ne__(self, other):
        return not self == other


class ComparedCell(plugin.IPyNbCell):
    """A notebook's cell as a test, whose texts are compared as `Compared`."""

    def sanitize(self, text):
        """Return a text without times and addresses, ready to be compared; anything else as it is."""
        clean = super().sanitize(text)
        return Compared(clean) if isinstance(clean, str) else clean

    def format_output_compare(self, key, left, right):
        """Add to the report what differs and how to accept it."""
        found = differences(left, right)
        more = [f"… and {len(found) - SHOWN} more numbers"] if len(found) > SHOWN else []
        accept = f"If the change is wanted: `nbh refresh {self.path.name}`, read its diff, and commit it."
        self.comparison_traceback += [f"{key} differs.", *found[:SHOWN], *more, accept]


def pytest_itemcollected(item):
    """Have nbval's cells compared as `ComparedCell`s; nbval has no hook for it."""
    if type(item) is plugin.IPyNbCell:
        item.__class__ = ComparedCell


def pytest_collectstart(collector):
    """Leave out of the comparison what the plain text says already."""
    if isinstance(collector, plugin.IPyNbFile):
        collector.skip_compare += UNCOMPARED
