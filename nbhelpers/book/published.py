"""The tab *The study's models* of a page across pairs: the authors' stored values, drawn by the page's own figure functions.

The values are the tables of `params/published`, which `nbh import --ship` writes; a page without one has no such tab. The
charts are files beside the page, made when the book is built, so that no notebook has to know of them.
"""

import json
from pathlib import Path

import altair as alt
import pandas as pd

from nbhelpers.book import origins
from nbhelpers.book.markdown import PageError, table
from nbhelpers.core import params
from nbhelpers.report import charts, published
from nbhelpers.report.families import family_titles
from nbhelpers.run import importing

TITLE = "The study's models"
WHOSE = (
    "The study's own pairs, from values that its authors published with it ([repository]({study}), commit {commit}, "
    "licence {licence}): nothing here was measured by this book. The figures are those of this page, drawn by the same code. "
    "[How the values came here](#stored-values)."
)
CURVE = ("layer", "mean", "low", "high")  # of a point of a curve over layers
INTERVALS = "intervals are those that the study stored"
NO_INTERVALS = "the study stored no intervals"


def path_of(key: str) -> Path:
    """Return the path of the table of an experiment's stored values."""
    return params.ROOT / published.FOLDER / f"{key}.csv"


def stored(key: str) -> pd.DataFrame | None:
    """Return the table of an experiment's stored values; None if none ships; PageError if it is damaged."""
    path = path_of(key)
    if key not in importing.slices() or not path.exists():
        return None
    try:
        return published.read(path)
    except (KeyError, ValueError) as error:
        raise damaged(key, error) from None


def damaged(key: str, error: Exception) -> PageError:
    """Return the error of a table that cannot be read."""
    return PageError(
        f"{published.FOLDER / path_of(key).name} is damaged ({error}); `nbh import PATH --ship` writes it anew."
    )


def results(key: str, frame: pd.DataFrame) -> dict:
    """Return {title: dataset} of the study's pairs that a table has values of, in the book's order."""
    found = set(frame["model"])
    try:
        return {
            title: published.dataset(frame, model, importing.declared(key))
            for model, title in family_titles("paper").items()
            if model in found
        }
    except (KeyError, ValueError) as error:
        raise damaged(key, error) from None


def tab(key: str, folder: Path) -> dict[str, str]:
    """Return {title of the tab: its Markdown} of an experiment after writing its charts into a folder; {} without values.

    folder: the book's source folder; the page that holds the tab lies in `runs`.
    """
    frame = stored(key)
    if frame is None:
        return {}
    slice_ = importing.slices()[key]
    parts = [WHOSE.format(**importing.SOURCE), slice_.NOTE]
    for number, (heading, draw) in enumerate(slice_.drawn(results(key, frame)).items(), 1):
        name = f"published/{key}_{number}.vl.json"
        source = f"Data: params/published/{key}.csv, which the study's authors stored."
        parts.append(f"**{heading}**\n\n{shown(draw(), name, folder / 'runs' / name, source)}")
    return {TITLE: "\n\n".join([*parts, contents(key, frame)])}


def shown(drawn: alt.Chart | pd.DataFrame, name: str, path: Path, source: str) -> str:
    """Return the Markdown of a table, or of a chart after writing it; name: the chart's file, seen from the page."""
    if isinstance(drawn, pd.DataFrame):
        return table(["", *drawn.columns], ([index, *row] for index, row in zip(drawn.index, drawn.values)))
    write(path, origins.said(restated(drawn.to_dict()), source))
    return f"```{{chart}} {name}\n```"


def study_files(profile: str) -> str:
    """Return the table of the study's compact files: which experiments of the book have values of each, or why none has."""
    path = params.ROOT / published.FOLDER / "sources.csv"
    if not path.exists():
        return "(No file of the study was imported.)"
    rows = pd.read_csv(path, keep_default_na=False).itertuples(index=False)
    return table(
        ["file", "in the book"],
        (
            [f"`{row.file}`", link(row.experiments) if row.experiments else f"unused: {row.reason}"]
            for row in rows
        ),
    )


def link(keys: str) -> str:
    """Return links to the pages of experiments, from their keys with spaces between."""
    found = [params.experiment(key) for key in keys.split()]
    return ", ".join(f"[{of.title}](runs/{of.across})" for of in found)


