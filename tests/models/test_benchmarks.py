"""Public benchmarks as evaluation records: the criterion of an IFEval prompt, the study's recipes, local files."""

import json
import random

import pandas as pd
import pytest

from nbhelpers.core.params import ParameterError
from nbhelpers.core.schemas import Texts
from nbhelpers.measures import formats, scoring
from nbhelpers.models import benchmarks, corpora
from nbhelpers.models.evaluation import read_evaluation
from nbhelpers.models.ifeval import INSTRUCTIONS, criteria

# Rows as the benchmarks have them, made up.
ROWS = {
    "mmlu": [
        {"question": f"Which is number {i}?", "subject": "logic", "choices": ["one", "two", "six", "ten"], "answer": i % 4}
        for i in range(9)
    ],
    "gsm8k": [{"question": f"What is {i} + 1,000?", "answer": f"It is.\n#### 1,00{i}"} for i in range(9)],
    "ifeval": [
        {"key": 1, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]},
        {"key": 2, "prompt": "Ten words.", "instruction_id_list": ["length_constraints:number_words"],
         "kwargs": [{"num_words": 10, "relation": "less than"}]},
        {"key": 3, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]},
        {"key": 4, "prompt": "In Hindi.", "instruction_id_list": ["language:response_language"],
         "kwargs": [{"num_words": None}]},
    ],
    "mt_bench": [{"prompt_id": i, "category": "math", "prompt": [f"Turn one of {i}.", "Turn two."]} for i in range(3)],
    "advbench": [{"prompt": f"Do harm number {i}", "target": "Sure, here is"} for i in range(6)],
    "xstest": [
        {"id": f"v2-{i}", "type": "homonyms", "label": "safe" if i % 2 else "unsafe", "prompt": f"How do I kill process {i}?"}
        for i in range(12)
    ],
}  # fmt: skip
COUNTS = {"mmlu": 4, "gsm8k": 3, "ifeval": 3, "mt_bench": 2, "advbench": 5, "xstest": 5}


@pytest.fixture
def files(tmp_path):
    """Return local sources of all benchmarks: one as Parquet, the others as JSON Lines."""
    found = {}
    for name, rows in ROWS.items():
        path = tmp_path / f"{name}.{'parquet' if name == 'mmlu' else 'jsonl'}"
        if name == "mmlu":
            pd.DataFrame(rows).to_parquet(path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[name] = Texts(path=str(path))
    return found


# --- one criterion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "instructions, given, expected",
    [
        (["punctuation:no_comma"], [{}], ("no_commas", {})),
        (["length_constraints:number_words"], [{"relation": "at least", "num_words": 300}], ("word_count_min", {"min": 300})),
        (["length_constraints:number_words"], [{"relation": "less than", "num_words": 50}], ("word_count_max", {"max": 50})),
        (["length_constraints:number_words"], [{"relation": "at most", "num_words": 50}], ("word_count_max", {"max": 50})),
        (["length_constraints:number_words"], [{}], ("word_count_min", {"min": 100})),
        (["length_constraints:number_sentences"], [{"relation": "less than", "num_sentences": 7}],
         ("sentence_count_max", {"max": 7})),
        (["detectable_format:number_bullet_lists"], [{"num_bullets": None}], ("bullet_list", {"min_count": 3})),
        (["detectable_format:title"], [{}], ("markdown_sections", {"min_count": 2})),
        (["startend:end_checker"], [{"end_phrase": "Bye."}], ("ends_with", {"suffix": "Bye."})),
        (["keywords:existence"], [{"keywords": ["a", "b"]}], ("contains_all_keywords", {"keywords": ["a", "b"]})),
        (["detectable_content:postscript"], [{"postscript_marker": "P.P.S"}], ("contains_phrase", {"phrase": "P.P.S"})),
        (["detectable_content:postscript"], [None], ("contains_phrase", {"phrase": "P.S."})),
        # One that wins at once wins over an earlier one that does not, and over a later one that does.
        (["detectable_format:title", "punctuation:no_comma", "change_case:english_lowercase"], [{}, {}, {}],
         ("no_commas", {})),
        # Of those that do not win, the first.
        (["detectable_format:number_highlighted_sections", "detectable_format:title"], [{"num_highlights": 5}, {}],
         ("highlighted_sections", {"min_count": 5})),
        # What nothing checks is passed over, and alone it is "other".
        (["combination:two_responses", "detectable_content:number_placeholders"], [{}, {"num_placeholders": 4}],
         ("has_placeholders", {"min_count": 4})),
        (["combination:two_responses"], [{}], ("other", {})),
        (["startend:end_checker"], [{"end_phrase": None}], ("other", {})),
        (["startend:end_checker", "punctuation:no_comma"], [{"end_phrase": ""}, {}], ("no_commas", {})),
        (["startend:quotation", "detectable_format:title"], [], ("wrapped_in_quotes", {})),
    ],
)  # fmt: skip
def test_the_criterion_of_instructions(instructions, given, expected):
    assert criteria(instructions, given) == dict(zip(("type", "params"), expected))


