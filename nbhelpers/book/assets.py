"""What pages load beside the theme's own files: one script of Vega, and the icons that the theme shows as a style sheet.

Both come from installed packages, so a page loads them from disk. The theme's own script of icons holds two thousand of
them, 1.5 MB a page; the style sheet holds the thirty that the theme names.
"""

import re
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

SCRIPT = "fontawesome.js"  # the theme's script of icons
THEMES = ("pydata_sphinx_theme", "sphinx_book_theme", "sphinx_togglebutton")
SOURCES = ("vl-convert-python", "pydata-sphinx-theme", "sphinx-book-theme")
ICON = re.compile(r'"?([a-z0-9-]+)"?:\[(\d+),(\d+),\[([^\]]*)\],"[0-9a-f]*","([^"]+)"\]')
BASE = """/* The icons of the page, drawn from masks in the colour of the text. */
:where([class*="fa-"]) { display: inline-block; }
[class*="fa-"] { font-family: inherit !important; } /* else the theme's font of icons would load for its measures */
[class*="fa-"]::before { content: ""; display: inline-block; width: 1em; height: 1em; vertical-align: -0.125em;
  background-color: currentColor; mask: var(--icon) center / contain no-repeat; }
.fa-lg { font-size: 1.25em; line-height: 0.05em; vertical-align: -0.075em; }
"""


def icon_names() -> set[str]:
    """Return the names of the icons that the theme's templates and scripts of Python use, without `fa-`."""
    found = set()
    for package in THEMES:
        for path in Path(str(files(package))).rglob("*"):
            if path.suffix in (".html", ".py"):
                found |= set(re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8")))
    return found


@cache
def drawn_icons() -> dict[str, tuple[int, int, str]]:
    """Return {name or alias: (width, height, path)} of the theme's icons; the solid ones where there are several styles."""
    theme = Path(str(files("pydata_sphinx_theme"))) / "theme/pydata_sphinx_theme/static/scripts"
    found = {}
    for name, width, height, aliases, path in ICON.findall((theme / SCRIPT).read_text(encoding="utf-8")):
        for known in (name, *re.findall(r'"([a-z0-9-]+)"', aliases)):
            found[known] = (int(width), int(height), path)
    return found


def icon_styles(names) -> str:
    """Return the style sheet that draws the named icons; a name without a drawing, such as a style's, is left out."""
    rules = [BASE]
    for name in sorted(set(names) & drawn_icons().keys()):
        width, height, path = drawn_icons()[name]
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><path d="{path}"/></svg>'
        )
        rules.append(f'.fa-{name} {{ --icon: url("data:image/svg+xml,{quote(svg)}"); }}\n')
    return "".join(rules)


def write(folder: Path) -> Path:
    """Return `folder` after writing `vega.js` and `icons.css` to it, unless it holds those of the installed versions."""
    stamp, stamped = folder / "versions.txt", " ".join(["4", *(version(name) for name in SOURCES)])
    if stamp.exists() and stamp.read_text() == stamped:
        return folder
    import vl_convert  # imported only here: it is 30 MB

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    # Wrapped in a function, it loads as a plain script; browsers refuse modules on a page opened from disk.
    (folder / "vega.js").write_text(f"(() => {{{vl_convert.javascript_bundle()}}})();", encoding="utf-8")
    (folder / "icons.css").write_text(icon_styles(icon_names()), encoding="utf-8")
    stamp.write_text(stamped)
    return folder


def drop_icon_script(html: Path):
    """Take the theme's script of icons out of every page of a built book, and its files."""
    pattern = re.compile(rf'\s*<script defer src="[^"]*{SCRIPT}[^"]*"></script>')
    for page in html.rglob("*.html"):
        page.write_text(pattern.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    for path in (html / "_static/scripts").glob(f"{SCRIPT}*"):
        path.unlink()
