"""Links of a built book: each must lead to a page of it, and to an anchor of that page.

Sphinx checks its own links alone; those in the tables of notebooks are plain HTML.
"""

import os
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r'<a [^>]*?href="([^"]+)"')
ANCHOR = re.compile(r'\bid="([^"]+)"')
SCRIPT = re.compile(r"<script.*?</script>", re.DOTALL)
SOURCE = "source"  # the folder of pages that `source.write` makes, whose links are its own


def broken(html: Path) -> list[str]:
    """Return the links of a built book's pages that lead to no file or no anchor of the book, as "page: link"."""

    @cache
    def anchors(target: Path) -> set[str] | None:
        if not target.is_file():
            return None
        return set(ANCHOR.findall(target.read_text(encoding="utf-8"))) if target.suffix == ".html" else set()

    found = []
    for page in sorted(html.rglob("*.html")):
        if page.relative_to(html).parts[0] == SOURCE:
            continue
        for link in sorted(set(LINK.findall(SCRIPT.sub("", page.read_text(encoding="utf-8"))))):
            place, _, anchor = unquote(link).partition("#")
            if ":" in place:  # it leads out of the book
                continue
            known = anchors(Path(os.path.normpath(page.parent / place)) if place else page)
            anchor = anchor.partition("&")[0]  # what follows is what a chart shows
            if known is None or (anchor and "=" not in anchor and anchor not in known):
                found.append(f"{page.relative_to(html)}: {link}")
    return found
