"""The one criterion of form by which a reply to an IFEval prompt is checked, from the prompt's instructions.

IFEval (Zhou et al. 2023, arXiv:2311.07911) gives a prompt one to three of 25 instructions; the study checks one of them.
"""

from collections.abc import Callable

from nbhelpers.core.mistakes import suggestion
from nbhelpers.core.params import ParameterError

Kwargs = dict
# What IFEval's instructions become: a format kind, its parameters from the instruction's own, and whether it wins at once.
# The first instruction that wins is the criterion; without one, the first of the others.
Rule = tuple[Callable[[Kwargs], tuple[str, dict] | None], bool]


def _fixed(kind: str) -> Callable[[Kwargs], tuple[str, dict]]:
    """Return the rule that an instruction is a kind without parameters."""
    return lambda given: (kind, {})


def _at_least(kind: str, key: str, default: int) -> Callable[[Kwargs], tuple[str, dict]]:
    """Return the rule that an instruction asks for so many of something, or for the default."""
    return lambda given: (kind, {"min_count": given.get(key) or default})


def _counted(kind: str, key: str, default: int) -> Callable[[Kwargs], tuple[str, dict]]:
    """Return the rule that an instruction sets a least or, by its `relation`, a largest number of words or sentences."""

    def rule(given: Kwargs) -> tuple[str, dict]:
        relation = given.get("relation") or "at least"
        bound = "max" if any(word in relation for word in ("most", "fewer", "less")) else "min"
        return f"{kind}_{bound}", {bound: given.get(key) or default}

    return rule


def _given(kind: str, key: str, name: str) -> Callable[[Kwargs], tuple[str, dict] | None]:
    """Return the rule that an instruction names a text or a list of words; it asks for nothing if that is empty."""
    return lambda given: (kind, {name: given[key]}) if given.get(key) else None


def _nothing(given: Kwargs) -> None:
    """Return None: no rule checks this instruction."""


INSTRUCTIONS: dict[str, Rule] = {
    "detectable_format:json_format": (_fixed("json"), True),
    "change_case:english_lowercase": (_fixed("all_lowercase"), True),
    "change_case:english_capital": (_fixed("all_uppercase"), True),
    "punctuation:no_comma": (_fixed("no_commas"), True),
    "length_constraints:number_words": (_counted("word_count", "num_words", 100), True),
    "startend:quotation": (_fixed("wrapped_in_quotes"), True),
    "startend:end_checker": (_given("ends_with", "end_phrase", "suffix"), True),
    "keywords:existence": (_given("contains_all_keywords", "keywords", "keywords"), True),
    "detectable_content:postscript": (
        lambda given: ("contains_phrase", {"phrase": given.get("postscript_marker") or "P.S."}),
        True,
    ),
    "detectable_format:number_bullet_lists": (_at_least("bullet_list", "num_bullets", 3), False),
    "detectable_format:multiple_sections": (_at_least("markdown_sections", "num_sections", 2), False),
    # IFEval's title stands in double angle brackets; the study looks for two headers all the same.
    "detectable_format:title": (_at_least("markdown_sections", "num_sections", 2), False),
    "detectable_format:number_highlighted_sections": (
        _at_least("highlighted_sections", "num_highlights", 2),
        False,
    ),
    "length_constraints:number_sentences": (_counted("sentence_count", "num_sentences", 3), False),
    "detectable_content:number_placeholders": (
        _at_least("has_placeholders", "num_placeholders", 1),
        False,
    ),
} | dict.fromkeys(
    (
        "keywords:frequency",
        "keywords:forbidden_words",
        "keywords:letter_frequency",
        "language:response_language",
        "length_constraints:number_paragraphs",
        "length_constraints:nth_paragraph_first_word",
        "detectable_format:constrained_response",
        "combination:two_responses",
        "combination:repeat_prompt",
        "change_case:capital_word_frequency",
    ),
    (_nothing, False),
)


def criteria(instructions: list[str], given: list[dict | None]) -> dict:
    """Return the one criterion, {"type", "params"}, by which a reply to an IFEval prompt is checked; "other" if none is.

    The instructions are read in order. The first that wins at once (JSON, case, commas, words, quotation marks, an ending,
    keywords, a postscript) is the criterion; else the first of those on lists, sections, sentences and placeholders.

    Parameters
    ----------
    instructions
        Ids such as "punctuation:no_comma".
    given
        The keyword arguments of each; fewer are filled up.

    Raises
    ------
    ParameterError
        If an id is none of IFEval's 25: an unknown instruction must not pass as one without a rule.
    """
    for name in instructions:
        if name not in INSTRUCTIONS:
            raise ParameterError(
                f"IFEval has no instruction {name!r} that is known here; {suggestion(name, INSTRUCTIONS)}."
            )
    kept = None
    for i, name in enumerate(instructions):
        rule, wins = INSTRUCTIONS[name]
        found = rule((given[i] if i < len(given) else None) or {})
        if found and wins:
            kept = found
            break
        kept = kept or found
    kind, params = kept or ("other", {})
    return {"type": kind, "params": params}
