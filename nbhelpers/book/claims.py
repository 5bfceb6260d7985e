"""The page of all claims: its table, its picture and its CSV, from the ledgers of the experiments.

Each row leads to the figure that shows it and to the code that defines it. The page is read without a script;
`book/assets/ledger.js` adds the filter.
"""

import json
from functools import cache
from html import escape
from pathlib import Path

import pandas as pd

from nbhelpers import experiments
from nbhelpers.book.markdown import PageError
from nbhelpers.core import params, store
from nbhelpers.report import claims, claims_page, ledger, ledger_places, ledger_table
from nbhelpers.run.results import executed_path

HEADS = ("figure", "family", "printed", "in the files", "this run", "agrees", "sign", "order", "audit")
ABOUT = {
    "printed": "what the paper prints",
    "in the files": "what the study's released files hold",
    "this run": "value [95 % interval]",
    "agrees": "with what the claim asserts",
    "sign": "same sign as the published value",
    "order": "rank correlation over families of published values and this run's",
    "audit": "of the figure against the released files",
}
TABLE = """```{{raw}} html
<link rel="stylesheet" href="_static/ledger.css"><script src="_static/ledger.js" defer></script>
<p><a href="_static/claims.csv" download>The whole table as CSV</a></p>
<form class="ledger-filter" role="search" hidden>
<label for="ledger-words">Filter: words of a claim, its id (C003), an experiment, a family, an audit</label>
<input id="ledger-words" type="search" autocomplete="off" spellcheck="false" aria-describedby="ledger-count">
<button type="button" id="ledger-all" aria-pressed="false">Show all figures</button>
<output id="ledger-count" aria-live="polite"></output></form>
<div class="all-claims full-width" role="region" tabindex="0" aria-label="Table: all claims">
<table id="ledger-table"><thead><tr>{heads}</tr></thead>
{bodies}</table></div>
```"""
DERIVED = (
    "computed here",
    "difference of the two published",
)  # in the reason: a mean or a difference of the study's values
AUDITS = {
    "supported": "supported", "contradicted": "contradicted", "artifact value": "in the files only",
    "not checkable": "not checkable",
}  # fmt: skip


def figures(profile: str, key: str) -> list[list]:
    """Return an experiment's rows of `ledger.KEPT`, from its executed page across models if that is newer than what it reads.

    Else they are computed from the results. Raises PageError for a page that keeps none, ResultError for a missing result.
    """
    path, *read = sources(profile, key)
    if not path.exists() or any(_time(each) > _time(path) for each in read):
        return from_results(profile, key)
    remedy = f"`nbh run {key}_across --profile {profile}`"
    if (found := _kept(path, path.stat().st_mtime_ns)) is not None:
        return found
    if not any(map(is_of_study, params.profile_params(profile).models)):
        return []
    raise PageError(f"{store.shown(path)} keeps no figures of the ledger; make it anew with {remedy}.")


def sources(profile: str, key: str) -> list[Path]:
    """Return the executed page across models of an experiment and what it reads: the results and the study's figures."""
    page, models = (
        executed_path(profile, params.experiment(key).across),
        params.profile_params(profile).models,
    )
    results = [store.result_path(profile, model, key) for model in models]
    return [page, *results, params.ROOT / "params" / "published.csv"]


def _time(path: Path) -> int:
    """Return when a file was written, ns; 0 if it is not there."""
    return path.stat().st_mtime_ns if path.exists() else 0


def from_results(profile: str, key: str) -> list[list]:
    """Return what `figures` returns, computed from an experiment's results as its page across models computes it."""
    results = experiments.open_results(profile, key)
    return [*ledger.of_claims(ledger.ledger(key, results, experiments.part(key, "quantities")))]


