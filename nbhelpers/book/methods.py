"""The pages on methods: every measure with its equation, from docstrings, and how this book departs from the study.

A measure is a public function whose docstring has a line that states an equation (`api.EQUATION`).
"""

import csv
import json
import re
from functools import cache
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.book import api
from nbhelpers.book.api import Item
from nbhelpers.book.figures import cell_names
from nbhelpers.book.markdown import PageError, cell_link, inline, raw, source_link, stacked
from nbhelpers.core import params
from nbhelpers.run import versions

# The modules of measures by what they are about, in reading order.
GROUPS = {
    "Reading a prediction from a layer": ("lens", "tuned_lens", "lens_conditions", "lens_tiles", "steps"),
    "The gap and commitment": ("convergence_gap", "commitment"),
    "Updates, states and attention": (
        "delta_cosine", "update_directions", "intrinsic_dimension", "attention_entropy",
    ),
    "Neurons and weights": ("neurons", "logit_attribution", "weight_change"),
    "Grafts": ("graft_shifts",),
    "Directions, probes and steering": ("directions", "conv_direction", "steering", "forced_choice"),
    "Replies": ("structure", "refusal", "behaviour", "judge", "reference_judge"),
    "Agreement of judges": ("agreement",),
}  # fmt: skip
STATISTICS = ("stats", "dose_stats", "paired_tests", "closure")  # of the folder core
DIFFERENCES = "params/differences.csv"
COLUMNS = ["topic", "experiment", "cell", "published", "here", "why"]
HEADING = re.compile(r"^## Differences from the published protocol", re.MULTILINE)


def measures(module: str) -> list[Item]:
    """Return the measures of a module of the package, such as "measures.lens", in the order of the file."""
    return [
        item
        for item in api.parsed(api.modules(module.partition(".")[0])[module], module)[1]
        if item.equations
    ]


def users() -> dict[str, list[str]]:
    """Return {module of measures: experiments whose notebooks of one pair reach it}, in the order of their keys."""
    return _users(params.ROOT, tuple(params.keys("experiments")))


@cache
def _users(root: Path, keys: tuple[str, ...]) -> dict[str, list[str]]:
    """Return `users` of some experiments of a project, found once."""
    found: dict[str, list[str]] = {}
    for key in keys:
        notebook = root / "notebooks" / params.experiment(key).notebook
        for path in versions.modules(notebook):
            if path.parent.name == "measures":
                found.setdefault(path.stem, []).append(key)
    return found


def _measure(item: Item) -> str:
    """Return a measure as HTML: its name, linked to the source, what it returns, its equations, and the rest, closed."""
    rest = item.text.partition("\n\n")[2]
    others = "\n".join(line for line in rest.splitlines() if line.strip() not in item.equations).strip("\n")
    more = f"<details><summary>More</summary>\n{api.prose(others)}\n</details>\n" if others.strip() else ""
    name = source_link(item.path, item.name, item.line)
    return (
        f'<div class="measure" id="{item.anchor}">\n<p><code>{name}</code> {api.indexed(inline(_returned(item)))}</p>\n'
        f"{api.formula(item.equations)}\n{more}</div>"
    )


def _returned(item: Item) -> str:
    """Return what a measure returns, as a sentence that opens with it."""
    text = item.summary.removeprefix("Return ")
    return text[:1].upper() + text[1:]


def _section(module: str) -> str:
    """Return the section of a module: what it is for, the experiments that use it, its measures; "" without a measure."""
    found = measures(module)
    if not found:
        return ""
    folder, _, name = module.rpartition(".")
    about, _ = api.parsed(api.modules(folder)[module], module)
    keys = users().get(name, []) if folder == "measures" else []
    named = ", ".join(f"[{key}](runs/{params.experiment(key).across})" for key in keys)
    used = f"Used by {named}." if named else ""
    intro = raw(api.block(about.partition("\n\n")[0]))
    return f"### {name.replace('_', ' ').capitalize()}\n\n{intro}\n\n{used}\n\n{raw(chr(10).join(map(_measure, found)))}"


def equations(profile: str) -> str:
    """Return the measures of `nbhelpers/measures`, by what they are about."""
    parts = []
    for heading, names in GROUPS.items():
        parts += [f"## {heading}", *(_section(f"measures.{name}") for name in names)]
    return "\n\n".join(filter(None, parts))


def statistics(profile: str) -> str:
    """Return the statistics of `nbhelpers/core` that state an equation."""
    return "\n\n".join(filter(None, (_section(f"core.{name}") for name in STATISTICS)))


def of_experiments(profile: str, keys: list[str]) -> str:
    """Return the measures that belong to one experiment alone, from the modules of its folder, for those that have any."""
    parts, folder = [], api.modules("experiments")
    for key in keys:
        slice_ = f"experiments.{experiments.slices()[key]}."
        found = [item for module in folder if module.startswith(slice_) for item in measures(module)]
        if found:
            page = f"[{params.experiment(key).title}](runs/{params.experiment(key).across})"
            parts.append(f"### {key}\n\n{page}\n\n{raw(chr(10).join(map(_measure, found)))}")
    return "\n\n".join(parts)


def differences(profile: str) -> str:
    """Return the table of the departures that change how a claim reads, from `params/differences.csv`."""
    with (params.ROOT / DIFFERENCES).open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    rows = []
    for row in found:
        if list(row) != COLUMNS or not all(row.values()):
            raise PageError(f"{DIFFERENCES}: a row lacks one of {', '.join(COLUMNS)}: {row}.")
        across = params.experiment(row["experiment"]).across
        if row["cell"] not in cell_names(params.ROOT / "notebooks" / across):
            raise PageError(f"{DIFFERENCES}: {across} has no cell {row['cell']!r}.")
        page = cell_link(across, row["cell"], row["experiment"])
        rows.append([*(inline(row[name]) for name in ("topic", "published", "here", "why")), page])
    return stacked(["topic", "the study", "this book", "why", "page"], rows)


def stated(notebook: Path) -> str:
    """Return the section "Differences from the published protocol" of a page across models, without its heading."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and (found := HEADING.search(text)):
            return re.sub(r"</?details>|<summary>.*?</summary>", "", text[found.end() :]).strip()
    raise PageError(
        f"notebooks/{notebook.name} must have a section `## Differences from the published protocol`."
    )


def all_differences(profile: str, keys: list[str]) -> str:
    """Return, closed, each experiment's own list of differences, as its page states it."""
    parts = []
    for key in keys:
        own = params.experiment(key)
        text = re.sub(r"\]\((exp\w+\.ipynb)", r"](runs/\1", stated(params.ROOT / "notebooks" / own.across))
        parts.append(f"::::{{dropdown}} {key}: {own.title}\n{text}\n::::")
    return "\n\n".join(parts)
