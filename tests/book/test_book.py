"""The book builds from executed notebooks without a warning, whole, offline, and says what is missing."""

import json
import random
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from nbhelpers.book import build, cards, claims, markdown, pages
from nbhelpers.core import params
from nbhelpers.report import families
from nbhelpers.report.charts import VEGALITE
from tests import synthetic

ACROSS = "_build/runs/pocket/exp09_across.ipynb"
KEYS = params.ordered()
NO_RESULTS = (
    "pocket",
    "glossary",
    "cluster",
    "methods",
    "figures",
    "publish",
)  # pages that show none of an experiment
TITLES = list(families.family_titles("pocket").values())
FEW_PAGES = """
format: jb-book
root: index
parts: [{caption: Observation}, {caption: Validation}, {caption: Registry, chapters: [{file: reproducibility}]}]
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return a repository without results, which this process works in; its book is a copy to be spoilt."""
    for name in ("params", "notebooks"):
        (tmp_path / name).symlink_to(synthetic.REPOSITORY / name)
    shutil.copytree(synthetic.REPOSITORY / "book", tmp_path / "book")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def carded(root):
    """Return the root with the cards of six families."""
    synthetic.write_cards(root)
    return root


def test_every_page_of_the_contents_is_there(book_root):
    html = book_root / "_build/html"
    toc = yaml.safe_load((book_root / "_build/book/_toc.yml").read_text())
    names = build.files(toc)
    own = 1 + (synthetic.REPOSITORY / "book/_toc.yml").read_text().count("- file: ")
    assert len(names) == len(set(names)) == own + len(KEYS) * (1 + 6)
    assert all((html / name).with_suffix(".html").exists() for name in names)


def test_every_experiment_is_a_chapter_with_the_models_below_it(book_root):
    toc = yaml.safe_load((book_root / "_build/book/_toc.yml").read_text())
    chapters = {
        entry["file"]: entry
        for part in toc["parts"]
        for entry in part["chapters"]
        if entry["file"].startswith("runs/")
    }
    assert chapters.keys() == {f"runs/{params.experiment(key).across}" for key in KEYS}
    for entry in chapters.values():
        assert [section["title"] for section in entry["sections"]] == TITLES


