"""The page of all claims: its rows and links, and how it is read, filtered and printed in a browser."""

import json
import os
import re
import shutil
import statistics
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from nbhelpers.book import claims, sphinx_pages
from nbhelpers.book.markdown import PageError
from nbhelpers.core import params
from nbhelpers.core.store import ResultError
from nbhelpers.report import claims_page
from tests.stubs import REPOSITORY

ACROSS = "_build/runs/pocket/exp09_across.ipynb"
GAP = "exp09.01.kl_excess_late_half.raw"
FIGURE = [f"{GAP}.llama", "My Llama", 12.0, 0.25, 0.125, 0.5, "yes", "same sign", ""]
BUDGET_MS = 50  # from a keystroke to the page laid out anew, at 2,000 rows
SHOWN = "[...document.querySelectorAll('#ledger-table tbody')].filter(body => body.checkVisibility()).map(body => body.id)"
ROWS = "[...document.querySelectorAll('#ledger-table tbody tr:not(.claim)')].filter(row => row.checkVisibility()).length"
TYPED = """async text => {
    const field = document.getElementById("ledger-words"), took = [];
    for (let n = 1; n <= text.length; n++) {
        const start = performance.now();
        field.value = text.slice(0, n);
        field.dispatchEvent(new Event("input"));
        document.body.getBoundingClientRect();
        await new Promise(done => requestAnimationFrame(done));
        took.push(performance.now() - start);
    }
    return took;
}"""


@pytest.fixture(scope="module")
def html():
    """Return the HTML of the table of all claims, of a run that measured one figure."""
    found = claims_page.table([FIGURE])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "table", lambda profile: found.copy())
        text = claims.claims_table("pocket")
    return text.split("```{raw} html\n")[1].rsplit("\n```", 1)[0]


class Tags(HTMLParser):
    """The tags that are open, to see whether each is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong = [], []

    def handle_starttag(self, tag, attrs):
        """Remember a tag that has to be closed."""
        if tag not in ("link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        """Close the last tag."""
        if self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))


def test_the_table_is_well_formed_and_named_by_its_headers(html):
    tags = Tags()
    tags.feed(html)
    assert tags.wrong == [] and tags.open == []
    assert html.count('<th scope="col"') == len(claims.HEADS) and "<td></td></tr>" not in html
    assert html.count('<th scope="rowgroup"') == 98 == len(re.findall(r'<tbody id="C\d{3}">', html))
    assert html.count('<th scope="row">') == len(claims_page.table([])) > 2000
    assert len(re.findall(r' id="([^"]+)"', html)) == len(set(re.findall(r' id="([^"]+)"', html)))


def test_a_measured_figure_leads_to_its_chart_and_its_code(html):
    row = next(row for row in html.split("<tr>") if "My Llama" in row)
    assert '<a href="runs/exp09_across.html#gap-figure">0.25 [0.12, 0.50]</a>' in row or "#" in row
    module, line = re.search(r'class="code" href="source/([^"#]+)\.html#L(\d+)"', row).groups()
    source = (REPOSITORY / f"{module}.py").read_text().splitlines()
    assert source[int(line) - 1].startswith(("def ", "@"))
    mean = next(
        row for row in html.split("<tr>") if "<td>mean of six</td>" in row and "late half (raw lens)" in row
    )
    assert "<td><i>0.729</i></td>" in mean  # the paper prints no mean
    assert "<td>0.627</td><td>0.626565</td>" in row and "<td>yes</td><td>✓</td>" in row


def test_a_figure_without_a_value_refers_to_the_reason(html):
    body = html[html.index('<tbody id="C113">') :].split("</tbody>")[0]
    assert "<sup>a</sup>&nbsp;Not measured: a fact about the study&#x27;s models." in body
    assert body.count("<td>–<sup>a</sup></td>") == 18
    of = html[html.index('<tbody id="C005">') :].split("</tbody>")[0]
    assert "Its figures are those of" in of and "each between 0.3 and 1.05." in of


def test_a_claim_that_is_not_tested_counts_signs_and_one_that_is_judgments(monkeypatch):
    delay = [
        "exp09.13.commitment_delay_median.raw.kl_first_0.1.gemma",
        "A",
        12.0,
        1.0,
        None,
        None,
        "",
        "same sign",
        "",
    ]
    found = claims_page.table([FIGURE, delay])
    monkeypatch.setattr(claims, "table", lambda profile: found.copy())
    text = claims.claims_table("pocket")
    body = {
        name: text[text.index(f'<tbody id="{name}">') :].split("</tbody>")[0]
        for name in ("C003", "C010", "C005")
    }
    assert "<b>✓ agrees</b> (1 yes, of 7)" in body["C003"]
    assert "<b>= same sign, claim not tested</b> (1 same sign, of 1)" in body["C010"]
    assert (
        "<b>~ partly, or undecided</b> (1 undecided, of 14)" in body["C005"]
    )  # 0.125 to 0.5, the claim: 0.30 to 1.05


@pytest.mark.parametrize(
    "text, unit, expected",
    [
        ("", "nats", ""), ("-0.269", "cosine", "−0.269"), ("1.000", "1", "1.000"), ("1380081", "steps", "1,380,081"),
        ("65500000.0", "activations", "65,500,000"), ("-1", "onset, layer", "none"), ("-1", "layers", "−1"),
    ],
)  # fmt: skip
def test_a_number_of_the_study_stands_as_it_was_typed(text, unit, expected):
    assert claims.typed(text, unit) == expected


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that writes an executed page across pairs with the metadata given, in a repository of its own."""
    for name in ("params", "notebooks"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.setattr(params, "ROOT", tmp_path)

    def write(**metadata):
        output = {
            "output_type": "execute_result",
            "data": {"text/html": ""},
            "metadata": {"text/html": metadata},
        }
        cells = [
            {"cell_type": "markdown", "metadata": {}},
            {"cell_type": "code", "metadata": {}, "outputs": [output]},
        ]
        (tmp_path / ACROSS).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ACROSS).write_text(json.dumps({"cells": cells}))

    return write


