"""Running text from files and from the hub; every mistake is one sentence that names the source."""

import json
import sys
from types import SimpleNamespace

import pytest

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.core.schemas import Texts
from nbhelpers.models import corpora

LONG = [
    "The baker of Arden bakes bread for the whole town before dawn.",
    "A ferry leaves at nine, and the children wait at the river.",
]


def file_of(tmp_path, *lines):
    """A source of these lines, records written as JSON."""
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return Texts(path=str(path))


def test_texts_of_a_file_come_in_order_and_short_ones_are_left_out(tmp_path):
    source = file_of(
        tmp_path, {"text": LONG[0]}, {"text": "x" * 49}, {"text": "y" * 50}, {"text": LONG[1], "n": 1}
    )
    assert list(corpora.texts(source)) == [LONG[0], "y" * 50, LONG[1]]
    assert len(list(corpora.texts(source, fewest_characters=1))) == 4


def test_another_field_can_hold_the_text(tmp_path):
    source = file_of(tmp_path, {"body": LONG[0]}).model_copy(update={"field": "body"})
    assert list(corpora.texts(source)) == LONG[:1]


def test_a_relative_path_starts_at_the_root():
    source = experiments.experiment_params("exp07_0g").corpus
    first = json.loads((params.ROOT / source.path).read_text().splitlines()[0])
    assert next(corpora.texts(source, fewest_characters=1)) == first["text"]


def test_a_file_is_read_lazily(tmp_path):
    source = file_of(tmp_path, {"text": LONG[0]}, "no JSON")
    assert next(corpora.texts(source)) == LONG[0]


@pytest.fixture
def hub(monkeypatch):
    """What `datasets.load_dataset` was called with, and what it gives."""
    fake = SimpleNamespace(calls=[], records=[{"text": text} for text in LONG])

    def load_dataset(*args, **options):
        fake.calls.append((args, options))
        if isinstance(fake.records, Exception):
            raise fake.records
        return iter(fake.records)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return fake


def test_a_hub_data_set_is_streamed_at_its_revision(hub):
    source = Texts(hub="allenai/c4", name="en", split="validation", revision="abc")
    assert list(corpora.texts(source)) == LONG
    assert hub.calls == [(("allenai/c4", "en"), dict(split="validation", revision="abc", streaming=True))]


def test_a_path_never_asks_the_hub(hub, tmp_path):
    list(corpora.texts(file_of(tmp_path, {"text": LONG[0]})))
    assert hub.calls == []


def message(source):
    """The one sentence with which reading a source stops."""
    with pytest.raises(params.ParameterError) as error:
        list(corpora.texts(source))
    said = str(error.value)
    assert "\n" not in said and said.endswith(".")
    return said


@pytest.mark.parametrize(
    "error",
    [ConnectionError("no route\nto host"), OSError("no route"), ValueError("no route"), ConnectionError()],
)
def test_a_hub_that_cannot_be_read_is_one_sentence(hub, error):
    hub.records = error
    said = message(Texts(hub="allenai/c4"))
    assert "the data set allenai/c4 could not be read" in said and "`path`" in said
    assert "no route" in said or "ConnectionError" in said


def test_a_hub_that_breaks_off_within_is_one_sentence(hub):
    def breaking():
        yield {"text": LONG[0]}
        raise ConnectionError("reset by peer")

    hub.records = breaking()
    assert "reset by peer" in message(Texts(hub="allenai/c4"))


@pytest.mark.parametrize(
    "line, sentence",
    [("{'text': 1}", "texts.jsonl line 2 is no JSON record"),
     ({"body": "b", "id": 3}, "record 2, has no field 'text'; its fields: body, id"),
     (json.dumps("just a text of some length, long enough to be one"), "texts.jsonl line 2 is no record but a str"),
     ('{"text": ' + "9" * 5000 + "}", "texts.jsonl line 2 is no JSON record: a number has too many digits"),
     ("[" * 100_000, "texts.jsonl line 2 is no JSON record: nested too deeply"),
     ({"text": None}, "record 2, holds no text in the field 'text' but a NoneType"),
     ({"text": 5}, "holds no text in the field 'text' but a int")],
)  # fmt: skip
def test_a_wrong_record_is_named(tmp_path, line, sentence):
    assert sentence in message(file_of(tmp_path, {"text": LONG[0]}, line))


def test_a_missing_file_is_named(tmp_path):
    said = message(Texts(path=str(tmp_path / "none.jsonl")))
    assert "there is no text file" in said and "none.jsonl" in said and "`corpus`" in said


@pytest.mark.parametrize("given", [{}, {"path": "a", "hub": "b"}])
def test_a_source_is_a_path_or_a_hub_id(given):
    with pytest.raises(
        params.ParameterError, match="exp07_0g: .*either a path or a hub id, not both or neither"
    ):
        experiments.experiment_params("exp07_0g", corpus=given)