def test_the_built_pages_name_no_other_host(book_root):
    pattern = re.compile(r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["'](?:https?:)?//""")
    for page in (book_root / "_build/html").rglob("*.html"):
        assert not pattern.search(page.read_text()), page


@pytest.mark.parametrize("key", KEYS)
def test_a_model_page_names_its_model_and_leads_back(book_root, key):
    experiment = params.experiment(key)
    for model in params.profile_params("pocket").models:
        page = (
            (book_root / f"_build/html/runs/{model}/{experiment.notebook}").with_suffix(".html").read_text()
        )
        title = params.model_params(model).title
        assert re.search(rf"<title>[^<]*: {title}\b", page)
        assert f'href="../{experiment.across.removesuffix(".ipynb")}.html"' in page
        assert model == "llama_pocket" or f"<title>{experiment.title} in one pair: {title}" in page


def test_a_notebook_without_a_heading_is_named(tmp_path):
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": [{"source": ["no heading"]}]}))
    with pytest.raises(build.BookError, match="one.ipynb must open with a heading"):
        build.model_page(tmp_path / "one.ipynb", "across.ipynb", "One", "", "", "")


def test_the_working_folder_is_gone(book_root):
    assert not (book_root / "_build/.book").exists()
    assert not list((book_root / "_build").glob(".*.old"))


def orders(spec):
    """Return every order of names that a chart's specification states, for its panels, rows or colours."""
    parts = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else []
    own = [spec["sort"]] if isinstance(spec, dict) and isinstance(spec.get("sort"), list) else []
    return own + [order for part in parts for order in orders(part)]


@pytest.mark.parametrize("key", KEYS)
def test_an_across_notebook_ran_whole_on_made_up_results(book_root, key):
    path = book_root / "_build/runs/pocket" / params.experiment(key).across
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    said = ["".join(output["text"]) for output in outputs if output["output_type"] == "stream"]
    assert said == ["loading the library and the results of every pair\n"]
    charts = [output["data"][VEGALITE] for output in outputs if VEGALITE in output.get("data", {})]
    named = [[name for name in order if name in TITLES] for chart in charts for order in orders(chart)]
    assert charts and TITLES in named  # as panels, or as the rows of a forest plot
    assert all(order in ([], TITLES) for order in named)
    assert {"main_figure", "verdict"} <= {cell["metadata"].get("name") for cell in code}


@pytest.mark.parametrize("key", KEYS)
def test_an_across_page_holds_its_charts_and_each_model_s_main_figure(book_root, key):
    experiment = params.experiment(key)
    page = (book_root / "_build/html/runs" / experiment.across).with_suffix(".html").read_text()
    executed = json.loads((book_root / "_build/runs/pocket" / experiment.across).read_text())["cells"]
    own = sum(VEGALITE in o.get("data", {}) for c in executed for o in c.get("outputs", []))
    quoted = 6 * pages.has_chart(book_root / "notebooks" / experiment.notebook, pages.MAIN)
    stored = len(list((book_root / "_build/book/runs/published").glob(f"{key}_[0-9]*.vl.json")))
    assert page.count('<div class="vegalite"') == own + quoted + stored
    tab = (book_root / "params/published" / f"{key}.csv").exists()
    assert page.count('class="sd-tab-label"') == 6 + tab


def test_pages_hold_what_they_insert(book_root):
    text = {path.stem: path.read_text() for path in (book_root / "_build/book").glob("*.md")}
    assert not any(pages.MARKER.search(page) for page in text.values())
    assert "12 of 18 gates are met" in text["pocket"]
    assert "| PT | fact cloze | ≥ 0.90 | 0.930 |" in text["pocket"]
    assert "**0.810**" in text["pocket"]
    assert "`0.1.0+synthetic`" in text["reproducibility"]


def test_the_first_page_tells_the_story_in_five_figures_and_names_what_is_null(book_root, monkeypatch):
    monkeypatch.setattr(params, "ROOT", book_root)
    text = (book_root / "_build/book/index.md").read_text()
    assert len(re.findall(r"^```\{chart\} runs/\w+_across\.ipynb main_figure$", text, re.MULTILINE)) == 5
    listed = re.findall(r"^- \[.+?\]\((.+?)\): ", text.partition("## What is null")[2], re.MULTILINE)
    said = {f"runs/{params.experiment(key).across}": pages.verdict("pocket", key).answer for key in KEYS}
    assert sorted(listed) == sorted(place for place, answer in said.items() if pages.is_null(answer))


def test_every_figure_of_a_notebook_says_where_it_comes_from(book_root):
    """Its cell is an anchor of the page that the line leads to; data and notebook are of the experiment."""
    html = book_root / "_build/html"
    for page in [html / "index.html", *(html / "runs").rglob("*.html")]:
        figures = re.findall(r'<figure class="chart".+?</figure>', page.read_text(), re.DOTALL)
        for figure in figures:
            line = re.search(r'<p class="figure-origin">(.+?)</p>', figure)[1]
            if stored := re.fullmatch(
                r"Data: (params/published/\w+\.csv), which the study&#x27;s authors stored\.", line
            ):
                assert (params.ROOT / stored[1]).exists()
                continue
            cell, notebook, data = re.search(
                r'href="(.*?)".+? of <code>(.+?)</code>; data <code>(.+?)</code>', line
            ).groups()
            place, _, anchor = cell.partition("#")
            there = (page.parent / place).read_text() if place else page.read_text()
            assert f' id="{anchor}"' in there and data.split("/")[-1].startswith(notebook.split("_")[0]), (
                page,
                line,
            )


def test_the_first_page_answers_every_experiment(book_root):
    text = (book_root / "_build/book/index.md").read_text()
    rows = re.findall(r"^\| \[(.+?)\]\((.+?)\) \| (.+?\?) \| \*\*.+?\*\* .+ \|$", text, re.MULTILINE)
    wanted = [f"runs/{params.experiment(key).across}" for key in pages.in_order()]
    assert [place for _, place, _ in rows] == wanted and len(rows) == len(KEYS)


def test_every_page_says_under_its_title_whose_results_it_shows(book_root):
    html = book_root / "_build/html"
    toc = yaml.safe_load((book_root / "_build/book/_toc.yml").read_text())
    for name in build.files(toc):
        if name.startswith("api") or name in NO_RESULTS:
            continue
        text = (html / name).with_suffix(".html").read_text()
        before, _, after = text[text.index("<article") :].partition("</h1>")
        assert ('<p class="page-name">exp' in before) == name.startswith("runs/"), name
        assert re.match(r"\s*<div class=\"[^\"]*whose", after), name
        assert "six pocket pairs" in after[:600], name


def test_every_chart_of_a_page_is_a_numbered_figure_with_a_caption(book_root):
    for page in (book_root / "_build/html/runs").rglob("*.html"):
        text = page.read_text()
        count = text.count('<div class="vegalite"')
        captions = re.findall(r'href="#figure-(\d+)">Figure \1\.</a> (.+)</figcaption>', text)
        assert [int(number) for number, _ in captions] == list(range(1, count + 1)), page
        assert all(f'id="figure-{number}"' in text and caption for number, caption in captions)


def test_every_named_cell_is_an_anchor_of_its_page_once(book_root):
    for key in KEYS:
        name = params.experiment(key).across
        cells = json.loads((book_root / "_build/book/runs" / name).read_text())["cells"]
        page = (book_root / "_build/html/runs" / name).with_suffix(".html").read_text()
        for cell in cells:
            if "name" in cell["metadata"]:
                anchor = cell["metadata"]["name"].replace("_", "-")
                assert page.count(f' id="{anchor}"') == 1, (name, anchor)


def test_every_link_within_the_book_leads_to_a_page_and_an_anchor_of_it(book_root):
    html, anchors, broken = book_root / "_build/html", {}, []
    for page in html.rglob("*.html"):
        for link in set(re.findall(r'<a [^>]*href="([^"]+)"', page.read_text())):
            place, _, anchor = link.partition("#")
            if ":" in place:
                continue
            target = (page.parent / place).resolve() if place else page
            if target not in anchors:
                text = target.read_text() if target.suffix == ".html" and target.exists() else ""
                anchors[target] = set(re.findall(r'\bid="([^"]+)"', text))
            if not target.exists() or (anchor and "=" not in anchor and anchor not in anchors[target]):
                broken.append(f"{page.relative_to(html)}: {link}")
    assert broken == []


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path):
    for name in ("index", "search"):
        (tmp_path / f"{name}.html").write_text('<p id="top"></p><a href="index.html#top">x</a>')
    assert build.checked(tmp_path, ["index"]) == tmp_path
    (tmp_path / "search.html").write_text('<a href="index.html#bottom">x</a>')
    with pytest.raises(
        build.BookError, match="1 links? lead nowhere, such as search.html: index.html#bottom"
    ):
        build.checked(tmp_path, ["index"])


