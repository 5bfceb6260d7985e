"""Prompts: one BOS, no thinking, the request alone in the chat turn, balanced and repeatable choice; the prompt files
for real models, and prompts of a data set of the hub."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.core.params import FAMILIES, ParameterError
from nbhelpers.core.schemas import PromptSet
from nbhelpers.experiments.exp02_prompt_kinds import measure as exp02_measure
from nbhelpers.models import prompts
from nbhelpers.models import stubs as stubs_of
from nbhelpers.models.loading import load_pair
from tests.stubs import REPOSITORY

KEYS = [f"{family}_pocket" for family in FAMILIES]
POCKET = "pocket/prompts.jsonl"
NARROWING = "params/prompts/narrowing.jsonl"
PROMPT_KINDS = "params/prompts/kinds.jsonl"
HAS_BOS = {
    "gemma": (1, 1),
    "llama": (1, 1),
    "qwen": (0, 0),
    "mistral": (1, 1),
    "deepseek": (1, 1),
    "olmo": (0, 1),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_exactly_one_bos_where_the_family_has_one(family):
    pair = load_pair(f"{family}_pocket")
    prompt = prompts.load_prompts(POCKET, 1)
    for decoder, expected in zip(pair, HAS_BOS[family]):
        (ids,) = prompts.render(decoder, prompt)
        bos = decoder.tokenizer.bos_token_id
        assert ids.count(bos) == expected if bos is not None else expected == 0


def test_thinking_is_off():
    decoder = load_pair("qwen_pocket").it
    assert decoder.tokenizer.decode(prompts.chat_ids(decoder, "Hello!")).endswith("<think>\n\n</think>\n\n")


def test_chat_turn_holds_the_request_without_the_thread_around_it():
    decoder = load_pair("olmo_pocket").it
    prompt = next(p for p in prompts.read_prompts(POCKET) if p.category == "fact")
    text = decoder.tokenizer.decode(prompts.chat_ids(decoder, prompt.message))
    assert prompt.message in text and "Answer:" not in text
    assert prompt.text == f"Question: {prompt.message}\nAnswer:"


def test_choice_is_balanced_repeatable_and_in_file_order():
    everything = prompts.read_prompts(POCKET)
    chosen = prompts.choose(everything, 30, seed=5)
    assert chosen == prompts.choose(everything, 30, seed=5) != prompts.choose(everything, 30, seed=6)
    counts = Counter(prompt.category for prompt in chosen)
    assert len(counts) == len({prompt.category for prompt in everything})
    assert max(counts.values()) - min(counts.values()) <= 1
    order = [everything.index(prompt) for prompt in chosen]
    assert order == sorted(order)


def test_bad_files_are_named(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "a", "category": "x", "text": "t"}\n')
    with pytest.raises(ParameterError, match="line 1.*message"):
        prompts.read_prompts(str(file))
    file.write_text("{not json\n")
    with pytest.raises(ParameterError, match="no JSON"):
        prompts.read_prompts(str(file))
    file.write_text('{"id": "a", "category": "x", "text": "t", "message": "m"}\n' * 2)
    with pytest.raises(ParameterError, match="one id"):
        prompts.read_prompts(str(file))
    with pytest.raises(ParameterError, match="no prompt file"):
        prompts.read_prompts("nowhere.jsonl")
    with pytest.raises(ParameterError, match="n_prompts = 9999"):
        prompts.load_prompts(POCKET, 9999)


GOOD = {"id": "a", "category": "c", "text": "Question: Hi?\nAnswer:", "message": "Hi?"}


def line(**change):
    """One line of a prompt file, with some fields changed or, if None, left out."""
    record = {key: value for key, value in (GOOD | change).items() if value is not None}
    return json.dumps(record, ensure_ascii=False)


@pytest.mark.parametrize(
    "content, texts",
    [(line(text="Roses are red\u2028Violets are blue"), ["Roses are red\u2028Violets are blue"]),
     (line(text="one\x85two"), ["one\x85two"]),
     (line(text="page\fpage"), ["page\fpage"]),
     (line() + "\n\n  \n" + line(id="b") + "\n\n", [GOOD["text"]] * 2),
     ("\ufeff" + line(), [GOOD["text"]]),
     (line() + "\r\n" + line(id="b") + "\r\n", [GOOD["text"]] * 2),
     (line(id=0), [GOOD["text"]]),
     (json.dumps(GOOD | {"message": "a\0b"}), [GOOD["text"]]),
     (line(text="\U0001f468\u200d\U0001f469 \u05e9\u05dc\u05d5\u05dd e\u0301"),
      ["\U0001f468\u200d\U0001f469 \u05e9\u05dc\u05d5\u05dd e\u0301"])],
)  # fmt: skip
def test_prompt_files_as_people_have_them_are_read(content, texts, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content.encode("utf-8"))
    assert [prompt.text for prompt in prompts.read_prompts(str(file))] == texts


@pytest.mark.parametrize(
    "content, sentence",
    [(line() + "\n42\n", "mine.jsonl line 2 is no record but a int"),
     ("null", "line 1 is no record but a NoneType"),
     ("[1, 2]", "line 1 is no record but a list"),
     (line(text=5), "line 1: holds no text in the field 'text' but a int"),
     (line(message=[{"role": "user", "content": "Hi?"}]), "line 1: holds no text in the field 'message' but a list"),
     (line(text="   "), "line 1: the field 'text' is empty"),
     (line(message="  \n "), "line 1: the field 'message' is empty"),
     (line(category=3), "line 1: holds no text in the field 'category' but a int"),
     (line(id=1.5), "line 1: the record needs an 'id', a text or a whole number, not 1.5"),
     (line(id=None), "line 1: the record needs an 'id'"),
     (json.dumps({"formats": {"A": "Hi"}, "question_type": "x"}), "line 1: the record needs an 'id'"),
     (json.dumps({"id": "a", "formats": "Hi"}), "line 1: holds no text in the field 'text'"),
     (line(id=1) + "\n" + line(id="1"), "holds two records with one id"),
     ('{"id": "a", "category": "c", "text": "nice \\ud83d", "message": "m"}', "line 1 holds half a character"),
     (json.dumps([GOOD], indent=1), "line 1 is no JSON record: Expecting value; write one record a line, not one array"),
     ("", "holds no prompts"),
     ("[" * 100_000, "line 1 is no JSON record: nested too deeply"),
     (line(text="caf\u00e9").encode("latin-1"), "line 1 is not UTF-8")],
)  # fmt: skip
def test_a_malformed_prompt_file_is_one_sentence_with_its_line(content, sentence, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    with pytest.raises(ParameterError) as error:
        prompts.read_prompts(str(file))
    said = str(error.value)
    assert sentence in said and said.startswith("mine.jsonl") and "\n" not in said and said.endswith(".")


def test_stubs_without_their_fields_are_named(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(line(group="g"))
    with pytest.raises(ParameterError, match="the record 'a' has no field 'target'"):
        stubs_of.read_stubs(str(file))


def test_study_records_are_read():
    """The study's own format: text as published, the wrapper taken off for the chat turn."""
    record = {
        "id": "R-1",
        "question_type": "factual",
        "formats": {"A": "short", "B": "Question: Who?\nAnswer:"},
    }
    prompt = prompts.parse(record, "here")
    assert (prompt.text, prompt.message, prompt.category) == ("Question: Who?\nAnswer:", "Who?", "factual")


