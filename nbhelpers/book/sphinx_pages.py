"""A Sphinx extension for what every page of the book has: anchors of named cells, tables that scroll, formulas, the glossary.

The search also finds claims of the study by their words.

Formulas become MathML when the book is built, which browsers draw themselves: a page loads no script for them.
"""

import re
from functools import cache
from html import escape

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx import addnodes
from sphinx.util.osutil import relative_uri

from nbhelpers.book.markdown import anchor

GLOSSARY, CLAIMS = "glossary", "claims"
TEXT_WIDTH = 660  # px that the text column of a desk has for a table
CELL, LETTER, WIDEST_CELL = (
    19,
    6.3,
    256,
)  # px: the room around a cell's text, of a letter, and the most of a column
UNTOUCHED = (  # no term is explained inside of these
    nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.term,
    addnodes.pending_xref,
)  # fmt: skip
TERM = '<a class="term" href="{href}" data-tip="{tip}" aria-description="{tip}">{text}</a>'


def mathml(tex: str, block: bool) -> str:
    """Return a formula as MathML; docutils' MathError names what it does not know."""
    made = latex2mathml.tex2mathml(tex, as_block=block)
    return re.sub(
        "<mo>([‖|])</mo>", r'<mo stretchy="false">\1</mo>', made
    )  # as high as a letter, as TeX has it


def visit_math(writer, node):
    """Write a formula within a line."""
    writer.body.append(f'<span class="math">{mathml(node.astext(), block=False)}</span>')
    raise nodes.SkipNode


def visit_math_block(writer, node):
    """Write a formula of its own line, which scrolls where it is too wide."""
    formula = mathml(node.astext(), block=True)
    writer.body.append(f'<div class="math" role="region" tabindex="0" aria-label="Formula">{formula}</div>\n')
    raise nodes.SkipNode


def anchor_cells(app, doctree, docname):
    """Give each named cell of a page an anchor, unless a heading has it already."""
    taken = {name for node in doctree.findall(nodes.Element) for name in node["ids"]}
    for node in doctree.findall(nodes.container):
        name = node.get("cell_metadata", {}).get("name")
        if name and anchor(name) not in taken:
            node["ids"].append(anchor(name))
            taken.add(anchor(name))


def width(html: str) -> float:
    """Return about how wide a table of HTML is when no cell breaks its line, px."""
    widest: dict[int, float] = {}
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL):
        cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        for place, cell in enumerate(cells):
            letters = len(re.sub(r"<[^>]+>|\s+", " ", cell).strip())
            widest[place] = max(widest.get(place, 0), min(letters * LETTER, WIDEST_CELL))
    return sum(widest.values()) + CELL * len(widest)


def region(html: str, heading: str) -> str:
    """Return a table of HTML in a box that scrolls, can be focused and has a label; wide ones also take the margin's room."""
    html = re.sub(r"<style scoped>.*?</style>\s*", "", html, flags=re.DOTALL)
    wide = " full-width" if width(html) > TEXT_WIDTH else ""
    label = escape(f"Table: {heading}", quote=True)
    return f'<div class="wide-table{wide}" role="region" tabindex="0" aria-label="{label}">{html}</div>'


def heading_of(node: nodes.Node) -> str:
    """Return the heading of the section in which a node stands."""
    while node.parent and not isinstance(node, nodes.section):
        node = node.parent
    title = node.next_node(nodes.title) if isinstance(node, nodes.section) else None
    return title.astext() if title else "results"


def frame_tables(app, doctree, docname):
    """Put each table of a notebook's outputs into a box of its own."""
    for node in list(doctree.findall(nodes.raw)):
        text = node.astext()
        if node.get("format") == "html" and "<table" in text and "dataframe" in text:
            node.replace_self(nodes.raw(text=region(text, heading_of(node)), format="html"))


def terms(app) -> dict[str, tuple[str, str]]:
    """Return {term: (anchor in the glossary, definition)} of the book's glossary, longest terms first; none without one."""
    env = app.env
    if GLOSSARY not in env.all_docs:
        return {}
    if not hasattr(app, "book_terms"):
        found = {}
        for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
            definition = " ".join(item.next_node(nodes.definition).astext().split())
            for term in item.findall(nodes.term):
                found[term.astext()] = (term["ids"][0], definition)
        app.book_terms = dict(sorted(found.items(), key=lambda pair: -len(pair[0])))
    return app.book_terms


@cache
def pattern(names: tuple[str, ...]) -> re.Pattern:
    """Return what finds any of the terms as a whole word, with or without a plural's s."""
    return re.compile(rf"(?<![\w.·])({'|'.join(map(_spellings, names))})(?:s|es)?(?![\w_′’'-])")


def _spellings(name: str) -> str:
    """Return what matches a term: a prime of any kind, and a capital at the start of a sentence if it is a word."""
    whole = re.escape(name).replace("′", "[′’']")
    word = name[0].islower() and len(name) > 2
    return f"[{name[0]}{name[0].upper()}]{whole[1:]}" if word else whole


def named(text: str, known) -> str | None:
    """Return the term that a piece of text spells."""
    return next((name for name in known if re.fullmatch(_spellings(name), text)), None)


def explain(app, doctree, docname):
    """Link the first use of each glossary term on a page to the glossary, with the definition to hover over or focus."""
    known = terms(app)
    if not known or docname == GLOSSARY:
        return
    left, words = dict(known), pattern(tuple(known))
    page = relative_uri(f"{docname}.html", f"{GLOSSARY}.html")
    for text in list(doctree.findall(nodes.Text)):
        inside = text
        while inside.parent and not isinstance(inside, UNTOUCHED):
            inside = inside.parent
        if left and not isinstance(inside, UNTOUCHED) and isinstance(text.parent, nodes.TextElement):
            text.parent.replace(text, linked(str(text), words, left, page))


def linked(text: str, words: re.Pattern, left: dict, page: str) -> list[nodes.Node]:
    """Return the nodes of a text in which each term of `left` is linked where it first stands, and taken out of `left`."""
    found, at = [], 0
    for match in words.finditer(text):
        name = named(match[1], left)
        if name is None:  # it has been linked earlier on the page
            continue
        place, definition = left.pop(name)
        for other in [term for term, (same, _) in left.items() if same == place]:
            del left[other]
        link = TERM.format(href=f"{page}#{place}", tip=escape(definition, quote=True), text=escape(match[0]))
        found += [nodes.Text(text[at : match.start()]), nodes.raw(text=link, format="html")]
        at = match.end()
    return [*found, nodes.Text(text[at:])]


def search_claims(app, pagename, templatename, context, doctree):
    """Let the page of search results find claims by their words, if the book has the page of all claims."""
    if pagename == "search" and CLAIMS in app.env.all_docs:
        for script in (f"{CLAIMS}.js", "search.js"):
            app.add_js_file(script, loading_method="defer")


def setup(app):
    """Register what this extension does to every page."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    for change in (anchor_cells, frame_tables, explain):
        app.connect("doctree-resolved", change)
    app.connect("html-page-context", search_claims)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
