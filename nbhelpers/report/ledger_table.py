"""The ledger as tables to read: plain text for comparisons, HTML with anchors and links for pages.

Each published figure is an anchor of its page, by its id. Links are relative to the pages across pairs, `runs/` in the book.
"""

import html
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nbhelpers.report.claims import ALL, ALL_SIX, NO, UNDECIDED, YES, claim_test
from nbhelpers.report.families import TITLES
from nbhelpers.report.ledger_places import address

DASH = "–"
SIGNS = {"same sign": "✓", "other sign": "✗", UNDECIDED: "~"}
ALL_FAMILIES = "all families"
SUMS = ("agrees with the claim", "same sign", "audit", "source")
# Where the claim of a group ends and its cases begin: a delimiter outside of brackets, or a bracket that ends the claim.
HEAD = re.compile(r"(?:: |, )(?![^(]*\))| (?=\([^()]*\)$)")
SHORT = {"mean": "mean of six"} | {ALL: ALL_FAMILIES}
READING = (
    "Cells: published → this run [single 95 % interval], then two judgments. <b>Agrees with the claim</b>: yes, no, or "
    "undecided where the interval reaches both sides; – where the claim asserts no sign, bound or order. <b>Same sign as the "
    "published number</b>: ✓ same, ✗ other, ~ undecided, – no sign to compare."
)
# Rules of the page's own style sheet, where a table of the book is in one, give way to these: same weight, later in the page.
STYLE = """<style>
div.ledger table.dataframe { font-size: .74rem; width: 100%; border-collapse: collapse; }
div.ledger p.said { font-size: .8rem; position: sticky; left: 0; margin: 0 0 .4rem; }
div.ledger table.dataframe td, div.ledger table.dataframe th { padding: .25rem .4rem; vertical-align: top; text-align: left; }
div.ledger table.dataframe td, div.ledger table.dataframe th { white-space: normal; }
div.ledger table.dataframe td:last-child { min-width: 7rem; }
div.ledger table.dataframe tbody th { font-weight: normal; min-width: 11rem; }
div.ledger table.dataframe tbody tr.head th { font-weight: bold; padding-top: .8rem; }
div.ledger small { font-size: inherit; white-space: nowrap; }
div.ledger details ul { margin: .2rem 0 0; padding-left: 1rem; }
@media (max-width: 640px) {
  div.ledger table.dataframe, div.ledger table.dataframe tbody { display: block; }
  div.ledger table.dataframe thead { display: none; }
  div.ledger table.dataframe tr, div.ledger table.dataframe tbody th, div.ledger table.dataframe td {
    display: block; position: static; max-width: none; border: 0; }
  div.ledger table.dataframe tr { border-top: 1px solid; padding: .3rem 0; }
  div.ledger table.dataframe td:empty { display: none; }
  div.ledger table.dataframe td::before { content: attr(data-of) " "; font-weight: bold; }
}
</style>"""


ROWS = "figures"  # the key of a ledger's figures in the metadata of a notebook's output


@dataclass(frozen=True, repr=False)
class Ledger:
    """A table to read: `table`, which its plain text shows whole, and `html`, which a page shows.

    figures: a run's values of the figures on which the study's claims rest, for the page of all claims.
    """

    table: pd.DataFrame
    html: str
    figures: tuple = ()

    def __repr__(self) -> str:
        """Return the table as text, no row, column or word left out."""
        return self.table.to_string(max_colwidth=None)

    def _repr_html_(self) -> str | tuple[str, dict]:
        """Return the table as HTML with anchors and links, and as metadata the figures, if there are any."""
        return (self.html, {ROWS: list(self.figures)}) if self.figures else self.html


def number(value: float, unit: str, digits: int) -> str:
    """Return a figure as text with a true minus sign; an onset may be "none", and an RMS has two significant digits."""
    if unit.startswith("onset") and value < 0:
        return "none"
    if unit == "RMS":
        return np.format_float_positional(value, precision=2, fractional=False, trim="-")
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, digits) + 0.0:.{digits}f}"
    return text.replace("-", "−")


def decimals(value: float) -> int:
    """Return how many decimals a published value was typed with."""
    return len(np.format_float_positional(value, trim="-").partition(".")[2])


