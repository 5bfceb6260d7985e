"""The ledger of the study's figures and tables: whole, and every place that it names is there."""

import csv
import re

import pytest

from nbhelpers.book import figures, markdown
from nbhelpers.core import params
from tests.stubs import REPOSITORY

SPECIFICATION = REPOSITORY.parent / "shared/spec/exp12-15-data.md"
MAIN = "§2.3 1 1b 2 2b 2c 2d 3 3b 4 5 6 6b 7 8 9 10 11 12".split()
APPENDIX = [f"S{n}" for n in range(1, 49) if n not in (2, 38, 39, 40)] + ["S33b"]
TABLES = ["T1", "T2"]
HEADER = "id,part,experiment,shows,page,cell,note\n"


def listed():
    """Return the rows as they are written."""
    with (REPOSITORY / figures.SOURCE).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_figure_and_table_of_the_study_is_listed_once():
    ids = [row["id"] for row in listed()]
    assert len(ids) == len(set(ids)) and set(ids) >= {*MAIN, *APPENDIX, *TABLES}
    assert [name for name in ids if name in MAIN] == MAIN


def test_the_list_is_the_specification_s():
    if not SPECIFICATION.exists():
        pytest.skip(f"{SPECIFICATION} is not here; the figures are checked where the study's tables are")
    text = SPECIFICATION.read_text(encoding="utf-8")
    assert set(named(text, "### 7.1")) == set(MAIN)
    assert set(named(text, "### 7.2")) == set(APPENDIX)
    assert set(TABLES) <= {name for name in named(text, "## 8.")}


def named(text, heading):
    """Return the ids in the first column of the table under a heading."""
    part = text[text.index(heading) :].split("\n#", 1)[0]
    cells = re.findall(r"^\| (.+?) \|", part, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r'(?:^|/ )"?(§2\.3|[ST]?\d+[a-d]?)\b', cell)]


def test_every_named_cell_and_page_is_there_and_the_rest_say_why():
    rows = figures.rows()
    for row in rows:
        if row["cell"]:
            assert row["cell"] in figures.cell_names(REPOSITORY / "notebooks" / row["page"])
        if not row["page"]:
            assert len(row["note"].split()) > 8, row
    assert sum(not row["page"] for row in rows) <= 5


def test_an_experiment_s_page_is_named_by_the_key_that_owns_it():
    across = {params.experiment(key).across for key in params.keys("experiments")}
    assert {row["page"] for row in listed() if row["cell"]} <= across
    keys = {row["experiment"] for row in listed()} - {"setup"}
    assert keys <= set(params.keys("experiments"))


def test_the_page_has_a_table_for_each_part_and_leads_to_the_cells():
    page = figures.figures("pocket")
    assert re.findall("^## (.+)$", page, re.MULTILINE) == ["Main text", "Appendix A", "Tables", "README"]
    assert page.count("<tr><th scope") == len(listed()) + 4
    assert '<a href="runs/exp09_across.html#cosine-figure">' in page
    assert '<a href="methods.html">Methods</a>' in page
    assert "`" not in re.sub("`{5}.*", "", page) and "<code>kl_threshold</code>" in page
    assert f"{sum(bool(row['page']) for row in listed())} of {len(listed())} figures" in page


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1,main,exp09,A,exp09_across.ipynb,no_such,\n", "the cell 'no_such' of exp09_across.ipynb"),
        ("1,main,exp09,A,exp99_across.ipynb,main_figure,\n", "the cell 'main_figure' of exp99_across.ipynb"),
        ("1,main,exp09,A,nowhere,,\n", "the page 'nowhere'"),
        ("1,main,exp09,A,,,\n", "must say what it shows, and where or why nowhere"),
        ("1,main,exp09,,pocket,,\n", "must say what it shows"),
    ],
)
def test_a_row_that_leads_nowhere_is_named(tmp_path, monkeypatch, row, words):
    for name in ("notebooks", "book"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "params").mkdir()
    (tmp_path / figures.SOURCE).write_text(HEADER + row, encoding="utf-8")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    with pytest.raises(markdown.PageError, match=words):
        figures.rows()


def test_cells_of_a_table_in_html_carry_their_column_s_name():
    made = markdown.stacked(["a", "b <"], [["<b>1</b>", "x"]])
    assert '<th scope="row"><b>1</b></th><td data-of="b &lt;">x</td>' in made
    assert made.startswith("`````{raw} html\n") and "\n\n" not in made


def test_a_link_to_a_cell_has_the_anchor_that_the_page_gives_it():
    assert markdown.cell_link("exp90_across.ipynb", "main_figure", "A & B") == (
        '<a href="runs/exp90_across.html#main-figure">A &amp; B</a>'
    )
