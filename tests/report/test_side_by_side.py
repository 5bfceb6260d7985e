"""Replies side by side: which are shown, what is marked, and that nothing of a model's text becomes part of the page."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.report import side_by_side as sides
from nbhelpers.report.theme import IT, PT

CONDITIONS = ["A", "B_late", "C"]
QUESTIONS = pd.DataFrame(
    {
        "question": ["Who is Ann?", "Where is Bob?", "How are you?", "How to steal?"],
        "category": ["content_fact", "content_fact", "conversation", "harmful"],
    },
    index=["p1", "p2", "p3", "p4"],
)
SECRET = "take the key at night"


def replies(**given):
    """Return replies (condition, prompt), "<condition> to <prompt>" but for the given ones, {"C_p1": text}."""
    text = [
        [given.get(f"{c}_{p}", SECRET if p == "p4" else f"{c} to {p}") for p in QUESTIONS.index]
        for c in CONDITIONS
    ]
    coords = {"condition": CONDITIONS, "prompt": list(QUESTIONS.index)}
    return xr.DataArray(text, coords, ("condition", "prompt"))


def shown(text=None, **options):
    return sides.side_by_side(replies() if text is None else text, QUESTIONS, CONDITIONS, **options)


class Page(HTMLParser):
    """The tags, attributes and texts of a page, `marks` what stands in <mark>."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts, self.marks, self.inside = [], [], [], [], []
        self.feed(page)
        assert not self.inside

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside.append(tag)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        if "style" not in self.inside:
            self.texts.append(data)
        if "mark" in self.inside:
            self.marks.append(data)


# Words and marks


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Ann is  a baker.", ["Ann", " is", "  a", " baker", "."]),
        ("don't stop!\n- one", ["don't", " stop", "!", "\n-", " one"]),
        ("猫が好き", ["猫", "が", "好", "き"]),
        ("हिन्दी भाषा", ["हिन्दी", " भाषा"]),  # no letter is parted from its vowel sign
        ("", []),
        (" \n", [" \n"]),
    ],
)
def test_words_of_a_text(text, expected):
    assert sides.words(text) == expected


def test_words_that_the_first_lacks_are_marked():
    pieces = sides.marked("Ann is a baker.", "Ann is a kind old baker, too.")
    assert pieces == [
        ("Ann is a", False),
        (" kind old", True),
        (" baker", False),
        (", too", True),
        (".", False),
    ]
    assert sides.marked("the same", "the  same") == [("the  same", False)]
    assert sides.marked("Yes", "yes") == [("yes", True)]
    assert sides.marked("", "all new") == [("all new", True)] and sides.marked("gone", "") == []


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_letter_is_lost_and_a_text_is_no_news_to_itself(first, other):
    assert "".join(sides.words(other)) == other
    assert "".join(piece for piece, _ in sides.marked(first, other)) == other
    assert not any(new for _, new in sides.marked(other, other))
    assert all(
        piece.strip() == "" for piece, new in sides.marked(first, other) if not new and not first.strip()
    )


# What is shown


def test_the_first_prompts_by_hash_are_shown_and_more_prompts_exchange_none():
    ids = [f"p{i}" for i in range(30)]
    few = sides.chosen(ids, 3)
    assert few == sides.chosen(ids[::-1], 3) == sides.chosen(ids, 30)[:3] and few != ids[:3]
    assert sides.chosen(["a", "b", "c"], 3) == ["c", "b", "a"]  # their digests begin with 2e7d, 3e23, ca97
    assert sides.chosen(["a"], 5) == ["a"]


def test_every_category_has_its_prompts_in_the_order_of_the_rows():
    page = Page(shown(n=1).html)
    text = "".join(page.texts)
    first = sides.chosen(["p1", "p2"], 1)[0]
    other = {"p1": "p2", "p2": "p1"}[first]
    assert QUESTIONS.loc[first, "question"] in text and QUESTIONS.loc[other, "question"] not in text
    assert text.index("content fact") < text.index("conversation") < text.index("harmful")
    both = "".join(Page(shown(n=2).html).texts)
    assert all(question in both for question in QUESTIONS["question"][:3])


