"""Write the running text that lenses are trained on: `python -m pocket.corpus` → `pocket/corpus.jsonl`.

Documents of the pretraining genres from a seed that neither training nor its held-out loss uses.
"""

import itertools
import json
from pathlib import Path

from pocket.pretraining import documents

PATH = Path(__file__).with_name("corpus.jsonl")
SEED, N_DOCUMENTS = 2, 2400


def records() -> list[dict]:
    """Return the documents as records with an id and a text."""
    return [
        {"id": f"document-{i:04d}", "text": text}
        for i, text in enumerate(itertools.islice(documents(SEED), N_DOCUMENTS))
    ]


if __name__ == "__main__":
    PATH.write_text("".join(json.dumps(record) + "\n" for record in records()))
    print(f"{PATH.name}: {N_DOCUMENTS} documents")