def test_study_data_set_loads():
    folder = Path(os.environ.get("STUDY_DATASETS", REPOSITORY.parent / "shared" / "reference" / "datasets"))
    path = folder / "exp3_dataset.jsonl"
    if not path.exists():
        pytest.skip(f"the study's prompt set is not at {path}")
    read = prompts.read_prompts(str(path))
    assert len(read) == 2936
    assert len(json.loads(path.read_text().splitlines()[0])) > 0
    assert sum("Answer:" in p.message[-8:] for p in read) == 0


def records_of(file):
    """The records of one of the repository's prompt files."""
    return [json.loads(line) for line in (params.ROOT / file).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "file, like", [(NARROWING, "pocket/exp01.jsonl"), (PROMPT_KINDS, "pocket/exp02.jsonl")]
)
def test_prompt_files_for_real_models_have_the_pockets_fields_and_repeat_nothing(file, like):
    records = records_of(file)
    assert {tuple(record) for record in records} == {tuple(record) for record in records_of(like)}
    assert all(isinstance(value, str) and value == value.strip(" \n") or key == "target"
               for record in records for key, value in record.items())  # fmt: skip
    for field in ("id", "text", "message"):
        assert len({record[field] for record in records}) == len(records)


def test_stubs_for_real_models_are_balanced_and_end_in_one_short_word():
    stubs = stubs_of.read_stubs(NARROWING)
    counts = Counter(stub.category for stub in stubs)
    assert set(counts) == {"memorisation", "reasoning"} and len(set(counts.values())) == 1
    assert len(stubs) >= 64
    for stub in stubs:
        assert stub.target[0] == " " and stub.target[1:].isalnum() and not stub.text.endswith(" ")
        assert (
            len(stub.target) == 2 or stub.target[1:].isalpha()
        )  # a number is one digit: many tokenizers split two
        assert stub.message.startswith("Answer with one word: ") and stub.message.endswith("?")


