"""The ledger of the study's figures and tables: what each shows, and where this book shows its like. MyST Markdown.

The rows stand in `params/figures.csv`: `page` is a page across models or another page of the book, `cell` the named cell of
the former; `note` says what differs here, or, in a row without a page, why there is none.
"""

import csv
import json
from functools import cache
from pathlib import Path

from nbhelpers.book.markdown import PageError, cell_link, inline, stacked
from nbhelpers.core import params

SOURCE = "params/figures.csv"
COLUMNS = ["id", "part", "experiment", "shows", "page", "cell", "note"]
NOWHERE = "–"


def rows() -> list[dict[str, str]]:
    """Return the rows of the ledger; PageError names one that lacks a reason, or whose page or cell there is not."""
    with (params.ROOT / SOURCE).open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        if list(row) != COLUMNS or not row["shows"] or not (row["page"] or row["note"]):
            raise PageError(f"{SOURCE}: {row.get('id')} must say what it shows, and where or why nowhere.")
        _require(row)
    return found


def _require(row: dict[str, str]) -> None:
    """Raise PageError if the page or the cell of a row does not exist."""
    name, cell = row["page"], row["cell"]
    if name.endswith(".ipynb"):
        path = params.ROOT / "notebooks" / name
        if not (path.exists() and cell in cell_names(path)):
            raise PageError(f"{SOURCE}: {row['id']} names the cell {cell!r} of {name}, which is not there.")
    elif name and (cell or not (params.ROOT / "book" / f"{name}.md").exists()):
        raise PageError(f"{SOURCE}: {row['id']} names the page {name!r}, which book/ does not have.")


@cache
def cell_names(notebook: Path) -> list[str]:
    """Return the names of a notebook's named cells, in reading order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [name for cell in cells if (name := cell["metadata"].get("name"))]


def heading(page: str) -> str:
    """Return the title of a page of `book/`, as HTML."""
    text = (params.ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    return inline(text.partition("\n")[0].removeprefix("# "))


def place(row: dict[str, str]) -> str:
    """Return the link of a row to the page and cell that show its like, a dash if there is none."""
    if not row["page"]:
        return NOWHERE
    if not row["cell"]:
        return f'<a href="{row["page"]}.html">{heading(row["page"])}</a>'
    (title,) = (
        each.title
        for each in map(params.experiment, params.keys("experiments"))
        if each.across == row["page"]
    )
    return cell_link(row["page"], row["cell"], f"{title}: {row['cell'].replace('_', ' ')}")


def figures(profile: str) -> str:
    """Return the ledger as a table for each part of the paper, with a sentence on how many rows have their like here."""
    found = rows()
    shown = sum(bool(row["page"]) for row in found)
    texts = [
        f"{shown} of {len(found)} figures and tables have their like in this book; of the others the note says why."
    ]
    for part in dict.fromkeys(row["part"] for row in found):
        of_part = [
            [*map(inline, (row["id"], row["shows"])), place(row), inline(row["note"])]
            for row in found
            if row["part"] == part
        ]
        title = f"## {part[0].upper()}{part[1:]}"
        texts.append(f"{title}\n\n{stacked(['study', 'shows', 'here', 'what differs'], of_part)}")
    return "\n\n".join(texts)
