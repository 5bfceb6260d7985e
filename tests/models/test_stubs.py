"""The prompt sets of experiments 01 and 02: held out, balanced, repeatable, readable."""

import functools
import itertools
import json
import re
from collections import Counter

import pytest

from nbhelpers.core.params import FAMILIES
from nbhelpers.models import loading, prompts
from nbhelpers.models import stubs as stubs_of
from pocket import instruction, pretraining, stubs, train, world

FIELDS = {"id", "category", "group", "text", "message"}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@functools.cache
def trained_text():
    """Return a sample of both training sets, one long text."""
    documents = itertools.islice(pretraining.documents(train.SEED, 1000), 8000)
    examples = itertools.islice(instruction.examples(train.SEED), 8000)
    return "\n".join([*documents, *(f"{e.message}\n{e.reply}" for e in examples)])


def trained_on(prompt):
    """Return whether the sample holds a prompt as whole words."""
    text = trained_text()
    return prompt in text and bool(re.search(r"(?<!\w)" + re.escape(prompt) + r"(?!\w)", text))


@pytest.mark.parametrize(
    "path, records", [(stubs.EXP01, stubs.exp01_records), (stubs.EXP02, stubs.exp02_records)]
)
def test_files_are_what_the_recipe_makes_and_load(path, records):
    rows = records()
    assert read(path) == rows == records()
    assert (
        len({row["id"] for row in rows}) == len({(row["text"], row["message"]) for row in rows}) == len(rows)
    )
    loaded = prompts.read_prompts(path)
    assert [(p.id, p.category, p.text, p.message) for p in loaded] == [
        (row["id"], row["category"], row["text"], row["message"]) for row in rows
    ]
    assert all(row["text"] == row["text"].strip() for row in rows)


def test_exp01_is_balanced_and_big_enough():
    rows = stubs.exp01_records()
    assert all(set(row) == FIELDS | {"target"} for row in rows)
    assert all(re.fullmatch(r" \w+", row["target"]) for row in rows)
    counts = Counter(row["category"] for row in rows)
    assert set(counts) == {"memorisation", "reasoning"} and min(counts.values()) >= 30
    assert {row["group"] for row in rows} == {"fact", "sum", "two_step", "rule", "series", "analogy"}


def test_exp02_has_as_many_stubs_as_questions_of_the_same_content():
    rows = stubs.exp02_records()
    assert all(set(row) == FIELDS | {"form", "answer"} for row in rows) and len(rows) >= 120
    counts = Counter((row["category"], row["form"]) for row in rows)
    assert set(counts) == set(itertools.product(("IC", "OOC", "R"), ("stub", "question")))
    assert len(set(counts.values())) == 1
    for stub, question in zip(rows[::2], rows[1::2]):
        assert stub["id"].removesuffix("-stub") == question["id"].removesuffix("-question")
        assert (stub["form"], question["form"]) == ("stub", "question")
        assert stub["text"] == stub["message"] and not stub["text"].endswith(("?", "."))
        assert question["text"] == f"Question: {question['message']}\nAnswer:"


@pytest.mark.slow
@pytest.mark.parametrize("records", [stubs.exp01_records, stubs.exp02_records])
def test_no_prompt_is_in_training_text(records):
    for row in records():
        for prompt in {row["text"], row["message"], row["message"].removeprefix("Answer with one word: ")}:
            assert not trained_on(prompt), row["id"]


def test_the_search_would_find_a_trained_prompt():
    """The same search finds statements and questions that training does make."""
    facts = [fact for fact in world.FACTS.values() if fact.kind == "person"][:20]
    for fact in facts:
        made = [i for i in range(5) if i != world.held_out_statement(fact)]
        assert sum(trained_on(world.cloze(fact, i)) for i in made) >= 3


