"""Running text and prompts from a JSON Lines file or a data set of the Hugging Face hub, read lazily.

This module knows nothing of models. It contacts the hub only if a profile names one of its data sets.
"""

import json
from collections.abc import Iterator

from nbhelpers.core.params import ROOT, ParameterError
from nbhelpers.core.schemas import Texts


def records(source: Texts, *, key: str = "corpus") -> Iterator[dict]:
    """Yield the records of a JSON Lines file or of a hub data set, in order; ParameterError if they cannot be read.

    key: the name of the source in the profile, for the message.
    """
    if source.hub:
        yield from _hub_records(source)
        return
    path = ROOT / source.path
    if not path.is_file():
        raise ParameterError(f"there is no text file {path}; name one under `{key}` in the profile.")
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ParameterError(f"{path.name} line {number} is no JSON record: {error.msg}.") from None


def _hub_records(source: Texts) -> Iterator[dict]:
    """Yield the records of a hub data set as a stream, without downloading all of it."""
    import datasets

    try:
        yield from datasets.load_dataset(
            source.hub, source.name, split=source.split, revision=source.revision, streaming=True
        )
    except (ConnectionError, OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ParameterError(
            f"the data set {source.hub} could not be read from the Hugging Face hub ({reason}); check its name and the "
            "network, or give a JSON Lines file with `path` instead."
        ) from None


def value(record: dict, field: str, where: str):
    """Return the value of a record's field; ParameterError, which begins with `where`, lists the fields that exist."""
    fields = record if isinstance(record, dict) else {}
    if field not in fields:
        known = ", ".join(fields) or "none"
        raise ParameterError(f"{where} has no field {field!r}; its fields: {known}.")
    return fields[field]


def text(record: dict, field: str, where: str) -> str:
    """Return the text in a record's field; ParameterError if the value is not text."""
    found = value(record, field, where)
    if not isinstance(found, str):
        kind = type(found).__name__
        raise ParameterError(f"{where} holds no text in the field {field!r} but a {kind}.")
    return found


def texts(source: Texts, *, fewest_characters: int = 50) -> Iterator[str]:
    """Yield the texts of a source that have at least `fewest_characters` characters, as in the study."""
    for number, record in enumerate(records(source), 1):
        found = text(record, source.field, f"{source.path or source.hub}, record {number},")
        if len(found) >= fewest_characters:
            yield found
