"""The page that registers every experiment: question, claims, inputs, results, figures, run time, status. MyST Markdown.

keys: the experiments, in the order of the book. Nothing is measured here: what is read are parameters, notebooks and the
attributes of results.
"""

import json
import re
from collections import Counter
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.book.figures import cell_names
from nbhelpers.book.markdown import PageError, cell_link, inline, raw, source_link, stacked, table
from nbhelpers.book.registry import attributes, span
from nbhelpers.core import params, store
from nbhelpers.report.charts import VEGALITE
from nbhelpers.report.claims import published
from nbhelpers.report.families import family_titles
from nbhelpers.run import graph, results

VERDICTS = ("supported", "contradicted", "not checkable", "artifact value")
LEDGERS = ("ledger", "published")  # names of the cells that compare published figures with a run's
ANSWERS = ("verdict", "matrix", "not_measured", *LEDGERS)
PARTS = (
    "experiment",
    "measure",
    "quantities",
    "report",
)  # of a slice, in the order in which a reader needs them
QUESTION = re.compile(r"\*\*Questions?\.\*\*\s+(.+?\?)", re.DOTALL)


def question(experiment: str) -> str:
    """Return the question that an experiment's page across models opens with, on one line."""
    across = params.experiment(experiment).across
    cells = json.loads((params.ROOT / "notebooks" / across).read_text(encoding="utf-8"))["cells"]
    found = QUESTION.search("".join(cells[0]["source"]))
    if not found:
        raise PageError(f"notebooks/{across} must open with its question, a paragraph `**Question.** …?`.")
    return " ".join(found[1].split())


def audits(key: str) -> Counter:
    """Return how many published figures of an experiment have each of the audit's verdicts."""
    return Counter(published(key)["verdict"])


def claims(key: str) -> str:
    """Return how many published figures speak to an experiment, by the audit's verdict, with a link to its ledger."""
    counts = audits(key)
    if not counts:
        return "none"
    several = {"artifact value": "artifact values"}
    said = {name: several.get(name, name) if counts[name] > 1 else name for name in VERDICTS}
    text = ", ".join(f"{counts[name]} {said[name]}" for name in VERDICTS if counts[name])
    across = params.experiment(key).across
    cell = next((name for name in LEDGERS if name in cell_names(params.ROOT / "notebooks" / across)), None)
    return cell_link(across, cell, text) if cell else text


def states(profile: str) -> dict[str, str]:
    """Return {experiment: current, out of date or missing} from the versions that its executed notebooks record."""
    old, found = set(graph.outdated(profile)), {}
    for key in params.ordered():
        each = [
            results.executed_path(profile, params.experiment(key).notebook, model)
            for model in params.profile_params(profile).models
        ]
        if params.experiment(key).across:
            each.append(results.executed_path(profile, params.experiment(key).across))
        late, lacking = sum(path in old for path in each), sum(not path.exists() for path in each)
        name = "missing" if lacking else "out of date" if late else "current"
        count = lacking or late
        found[key] = f"{name}: {count} of {len(each)} notebooks" if count else name
    return found


def entries(profile: str, keys: list[str]) -> str:
    """Return the table of all experiments: one row each, with question, claims, run time, status and links."""
    state, rows = states(profile), []
    for key in keys:
        own = params.experiment(key)
        took = span(float(a["wall_time_s"]) for a in attributes(profile, key).values())
        title = f'<a href="#{key.replace("_", "-")}" id="row-{key}">{key}</a>'
        page = f'<a href="runs/{Path(own.across).stem}.html">{inline(own.title)}</a>'
        asked = inline(question(key).replace("*", ""))
        rows.append([title, f"{page}: {asked}", claims(key), took, state[key]])
    return stacked(["", "experiment and its question", "published figures", "time, s", "status"], rows)


def details(profile: str, keys: list[str]) -> str:
    """Return a section for each experiment: inputs, figures, pages, code, and, closed, the variables of its results."""
    parts = []
    for key in keys:
        lines = [*_inputs(profile, key), *_figures(key), _pages(profile, key), _code(key)]
        listed = "\n".join(f"<li>{line}</li>" for line in lines)
        heading = f"({key.replace('_', '-')})=\n### {key}: {params.experiment(key).title}"
        parts.append(f"{heading}\n\n{raw(f'<ul>{chr(10)}{listed}{chr(10)}</ul>')}\n\n{_variables(key)}")
    return "\n\n".join(parts)


def _inputs(profile: str, key: str) -> list[str]:
    """Return an experiment's inputs as HTML: the results that it reads, its texts, its sizes in each profile."""
    own = params.experiment(key)
    run = experiments.resolve(key, model=params.profile_params(profile).models[0], profile=profile)
    needs = ", ".join(f'<a href="#{need.replace("_", "-")}">{need}</a>' for need in own.needs)
    lines = [f"Reads the results of: {needs or 'none'}."]
    if run.files:
        lines.append(inline(f"Texts: {', '.join(f'`{store.shown(path)}`' for path in run.files)}."))
    for name, sizes in own.profiles.items():
        said = ", ".join(f"`{size}: {_short(value)}`" for size, value in sizes.items())
        lines.append(inline(f"Sizes in the profile {name}: {said or 'those of its parameters'}."))
    return lines


def _short(value) -> str:
    """Return a parameter's value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(inner)}" for name, inner in value.items())
    return str(value)


def shown(notebook: Path) -> tuple[list[str], list[str]]:
    """Return the names of a committed notebook's cells that hold charts, and of those that hold tables."""
    charts, tables = [], []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        name = cell["metadata"].get("name")
        if name and name not in ANSWERS:
            kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
            if VEGALITE in kinds:
                charts.append(name)
            elif "text/html" in kinds:
                tables.append(name)
    return charts, tables


def _figures(key: str) -> list[str]:
    """Return the links to the figures and tables of an experiment's page across models, as HTML."""
    across = params.experiment(key).across
    kinds = dict(zip(("Figures", "Tables"), shown(params.ROOT / "notebooks" / across)))
    return [
        f"{kind}: {', '.join(cell_link(across, name, name.replace('_', ' ')) for name in names)}."
        for kind, names in kinds.items()
        if names
    ]


def _pages(profile: str, key: str) -> str:
    """Return the links to an experiment's page across models and to that of each, as HTML."""
    own = params.experiment(key)
    links = [f'<a href="runs/{Path(own.across).stem}.html">across</a>']
    for model, title in family_titles(profile).items():
        links.append(f'<a href="runs/{model}/{Path(own.notebook).stem}.html">{inline(title)}</a>')
    return f"Pages: {', '.join(links)}."


def _code(key: str) -> str:
    """Return the links to an experiment's code, as HTML."""
    folder = experiments.slices()[key]
    links = [source_link(f"nbhelpers/experiments/{folder}/{part}.py", part) for part in PARTS]
    return f"Code: {', '.join(links)}; parameters: <code>params/experiments/{key}.yml</code>."


def _variables(key: str) -> str:
    """Return the closed table of the variables that an experiment's dataset and artifacts hold."""
    names = [key, *getattr(experiments.part(key, "experiment"), "ARTIFACTS", {})]
    rows = [
        [f"`{variable}`", ", ".join(about.dims) or "–", about.unit, about.long_name]
        for name in names
        for variable, about in experiments.variables(name).items()
    ]
    made = table(["variable", "dimensions", "unit", "meaning"], rows)
    files = ", ".join(f"`{name}.nc`" for name in names)
    return f"::::{{dropdown}} {len(rows)} variables of {files}\n{made}\n::::"
