"""Captions: one plain sentence a chart, which says what is drawn against what, for which pairs, with which marks.

A caption stands in a chart's specification as its `description`; the book shows it below the chart and reads it aloud.
"""

import pandas as pd

from nbhelpers.report.families import POOL
from nbhelpers.report.text import in_words

VARIANTS = "PT (blue, dashed) and IT (orange, solid)"
BANDS = "bands are 95 % intervals of the mean over prompts"
BARS = "bars are 95 % intervals over prompts"
ONSET = "the dotted line marks the first layer of the late window"
ZERO = "the dashed line marks zero"


def caption(what: str, rows: pd.DataFrame, marks=(), choices=(), each: str = "panel") -> str:
    """Return the caption of a chart of rows, which have a column `panel` with the titles of their pairs.

    what: "entropy, nats, against the layer, for PT and IT". marks: clauses on what intervals and lines mean. choices: fields
    of which the reader chooses one value; the lens is named. each: what each of several pairs has, a "panel" or a "row".
    """
    titles = [title for title in dict.fromkeys(rows["panel"]) if title != POOL]
    pool = f", and for the {POOL}" if POOL in set(rows["panel"]) else ""
    where = f"in {titles[0]}" if len(titles) == 1 else f"{in_words(len(titles))} pairs, a {each} each{pool}"
    lens = ", through the chosen lens" if "lens" in choices and rows["lens"].nunique() > 1 else ""
    return "; ".join((f"{what}{lens}, {where}", *marks)) + "."