def test_three_clicks_lead_to_any_claim_s_value_figure_and_source(book_root):
    """A figure that is not measured here has no chart: its row says why."""
    html = book_root / "_build/html"
    first = (html / "index.html").read_text()
    claims = pd.read_csv(params.ROOT / "params/published.csv")["id"]
    measured, reasons = {}, {}
    for key in KEYS:
        place = f"runs/{Path(params.experiment(key).across).stem}.html"
        assert f'href="{place}"' in first  # the first click
        page = (html / place).read_text()
        for claim in claims[claims.str.startswith(f"{key}.")]:
            if (at := page.find(f' id="{claim}"')) >= 0:
                row = page[page.rindex("<tr", 0, at) : page.index("</tr>", at)]
                here = reasons if 'data-of="why not here"' in row else measured
                here[claim] = row, page
    draw = random.Random(0)
    for claim in draw.sample(
        sorted(measured), 10
    ):  # the second click goes to the ledger, the third to figure or source
        row, page = measured[claim]
        links = re.findall(r'href="([^"]+)"', row)
        figure = next(link for link in links if link.startswith("#"))
        source = next(link for link in links if link.startswith("../source/"))
        assert f'id="{figure[1:]}"' in page
        module, line = source.removeprefix("../").split("#")
        assert f'id="{line}"' in (html / module).read_text()
    for claim in draw.sample(sorted(reasons), 10):
        cells = dict(re.findall(r'data-of="([^"]+)">(.*?)</td>', reasons[claim][0], re.DOTALL))
        assert cells["why not here"].strip() and cells["published"].strip() and cells["source"].strip(), claim


