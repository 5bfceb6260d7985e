"""The claims: the study's published figures, what each claim asserts of its number, and how a number is judged.

`params/published.csv` holds one figure a row. `claim_test` states what the claim's sentence asserts of the figure:

    >0  >=6  <0  <=5     a sign or a bound
    ~0±0.05              equality: within 0.05 of zero
    ~0.33±0.1 L          the same for a layer, as a share of the number of layers
    >early,mid  <pt      an order: more than the same quantities whose names end in early and in mid; less than that in pt
    >0 & >early,mid      both

It is empty where the claim asserts none of these. `verdict` is the audit of the figure against the study's released files,
one of `VERDICTS`. `claim_id` is the claim of the study to which the figure belongs, a row of `params/claims.csv`, empty for a
detail that no claim rests on; `printed` and `stored` are what the paper prints of it and what the released files hold, as
typed. Rows of `study` are facts about the study, which no experiment measures.

`asserts` in `params/claims.csv` is a test that stands in place of those of a claim's figures, where the claim asserts another
thing of them, or `nothing`, where it asserts nothing that a run could agree with; it is empty for most claims.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd

from nbhelpers.core import params

VERDICTS = ("supported", "contradicted", "artifact value", "not checkable")
COLUMNS = (
    "id", "claim", "claim_test", "metric", "family", "value", "ci_low", "ci_high", "unit", "source_section", "verdict",
    "reason", "claim_id", "printed", "stored",
)  # fmt: skip
LISTED = (
    "claim_id",
    "claim",
    "section",
    "verdict",
    "artifacts",
    "reason",
    "same_as",
    "asserts",
    "no_run",
)  # of params/claims.csv
ALL_SIX, ALL = "mean", "all"
QUALITATIVE = ("definition", "statement")  # figures that are sentences, without a value
YES, NO, UNDECIDED = "yes", "no", "undecided"
NOTHING = "nothing"  # what a claim asserts that leaves a question open or only lists values
FORMS = "a bound (>0, <=5), an equality (~0±0.05, ~0.33±0.1 L), an order (>early,mid) or several of them (>0 & >early)"
NUMBER = r"-?\d+(?:\.\d+)?"
BOUND = re.compile(rf"(>=|<=|>|<)({NUMBER})")
EQUAL = re.compile(rf"~({NUMBER})±(\d+(?:\.\d+)?)( L)?")
ORDER = re.compile(r"([<>])([a-z]\w*(?:,[a-z]\w*)*)")


class ClaimError(ValueError):
    """A ledger of published figures that cannot be read; its message is one sentence."""


@dataclass(frozen=True)
class ClaimTest:
    """What a claim asserts of its number: that it lies between `low` and `high`.

    closed: whether the ends count. of_depth: whether the ends are shares of the number of layers. others: last words of the
    names of quantities; the claim is then on the number less each of them. also: what the claim asserts besides.
    """

    low: float
    high: float
    closed: bool = True
    of_depth: bool = False
    others: tuple[str, ...] = ()
    also: "ClaimTest | None" = None

    def parts(self) -> list["ClaimTest"]:
        """Return this test and those that the claim asserts besides."""
        return [self, *(self.also.parts() if self.also else [])]

    def judged(self, value: float, low: float, high: float, n_layers: float = 1) -> str:
        """Return whether a value with an interval agrees: yes, no, undecided, or "" without a value.

        Yes: the whole interval lies where the claim has the number; no: all of it lies elsewhere. An interval that leaves out
        its value (an onset that only resamples find) is taken up to it. Without an interval the value counts alone, and is
        undecided on an end that is not closed.
        """
        if math.isnan(value) or (self.of_depth and math.isnan(n_layers)):
            return ""
        known = not (math.isnan(low) or math.isnan(high))
        low, high = (min(low, value), max(high, value)) if known else (value, value)
        scale = n_layers if self.of_depth else 1
        floor, ceiling = self.low * scale, self.high * scale
        inside = (low >= floor and high <= ceiling) if self.closed else (low > floor and high < ceiling)
        return YES if inside else NO if high < floor or low > ceiling else UNDECIDED

    def __str__(self) -> str:
        """Return the test in words, "above 0"."""
        if self.also:
            return f"{replace(self, also=None)} and {self.also}"
        if self.others:
            return f"{'more' if self.low == 0 else 'less'} than {' and '.join(self.others)}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            if self.low == self.high:
                return f"exactly {self.low:g}"
            unit = " of the depth" if self.of_depth else ""
            return f"between {self.low:g} and {self.high:g}{unit}".replace("-", "−")
        least = math.isfinite(self.low)
        words = ("at least" if least else "at most") if self.closed else ("above" if least else "below")
        return f"{words} {self.low if least else self.high:g}".replace("-", "−")


def claim_test(text: str) -> ClaimTest | None:
    """Return the test that a text states, None for an empty text; ClaimError for any other text."""
    if not text:
        return None
    first, both, rest = text.partition(" & ")
    if both:
        return replace(_single(first), also=claim_test(rest) or _single(rest))
    return _single(text)


def _single(text: str) -> ClaimTest:
    """Return the test that a text without "&" states."""
    if found := BOUND.fullmatch(text):
        sign, bound = found[1], float(found[2])
        ends = (bound, math.inf) if sign[0] == ">" else (-math.inf, bound)
        return ClaimTest(*ends, closed="=" in sign)
    if found := EQUAL.fullmatch(text):
        centre, within = float(found[1]), float(found[2])
        # Decimals such as 0.575 − 0.125 must not lose their last digit.
        return ClaimTest(round(centre - within, 9), round(centre + within, 9), of_depth=bool(found[3]))
    if found := ORDER.fullmatch(text):
        ends = (0.0, math.inf) if found[1] == ">" else (-math.inf, 0.0)
        return ClaimTest(*ends, closed=False, others=tuple(found[2].split(",")))
    raise ClaimError(f"{text!r} is no claim test: {FORMS}, or nothing")


def asserted(text: str) -> ClaimTest | None:
    """Return the test that a claim has in place of its figures' own, None for "nothing" or an empty text."""
    test = None if text == NOTHING else claim_test(text)
    if test and (test.others or test.also):
        raise ClaimError(f"{text!r} must be a single bound or an equality")
    return test


