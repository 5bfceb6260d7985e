"""The parts of the book's pages that are written from results: verdicts, gate tables, provenance, links.

Each function returns MyST Markdown. A page of `book/` calls one with a line `% insert: name argument`;
`INSERTS` lists them. This module does not know how pages become HTML.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.report.families import TITLES, family_titles

MARKER = re.compile(r"^% insert: (\S+)(?: (\S+))?$", re.MULTILINE)
MAIN = "main_figure"  # the name of the cell that other pages quote


class PageError(RuntimeError):
    """A page that cannot be written; its message is one sentence for the user."""


def table(header: Iterable, rows: Iterable[Iterable]) -> str:
    """Return a Markdown table of cells written as text."""
    lines = [list(header), None, *rows]
    return "\n".join("|" + "---|" * len(lines[0]) if line is None else _row(line) for line in lines)


def _row(cells) -> str:
    """Return one line of a Markdown table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def tabs(items: dict[str, str], group: str) -> str:
    """Return tabs from {title: content}; the reader's choice applies to all tabs of the same group, on every page."""
    shown = [f":::::{{tab-item}} {title}\n:sync: {title}\n\n{text}\n\n:::::" for title, text in items.items()]
    return f"::::::{{tab-set}}\n:sync-group: {group}\n\n" + "\n\n".join(shown) + "\n\n::::::"


def literal(text: str) -> str:
    """Return a text as a literal block, whatever markup it contains."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip(chr(10)) or '(nothing)'}\n{fence}"


def verdict(profile: str, experiment: str) -> str:
    """Return an experiment's verdict on the results of a profile."""
    return experiments.part(experiment, "report").verdict(experiments.open_results(profile, experiment))


def has_chart(notebook: Path, name: str) -> bool:
    """Return whether a notebook has a cell of that name."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return any(cell["metadata"].get("name") == name for cell in cells)


def model_tabs(profile: str, experiment: str) -> str:
    """Return a tab for each model: the main figure of its notebook, if there is one, and a link to the notebook."""
    notebook, items = params.experiment(experiment).notebook, {}
    shown = has_chart(params.ROOT / "notebooks" / notebook, MAIN)
    for key, title in family_titles(profile).items():
        name = params.model_params(key).title
        quoted = f"```{{chart}} {key}/{notebook} {MAIN}\n```\n\n" if shown else ""
        items[title] = (
            f"{quoted}{{doc}}`{name}, the whole notebook <{key}/{notebook.removesuffix('.ipynb')}>`"
        )
    return f"## Model by model\n\n{tabs(items, 'model')}"


def cards() -> dict[str, dict]:
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
    for family, card in cards().items():
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
    families = cards()
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
    families, rows = cards(), {}
    for card in families.values():
        for gate in card["gates"]:
            sign = {">=": "≥", "<=": "≤"}[gate["direction"]]
            key = (gate["variant"].upper(), gate["name"], f"{sign} {gate['threshold']:.2f}")
            rows.setdefault(key, {})[card["family"]] = _share(gate["value"], not met(gate))
    header = ["", "gate", "wanted", *(TITLES[family] for family in families)]
    return table(header, [[*key, *(found.get(f, "–") for f in families)] for key, found in rows.items()])


def pocket_misses(profile: str) -> str:
    """Return a sentence on how many gates are met."""
    passed = [met(gate) for card in cards().values() for gate in card["gates"]]
    if all(passed):
        return f"All {len(passed)} gates are met."
    return f"{sum(passed)} of {len(passed)} gates are met; a share in bold misses its gate."


def pocket_samples(profile: str) -> str:
    """Return both models' continuations of a few prompts, one tab per family."""
    items = {}
    for family, card in cards().items():
        parts = []
        for number, sample in enumerate(card["samples"], 1):
            parts += [f"**Prompt {number}**\n\n{literal(sample['prompt'])}"]
            parts += [f"{variant.upper()}\n\n{literal(sample[variant])}" for variant in params.VARIANTS]
        items[TITLES[family]] = "\n\n".join(parts)
    return tabs(items, "model")


def provenance(profile: str, experiment: str) -> str:
    """Return the table of the provenance of an experiment's results: one row per model."""
    rows = []
    for key, dataset in store.of_profile(
        profile, experiment, store.load, expects=experiments.variables(experiment)
    ).items():
        a, n = dataset.attrs, dataset.sizes["prompt"]
        made = str(a["created"])[:10]
        hashed, version = f"`{a['parameter_hash']}`", f"`{a['code_version']}`"
        seconds = f"{float(a['wall_time_s']):.0f}"
        rows.append([f"`{key}`", n, hashed, version, a["seed"], a["device"], seconds, made])
    header = [
        "model",
        "prompts",
        "parameter hash",
        "code version",
        "seed",
        "device",
        "time, s",
        "made",
    ]
    return table(header, rows)


def revisions(profile: str, experiment: str) -> str:
    """Return the table of measured checkpoints: one row per model."""
    rows = []
    for key, attrs in store.of_profile(profile, experiment, store.attributes).items():
        measured = json.loads(attrs["model_revisions"])
        rows.append([f"`{key}`", *(f"`{measured[name]}`" for name in params.VARIANTS)])
    return table(["model", "PT", "IT"], rows)


def libraries(profile: str, experiment: str) -> str:
    """Return the table of the library versions behind the results; several versions if the models differ."""
    attrs = store.of_profile(profile, experiment, store.attributes).values()
    frame = pd.DataFrame([json.loads(found["libraries"]) for found in attrs])
    return table(
        ["library", "version"], [[name, ", ".join(sorted(set(frame[name].dropna())))] for name in frame]
    )


def parameters(profile: str, experiment: str) -> str:
    """Return the table of an experiment's parameters in this profile: one row per parameter."""
    values = experiments.experiment_params(experiment, profile)
    about = type(values).model_fields
    rows = [
        [f"`{name}`", f"`{value}`", about[name].description or ""]
        for name, value in values.model_dump().items()
    ]
    return table(["parameter", "value", ""], rows)


def profile_title(profile: str) -> str:
    """Return the sentence that names the profile that the book was built for."""
    title = params.profile_params(profile).title
    return f"This copy of the book shows the profile `{profile}` ({title})."


INSERTS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        verdict, model_tabs, pocket_sizes, pocket_gates, pocket_misses, pocket_extra, pocket_samples,
        provenance, revisions, libraries, parameters, profile_title,
    )
}  # fmt: skip


def filled(text: str, profile: str, source: str) -> str:
    """Return a page with every `% insert:` line replaced; PageError names an unknown insert."""

    def insert(match):
        name, argument = match.groups()
        if name not in INSERTS:
            raise PageError(f"{source}: there is no insert {name!r}; {params.suggestion(name, INSERTS)}.")
        return INSERTS[name](profile, *([argument] if argument else []))

    return MARKER.sub(insert, text)