def test_figures_are_read_from_the_executed_page(run):
    run(figures=[FIGURE])
    assert claims.figures("pocket", "exp09") == [FIGURE]


def test_a_page_that_keeps_no_figures_and_a_missing_result_are_named(run):
    with pytest.raises(ResultError, match="no result _build/results/pocket/.*exp09.nc yet.*nbh run exp09"):
        claims.figures("pocket", "exp09")
    run()
    remedy = "make it.* with `nbh run exp09_across --profile pocket`"
    with pytest.raises(PageError, match=f"{ACROSS} keeps no figures of the ledger; {remedy}"):
        claims.figures("pocket", "exp09")


def test_a_page_older_than_a_result_is_not_read(run, tmp_path, monkeypatch):
    run(figures=[FIGURE])
    monkeypatch.setattr(claims, "from_results", lambda profile, key: [profile, key])
    page = (tmp_path / ACROSS).stat().st_mtime_ns
    result = tmp_path / "_build/results/pocket/olmo_pocket/exp09.nc"
    result.parent.mkdir(parents=True)
    result.touch()
    os.utime(result, ns=(page - 1, page - 1))
    assert claims.figures("pocket", "exp09") == [FIGURE]
    os.utime(result, ns=(page + 1, page + 1))
    assert claims.figures("pocket", "exp09") == ["pocket", "exp09"]


def test_pairs_that_the_study_has_not_keep_no_figures(run, monkeypatch):
    run()
    monkeypatch.setattr(claims, "is_of_study", lambda model: False)
    assert claims.figures("pocket", "exp09") == []


def test_claims_of_experiments_that_a_project_lacks_have_no_link(monkeypatch):
    found = claims_page.table([])
    monkeypatch.setattr(claims, "table", lambda profile: found.copy())
    monkeypatch.setattr(params, "keys", lambda kind: ["exp09"])
    text = claims.claims_table("pocket")
    assert (
        "runs/exp09_across.html" in text
        and "runs/exp11_across.html" not in text
        and text.count("<tbody id=") == 98
    )


def test_every_experiment_with_claims_is_read():
    assert set(claims.keys()) < set(params.keys("experiments")) and len(claims.keys()) > 15