def figures(row) -> tuple[str, str, str]:
    """Return a row's published value as typed, the run's and its interval as text, the last "" without one.

    The run has two decimals, three if it is small, because its sign counts, none if both numbers are whole.
    """
    typed, each = decimals(row.value), 3 if abs(row.run) < 0.1 else 2
    whole = float(row.run).is_integer() and float(row.value).is_integer()
    ends = [end for end in (row.run_low, row.run_high) if np.isfinite(end)]
    within = 0 if whole and all(float(end).is_integer() for end in ends) else each
    interval = f"[{', '.join(number(end, row.unit, within) for end in ends)}]" if len(ends) == 2 else ""
    return number(row.value, row.unit, typed), number(row.run, row.unit, 0 if whole else each), interval


def judgments(row) -> str:
    """Return both judgments of a row: yes, no, undecided or a dash; ✓, ✗, ~ or a dash."""
    return f"{row.agrees or DASH} {SIGNS.get(row.agreement, DASH)}"


def cell(row) -> str:
    """Return one cell as text: "published → run [interval]" and both judgments."""
    published, run, interval = figures(row)
    return " ".join(filter(None, (published, "→", run, interval, judgments(row))))


def counts(values: Iterable[str], order: Iterable[str]) -> str:
    """Return how often each value occurs, as text, "5 yes, 1 no"; a dash if there is none."""
    found = list(values)
    said = [f"{found.count(name)} {name}" for name in order if name in found]
    return found[0] if len(found) == 1 and said else ", ".join(said) or DASH


def audit(of: pd.DataFrame) -> str:
    """Return the verdicts on a claim's figures as text: the commonest, then each other with its families."""
    common, *rest = of["verdict"].value_counts().index
    named = [f"{name}: {named_families(of[of['verdict'] == name])}" for name in rest]
    return "; ".join([common, *named])


def named_families(of: pd.DataFrame) -> str:
    """Return the families of figures as text, by the names that the study gives them."""
    return ", ".join(dict.fromkeys(TITLES.get(family, SHORT.get(family, family)) for family in of["family"]))


def origin(of: pd.DataFrame) -> str:
    """Return where a claim's figures stand, as text, "§3.1" or "artifact exp9_summary.json"."""
    return "; ".join(dict.fromkeys(of["source_section"].str.removeprefix("paper ")))


def with_minus(claims: pd.Series) -> pd.Series:
    """Return claims with a true minus sign before numbers: "at dose −1"."""
    return claims.str.replace(r"(?<= )-(?=\d)", "−", regex=True)


def grouped(claims: Iterable[str]) -> list[tuple[str, str]]:
    """Return (head, case) of each claim: what neighbours share up to the first delimiter, and the rest; else ("", claim).

    A claim that adds a few words to the one before is "the same" in its group.
    """
    claims, found, before = list(claims), [], ""
    heads = [HEAD.split(claim, maxsplit=1)[0] for claim in claims]
    for i, (claim, head) in enumerate(zip(claims, heads)):
        if before and claim.startswith((f"{before}: ", f"{before}, ")):
            found.append((found[-1][0], f"the same{claim[len(before) :]}"))
            continue
        before = claim
        if head != claim and head in heads[max(i - 1, 0) : i] + heads[i + 1 : i + 2]:
            found.append((head, re.sub(r"^\(([^()]*)\)$", r"\1", claim[len(head) :].lstrip(":, "))))
        else:
            found.append(("", claim))
    return found


def beside(
    table: pd.DataFrame, titles: list[str], links: Mapping[str, tuple | None], elsewhere: set[str]
) -> Ledger:
    """Return the ledger of `ledger.ledger`'s rows: published values beside the run of each title, one row a claim.

    links: {metric: (cell that shows it, function that defines it) or None}. elsewhere: ids that `not_measured` lists.
    """
    table = table.assign(claim=with_minus(table["claim"]))
    run = table[table["run"].notna()]
    if len(table) and run.empty and set(table["id"]) <= elsewhere:
        return _all_elsewhere(table["id"].nunique())
    columns = [
        *titles,
        *([ALL_FAMILIES] if run["title"].isin((ALL_SIX, ALL)).any() and len(titles) > 1 else []),
    ]
    by_claim = [of for _, of in run.groupby(["claim", "unit"], sort=False)]
    named = [of["claim"].iloc[0] for of in by_claim]
    heads = arranged(columns if len(columns) > 1 else ["published", "this run"], list(SUMS))
    plain = pd.DataFrame(
        [[of["unit"].iloc[0], *_plain(of, columns)] for of in by_claim],
        index=pd.Index(named, dtype=object), columns=["unit", *heads],
    )  # fmt: skip
    body, last, anchors = [], "", set()
    for (head, case), of in zip(grouped(named), by_claim):
        if head and head != last:
            body.append(f'<tr class="head"><th colspan="{len(heads) + 1}">{html.escape(head)}</th></tr>')
        last = head
        body.append(_row(of, case, columns, links, anchors))
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ["claim", *heads])
    each, known = table.drop_duplicates("id"), set(run["id"])
    said = f'<p class="said">{summary(each, known, elsewhere)} {READING}</p>'
    return Ledger(plain, _whole(said, top, body, _left_out(each, known, elsewhere)))


