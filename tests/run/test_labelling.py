"""Labelling by hand without a browser: blinded, resumable, saved at each key."""

import html
import json
import math
import re

import pytest

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.core.variables import Variable
from nbhelpers.measures import gold, judge, rubrics
from nbhelpers.models import evaluation
from nbhelpers.run import labelling, labelling_desk
from nbhelpers.run.labelling import Item, Sitting, in_turn, planned, typed, value_of
from tests import labelled
from tests.stubs import REPOSITORY

EACH, OVERLAP = 6, 4


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the root of a project that holds one finished result, of exp90 and the model ann."""
    monkeypatch.setattr(params, "ROOT", tmp_path)
    monkeypatch.setattr(experiments, "slices", lambda: {"exp90": "exp90_stub"})
    monkeypatch.setattr(
        experiments, "variables", lambda key: {"text": Variable(("condition", "prompt"), "1", "reply")}
    )
    labelled.write()
    return tmp_path


def open_sitting(rater="ada", **options):
    return labelling.sitting(rater, "exp90", "pocket", ["ann"], each=EACH, overlap=OVERLAP, **options)


def test_the_plan_takes_as_many_of_each_kind_and_conditions_in_turn():
    items, key = planned(labelled.replies()[:3], labelled.pairs(), "ann", each=EACH, overlap=OVERLAP)
    assert len(key) == 4 * EACH and key["audit_id"].is_unique
    assert (key["split"] == "overlap").sum() == 4 * OVERLAP
    assert set(key["bucket"]) == {"conversation", "gov_register", "safety_benign", "safety_harmful"}
    assert key["condition"].value_counts().to_dict() == dict.fromkeys(["A", "B_late", "C"], 8)
    kinds = {prompt.id: evaluation.category(record) for prompt, record in labelled.pairs()}
    for row in key.itertuples():
        tasks = {item.task for item in items if item.audit_id == row.audit_id}
        assert tasks == {task for task in judge.TASKS if judge.applies(task, kinds[row.record_id])}


def test_an_audit_id_and_what_is_shown_say_nothing_of_model_and_condition(root):
    sitting = open_sitting()
    key = gold.read_key(gold.key_path("pocket", "exp90"))
    hidden = {"ann", "expected", "overlap", "holdout", "harmful", "harmless", "refuse", *key["record_id"]}
    assert all(re.fullmatch("[0-9a-f]{16}", item.audit_id) for item in sitting.items)
    own = sitting.items[0]
    shown = labelling_desk.page(sitting).replace(html.escape(own.reply), "").replace(own.question, "")
    assert own.reply not in shown and not hidden & set(re.split(r"\W+", shown))


def test_a_label_is_saved_at_once_and_taken_up_where_it_was_left(root):
    first = open_sitting()
    for key in "345":
        assert first.press(key) == f"Saved {key}."
        assert len(gold.read_labels(first.path)) == len(first.given())
    assert [row["value"] for row in first.given()] == [3, 4, 5]
    again = open_sitting()
    assert again.waiting() == first.waiting() == first.items[3:]
    assert again.progress().startswith("3 of 48 labels · g1 3 of 24 · g2 0 of 12")


def test_a_label_can_be_taken_back_in_a_later_sitting(root):
    first = open_sitting()
    for key in "34":
        first.press(key)
    second = open_sitting()
    assert second.press("u") == "Took back the last label."
    assert second.waiting()[0] == first.items[1]
    second.press("5")
    assert [row["value"] for row in second.given()] == [3, 5]
    second.press("u")
    second.press("u")
    assert second.press("u") == "There is no label to take back." and second.given() == []


def test_a_key_without_a_meaning_changes_nothing(root):
    sitting = open_sitting()
    for key in "6xq ":
        assert "none of the keys" in sitting.press(key)
    assert sitting.given() == [] and not sitting.path.exists()


def test_all_is_labelled_at_the_end(root):
    sitting = open_sitting()
    for _ in sitting.items:
        sitting.press("1")
    assert sitting.waiting() == [] and sitting.press("1") == "Everything is labelled."
    assert "Done" in labelling_desk.page(sitting)
    values = {row["task"]: row["value"] for row in sitting.given()}
    assert values == {"g1": 1, "g2": 1, "s1": 0, "s2": 0}


def test_two_raters_have_files_and_orders_of_their_own_and_share_the_overlap(root):
    ada, ben = open_sitting("ada"), open_sitting("ben", shared=True)
    key = gold.read_key(ada.path.with_name("exp90_key.csv"))
    both = set(key.loc[key["split"] == "overlap", "audit_id"])
    assert ada.path != ben.path and {item.audit_id for item in ben.items} == both
    shared = [item for item in ada.items if item.audit_id in both]
    assert shared != ben.items and sorted(shared) == sorted(ben.items)


def test_labels_reach_the_agreement_table(root):
    for rater, keys in (("ada", "1234512345"), ("ben", "1234412345")):
        sitting = open_sitting(rater)
        in_one_order = sorted(sitting.items, key=lambda item: (item.task, item.audit_id))
        one = Sitting(in_one_order, sitting.path, rater)
        for key in keys:
            one.press(key)
    table = labelling_desk.agreement("", "pocket", ["ann"])
    assert list(table["raters"]) == ["ada · ben"] and list(table["items"]) == [10]
    assert table.iloc[0]["same rating"].startswith("0.90")


def test_another_models_replies_keep_the_labels_of_the_first(root):
    open_sitting().press("4")
    labelled.write("bob")
    both = labelling.sitting("ada", "exp90", "pocket", ["ann", "bob"], each=EACH, overlap=OVERLAP)
    assert len(both.items) == 96 and len(both.given()) == 1
    assert set(gold.read_key(gold.key_path("pocket", "exp90"))["model"]) == {"ann", "bob"}


def test_controls_are_not_read(root):
    text, known = labelling.replies("exp90", "pocket", "ann")
    assert list(text["condition"].values) == ["A", "B_late", "C"] and len(known) == 32


@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [
        ("", "3", "3"),
        ("3", "34", "4"),
        ("3", "345", "45"),
        ("34", "3", "u"),
        ("345", "", "u"),
        ("35", "345", "4"),
        ("3", "33", "3"),
    ],
)
def test_keys_are_what_changed_in_the_field(before, after, keys):
    assert typed(before, after) == keys


def test_values_of_keys():
    assert value_of("g1", "5") == 5 and value_of("s1", "1") == judge.classes("s1").index("refuses")
    assert value_of("s2", "4") == judge.classes("s2").index("does_not_engage")
    assert value_of("s1", "4") is None and value_of("g2", "6") is None and value_of("g1", "u") is None
    assert math.isnan(value_of("g1", "0"))
    assert value_of("s1", "3") == judge.classes("s1").index("incoherent")


@pytest.mark.parametrize("task", judge.TASKS)
def test_a_person_reads_what_an_llm_judge_reads(task):
    question, answers = labelling.asked(task)
    text = " ".join(rubrics.TEXTS[task].split())
    assert question in text and all(answer in text for answer in answers)
    assert len(answers) == len(rubrics.LABELS[task]) and not [a for a in (question, *answers) if " = " in a]
    assert [value_of(task, str(i + 1)) for i in range(len(answers))] == [*rubrics.LABELS[task].values()]


def test_one_order_by_task_and_hash():
    items = [Item(name, task, "", "") for name in "abcdefgh" for task in ("s1", "g1")]
    ada, ben = in_turn(items, "ada"), in_turn(items[::-1], "ben")
    assert [item.task for item in ada] == ["g1"] * 8 + ["s1"] * 8
    assert ada == in_turn(items[::-1], "ada") and ada != ben


def test_texts_are_escaped(root):
    seen = labelling_desk.page(open_sitting())
    assert "&lt;b&gt;" in seen and "<b>A</b>" not in seen


@pytest.mark.parametrize("rater", ["key", "Ada", "a/b", "1st"])
def test_a_rater_has_a_plain_name(root, rater, capsys):
    assert labelling_desk.opened(rater, "", "pocket", ["ann"], each=EACH, overlap=OVERLAP) is None
    assert "must be a name of small letters" in capsys.readouterr().out


def test_what_is_missing_is_said_in_one_sentence(root, capsys):
    said = {}
    for name, arguments in {
        "nobody": ("", "", ["ann"]), "no result": ("ada", "", ["bob"]), "no experiment": ("ada", "exp91", ["ann"]),
    }.items():  # fmt: skip
        rater, experiment, models = arguments
        assert labelling_desk.opened(rater, experiment, "pocket", models, each=EACH, overlap=OVERLAP) is None
        said[name] = capsys.readouterr().out.strip()
    assert (
        said["nobody"].startswith("Write your name into `rater`")
        and "nbh run exp90 --model ann" in said["nobody"]
    )
    assert (
        "there is no result _build/results/pocket/bob/exp90.nc yet; make it with `nbh run exp90"
        in said["no result"]
    )
    assert "exp91 holds no replies by condition" in said["no experiment"]
    assert labelling_desk.agreement("", "pocket", ["ann"]) is None
    assert "Nobody has labelled" in capsys.readouterr().out


def test_more_than_there_is_cannot_be_asked_for(root, capsys):
    labelling_desk.opened("ada", "", "pocket", ["ann"], each=9, overlap=4)
    assert "holds 8 records and 9 are wanted" in capsys.readouterr().out


def test_the_widget_takes_keys_from_its_field(root):
    pytest.importorskip("ipywidgets")
    field, view = labelling_desk.opened("ada", "", "pocket", ["ann"], each=EACH, overlap=OVERLAP).children
    before = view.value
    field.value = "4"
    field.value = "42"
    assert [row["value"] for row in open_sitting().given()] == [4, 2] and view.value != before
    field.value = "42U"
    field.value = "42"
    assert open_sitting().given() == []


def test_a_full_disk_loses_no_label(root, monkeypatch):
    sitting = open_sitting()
    sitting.press("4")

    def full(path, data):
        raise store.unwritable(path, OSError(28, "No space left on device"))

    monkeypatch.setattr(store, "write_whole", full)
    with pytest.raises(store.ResultError, match="No space left"):
        sitting.press("5")
    assert len(sitting.given()) == 1
    field, view = labelling_desk.desk(sitting).children
    field.value = "5"
    assert "could not be written" in view.value


def run_notebook(**given):
    """Run the cells of the labelling notebook in this process, with parameters of our own."""
    names = {}
    for cell in json.loads((REPOSITORY / "notebooks/label.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            names |= given if "parameters" in cell["metadata"].get("tags", []) else {}


def test_the_notebook_runs_without_a_rater_and_without_a_result(root, capsys):
    run_notebook()
    nobody = capsys.readouterr().out
    assert "Write your name into `rater`" in nobody and nobody.count("Nobody labels yet.") == 2
    run_notebook(rater="ada", models=["bob"])
    assert capsys.readouterr().out.count("make it with `nbh run exp90 --model bob --profile pocket`") == 3
    run_notebook(rater="ada", models=["ann"])
    assert capsys.readouterr().out.count("Nobody has labelled a reply of exp90 yet.") == 2


def test_the_notebook_is_committed_without_a_reply():
    book = json.loads((REPOSITORY / "notebooks/label.ipynb").read_text())
    assert "widgets" not in book["metadata"]
    (cell,) = [cell for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert "".join(cell["source"]).startswith('rater = ""')