def write(path: Path, spec: dict) -> None:
    """Write the specification of a chart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")


def contents(key: str, frame: pd.DataFrame) -> str:
    """Return the closed list of an experiment's stored values: what each is, the mean of how many what, with intervals."""
    declared, rows = importing.declared(key), []
    for name, of in frame.groupby("variable", sort=False):
        n = of["n"].dropna()
        span = "" if n.empty else f"{n.min():,.0f}" + (f"–{n.max():,.0f}" if n.max() > n.min() else "")
        over = f"{span} {of['over'].iloc[0]}".strip() or "not recorded"
        interval = "stored" if of["low"].notna().any() else "none stored"
        rows.append([f"{declared[name].long_name} (`{name}`)", declared[name].unit, over, interval, len(of)])
    listed = table(["value", "unit", "mean over", "interval", "values"], rows)
    return f":::{{dropdown}} What was stored, and over how many\n{listed}\n:::"


def restated(spec: dict) -> dict:
    """Return the specification of a chart that says whose values it shows and with which intervals, without empty fields."""
    datasets = {
        name: [slim(row) for row in rows if row.get("mean", 0) is not None]
        for name, rows in spec.get("datasets", {}).items()
    }
    known = {field for rows in datasets.values() for row in rows for field in row}
    absent = {"low", "high", "prompts"} - known
    spec = pruned(without(spec, absent), datasets) | {"datasets": datasets}
    return folded(spec | {"description": said(spec.get("description", ""), "low" in known)})


def folded(spec: dict) -> dict:
    """Return the specification of a chart over layers with one row a curve, whose values are lists: a tenth of the bytes."""
    (name, rows), *more = spec["datasets"].items()
    lists = [field for field in CURVE if rows and field in rows[0]]
    if more or "layer" not in lists or any(row.keys() != rows[0].keys() for row in rows):
        return spec
    curves = charts.packed(pd.DataFrame(rows), lists).to_dict("records")
    transform = [{"flatten": lists}, *spec.get("transform", [])]
    return spec | {"datasets": {name: curves}, "transform": transform}


def slim(row: dict) -> dict:
    """Return a row without the fields that are null, and without a number of prompts, which no stored value has."""
    return {name: value for name, value in row.items() if value is not None and name != "prompts"}


def without(part, fields: set[str]):
    """Return a part of a specification without the marks and tooltips of some fields."""
    if isinstance(part, list):
        return [without(each, fields) for each in part if not shows(each, fields)]
    if not isinstance(part, dict):
        return part
    found = {name: without(each, fields) for name, each in part.items() if name != "datasets"}
    if isinstance(found.get("tooltip"), list):
        found["tooltip"] = [tip for tip in found["tooltip"] if tip.get("field") not in fields]
    return found


def pruned(part, datasets: dict):
    """Return a part of a specification whose scales of names leave out names that no row has, and so do their legends."""
    if isinstance(part, list):
        return [pruned(each, datasets) for each in part]
    if not isinstance(part, dict):
        return part
    found = {name: pruned(each, datasets) for name, each in part.items()}
    names, looks = (found.get("scale") or {}).get("domain"), (found.get("scale") or {}).get("range")
    if isinstance(names, list) and isinstance(looks, list) and len(names) == len(looks) and "field" in found:
        known = {str(row.get(found["field"])) for rows in datasets.values() for row in rows}
        kept = [(name, look) for name, look in zip(names, looks) if str(name) in known]
        if kept:
            domain, range_ = map(list, zip(*kept))
            found["scale"] = found["scale"] | {"domain": domain, "range": range_}
    return found


def shows(part, fields: set[str]) -> bool:
    """Return whether a part of a specification is a mark that is placed by one of some fields, such as a band."""
    encoding = part.get("encoding", {}) if isinstance(part, dict) else {}
    return any(encoding.get(axis, {}).get("field") in fields for axis in ("x", "y"))


def said(description: str, intervals: bool) -> str:
    """Return a caption that names the study's pairs, with what is known of intervals instead of this book's own."""
    what, *marks = description.removesuffix(".").split("; ")
    own = ("bands ", "bars are")
    kept = [mark for mark in marks if not mark.startswith(own)]
    clause = [INTERVALS if intervals else NO_INTERVALS] if len(kept) < len(marks) or intervals else []
    return "; ".join([what.replace(" pairs, ", " pairs of the study, "), *clause, *kept]) + "."
