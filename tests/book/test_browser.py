"""Every page of the book in headless Chromium, from disk: drawn, silent, and asking for nothing outside itself."""

import re
import shutil
from collections import Counter

import pytest

from nbhelpers.book import pages
from nbhelpers.core import params
from tests import synthetic

PHONE, DESK = {"width": 390, "height": 800}, {"width": 1280, "height": 900}
KEYS = params.ordered()
ACROSS = "runs/exp09_convergence_gap_across.html"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# A place inside a closed tab has no width and is drawn when the tab opens.
DRAWN = """() => [...document.querySelectorAll("div.vegalite")]
    .every(place => !place.clientWidth || (place.dataset.drawn && place.querySelector("svg.marks")))"""
TYPESET = """() => [...document.querySelectorAll(".math")].every(place => place.querySelector("mjx-container svg"))"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# The contrast of each text with what it stands on, as WCAG defines it.
CONTRASTS = """elements => elements.filter(e => e.checkVisibility() && e.innerText.trim()).map(element => {
    const channels = text => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    let below = element;
    const clear = node => { const c = channels(getComputedStyle(node).backgroundColor); return c.length > 3 && !c[3]; };
    while (below.parentElement && clear(below)) below = below.parentElement;
    const pair = [getComputedStyle(element).color, getComputedStyle(below).backgroundColor].map(c => light(channels(c)));
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
})"""
SHAPES = """place => [...place.querySelectorAll("svg.marks path, svg.marks text")]
    .map(mark => (mark.getAttribute("d") ?? mark.textContent) + mark.getAttribute("fill")
      + mark.getAttribute("transform")).join("|")"""
# The shapes once two frames no longer change them.
SETTLED = f"""async place => {{
    const frames = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
    for (let before = null, now = ""; ; before = now) {{
        await frames();
        now = ({SHAPES})(place);
        if (now && now === before) return now;
    }}
}}"""
SECONDS = 120_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not shutil.which("chromium"), reason="needs Debian's chromium (apt-get install chromium)"
    ),
]


def across_page(key):
    """Return the page of an experiment across models."""
    return f"runs/{params.experiment(key).across.removesuffix('.ipynb')}.html"


def model_pages(key, families=synthetic.FAMILIES):
    """Return the pages of an experiment's models."""
    name = params.experiment(key).notebook.removesuffix(".ipynb")
    return [f"runs/{family}_pocket/{name}.html" for family in families]


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
        page.on(
            "console",
            lambda message: message.type == "error" and complaints.append(f"{name}: {message.text}"),
        )
        page.on("pageerror", lambda error: complaints.append(f"{name}: {error}"))
        page.on("request", lambda request: inside(request.url) or complaints.append(f"{name}: {request.url}"))
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
    return dict(
        texts.evaluate_all("""texts => texts.map(text => {
        const {x, y} = text.getBoundingClientRect();
        return [text.textContent, {x, y}];
    })""")
    )


def checked(page, charts):
    """Assert that a page is whole and fits its window, with at least so many charts drawn."""
    page.wait_for_function(TYPESET)
    assert page.evaluate(OVERFLOW) == 0
    assert page.locator("div.vegalite svg.marks").count() >= charts


@pytest.mark.parametrize(
    ("name", "charts"),
    [("index.html", 1), ("pocket.html", 1), ("reproducibility.html", 0), ("search.html", 0)],
)
def test_a_page_is_drawn_and_fits_a_phone(visit, name, charts):
    page = visit(name, PHONE)
    checked(page, charts)
    assert page.locator("article h1").count() == 1 or name == "search.html"


def choose_last(place):
    """Choose the last value of every control of a chart, one after the other, and return the shapes after each."""
    found = [place.evaluate(SHAPES)]
    for control in place.locator(".vega-bindings .vega-bind").all():
        listed = control.locator("select")
        if listed.count():
            listed.select_option(index=listed.locator("option").count() - 1)
        else:
            control.locator("input[type=radio]").last.check()
        found.append(redrawn(place, found[-1]))
    return found


def redrawn(place, before):
    """Return a chart's shapes once they differ from those before and stay; fail where they do not change."""
    changed = f"([place, before]) => ![before, ''].includes(({SHAPES})(place))"
    place.page.wait_for_function(changed, arg=[place.element_handle(), before], timeout=SECONDS / 8)
    return place.evaluate(SETTLED)