def test_kinds_for_real_models_are_balanced_over_kinds_and_forms():
    records = records_of(PROMPT_KINDS)
    counts = Counter((record["category"], record["form"]) for record in records)
    assert counts == {(kind, form): 30 for kind in exp02_measure.KINDS for form in ("stub", "question")}
    loaded = prompts.read_prompts(PROMPT_KINDS)
    for record, prompt in zip(records, loaded, strict=True):
        question = f"Question: {prompt.message}\nAnswer:"
        assert prompt.text == (question if record["form"] == "question" else prompt.message)
        assert exp02_measure.form_of(prompt) == record["form"]
        if record["category"] == "OOC":
            assert record["answer"] == ""  # nobody can know it
    assert sum(record["answer"] == "" for record in records if record["category"] != "OOC") <= 6


@pytest.mark.parametrize("form", ["stub", "question"])
def test_kinds_for_real_models_are_equally_long(form):
    """A kind that is longer would have another profile for that alone."""
    means = []
    for kind in exp02_measure.KINDS:
        lengths = [
            len(record["message"].split())
            for record in records_of(PROMPT_KINDS)
            if (record["category"], record["form"]) == (kind, form)
        ]
        assert 10 <= min(lengths) and max(lengths) <= 16
        means.append(sum(lengths) / len(lengths))
    assert max(means) - min(means) < 0.75


