"""What the book's Sphinx extensions make of charts, formulas, tables and words; icons; pages of source."""

import json
import re
from html import unescape
from types import SimpleNamespace

import pytest
from docutils import nodes
from docutils.utils.math import MathError

from nbhelpers.book import assets, links, origins, source, sphinx_pages, sphinx_vega
from tests import synthetic

WORDS = {
    "tuned lens": ("term-tuned", "A trained one."),
    "lens": ("term-lens", 'Reads "a" layer.'),
    "IT": ("term-IT", "Tuned."),
    "A′": ("term-A", "PT unchanged."),
    "A-long": ("term-A", "PT unchanged."),
    "B_late": ("term-B", "Grafted."),
}


def linked(text):
    """Return the HTML of a text with the terms of `WORDS` linked, and the terms left."""
    left = dict(WORDS)
    found = sphinx_pages.linked(text, sphinx_pages.pattern(tuple(WORDS)), left, "../g.html")
    return "".join(node.astext() for node in found), left


def test_a_chart_becomes_a_numbered_figure_with_its_description():
    html = sphinx_vega.figure(json.dumps({"description": "KL < 1 & more.", "title": "No"}), 7)
    assert (
        'id="figure-7"' in html
        and 'href="#figure-7">Figure 7.</a> KL &lt; 1 &amp; more.</figcaption>' in html
    )
    assert 'aria-label="Figure 7. KL &lt; 1 &amp; more."' in html and "<details" in html


def test_a_specification_cannot_end_its_script():
    html = sphinx_vega.figure(json.dumps({"title": "</script><b>"}), 1)
    inside = re.search(r'<script type="application/json">(.+?)</script>', html, re.DOTALL)[1]
    assert json.loads(inside)["title"] == "</script><b>"


@pytest.mark.parametrize(
    ("spec", "caption"),
    [
        ({"title": "One"}, "One."),
        ({"title": {"text": "Two"}}, "Two."),
        ({"title": ["Three", "lines"]}, "Three lines."),
        ({}, "A chart without a title."),
        ({"title": "One", "description": "Said."}, "Said."),
    ],
)
def test_a_caption_is_the_description_or_else_the_title(spec, caption):
    assert sphinx_vega.caption(spec) == caption


def test_figures_are_numbered_in_reading_order(tmp_path):
    page = nodes.section()
    page += [sphinx_vega.drawing({"title": "a"}), nodes.paragraph(), sphinx_vega.drawing({"title": "b"})]
    sphinx_vega.number_figures(SimpleNamespace(srcdir=tmp_path), page, "page")
    shown = [
        re.search(r"Figure (\d+)\.</a> (\w)", node.astext()).groups() for node in page.findall(nodes.raw)
    ]
    assert shown == [("1", "a"), ("2", "b")]
    assert all(node["is_chart"] for node in page.findall(nodes.raw))


ORIGIN = {
    "notebook": "exp09_across.ipynb",
    "data": "exp09.nc of two pairs",
    "needs": [],
    "parameters": [],
    "code": ["abc12", "def34"],
}


def figures_of(folder, page, docname, known):
    """Return the HTML of a page's figures once the builder has written where those of `known` come from."""
    (folder / origins.FILE).write_text(json.dumps(known), encoding="utf-8")
    sphinx_vega.number_figures(SimpleNamespace(srcdir=folder), page, docname)
    return [node.astext() for node in page.findall(nodes.raw)]


def test_a_line_under_a_figure_says_which_cell_data_and_code_made_it(tmp_path):
    cell = nodes.container(cell_metadata={"name": "main_figure"})
    cell += sphinx_vega.drawing({"title": "a"})
    page = nodes.section()
    page += cell
    (html,) = figures_of(tmp_path, page, "runs/exp09_across", {"runs/exp09_across": ORIGIN})
    line = re.search(r'<p class="figure-origin">(.+?)</p>', html)[1]
    assert '<a href="#main-figure"><code>main_figure</code></a> of <code>exp09_across.ipynb</code>' in line
    assert "<code>exp09.nc of two pairs</code>" in line and "<code>abc12</code>, <code>def34</code>" in line
    assert 'href="../reproducibility.html#each-experiment">parameters</a>' in line


