"""Prompt records, data sets of prompts, and the conversion of a prompt to a model's input ids.

A record has two forms. PT's is `text`, a plain document that the answer would continue ("Question: … Answer:"). IT's is
`message`, the request alone, as one user turn of its chat template, without a suffix such as "Answer:".
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nbhelpers.core.params import NATIVE, ROOT, ParameterError, parameter_hash
from nbhelpers.core.schemas import PromptSet
from nbhelpers.models import corpora, tokens
from nbhelpers.models.decoder import Decoder


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
    ParameterError, which begins with `where`, names a field that is missing, empty or no text.
    """
    record = {**record, "id": _id(record, where)}
    if "formats" in record or "prompt" in record:
        formats = record.get("formats") if isinstance(record.get("formats"), dict) else {}
        text = formats.get("B") or formats.get("A") or record.get("prompt")
        category = record.get("question_type") or record.get("category") or "all"
        record |= {"text": text, "category": category, "message": None}
        if isinstance(text, str):
            record["message"] = without_wrapper(text)
    for field in ("category", "text", "message"):
        if not corpora.text(record, field, f"{where}:").strip():
            raise ParameterError(
                f"{where}: the field {field!r} is empty; it needs id, category, text and message."
            )
    return Prompt(*(record[field] for field in ("id", "category", "text", "message")))


def _id(record: dict, where: str) -> str:
    """Return a record's id as text; ParameterError if it has none, or it is neither text nor a whole number."""
    found = record.get("id")
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise ParameterError(f"{where}: the record needs an 'id', a text or a whole number, not {found!r}.")
    return str(found)


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
    if not pairs:
        raise ParameterError(f"{title(source)} holds no prompts; write one JSON record a line.")
    if len({prompt.id for prompt, _ in pairs}) < len(pairs):
        raise ParameterError(
            f"{title(source)} holds two records with one id; ids pair PT with IT and must differ."
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
    yield from corpora.json_lines(path)


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
    """Return the ids of one user turn in the pair's chat format, up to the start of the reply.

    The only BOS is the template's own, if any (`tokens.check_template`). Names of special tokens in the message are text.
    TokenizerError if the template refuses the message.
    """
    return tokens.user_turn(decoder.chat_tokenizer, message, decoder.name, decoder.template_options)


def text_ids(decoder: Decoder, text: str) -> list[int]:
    """Return the ids of raw text after what the model's tokenizer puts before a text, such as one BOS.

    What it would add at the end (an EOS) is left off, since the text is to be continued. Names of special tokens in the text
    are text.
    """
    tokenizer = decoder.tokenizer
    return tokens.around(tokenizer)[0] + tokens.plain_ids(tokenizer, text)


def render(decoder: Decoder, prompts: Sequence[Prompt], *, new_tokens: int = 0) -> list[list[int]]:
    """Return the ids of each prompt in the variant's native format: raw text for PT, a chat turn for IT.

    new_tokens: how many the model may add. ParameterError names the first prompt that does not fit into the context.
    """
    return read_as(decoder, prompts, NATIVE[decoder.variant], new_tokens=new_tokens)


def read_as(
    decoder: Decoder, prompts: Sequence[Prompt], template: str, *, new_tokens: int = 0
) -> list[list[int]]:
    """Return the ids of prompts as plain text ("raw") or as a chat turn ("chat"), whatever the variant's native form.

    new_tokens and error: as in `render`.
    """
    if template == "raw":
        rows = [text_ids(decoder, prompt.text) for prompt in prompts]
    else:
        rows = [chat_ids(decoder, prompt.message) for prompt in prompts]
    check_fit(decoder, prompts, rows, new_tokens)
    return rows


def check_fit(
    decoder: Decoder, prompts: Sequence[Prompt], rows: Sequence[Sequence[int]], new_tokens: int
) -> None:
    """Raise ParameterError, which names the prompt, if its ids and new tokens do not fit into a model's context."""
    for prompt, row in zip(prompts, rows):
        if decoder.context and len(row) + new_tokens > decoder.context:
            raise ParameterError(
                f"the prompt {prompt.id!r} has {len(row)} tokens for {decoder.name}, which with {new_tokens} new ones exceed "
                f"its context of {decoder.context}: shorten or leave out the prompt, or lower max_new_tokens."
            )


def digest(rows: Mapping[str, Sequence[Sequence[int]]]) -> str:
    """Return 12 hex digits that change with any id of rendered prompts, {format: rows of ids}."""
    return parameter_hash({name: [list(row) for row in ids] for name, ids in rows.items()})