def together(judgments: Iterable[str]) -> str:
    """Return one judgment of several: no if one is no, yes if all are, "" if one is missing."""
    found = set(judgments)
    return "" if "" in found or not found else NO if NO in found else YES if found == {YES} else UNDECIDED


def agreement(centre: float | None, value: float, run: float, low: float, high: float) -> str:
    """Return whether a run's value has the published sign: same sign, other sign, undecided, or "".

    A run is undecided if its interval contains the centre. A quantity without a centre has no sign to compare.
    """
    if centre is None or np.isnan(value) or np.isnan(run) or value == centre:
        return ""
    if run == centre or (low <= centre <= high):
        return UNDECIDED
    return "same sign" if (run > centre) == (value > centre) else "other sign"


@cache
def _table(path, _mtime: int) -> pd.DataFrame:
    """Return the checked table of one file, cached until its modification time changes."""
    table = pd.read_csv(path, keep_default_na=False, na_values={"value": "", "ci_low": "", "ci_high": ""})
    if tuple(table.columns) != COLUMNS:
        raise ClaimError(f"params/published.csv must have the columns {', '.join(COLUMNS)}.")
    for column, allowed in {"verdict": VERDICTS, "family": (*params.FAMILIES, ALL_SIX, ALL)}.items():
        wrong = table.loc[~table[column].isin(allowed)]
        if len(wrong):
            row = wrong.iloc[0]
            known = params.suggestion(row[column], allowed)
            raise ClaimError(f"params/published.csv, {row['id']}: unknown {column} {row[column]!r}; {known}.")
    if table["id"].duplicated().any():
        double = table.loc[table["id"].duplicated(), "id"].iloc[0]
        raise ClaimError(f"params/published.csv: the id {double} occurs twice.")
    for row in table.itertuples():
        try:
            test = claim_test(row.claim_test)
        except ClaimError as error:
            raise ClaimError(f"params/published.csv, {row.id}: claim_test {error}.") from None
        if test and row.metric.startswith(QUALITATIVE):
            raise ClaimError(
                f"params/published.csv, {row.id}: a sentence without a number has no claim_test."
            )
    return table


def _published() -> pd.DataFrame:
    """Return all published figures; ClaimError if the file is malformed."""
    path = params.ROOT / "params" / "published.csv"
    return _table(path, path.stat().st_mtime_ns)


def published(experiment: str) -> pd.DataFrame:
    """Return the published figures of an experiment, one row each, in the order of the file.

    The columns are `COLUMNS`; `value` and the interval are NaN where none is published; `verdict` is one of
    `VERDICTS`. Raises ClaimError if the file is malformed.
    """
    table = _published()
    return table[table["id"].str.startswith(f"{experiment}.")].reset_index(drop=True)


def of_claims() -> pd.DataFrame:
    """Return the published figures that belong to a claim of the study, one row each; the columns are `COLUMNS`."""
    table = _published()
    table = table[table["claim_id"] != ""].reset_index(drop=True)
    for row in table[~table["claim_id"].isin(listed().index)].itertuples():
        raise ClaimError(f"params/published.csv, {row.id}: params/claims.csv has no claim {row.claim_id!r}.")
    return table


def listed() -> pd.DataFrame:
    """Return the study's claims, one row each by `claim_id`; ClaimError if params/claims.csv is malformed.

    Columns: `claim` in words of our own, `section`, `verdict` of the audit and its `reason`, `artifacts`, what the released
    files give, `same_as`, the claims whose figures it sums up, `asserts`, a test in place of those of its figures, `no_run`,
    why no run measures its facts about the study.
    """
    path = params.ROOT / "params" / "claims.csv"
    return _listed(path, path.stat().st_mtime_ns)


@cache
def _listed(path, _mtime: int) -> pd.DataFrame:
    """Return the checked claims of one file, cached until its modification time changes."""
    table = pd.read_csv(path, keep_default_na=False, dtype=str)
    if tuple(table.columns) != LISTED:
        raise ClaimError(f"params/claims.csv must have the columns {', '.join(LISTED)}.")
    for row in table.itertuples():
        if row.verdict not in VERDICTS:
            known = params.suggestion(row.verdict, VERDICTS)
            raise ClaimError(f"params/claims.csv, {row.claim_id}: unknown verdict {row.verdict!r}; {known}.")
        try:
            asserted(row.asserts)
        except ClaimError as error:
            raise ClaimError(f"params/claims.csv, {row.claim_id}: asserts {error}, or {NOTHING!r}.") from None
    if (double := table["claim_id"].duplicated()).any():
        raise ClaimError(f"params/claims.csv: the id {table['claim_id'][double].iloc[0]} occurs twice.")
    return table.set_index("claim_id")


def others(metric: str, test: ClaimTest | None) -> list[str]:
    """Return the names of the quantities that a test sets beside one: its name with the last word exchanged."""
    stem = metric.rpartition(".")[0]
    return [f"{stem}.{word}" for word in test.others] if test else []
