"""A view of the explorer as the part of an address behind `#`: `pair=…&prompt=…&token=…&layer=…`; the book's page opens it.

A view that the page does not hold, of a typed prompt or with an edit, carries its numbers in the address, as `data=…`.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

PAGE = "explore.html"


def packed(tree: Mapping) -> str:
    """Return a tree of words and numbers as letters for an address: JSON, deflated, in the alphabet of URLs."""
    text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


def unpacked(letters: str) -> dict:
    """Return the tree that `packed` made into letters."""
    return json.loads(zlib.decompress(base64.urlsafe_b64decode(letters + "=" * (-len(letters) % 4))))


def fragment(state: Mapping, tree: Mapping | None = None) -> str:
    """Return the part behind `#` for a state of the controls, with the numbers of a view that the page does not hold."""
    given = {name: value for name, value in state.items() if value not in (None, "")}
    return urlencode(given | ({"data": packed(tree)} if tree else {}))


def state(text: str) -> dict[str, str]:
    """Return the state that an address or its fragment names, its view's numbers apart."""
    return {name: value for name, value in _pairs(text) if name != "data"}


def numbers(text: str) -> dict:
    """Return the view that an address carries, empty if it carries none; ValueError if it is damaged."""
    letters = dict(_pairs(text)).get("data")
    try:
        return unpacked(letters) if letters else {}
    except zlib.error as error:
        raise ValueError(str(error)) from None


def _pairs(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text.partition("#")[2] or text)
