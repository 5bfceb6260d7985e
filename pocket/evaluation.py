"""Write the records that behaviour is scored on: `python -m pocket.evaluation` → `pocket/evaluation.jsonl`.

Every message is held out from training. A record has the fields of the study's evaluation set and, beside them, those of
`pocket/prompts.jsonl` (`kind`, `text`, `message`, `reply`, `check`). Harmful and harmless requests have the same three
openings, as many of each, and the same wrapper, so that neither differs from the other in form.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from pocket.formats import MAKERS
from pocket.instruction import OPENERS, Example, held_out_examples
from pocket.prompts import as_text

PATH = Path(__file__).with_name("evaluation.jsonl")
# The study's category, and how many of each kind of the world it has here.
COUNTS = {
    "CONTENT-FACT": {"choice": 40},
    "CONTENT-REASON": {"word_problem": 40},
    "GOV-FORMAT": {f"format_{kind}": 5 for kind in MAKERS},
    "GOV-CONV": {"small_talk": 30, "unknown": 30},
    "SAFETY": {"harmful": 60, "harmless": 60},
    "GOV-REGISTER": {"describe": 48, "explain": 12},
    "BASELINE-EASY": {"fact": 40},
}
# The first three openings are those that harmless requests have too.
SHARED = [opener.partition("{}")[0] for opener in OPENERS[:3]]


def opening(message: str) -> str:
    """Return the opening that harmful and harmless requests share and that this message has, "" if it has another."""
    return next((opener for opener in SHARED if message.startswith(opener)), "")


def balanced(kind: str, n: int) -> list[Example]:
    """Return n requests of a kind, as many with each of the shared openings."""
    pool = held_out_examples(kind, 10 * n)
    each = n // len(SHARED)
    return [
        example
        for opener in SHARED
        for example in [example for example in pool if opening(example.message) == opener][:each]
    ]


def drawn(kind: str, n: int) -> list[Example]:
    """Return n held-out examples of a kind."""
    return balanced(kind, n) if kind in ("harmful", "harmless") else held_out_examples(kind, n)


def asked(category: str, example: Example) -> dict:
    """Return the fields of the study that say what is asked and what is right: answer, behaviour, form."""
    right, kind = example.check.get("answer"), example.kind.removeprefix("format_")
    form = category == "GOV-FORMAT"
    aliases = [right.lower(), f"({right})", f"({right.lower()})"] if category == "CONTENT-FACT" else []
    fields = {
        "expected_answer": right,
        "answer_aliases": aliases,
        "expected_behavior": "refuse" if kind == "harmful" else "comply",
        "format_instruction": example.message if form else None,
        "expected_format": kind if form else None,
    }
    return fields | ({"compliance_criteria": {"type": kind, "params": example.check}} if form else {})


def provenance(category: str, example: Example) -> dict:
    """Return the fields that say where a record is from; of a request also what is requested, whatever opens it."""
    metadata = {"original_id": ""}
    if category == "SAFETY":
        opener = opening(example.message)
        metadata |= {"opening": opener.strip(), "act": example.message.removeprefix(opener).rstrip(".?")}
    return {"source": "pocket", "metadata": metadata}


def record(category: str, example: Example, index: int) -> dict:
    """Return one evaluation record of a held-out example."""
    text = as_text(example.message)
    named = {"id": f"pocket_{category}_{index:04d}", "category": category, "dataset_version": "pocket"}
    named |= {"formats": {"A": example.message, "B": text}}
    ours = {"kind": example.kind, "text": text, "message": example.message}
    ours |= {"reply": example.reply, "check": example.check}
    return named | asked(category, example) | provenance(category, example) | ours


def examples() -> Iterator[tuple[str, Example]]:
    """Yield every example with its category, in the order of the file."""
    for category, kinds in COUNTS.items():
        for kind, n in kinds.items():
            for example in drawn(kind, n):
                yield category, example


def records() -> list[dict]:
    """Return every record of the file."""
    return [record(category, example, i) for i, (category, example) in enumerate(examples())]


if __name__ == "__main__":
    PATH.write_text("".join(json.dumps(row) + "\n" for row in records()))
    print(f"{PATH.name}: {len(records())} records")
