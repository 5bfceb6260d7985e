"""Prompt records, data sets of them, and how a prompt becomes the ids that a model reads.

A record has two faces. PT reads `text`, a plain document that the answer would continue ("Question: … Answer:"). IT reads
`message`, the request alone, as one user turn of its chat template. No suffix such as "Answer:" enters the chat turn.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nbhelpers.core.params import ROOT, ParameterError
from nbhelpers.core.schemas import PromptSet
from nbhelpers.models import corpora
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.tokens import check_one_bos


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


def read_prompts(source: str | Path | PromptSet) -> list[Prompt]:
    """Return every prompt of a JSON Lines file or a data set; a relative path starts at the repository's root.

    Raises `ParameterError` when the source cannot be read, a line is no record, or two records share an id.
    """
    return [prompt for prompt, _ in read_pairs(source)]


def read_pairs(source: str | Path | PromptSet) -> list[tuple[Prompt, dict]]:
    """Return every prompt of a source with its record, which may hold more; raises as `read_prompts`."""
    pairs = [(parse(record, where), record) for record, where in read_records(source)]
    if len({prompt.id for prompt, _ in pairs}) < len(pairs):
        raise ParameterError(
            f"{title(source)} holds two records with one id; ids pair PT with IT and must differ"
        )
    return pairs


def title(source: str | Path | PromptSet) -> str:
    """Return what messages call a source: the name of its file, or its hub id."""
    path = source.path if isinstance(source, PromptSet) else source
    return Path(path).name if path else source.hub


def read_records(source: str | Path | PromptSet) -> Iterator[tuple[dict, str]]:
    """Yield the records of a source as our files write them, each with where it stands, for messages."""
    if isinstance(source, PromptSet):
        for number, record in enumerate(islice(corpora.records(source, key="prompts"), source.first), 1):
            where = f"{title(source)}, record {number},"
            yield from_set(record, source, number, where), where
        return
    path = ROOT / source
    if not path.is_file():
        raise ParameterError(
            f"there is no prompt file {path}; put it there, or name another file or a data set of the hub under "
            "`prompts` in the profile (params/profiles)."
        )
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            yield json.loads(line), f"{path.name} line {number}"
        except json.JSONDecodeError as error:
            raise ParameterError(f"{path.name} line {number} is no JSON record: {error.msg}") from error


def from_set(record: dict, source: PromptSet, number: int, where: str) -> dict:
    """Return a data set's record as our files write it; ParameterError where a field is missing or empty."""
    message = corpora.text(record, source.field, where).strip()
    if not message:
        raise ParameterError(f"{where} is empty in the field {source.field!r}; name another field.")
    given = {
        key: corpora.value(record, name, where)
        for key in ("id", "category")
        if (name := getattr(source, key))
    }
    found = {"id": str(given.get("id", number)), "category": str(given.get("category", "all"))}
    found |= {"text": message, "message": message, "group": found["category"]}
    if source.form == "question":
        found["text"] = f"Question: {message}\nAnswer:"
    if source.target:  # the space that opens a word belongs to its token
        found["target"] = " " + corpora.text(record, source.target, where).strip()
    return found


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


def load_prompts(source: str | Path | PromptSet, n: int, seed: int = 0) -> list[Prompt]:
    """Return n prompts of a source, balanced over categories (`read_prompts`, then `choose`)."""
    return choose(read_prompts(source), n, seed)


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