def test_three_clicks_lead_from_the_first_page_to_ten_claims_figures_values_and_code(book_root):
    """The claims page is the first click, a claim's row the second, the figure or the function the third."""
    html = book_root / "_build/html"
    assert 'href="claims.html"' in (html / "index.html").read_text()
    bodies = re.findall(r'<tbody id="(C\d+)">(.*?)</tbody>', (html / "claims.html").read_text(), re.DOTALL)
    assert len(bodies) == 98
    rows = {
        claim: [row for row in body.split("<tr")[2:] if 'href="runs/' in row] for claim, body in bodies
    }  # what the claims page says of the others, test_all_claims checks
    for claim in random.Random(1).sample(sorted(claim for claim, found in rows.items() if found), 10):
        row = rows[claim][0]
        figure, code = (
            re.search(rf'href="({place}/[^"]+)#([^"]+)"', row).groups() for place in ("runs", "source")
        )
        for place, anchor in (figure, code):
            assert f'id="{anchor}"' in (html / place).read_text(), (claim, place, anchor)
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
        assert cells[1] or cells[2], (claim, row)  # what the paper prints, or what its files hold


@pytest.mark.parametrize("key", ["exp09", "exp11"])
def test_the_claims_are_the_same_from_pages_and_from_results(book_root, monkeypatch, key):
    monkeypatch.setattr(params, "ROOT", book_root)
    found = claims.figures("pocket", key)
    assert len(found) > 20 and found == claims.from_results("pocket", key)


@pytest.mark.slow
def test_a_fault_fails_the_build_and_leaves_the_book(book_root, monkeypatch):
    monkeypatch.setattr(params, "ROOT", book_root)
    before = {path: path.stat().st_mtime_ns for path in (book_root / "_build/html").rglob("*.html")}
    path, contents = book_root / "book/reproducibility.md", book_root / "book/_toc.yml"
    pages_before = {each: each.read_text() for each in [contents, *(book_root / "book").rglob("*.md")]}
    wrong = f"\n[nowhere](nowhere.md)\n\n```{{chart}} runs/{ACROSS.rsplit('/')[-1]} no_such_cell\n```\n"
    try:
        for each in pages_before:  # most name experiments that are not there
            each.write_text("# A page\n")
        path.write_text(pages_before[path] + wrong)
        contents.write_text(FEW_PAGES)
        keys, few = params.keys, params.ordered(["exp09"])  # with what it builds on
        monkeypatch.setattr(params, "keys", lambda kind: few if kind == "experiments" else keys(kind))
        with pytest.raises(build.BookError) as error:
            build.build("pocket")
    finally:
        for each, text in pages_before.items():
            each.write_text(text)
    assert "no cell named 'no_such_cell'" in str(error.value)
    assert "nowhere" in str(error.value) and "book/reproducibility.md" in str(error.value)
    assert before == {path: path.stat().st_mtime_ns for path in (book_root / "_build/html").rglob("*.html")}