def _whole(said: str, top: str, body: list[str], more: str = "") -> str:
    """Return a table of HTML with its style, a sentence above it and what stands below it."""
    rows = f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'{STYLE}<div class="ledger">{said}<table class="dataframe">{rows}</table>{more}</div>'


def _all_elsewhere(n: int) -> Ledger:
    """Return a sentence in place of a table whose figures are all in that of `not_measured`, with a link to it.

    That table stands on the page across pairs: the link's class makes it lead there from the pages of one pair.
    """
    said, where = (
        f"None of the {n} published figures is measured here",
        "a table lists each with its reason",
    )
    plain = pd.DataFrame({"published": f"{said}: {where}."}, index=[""])
    return Ledger(plain, f'<p>{said}: <a class="to-figure" href="#not-measured">{where}</a>.</p>')


def _plain(of: pd.DataFrame, columns: list[str]) -> list[str]:
    """Return a claim's cells as text: one per column, or published value and run of a single pair; then what sums it up."""
    found = {_column(row): row for row in of.itertuples()}
    if len(columns) > 1:
        cells = [cell(found[column]) if column in found else "" for column in columns]
    else:
        published, *run = figures(next(of.itertuples()))
        cells = [published, " ".join(filter(None, run))]
    return arranged(cells, _sums(of))


def arranged(cells: list[str], sums: list[str]) -> list[str]:
    """Return a row's cells in order: the judgments before the many cells of several pairs, after the two of a single one."""
    *judged, source = sums
    return [*cells, *judged, source] if len(cells) == 2 else [*judged, *cells, source]


def _sums(of: pd.DataFrame) -> list[str]:
    """Return what sums up a claim: judgments counted, the audit, the source."""
    pooled = of["title"].isin((ALL_SIX, ALL))
    each = of if pooled.all() else of[~pooled]  # a mean is no further pair
    agrees = counts(each["agrees"], (YES, NO, UNDECIDED))
    return [agrees, counts(each["agreement"].map(SIGNS).dropna(), SIGNS.values()), audit(of), origin(of)]


def _column(row) -> str:
    """Return the column in which a row of the ledger stands."""
    return ALL_FAMILIES if row.title in (ALL_SIX, ALL) else row.title


def _row(of: pd.DataFrame, case: str, columns: list[str], links: Mapping, known: set[str]) -> str:
    """Return a claim's row as HTML; `known` collects the ids that stand on the page."""
    unit = of["unit"].iloc[0]
    unit = f", <small>{html.escape(unit)}</small>" if unit not in ("", "1") else ""
    first = (
        f'<th scope="row"><details><summary>{html.escape(case)}{unit}</summary>{_details(of)}</details></th>'
    )
    found, cells = {_column(row): row for row in of.itertuples()}, []
    for column in columns:
        row = found.get(column)
        cells += ["<td></td>"] if row is None else _cells(row, column, len(columns) > 1, known)
    sums = [f'<td data-of="{name}">{html.escape(text)}</td>' for name, text in zip(SUMS, _sums(of))]
    sums[:2] = [re.sub(r"(\d) ", r"\1&nbsp;", text) for text in sums[:2]]  # a count stays with what it counts
    if place := links.get(of["metric"].iloc[0]):
        sums[-1] = sums[-1].replace("_", "_<wbr>").replace("</td>", f"<br>{link(place)}</td>")
    return f"<tr>{first}{''.join(arranged(cells, sums))}</tr>"


def _cells(row, column: str, several: bool, known: set[str]) -> list[str]:
    """Return a figure's HTML cell among several pairs, or its two cells for a single one; the first is its anchor."""
    published, run, interval = figures(row)
    name = "" if row.id in known else f' id="{row.id}"'
    known.add(row.id)
    run = f"<b>{run}</b> <small>{interval}</small>" if interval else f"<b>{run}</b>"
    if not several:
        return [f'<td{name} data-of="published">{published}</td>', f'<td data-of="this run">{run}</td>']
    text = f"{published} → {run} <small>{judgments(row)}</small>"
    return [f'<td{name} data-of="{html.escape(column, quote=True)}">{text}</td>']