@pytest.mark.parametrize("profile", ["laptop", "paper"])
def test_profiles_for_real_models_find_their_prompts(profile):
    stubs, kinds = (experiments.experiment_params(key, profile) for key in ("exp01", "exp02"))
    assert len(prompts.choose(stubs_of.read_stubs(stubs.prompts), stubs.n_prompts)) == stubs.n_prompts
    chosen = prompts.load_prompts(kinds.prompts, kinds.n_prompts, kinds.seed)
    assert set(Counter(prompt.category for prompt in chosen).values()) == {kinds.n_prompts // 3}


@pytest.fixture
def hub(monkeypatch):
    """Return a function that puts records, or an error, in place of what the hub would give, and lists the calls."""
    calls = []

    def give(*given):
        def load_dataset(*args, **options):
            calls.append((args, options))
            if given and isinstance(given[0], Exception):
                raise given[0]
            return iter(given)

        monkeypatch.setattr("datasets.load_dataset", load_dataset)
        return calls

    return give


ASKED = {"number": 7, "question": " Who wrote Emma? ", "topic": "books", "answer": "Austen"}


def test_questions_of_the_hub_become_prompts(hub):
    calls = hub(ASKED, ASKED | {"number": 8})
    source = PromptSet(
        hub="a/b", name="c", split="test", revision="abc", field="question", id="number", category="topic"
    )
    first, second = prompts.read_prompts(source)
    assert first == prompts.Prompt("7", "books", "Question: Who wrote Emma?\nAnswer:", "Who wrote Emma?")
    assert second.id == "8"
    assert calls == [(("a/b", "c"), dict(split="test", revision="abc", streaming=True))]


def test_stubs_of_the_hub_keep_their_text_and_the_space_before_the_answer(hub):
    calls = hub(ASKED)
    (stub,) = stubs_of.read_stubs(PromptSet(hub="a/b", field="question", form="stub", target="answer"))
    assert (stub.id, stub.category, stub.group, stub.target) == ("1", "all", "all", " Austen")
    assert stub.text == stub.message == "Who wrote Emma?"
    assert len(calls) == 1  # a stream is read once


def test_no_more_records_are_read_than_asked_for(hub):
    hub(*[{"text": f"Which is number {i}?"} for i in range(5)], {"no": "text"})
    source = PromptSet(hub="a/b", first=5)
    assert len(prompts.read_prompts(source)) == 5
    assert prompts.load_prompts(source, 3) == prompts.load_prompts(source, 3)


def test_a_file_with_other_field_names_needs_no_hub(hub, tmp_path):
    calls = hub()
    (tmp_path / "mine.jsonl").write_text(json.dumps(ASKED) + "\n")
    source = PromptSet(path=str(tmp_path / "mine.jsonl"), field="question")
    assert [prompt.message for prompt in prompts.read_prompts(source)] == ["Who wrote Emma?"]
    assert calls == []
    with pytest.raises(ParameterError, match="no text file .*none.jsonl; name one under `prompts`"):
        prompts.read_prompts(PromptSet(path=str(tmp_path / "none.jsonl")))


@pytest.mark.parametrize(
    "given, options, sentence",
    [((OSError("no route"),), {}, "the data set a/b could not be read from the Hugging Face hub (no route)"),
     ((ASKED,), {"field": "query"}, "a/b, record 1, has no field 'query'; its fields: number, question"),
     ((ASKED,), {"field": "number"}, "a/b, record 1, holds no text in the field 'number' but a int"),
     ((ASKED,), {"field": "question", "id": "key"}, "a/b, record 1, has no field 'key'"),
     (({"q": " "},), {"field": "q"}, "a/b, record 1, is empty in the field 'q'"),
     ((ASKED, ASKED), {"field": "question", "id": "number"}, "a/b holds two records with one id")],
)  # fmt: skip
def test_a_data_set_that_cannot_be_used_is_one_sentence(hub, given, options, sentence):
    hub(*given)
    with pytest.raises(ParameterError) as error:
        prompts.read_prompts(PromptSet(hub="a/b", **options))
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_stubs_need_the_field_of_the_answer(hub):
    hub(ASKED)
    with pytest.raises(ParameterError, match="a/b have no answers; name the field .* as `target`"):
        stubs_of.read_stubs(PromptSet(hub="a/b", field="question"))
    with pytest.raises(ParameterError, match="record 1, has no field 'reply'"):
        stubs_of.read_stubs(PromptSet(hub="a/b", field="question", target="reply"))


def exp02(**given):
    """exp02 on one pocket pair with these prompts."""
    return experiments.resolve("exp02", model="llama_pocket", prompts=given.get("prompts", given))


def test_an_experiment_takes_a_data_set_of_the_hub():
    run = exp02(hub="a/b", field="question")
    assert run.experiment.prompts == run.prompts == PromptSet(hub="a/b", field="question")
    assert run.files == []
    assert run.hash == exp02(hub="a/b", field="question").hash != exp02(hub="a/b", field="q").hash
    assert exp02(hub="a/b", revision="abc").hash != exp02(hub="a/b").hash
    assert [path.name for path in exp02(path=PROMPT_KINDS).files] == ["kinds.jsonl"]


@pytest.mark.parametrize(
    "given, sentence",
    [({"hubb": "a/b"}, "unknown key 'prompts.hubb'; did you mean 'hub'?"),
     ({"hub": "a/b", "catgory": "c"}, "unknown key 'prompts.catgory'; did you mean 'category'?"),
     ({"hub": "a/b", "path": "c"}, "must give either a path or a hub id, not both or neither"),
     ({"hub": "a/b", "form": "poem"}, "'prompts.form' is 'poem'; it should be 'question' or 'stub'"),
     ({"prompts": 5}, "'prompts' is 5; it must be the path of a JSON Lines file, or name a data set by `hub`")],
)  # fmt: skip
def test_a_mistake_in_a_data_set_is_named(given, sentence):
    with pytest.raises(ParameterError) as error:
        exp02(**given)
    assert sentence in str(error.value)


def test_a_profile_takes_a_data_set_of_the_hub(project):
    """A profile's prompts are no parameter of an experiment; the hash of a run sees them all the same."""
    path, hashes = project / "params/profiles/pocket.yml", set()
    shared = params.profile_params("pocket").prompts
    for revision in ("abc", "abd"):
        named = f"prompts: {{hub: a/b, field: question, revision: {revision}}}"
        lines = [named if line.startswith("prompts:") else line for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n")
        params._parsed.cache_clear()
        run = experiments.resolve("exp90", model="ann")
        hashes.add(run.hash)
    assert isinstance(shared, str) and run.prompts.revision == "abd" and run.files == []
    assert len(hashes) == 2


@pytest.mark.parametrize("model", ["llama31_8b", "llama32_1b"])
def test_a_missing_prompt_file_says_what_to_do(model, tmp_path, monkeypatch):
    """The study's prompts do not come with the repository: whoever has them puts them there."""
    file = experiments.resolve("exp00", model=model).prompts
    monkeypatch.setattr(prompts, "ROOT", tmp_path)
    with pytest.raises(ParameterError) as error:
        prompts.read_prompts(file)
    said = str(error.value)
    assert str(tmp_path / file) in said and "put it there, or name another file or a data set" in said
    assert said.endswith(".") and "\n" not in said