def test_sums_are_held_out_whatever_the_thing_counted():
    """Form 2 names a thing at random, so a sample may miss it: the form itself must be the held-out one."""
    forms = {}
    for problem, form in itertools.product(world.SUMS, range(world.SUM_FORMS)):
        for thing in world.COUNTED:
            forms[world.sum_text(problem, form, thing).rpartition(" ")[0]] = problem, form
    found = 0
    for row in stubs.exp01_records() + [r for r in stubs.exp02_records() if r["form"] == "stub"]:
        if row["group"] == "sum" and row["text"] in forms:
            problem, form = forms[row["text"]]
            assert form == world.held_out_form(problem)
            assert form or world.held_out_word_problem(problem)
            assert row.get("target", row.get("answer")).strip() in (
                str(problem[3]),
                world.NUMBER_WORDS[problem[3]],
            )
            found += 1
    assert found == 12 + 5


def test_invented_names_are_held_out():
    for row in stubs.exp02_records():
        if row["group"] in ("invented", "nonsense"):
            names = [w for w in re.findall(r"[A-Z]\w+", row["message"]) if w not in world.SUBJECTS]
            assert any(world.bucket("name", name, of=8) == 0 for name in names), row


def test_compositions_are_true():
    assert (
        stubs.second_hop("Mira", "town landmark")
        == world.FACTS[world.FACTS["Mira", "town"].value, "landmark"].value
    )
    food = next(f for f in world.FACTS.values() if f.attribute == "food" and f.value == "figs")
    assert stubs.second_hop(food.subject, "food colour") == world.FACTS["fig", "colour"].value
    for row in stubs.exp01_records():
        if row["text"].startswith("The gate of the town where "):
            subject = row["text"].split()[6]
            assert row["target"] == " " + stubs.second_hop(subject, "town gate")


@pytest.mark.parametrize(
    "text, target",
    [
        ("In a code red means cow, blue means pig and grey means hen. In this code blue means", "pig"),
        ("Swap the words: red cow becomes cow red, and blue pig becomes pig", "blue"),
    ],
)
def test_rules_and_series_follow_themselves(text, target):
    pattern = [re.compile(re.sub("red|blue|grey|cow|pig|hen", r"(\\w+)", re.escape(text))), text, target]
    words = pattern[0].fullmatch(text).groups()
    place = [i for i, word in enumerate(words) if word == target][0]
    rows = [row for row in stubs.exp01_records() if row["group"] == "rule"]
    matched = [(m.groups(), row["target"]) for row in rows if (m := pattern[0].fullmatch(row["text"]))]
    assert len(matched) == 4
    assert all(groups[place] == word.strip() for groups, word in matched)


def test_series_go_on():
    rows = [row for row in stubs.exp01_records() if row["group"] == "series"]
    for row in rows:
        *shown, last = (row["text"] + row["target"]).split(", ")
        if last.isdigit():
            assert len({int(b) - int(a) for a, b in itertools.pairwise([*shown, last])}) == 1
        else:
            assert last == shown[-2] != shown[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_enough_stubs_are_one_token_away(family):
    pair = loading.load_pair(f"{family}_pocket")
    kept = stubs_of.single_token(pair.pt, stubs_of.read_stubs(stubs.EXP01))
    counts = Counter(stub.category for stub, *_ in kept)
    assert sum(counts.values()) >= 60 and min(counts.values()) >= 25


def test_the_study_s_own_records_load(tmp_path):
    """The original's prompt banks: `formats` or a bare `prompt`, with a category."""
    records = [
        {"id": "IC_001", "category": "IC", "prompt": "The capital of France is"},
        {
            "id": "R_001",
            "category": "R",
            "formats": {"A": "Two and two make", "B": "Question: 2 + 2?\nAnswer:"},
        },
        {
            "id": "OOC_001",
            "category": "OOC",
            "formats": {"A": "The king of Mars is", "B": "The king of Mars is"},
        },
    ]
    file = tmp_path / "exp2.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    loaded = prompts.read_prompts(file)
    assert [p.category for p in loaded] == ["IC", "R", "OOC"]
    assert [p.text for p in loaded] == [
        "The capital of France is",
        "Question: 2 + 2?\nAnswer:",
        "The king of Mars is",
    ]
    assert [p.message for p in loaded] == ["The capital of France is", "2 + 2?", "The king of Mars is"]
