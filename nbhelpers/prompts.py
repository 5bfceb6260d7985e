"""Prompt records, data sets of them, and how a prompt becomes the ids that a model reads.

A record has two faces. PT reads `text`, a plain document that the answer would continue ("Question: … Answer:"). IT reads
`message`, the request alone, as one user turn of its chat template. No suffix such as "Answer:" enters the chat turn.
"""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbhelpers.models import Decoder
from nbhelpers.params import ROOT, ParameterError
from nbhelpers.tokens import check_one_bos


@dataclass(frozen=True)
class Prompt:
    """One prompt: a unique id, its category, what PT reads and what IT is asked."""

    id: str
    category: str
    text: str
    message: str


def parse(record: dict, where: str) -> Prompt:
    """Return the prompt of one JSON record: ours (id, category, text, message) or the study's (`formats`, `question_type`).

    The study wraps most prompts as "Question: … Answer:" and leaves that inside the chat turn; here the wrapper stays in
    `text` and is taken off for `message`.
    """
    if "formats" in record or "prompt" in record:
        formats = record.get("formats", {})
        text = formats.get("B") or formats.get("A") or record.get("prompt")
        category = record.get("question_type") or record.get("category") or "all"
        if text:
            return Prompt(str(record["id"]), category, text, without_wrapper(text))
    missing = [field for field in ("id", "category", "text", "message") if not record.get(field)]
    if missing:
        raise ParameterError(
            f"{where}: the record has no {missing[0]!r}; it needs id, category, text and message"
        )
    return Prompt(str(record["id"]), record["category"], record["text"], record["message"])


def without_wrapper(text: str) -> str:
    """Return a prompt without the "Question:" that opens it and the "Answer:" that closes it."""
    bare = text.strip().removesuffix("Answer:").strip()
    return bare.removeprefix("Question:").strip() or text.strip()


def read_prompts(file: str | Path) -> list[Prompt]:
    """Return every prompt of a JSON Lines file; a relative path starts at the repository's root.

    Raises `ParameterError` when the file is missing, a line is no record, or two records share an id.
    """
    path = ROOT / file
    if not path.is_file():
        raise ParameterError(
            f"there is no prompt file {path}; name one under `prompts` in the profile (params/profiles)"
        )
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            prompts.append(parse(json.loads(line), f"{path.name} line {number}"))
        except json.JSONDecodeError as error:
            raise ParameterError(f"{path.name} line {number} is no JSON record: {error.msg}") from error
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise ParameterError(
            f"{path.name} holds two records with one id; ids pair PT with IT and must differ"
        )
    return prompts


def choose(prompts: Sequence[Prompt], n: int, seed: int = 0) -> list[Prompt]:
    """Return n prompts spread as evenly as may be over categories, the same ones for the same seed, in file order."""
    if not 0 < n <= len(prompts):
        raise ParameterError(
            f"n_prompts = {n} cannot be drawn: the data set holds {len(prompts)} prompts; choose 1 to {len(prompts)}"
        )
    rng = random.Random(seed)
    by_category = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_category[prompt.category].append(index)
    for indices in by_category.values():
        rng.shuffle(indices)
    chosen, level = [], 0
    while len(chosen) < n:
        tier = [indices[level] for indices in by_category.values() if level < len(indices)]
        rng.shuffle(tier)
        chosen += tier[: n - len(chosen)]
        level += 1
    return [prompts[i] for i in sorted(chosen)]


def load_prompts(file: str | Path, n: int, seed: int = 0) -> list[Prompt]:
    """Return n prompts of a file, balanced over categories (`read_prompts`, then `choose`)."""
    return choose(read_prompts(file), n, seed)


def chat_ids(decoder: Decoder, message: str) -> list[int]:
    """Return the ids of one user turn in the model's chat format, ready for the reply.

    The template is rendered to text and encoded with no further special tokens, so a BOS that the template writes is the
    only one. Raises `TokenizerError` when the ids start with another number of BOS tokens than the text does.
    """
    tokenizer = decoder.tokenizer
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": message}],
        tokenize=False,
        add_generation_prompt=True,
        **decoder.template_options,
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = 1 if tokenizer.bos_token and text.startswith(tokenizer.bos_token) else 0
    check_one_bos(tokenizer, ids, expected, f"{decoder.key} {decoder.variant}: a chat prompt")
    return ids


def text_ids(decoder: Decoder, text: str) -> list[int]:
    """Return the ids of raw text as the tokenizer encodes it, with the one BOS that it adds itself, if any."""
    tokenizer = decoder.tokenizer
    ids = tokenizer(text)["input_ids"]
    expected = len(tokenizer("")["input_ids"]) if tokenizer.bos_token_id is not None else 0
    check_one_bos(tokenizer, ids, expected, f"{decoder.key} {decoder.variant}: a raw prompt")
    return ids


def render(decoder: Decoder, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the ids of each prompt as this variant natively reads it: PT raw text, IT a chat turn."""
    if decoder.variant == "it":
        return [chat_ids(decoder, prompt.message) for prompt in prompts]
    return [text_ids(decoder, prompt.text) for prompt in prompts]
