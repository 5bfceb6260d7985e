"""Running text and prompts from a JSON Lines file or a data set of the Hugging Face hub, read lazily.

This module knows nothing of models. It contacts the hub only if a profile names one of its data sets.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path

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
    yield from (record for record, _ in json_lines(path))


def json_lines(path: Path) -> Iterator[tuple[dict, str]]:
    """Yield the records of a JSON Lines file, each with its place, "name line 3"; blank lines are passed over.

    A line ends at a line feed alone: a text may hold U+2028 or U+0085. ParameterError, with file and line, for a file that
    is not UTF-8, a line that is no JSON object or nested or long beyond what Python reads, and a text with half a character
    (a lone surrogate).
    """
    lines = path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")
    for number, line in enumerate(lines, 1):
        where = f"{path.name} line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        except UnicodeDecodeError:
            raise ParameterError(f"{where} is not UTF-8; save the file with that encoding.") from None
        except UnicodeEncodeError:
            raise ParameterError(
                f"{where} holds half a character (a lone surrogate); mend that text."
            ) from None
        except (ValueError, RecursionError) as error:  # without msg, a ValueError is Python's limit on digits
            other = (
                "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
            )
            reason = getattr(error, "msg", other)
            hint = "; write one record a line, not one array" if line.lstrip()[:1] == b"[" else ""
            raise ParameterError(f"{where} is no JSON record: {reason}{hint}.") from None
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise ParameterError(f"{where} is no record but a {kind}; write one JSON object a line.")
        yield record, where


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