def test_a_figure_that_another_page_repeats_leads_to_its_own_cell(tmp_path):
    page = nodes.section()
    page += sphinx_vega.drawing({"title": "a"}, "runs/exp09_across", "gap_figure")
    (html,) = figures_of(tmp_path, page, "index", {"runs/exp09_across": ORIGIN})
    assert 'href="runs/exp09_across.html#gap-figure"' in html and 'href="reproducibility.html#each' in html


def test_a_chart_of_no_experiment_says_itself_where_it_comes_from(tmp_path):
    page = nodes.section()
    page += [
        sphinx_vega.drawing(origins.said({"title": "a"}, "Data: cards.")),
        sphinx_vega.drawing({"title": "b"}),
    ]
    said, silent = figures_of(tmp_path, page, "pocket", {})
    assert '<p class="figure-origin">Data: cards.</p>' in said and "figure-origin" not in silent


def test_every_formula_of_the_book_is_known():
    texts = [path.read_text() for path in (synthetic.REPOSITORY / "book").glob("*.md")]
    for path in sorted((synthetic.REPOSITORY / "notebooks").rglob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        texts += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    found = {
        (block or line, bool(block))
        for text in texts
        for block, line in re.findall(r"\$\$(.+?)\$\$|(?<!\$)\$([^$]+)\$(?!\$)", text, re.DOTALL)
    }
    assert len(found) > 50
    assert all(sphinx_pages.mathml(tex, block).startswith("<math") for tex, block in found)


def test_an_unknown_formula_is_refused():
    with pytest.raises(MathError):
        sphinx_pages.mathml(r"\nosuchcommand{x}", block=False)


def test_bars_of_a_divergence_are_as_high_as_letters():
    assert '<mo stretchy="false">‖</mo>' in sphinx_pages.mathml(r"p \| q", block=True)


def test_the_first_use_of_a_word_is_linked_and_no_other():
    html, left = linked("Lens and lens, then a tuned lens of IT.")
    assert html.count("<a ") == 3 and html.startswith('<a class="term" href="../g.html#term-lens"')
    assert "then a <a" in html and ">tuned lens</a> of <a" in html
    assert 'data-tip="Reads &quot;a&quot; layer."' in html
    assert "lens" not in left and "A′" in left


@pytest.mark.parametrize("text", ["lenses", "(lens)", "Lenses", "A'", "A′", "A’", "B_late"])
def test_spellings_of_a_word_are_found(text):
    assert f">{text.strip('()')}</a>" in unescape(linked(f"see {text} here")[0])


@pytest.mark.parametrize("text", ["lensing", "it is", "ITs_own", "LIT", "IT's", "A_late", "lens-like"])
def test_other_words_are_left_alone(text):
    assert "<a" not in linked(text)[0]


def test_two_words_of_one_definition_are_linked_once():
    html, left = linked("A-long then A′")
    assert html.count("<a ") == 1 and "A′" not in left


def table(columns, letters):
    """Return a table of HTML with one row of cells of so many letters."""
    cells = "".join(f"<td>{'x' * letters}</td>" for _ in range(columns))
    return f'<style scoped>a {{}}</style><table class="dataframe"><tbody><tr>{cells}</tr></tbody></table>'


def test_a_table_stands_in_a_box_that_can_be_reached_and_has_a_label():
    html = sphinx_pages.region(table(2, 5), 'Read "outs"')
    assert html.startswith(
        '<div class="wide-table" role="region" tabindex="0" aria-label="Table: Read &quot;outs&quot;">'
    )
    assert "<style" not in html and html.count("<td>xxxxx</td>") == 2


def test_only_a_wide_table_takes_the_margin():
    assert "full-width" not in sphinx_pages.region(table(5, 5), "")
    assert "full-width" in sphinx_pages.region(table(9, 20), "")
    assert sphinx_pages.width(table(1, 400)) <= sphinx_pages.WIDEST_CELL + sphinx_pages.CELL


def test_tables_are_labelled_by_their_heading_and_charts_left_alone():
    page = nodes.section()
    page += nodes.title(text="Outer")
    inner = nodes.section()
    inner += [
        nodes.title(text="Inner"),
        nodes.raw(text=table(1, 1), format="html"),
        sphinx_vega.drawing({"title": "<table"}),
    ]
    page += inner
    sphinx_pages.frame_tables(None, page, "page")
    framed, chart = page.findall(nodes.raw)
    assert 'aria-label="Table: Inner"' in framed.astext() and chart["is_chart"]


def cell(name):
    """Return a code cell's node as MyST-NB makes it."""
    return nodes.container(nb_element="cell_code", cell_metadata={"name": name} if name else {})


def test_a_named_cell_has_an_anchor_unless_a_heading_has_it():
    page, heading = nodes.section(), nodes.section(ids=["minds"])
    page += [heading, cell("main_figure"), cell("minds"), cell(None)]
    sphinx_pages.anchor_cells(None, page, "page")
    assert [node["ids"] for node in page.findall(nodes.container)] == [["main-figure"], [], []]


def test_every_icon_of_the_theme_is_drawn():
    styles = assets.icon_styles(assets.icon_names())
    for name in (
        "sun",
        "moon",
        "circle-half-stroke",
        "magnifying-glass",
        "bars",
        "list",
        "download",
        "expand",
        "chevron-down",
    ):
        assert f".fa-{name} {{ --icon: url(" in styles
    assert len(styles) < 40_000 and "http" not in styles.replace("http%3A//www.w3.org", "")


def test_the_script_of_icons_is_taken_out(tmp_path):
    (tmp_path / "_static/scripts").mkdir(parents=True)
    (tmp_path / "_static/scripts/fontawesome.js").touch()
    (tmp_path / "_static/scripts/bootstrap.js").touch()
    page = tmp_path / "one.html"
    page.write_text(
        '<a>\n<script defer src="_static/scripts/fontawesome.js?digest=1"></script>\n<script src="x.js"></script>'
    )
    assets.drop_icon_script(tmp_path)
    assert page.read_text() == '<a>\n<script src="x.js"></script>'
    assert [path.name for path in (tmp_path / "_static/scripts").iterdir()] == ["bootstrap.js"]


@pytest.fixture
def sources(tmp_path):
    """Return a folder of HTML with the pages of the package's source."""
    source.write(tmp_path)
    return tmp_path


def test_every_module_has_a_page_with_an_anchor_at_each_line(sources):
    for module in source.modules():
        text = (source.ROOT / module).read_text()
        page = (sources / "source" / module).with_suffix(".html").read_text()
        assert re.findall(r'id="L(\d+)"', page) == [str(n) for n in range(1, len(text.splitlines()) + 1)], (
            module
        )
    listed = (sources / "source/index.html").read_text()
    assert all(f'href="{module.with_suffix(".html")}"' in listed for module in source.modules())


def test_source_is_shown_as_it_is(sources):
    module = source.ROOT / "nbhelpers/book/source.py"
    page = (sources / "source/nbhelpers/book/source.html").read_text()
    shown = re.search(r"<pre>(.*)</pre>", page, re.DOTALL)[1]
    shown = re.sub(r'<span class="linenos">\s*\d+</span>', "", shown)
    assert unescape(re.sub(r"<[^>]+>", "", shown)).rstrip("\n") == module.read_text().rstrip("\n")


def test_a_link_to_a_missing_module_or_line_is_named(sources):
    place, page = "source/nbhelpers/book/source.html", sources / "runs/one.html"
    page.parent.mkdir()
    given = [f"../{place}", f"../{place}#L3", f"../{place}#L9999", "../source/nbhelpers/none.html#L1"]
    page.write_text("".join(f'<a href="{link}">x</a>' for link in given))
    assert links.broken(sources) == [f"runs/one.html: {link}" for link in sorted(given[2:])]


def test_a_link_to_a_missing_page_or_anchor_is_named(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "index.html").write_text('<p id="top"></p><script>"<a href=\'#no\'>"</script>')
    whole = ["#here", "#here&lens=raw", "#lens=raw", "../index.html#top", "https://example.org/#x"]
    lost = ["#published", "../index.html#here", "two.html"]
    page = "".join(f'<a class="x" href="{link}">x</a>' for link in [*whole, *lost])
    (tmp_path / "runs/one.html").write_text(f'<p id="here">{page}</p>')
    assert links.broken(tmp_path) == sorted(f"runs/one.html: {link}" for link in lost)
