"""Prompt records, data sets of prompts, and the conversion of a prompt to a model's input ids.

A record has two forms. PT's is `text`, a plain document that the answer would continue ("Question: … Answer:"). IT's is
`message`, the request alone, as one user turn of its chat template, without a suffix such as "Answer:".
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
    """One prompt: a unique id, its category, the plain text for PT and the chat message for IT."""

    id: str
    category: str
    text: str
    message: str


def parse(record: dict, where: str) -> Prompt:
    """Return the prompt of one JSON record: ours (id, category, text, message) or the study's (`formats`, `question_type`).

    The study wraps most prompts as "Question: … Answer:", also in the chat turn; here only `text` keeps that wrapper.
    ParameterError, which begins with `where`, names a field that is missing or empty.
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

    ParameterError if the source cannot be read, a line is no record, or two records have the same id.
    """
    return [prompt for prompt, _ in read_pairs(source)]


def read_pairs(source: str | Path | PromptSet) -> list[tuple[Prompt, dict]]:
    """Return every prompt of a source with its record, which may have further fields; raises as `read_prompts`."""
    pairs = [(parse(record, where), record) for record, where in read_records(source)]
    if len({prompt.id for prompt, _ in pairs}) < len(pairs):
        raise ParameterError(
            f"{title(source)} holds two records with one id; ids pair PT with IT and must differ"
        )
    return pairs


def title(source: str | Path | PromptSet) -> str:
    """Return the name of a source for messages: its file name or its hub id."""
    path = source.path if isinstance(source, PromptSet) else source
    return Path(path).name if path else source.hub


def read_records(source: str | Path | PromptSet) -> Iterator[tuple[dict, str]]:
    """Yield the records of a source in the format of our files, each with its place in the source, for messages."""
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
    """Return a data set's record in the format of our files; ParameterError if a field is missing or empty."""
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
    """Return n prompts, balanced over categories as far as possible, in file order; the same seed gives the same ones."""
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
    """Return the ids of one user turn in the model's chat format, up to the start of the reply.

    The template is rendered to text and encoded without added special tokens, so the only BOS is the template's own, if
    any. TokenizerError if the ids start with a different number of BOS tokens than the text.
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
    """Return the ids of raw text, including the one BOS that the tokenizer adds, if any."""
    tokenizer = decoder.tokenizer
    ids = tokenizer(text)["input_ids"]
    expected = len(tokenizer("")["input_ids"]) if tokenizer.bos_token_id is not None else 0
    check_one_bos(tokenizer, ids, expected, f"{decoder.key} {decoder.variant}: a raw prompt")
    return ids


def render(decoder: Decoder, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return the ids of each prompt in the variant's native format: raw text for PT, a chat turn for IT."""
    if decoder.variant == "it":
        return [chat_ids(decoder, prompt.message) for prompt in prompts]
    return [text_ids(decoder, prompt.text) for prompt in prompts]
