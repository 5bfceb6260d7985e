"""Tables, tabs and literal text as MyST Markdown."""

import re
from collections.abc import Iterable
from html import escape

CODE = re.compile(r"`([^`]+)`")


class PageError(RuntimeError):
    """A page that cannot be written; its message is one sentence for the user."""


def table(header: Iterable, rows: Iterable[Iterable]) -> str:
    """Return a Markdown table of cells written as text."""
    lines = [list(header), None, *rows]
    return "\n".join("|" + "---|" * len(lines[0]) if line is None else _row(line) for line in lines)


def _row(cells) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def raw(html: str) -> str:
    """Return HTML as a block of MyST Markdown."""
    return f"`````{{raw}} html\n{html}\n`````"


def stacked(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of cells written in HTML; on a narrow screen each row is a list of named cells."""
    names = [escape(name) for name in header]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = []
    for first, *others in rows:
        cells = "".join(f'<td data-of="{name}">{cell}</td>' for name, cell in zip(names[1:], others))
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    body = "\n".join(lines)
    return raw(
        f'<table class="table stacked">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'
    )


def inline(text: str) -> str:
    """Return a text as HTML, with what stands in backquotes as code."""
    return CODE.sub(r"<code>\1</code>", escape(text, quote=False))


def tabs(items: dict[str, str], group: str) -> str:
    """Return tabs from {title: content}; the reader's choice applies to all tabs of the same group, on every page."""
    shown = [f":::::{{tab-item}} {title}\n:sync: {title}\n\n{text}\n\n:::::" for title, text in items.items()]
    return f"::::::{{tab-set}}\n:sync-group: {group}\n\n" + "\n\n".join(shown) + "\n\n::::::"


def anchor(name: str) -> str:
    """Return the anchor of a cell's or table's name: `main_figure` is at #main-figure."""
    return name.replace("_", "-")


def cell_link(notebook: str, cell: str, text: str) -> str:
    """Return a link from a page of the book's top folder to a named cell of a page across models."""
    page = notebook.removesuffix(".ipynb")
    return f'<a href="runs/{page}.html#{anchor(cell)}">{escape(text)}</a>'


def source_link(path: str, text: str, line: int = 0, up: str = "") -> str:
    """Return a link to the page of a Python file, at a line if one is given; up: from the page's folder to the book's."""
    at = f"#L{line}" if line else ""
    return f'<a href="{up}source/{path.removesuffix(".py")}.html{at}">{escape(text)}</a>'


def literal(text: str) -> str:
    """Return a text as a literal block, whatever markup it contains."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip(chr(10)) or '(nothing)'}\n{fence}"