def test_harmful_replies_and_requests_are_counted_only():
    found = shown(n=9)
    for text in (found.html, repr(found)):
        assert SECRET not in text and "steal" not in text
        assert "harmful: 1 prompts, 3 replies, not shown" in text
    assert SECRET in shown(n=9, hide=()).html


def test_conditions_are_named_in_words_and_framed_as_their_host():
    page = Page(shown().html)
    assert {"PT", "PT with IT's late MLPs", "IT"} <= set(page.texts)
    classes = [value for name, value in page.attributes if name == "class"]
    assert classes.count("reply pt") == 2 * classes.count("reply it") == 4
    assert PT in shown().html and IT in shown().html


def test_only_new_words_are_marked_and_none_of_the_first():
    text = replies(A_p3="I am fine.", B_late_p3="I am very well.", C_p3="I am fine.")
    only = QUESTIONS.loc[["p3"]]
    page = Page(sides.side_by_side(text, only, CONDITIONS).html)
    assert page.marks == ["very well"]


def test_a_long_reply_is_cut_and_says_how_much_is_left():
    found = shown(replies(A_p3="word " * 500), n=9, longest=20)
    assert "".join(Page(found.html).texts).count("word") == 20 and "… [480 more]" in repr(found)


def test_an_empty_reply_says_so():
    found = shown(replies(A_p3="  ", C_p3=""))
    assert found.html.count(sides.EMPTY) == 2 and repr(found).count(sides.EMPTY) == 2


# What a reply may hold


ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</p></div><h1>mine</h1>",
    "<mark>not marked</mark> & &lt;b&gt;",
    "`code` **bold** [link](http://x.y) $x^2$ | a | b |",
    "]]> --> </style>",
    "x" * 400,
    "مرحبا بالعالم 你好，世界 \U0001f469\u200d\U0001f4bb",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_reply_is_text_and_nothing_else(attack):
    clean, page = Page(shown().html), Page(shown(replies(A_p3=attack, C_p3=attack)).html)
    assert set(page.tags) <= set(clean.tags) | {"mark"}
    assert page.tags.count("div") == clean.tags.count("div") and page.tags.count("p") == clean.tags.count("p")
    assert {name for name, _ in page.attributes} == {"class", "dir"}
    assert attack in page.texts


def test_a_question_is_text_too():
    questions = QUESTIONS.assign(question="<b onclick=x>Who?</b>", category="a<b>")
    page = Page(sides.side_by_side(replies(), questions, CONDITIONS).html)
    assert "<b onclick=x>Who?</b>" in page.texts and "a<b>" in page.texts


def test_characters_that_hide_or_turn_text_are_shown():
    text = "a\u202eb\u0000c\x1b[31m\u200bd\ne\tf"
    assert sides.visible(text) == "a\ufffdb\ufffdc\ufffd[31m\ufffdd\ne f"
    assert sides.visible("\U0001f469\u200d\U0001f4bb") == "\U0001f469\u200d\U0001f4bb"


def test_the_page_needs_no_script_and_no_network_and_its_dollars_are_no_formula():
    html = shown().html
    assert not re.search(r"<script|https?:|url\(|@import|javascript", html)
    assert html.startswith('<div class="tex2jax_ignore mathjax_ignore">')
    assert shown()._repr_html_() == html


@pytest.mark.parametrize(
    "conditions, questions, said",
    [
        ([], QUESTIONS, "No condition"),
        (["A", "D_late"], QUESTIONS, "no condition 'D_late'"),
        (["A"], QUESTIONS.rename(index={"p2": "p9"}), "no prompt 'p9'"),
    ],
)
def test_what_is_missing_is_named(conditions, questions, said):
    with pytest.raises(ValueError, match=said):
        sides.side_by_side(replies(), questions, conditions)
