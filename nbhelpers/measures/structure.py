"""How much of a text is structure: classes of its words, the study's structural token ratio, and two other readings of it."""

import re
from functools import lru_cache

CLASSES = ("STRUCTURAL", "DISCOURSE", "PUNCTUATION", "FUNCTION", "CONTENT", "OTHER")
FUNCTION = frozenset(
    "a an the this that these those my your his her its our their some any all each every either neither i you he she it we"
    " they me him us them myself yourself ourselves themselves am is are was were be been being do does did doing have has"
    " had can could may might must shall should will would to of in on at by for from with about into over under between"
    " through during before after without within and or but if because while although though than as so nor yet not no yes"
    " very more most less least here there then now".split()
)
DISCOURSE = frozenset(
    "actually alternatively anyhow anyway basically finally first frankly honestly however indeed instead meanwhile next"
    " notably overall second similarly specifically therefore third thus".split()
)
PHRASES = frozenset(
    tuple(phrase.split())
    for phrase in (
        "of course|for example|for instance|for now|for that reason|in fact|in short|in summary|in other words"
        "|on the other hand|as a result|by contrast|that said|to be clear"
    ).split("|")
)
_STARTS = frozenset(phrase[:2] for phrase in PHRASES)
_MARK = re.compile(r"#+|\*+|`+|-{2,}|={2,}|>+|[-+•]|[0-9]+\.")
_PUNCTUATION = frozenset(".,;:!?()[]{}\"'/\\@#$%^&*+=<>|~`-")
_LATIN = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*|[0-9]+(?:\.[0-9]+)?")
_LINE = re.compile(r"[ \t]*(?:#{1,6}[ \t]|[-*+•][ \t]|[0-9]+[.)][ \t]|>|```|\||(?:[-*_=][ \t]*){3,}$)")
_BOLD = re.compile(r"\*\*(?=\S)([^\n]+?)(?<=\S)\*\*")


@lru_cache(maxsize=65536)
def _unit(unit: str) -> tuple[str, tuple[str, ...]]:
    """Return the class of a unit on its own, and its words in small letters."""
    if _MARK.fullmatch(unit):
        return "STRUCTURAL", ()
    if _PUNCTUATION.issuperset(unit):
        return "PUNCTUATION", ()
    words = tuple(word.lower() for word in _LATIN.findall(unit))
    if not words:
        return "OTHER", ()
    return "DISCOURSE" if words[0] in DISCOURSE else "FUNCTION" if words[0] in FUNCTION else "CONTENT", words


def word_classes(text: str) -> list[str]:
    """Return the class of every unit of a text (what stands between white space), one of `CLASSES`.

    The first rule that applies decides: marks of layout only (#, **, ```, --, 1.) are STRUCTURAL; ASCII punctuation only is
    PUNCTUATION; a unit whose first word is part of a discourse phrase ("for example"; marks between its words do not matter)
    or a discourse adverb is DISCOURSE; else its first word is FUNCTION or CONTENT; a unit without Latin letters or
    digits is OTHER. The study's classifier, with its word lists.
    """
    found = [_unit(unit) for unit in text.split()]
    classes = [kind for kind, _ in found]
    words = [word for _, part in found for word in part]
    if not _STARTS.isdisjoint(zip(words, words[1:])):
        for unit in _in_phrases([part for _, part in found]):
            classes[unit] = "DISCOURSE"
    return classes


def _in_phrases(words: list[tuple[str, ...]]) -> set[int]:
    """Return the units whose first word is in a discourse phrase, from the words of every unit."""
    flat = [(word, unit, i == 0) for unit, part in enumerate(words) for i, word in enumerate(part)]
    units = set()
    for start in range(len(flat)):
        for n in (2, 3, 4):
            part = flat[start : start + n]
            if tuple(word for word, _, _ in part) in PHRASES:
                units |= {unit for _, unit, first in part if first}
    return units


def structure(text: str) -> float:
    """Return the study's structural token ratio; 0 for an empty text.

    structure = (#STRUCTURAL + #DISCOURSE + #PUNCTUATION) / #units
    It is no measure of quality: it rises when text falls apart into marks.
    """
    classes = word_classes(text)
    counted = sum(kind in ("STRUCTURAL", "DISCOURSE", "PUNCTUATION") for kind in classes)
    return counted / len(classes) if classes else 0.0


def structure_lines(text: str) -> float:
    """Return the share of lines with text that are markup: header, list item, quotation, fence, table row or rule.

    structure_lines = #{line of markup} / #{line with text}
    """
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(_LINE.match(line) is not None for line in lines) / len(lines) if lines else 0.0


def structure_bold(text: str) -> float:
    """Return the share of words that stand inside **bold type** on one line; 0 for an empty text.

    structure_bold = #{word in bold type} / #{word}
    """
    if "**" not in text:
        return 0.0
    bold = sum(len(span.split()) for span in _BOLD.findall(text))
    return min(1.0, bold / len(text.split()))