def _details(of: pd.DataFrame) -> str:
    """Return what a claim's row opens: its test, how definitions differ, the audit's reasons, the quantity's name."""
    test = claim_test(of["claim_test"].iloc[0])
    items = [f"The claim says: {test or 'no sign, bound or order'}."]
    items += [f"Definition: {note}." for note in dict.fromkeys(of["note"]) if note]
    for (verdict, why), rows in of.groupby(["verdict", "reason"], sort=False):
        items.append(f"{verdict} ({named_families(rows)}): {why}.")
    said = "".join(f"<li>{html.escape(item)}</li>" for item in items)
    return f"<ul>{said}<li><code>{html.escape(of['metric'].iloc[0])}</code></li></ul>"


def link(place: tuple[str, Callable]) -> str:
    """Return links to the figure that shows a quantity, with the call that draws it, and to the source of its definition."""
    figure, code = address(place)
    return (
        f'<a class="to-figure" href="#{figure}">figure</a> · '
        f'<a class="to-source" href="../source/{code}">code</a>'
    )


def summary(each: pd.DataFrame, known: set[str], elsewhere: set[str]) -> str:
    """Return a sentence on how many published figures are measured, and how many are not."""
    missing = set(each["id"]) - known
    parts = {
        "without a quantity in this book": missing & elsewhere,
        "without a value in this run": missing - elsewhere,
    }
    rest = " and ".join(f"{len(ids)} {said}" for said, ids in parts.items() if ids)
    rest = f"; {rest} are named below with the reason" if rest else ""
    return f"{len(each) - len(missing)} of {len(each)} published figures are measured here{rest}."


def _left_out(each: pd.DataFrame, known: set[str], elsewhere: set[str]) -> str:
    """Return the figures without a value as a closed list, by reason; those of `elsewhere` have their anchors there."""
    left = each[~each["id"].isin(known)]
    items = []
    for why, of in left.groupby("missing", sort=False):
        said = "; ".join(html.escape(claim) for claim in dict.fromkeys(of["claim"]))
        marks = "".join(f'<span id="{name}"></span>' for name in of["id"] if name not in elsewhere)
        items.append(f"<li>{marks}<b>{html.escape(why)}</b> ({len(of)}): {said}</li>")
    title = f"{len(left)} published figure{'s' * (len(left) > 1)} without a value here"
    return f"<details><summary>{title}</summary><ul>{''.join(items)}</ul></details>" if items else ""


def not_measured(table: pd.DataFrame) -> Ledger:
    """Return published figures with the reason in `why`, one row a claim, as a table to read."""
    rows, body = {}, []
    for claim, of in table.assign(claim=with_minus(table["claim"])).groupby("claim", sort=False):
        unit = of["unit"].iloc[0]
        row = [of["why"].iloc[0], audit(of), extent(of["value"].dropna(), unit), len(of), origin(of)]
        rows[claim] = row
        anchors = "".join(f'<span id="{name}"></span>' for name in of["id"])
        why = "".join(f"<li>{html.escape(text)}</li>" for text in dict.fromkeys(of["reason"]))
        first = f"<details><summary>{html.escape(claim)}</summary><ul>{why}</ul></details>"
        cells = "".join(
            f'<td data-of="{name}">{html.escape(str(text))}</td>' for name, text in zip(LEFT_OUT, row)
        )
        body.append(f'<tr><th scope="row">{anchors}{first}</th>{cells}</tr>')
    top = "".join(f'<th scope="col">{name}</th>' for name in ["claim", *LEFT_OUT])
    plain = pd.DataFrame(
        list(rows.values()), index=pd.Index(list(rows), dtype=object), columns=list(LEFT_OUT)
    )
    said = f'<p class="said">{len(table)} published figures that no quantity here measures</p>'
    return Ledger(plain, _whole(said, top, body))


LEFT_OUT = ("why not here", "audit", "published", "figures", "source")


def extent(values: pd.Series, unit: str) -> str:
    """Return published values as text: one, or the least and the largest."""
    ends = [number(value, unit, 2) for value in sorted({values.min(), values.max()})] if len(values) else []
    return " … ".join(ends) or "a sentence"
