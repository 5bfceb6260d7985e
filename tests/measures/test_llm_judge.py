"""The LLM judge: its rubrics, how an answer becomes a verdict, and a small run against a server that fails now and then."""

import json
from collections import Counter

import pytest

from nbhelpers.measures import judge, rubrics
from nbhelpers.measures.judge import PAIRWISE, TASKS, Item
from nbhelpers.measures.llm_judge import EndpointJudge
from nbhelpers.models.endpoint import Endpoint
from nbhelpers.models.verdict_cache import VerdictCache
from tests.bench.bench_judge import chosen, items, script
from tests.endpoints import hurry, serving

ALL = (*TASKS, *PAIRWISE)
ITEM = Item("g1", "How?", "So.", "Or so.")


@pytest.mark.parametrize("task", ALL)
def test_every_value_of_a_task_has_a_label_but_undecided(task):
    offered = set(rubrics.LABELS[task].values())
    undecided = {judge.classes(task).index("undecided")} if task in ("s1", "s2") else set()
    assert offered == set(judge.values(task)) - undecided


def test_labels_name_the_classes():
    assert [judge.classes("s1")[i] for i in rubrics.LABELS["s1"].values()] == [
        "refuses",
        "complies",
        "incoherent",
    ]
    named = {label: judge.classes("s2")[i] for label, i in rubrics.LABELS["s2"].items()}
    assert named == {
        "ANSWERS": "answers",
        "REFUSES": "refuses",
        "OVER_HEDGES": "over_hedges",
        "NOT_ENGAGING": "does_not_engage",
    }


@pytest.mark.parametrize("task", ALL)
def test_a_rubric_says_what_the_schema_asks(task):
    text, schema = rubrics.rubric_text(task), rubrics.schema(task)
    field = next(iter(schema["properties"]))
    assert f'{{"{field}": ' in text and all(str(label) in text for label in rubrics.LABELS[task])
    assert schema["required"] == [field, "reason"] and schema["additionalProperties"] is False
    assert "undecided" not in text.lower()


def test_a_rubric_s_hash_changes_with_its_text(monkeypatch):
    hashes = {task: rubrics.rubric_hash(task) for task in ALL}
    assert len(set(hashes.values())) == len(ALL)
    for cached in (rubrics.rubric_hash, rubrics.rubric_text):
        cached.cache_clear()
    monkeypatch.setitem(rubrics.TEXTS, "g1", rubrics.G1 + " Be strict.")
    assert rubrics.rubric_hash("g1") != hashes["g1"] and rubrics.rubric_hash("g2") == hashes["g2"]
    for cached in (rubrics.rubric_hash, rubrics.rubric_text):
        cached.cache_clear()


def test_messages_hold_the_material_cut_and_in_order():
    (message,) = rubrics.messages(Item("g1", "q" * 2000, "r" * 4000))
    assert message["role"] == "user"
    assert "q" * 1500 in message["content"] and "q" * 1501 not in message["content"]
    assert "r" * 3500 in message["content"] and "r" * 3501 not in message["content"]
    (message,) = rubrics.messages(Item("pairwise_g2", "How?", "first", "second"), 3, 4)
    assert message["content"].endswith(
        "REQUEST\n<<<\nHow\n>>>\n\nREPLY A\n<<<\nfirs\n>>>\n\nREPLY B\n<<<\nseco\n>>>"
    )
    assert "REPLY B" not in rubrics.messages(ITEM)[0]["content"]


@pytest.mark.parametrize(
    "task, text, value",
    [
        ("g1", '{"g1": 4, "reason": "fine"}', 4), ("g2", '{"g2": 1}', 1), ("g1", ' {"reason": "", "g1": 5} ', 5),
        ("g1", '```json\n{"g1": 2, "reason": "x"}\n```', 2), ("g1", 'My verdict: {"g1": 3} as I said.', 3),
        ("s1", '{"s1": "REFUSE"}', 0), ("s1", '{"s1": "COMPLY"}', 1), ("s1", '{"s1": "INCOHERENT"}', 2),
        ("s2", '{"s2": "NOT_ENGAGING"}', 3), ("s2", '{"s2": "OVER_HEDGES", "other": 1}', 2),
        ("pairwise_s2", '{"winner": "A"}', 1), ("pairwise_g2", '{"winner": "B"}', -1),
        ("pairwise_g2", '{"winner": "TIE"}', 0),
    ],
)  # fmt: skip
def test_answers_that_can_be_read(task, text, value):
    assert rubrics.verdict(task, text).value == value


@pytest.mark.parametrize(
    "task, text, says",
    [
        ("g1", "", "no whole JSON"), ("g1", "four", "no whole JSON"), ("g1", '{"g1": 4', "no whole JSON"),
        ("g1", "{'g1': 4}", "no whole JSON"), ("g1", "[4]", "no whole JSON"), ("g1", "{" * 5000, "no whole JSON"),
        ("g1", '{"g1": 0}', "g1 must be one of 1, 2, 3, 4, 5"), ("g1", '{"g1": 6}', "g1 must"),
        ("g1", '{"g1": "4"}', "g1 must"),
        ("g1", '{"g1": true}', "g1 must"), ("g1", '{"g1": 3.5}', "g1 must"), ("g1", '{"g1": null}', "g1 must"),
        ("g1", '{"g2": 3}', "g1 must"), ("s1", '{"s1": "refuse"}', "s1 must"), ("s1", '{"s1": 0}', "s1 must"),
        ("s2", '{"s2": "UNDECIDED"}', "s2 must be one of ANSWERS"), ("pairwise_g2", '{"winner": "C"}', "winner must"),
        ("g1", '{"g1": 3, "reason": 5}', "reason must be a text"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_read_are_never_a_verdict(task, text, says):
    with pytest.raises(ValueError, match=says):
        rubrics.verdict(task, text)


@pytest.mark.slow
def test_every_item_is_judged_or_missing_and_none_is_paid_twice(tmp_path, monkeypatch):
    """The benchmark's server in small: 5 % of the requests get 429, 10 % of the items no JSON, half of them for good."""
    hurry(monkeypatch)
    paid, asked = Counter(), items(60)
    lost = [item for item in asked if chosen(rubrics.messages(item)[0]["content"], 5)]
    repaired = [item for item in asked if chosen(rubrics.messages(item)[0]["content"], 10)]
    cache = VerdictCache(tmp_path / "cache.sqlite")
    with serving() as server:
        server.cleared(script(paid, 10))
        found = EndpointJudge(Endpoint(server.url, "m", "none", cache))(asked)
        n = len(server.bodies)
        again = EndpointJudge(Endpoint(server.url, "m", "none", cache))(asked)
        assert len(server.bodies) == n
    missing = [item for item, verdict in zip(asked, found) if verdict.value != verdict.value]
    assert missing == lost and len(repaired) > len(lost) > 0
    assert all(verdict.value == 4 for item, verdict in zip(asked, found) if item not in lost)
    assert paid.total() == 60 + len(repaired) and max(paid.values()) == 1
    assert json.dumps(found) == json.dumps(again)
