"""Every page of the book in headless Chromium, from disk: drawn, silent, and asking for nothing outside itself."""

import re
import shutil

import pytest

from tests import synthetic

PHONE, DESK = {"width": 390, "height": 800}, {"width": 1280, "height": 900}
ACROSS = "runs/exp09_convergence_gap_across.html"
MODELS = [f"runs/{family}_pocket/exp09_convergence_gap.html" for family in synthetic.FAMILIES]
PAGES = ["index.html", "pocket.html", "reproducibility.html", "search.html", ACROSS, *MODELS]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# A place inside a closed tab has no width and is drawn when the tab opens.
DRAWN = """() => [...document.querySelectorAll("div.vegalite")]
    .every(place => !place.clientWidth || place.querySelector("svg.marks"))"""
TYPESET = """() => [...document.querySelectorAll(".math")].every(place => place.querySelector("mjx-container svg"))"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
SECONDS = 120_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not shutil.which("chromium"), reason="needs Debian's chromium (apt-get install chromium)"
    ),
]


@pytest.fixture(scope="session")
def browser():
    """Return one Chromium for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    with playwright.sync_playwright() as run:
        chromium = run.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS, timeout=SECONDS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, book_root):
    """Return a function that opens a page of the book; at the end, no page has complained or asked outside."""
    complaints, contexts = [], []

    def open_page(name, viewport=DESK, context=None, **options):
        context = context or browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: inside(request.url) or complaints.append(request.url))
        page.goto((book_root / "_build/html").as_uri() + "/" + name)
        page.wait_for_function(DRAWN)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def inside(url):
    """Return whether a request stays in the book."""
    return url.startswith(("file:", "data:", "blob:"))


def drawn(page):
    """Return the visible text of the first chart, and where each of its words stands."""
    texts = page.locator("div.vegalite").first.locator("svg text")
    return {text.text_content(): text.bounding_box() for text in texts.all()}


@pytest.mark.parametrize("name", PAGES)
def test_page_is_drawn_and_fits_a_phone(visit, name):
    page = visit(name, PHONE)
    page.wait_for_function(TYPESET)
    assert page.evaluate(OVERFLOW) == 0
    assert page.locator("article h1").count() == 1 or name == "search.html"
    if name != "search.html" and name != "reproducibility.html":
        assert page.locator("div.vegalite svg.marks").count() >= 1
    if name.startswith("runs/"):
        assert page.locator("mjx-container svg").count() >= 2


def test_the_across_page_on_a_desk(visit):
    page = visit(ACROSS)
    page.wait_for_function(TYPESET)
    assert page.evaluate(OVERFLOW) == 0
    words = drawn(page)
    rows = [["Gemma", "Llama", "Qwen"], ["Mistral", "DeepSeek", "OLMo"]]
    for row in rows:
        assert len({round(words[name]["y"]) for name in row}) == 1
        assert sorted(row, key=lambda name: words[name]["x"]) == row
    assert words["Gemma"]["y"] < words["Mistral"]["y"]
    assert words["Gemma"]["x"] == pytest.approx(words["Mistral"]["x"], abs=2)
    assert page.get_by_role("heading", name="What this run says").is_visible()


def test_panels_stand_in_one_column_on_a_phone(visit):
    words = drawn(visit(ACROSS, PHONE))
    names = ["Gemma", "Llama", "Qwen", "Mistral", "DeepSeek", "OLMo"]
    assert len({round(words[name]["x"]) for name in names}) == 1
    assert sorted(names, key=lambda name: words[name]["y"]) == names


def test_charts_follow_the_page_s_theme(visit):
    page = visit("index.html", color_scheme="dark")
    label = page.locator("div.vegalite svg text").first
    dark = label.get_attribute("fill")
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.wait_for_function(
        "before => document.querySelector('div.vegalite svg text').getAttribute('fill') !== before", arg=dark
    )
    assert page.locator("div.vegalite svg text").first.get_attribute("fill") != dark


def test_a_point_tells_its_value(visit):
    page = visit("index.html")
    page.locator("div.vegalite svg .mark-symbol path[aria-label*='Llama']").first.hover(force=True)
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert re.search(r"Llama.*PT|PT.*Llama", tip.inner_text(), re.DOTALL)


def test_a_tab_is_drawn_when_it_opens_and_stays_chosen(visit):
    page = visit(ACROSS)
    page.locator("label.sd-tab-label", has_text="Mistral").click()
    page.wait_for_function(DRAWN)
    assert page.locator(".sd-tab-content:visible div.vegalite svg.marks").count() == 1
    assert page.get_by_role("link", name="Pocket Mistral, the whole notebook").is_visible()
    other = visit("pocket.html", context=page.context)
    assert other.locator("input:checked + label.sd-tab-label").inner_text() == "Mistral"


def test_search_finds_a_word(visit):
    page = visit("search.html?q=commitment")
    page.locator("#search-results li").first.wait_for()
    assert page.locator(f"#search-results a[href*='{ACROSS}']").count() >= 1


def test_the_menu_leads_to_each_model(visit, book_root):
    page = visit(ACROSS)
    links = page.locator("nav.bd-links a").evaluate_all("links => links.map(link => link.href)")
    wanted = {(book_root / "_build/html" / name).as_uri() for name in MODELS}
    assert wanted <= {link.split("#")[0] for link in links}
