"""The parts of the book's pages that are written from results: answers, whose results they are, links to code.

Each function returns MyST Markdown. A page of `book/` calls one with a line `% insert: name argument`;
`INSERTS` lists them. This module does not know how pages become HTML.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import yaml

from nbhelpers import experiments
from nbhelpers.book import (
    api,
    cards,
    catalogue,
    claims,
    explore,
    figures,
    levels,
    methods,
    published,
    registry,
)
from nbhelpers.book.catalogue import PARTS, question
from nbhelpers.book.markdown import PageError, inline, raw, table, tabs
from nbhelpers.core import depths, params, store
from nbhelpers.report.families import family_titles
from nbhelpers.report.text import in_words
from nbhelpers.report.verdicts import PARTS as PARTS_OF_VERDICT
from nbhelpers.report.verdicts import Verdict
from nbhelpers.run.results import executed_path

MARKER = re.compile(r"^% insert: (\S+)(?: (\S+))?$", re.MULTILINE)
# How an answer begins that finds nothing, or leaves it open.
NULL = re.compile(r"(in )?(no|none|not|nothing|hardly|little|undecided|open)\b", re.IGNORECASE)
VERDICT = "verdict"  # the name of the cell that states it
MAIN = "main_figure"  # the name of the cell that other pages quote


def verdict(profile: str, experiment: str) -> Verdict:
    """Return an experiment's verdict as its executed page across models states it; PageError if it states none."""
    path = executed_path(profile, params.experiment(experiment).across)
    remedy = f"`nbh run {experiment}_across --profile {profile}`"
    if not path.exists():
        raise PageError(f"{store.shown(path)}, whose verdict is quoted, is missing; make it with {remedy}.")
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["metadata"].get("name") == VERDICT:
            for output in cell.get("outputs", []):
                if parts := output.get("metadata", {}).get("text/markdown", {}).get(PARTS_OF_VERDICT):
                    return Verdict(*parts)
    raise PageError(
        f"{store.shown(path)} states no verdict in a cell named {VERDICT!r}; make it anew with {remedy}."
    )


def chapters(toc: dict) -> dict[str, list[str]]:
    """Return {caption: experiments} of a table of contents in reading order; an experiment stands in the chapter it names."""
    found: dict[str, list[str]] = {part["caption"]: [] for part in toc["parts"]}
    for key in sorted(params.keys("experiments"), key=lambda key: (params.experiment(key).place, key)):
        caption = params.experiment(key).chapter
        if caption and caption not in found:
            known = params.suggestion(caption, list(found))
            raise PageError(
                f"params/experiments/{key}.yml: book/_toc.yml has no chapter {caption!r}; {known}."
            )
        if caption:
            found[caption].append(key)
    return found


def in_order() -> list[str]:
    """Return the experiments of the book in the order of its contents."""
    toc = yaml.safe_load((params.ROOT / "book/_toc.yml").read_text(encoding="utf-8"))
    return [key for keys in chapters(toc).values() for key in keys]


def answers(profile: str) -> str:
    """Return the table of all experiments: the question, the answer with its size, and the page that has the rest."""
    rows = []
    for key in in_order():
        found, place = verdict(profile, key), f"runs/{params.experiment(key).across}"
        rows.append(
            [f"[{params.experiment(key).title}]({place})", question(key), f"**{found.answer}.** {found.size}"]
        )
    made = table(["experiment", "question", "answer"], rows)
    return f"```{{table}}\n:class: stacked\n\n{made}\n```"  # each row a list on a narrow screen


def nulls(profile: str) -> str:
    """Return the list of answers that find nothing or leave it open."""
    found = [(key, verdict(profile, key)) for key in in_order()]
    items = [
        f"- [{params.experiment(key).title}](runs/{params.experiment(key).across}): **{said.answer}.** {said.size}"
        for key, said in found
        if is_null(said.answer)
    ]
    return "\n".join(items) or "No answer of this run is null."


def is_null(answer: str) -> bool:
    """Return whether an answer finds nothing or leaves it open.

    "No clear shift" does, and "Moves it: no; follows it: undecided", of which each named part does; "Moves it: yes; follows
    it: no" finds something.
    """
    first, *rest = answer.split("; ")
    said = [first, *(part for part in rest if ": " in part)]
    return all(NULL.match(part.rpartition(": ")[2]) for part in said)


def whose(profile: str) -> str:
    """Return the note that stands under every title: whose results a page shows."""
    chosen, titles = params.profile_params(profile), family_titles(profile)
    if not chosen.about:
        return _note(f"Results here are of {', '.join(titles.values())}.")
    count = in_words(len(titles))
    link = " [What they are](/pocket.md)." if any(_is_pocket(key) for key in titles) else ""
    return _note(f"Results here are of **{count} {chosen.noun}** ({chosen.about}).{link}")


