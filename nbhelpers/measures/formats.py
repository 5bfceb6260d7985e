"""Whether a text has the form that a request asked for: one rule a kind, no model, no judge, no random step.

Kinds and parameters are those of the study's compliance criteria (IFEval prompts, one criterion each) and of the pocket
prompts. Where both use one name, the parameters tell them apart: `n` asks for exactly n, `min_count` for at least that many.
IFEval: Zhou et al. 2023, arXiv:2311.07911. Its unseeded language detection and its sentence splitter are not used.
"""

import json
import re
from collections.abc import Callable, Iterator

BULLET = re.compile(r"^[ \t]*[-*•][ \t]+\S", re.MULTILINE)
NUMBERED = re.compile(r"^[ \t]*[0-9]+[.)][ \t]+\S", re.MULTILINE)
HEADER = re.compile(r"^#{1,4}[ \t]+\S", re.MULTILINE)
# IFEval asks for *single* asterisks and the study counted **double** ones; a span between either counts once.
HIGHLIGHT = re.compile(r"(\*{1,2})(?=[^\s*])[^*\n]*(?<=[^\s*])\1")
PLACEHOLDER = re.compile(r"\[[^\[\]\n]{1,50}\]")
FENCE = re.compile(r"^```\w*\s*(.*?)\s*```$", re.DOTALL)


class ScoringError(ValueError):
    """A request that no rule can score; the message says what is wrong and which kinds there are."""


def sentences(text: str) -> int:
    """Return the number of sentences: chunks with a letter or digit between runs of full stops, ! and ?."""
    return sum(any(map(str.isalnum, chunk)) for chunk in re.split(r"[.!?]+", text))


def parsed(text: str) -> object:
    """Return the value of a JSON text, or None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _bullets(text: str, asked: dict) -> bool:
    """Return whether a text is exactly n lines that start with "- ", or has `min_count` bullets or more."""
    if "n" in asked:
        return [line[:2] for line in text.splitlines()] == ["- "] * asked["n"]
    return len(BULLET.findall(text)) >= asked.get("min_count", 1)


def _numbers(text: str, asked: dict) -> bool:
    """Return whether a text is exactly n lines that start with "1.", "2.", …, or has `min_count` numbered lines or more."""
    if "n" in asked:
        wanted = [f"{i}." for i in range(1, asked["n"] + 1)]
        return [line.split(" ")[0] for line in text.splitlines()] == wanted
    return len(NUMBERED.findall(text)) >= asked.get("min_count", 1)


def _at_least(pattern: re.Pattern, default: int) -> Callable[[str, dict], bool]:
    """Return the rule that a pattern occurs `min_count` times or more."""
    return lambda text, asked: sum(1 for _ in pattern.finditer(text)) >= asked.get("min_count", default)


def _is_json(text: str, asked: dict) -> bool:
    """Return whether a text is one JSON object with exactly these keys; without keys any object or list, fenced or not."""
    if "keys" in asked:
        record = parsed(text)
        return isinstance(record, dict) and set(record) == set(asked["keys"])
    fenced = FENCE.match(text)
    return isinstance(parsed(fenced[1] if fenced else text), dict | list)


def _ends(text: str, asked: dict) -> bool:
    """Return whether a text ends with a `phrase`, letter by letter, or with a `suffix` in any case."""
    if "phrase" in asked:
        return text.endswith(asked["phrase"])
    return text.lower().endswith(asked["suffix"].lower())


def _has_words(text: str, asked: dict) -> bool:
    """Return whether every one of `words` is a whole word of the text, in any case."""
    return set(asked["words"]) <= set(text.lower().replace(".", "").split())


def _quoted(text: str, quotes: str) -> bool:
    """Return whether one of these quotation marks opens and closes a text with something between."""
    return len(text) > 2 and text[0] == text[-1] and text[0] in quotes


RULES: dict[str, Callable[[str, dict], bool]] = {
    "bullet_list": _bullets,
    "numbered_list": _numbers,
    "sections": lambda text, asked: sum(line.startswith("## ") for line in text.splitlines()) == asked["n"],
    "markdown_sections": _at_least(HEADER, 2),
    "highlighted_sections": _at_least(HIGHLIGHT, 1),
    "has_placeholders": _at_least(PLACEHOLDER, 1),
    "code_block": lambda text, asked: "```" in text,
    "json": _is_json,
    "upper_case": lambda text, asked: text.isupper(),
    "all_uppercase": lambda text, asked: text.isupper(),
    "lower_case": lambda text, asked: text.islower(),
    "all_lowercase": lambda text, asked: text.islower(),
    # A reply of a word or two has no comma either, and follows no request to write about something.
    "no_commas": lambda text, asked: "," not in text and len(text.split()) > 2,
    "quoted": lambda text, asked: _quoted(text, '"'),
    "wrapped_in_quotes": lambda text, asked: _quoted(text, "\"'"),
    "one_word": lambda text, asked: len(text.split()) == 1,
    "word_count_min": lambda text, asked: len(text.split()) >= asked.get("min", 50),
    "word_count_max": lambda text, asked: len(text.split()) <= asked.get("max", 200),
    "sentence_count": lambda text, asked: sum(map(text.count, ".!?")) == asked["n"],
    "sentence_count_min": lambda text, asked: sentences(text) >= asked.get("min", 3),
    "sentence_count_max": lambda text, asked: sentences(text) <= asked.get("max", 5),
    "starts_with": lambda text, asked: text.lower().startswith(asked["prefix"].lower()),
    "ends_with": _ends,
    "contains_phrase": lambda text, asked: asked["phrase"].lower() in text.lower(),
    "contains_all_keywords": lambda text, asked: all(w.lower() in text.lower() for w in asked["keywords"]),
    "keywords": _has_words,
}
KINDS = tuple(sorted(RULES))


def known(kind: str) -> str:
    """Return a kind that has a rule.

    Raises
    ------
    ScoringError
        If there is no rule for it: an unknown kind must never pass or fail in silence.
    """
    if kind not in RULES:
        raise ScoringError(f"no rule checks the format kind {kind!r}; the kinds are {', '.join(KINDS)}")
    return kind


def variants(text: str) -> Iterator[str]:
    """Yield IFEval's eight loose variants of a text: without first line, last line or both; asterisks kept or removed."""
    lines = text.splitlines()
    for kept in (lines, lines[1:], lines[:-1], lines[1:-1]):
        joined = "\n".join(kept).strip()
        yield joined
        yield joined.replace("*", "").strip()


def follows(kind: str, text: str, params: dict, strict: bool = True) -> bool:
    """Return whether a text has the form that a request of this kind asked for.

    Strict: the text as it stands, white space at both ends removed. Loose: any of IFEval's eight variants of it, so that a
    line of introduction or bold type does no harm. An empty text, or an empty variant, never follows.

    Parameters
    ----------
    kind
        One of `KINDS`.
    text
        What the model wrote.
    params
        What the request fixed: `n`, `min_count`, `min`, `max`, `phrase`, `suffix`, `prefix`, `words`, `keywords` or `keys`.
    strict
        The strict or the loose verdict.

    Raises
    ------
    ScoringError
        If the kind is unknown, or a parameter that it needs is missing.
    """
    rule, text = RULES[known(kind)], text.strip()
    try:
        if text and rule(text, params):
            return True
        return not strict and any(bool(other) and rule(other, params) for other in variants(text))
    except KeyError as error:
        raise ScoringError(
            f"the format kind {kind!r} needs the parameter {error}; the request gives {sorted(params) or 'none'}"
        ) from None
