"""The tables of the page on the pocket pairs, from the cards of their checkpoints. Each function returns MyST Markdown."""

import json

from nbhelpers.book.markdown import PageError, literal, table, tabs
from nbhelpers.core import params, store
from nbhelpers.report.families import TITLES


def read() -> dict[str, dict]:
    """Return the card of each pocket family, by family; PageError names one that is missing."""
    found = {}
    for family in params.FAMILIES:
        path = params.ROOT / "pocket" / "checkpoints" / family / "card.json"
        if not path.exists():
            raise PageError(f"{store.shown(path)} is missing; make it with `python -m pocket.evaluate`.")
        found[family] = json.loads(path.read_text(encoding="utf-8"))
    return found


def pocket_sizes(profile: str) -> str:
    """Return the table of the pocket families' sizes."""
    rows = []
    for family, card in read().items():
        millions = [f"{card['tokens'][variant] / 1e6:.1f}" for variant in params.VARIANTS]
        size = f"{card['parameters'] / 1e6:.2f}"
        vocabulary, used = card["vocabulary"], card["embedding_rows"]
        rows.append([TITLES[family], f"`{card['architecture']}`", size, vocabulary, used, *millions])
    header = [
        "pair",
        "class",
        "parameters, M",
        "tokens",
        "embedding rows",
        "PT on, M tokens",
        "IT on, M tokens",
    ]
    return table(header, rows)


def pocket_extra(profile: str) -> str:
    """Return the table of the shares that the cards report beside the gates: one row per share, one column per family."""
    families = read()
    names = dict.fromkeys(name for card in families.values() for name in card["extra"])
    rows = [[name, *(_share(card["extra"].get(name)) for card in families.values())] for name in names]
    return table(["share", *(TITLES[family] for family in families)], rows)


def _share(value: float | None, bold: bool = False) -> str:
    """Return a share as text."""
    text = "–" if value is None else f"{value:.3f}"
    return f"**{text}**" if bold else text


def met(gate: dict) -> bool:
    """Return whether a gate's value is on the right side of its threshold."""
    return (
        gate["value"] >= gate["threshold"]
        if gate["direction"] == ">="
        else gate["value"] <= gate["threshold"]
    )


def pocket_gates(profile: str) -> str:
    """Return the table of the gates of all families: one row per gate, one column per family, a miss in bold."""
    families, rows = read(), {}
    for card in families.values():
        for gate in card["gates"]:
            sign = {">=": "≥", "<=": "≤"}[gate["direction"]]
            key = (gate["variant"].upper(), gate["name"], f"{sign} {gate['threshold']:.2f}")
            rows.setdefault(key, {})[card["family"]] = _share(gate["value"], not met(gate))
    header = ["", "gate", "wanted", *(TITLES[family] for family in families)]
    return table(header, [[*key, *(found.get(f, "–") for f in families)] for key, found in rows.items()])


def pocket_misses(profile: str) -> str:
    """Return a sentence on how many gates are met."""
    passed = [met(gate) for card in read().values() for gate in card["gates"]]
    if all(passed):
        return f"All {len(passed)} gates are met."
    return f"{sum(passed)} of {len(passed)} gates are met; a share in bold misses its gate."


def pocket_samples(profile: str) -> str:
    """Return both models' continuations of a few prompts, one tab per family."""
    items = {}
    for family, card in read().items():
        parts = []
        for number, sample in enumerate(card["samples"], 1):
            parts += [f"**Prompt {number}**\n\n{literal(sample['prompt'])}"]
            parts += [f"{variant.upper()}\n\n{literal(sample[variant])}" for variant in params.VARIANTS]
        items[TITLES[family]] = "\n\n".join(parts)
    return tabs(items, "model")
