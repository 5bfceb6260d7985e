"""The page that looks into a prompt, in headless Chromium from disk: controls, keys and addresses open a view."""

import re

import pytest

from nbhelpers.run.explorer import address
from tests.book.test_browser import (  # noqa: F401 - visit is a fixture
    DESK,
    MOST,
    PHONE,
    SETTLED,
    SHAPES,
    checked,
    visit,
)

PAGE = "explore.html"
MEASURES = ("top1_probability", "entropy", "kl_final_layer")


def said(page):
    """Return what the page says of the chosen cell."""
    return page.locator("#explore-said").inner_text()


def redrawn(page, act, charts=2):
    """Return what the first charts look like after an act has changed each of them."""
    places = page.locator("div.vegalite").all()[:charts]
    before = [place.evaluate(SETTLED) for place in places]
    act()
    for place, shapes in zip(places, before):
        page.wait_for_function(
            f"([place, before]) => ![before, ''].includes(({SHAPES})(place))",
            arg=[place.element_handle(), shapes],
        )
    return [place.evaluate(SETTLED) for place in places]


def tree(whos=("PT", "IT", "grafted"), n=5, layers=12):
    """Return a view as a live explorer carries it in an address."""
    values = {
        name: [[round(0.01 * (layer + token + i), 3) for token in range(n)] for layer in range(layers)]
        for i, name in enumerate(MEASURES)
    }
    words = [[f"w{layer}{token}" for token in range(n)] for layer in range(layers)]
    lenses = {"raw": values | {"top1": words}}
    texts = {"PT": "one", "IT": "two", "grafted: PT with IT’s MLPs of layers 7–11": "<three>"}
    return {
        "tokens": list("abcde"),
        "whos": dict.fromkeys(whos, lenses),
        "message": "Who are “you”?",
        "texts": texts,
    }


@pytest.mark.parametrize("viewport", [DESK, PHONE])
def test_the_page_is_whole_and_fits(visit, viewport):  # noqa: F811
    page = visit(PAGE, viewport)
    checked(page, 2)
    assert re.match(
        r"Layer 6, raw lens, where “.+” stands: PT says “.+” \(p \d\.\d\d, entropy .+\); IT says “.+\.$",
        said(page),
    )
    words = page.locator("div.vegalite").first.locator("svg text").all_text_contents()
    assert words.count("PT") == words.count("IT") == 1
    heavy = page.evaluate("() => document.documentElement.outerHTML.length")
    assert heavy < MOST / 2


def test_the_grid_fits_a_desk_and_fades_out_on_a_phone_where_it_goes_on(visit):  # noqa: F811
    hidden = "place => [place.scrollWidth > place.clientWidth + 1, place.dataset.more]"
    for viewport, wanted in ((DESK, [False, "none"]), (PHONE, [True, "right"])):
        page = visit(PAGE, viewport)
        checked(page, 2)
        place = page.locator("div.vegalite").first
        place.evaluate(SETTLED)
        assert place.evaluate(hidden) == wanted
    place.evaluate("place => place.scrollTo(place.scrollWidth, 0)")
    page.wait_for_function("() => document.querySelector('div.vegalite').dataset.more === 'left'")


def test_keys_change_the_view_and_its_address_opens_it_again(visit):  # noqa: F811
    page = visit(PAGE)
    checked(page, 2)
    first = said(page)

    def choose(name, *keys):
        page.locator(f"#explore [name={name}]").focus()
        for key in keys:
            page.keyboard.press(key)

    redrawn(page, lambda: choose("layer", "ArrowRight", "ArrowRight"), charts=1)
    assert said(page) != first and said(page).startswith("Layer 8, raw")
    redrawn(page, lambda: page.locator("#explore [name=pair]").select_option("qwen_pocket"))
    # The first token is read behind the same prompt, whoever wrote it: its curves stay.
    redrawn(page, lambda: page.locator("#explore [name=history]").select_option("pt"), charts=1)
    redrawn(page, lambda: page.locator("#explore [name=measure]").select_option("entropy"))
    page.locator("#explore [name=lens]").select_option("tuned")
    choose("token", "ArrowRight")
    named = address.state(page.url)
    assert (
        named
        | {
            "pair": "qwen_pocket",
            "history": "pt",
            "measure": "entropy",
            "lens": "tuned",
            "token": "1",
            "layer": "8",
        }
        == named
    )
    # A page in the background draws no frames, so this one is read first.
    wanted = page.locator("div.vegalite").first.evaluate(SETTLED)
    again = visit(f"{PAGE}#{page.url.partition('#')[2]}", context=page.context)
    assert said(again) == said(page) and said(again).startswith("Layer 8, tuned lens")
    checked(again, 2)
    assert again.locator("div.vegalite").first.evaluate(SETTLED) == wanted


def test_a_click_on_a_cell_chooses_it(visit):  # noqa: F811
    page = visit(PAGE)
    checked(page, 2)
    before = said(page)
    page.locator("div.vegalite").first.locator(".mark-rect path").nth(2).click(force=True)
    page.wait_for_function(
        "before => document.getElementById('explore-said').innerText !== before", arg=before
    )
    assert page.url.count("layer=") == 1


def test_an_address_with_numbers_opens_a_typed_prompt(visit):  # noqa: F811
    carried = tree()
    state = {
        "pair": "llama_pocket",
        "prompt": "typed",
        "measure": "entropy",
        "token": 3,
        "layer": 9,
        "window": "7-11",
    }
    page = visit(f"{PAGE}#{address.fragment(state, carried)}")
    page.wait_for_function("() => document.getElementById('explore-said').innerText.includes('grafted')")
    wanted = carried["whos"]["IT"]["raw"]
    assert f"where “d” stands: PT says “w93” (p {wanted['top1_probability'][9][3]:.2f}" in said(page)
    assert page.locator("#explore [name=prompt] option:checked").inner_text() == carried["message"]
    assert page.locator("#explore-texts dd").all_inner_texts() == ["Who are “you”?", "one", "two", "<three>"]
    checked(page, 2)
    legend = page.locator("div.vegalite").nth(1).locator("svg .role-legend text").all_text_contents()
    assert legend == ["PT", "IT", "grafted"]
    page.locator("#explore [name=token]").focus()
    page.keyboard.press("ArrowLeft")
    assert address.numbers(page.url) == carried and address.state(page.url)["window"] == "7-11"
    page.locator("#explore [name=prompt]").select_option(index=0)
    assert "data=" not in page.url and "grafted" not in said(page)


def test_a_damaged_address_says_so(visit):  # noqa: F811
    page = visit(f"{PAGE}#pair=qwen_pocket&data=abc")
    page.get_by_text("The numbers in this address are damaged").wait_for()
    checked(page, 2)