def choices(page, expected):
    """Assert that each control redraws its chart, and that there are some where there should be."""
    places = [
        p for p in page.locator("div.vegalite").all() if p.is_visible() and p.locator(".vega-bind").count()
    ]
    for place in places:
        shapes = choose_last(place)
        assert len(set(shapes)) == len(shapes) > 1
        assert "NaN" not in shapes[-1] and "undefined" not in shapes[-1]
    assert page.evaluate(OVERFLOW) == 0
    assert places or not expected


WITH_CHOICES = ("exp09", "exp03", "exp04")


@pytest.mark.parametrize("key", KEYS)
def test_the_pages_of_an_experiment_on_a_phone(visit, book_root, key):
    main = pages.has_chart(book_root / "notebooks" / params.experiment(key).notebook, pages.MAIN)
    first = visit(across_page(key), PHONE)
    checked(first, 1)
    assert first.get_by_role("heading", name="What this run says").is_visible()
    choices(first, expected=key in WITH_CHOICES)
    # Llama's page is the committed notebook; the other five of an experiment differ in their numbers only.
    others = [family for family in synthetic.FAMILIES if family != "llama"]
    for name in model_pages(key, ("llama", others[KEYS.index(key) % len(others)])):
        page = visit(name, PHONE, context=first.context)
        checked(page, int(main))
        assert page.locator("article h1").count() == 1
        assert page.locator("mjx-container svg").count() >= 2
        page.close()


@pytest.mark.parametrize("key", KEYS)
def test_an_across_page_on_a_desk(visit, key):
    page = visit(across_page(key))
    checked(page, 1)
    panels_in_order(drawn(page))


def panels_in_order(words):
    """Assert that the families stand in reading order, in rows of as many."""
    place = {name: (round(words[name]["y"] / 5), words[name]["x"]) for name in synthetic.TITLES}
    assert sorted(synthetic.TITLES, key=place.get) == synthetic.TITLES
    assert set(Counter(y for y, _ in place.values()).values()) in ({1}, {2}, {3})


def test_panels_stand_in_one_column_on_a_phone(visit):
    words = drawn(visit(ACROSS, PHONE))
    assert len({round(words[name]["x"]) for name in synthetic.TITLES}) == 1
    assert sorted(synthetic.TITLES, key=lambda name: words[name]["y"]) == synthetic.TITLES


def test_a_choice_is_of_one_chart(visit):
    page = visit(ACROSS)
    first, second = (page.locator("div.vegalite").nth(i) for i in (0, 2))
    before = second.evaluate(SHAPES)
    shapes = first.evaluate(SHAPES)
    first.locator("input[type=radio]").last.check()
    redrawn(first, shapes)
    page.wait_for_timeout(300)
    assert second.evaluate(SHAPES) == before


def test_a_choice_outlives_another_theme(visit):
    page = visit(ACROSS)
    place = page.locator("div.vegalite").first
    raw = place.evaluate(SHAPES)
    place.locator("input[type=radio]").last.check()
    tuned = redrawn(place, raw)
    label = "document.querySelector('div.vegalite svg text').getAttribute('fill')"
    for theme in ("dark", "light"):
        before = page.evaluate(label)
        page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        page.wait_for_function(f"before => {label} !== before", arg=before)
        page.wait_for_function(DRAWN)
    assert place.locator("input[type=radio]").last.is_checked()
    assert place.evaluate(SHAPES) == tuned != raw


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [ACROSS, across_page("exp04"), "index.html"])
def test_the_controls_are_readable(visit, name, scheme):
    page = visit(name, color_scheme=scheme)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    texts = page.locator(".vega-bindings span, .vega-bindings label, .vega-bindings select")
    contrasts = texts.evaluate_all(CONTRASTS)
    assert contrasts and min(contrasts) >= 4.5


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
    other = visit(across_page("exp04"), context=page.context)
    assert other.locator("input:checked + label.sd-tab-label").inner_text() == "Mistral"


def test_search_finds_a_word(visit):
    page = visit("search.html?q=commitment")
    page.locator(f"#search-results a[href*='{ACROSS}']").first.wait_for()  # results come one by one


def test_the_menu_leads_to_each_model(visit, book_root):
    for key in ("exp09", "exp04"):
        page = visit(across_page(key))
        links = page.locator("nav.bd-links a").evaluate_all("links => links.map(link => link.href)")
        wanted = {(book_root / "_build/html" / name).as_uri() for name in model_pages(key)}
        assert wanted <= {link.split("#")[0] for link in links}
