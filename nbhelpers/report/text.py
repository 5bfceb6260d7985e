"""Numbers, intervals, shares and counts as text."""

import json
import math

import numpy as np
import pandas as pd

WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ENDS = ["mean", "low", "high"]


def p_value(p: float, digits: int = 2) -> str:
    """Return a p-value as text, never as zero; a dash for NaN."""
    smallest = 10**-digits
    return "–" if np.isnan(p) else f"< {smallest:.{digits}f}" if p < smallest else f"{p:.{digits}f}"


def written(table: pd.DataFrame, digits=2) -> list[str]:
    """Return each row's mean and interval as text, "0.42 [0.31, 0.55]", with a true minus sign."""
    rows = table[ENDS].itertuples(index=False, name=None)
    return [interval(row, digits) for row in rows]


def number(value, digits=2) -> str:
    """Return a number as text with a true minus sign, but none before a zero; a dash for NaN."""
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def interval(ends, digits=2) -> str:
    """Return a value and the ends of its interval as text, "0.42 [0.31, 0.55]"."""
    return "{} [{}, {}]".format(*(number(value, digits) for value in ends))


def percent(share) -> str:
    """Return a share as text, in whole per cent."""
    return f"{100 * float(share):.0f} %"


def level(results) -> str:
    """Return the confidence of the intervals that results hold, as text: 95 % unless their run named another."""
    given = (json.loads(dataset.attrs.get("parameters", "{}")) for dataset in results.values())
    return percent(next((values["confidence"] for values in given if "confidence" in values), 0.95))


def in_words(n: int) -> str:
    """Return a count in words, up to ten, then in digits."""
    return WORDS[n] if n < len(WORDS) else str(n)
