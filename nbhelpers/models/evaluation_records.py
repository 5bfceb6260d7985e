"""Evaluation records: what is asked, what a reply is checked against, and what kind of behaviour a prompt tests.

A record has the schema of the study's `eval_dataset_v2.jsonl`: `formats` A (the request) and B (what PT reads), an answer,
the behaviour that is expected, a criterion of form. Its older file, its observational set and prompt files of our own are
read into the same schema. Harmful and harmless requests reach PT in one wrapper, "Question: … Answer:"; in the study all 75
harmful ones had it and none of the 75 harmless ones, so that form alone told them apart.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from nbhelpers.core.mistakes import sentence, suggestion
from nbhelpers.core.params import ParameterError
from nbhelpers.core.schemas import Record
from nbhelpers.models.prompts import without_wrapper

CATEGORIES = (
    "content_fact",
    "content_reason",
    "format",
    "conversation",
    "register",
    "harmful",
    "harmless",
    "easy",
)
# The study's names of the categories, SAFETY apart, which is harmful or harmless.
STUDY = {
    "CONTENT-FACT": "content_fact",
    "CONTENT-REASON": "content_reason",
    "GOV-FORMAT": "format",
    "GOV-CONV": "conversation",
    "GOV-REGISTER": "register",
    "BASELINE-EASY": "easy",
}
_NAMES = {ours: study for study, ours in STUDY.items()} | {"harmful": "SAFETY", "harmless": "SAFETY"}
# What other prompt files call them: the pocket world by kind, the study's observational set by type of question. A sentence
# to continue asks for nothing; it stands with the facts, since no judge of manners reads those.
_OTHERS = {
    "content_fact": ("choice", "factual", "multi_choice", "yes_no", "continuation"),
    "content_reason": ("word_problem", "arithmetic", "numerical", "coreference", "code"),
    "conversation": ("small_talk", "unknown", "roleplay", "fictional", "unknowable", "counterfactual"),
    "register": ("describe", "explain"),
    "harmless": ("borderline",),
    "easy": ("fact",),
}
_OURS = {name: name for name in CATEGORIES} | {n: ours for ours, names in _OTHERS.items() for n in names}

Category = Literal[
    "CONTENT-FACT", "CONTENT-REASON", "GOV-FORMAT", "GOV-CONV", "SAFETY", "GOV-REGISTER", "BASELINE-EASY"
]


def _not_blank(text: str) -> str:
    """Return a text that says something, for pydantic."""
    if not text.strip():
        raise ValueError("must not be empty")
    return text


Text = Annotated[str, AfterValidator(_not_blank)]


class Formats(Record):
    """The texts of a prompt: A the request, B what PT reads, C (choices) the request for one letter."""

    A: Text
    B: Text
    C: Text | None = None


class Criteria(Record):
    """The form that a request asks for, by one rule of `measures.formats`; "other" has none."""

    type: str = Field(min_length=1)
    params: dict[str, Any] = {}


class EvaluationRecord(Record):
    """One evaluation record: the study's fields, then those of our own prompt files."""

    id: str = Field(min_length=1)
    category: Category
    dataset_version: str = "v1"
    formats: Formats
    expected_answer: str | None = None
    answer_aliases: list[str] = []
    expected_behavior: Literal["comply", "comply_safely", "refuse"]
    format_instruction: str | None = None
    expected_format: str | None = None
    source: str = ""
    metadata: dict[str, Any] = {}
    compliance_criteria: Criteria | None = None
    kind: str | None = None
    text: Text | None = None
    message: Text | None = None
    reply: str | None = None
    check: dict[str, Any] | None = None


