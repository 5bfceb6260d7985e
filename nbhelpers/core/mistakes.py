"""Mistakes in parameters, each told in one sentence: where it is, what was given, what is allowed."""

import difflib
import re
from typing import get_args

from pydantic import BaseModel


def one_line(text: str) -> str:
    """Return the line that says what a message is about: its first, or the last of a traceback; "" if it has none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1 if "Traceback" in lines[0] else 0] if lines else ""


def suggestion(value: str, allowed) -> str:
    """Return the clause "did you mean …? Allowed: …" for a value that is not in `allowed`."""
    allowed = [str(item) for item in allowed]
    close = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"did you mean {close[0]!r}? Allowed" if close else "allowed"
    return f"{hint}: {', '.join(allowed) or 'none'}"


def _fields(schema: type[BaseModel], path: tuple) -> list[str]:
    """Return the keys that are known at `path` inside a schema."""
    for step in path:
        kind = schema.model_fields[step].annotation if step in schema.model_fields else None
        inner = [k for k in get_args(kind) or (kind,) if isinstance(k, type) and issubclass(k, BaseModel)]
        if not inner:
            break
        schema = inner[0]
    return list(schema.model_fields)


def sentence(first: dict, schema: type[BaseModel], source: str) -> str:
    """Return one of pydantic's errors as a sentence that names the file, the key and the value."""
    place, kind = first["loc"], first["type"]
    key = ".".join(str(step) for step in place)
    if kind == "extra_forbidden":
        known = suggestion(place[-1], _fields(schema, place[:-1]))
        return f"{source}: unknown key {key!r}; {known}."
    if kind == "missing" and not isinstance(place[-1], int):
        return f"{source}: the key {key!r} is missing."
    message = re.sub("^(Value error, |[A-Z][a-z]+ (?=should|must))", "", first["msg"])
    message = message.replace(" after validation", "").replace("valid tuple", "list")
    if kind == "missing":
        key, message = ".".join(map(str, place[:-1])), "should have more values"
    if kind == "string_pattern_mismatch":
        file = "." in first["ctx"]["pattern"]
        message = "must be " + (
            "a file name, such as exp90_word.ipynb" if file else "small letters, digits and _"
        )
    if kind in ("missing", "too_short", "too_long", "tuple_type"):
        default = getattr(schema.model_fields.get(place[0]), "default", None)
        message += f", such as {list(default)}" if isinstance(default, tuple) else ""
    if not key:
        return f"{source}: {message}."
    value = repr(first["input"])
    return f"{source}: {key!r} is {value if len(value) < 80 else value[:75] + ' …'}; it {message}."
