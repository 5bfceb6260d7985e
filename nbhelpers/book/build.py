"""The book: its sources and the executed notebooks, assembled and built into `_build/html`.

Nothing is executed here; papermill has executed the notebooks before. The book is built in a separate folder and
moved into place when it is complete, so a killed build leaves the earlier book.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from nbhelpers.book import assets, cards, claims, explore, links, origins, pages, published, source
from nbhelpers.core import params, store
from nbhelpers.report import charts, families, windows
from nbhelpers.run.notebooks import executed_path

ANSWER = ("verdict", "matrix")  # the names of the cells that a model's page opens with


class BookError(RuntimeError):
    """A book that cannot be built; its message is one sentence for the user."""


def executed(profile: str, notebook: str, remedy: str, model: str | None = None) -> Path:
    """Return the path of an executed notebook; BookError names it and the command that makes it."""
    path = executed_path(profile, notebook, model)
    if not path.exists():
        raise BookError(f"the executed notebook {store.shown(path)} is missing; make it with `{remedy}`.")
    return path


def notebooks(profile: str, key: str) -> dict[str, Path]:
    """Return {place in the book: path} of an experiment's executed notebooks, the across-model one first."""
    experiment, run = params.experiment(key), f"nbh run {key}{{}} --profile {profile}"
    found = {f"runs/{experiment.across}": executed(profile, experiment.across, run.format("_across"))}
    for model in params.profile_params(profile).models:
        place = f"runs/{model}/{experiment.notebook}"
        found[place] = executed(profile, experiment.notebook, run.format(f" --model {model}"), model)
    return found


def markdown_cell(name: str, text: str) -> dict:
    """Return a Markdown cell of a notebook."""
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}


def headed(notebook: Path) -> tuple[dict, str, str]:
    """Return a notebook, its heading and what follows it in its first cell; BookError if it does not open with a heading."""
    book = json.loads(notebook.read_text(encoding="utf-8"))
    title, _, rest = "".join(book["cells"][0]["source"]).partition("\n")
    if not title.startswith("# "):
        raise BookError(f"{store.shown(notebook)} must open with a heading, a line `# …`.")
    return book, title, rest


def across_page(notebook: Path, name: str, note: str, tail: str) -> str:
    """Return the across-model notebook as a page: parameters hidden, `name` over and `note` under the title, `tail` last."""
    book, title, rest = headed(notebook)
    book["cells"][0]["source"] = f"{name}\n\n{title}\n\n{note}\n{rest}"
    for cell in book["cells"]:
        tags = cell["metadata"].get("tags", [])
        if {"parameters", "injected-parameters"} & set(tags):
            cell["metadata"]["tags"] = [*tags, "remove-cell"]
    book["cells"].append(markdown_cell("tail", tail))
    return json.dumps(book, ensure_ascii=False)


def model_page(notebook: Path, across: str, title: str, name: str, note: str, tail: str) -> str:
    """Return a model's executed notebook as a page: the model's title in the heading, then `note`, then the pair's answer.

    `name` stands over the heading, `tail` is the last cell. The answer is the cells named `verdict` and `matrix`, moved up
    and without their code. Links to `across` and to source lead one folder farther up.
    """
    book, heading, rest = headed(notebook)
    first = markdown_cell("title", f"{name}\n\n{heading.rstrip()}: {title}\n\n{note}\n")
    answer, others = answer_first(book["cells"][1:])
    opening = [markdown_cell("opening", rest)] if rest.strip() else []
    book["cells"] = [first, *answer, *opening, *others, markdown_cell("tail", tail)]
    page = json.dumps(book, ensure_ascii=False).replace(f"]({across}", f"](../{across}")
    page = page.replace('href=\\"../source/', 'href=\\"../../source/')
    # The figures behind a published value are named on the page across pairs.
    return page.replace(
        'class=\\"to-figure\\" href=\\"#', f'class=\\"to-figure\\" href=\\"../{Path(across).stem}.html#'
    )


def answer_first(cells: list[dict]) -> tuple[list[dict], list[dict]]:
    """Return the cells that answer, without their code, and the others, without the heading that stood over the answer."""
    answers = [cell for cell in cells if cell["metadata"].get("name") in ANSWER]
    others = []
    for cell, following in zip(cells, [*cells[1:], {"metadata": {}}]):
        lone = re.fullmatch(r"#+ .+\s*", "".join(cell.get("source", "")))
        heads = lone and cell["cell_type"] == "markdown" and following["metadata"].get("name") == ANSWER[0]
        if cell not in answers and not heads:
            others.append(cell)
    for cell in answers:
        cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "remove-input"]
    return answers, others


def chapter(profile: str, key: str) -> dict:
    """Return an experiment's entry in the table of contents: the across-model page with the models' pages below it."""
    experiment, titles = params.experiment(key), families.family_titles(profile)
    sections = [
        {"file": f"runs/{model}/{experiment.notebook}", "title": title} for model, title in titles.items()
    ]
    return {"file": f"runs/{experiment.across}", "title": experiment.title, "sections": sections}


