"""Classes of words and the structural token ratio, on the examples of the study's classifier and by a plain loop."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.measures import scoring
from nbhelpers.measures.structure import (
    CLASSES,
    DISCOURSE,
    FUNCTION,
    PHRASES,
    structure,
    structure_bold,
    structure_lines,
    word_classes,
)

UNITS = {
    "First,": "DISCOURSE",
    "however": "DISCOURSE",
    "Second-hand": "CONTENT",
    "end.": "CONTENT",
    "**bold**": "CONTENT",
    "1)": "CONTENT",
    "2.5": "CONTENT",
    "don't": "CONTENT",  # no contraction is in the list of function words
    "the": "FUNCTION",
    "(The": "FUNCTION",
    "the-end": "CONTENT",
    "the/end": "FUNCTION",  # the first word decides
    "**:": "PUNCTUATION",
    ",": "PUNCTUATION",
    "...": "PUNCTUATION",
    "|": "PUNCTUATION",
    "*": "STRUCTURAL",
    "##": "STRUCTURAL",
    "***": "STRUCTURAL",
    "```": "STRUCTURAL",
    "--": "STRUCTURAL",
    "==": "STRUCTURAL",
    "=": "PUNCTUATION",
    ">>": "STRUCTURAL",
    "-": "STRUCTURAL",
    "+": "STRUCTURAL",
    "++": "PUNCTUATION",
    "•": "STRUCTURAL",
    "••": "OTHER",
    "12.": "STRUCTURAL",
    "1..": "CONTENT",
    "—": "OTHER",
    "“": "OTHER",
    "_": "OTHER",
    "猫": "OTHER",
    "😀": "OTHER",
    "٣.": "OTHER",
}


@pytest.mark.parametrize("unit, kind", UNITS.items())
def test_a_unit_has_its_class(unit, kind):
    assert word_classes(unit) == [kind]


def test_the_word_lists_have_the_sizes_that_the_code_of_the_study_has():
    assert (len(FUNCTION), len(DISCOURSE), len(PHRASES)) == (105, 22, 14)


@pytest.mark.parametrize(
    "text, discourse",
    [
        ("for example figs", [0, 1]),
        ("figs, for example: pears", [1, 2]),
        ("for, example", [0, 1]),
        ("on the other hand figs", [0, 1, 2, 3]),
        ("for example for example", [0, 1, 2, 3]),
        ("for - example", [0, 2]),  # a mark between keeps its own class
        ("for examples", []),
        ("as a good result", []),
        ("in-fact", []),
        ("in/fact", [0]),
        ("figs/in fact", [1]),  # only a unit's first word gives it a class
        ("in other words, that said", [0, 1, 2, 3, 4]),
    ],
)
def test_phrases_make_all_their_words_discourse(text, discourse):
    assert [i for i, kind in enumerate(word_classes(text)) if kind == "DISCOURSE"] == discourse


def test_the_ratio_by_hand():
    assert structure("## Figs\n\n- First, they are red .") == pytest.approx(4 / 8)  # ## - First, .
    assert structure("figs are red") == 0
    assert structure("") == structure(" \n") == 0
    assert structure("# # #") == 1  # marks alone: no measure of quality


def test_white_space_makes_no_unit():
    assert word_classes("  figs \n\n\t red ") == ["CONTENT", "CONTENT"]


def test_lines_of_markup():
    lines = [
        "# Head",
        "- item",
        "* item",
        "3) item",
        "> said",
        "```",
        "| a | b |",
        "---",
        "text",
        "-5 degrees",
        "**b**",
    ]
    assert [structure_lines(line) for line in lines] == [1] * 8 + [0] * 3
    assert structure_lines("\n\n".join(lines)) == pytest.approx(8 / 11)
    assert structure_lines("") == 0


def test_words_in_bold_type():
    assert structure_bold("**red figs** are good") == pytest.approx(2 / 4)
    assert structure_bold("- **Town:** Alder") == pytest.approx(1 / 3)
    assert structure_bold("2 ** 3 ** 4") == structure_bold("**open") == structure_bold("") == 0
    assert structure_bold("x**a**y**b**z") == 1


def test_scoring_gives_the_classes_too():
    assert scoring.word_classes("First, figs") == ["DISCOURSE", "CONTENT"]


def by_plain_loop(text):
    """Return the classes of a text's units by the study's rules, written as one loop over the words of the whole text."""
    joined = " ".join(text.split())
    words = [
        (m[0].lower(), m.start())
        for m in re.finditer(r"[A-Za-z]+(?:['-][A-Za-z]+)*|[0-9]+(?:\.[0-9]+)?", joined)
    ]
    kinds = ["DISCOURSE" if w in DISCOURSE else "FUNCTION" if w in FUNCTION else "CONTENT" for w, _ in words]
    for n in (4, 3, 2):
        for i in range(len(words) - n + 1):
            if tuple(w for w, _ in words[i : i + n]) in PHRASES:
                kinds[i : i + n] = ["DISCOURSE"] * n
    found, start = [], 0
    for unit in text.split():
        inside = [kind for kind, (_, at) in zip(kinds, words) if start <= at < start + len(unit)]
        if re.fullmatch(r"#+|\*+|`+|--+|==+|>+|[-+•]|[0-9]+\.", unit):
            found.append("STRUCTURAL")
        elif all(c in ".,;:!?()[]{}\"'/\\@#$%^&*+=<>|~`-" for c in unit):
            found.append("PUNCTUATION")
        else:
            found.append(inside[0] if inside else "OTHER")
        start += len(unit) + 1
    return found


PARTS = "for example, in fact on the other hand First figs don't - ## 1. 2.5 ** : — x/y as a result. that said".split()


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PARTS), max_size=20).map(" ".join)))
def test_classes_equal_a_plain_loop(text):
    assert word_classes(text) == by_plain_loop(text)
    assert set(word_classes(text)) <= set(CLASSES)
    assert all(0 <= share(text) <= 1 for share in (structure, structure_lines, structure_bold))
