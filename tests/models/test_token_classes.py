"""Classes of tokens: hand-worked sentences under all six pocket tokenizers, and pieces that make up the text."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.core.params import FAMILIES, ROOT
from nbhelpers.models import loading, token_classes
from nbhelpers.models.token_classes import CLASSES

every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def tokenizer(family):
    return loading.load_tokenizer(str(ROOT / "pocket/checkpoints" / family / "it"))


def ids_of(family, text):
    return tokenizer(family)(text, add_special_tokens=False)["input_ids"]


def classed(family, text):
    """[(text of a token without its spaces, class)], tokens of nothing but white space left out."""
    ids = ids_of(family, text)
    pieces = [
        piece.decode("utf-8", "replace").strip()
        for piece in token_classes.token_bytes(tokenizer(family), ids)
    ]
    names = [CLASSES[i] for i in token_classes.token_classes(tokenizer(family), ids)]
    return [(piece, name) for piece, name in zip(pieces, names) if piece]


def word_classes(family, text):
    """[(word, the classes of its tokens)] of a text whose words stand apart by white space."""
    found, waiting = [], classed(family, text)
    for word in text.split():
        built, classes = "", set()
        while waiting and built != word:
            piece, kind = waiting.pop(0)
            built, classes = built + piece, classes | {kind}
        found.append((word, classes))
    return found


LETTERS = dict(zip("SPDFC", CLASSES))
# A letter for each word or mark, all apart from each other so that no tokenizer joins them.
SENTENCES = {
    "The baker of Arden sells 12 rolls .": "FCFCCCCP",
    "She doesn't know what it's for": "FFCFFF",
    "They won't and I can't say": "FFFFFC",
    "Mara's dog isn't here": "CCFF",
    "However the ferry left , therefore we waited": "DFCCPDFC",
    "He waited , for example , on the other hand not": "FCPDDPDDDDF",
    "# Bread\n- one\n* two\n2. three\n> four": "SCSCSCSCSC",
    "a well-known town -- not a rule": "FCCSFFC",
}


@every_family
@pytest.mark.parametrize("text, kinds", SENTENCES.items())
def test_words_have_their_class_in_every_tokenizer(family, text, kinds):
    expected = [(word, {LETTERS[letter]}) for word, letter in zip(text.split(), kinds, strict=True)]
    assert word_classes(family, text) == expected


@every_family
def test_bytes_of_one_character_share_its_class(family):
    """Pocket vocabularies have no such characters and write them in bytes, three of these or four."""
    for text, kind in (
        ("東", "other"),
        ("—", "punctuation"),
        ("“", "punctuation"),
        ("…", "punctuation"),
        ("😀", "other"),
    ):
        ids = ids_of(family, f"a {text}")
        assert len(ids) > 3
        kinds = [CLASSES[i] for i in token_classes.token_classes(tokenizer(family), ids)]
        assert kinds[0] == "function" and kinds[-3:] == [kind] * 3, text
    naive = ids_of(family, "naïve")
    assert len(naive) > 3
    assert {CLASSES[i] for i in token_classes.token_classes(tokenizer(family), naive)} == {"content"}


@every_family
def test_special_tokens_are_special_and_add_no_text(family):
    one = tokenizer(family)
    ids = [*ids_of(family, "the bread"), one.eos_token_id]
    kinds = [CLASSES[i] for i in token_classes.token_classes(one, ids)]
    assert kinds[0] == "function" and kinds[-1] == "special" and "special" not in kinds[:-1]
    assert token_classes.token_bytes(one, ids)[-1] == b""
    assert token_classes.token_classes(one, []).tolist() == []


@every_family
def test_white_space_is_punctuation(family):
    ids = ids_of(family, "\n\n")
    assert {CLASSES[i] for i in token_classes.token_classes(tokenizer(family), ids)} == {"punctuation"}


TEXT = st.text(
    st.one_of(
        st.sampled_from(list("aAzeEr t.,-*#`'’\n1290>“—…ïé東😀")),
        st.characters(codec="utf-8", exclude_categories=["Cs"]),
    ),
    max_size=25,
)


@every_family
@settings(max_examples=40)
@given(text=TEXT)
def test_pieces_make_up_the_decoded_text(family, text):
    ids = ids_of(family, text)
    pieces = token_classes.token_bytes(tokenizer(family), ids)
    special = set(tokenizer(family).all_special_ids)
    kept = [index for index in ids if index not in special]
    decoded = tokenizer(family).decode(kept, clean_up_tokenization_spaces=False)
    assert b"".join(pieces).decode("utf-8", "replace") == decoded
    whole, starts = token_classes.spans(pieces)
    assert (np.diff(starts) >= 0).all() and starts[0] == 0 and starts[-1] == len(whole)
    kinds = token_classes.token_classes(tokenizer(family), ids)
    assert kinds.shape == (len(ids),) and ((kinds >= 0) & (kinds < len(CLASSES))).all()


@settings(max_examples=60)
@given(st.lists(st.integers(0, 999), max_size=20))
def test_any_ids_have_classes(ids):
    """A model may write bytes that make no character."""
    for family in ("llama", "gemma"):
        kinds = token_classes.token_classes(tokenizer(family), ids)
        special = np.isin(ids, tokenizer(family).all_special_ids)
        assert ((kinds == CLASSES.index("special")) == special).all()


WORDS = st.sampled_from("baker however the Don't they’re it's First 12,5 well-known naïve 3rd and/or".split())


@given(st.lists(WORDS, min_size=1, max_size=6))
def test_a_word_has_one_class_whatever_stands_beside_it(words):
    text = " ; ".join(words)
    found, at = token_classes.character_classes(text), 0
    for word in words:
        assert set(found[at : at + len(word)].tolist()) == {CLASSES.index(token_classes.word_class(word))}
        at += len(word) + 3


@pytest.mark.parametrize(
    "word, kind",
    [("Don't", "function"), ("they’re", "function"), ("isn't", "function"), ("won't", "function"), ("I'm", "function"),
     ("baker's", "content"), ("however", "discourse"), ("THE", "function"), ("naïve", "content"), ("12,5", "content"),
     ("мост", "other")],
)  # fmt: skip
def test_classes_of_words(word, kind):
    assert token_classes.word_class(word) == kind


@pytest.mark.parametrize(
    "mark, structural", [("-", True), ("•", True), (">", True), ("3.", True), ("#", True), ("+", True)]
)
def test_bullets_count_at_the_start_of_a_line_only(mark, structural):
    code = CLASSES.index("structural")
    assert (
        token_classes.character_classes(f"one\n{mark} two")[4 : 4 + len(mark)] == code
    ).all() == structural
    within = token_classes.character_classes(f"one {mark} two")[4 : 4 + len(mark)]
    assert (within == code).all() == (mark == "#")
