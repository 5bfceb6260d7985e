"""A Sphinx extension that shows the book's charts without a network.

A chart of a notebook becomes a numbered figure that holds its specification; `book/assets/charts.js` draws it with
one shared copy of Vega. The directive `{chart} notebook.ipynb name` repeats a named cell's charts on another page.
"""

import json
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from sphinx.util.osutil import relative_uri

from nbhelpers.book import origins
from nbhelpers.book.sphinx_pages import anchor
from nbhelpers.report.charts import VEGALITE

RESULTS = "reproducibility.html", "#each-experiment"  # where all results stand with their parameters
OWN_SCRIPT = {"explore": "explore.js"}

FIGURE = """<figure class="chart" id="figure-{n}">
<div class="vegalite" role="group" tabindex="0" aria-label="Figure {n}. {text}">
<script type="application/json">{spec}</script></div>
<figcaption><a class="figure-number" href="#figure-{n}">Figure {n}.</a> {text}</figcaption>
{origin}<details class="chart-data"><summary>Data of figure {n}</summary></details>
</figure>"""


def drawing(spec, page: str = "", cell: str = "") -> nodes.raw:
    """Return the node of a chart, which holds its specification; `number_figures` makes it a figure.

    page, cell: where the chart was made, if that is another page of the book.
    """
    text = json.dumps(spec, ensure_ascii=False)
    return nodes.raw(text=text, format="html", is_chart=True, page=page, cell=cell)


def caption(spec: dict) -> str:
    """Return the sentence that says what a chart shows: its description, else its title."""
    title = spec.get("title", "")
    title = title.get("text", "") if isinstance(title, dict) else title
    title = " ".join(title) if isinstance(title, list) else title
    return spec.get("description") or f"{title or 'A chart without a title'}."


def figure(text: str, number: int, origin: str = "") -> str:
    """Return the HTML of a numbered figure from a chart's specification as JSON; origin: the line that says whence it is."""
    # `</` would end the script element early.
    spec = text.replace("</", "<\\/")
    return FIGURE.format(
        n=number, text=escape(caption(json.loads(text))), spec=spec, origin=origin and f"{origin}\n"
    )


def named_charts(notebook: Path, name: str) -> list[dict]:
    """Return the specifications of the charts that the cell named `name` of an executed notebook shows."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells if cell["metadata"].get("name") == name for output in cell["outputs"]]
    return [output["data"][VEGALITE] for output in outputs if VEGALITE in output.get("data", {})]


def relative_to_source(path: Path, source: Path) -> str:
    """Return the name of a page from the path of its file and the book's source folder."""
    return path.resolve().relative_to(source.resolve()).with_suffix("").as_posix()


class VegaLite:
    """MyST-NB shows each chart of a notebook through this class."""

    mime_priority_overrides = [("html", VEGALITE, 1)]

    @staticmethod
    def handle_mime(renderer, data, inline):
        """Return the node of a chart; None for other types, which MyST-NB then handles itself."""
        if data.mime_type == VEGALITE and not inline:
            return [drawing(data.content)]
        return None


class Chart(SphinxDirective):
    """The directive that shows the charts of a notebook's cell, named by the `name` in its metadata, or of a file."""

    required_arguments = 1
    optional_arguments = 1

    def run(self):
        """Return the nodes of the charts; a missing file, cell or chart is a build error."""
        source, path = self.arguments[0], Path(self.env.relfn2path(self.arguments[0])[1])
        self.env.note_dependency(str(path))
        if not path.exists():
            raise self.error(f"there is no file {source}")
        if len(self.arguments) == 1:
            return [drawing(json.loads(path.read_text(encoding="utf-8")))]
        found = named_charts(path, self.arguments[1])
        if not found:
            raise self.error(f"{source} has no cell named {self.arguments[1]!r} that shows a chart")
        page = relative_to_source(path, Path(self.env.srcdir))
        return [drawing(spec, page, self.arguments[1]) for spec in found]


def number_figures(app, doctree, docname):
    """Make each chart of a page a figure, numbered in reading order, with a line that says where it comes from."""
    charts = [node for node in doctree.findall(nodes.raw) if node.get("is_chart")]
    known, cells = origins.read(Path(app.srcdir)) if charts else {}, cells_of(doctree)
    for number, node in enumerate(charts, 1):
        text = figure(node.astext(), number, origin(known, node, docname, cells.get(id(node), "")))
        node.replace_self(nodes.raw(text=text, format="html", is_chart=True))


def origin(known: dict[str, dict], chart: nodes.raw, docname: str, within: str) -> str:
    """Return the line that says where a chart of a page comes from, "" if nothing says so; within: the name of its cell.

    A chart that no experiment's notebook made says it itself, in Vega-Lite's `usermeta`.
    """
    page, cell = chart["page"] or docname, chart["cell"] or within
    said = json.loads(chart.astext()).get("usermeta", {}).get(origins.SAID)
    if said or page not in known:
        return origins.LINE.format(escape(said)) if said else ""
    here, there = f"{docname}.html", f"{page}.html"
    to_cell = f"{relative_uri(here, there) if page != docname else ''}#{anchor(cell)}"
    return origins.line(known[page], cell, to_cell, relative_uri(here, RESULTS[0]) + RESULTS[1])


def cells_of(doctree: nodes.document) -> dict[int, str]:
    """Return {id of a chart's node: name of the cell in which it stands}, read downwards since hidden cells lose parents."""
    return {
        id(node): cell["cell_metadata"]["name"]
        for cell in doctree.findall(nodes.container)
        if cell.get("cell_metadata", {}).get("name")
        for node in cell.findall(nodes.raw)
    }


def load_scripts(app, pagename, templatename, context, doctree):
    """Load Vega only on the pages that hold a chart, and after it the script of a page that has one of its own."""
    if doctree and any(node.get("is_chart") for node in doctree.findall(nodes.raw)):
        app.add_js_file("vega.js", loading_method="defer")
        app.add_js_file("charts.js", loading_method="defer")
        if pagename in OWN_SCRIPT:
            app.add_js_file(OWN_SCRIPT[pagename], loading_method="defer")


def setup(app):
    """Register the directive with Sphinx; the book's static files include those that `assets.write` wrote."""
    app.add_directive("chart", Chart)
    app.connect("doctree-resolved", number_figures)
    app.connect("html-page-context", load_scripts)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