def test_the_book_has_the_page_with_picture_table_and_csv(book_root):
    site = book_root / "_build/html"
    page = (site / "claims.html").read_text(encoding="utf-8")
    assert len(page.encode()) <= 1_000_000
    assert 'href="claims.html"' in (site / "index.html").read_text(encoding="utf-8")  # the first click
    assert page.count('<figure class="chart"') == 1 and page.count("<tbody id=") == 98
    rows = (site / "_static/claims.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 2000 and rows[0] == ",".join(claims_page.CSV)
    targets = set(re.findall(r'href="(runs/[^"#]+|source/[^"#]+)', page))
    assert len(targets) > 30 and all((site / target).exists() for target in targets)


def test_the_notebook_shows_and_writes_the_same(tmp_path, monkeypatch, capsys):
    book = json.loads((REPOSITORY / "notebooks/claims.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    found, names = claims_page.table([FIGURE]), {}
    monkeypatch.setattr(claims, "table", lambda profile: found)
    monkeypatch.setattr(params, "ROOT", tmp_path / "elsewhere")
    (tmp_path / "elsewhere/params").mkdir(parents=True)
    for name in ("claims.csv", "published.csv"):
        shutil.copy(REPOSITORY / "params" / name, tmp_path / "elsewhere/params" / name)
    for cell in code:
        exec(cell, names)
    written = (tmp_path / "elsewhere/_build/claims/pocket.csv").read_text(encoding="utf-8")
    assert written == claims_page.csv(found) and f"{len(found)} rows" in capsys.readouterr().out


# In a browser

needs_browser = pytest.mark.skipif(
    not shutil.which("chromium"), reason="needs Debian's chromium (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def address(html, tmp_path_factory):
    """Return the address of the table as a page of its own, with the book's script and style."""
    folder = tmp_path_factory.mktemp("claims")
    (folder / "_static").mkdir()
    for name in ("ledger.js", "ledger.css"):
        shutil.copy(REPOSITORY / "book/assets" / name, folder / "_static" / name)
    head = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page = f'{head}<title>Claims</title><article class="bd-article">{html}</article>'
    (folder / "claims.html").write_text(page, encoding="utf-8")
    return (folder / "claims.html").as_uri()


@pytest.fixture
def visit(browser, address):
    """Return a function that opens the page; at the end it has not complained or asked outside of its folder."""
    contexts, complaints = [], []

    def open_page(anchor="", **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda request: request.url.startswith("file://") or complaints.append(request.url)
        )
        page.goto(address + anchor)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.browser
@needs_browser
def test_the_filter_leaves_the_claims_that_hold_every_word(visit):
    page = visit()
    assert len(page.evaluate(SHOWN)) == 98 and page.evaluate(ROWS) == 0
    page.get_by_label("Filter").fill("gap RAW lens My Llama")
    assert page.evaluate(SHOWN) == ["C003"] and page.evaluate(ROWS) == 1
    assert page.inner_text("#ledger-count") == f"1 of 98 claims, 1 of {len(claims_page.table([]))} figures"
    assert page.get_attribute("#ledger-count", "aria-live") == "polite"
    for words, claim in {"C113 deepseek": "C113", "-0.889117": "C036", "exp07_0j onset": "C033"}.items():
        page.get_by_label("Filter").fill(words)
        assert claim in page.evaluate(SHOWN), words
    page.get_by_label("Filter").fill("no such claim")
    assert page.evaluate(SHOWN) == [] and page.inner_text("#ledger-count").startswith("0 of 98 claims")


# What Sphinx finds, worst first, and the words of claims as `claims.write` leaves them.
SEARCH = """<!DOCTYPE html><meta charset="utf-8"><script>
const result = (page, title) => [page, title, "", null, 5, `${page}.md`];
const Search = {_performSearch: () => [result("glossary", "Words"), result("index", "Book")]};
</script><script defer src="claims.js"></script><script defer src="search.js"></script>"""


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize(
    "query, first",
    [
        ("Three times as far as along a matched random", ["#C052", "", ""]),
        ("sets in between 0.47 and 0.63 of the depth", ["#C033", "", ""]),
        ("rises in some families", ["#C100", "", ""]),
        ("c010", ["#C010", "", ""]),
        ("IT's late MLPs", None),  # many claims have these words: three of them stand before the rest
        ("convergence gap", ["", ""]),  # a subject and no phrase
        ("no such claim at all", ["", ""]),
    ],
)
def test_the_search_finds_a_claim_by_its_words(browser, tmp_path, monkeypatch, query, first):
    (tmp_path / "assets").mkdir()
    monkeypatch.setattr(claims, "table", lambda profile: claims_page.table([FIGURE]))
    claims.write("pocket", tmp_path)
    shutil.copy(REPOSITORY / "book/assets/search.js", tmp_path / "assets")
    (tmp_path / "assets/search.html").write_text(SEARCH, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "assets/search.html").as_uri())
    found = page.evaluate("query => Search._performSearch(query).reverse()", query)
    page.close()
    anchors = [result[2] for result in found]
    assert anchors == first or (first is None and len(set(anchors[:3])) == 3 and anchors[3:] == ["", ""])
    assert all(result[0] == "claims" and "<" not in result[1] for result in found if result[2])
    assert found[-1][1] == "Words"  # what Sphinx finds stays in its order


def test_the_page_of_results_has_the_claims_if_the_book_has_their_page():
    def scripts(page, pages):
        loaded = []
        app = SimpleNamespace(
            env=SimpleNamespace(all_docs=pages), add_js_file=lambda name, **_: loaded.append(name)
        )
        sphinx_pages.search_claims(app, page, "", {}, None)
        return loaded

    assert scripts("search", {"index", "claims"}) == ["claims.js", "search.js"]
    assert scripts("search", {"index"}) == scripts("index", {"index", "claims"}) == []


@pytest.mark.browser
@needs_browser
def test_the_filter_is_used_by_keyboard_alone(visit):
    page = visit()
    page.keyboard.press("Tab")  # the CSV
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "ledger-words"
    page.keyboard.type("C113")
    assert page.evaluate(SHOWN) == ["C113"] and page.evaluate(ROWS) == 18
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    assert page.input_value("#ledger-words") == "" and len(page.evaluate(SHOWN)) == 98
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.get_attribute("#ledger-all", "aria-pressed") == "true" and page.evaluate(ROWS) > 2000
    page.keyboard.press("Space")
    button = page.locator("#C010 button")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true" and page.evaluate(ROWS) == 1
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "false" and page.evaluate(ROWS) == 0


@pytest.mark.browser
@needs_browser
def test_everything_is_read_without_a_script(visit):
    page = visit(java_script_enabled=False)
    rows = page.locator("#ledger-table tbody tr")
    assert rows.count() == 98 + len(claims_page.table([]))
    assert (
        rows.first.is_visible() and rows.last.is_visible() and not page.locator(".ledger-filter").is_visible()
    )


@pytest.mark.browser
@needs_browser
def test_an_address_opens_its_claim_whatever_the_filter_hides(visit):
    page = visit("#C113")
    assert page.evaluate(ROWS) == 18
    page.get_by_label("Filter").fill("C003")
    page.evaluate("location.hash = '#C112'")
    page.wait_for_function("document.getElementById('C112').checkVisibility()")
    assert page.input_value("#ledger-words") == "" and page.locator("#C112 tr").last.is_visible()


@pytest.mark.browser
@needs_browser
def test_paper_holds_every_row(visit):
    page = visit()
    page.get_by_label("Filter").fill("C003")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(ROWS) == len(claims_page.table([])) and len(page.evaluate(SHOWN)) == 98
    assert not page.locator(".ledger-filter").is_visible()
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(SHOWN) == ["C003", "C005"]  # which sums it up


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_keystroke_shows_its_result_at_once_at_two_thousand_rows(visit, width):
    page = visit(viewport={"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    words = ("gemma", "supported late", "kl")
    best = [min(of) for text in words for of in zip(*(page.evaluate(TYPED, text) for _ in range(5)))]
    assert max(best) <= BUDGET_MS, best  # the best of five: what else the machine does is not the filter's
    assert statistics.median(best) <= BUDGET_MS


@pytest.mark.browser
@needs_browser
@pytest.mark.parametrize("width, scheme", [(1280, "dark"), (390, "light")])
def test_the_page_of_the_book_is_drawn_and_filtered_from_disk(browser, book_root, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, complaints = context.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:", "blob:")) or complaints.append(request.url),
    )
    page.goto((book_root / "_build/html/claims.html").as_uri() + "#C003")
    page.wait_for_selector("svg.marks")
    assert page.evaluate(ROWS) == 7 and page.locator("#C003 tr").first.is_visible()
    page.get_by_label("Filter").fill("C113 qwen")
    assert page.evaluate(SHOWN) == ["C113"] and page.evaluate(ROWS) == 3
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
    context.close()
    assert complaints == []