def test_the_highlighted_summary_of_the_study_s_first_format_prompt():
    """Its first record: words, commas and highlights are asked for, and the commas are what is checked."""
    ids = [
        "punctuation:no_comma",
        "detectable_format:number_highlighted_sections",
        "length_constraints:number_words",
    ]
    given = [{}, {"num_highlights": 3}, {"relation": "at least", "num_words": 300}]
    assert criteria(ids, given) == {"type": "no_commas", "params": {}}


def test_every_instruction_of_ifeval_is_known_and_its_kind_has_a_rule():
    assert len(INSTRUCTIONS) == 25
    full = {"end_phrase": "x", "keywords": ["x"]}
    kinds = {criteria([name], [full])["type"] for name in INSTRUCTIONS}
    assert kinds - {"other"} <= set(formats.KINDS) and len(kinds) == 15


@pytest.mark.parametrize("name", ["keywords:frequence", "count:word_count_range", ""])
def test_an_unknown_instruction_raises_even_behind_one_that_wins(name):
    for instructions in ([name], ["punctuation:no_comma", name]):
        with pytest.raises(ParameterError, match=f"IFEval has no instruction '{name}'"):
            criteria(instructions, [{}, {}])


# --- records ---------------------------------------------------------------------------------------------------------


def test_benchmarks_become_records_that_are_read_back(files, tmp_path):
    records = benchmarks.benchmark_records(files, COUNTS)
    benchmarks.write_records(records, tmp_path / "built.jsonl")
    pairs = read_evaluation(tmp_path / "built.jsonl")
    assert [record for _, record in pairs] == records
    assert [p.category for p, _ in pairs[:12]] == (
        ["content_fact"] * 4 + ["content_reason"] * 3 + ["format"] * 3 + ["conversation"] * 2
    )
    assert sorted(p.category for p, _ in pairs[12:]) == ["harmful"] * 5 + ["harmless"] * 5
    assert records[0]["id"] == "bench_CONTENT-FACT_0000" and records[-1]["id"] == "bench_SAFETY_0021"


def test_rows_are_shuffled_as_in_the_study(files):
    order = list(range(9))
    random.Random(42).shuffle(order)
    records = benchmarks.benchmark_records({"mmlu": files["mmlu"]}, COUNTS)
    assert [r["formats"]["A"].splitlines()[0] for r in records] == [
        f"Which is number {i}?" for i in order[:4]
    ]
    assert [r["expected_answer"] for r in records] == ["ABCD"[i % 4] for i in order[:4]]


def test_a_question_of_mmlu_has_three_forms_and_its_letter(files):
    record = benchmarks.mmlu(ROWS["mmlu"][2])
    asked = "Which is number 2?\n(A) one\n(B) two\n(C) six\n(D) ten"
    assert record["formats"]["A"] == asked and record["formats"]["B"] == f"Question: {asked}\nAnswer:"
    assert record["formats"]["C"] == (
        f"Answer with only the letter A, B, C, or D.\n\nQuestion: {asked}\n\nAnswer:"
    )
    task = scoring.task(record)
    assert (task.answer, task.options, record["metadata"]["subject"]) == (
        "C",
        ("one", "two", "six", "ten"),
        "logic",
    )


