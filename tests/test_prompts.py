"""Prompts: one BOS, no thinking, the request alone in the chat turn, balanced and repeatable choice."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from nbhelpers import models, prompts
from nbhelpers.params import FAMILIES, ParameterError
from nbhelpers.tokens import TokenizerError

KEYS = [f"{family}_pocket" for family in FAMILIES]
POCKET = "pocket/prompts.jsonl"
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
    pair = models.load_pair(f"{family}_pocket")
    prompt = prompts.load_prompts(POCKET, 1)
    for decoder, expected in zip(pair, HAS_BOS[family]):
        (ids,) = prompts.render(decoder, prompt)
        bos = decoder.tokenizer.bos_token_id
        assert ids.count(bos) == expected if bos is not None else expected == 0


def test_two_bos_are_refused():
    decoder = models.load_pair("llama_pocket").it
    decoder.tokenizer.chat_template = "{{ bos_token }}" + decoder.tokenizer.chat_template
    with pytest.raises(TokenizerError, match="2 BOS"):
        prompts.chat_ids(decoder, "Hello!")


def test_thinking_is_off():
    decoder = models.load_pair("qwen_pocket").it
    assert decoder.tokenizer.decode(prompts.chat_ids(decoder, "Hello!")).endswith("<think>\n\n</think>\n\n")


def test_chat_turn_holds_the_request_without_the_thread_around_it():
    decoder = models.load_pair("olmo_pocket").it
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
    folder = Path(
        os.environ.get("STUDY_DATASETS", Path(__file__).parents[2] / "shared" / "reference" / "datasets")
    )
    path = folder / "exp3_dataset.jsonl"
    if not path.exists():
        pytest.skip(f"the study's prompt set is not at {path}")
    read = prompts.read_prompts(str(path))
    assert len(read) == 2936
    assert len(json.loads(path.read_text().splitlines()[0])) > 0
    assert sum("Answer:" in p.message[-8:] for p in read) == 0
