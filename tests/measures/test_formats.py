"""Forms of replies: each kind on texts that have the form and texts that miss it, strictly and loosely."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.measures.formats import KINDS, ScoringError, follows, sentences, variants
from pocket import formats as pocket_formats
from pocket.instruction import held_out_examples

# kind, params, texts that follow, texts that do not
CASES = [
    ("bullet_list", {"n": 2}, ["- figs\n- pears"], ["- figs", "- figs\n- pears\n- nuts", "* figs\n* pears", "-figs\n-pears"]),
    ("bullet_list", {"min_count": 2}, ["* figs\n* pears", "Here:\n- a\n• b\n- c"], ["- figs", "a - b - c", "-figs\n-pears"]),
    ("bullet_list", {}, ["Here:\n- figs"], ["figs, pears", "- "]),
    ("numbered_list", {"n": 2}, ["1. figs\n2. pears"], ["1. figs\n3. pears", "1) figs\n2) pears", "1. figs"]),
    ("numbered_list", {"min_count": 2}, ["Here:\n1. a\n2) b"], ["1. figs", "1.5 is a number\n2.5 too"]),
    ("sections", {"n": 2}, ["## Town\nAlder\n\n## Job\nbaker"], ["## Town\nAlder", "# Town\n# Job", "##Town\n##Job"]),
    ("markdown_sections", {"min_count": 2}, ["# A\ntext\n#### B"], ["# A", "##### A\n##### B", "#A\n#B", "a # b # c"]),
    ("markdown_sections", {}, ["# A\n# B"], ["# A"]),
    ("highlighted_sections", {"min_count": 2}, ["*a b* and **c**"], ["*a b*", "** a ** ** b **", "2 * 3 * 4", "* a\n* b"]),
    ("has_placeholders", {"min_count": 2}, ["[name] of [town]"], ["[name]", "[] []", "(name) (town)", f"[a] [{'x' * 51}]"]),
    ("code_block", {}, ["```\nx = 1\n```"], ["x = 1", "`x`"]),
    ("json", {"keys": ["food", "town"]}, ['{"town": "a", "food": "b"}'], ['{"food": "figs"}', '["food", "town"]', "figs"]),
    ("json", {}, ['{"a": 1}', "[1, 2]", '```json\n{"a": 1}\n```'], ["42", '"figs"', "{a: 1}", 'Here: {"a": 1}']),
    ("upper_case", {}, ["FIGS ARE RED."], ["FIGS are RED.", "123!"]),
    ("all_uppercase", {}, ["FIGS: 3"], ["Figs: 3", "..."]),
    ("lower_case", {}, ["figs are red."], ["Figs are red.", "123!"]),
    ("all_lowercase", {}, ["élan and figs"], ["Élan and figs"]),
    ("no_commas", {}, ["Figs are red."], ["Figs, pears and nuts.", "Figs.", "Red figs"]),
    ("quoted", {}, ['"Figs are red."'], ["'Figs are red.'", '"Figs are red.', '""', "“Figs”"]),
    ("wrapped_in_quotes", {}, ['"Figs"', "'Figs'"], ["\"Figs'", "Figs", '""']),
    ("one_word", {}, ["figs", " figs. "], ["red figs", "figs pears"]),
    ("word_count_min", {"min": 3}, ["a b c"], ["a b"]),
    ("word_count_min", {}, ["word " * 50], ["word " * 49]),
    ("word_count_max", {"max": 3}, ["a b c"], ["a b c d"]),
    ("word_count_max", {}, ["word " * 200], ["word " * 201]),
    ("sentence_count", {"n": 2}, ["A fig. A pear!"], ["A fig.", "A fig. A pear. A nut."]),
    ("sentence_count_min", {"min": 2}, ["A fig... A pear"], ["A fig...", "!?."]),
    ("sentence_count_min", {}, ["A. B. C."], ["A. B."]),
    ("sentence_count_max", {"max": 2}, ["A fig. A pear."], ["A fig. A pear. A nut."]),
    ("sentence_count_max", {}, ["A. B. C. D. E."], ["A. B. C. D. E. F."]),
    ("starts_with", {"prefix": "dear"}, ["Dear Otto"], ["My dear Otto"]),
    ("ends_with", {"phrase": "Good luck."}, ["Figs. Good luck."], ["Figs. good luck.", "Good luck. Figs."]),
    ("ends_with", {"suffix": "Good luck."}, ["Figs. GOOD LUCK. "], ["Good luck. Figs."]),
    ("contains_phrase", {"phrase": "P.P.S"}, ["Bye. p.p.s figs"], ["Bye. P.S. figs"]),
    ("contains_all_keywords", {"keywords": ["fig", "Pear"]}, ["Figs and pears"], ["Figs and nuts"]),
    ("keywords", {"words": ["fig", "pear"]}, ["A Fig and a pear."], ["Figs and pears.", "A fig."]),
]  # fmt: skip
PASSES = [(kind, params, text) for kind, params, good, _ in CASES for text in good]
FAILS = [(kind, params, text) for kind, params, _, bad in CASES for text in bad]
PARAMS = {kind: params for kind, params, _, _ in CASES}
POCKET = [
    (kind, example) for kind in pocket_formats.MAKERS for example in held_out_examples(f"format_{kind}", 6)
]


def spoiled(reply):
    """Return a reply and near misses of it: cut, with a line more, in another case, with marks, empty."""
    lines = reply.splitlines()
    return [
        reply,
        reply[:-1],
        reply[1:],
        "\n".join(lines[1:]),
        "\n".join([*lines, lines[-1]]),
        "Sure! Here it is:\n" + reply,
        reply.lower(),
        reply.upper(),
        reply + " I hope, this helps.",
        reply.replace(". ", ", "),
        reply + "\n-",
        "**" + reply + "**",
        f"```json\n{reply}\n```",
        "",
        "  \n",
    ]


def test_every_kind_has_a_text_that_follows_and_one_that_does_not():
    assert {kind for kind, _, _ in PASSES} == {kind for kind, _, _ in FAILS} == set(KINDS)


@pytest.mark.parametrize("kind, params, text", PASSES)
def test_a_text_with_the_form_follows(kind, params, text):
    assert follows(kind, text, params)
    assert follows(kind, text, params, strict=False)


@pytest.mark.parametrize("kind, params, text", FAILS)
def test_a_text_without_the_form_does_not_follow(kind, params, text):
    assert not follows(kind, text, params)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strict", [True, False])
def test_an_empty_text_fails_every_kind(kind, strict):
    assert not follows(kind, "", PARAMS[kind], strict)
    assert not follows(kind, " \n\t", PARAMS[kind], strict)


@pytest.mark.parametrize("kind, example", POCKET, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(POCKET)])
def test_strict_verdicts_equal_those_of_the_pocket_set(kind, example):
    texts = spoiled(example.reply)
    ours = [follows(kind, text, example.check) for text in texts]
    assert ours == [pocket_formats.follows(kind, text, example.check) for text in texts]
    assert ours[0] and not all(ours)


def test_every_kind_of_the_pocket_set_has_a_rule():
    assert set(pocket_formats.MAKERS) <= set(KINDS)


def test_loose_forgives_a_first_line_a_last_line_and_asterisks():
    form = ("bullet_list", {"n": 2})
    for text in ("Sure!\n- figs\n- pears", "- figs\n- pears\nEnjoy.", "Sure!\n- figs\n- pears\nEnjoy."):
        assert not follows(form[0], text, form[1])
        assert follows(form[0], text, form[1], strict=False)
    assert not follows("ends_with", "Figs. **Good luck.**", {"phrase": "Good luck."})
    assert follows("ends_with", "Figs. **Good luck.**", {"phrase": "Good luck."}, strict=False)
    assert not follows("bullet_list", "Sure!\nOf course!\n- figs\n- pears", {"n": 2}, strict=False)


def test_the_eight_variants_are_those_of_ifeval():
    assert list(variants("a\n*b*\nc")) == [
        "a\n*b*\nc",
        "a\nb\nc",
        "*b*\nc",
        "b\nc",
        "a\n*b*",
        "a\nb",
        "*b*",
        "b",
    ]


def test_a_variant_without_text_follows_nothing():
    assert not follows("word_count_max", "*", {"max": -1}, strict=False)
    assert not follows("no_commas", "a, b, c, d", {}, strict=False)


def test_sentences_are_chunks_with_a_letter_or_digit():
    assert sentences('He said: "Figs." Then he left!') == 2
    assert sentences('He said: "Figs."') == 1
    assert sentences("...!!!") == 0
    assert sentences("no mark") == 1


def test_an_unknown_kind_raises_one_sentence_with_the_kinds():
    with pytest.raises(ScoringError, match="'haiku'; the kinds are .*bullet_list.*wrapped_in_quotes$"):
        follows("haiku", "any text", {})


def test_a_missing_parameter_raises_one_sentence():
    with pytest.raises(ScoringError, match="'keywords' needs the parameter 'words'; the request gives none"):
        follows("keywords", "any text", {})
    with pytest.raises(ScoringError, match="'ends_with' needs the parameter 'suffix'; the request gives"):
        follows("ends_with", "any text", {"ending": "."})


def test_deeply_nested_json_is_no_json():
    assert not follows("json", "[" * 100_000, {})


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_nothing_raises_and_a_strict_verdict_holds_loosely(text):
    for kind in KINDS:
        strict, loose = (follows(kind, text, PARAMS[kind], strict) for strict in (True, False))
        assert loose or not strict


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_judged_as_by_the_pocket_set(text):
    for kind, example in POCKET[::6]:
        assert follows(kind, text, example.check) == pocket_formats.follows(kind, text, example.check)


def test_any_json_object_is_json():
    assert follows("json", json.dumps({"a": [1, {"b": None}]}), {})