def test_what_a_killed_build_left_does_no_harm(book_root, monkeypatch):
    monkeypatch.setattr(params, "ROOT", book_root)
    (book_root / "_build/.book/book").mkdir(parents=True)
    (book_root / "_build/.book/book/half.md").write_text("half")
    monkeypatch.setattr(build, "assemble", lambda profile, folder: folder.mkdir() or ["index.md"])

    def rendered(source):
        assert [path.name for path in source.parent.iterdir()] == ["book"] and not list(source.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "render", rendered)
    with pytest.raises(KeyboardInterrupt):
        build.build("pocket")
    assert (book_root / "_build/html/index.html").exists()
    assert not (book_root / "_build/.book").exists()


def test_chapters_are_filled_in_the_order_of_their_places(root):
    toc, keys = build.contents(root / "book", "pocket")
    assert keys == [
        key for part in toc["parts"] for key in keys if params.experiment(key).chapter == part["caption"]
    ]
    assert keys[0] == "exp09" and sorted(keys) == sorted(KEYS)


def test_an_unknown_chapter_is_named(root):
    contents = root / "book/_toc.yml"
    contents.write_text(contents.read_text().replace("caption: Validation", "caption: Validations"))
    with pytest.raises(
        pages.PageError, match="exp07_0g.yml.*no chapter 'Validation'; did you mean 'Validations'"
    ):
        build.contents(root / "book", "pocket")


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_across_notebook_is_named(root, key):
    across = params.experiment(key).across
    message = f"{across} is missing; make it with `nbh run {key}_across --profile pocket`"
    with pytest.raises(build.BookError, match=re.escape(message)):
        build.notebooks("pocket", key)


def test_a_missing_model_notebook_is_named(root):
    (root / ACROSS).parent.mkdir(parents=True)
    (root / ACROSS).touch()
    message = "pocket/gemma_pocket/exp09_convergence_gap.ipynb is missing; make it with `nbh run exp09 --model gemma_pocket"
    with pytest.raises(build.BookError, match=re.escape(message)):
        build.notebooks("pocket", "exp09")


def test_a_missing_card_is_named(root):
    with pytest.raises(pages.PageError, match="gemma/card.json is missing"):
        cards.read()


def test_an_unknown_insert_is_named(carded):
    with pytest.raises(
        pages.PageError, match="book/pocket.md: there is no insert 'pocket_gate'; did you mean"
    ):
        pages.filled("% insert: pocket_gate", "pocket", "book/pocket.md")


def test_a_page_that_was_not_made_is_named(tmp_path):
    (tmp_path / "index.html").touch()
    (tmp_path / "search.html").touch()
    with pytest.raises(build.BookError, match="without runs/one.html"):
        build.checked(tmp_path, ["index", "runs/one.ipynb"])


def test_all_gates_met(carded, monkeypatch):
    kept = {family: card | {"gates": card["gates"][:2]} for family, card in cards.read().items()}
    monkeypatch.setattr(cards, "read", lambda: kept)
    assert cards.pocket_misses("pocket") == "All 12 gates are met."
    assert "**0" not in cards.pocket_gates("pocket")


def test_literal_text_stays_literal():
    assert markdown.literal("a ``` b").startswith("````text\na ``` b\n````")


def test_table_cells_keep_to_their_line():
    assert (
        markdown.table(["a", "b"], [["x|y", "two\nlines"]]) == "| a | b |\n|---|---|\n| x\\|y | two lines |"
    )


def test_complaints_are_the_warnings():
    log = "reading\n\x1b[91m/tmp/x/book/a.md:3: WARNING: broken\x1b[39m\nwriting\n"
    assert build.complaints(log, build.Path("/tmp/x/book")) == "book/a.md:3: WARNING: broken"
    assert build.complaints("one\ntwo", build.Path("/tmp/x/book")) == "one\ntwo"


def test_replacing_a_folder(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        folder.mkdir()
        (folder / folder.name).touch()
    build.replace(new, old)
    assert [path.name for path in old.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
