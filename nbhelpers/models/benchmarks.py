"""Evaluation records from public benchmarks, read with `datasets`: MMLU, GSM8K, IFEval, MT-Bench, AdvBench and XSTest.

The recipes are those of the study's evaluation set (sources, counts, shuffles with `random.Random(42)`), with three
differences. XSTest is the real one: the study's download failed, and 75 sentences of its own stand in its place. MT-Bench is
the real one: the study's 80 are in its style. Harmful and harmless requests share one wrapper: in the study all 75 harmful
ones have it and none of the 75 harmless ones. Lists that the study wrote by hand (200 questions of conversation, registers,
easy questions) are in no benchmark and so not here.
"""

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from nbhelpers.core.mistakes import suggestion
from nbhelpers.core.params import ROOT, ParameterError
from nbhelpers.core.schemas import Texts
from nbhelpers.models import corpora
from nbhelpers.models.evaluation_records import validated, wrapped
from nbhelpers.models.ifeval import criteria

SEED = 42
LETTERS = "ABCD"
SOURCES = {
    "mmlu": Texts(hub="cais/mmlu", name="all", split="test", field="question"),
    "gsm8k": Texts(hub="openai/gsm8k", name="main", split="test", field="question"),
    "ifeval": Texts(hub="google/IFEval", split="train", field="prompt"),
    "mt_bench": Texts(hub="HuggingFaceH4/mt_bench_prompts", split="train", field="prompt"),
    "advbench": Texts(hub="walledai/AdvBench", split="train", field="prompt"),
    "xstest": Texts(hub="Paul/XSTest", split="train", field="prompt"),
}
COUNTS = {"mmlu": 300, "gsm8k": 200, "ifeval": 250, "mt_bench": 80, "advbench": 75, "xstest": 75}
READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def rows(source: Texts) -> list[dict]:
    """Return all rows of a benchmark, from the hub or from a local JSON, JSON Lines, CSV or Parquet file.

    Raises
    ------
    ParameterError
        If the hub, or the file, cannot be read.
    """
    if source.hub:
        return list(corpora.records(source, key="benchmarks"))
    import datasets

    path = ROOT / source.path
    if path.suffix not in READERS or not path.is_file():
        raise ParameterError(
            f"there is no benchmark file {path}; name a file that ends in {', '.join(READERS)}."
        )
    try:
        return list(
            datasets.load_dataset(READERS[path.suffix], data_files=str(path), split="train", streaming=True)
        )
    except (OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ParameterError(f"the benchmark file {path} could not be read: {reason}.") from None


def shuffled(found: list[dict]) -> list[dict]:
    """Return rows in the order of `random.Random(42).shuffle`."""
    order = list(found)
    random.Random(SEED).shuffle(order)
    return order


def _record(category: str, source: str, request: str, **fields) -> dict:
    """Return a record with the fields that all have, but no id."""
    text = request if category == "GOV-FORMAT" else wrapped(request)
    base = {"category": category, "dataset_version": "benchmarks", "formats": {"A": request, "B": text}}
    base |= {"expected_answer": None, "answer_aliases": [], "expected_behavior": "comply", "source": source}
    return base | {"metadata": {"original_id": ""}} | fields


def mmlu(row: dict) -> dict:
    """Return the record of an MMLU question: four choices, a letter, and the form C that asks for the letter alone."""
    options = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, row["choices"]))
    request, right = f"{row['question']}\n{options}", LETTERS[row["answer"]]
    only = f"Answer with only the letter A, B, C, or D.\n\nQuestion: {request}\n\nAnswer:"
    return _record(
        "CONTENT-FACT",
        "MMLU",
        request,
        formats={"A": request, "B": wrapped(request), "C": only},
        expected_answer=right,
        answer_aliases=[right.lower(), f"({right})", f"({right.lower()})"],
        metadata={"original_id": "", "subject": row.get("subject", "")},
    )


def gsm8k(row: dict) -> dict:
    """Return the record of a GSM8K problem; its answer is what stands after "####"."""
    answer = row["answer"].rpartition("####")[2].strip()
    return _record(
        "CONTENT-REASON", "GSM8K", row["question"], expected_answer=answer, answer_aliases=[answer]
    )


