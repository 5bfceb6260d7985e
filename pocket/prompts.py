"""Write the held-out prompt set that experiments use: `python -m pocket.prompts` → `pocket/prompts.jsonl`."""

import json
from pathlib import Path

from pocket.instruction import KIND_SHARES, held_out_examples

PATH = Path(__file__).with_name("prompts.jsonl")
# How many of each kind; the twelve format kinds share one category.
COUNTS = {
    "fact": 40,
    "choice": 40,
    "word_problem": 40,
    "describe": 30,
    "explain": 10,
    "small_talk": 16,
    "harmful": 30,
    "harmless": 30,
    "unknown": 24,
}
PER_FORMAT = 5


def as_text(message: str) -> str:
    """Return what PT reads: the message as the question of a thread, open for its answer."""
    return f"Question: {message}\nAnswer:"


def records() -> list[dict]:
    """Return every held-out prompt as a record: id, category, kind, text, message, reply, check."""
    rows = []
    for kind in KIND_SHARES:
        category = "format" if kind.startswith("format_") else kind
        for i, example in enumerate(held_out_examples(kind, COUNTS.get(kind, PER_FORMAT))):
            rows.append(
                {
                    "id": f"{kind}-{i:03d}",
                    "category": category,
                    "kind": kind,
                    "text": as_text(example.message),
                    "message": example.message,
                    "reply": example.reply,
                    "check": example.check,
                }
            )
    return rows


if __name__ == "__main__":
    PATH.write_text("".join(json.dumps(row) + "\n" for row in records()))
    print(f"{PATH.name}: {len(records())} prompts")