def test_a_problem_of_gsm8k_is_checked_by_its_last_number():
    asked = scoring.task(benchmarks.gsm8k(ROWS["gsm8k"][5]))
    assert (asked.role, asked.answer) == ("arithmetic", "1,005")
    assert scoring.scores(asked, "So it is 1005.")["arithmetic"] == 1


def test_prompts_of_ifeval_are_distinct_in_order_and_bare(files):
    records = benchmarks.benchmark_records({"ifeval": files["ifeval"]}, COUNTS)
    assert [(r["metadata"]["original_id"], r["compliance_criteria"]) for r in records] == [
        ("1", {"type": "no_commas", "params": {}}),
        ("2", {"type": "word_count_max", "params": {"max": 10}}),
        ("4", {"type": "other", "params": {}}),
    ]
    assert (
        [r["text"] for r in records]
        == [r["message"] for r in records]
        == ["No commas.", "Ten words.", "In Hindi."]
    )


def test_requests_are_the_safe_ones_and_the_harmful_ones_in_one_wrapper_and_no_target_is_kept(files):
    sources = {name: files[name] for name in ("advbench", "xstest")}
    records = benchmarks.benchmark_records(sources, COUNTS)
    for record in records:
        assert record["text"] == f"Question: {record['message']}\nAnswer:"
        assert scoring.task(record).role == ("harmful" if record["source"] == "AdvBench" else "harmless")
    assert all(int(r["message"].split()[-1][:-1]) % 2 for r in records if r["source"] == "XSTest")
    assert "Sure" not in json.dumps(records)
    sources_in_order = [record["source"] for record in records]
    assert sources_in_order != sorted(sources_in_order)  # shuffled together


@pytest.mark.parametrize(
    "change, sentence",
    [(lambda files: files | {"mmlu_pro": files["mmlu"]}, "there is no benchmark 'mmlu_pro'; did you mean 'mmlu'"),
     (lambda files: {"mt_bench": files["gsm8k"]}, "has no field 'prompt', which mt_bench needs"),
     (lambda files: {"xstest": files["advbench"]}, "has no field 'label', which xstest needs"),
     (lambda files: {"mmlu": Texts(path="nowhere.parquet")}, "there is no benchmark file .*nowhere.parquet"),
     (lambda files: {"mmlu": Texts(path="README.md")}, "name a file that ends in .json, .jsonl, .parquet, .csv")],
)  # fmt: skip
def test_a_benchmark_that_cannot_be_used_is_one_sentence(change, sentence, files):
    with pytest.raises(ParameterError, match=sentence) as error:
        benchmarks.benchmark_records(change(files), COUNTS | {"mmlu_pro": 1})
    assert "\n" not in str(error.value)


def test_too_few_rows_and_a_file_that_is_none_are_one_sentence(files, tmp_path):
    with pytest.raises(ParameterError, match="xstest holds 6 usable rows and 7 are wanted"):
        benchmarks.benchmark_records({"xstest": files["xstest"]}, {"xstest": 7})
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    with pytest.raises(ParameterError, match="the benchmark file .*broken.parquet could not be read"):
        benchmarks.benchmark_records({"mmlu": Texts(path=str(broken))}, COUNTS)


def test_the_hub_is_asked_for_the_study_s_data_sets(monkeypatch):
    asked = []

    def records(source, *, key):
        asked.append((source.hub, source.name, source.split))
        name = next(n for n, s in benchmarks.SOURCES.items() if s == source)
        return iter(ROWS[name])

    monkeypatch.setattr(corpora, "records", records)
    assert len(benchmarks.benchmark_records(counts=COUNTS)) == sum(COUNTS.values())
    assert ("cais/mmlu", "all", "test") in asked and ("openai/gsm8k", "main", "test") in asked
    assert len(asked) == 6 and sum(benchmarks.COUNTS.values()) == 980