def ifeval(row: dict) -> dict:
    """Return the record of an IFEval prompt, with its one criterion (`criteria`)."""
    prompt, found = row["prompt"], criteria(row["instruction_id_list"], row["kwargs"] or [])
    return _record(
        "GOV-FORMAT",
        "IFEval",
        prompt,
        format_instruction=prompt,
        expected_format=found["type"],
        compliance_criteria=found,
        metadata={"original_id": str(row.get("key", "")), "instructions": row["instruction_id_list"]},
    )


def mt_bench(row: dict) -> dict:
    """Return the record of an MT-Bench question: its first turn."""
    turns = row["prompt"]
    request = turns if isinstance(turns, str) else turns[0]
    metadata = {"original_id": str(row.get("prompt_id", "")), "subject": row.get("category", "")}
    return _record("GOV-CONV", "MT-Bench", request, metadata=metadata)


def advbench(row: dict) -> dict:
    """Return the record of an AdvBench request, which should be refused; the completion that it targets is left out."""
    metadata = {"original_id": "", "expected_behavior": "refuse"}
    request = (
        row["goal"] if "goal" in row else row["prompt"]
    )  # the authors' table says goal, the hub's copy prompt
    return _record("SAFETY", "AdvBench", request, expected_behavior="refuse", metadata=metadata)


def xstest(row: dict) -> dict:
    """Return the record of a safe XSTest request, which should be answered."""
    metadata = {"original_id": str(row.get("id", "")), "expected_behavior": "comply"}
    return _record("SAFETY", "XSTest", row["prompt"], metadata=metadata | {"xstest_type": row["type"]})


MAKERS = {
    "mmlu": mmlu,
    "gsm8k": gsm8k,
    "ifeval": ifeval,
    "mt_bench": mt_bench,
    "advbench": advbench,
    "xstest": xstest,
}


def drawn(name: str, found: list[dict], n: int) -> list[dict]:
    """Return the n rows of a benchmark that become records.

    IFEval's prompts are the first n distinct ones and MT-Bench's the first n, in order; XSTest's are safe ones; all but the
    former two are shuffled first (`shuffled`).

    Raises
    ------
    ParameterError
        If the benchmark holds fewer than n such rows.
    """
    if name == "xstest":
        found = [row for row in found if row["label"] == "safe"]
    if name == "ifeval":
        first: dict[str, dict] = {}
        for row in found:
            first.setdefault(row["prompt"], row)
        found = list(first.values())
    if len(found) < n:
        raise ParameterError(f"{name} holds {len(found)} usable rows and {n} are wanted; lower its count.")
    return (found if name in ("ifeval", "mt_bench") else shuffled(found))[:n]


def _made(name: str, source: Texts, n: int) -> Iterator[dict]:
    """Yield the records of one benchmark; ParameterError names a field that a row lacks."""
    try:
        for row in drawn(name, rows(source), n):
            yield MAKERS[name](row)
    except KeyError as error:
        raise ParameterError(
            f"a row of {source.path or source.hub} has no field {error}, which {name} needs."
        ) from None


def benchmark_records(
    sources: Mapping[str, Texts] = SOURCES, counts: Mapping[str, int] = COUNTS
) -> list[dict]:
    """Return the evaluation records of public benchmarks, validated, with ids "bench_CATEGORY_0000" along the list.

    The order is that of `SOURCES`; harmful and harmless requests are shuffled together, as in the study.

    Parameters
    ----------
    sources
        Where each benchmark is read: data sets of the hub, or local files (`Texts(path=…)`). A benchmark that is not named is
        left out.
    counts
        How many records of each.

    Raises
    ------
    ParameterError
        If a benchmark is unknown or cannot be read, holds too few rows, or a row lacks a field.
    """
    for name in sources:
        if name not in MAKERS:
            raise ParameterError(f"there is no benchmark {name!r}; {suggestion(name, MAKERS)}.")
    made = {name: list(_made(name, sources[name], counts[name])) for name in MAKERS if name in sources}
    safety = shuffled([record for name in ("advbench", "xstest") for record in made.pop(name, [])])
    found = [record for records in made.values() for record in records] + safety
    numbered = [{"id": f"bench_{record['category']}_{i:04d}"} | record for i, record in enumerate(found)]
    return [validated(record, record["id"]) for record in numbered]


def write_records(records: list[dict], path: Path) -> None:
    """Write records as JSON Lines, which `evaluation.read_evaluation` reads."""
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
    )
