"""Pages of the package's source: every module highlighted, with an anchor at each line, `#L12`.

They are plain pages in the colours that the reader chose for the book; no script but the one that reads that choice.
"""

import re
from html import escape
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from nbhelpers import experiments

ROOT = experiments.FOLDER.parents[1]  # of the code that runs
STYLES = {"light": "a11y-light", "dark": "a11y-dark"}  # both with a contrast of at least 4.5
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{up}source/source.css">
<script>
let theme = null;
try {{ theme = localStorage.getItem("theme"); }} catch {{}}
if (theme !== "light" && theme !== "dark") theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
document.documentElement.dataset.theme = theme;
</script>
</head>
<body>
<nav><a href="{up}index.html">The book</a> · <a href="{up}source/index.html">All modules</a></nav>
<main><h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
LAYOUT = """body { margin: 0 auto; padding: 1rem; max-width: 70rem; font: 16px/1.5 system-ui, sans-serif; }
html[data-theme="light"] body { background: #fff; color: #222; }
html[data-theme="dark"] body { background: #14181e; color: #ced6dd; }
html[data-theme="light"] a { color: #0a5c8f; }
html[data-theme="dark"] a { color: #7cc0f2; }
h1 { font-size: 1.25rem; overflow-wrap: anywhere; }
dd { margin: 0 0 0.4rem 1rem; }
.highlight pre { font: 13px/1.5 ui-monospace, monospace; padding: 0.75rem; overflow-x: auto; }
.highlight a { text-decoration: none; }
.highlight .linenos { padding-right: 1em; }
html[data-theme="light"] .highlight .linenos { color: #555; }
html[data-theme="dark"] .highlight .linenos { color: #b4b4b4; }
.highlight span:target { outline: 2px solid currentColor; outline-offset: 2px; }
@media print { .highlight pre { white-space: pre-wrap; overflow: visible; } }
"""


def modules() -> list[Path]:
    """Return the package's modules, relative to its folder's parent, in the order of their paths."""
    return sorted(
        path.relative_to(ROOT) for path in (ROOT / "nbhelpers").rglob("*.py") if path.stat().st_size
    )


def summary(text: str) -> str:
    """Return the first sentence of a module's docstring; "" without one."""
    found = re.match(r'"""(.+?)(?:"""|\n\n)', text, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def styles() -> str:
    """Return the style sheet of the pages, for both themes."""
    colours = [
        HtmlFormatter(style=style).get_style_defs(f'html[data-theme="{theme}"] .highlight')
        for theme, style in STYLES.items()
    ]
    return LAYOUT + "\n".join(colours)


def highlighted(text: str) -> str:
    """Return a module's text as HTML with numbered lines, each the target of its anchor `#L<number>`."""
    form = HtmlFormatter(linenos="inline", linespans="L", anchorlinenos=True, lineanchors="L")
    made = highlight(text, PythonLexer(stripnl=False), form)
    made = re.sub(r'<a id="L-\d+" name="L-\d+"></a>', "", made)
    return re.sub('(<span id="L|<a href="#L)-', r"\1", made)  # no code matches: its < is escaped


def write(html: Path) -> None:
    """Write a page for each module into the folder `source` of a built book, and the list of them, `source/index.html`."""
    listed = []
    for module in modules():
        text = (ROOT / module).read_text(encoding="utf-8")
        place = Path("source") / module.with_suffix(".html")
        (html / place).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (len(place.parts) - 1)
        page = PAGE.format(title=escape(str(module)), up=up, body=highlighted(text))
        (html / place).write_text(page, encoding="utf-8")
        listed.append(
            f'<dt><a href="{module.with_suffix(".html")}">{module}</a></dt><dd>{escape(summary(text))}</dd>'
        )
    body = f"<dl>{''.join(listed)}</dl>"
    (html / "source/index.html").write_text(
        PAGE.format(title="Modules", up="../", body=body), encoding="utf-8"
    )
    (html / "source/source.css").write_text(styles(), encoding="utf-8")
