"""Charts as SVG, for pages that cannot draw them, such as those of a code host: small, and the same bytes on every run."""

import re
from collections import Counter
from xml.etree import ElementTree

from nbhelpers.report import chart_text

SVG = "http://www.w3.org/2000/svg"
# What only screen readers, styles and pointers use; a drawing of a code host has a title instead.
DROPPED = ("class", "role", "pointer-events", "aria-label", "aria-hidden", "aria-roledescription")
INHERITED = ("fill", "stroke", "stroke-width", "font-family", "font-size", "font-weight", "text-anchor")
CIRCLE = re.compile(r"M([\d.]+),0A\1,\1,0,1,1,-\1,0A\1,\1,0,1,1,\1,0Z?")
LONG_FRACTION = re.compile(r"-?\d*\.\d{2,}")


def svg(spec: dict) -> str:
    """Return a Vega-Lite specification drawn as SVG, with coordinates to a tenth of a pixel."""
    import vl_convert  # imported only here: it is 30 MB

    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(vl_convert.vegalite_to_svg(spec))
    _slim(root)
    root.set("role", "img")
    title = ElementTree.Element(f"{{{SVG}}}title")
    title.text = spec.get("description") or chart_text.title(spec)
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _slim(element: ElementTree.Element) -> None:
    """Remove from an element what draws nothing, and shorten its numbers."""
    for name in DROPPED:
        element.attrib.pop(name, None)
    for name, value in element.attrib.items():
        element.set(name, LONG_FRACTION.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), value))
    if element.get("opacity") == "1":
        del element.attrib["opacity"]
    if circle := CIRCLE.fullmatch(element.get("d", "")):
        del element.attrib["d"]
        element.tag = f"{{{SVG}}}circle"
        element.set("r", circle[1])
    for child in list(element):
        _slim(child)
        if _draws_nothing(child):
            element.remove(child)
    for name in INHERITED:
        values = Counter(child.get(name) for child in element)
        if element.tag == f"{{{SVG}}}g" and len(element) > 1 and None not in values:
            _say_once(element, name, values.most_common(1)[0][0])


def _say_once(group: ElementTree.Element, name: str, value: str) -> None:
    """Give a group an attribute that all its members have, instead of those that have it with this value."""
    group.set(name, value)
    for child in group:
        if child.get(name) == value:
            del child.attrib[name]


def _draws_nothing(element: ElementTree.Element) -> bool:
    kind = element.tag.removeprefix(f"{{{SVG}}}")
    empty_path = kind == "path" and element.get("d", "") in ("", "M0,0h0v0h0Z")
    unseen = (
        element.get("opacity") == "0" or element.get("stroke-opacity") == element.get("fill-opacity") == "0"
    )
    return element.get("display") == "none" or empty_path or (kind == "g" and not len(element)) or unseen
