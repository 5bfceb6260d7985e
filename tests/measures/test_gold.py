"""Labels of people: read, checked, tied to the replies that they were given to, and set beside judges."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from nbhelpers.core import params
from nbhelpers.measures import gold
from nbhelpers.measures.agreement import Accuracy
from tests.report import artifacts

STUDY = artifacts.FOLDER.parent / "datasets/gold_standard_v1.csv"
REPLIES = xr.DataArray(
    [["It is red.", "No."], ["It is blue.", "I cannot."]],
    dims=("condition", "prompt"),
    coords={"condition": ["A", "C"], "prompt": ["p1", "p2"]},
)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a function that writes labels of (audit_id, rater, task, value), beside a key of REPLIES as x0 to x3."""
    monkeypatch.setattr(params, "ROOT", tmp_path)
    places = [(c, p) for c in ("A", "C") for p in ("p1", "p2")]
    rows = [
        (f"x{i}", "overlap", "b", "m", c, p, gold.digest(str(REPLIES.sel(condition=c, prompt=p).item())))
        for i, (c, p) in enumerate(places)
    ]
    key = gold.key_path("pocket", "exp90")
    key.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=list(gold.KEY)).to_csv(key, index=False)

    def write(*labels, rater="ada"):
        lines = [(audit_id, rater, task, value, 2.5, "now") for audit_id, task, value in labels]
        path = gold.label_path("pocket", "exp90", rater)
        pd.DataFrame(lines, columns=list(gold.COLUMNS)).to_csv(path, index=False)
        return path

    return write


def test_labels_become_ratings_of_the_replies_that_they_were_given_to(written):
    written(("x0", "g1", 4), ("x3", "s1", 0), ("x1", "g1", ""))
    written(("x0", "g1", 5), rater="ben")
    found = gold.ratings("pocket", "exp90", "m", REPLIES)
    assert list(found["judge"].values) == ["ada", "ben"] and int(found.notnull().sum()) == 3
    assert found.sel(judge="ada", task="g1", condition="A", prompt="p1") == 4
    assert found.sel(judge="ada", task="s1", condition="C", prompt="p2") == 0
    assert found.sel(judge="ben", task="g1", condition="A", prompt="p1") == 5


def test_labels_of_other_words_and_of_other_models_are_left_out(written):
    written(("x0", "g1", 4), ("x2", "g1", 3))
    changed = REPLIES.copy(data=[["It is green.", "No."], ["It is blue.", "I cannot."]])
    found = gold.ratings("pocket", "exp90", "m", changed)
    assert int(found.notnull().sum()) == 1 and found.sel(condition="C", prompt="p1").max() == 3
    assert not gold.ratings("pocket", "exp90", "another", REPLIES).notnull().any()


def test_without_files_there_is_no_rater(tmp_path, monkeypatch):
    monkeypatch.setattr(params, "ROOT", tmp_path)
    found = gold.ratings("pocket", "exp90", "m", REPLIES)
    assert found.sizes == {"judge": 0, "task": 4, "condition": 2, "prompt": 2}


def test_people_stand_beside_judges(written):
    written(("x0", "g1", 4))
    people = gold.ratings("pocket", "exp90", "m", REPLIES)
    judges = xr.full_like(people, 3.0).assign_coords(judge=["rubric"])
    both = xr.concat([judges, people], "judge")
    assert list(both["judge"].values) == ["rubric", "ada"] and both.sel(judge="ada").max() == 4


def test_the_later_of_two_labels_counts(written):
    path = written(("x0", "g1", 4), ("x0", "g1", 2))
    assert list(gold.read_labels(path)["value"]) == [2]


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (("x0", "g1", 7), "line 3: 7 is no value of g1"),
        (("x0", "g9", 1), "line 3: 'g9' is none of g1, g2, s1, s2"),
        (("x0", "s1", 2.5), "line 3: 2.5 is no value of s1"),
    ],
)
def test_a_label_off_the_scale_is_named(written, label, sentence):
    with pytest.raises(gold.LabelError, match=sentence):
        gold.read_labels(written(("x1", "g1", 1), label))


def test_a_file_that_is_no_file_of_labels_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("audit_id,task\nx,g1\n")
    with pytest.raises(gold.LabelError, match="has no column rater, value, seconds, time"):
        gold.read_labels(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(gold.LabelError, match="cannot be read"):
        gold.read_key(tmp_path / "b.csv")


def test_a_judge_is_measured_against_a_person():
    values = np.array([[[[0, 0, 1, 1, np.nan]]], [[[0, 1, 1, 0, 0]]]], dtype=float)
    coords = {"judge": ["rubric", "ada"], "task": ["s1"], "condition": ["A"], "prompt": list("abcde")}
    rating = xr.DataArray(values, coords=coords, dims=list(coords))
    assert gold.judge_accuracy(rating, "rubric", "ada", "s1", {0}) == Accuracy(1 / 2, 1 / 2, 2, 2)


def test_a_sheet_of_the_study_with_scores(tmp_path):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("id,condition,record_id,alpha,prompt,generated_text,human_g1,human_g2,notes\n"
                     "1,a,r,0,q,t,4,,\n2,a,r,0,q,t,,,\n3,a,r,0,q,t,2,5,fine\n")  # fmt: skip
    labels = gold.read_study(sheet)
    assert list(zip(labels["audit_id"], labels["task"], labels["value"])) == [
        ("1", "g1", 4),
        ("3", "g1", 2),
        ("3", "g2", 5),
    ]
    assert gold.summary(labels) == "3 labels: g1 2, g2 1"
    assert gold.summary(labels.iloc[:0]) == "holds no label"
    sheet.write_text("id,condition,record_id,human_g1,human_g2\n1,a,r,good,\n")
    with pytest.raises(gold.LabelError, match="'good' is no value of g1, which has 1, 2, 3, 4, 5"):
        gold.read_study(sheet)


@pytest.mark.skipif(not STUDY.exists(), reason="the study's sheet is not on this machine")
def test_the_studys_own_sheet_holds_no_label():
    assert gold.summary(gold.read_study(STUDY)) == "holds no label"
