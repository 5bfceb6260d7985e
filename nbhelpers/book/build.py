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

from nbhelpers.book import pages
from nbhelpers.book.sphinx_vega import write_scripts
from nbhelpers.core import params, store
from nbhelpers.report import charts, families
from nbhelpers.run.notebooks import executed_path


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


def across_page(notebook: Path, tail: str) -> str:
    """Return the across-model notebook as a page: its parameters hidden, `tail` added as a last Markdown cell."""
    book = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        tags = cell["metadata"].get("tags", [])
        if {"parameters", "injected-parameters"} & set(tags):
            cell["metadata"]["tags"] = [*tags, "remove-cell"]
    book["cells"].append({"cell_type": "markdown", "id": "model-tabs", "metadata": {}, "source": tail})
    return json.dumps(book, ensure_ascii=False)


def model_page(notebook: Path, across: str, title: str) -> str:
    """Return a model's executed notebook as a page: the model's title in the heading, links to `across` one folder up."""
    book = json.loads(notebook.read_text(encoding="utf-8").replace(f"]({across}", f"](../{across}"))
    lines = "".join(book["cells"][0]["source"]).splitlines(keepends=True)
    if not lines or not lines[0].startswith("# "):
        raise BookError(f"{store.shown(notebook)} must open with a heading, a line `# …`.")
    book["cells"][0]["source"] = f"{lines[0].rstrip()}: {title}\n" + "".join(lines[1:])
    return json.dumps(book, ensure_ascii=False)


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
    captions = [part["caption"] for part in toc["parts"]]
    found: dict[str, list[str]] = {}
    for key in sorted(params.keys("experiments"), key=lambda key: (params.experiment(key).place, key)):
        caption = params.experiment(key).chapter
        if caption and caption not in captions:
            known = params.suggestion(caption, captions)
            raise BookError(
                f"params/experiments/{key}.yml: book/_toc.yml has no chapter {caption!r}; {known}."
            )
        found.setdefault(caption, []).append(key)
    for part in toc["parts"]:
        of_part = [chapter(profile, key) for key in found.get(part["caption"], [])]
        part["chapters"] = part.get("chapters", []) + of_part
    toc["parts"] = [part for part in toc["parts"] if part["chapters"]]
    return toc, [key for caption in captions for key in found.get(caption, [])]


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
        across, tabs = params.experiment(key).across, pages.model_tabs(profile, key)
        for place, notebook in notebooks(profile, key).items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            if notebook.name == across:
                text = across_page(notebook, tabs)
            else:
                text = model_page(notebook, across, params.model_params(notebook.parent.name).title)
            (folder / place).write_text(text, encoding="utf-8")
    for path in folder.rglob("*.md"):
        text = pages.filled(path.read_text(encoding="utf-8"), profile, f"book/{path.relative_to(folder)}")
        path.write_text(text, encoding="utf-8")
    loss = json.dumps(charts.training_loss(pages.cards()).to_dict(), ensure_ascii=False)
    (folder / "training_loss.vl.json").write_text(loss, encoding="utf-8")
    shutil.copytree(write_scripts(params.ROOT / "_build" / "scripts"), folder / "assets", dirs_exist_ok=True)
    (folder / "_toc.yml").write_text(
        yaml.safe_dump(toc, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return files(toc)


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
    """Return `html` if it has a page for every name; BookError lists the missing ones."""
    wanted = [Path(name).with_suffix("").as_posix() + ".html" for name in [*names, "search"]]
    missing = [name for name in wanted if not (html / name).exists()]
    if missing:
        raise BookError(f"the book was built without {', '.join(missing)}; see book/_toc.yml.")
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
        html = checked(render(work / "book"), names)
        replace(work / "book", params.ROOT / "_build" / "book")
        replace(html, params.ROOT / "_build" / "html")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return params.ROOT / "_build" / "html" / "index.html"
