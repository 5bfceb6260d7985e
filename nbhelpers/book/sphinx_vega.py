"""A Sphinx extension that draws the book's charts and formulas without a network.

A chart of a notebook becomes an element that holds its specification; `book/assets/charts.js` draws it with
one shared copy of Vega. The directive `{chart} notebook.ipynb name` repeats a named cell's charts on
another page.
"""

import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from nbhelpers.report.charts import VEGALITE

PLACE = '<div class="vegalite"><script type="application/json">{}</script></div>'


def drawing(spec) -> nodes.raw:
    """Return the HTML element of a chart, which holds its specification."""
    # `</` would end the script element early.
    text = json.dumps(spec, ensure_ascii=False).replace("</", "<\\/")
    return nodes.raw(text=PLACE.format(text), format="html", is_chart=True)


def named_charts(notebook: Path, name: str) -> list[dict]:
    """Return the specifications of the charts that the cell named `name` of an executed notebook shows."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells if cell["metadata"].get("name") == name for output in cell["outputs"]]
    return [output["data"][VEGALITE] for output in outputs if VEGALITE in output.get("data", {})]


class VegaLite:
    """MyST-NB shows each chart of a notebook through this class."""

    mime_priority_overrides = [("html", VEGALITE, 1)]

    @staticmethod
    def handle_mime(renderer, data, inline):
        """Return the element of a chart; None for other types, which MyST-NB then handles itself."""
        if data.mime_type == VEGALITE and not inline:
            return [drawing(data.content)]
        return None


class Chart(SphinxDirective):
    """The directive that shows the charts of a notebook's cell, named by the `name` in its metadata, or of a file."""

    required_arguments = 1
    optional_arguments = 1

    def run(self):
        """Return the elements of the charts; a missing file, cell or chart is a build error."""
        source, path = self.arguments[0], Path(self.env.relfn2path(self.arguments[0])[1])
        self.env.note_dependency(str(path))
        if not path.exists():
            raise self.error(f"there is no file {source}")
        if len(self.arguments) == 1:
            return [drawing(json.loads(path.read_text(encoding="utf-8")))]
        found = named_charts(path, self.arguments[1])
        if not found:
            raise self.error(f"{source} has no cell named {self.arguments[1]!r} that shows a chart")
        return [drawing(spec) for spec in found]


def write_scripts(folder: Path) -> Path:
    """Return `folder` after writing `vega.js` and `mathjax.js` to it, unless it holds the installed versions."""
    sources = {"vega": "vl-convert-python", "mathjax": "sphinx-mathjax-offline"}
    stamp, stamped = folder / "versions.txt", " ".join(version(name) for name in sources.values())
    if stamp.exists() and stamp.read_text() == stamped:
        return folder
    import vl_convert  # imported only here: it is 30 MB

    folder.mkdir(parents=True, exist_ok=True)
    # Wrapped in a function, it loads as a plain script; browsers refuse modules on a page opened from disk.
    (folder / "vega.js").write_text(f"(() => {{{vl_convert.javascript_bundle()}}})();", encoding="utf-8")
    mathjax = files("sphinx-mathjax-offline") / "static/mathjax/tex-mml-svg.js"
    (folder / "mathjax.js").write_bytes(mathjax.read_bytes())
    stamp.write_text(stamped)
    return folder


def load_scripts(app, pagename, templatename, context, doctree):
    """Load Vega only on the pages that hold a chart."""
    if doctree and any(node.get("is_chart") for node in doctree.findall(nodes.raw)):
        app.add_js_file("vega.js", loading_method="defer")
        app.add_js_file("charts.js", loading_method="defer")


def setup(app):
    """Register the directive with Sphinx; the book's static files include those that `write_scripts` wrote."""
    app.add_directive("chart", Chart)
    app.connect("html-page-context", load_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