@cache
def _kept(path: Path, _mtime: int) -> list[list] | None:
    """Return the rows that an executed page keeps, None without any; read once until the file changes."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    kept = [output.get("metadata", {}).get("text/html", {}).get(ledger_table.ROWS) for output in outputs]
    return next((rows for rows in kept if rows is not None), None)


def is_of_study(model: str) -> bool:
    """Return whether the study's figures stand beside a pair."""
    return params.model_params(model).published_as is not None


def keys() -> list[str]:
    """Return the experiments that have figures of the study's claims, in the order of their keys."""
    found = set(claims.of_claims()["id"].str.partition(".")[0])
    return [key for key in params.keys("experiments") if key in found]


def table(profile: str) -> pd.DataFrame:
    """Return `claims_page.table` of a profile, from its executed pages across models or its results."""
    read = [path for key in keys() for path in sources(profile, key)] + [
        params.ROOT / "params" / "claims.csv"
    ]
    return _table(profile, tuple((path, _time(path)) for path in read)).copy()


@cache
def _table(profile: str, _stamps: tuple) -> pd.DataFrame:
    """Return the table of a profile, made once until a file that it is read from changes."""
    return claims_page.table(row for key in keys() for row in figures(profile, key))


@cache
def place(key: str, metric: str) -> tuple[str, str] | None:
    """Return the anchor of the figure that shows a quantity on the experiment's page, and the page of its definition."""
    found = ledger.shown(metric, experiments.part(key, "quantities"))
    return ledger_places.address(found) if found else None


@cache
def across(key: str) -> str:
    """Return the path of an experiment's page across models in the book."""
    return f"runs/{Path(params.experiment(key).across).stem}.html"


def claims_sentence(profile: str) -> str:
    """Return how this run stands to the claims, as Markdown; of pairs that are not the study's it says so."""
    found = table(profile)
    scales = (found["interval"] != "").any()
    more = (
        "Intervals are compared where a pair has as many layers as the study's."
        if scales
        else "These pairs are not the study's and differ in scale: signs, bounds, ranges and orders are compared, "
        "single sizes are not."
    )
    return f"**{claims_page.sentence(found)}** {more}"


def claims_table(profile: str) -> str:
    """Return the table of all claims as HTML in MyST, with the field that filters it."""
    found = table(profile)
    found["claim"] = ledger_table.with_minus(found["claim"])
    bodies = "\n".join(
        body(claim_id, claim, claims_page.of_claim(found, claim_id), claims_page.judged(found, claim_id))
        for claim_id, claim in claims.listed().iterrows()
    )
    heads = "".join(f'<th scope="col"{_title(ABOUT.get(name, ""))}>{name}</th>' for name in HEADS)
    return TABLE.format(heads=heads, bodies=bodies)


def _title(text: str) -> str:
    """Return an attribute that explains an element, "" without a text."""
    return f' title="{escape(text, quote=True)}"' if text else ""


def body(claim_id: str, claim: pd.Series, of: pd.DataFrame, judged: pd.DataFrame) -> str:
    """Return one claim as the body of a table: a row with what is claimed and found, then a row for each figure.

    judged: the figures `of` the claim as it judges them.
    """
    said = claims_page.says(judged)
    own = of if not claim["same_as"] else of.iloc[:0]
    here = set(params.keys("experiments"))  # a project may have fewer than the study's claims rest on
    titles = dict.fromkeys(key for key in of["id"].str.partition(".")[0] if key in here)
    links = ", ".join(
        f'<a href="{across(key)}">{escape(params.experiment(key).title)}</a> ({key})' for key in titles
    )
    reasons = dict.fromkeys(of.loc[of["missing"] != "", "missing"])
    notes = {why: chr(ord("a") + n) for n, why in enumerate(reasons)}
    parts = [
        f"This run: <b>{claims_page.MARKS[said]} {said}</b>{_votes(judged)}.",
        f"Audit: <b>{AUDITS[claim['verdict']]}</b>: {escape(claim['reason'])}.",
        f"The files: {escape(claim['artifacts'])}",
        f"The study, {escape(claim['section'])}; here {links}."
        if links
        else f"The study, {escape(claim['section'])}.",
    ]
    if claim["same_as"]:
        asserted = claims.asserted(claim["asserts"])
        each = f", each {asserted}" if asserted else ""
        parts.append(f"Its figures are those of {', '.join(map(_link, claim['same_as'].split()))}{each}.")
    parts += [f"<sup>{mark}</sup>&nbsp;Not measured: {escape(why)}." for why, mark in notes.items()]
    first = (
        f'<tr class="claim"><th scope="rowgroup" colspan="{len(HEADS)}"><a class="id" href="#{claim_id}">{claim_id}</a> '
        f"{escape(claim['claim'])}<p>{' '.join(parts)}</p></th></tr>"
    )
    return f'<tbody id="{claim_id}">{first}{"".join(row(each, notes) for each in own.itertuples())}</tbody>'