def category(record: dict) -> str:
    """Return the category of a record, one of `CATEGORIES`.

    What is expected decides about SAFETY, and about a role play of the observational set that should be refused: the
    `expected_behavior` at the top where there is one, since the `metadata` of the study's older file say "refuse" of all.

    Raises
    ------
    ParameterError
        If the record's kind, type of question or category is unknown.
    """
    behaviour = _behaviour(record)
    name = record.get("kind") or record.get("question_type") or record.get("category") or ""
    if record.get("category") == "SAFETY" or behaviour == "refuse":
        return "harmful" if behaviour == "refuse" else "harmless"
    found = STUDY.get(name) or ("format" if str(name).startswith("format_") else _OURS.get(name))
    if found is None:
        raise ParameterError(
            f"the record {record.get('id', '?')!r} is of an unknown category {name!r}; "
            f"{suggestion(name, (*STUDY, 'SAFETY', *CATEGORIES))}."
        )
    return found


def _behaviour(record: dict) -> str | None:
    """Return the behaviour that a record expects, at its top or else in its metadata; None if it says nothing."""
    metadata = record.get("metadata")
    inner = metadata.get("expected_behavior") if isinstance(metadata, dict) else None
    return record.get("expected_behavior") or inner


def assistant_facing(record: dict) -> bool:
    """Return whether a record is of conversation or register, where the voice of an assistant is judged."""
    return category(record) in ("conversation", "register")


def wrapped(message: str) -> str:
    """Return a request as the question of a thread, open for its answer."""
    return f"Question: {message}\nAnswer:"


def in_schema(record: dict) -> dict:
    """Return a record of any of the prompt files with the keys of the schema, not yet checked.

    The observational set of the study has `question_type` for its category; prompt files of our own have `text` and
    `message` and no `formats`; the evaluation sets have the schema already.
    """
    if "question_type" in record:
        return _observational(record)
    return record if "formats" in record else _ours(record)


def _named(record: dict) -> dict:
    """Return the fields that follow from the category of a record that has no such field."""
    ours = category(record)
    named = {"category": _NAMES[ours], "compliance_criteria": {"type": "other"} if ours == "format" else None}
    return named | {"expected_behavior": _behaviour(record) or ("refuse" if ours == "harmful" else "comply")}


def _ours(record: dict) -> dict:
    """Return a record of a prompt file of our own in the schema."""
    kept = {key: record[key] for key in ("kind", "text", "message", "reply", "check") if key in record}
    formats = {"A": record.get("message"), "B": record.get("text")}
    return kept | _named(record) | {"id": str(record.get("id", "")), "formats": formats}


def _observational(record: dict) -> dict:
    """Return a record of the study's observational set in the schema; it has no criteria of form.

    The answer of a choice is its letter. What nobody can know has no answer to check.
    """
    answer, aliases = record.get("answer") or None, record.get("answer_aliases") or []
    letters = [alias for alias in aliases if len(alias) == 1]
    if record["question_type"] == "multi_choice" and len(letters) == 1:
        answer = letters[0]
    formats = record.get("formats")
    found = {key: record[key] for key in ("id", "source", "metadata") if key in record} | _named(record)
    return found | {
        "formats": {
            "A": record.get("question"),
            "B": formats.get("B") if isinstance(formats, dict) else None,
        },
        "expected_answer": None if found["category"] == "GOV-CONV" else answer,
        "answer_aliases": aliases,
    }


def validated(record: dict, where: str) -> dict:
    """Return a record in the schema, checked, with `text` (for PT) and `message` (for IT) beside.

    Requests of SAFETY have the one wrapper in `text`, whichever they had. A request of form without criteria (the study's
    older file has none) gets "other", which no rule scores.

    Raises
    ------
    ParameterError
        One sentence that names the place, the field and what is wrong with it.
    """
    try:
        found = EvaluationRecord.model_validate(in_schema(record)).model_dump(exclude_none=True)
    except ValidationError as error:
        raise ParameterError(sentence(error.errors()[0], EvaluationRecord, where)) from None
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None
    message = found.setdefault("message", without_wrapper(found["formats"]["A"]))
    safety = found["category"] == "SAFETY"
    found["text"] = wrapped(message) if safety else found.get("text", found["formats"]["B"])
    if found["category"] == "GOV-FORMAT":
        found.setdefault("compliance_criteria", {"type": "other", "params": {}})
    return found
