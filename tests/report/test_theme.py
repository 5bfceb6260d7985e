"""The palette: told apart with any colour vision, on a light and on a dark page, and readable on both."""

import re
from itertools import combinations

import numpy as np
import pytest

from nbhelpers.report import theme
from nbhelpers.report.theme import CATEGORIES, FILL, INK, IT, NO_STEP, PT, STEPS, THEMES
from tests import synthetic

PAGES = {"light": "#ffffff", "dark": "#14181e"}
# Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency",
# IEEE TVCG 15(6), severity 1.0, on linear RGB.
VISION = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)  # of linear sRGB
APART = 20  # ΔE (CIE 1976); two colours side by side are just told apart at about 2.3
# Colours that stand in one figure; shapes and dashes tell most of them apart, too.
TOGETHER = {"variants": [PT, IT, INK], "categories": CATEGORIES, "windows": [*STEPS, NO_STEP]}


def linear(colour):
    """Return the linear RGB of a colour such as "#2b7bba"."""
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """Return the CIE L*a*b* of linear RGB, white point D65."""
    t = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(1)
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one, other, vision="all cones"):
    """Return ΔE of two colours as somebody with this vision sees them."""
    return float(
        np.linalg.norm(np.subtract(*(lab(VISION[vision] @ linear(colour)) for colour in (one, other))))
    )


def contrast(one, other):
    """Return the contrast ratio of the Web Content Accessibility Guidelines."""
    low, high = sorted(float(XYZ[1] @ linear(colour)) + 0.05 for colour in (one, other))
    return high / low


def on(page, colour):
    """Return a specification's colour as a page shows it."""
    return THEMES[page].get(colour, colour)


def test_the_measure_knows_black_white_and_red_from_green():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert distance("#000000", "#ffffff") == pytest.approx(100, abs=0.1)
    red, green = "#d62728", "#2ca02c"
    assert distance(red, green, "deuteranopia") < distance(red, green) / 2


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("figure", TOGETHER)
def test_colours_of_a_figure_are_told_apart(figure, page, vision):
    for one, other in combinations(TOGETHER[figure], 2):
        assert distance(on(page, one), on(page, other), vision) >= APART, (one, other)


@pytest.mark.parametrize("page", PAGES)
def test_marks_and_words_stand_out_from_the_page(page):
    for colour in [PT, IT, *STEPS, *CATEGORIES, FILL]:
        assert contrast(on(page, colour), PAGES[page]) >= 3, colour
    assert contrast(on(page, INK), PAGES[page]) >= 4.5


@pytest.mark.parametrize("page", PAGES)
def test_steps_go_from_what_is_near_the_page_to_what_stands_out(page):
    contrasts = [contrast(on(page, colour), PAGES[page]) for colour in (NO_STEP, *STEPS)]
    assert contrasts == sorted(contrasts)
    hues = [np.degrees(np.arctan2(*lab(linear(on(page, colour)))[:0:-1])) % 360 for colour in STEPS]
    assert np.ptp(hues) < 15


@pytest.mark.parametrize("vision", VISION)
def test_a_cell_and_the_mark_on_it_are_told_apart(vision):
    assert contrast(FILL, "#ffffff") >= 3 and distance(FILL, "#ffffff", vision) >= APART


def test_no_colour_is_replaced_twice():
    """A page replaces colours in the text of a specification, one after another."""
    for replaced in THEMES.values():
        assert not set(replaced) & set(replaced.values())
    assert {PT, IT, INK, *STEPS, NO_STEP, *CATEGORIES} == set(THEMES["dark"])


@pytest.mark.parametrize("page", PAGES)
def test_the_book_replaces_the_same_colours(page):
    script = (synthetic.REPOSITORY / "book/assets/charts.js").read_text()
    colours = re.search(rf"{page}: {{(.*?)}}", script, re.DOTALL)[1]
    assert dict(re.findall(r'"(#\w+)": "(#\w+)"', colours)) == THEMES[page]


def test_the_theme_draws_in_ink_at_eleven_pixels_or_more():
    config = theme.theme()["config"]
    parts = [part for part in config.values() if isinstance(part, dict)]
    sizes = [part[name] for part in parts for name in part if name.lower().endswith("fontsize")]
    assert min(sizes) >= 11
    assert {config[part]["labelColor"] for part in ("axis", "legend", "header")} == {INK}
