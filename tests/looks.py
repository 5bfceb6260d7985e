"""What holds of the look of every chart: whose colours are whose, a caption, words that a reader knows, type large enough."""

import json
import re

from nbhelpers.report.theme import CATEGORIES, DASHES, FILL, INK, IT, NO_STEP, PT, STEPS
from tests.specs import controls, encodings, nodes, rows, shown_first

LENS = ["raw", "tuned"]
LOOKS = {"PT": (PT, DASHES["pt"]), "IT": (IT, DASHES["it"])}
OF_ONE_HUE = [*STEPS, NO_STEP, INK, FILL, *CATEGORIES]


def model_of(value) -> str | None:
    """Return the model that a value names: of a graft its host, "IT's MLPs in PT" or "PT with IT's MLPs"."""
    named = re.search(r"\bin (PT|IT)$", str(value)) or re.match(r"(PT|IT)\b(?!')", str(value))
    return named[1] if named else None


def has_the_models_colours(spec):
    """Fail unless PT's and IT's colours and dashes are those of PT and IT, and of nothing else."""
    seen = 0
    for encoding in encodings(spec):
        for channel, at in (("color", 0), ("strokeDash", 1)):
            scale = encoding.get(channel, {}).get("scale") or {}
            if "domain" not in scale or encoding[channel]["type"] == "quantitative":
                continue
            for value, look in zip(scale["domain"], scale["range"], strict=True):
                if isinstance(look, dict):  # the host that the reader chose
                    pt, it = (LOOKS[name][at] for name in ("PT", "IT"))
                    quoted = (f"'{pt}'", f"'{it}'") if channel == "color" else (str(pt), str(it))
                    assert look["expr"] == "shown_host === 'PT' ? {} : {}".format(*quoted)
                    seen += 2 * (channel == "color")
                elif model := model_of(value):
                    other = value == "IT without template" and channel == "strokeDash"
                    assert (look == LOOKS[model][at]) != other, (value, look)
                    seen += channel == "color"
                else:
                    assert look not in (PT, IT, DASHES["pt"]), (value, look)
                    assert channel != "color" or look in OF_ONE_HUE or "8888" in look
    text = json.dumps([node for node in nodes(spec) if "encoding" in node or "mark" in node])
    assert all(colour not in json.dumps(node.get("mark", "")) for node in nodes(spec) for colour in (PT, IT))
    assert bool(seen) == (PT in text or IT in text)


def has_a_caption(spec):
    """Fail unless the description is one plain sentence that says what bands, bars and lines mean."""
    said, title = spec["description"], spec["title"]
    title = title["text"] if isinstance(title, dict) else title
    title = " ".join(title) if isinstance(title, list) else title
    assert said.endswith(".") and not said.endswith("..") and len(said.split()) >= 8 and said != title
    assert said[0] == said[0].upper() or said.startswith(("δ", "ln")), said
    assert "_" not in said and "{" not in said and "  " not in said
    marks = [node["mark"] if isinstance(node["mark"], dict) else {} for node in nodes(spec) if "mark" in node]
    if any(mark.get("type") == "area" for mark in marks):
        assert "bands are" in said
    elif {"low", "high"} <= set(rows(spec)):
        assert "bars are" in said and "interval" in said
    if any(mark.get("strokeDash") == [1, 3] for mark in marks):
        assert "dotted line marks" in said
    if "lens" in controls(spec):
        assert "chosen lens" in said


def has_words(spec):
    """Fail if an identifier stands where a reader looks, or type is too small."""
    fields, shown = set(), []
    for encoding in encodings(spec):
        for channel in encoding.values():
            if isinstance(channel, dict):
                fields |= (
                    {channel["field"]} if channel.get("type") == "nominal" and "field" in channel else set()
                )
                shown += [channel.get("title")]
    fields |= {spec["facet"]["field"]} if "facet" in spec else set()
    data = rows(spec)
    shown += [value for field in fields if field in data for value in data[field].dropna().unique()]
    shown += [option for options in controls(spec).values() for option in options]
    assert not [text for text in shown if text and "_" in str(text)]
    assert not [text for text in shown if re.search(r"\b(mlp|A'|B_|D_|C)\b", str(text or ""))]
    assert all(
        node.get(size, 11) >= 11
        for node in nodes(spec)
        for size in ("fontSize", "labelFontSize", "titleFontSize")
    )


def fits_a_phone(spec):
    """Fail if a line of the title or an entry of a legend is wider than a phone's screen has room for."""
    title = spec["title"]["text"] if isinstance(spec["title"], dict) else spec["title"]
    assert all(len(line) <= 48 for line in ([title] if isinstance(title, str) else title))
    for encoding in encodings(spec):
        names = encoding.get("color", {}).get("scale", {}).get("domain", [])
        if sum(len(str(name)) for name in names) > 40:
            assert encoding["color"]["legend"]["columns"] == 1


def opens_on(spec, lens):
    """Fail unless a choice of the lens is that of the whole page and is at first the given one."""
    if "lens" in controls(spec):
        assert controls(spec)["lens"] == LENS and shown_first(spec)["lens"] == lens