def named(experiment: str, across: str = "") -> str:
    """Return the line that stands over the title of an experiment's pages: its key and the name that the contents give it.

    across: from a page of one pair, the path of the page across pairs, to which the name then leads.
    """
    name = inline(params.experiment(experiment).title)
    if across:
        name = f'<a href="{Path(across).with_suffix(".html")}">{name}</a>'
    return raw(f'<p class="page-name">{experiment} · {name}</p>')


def _is_pocket(model: str) -> bool:
    """Return whether a model is one of the pairs that ship with the project."""
    folder = params.model_params(model).pt.folder
    return folder is not None and folder.resolve().is_relative_to((params.ROOT / "pocket").resolve())


def _note(text: str) -> str:
    """Return a note of the kind that every page has."""
    return f":::{{div}} whose\n{text}\n:::"


def has_chart(notebook: Path, name: str) -> bool:
    """Return whether a notebook has a cell of that name."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return any(cell["metadata"].get("name") == name for cell in cells)


def model_tabs(profile: str, experiment: str, more: dict[str, str] | None = None) -> str:
    """Return a tab for each model: the main figure of its notebook, if there is one, and a link to the notebook.

    more: further tabs, {title: Markdown}.
    """
    notebook, items = params.experiment(experiment).notebook, {}
    shown = has_chart(params.ROOT / "notebooks" / notebook, MAIN)
    for key, title in family_titles(profile).items():
        quoted = f"```{{chart}} {key}/{notebook} {MAIN}\n```\n\n" if shown else ""
        items[title] = (
            f"{quoted}{{doc}}`{title}, the whole notebook <{key}/{notebook.removesuffix('.ipynb')}>`"
        )
    return f"## Model by model\n\n{tabs(items | (more or {}), 'model')}"


def code_links(experiment: str, up: str) -> str:
    """Return the line that links a page to the code behind it; up: from the page's folder to the book's, such as "../"."""
    folder = experiments.slices()[experiment]
    links = [
        f'<a href="{up}source/nbhelpers/experiments/{folder}/{part}.html">{part}</a>'
        for part in PARTS
        if (experiments.FOLDER / folder / f"{part}.py").exists()
    ]
    every = f'<a href="{up}source/index.html">all modules</a>'
    return f'<p class="code-links">Code of this page: {", ".join(links)}; {every}.</p>'


def windows(profile: str) -> str:
    """Return the table of the stretches of layers that pages name, for models of 12 and of 32 layers."""
    stretches = {
        "late half": (depths.late_half, "⌊L/2⌋", "the convergence gap"),
        "late third": (lambda n: depths.thirds(n)["late"], "⌊2L/3⌋", "means by thirds of the depth"),
        "late window": (lambda n: depths.windows(n)["late"], "round(0.6 L)", "grafts; early and middle windows are as wide"),
        "corrective phase": (lambda n: depths.phases(n)["corrective"], "round(0.6 L)", "how a prediction is revised"),
        "final fifth": (depths.final_fifth, "⌊0.8 L⌋", "where a graft's effect is read, and the δ-cosine"),
    }  # fmt: skip
    rows = [
        [name, first, *(f"{of(n)[0]}–{of(n)[-1]}" for n in (12, 32)), use]
        for name, (of, first, use) in stretches.items()
    ]
    return table(["stretch", "first layer", "of 12 layers", "of 32 layers", "used for"], rows)


INSERTS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        verdict, answers, nulls, whose, model_tabs, windows, published.study_files, explore.explorer,
        claims.claims_sentence, claims.claims_table, figures.figures, api.api, api.api_index,
        levels.checksums, methods.equations, methods.statistics, methods.differences,
        cards.pocket_sizes, cards.pocket_gates, cards.pocket_misses, cards.pocket_extra, cards.pocket_samples,
    )
}  # fmt: skip
# What needs the experiments in the book's order.
REGISTRY: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        registry.provenance, registry.times, registry.revisions, registry.libraries, levels.levels,
        catalogue.entries, catalogue.details, methods.of_experiments, methods.all_differences,
    )
}  # fmt: skip


def filled(text: str, profile: str, source: str) -> str:
    """Return a page with every `% insert:` line replaced; PageError names an unknown insert."""

    def insert(match):
        name, argument = match.groups()
        if name in REGISTRY:
            return REGISTRY[name](profile, in_order())
        if name not in INSERTS:
            known = params.suggestion(name, [*INSERTS, *REGISTRY])
            raise PageError(f"{source}: there is no insert {name!r}; {known}.")
        return str(INSERTS[name](profile, *([argument] if argument else [])))

    return MARKER.sub(insert, text)
