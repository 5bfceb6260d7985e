"""Clauses that state the signs of differences, counted over families.

Counts rest on intervals that hold jointly over the families at 95 % (BCa over prompts, Bonferroni).
"""

from collections.abc import Callable

from nbhelpers.report.families import interval_table, usable
from nbhelpers.report.text import counted

JOINT = (
    "Counts rest on intervals that hold jointly over the families at 95 % (BCa over prompts, Bonferroni); *undecided* is "
    "an interval that holds zero."
)
ALONE = "*Undecided* is a 95 % interval (BCa over prompts) that holds zero."
TOO_FEW = "undecided (too few prompts)"


def grounds(results) -> str:
    """Return the sentence on the intervals behind the signs, for one model or several."""
    return ALONE if len(results) == 1 else JOINT


def sentence(results, measure: Callable, above: str, below: str) -> str:
    """Return a clause, to follow "is", on the sign of `measure(dataset)`, [prompt], in the families with enough prompts."""
    kept = usable(results, measure)
    if not kept:
        return TOO_FEW
    found = signs(kept, lambda values: values)
    if len(kept) == len(results):
        return compared(found, len(kept), above, below)
    if len(kept) == 1:
        return (
            f"{compared(found, 1, above, below)} in {next(iter(kept))}, the only family with enough prompts"
        )
    return compared(found, len(kept), above, below, noun="families with enough prompts")


SURE = 0.95


def others_rest_on(results) -> str:
    """Return the sentence of `grounds` for a verdict that also has counts with other grounds."""
    return grounds(results).replace("Counts rest", "The other counts rest", 1)


def by_interval(results, interval: Callable) -> dict[str, list[str]]:
    """Return the families whose `interval(dataset)`, (value, low, high), is above zero, below zero, or open (around zero)."""
    groups = {"above": [], "below": [], "open": []}
    for title, dataset in results.items():
        _, low, high = interval(dataset)
        groups["above" if low > 0 else "below" if high < 0 else "open"].append(title)
    return groups


ONE = "Every sign rests on a 95 % interval (BCa over prompts)."
SEVERAL = "Every count rests on intervals that hold jointly over the families at 95 % (BCa over prompts, Bonferroni)."


def signs(results, measure) -> dict[str, list[str]]:
    """Return the families whose difference is above zero, below zero, or open (around zero).

    The intervals hold jointly over the families at 95 % (Bonferroni).
    """
    table = interval_table(results, measure, pool=False, confidence=1 - 0.05 / len(results))
    above, below = table["low"] > 0, table["high"] < 0
    groups = {"above": above, "below": below, "open": ~(above | below)}
    return {name: table.loc[chosen, "family"].tolist() for name, chosen in groups.items()}


def compared(found, total, above, below, noun="families") -> str:
    """Return a clause, to follow "is", on the signs of a difference; above, below: words for the two signs."""
    if total == 1:
        return above if found["above"] else below if found["below"] else "undecided"
    parts = [f"{above} in {counted(found['above'], total, noun)}"]
    parts += [f"{below} in {counted(found['below'], total, noun)}"] if found["below"] else []
    parts += [f"undecided in {counted(found['open'], total, noun)}"] if found["open"] else []
    return ", ".join(parts)
