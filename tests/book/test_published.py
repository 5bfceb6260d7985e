"""The tab of the study's models: drawn by the page's own functions, said to be the study's, and absent without its values."""

import json
import shutil

import pytest

from nbhelpers.book import pages, published
from nbhelpers.book.markdown import PageError
from nbhelpers.core import params
from nbhelpers.run import importing
from tests.stubs import REPOSITORY

SHIPPED = [key for key in importing.slices() if published.path_of(key).exists()]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a root of its own with the project's parameters, whose stored values a test may change."""
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    return tmp_path


def specs(folder):
    """Return the specifications of the charts that a tab has written."""
    found = sorted(folder.rglob("*.vl.json"))
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in found}


def rows(spec):
    """Return the rows of a specification's data, lists taken apart."""
    found = []
    for row in (row for each in spec["datasets"].values() for row in each):
        lists = [name for name, value in row.items() if isinstance(value, list)]
        values = zip(*(row[name] for name in lists)) if lists else [()]
        found += [row | dict(zip(lists, each)) for each in values]
    return found


def test_values_ship_for_the_experiments_that_the_study_stored():
    assert {"exp09", "exp11", "exp12", "exp13", "exp14"} <= set(SHIPPED)
    size = sum(path.stat().st_size for path in (REPOSITORY / "params/published").iterdir())
    assert size < importing.LARGEST


@pytest.mark.parametrize("key", SHIPPED)
def test_a_tab_says_whose_values_it_shows_and_draws_them(key, tmp_path):
    (text,) = published.tab(key, tmp_path).values()
    assert "nothing here was measured by this book" in text and "MIT" in text
    found = specs(tmp_path)
    assert text.count("```{chart}") == len(found) and (found or "| --- |" in text or "|---|" in text)
    for name, spec in found.items():
        assert f"published/{name}" in text and rows(spec), name
        assert "95 %" not in spec["description"], name  # an interval of this book's own
        assert not any(value is None for row in rows(spec) for value in row.values()), name
        assert {row["panel"] for row in rows(spec)} <= {
            *published.family_titles("paper").values(),
            "dense pool",
        }


def test_a_curve_has_the_stored_values_and_no_band(tmp_path):
    published.tab("exp09", tmp_path)
    spec = specs(tmp_path)["exp09_1.vl.json"]
    (first,) = [
        row for row in rows(spec)
        if (row["panel"], row["variant"], row["lens"], row["layer"]) == ("Gemma 3 4B", "PT", "raw", 0)
    ]  # fmt: skip
    assert first["mean"] == pytest.approx(82.4749, abs=1e-4)
    assert "low" not in first and '"low' not in json.dumps(spec["spec"])
    assert "six pairs of the study" in spec["description"] and "stored no intervals" in spec["description"]


def test_stored_intervals_are_drawn_and_said_to_be_the_study_s(tmp_path):
    published.tab("exp12", tmp_path)
    spec = specs(tmp_path)["exp12_1.vl.json"]
    assert all({"low", "high"} <= row.keys() for row in rows(spec))
    assert "intervals are those that the study stored" in spec["description"]


def test_without_values_there_is_no_tab(home):
    (home / "params/published/exp09.csv").unlink()
    assert published.tab("exp09", home) == {}
    assert published.tab("exp00", home) == {}
    (home / "params/published/sources.csv").unlink()
    assert "No file" in published.study_files("pocket")


@pytest.mark.parametrize(
    ("before", "after"),
    [("value,low", "worth,low"), ("gemma3_4b,commitment", "gemma3_4b,commitments"), (",33,", ",x,")],
)
def test_a_damaged_table_is_named_with_the_remedy(home, before, after):
    path = home / "params/published/exp09.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    with pytest.raises(PageError, match=r"published/exp09.csv is damaged \(.+\); `nbh import PATH --ship`"):
        published.tab("exp09", home)


def test_the_tab_is_one_of_the_models_tabs():
    tabs = pages.model_tabs("pocket", "exp09", {published.TITLE: "its text"})
    assert f":::::{{tab-item}} {published.TITLE}\n:sync: {published.TITLE}\n\nits text" in tabs


def test_every_file_of_the_study_is_listed():
    listed = published.study_files("pocket")
    assert "exp9_summary.json` | [" in listed and "runs/exp09_across.ipynb" in listed
    assert "unused: an empty list" in listed