def _votes(of: pd.DataFrame) -> str:
    """Return how many figures of a claim have each judgment, or each sign where none has a test; "" if none has."""
    counted = claims_page.counted(of)
    said = ", ".join(f"{n} {name}" for name, n in counted.items() if n)
    return f" ({said}, of {len(of)})" if said else ""


def _link(claim_id: str) -> str:
    """Return a link to another claim of the page."""
    return f'<a href="#{claim_id}">{claim_id}</a>'


def row(each, notes: dict[str, str]) -> str:
    """Return a figure as a row of the table; notes: {reason why a figure is not measured: its mark}."""
    key = each.id.partition(".")[0]
    where = place(key, each.metric) if key != claims_page.STUDY and not each.missing else None
    run = run_text(each) or f"–<sup>{notes.get(each.missing, '')}</sup>"
    code = ""
    if where:
        run = f'<a href="{across(key)}#{where[0]}">{run}</a>'
        code = f' <a class="code" href="source/{where[1]}">code</a>'
    order = "" if pd.isna(each.order) else _minus(f"{each.order:.2f}")
    title = ledger_table.SHORT.get(each.title, each.title)
    sign = ledger_table.SIGNS.get(each.agreement, ledger_table.DASH)
    published = [typed(text, each.unit) for text in (each.printed, each.stored)]
    if any(words in each.reason for words in DERIVED):
        published = [f"<i>{text}</i>" if text else "" for text in published]
    data = [title, *published, run, each.agrees or ledger_table.DASH, sign, order, AUDITS[each.verdict]]
    return f'<tr><th scope="row">{escape(each.claim)}{code}</th>{"".join(f"<td>{text}</td>" for text in data)}</tr>'


def run_text(each) -> str:
    """Return a run's value with its interval as text, "" without a value; whether intervals agree, where scales compare."""
    if pd.isna(each.run):
        return ""
    _, run, interval = ledger_table.figures(each)
    return " ".join(filter(None, (run, interval, each.interval)))


def _minus(text: str) -> str:
    """Return a typed number with a true minus sign."""
    return text.replace("-", "−")


def typed(text: str, unit: str) -> str:
    """Return a number of the study as it was typed, thousands apart; an onset below zero is "none"."""
    if text and (float(text) < 0 and unit.startswith("onset") or float(text) >= 1000):
        return ledger_table.number(float(text), unit, ledger_table.decimals(float(text)))
    return _minus(text)


def write(profile: str, folder: Path) -> None:
    """Write the CSV of all claims, and their words for the search, to the static files; their picture beside the pages."""
    found = table(profile)
    words = json.dumps(list(claims.listed()["claim"].items()), ensure_ascii=False)
    (folder / "assets" / "claims.js").write_text(f"window.bookClaims = {words};\n", encoding="utf-8")
    (folder / "assets" / "claims.csv").write_text(claims_page.csv(found), encoding="utf-8")
    drawn = json.dumps(claims_page.picture(found).to_dict(), ensure_ascii=False)
    (folder / "claims.vl.json").write_text(drawn, encoding="utf-8")