def contents(folder: Path, profile: str) -> tuple[dict, list[str]]:
    """Return the table of contents, with each experiment in the chapter that it names, and the keys of these experiments."""
    toc = yaml.safe_load((folder / "_toc.yml").read_text(encoding="utf-8"))
    found = pages.chapters(toc)
    for part in toc["parts"]:
        of_part = [chapter(profile, key) for key in found[part["caption"]]]
        part["chapters"] = part.get("chapters", []) + of_part
    toc["parts"] = [part for part in toc["parts"] if part["chapters"]]
    return toc, [key for keys in found.values() for key in keys]


def files(toc: dict) -> list[str]:
    """Return the files that a table of contents names, in reading order."""
    found = [toc["root"]]
    for part in toc["parts"]:
        for entry in part["chapters"]:
            found += [entry["file"], *(section["file"] for section in entry.get("sections", []))]
    return found


def assemble(profile: str, folder: Path) -> list[str]:
    """Return the book's pages after writing its whole source into `folder`."""
    shutil.copytree(params.ROOT / "book", folder)
    toc, keys = contents(folder, profile)
    for key in keys:
        write_pages(profile, key, folder)
    origins.write(profile, keys, folder)
    for path in folder.rglob("*.md"):
        text = pages.filled(path.read_text(encoding="utf-8"), profile, f"book/{path.relative_to(folder)}")
        path.write_text(text, encoding="utf-8")
    drawn = {
        "training_loss": (charts.training_loss(cards.read()), "Data: the model cards in pocket/"),
        "windows": (windows.windows_figure(), "Drawn from nbhelpers.core.depths, which defines the windows"),
    }
    drawn |= {name: (chart, explore.ORIGIN) for name, chart in explore.charts().items()}
    for name, (chart, words) in drawn.items():
        text = json.dumps(origins.said(chart.to_dict(), f"{words}."), ensure_ascii=False)
        (folder / f"{name}.vl.json").write_text(text, encoding="utf-8")
    claims.write(profile, folder)
    shutil.copytree(assets.write(params.ROOT / "_build" / "scripts"), folder / "assets", dirs_exist_ok=True)
    (folder / "_toc.yml").write_text(
        yaml.safe_dump(toc, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return files(toc)


def write_pages(profile: str, key: str, folder: Path) -> None:
    """Write the pages of an experiment, across models and of each, from its executed notebooks."""
    across, own, note = params.experiment(key).across, params.experiment(key).notebook, pages.whose(profile)
    titles = families.family_titles(profile)
    for place, notebook in notebooks(profile, key).items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        code = pages.code_links(key, "../" * place.count("/"))
        if notebook.name == across:
            tabs = pages.model_tabs(profile, key, published.tab(key, folder))
            text = across_page(notebook, pages.named(key), note, f"{tabs}\n\n{code}")
            text = text.replace(f"]({own}", f"]({next(iter(titles))}/{own}")  # there is one for each pair
        else:
            name = pages.named(key, f"../{across}")
            text = model_page(notebook, across, titles[notebook.parent.name], name, note, code)
        (folder / place).write_text(text, encoding="utf-8")


def render(source: Path) -> Path:
    """Return the folder of HTML that Jupyter Book makes from `source`; BookError if Sphinx warns."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(source), "--path-output",
               str(source.parent), "-W", "--keep-going", "-n", "-q"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BookError(
            f"Jupyter Book could not build the book:\n{complaints(done.stdout + done.stderr, source)}"
        )
    return source.parent / "_build" / "html"


def complaints(log: str, source: Path) -> str:
    """Return the warnings and errors in a build's log, or its last lines if there are none."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log).replace(f"{source}/", "book/")
    lines = [line for line in plain.splitlines() if line.strip()]
    named = [line for line in lines if "WARNING:" in line or "ERROR:" in line or "CRITICAL:" in line]
    return "\n".join(named or lines[-15:])


def checked(html: Path, names: list[str]) -> Path:
    """Return `html` if it has a page for every name, and page and anchor for every link; BookError names what is missing."""
    wanted = [Path(name).with_suffix("").as_posix() + ".html" for name in [*names, "search"]]
    missing = [name for name in wanted if not (html / name).exists()]
    if missing:
        raise BookError(f"the book was built without {', '.join(missing)}; see book/_toc.yml.")
    if broken := links.broken(html):
        raise BookError(
            f"{len(broken)} links lead nowhere, such as {broken[0]}; `nbh batch` draws pages anew."
        )
    return html


def replace(new: Path, old: Path) -> None:
    """Move the folder `new` to `old`, which may exist; at no moment is `old` a partial folder."""
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def build(profile: str = "pocket") -> Path:
    """Return the book's first page, `_build/html/index.html`, after building it for a profile.

    Raises BookError, PageError, ResultError or ParameterError with a sentence that says what is missing.
    """
    params.profile_params(profile)
    work = params.ROOT / "_build" / ".book"
    shutil.rmtree(work, ignore_errors=True)  # what a killed build left
    work.mkdir(parents=True)
    try:
        names = assemble(profile, work / "book")
        html = render(work / "book")
        assets.drop_icon_script(html)
        source.write(html)
        checked(html, names)
        replace(work / "book", params.ROOT / "_build" / "book")
        replace(html, params.ROOT / "_build" / "html")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return params.ROOT / "_build" / "html" / "index.html"
