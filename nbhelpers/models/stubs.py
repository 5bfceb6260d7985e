"""Prompts whose answer is one word, and those of them whose answer is one token of a model's tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbhelpers.core.params import ParameterError
from nbhelpers.core.schemas import PromptSet
from nbhelpers.models import corpora, tokens
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.prompts import Prompt, chat_ids, read_pairs, text_ids, title


@dataclass(frozen=True)
class Stub(Prompt):
    """A prompt that one word completes. `target`: that word with the space before it; `group`: within the category."""

    group: str
    target: str


def read_stubs(source: str | Path | PromptSet) -> list[Stub]:
    """Return the stubs of a JSON Lines file or a data set.

    Raises as `prompts.read_prompts`; ParameterError if a set names no `target` field, or a record lacks a field.
    """
    if isinstance(source, PromptSet) and not source.target:
        raise ParameterError(
            f"the prompts of {title(source)} have no answers; name the field of the one-word answer as `target` under "
            "`prompts` in the profile."
        )
    return [
        Stub(
            **vars(p), **{name: corpora.text(r, name, f"the record {p.id!r}") for name in ("group", "target")}
        )
        for p, r in read_pairs(source)
    ]


def single_token(
    decoder: Decoder, stubs: Sequence[Stub], *, chat: bool = False
) -> list[tuple[Stub, list[int], int]]:
    """Return the stubs whose target is a single token, each with its prompt ids and the id of its target.

    chat=False: `text`, then the target; where the tokenizer splits digits from the space before them, that space goes to
    the end of the prompt. chat=True: `message` as a user turn, then the target as the start of the reply.
    """
    complete = _reply_ids if chat else _text_ids
    return [(stub, ids[:-1], ids[-1]) for stub in stubs if (ids := complete(decoder, stub))]


def _text_ids(decoder, stub):
    """Return the ids of the text and its target, or None if the target is not one token."""
    for text, word in ((stub.text, stub.target), (stub.text + " ", stub.target.lstrip())):
        ids = text_ids(decoder, text + word)
        if ids[:-1] == text_ids(decoder, text):
            return ids
    return None


def _reply_ids(decoder, stub):
    """Return the ids of the chat prompt and of the reply's first token, or None if that is not the whole word."""
    ids, word = chat_ids(decoder, stub.message), stub.target.strip()
    turns = [{"role": "user", "content": stub.message}, {"role": "assistant", "content": word}]
    whole = tokens.chat(decoder.chat_tokenizer, turns, decoder.name, ids=True, **decoder.template_options)
    whole = whole[: len(ids) + 1]
    same = whole[:-1] == ids and decoder.chat_tokenizer.decode(whole[-1:]).strip() == word
    return whole if same else None
