"""What a tokenizer and its chat template do: real tokens, ends of a reply, what is added around a text; needs no model."""

import re
from collections.abc import Mapping, Sequence
from inspect import signature

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

# Tokens that no training text can contain: `<unused12>`, `<|reserved_special_token_3|>`, `<|extra_id_0|>`,
# `[control_7]`, `<special_9>`, and the like.
PLACEHOLDER = re.compile(
    r"<unused\d+>|\[control_\d+\]|.*(reserved|extra_id|placeholder|dummy).*|<special_\d+>", re.I
)

MARK = "Zq7"  # words that no template holds
PROBE = f'{MARK} <b>&amp; "one" {{two}}</b>\n\n\tthree\n' + "and so on, " * 9 + "to the end"
# What `apply_chat_template` and this module take themselves.
RESERVED = {*signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "ids", "what", "turns"} - {
    "kwargs"
}
# A template that asks for today's date is told this one, so that a prompt has the same ids on every day.
_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"


class TokenizerError(ValueError):
    """A tokenizer that a measurement cannot use; the message is one sentence."""


def real_token_mask(tokenizer, n_rows: int) -> np.ndarray:
    """Return which rows of the unembedding matrix are tokens that text can contain, bool [n_rows].

    tokenizer: a `transformers` tokenizer. A row is unreal if it lies past the tokenizer's vocabulary or its token is a
    placeholder. Unreal rows are dropped before every softmax, argmax and ranking (DESIGN §5.6): they are untrained and can
    take probability mass.
    """
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    mask = np.zeros(n_rows, dtype=bool)
    for token, index in tokenizer.get_vocab().items():
        if index < n_rows:
            mask[index] = not (token in special and PLACEHOLDER.fullmatch(token))
    return mask


def chat(tokenizer, turns: Sequence[Mapping], what: str, *, ids: bool = False, **options):
    """Return a conversation in the chat format of a tokenizer, as text or, with `ids`, as token ids.

    turns: messages with role and content. what: names the model in messages. options: of the template. Names of special
    tokens inside a message are text, not control tokens. TokenizerError if there is no template, or it refuses the turns.
    """
    try:
        template = tokenizer.get_chat_template()
    except ValueError:
        raise TokenizerError(
            f"{what} has no chat template: put its chat_template.jinja beside the weights, or name a checkpoint that has one."
        ) from None
    given = _DATE + template if "strftime_now" in template else template
    as_ids = {"tokenize": True, "return_dict": False, "sanitize_control_tokens": True}
    try:
        return tokenizer.apply_chat_template(
            list(turns), chat_template=given, **(as_ids if ids else {"tokenize": False}), **options
        )
    except (TemplateError, NotImplementedError, ValueError, TypeError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise TokenizerError(
            f"the chat template of {what} cannot render a user's turn ({reason.rstrip('.')}): mend its chat_template.jinja, "
            "or give what it asks for under `chat` in the model's file in params/models."
        ) from None


def user_turn(tokenizer, message: str, what: str, options: Mapping, *, ids: bool = True):
    """Return one user's turn up to the start of the reply, as `chat` does; options: of the template.

    TokenizerError also if the template does not write the message once, as it is but for space around it.
    """
    turn, options = [{"role": "user", "content": message}], {"add_generation_prompt": True} | dict(options)
    text = chat(tokenizer, turn, what, **options)
    if message.strip() not in text:
        raise TokenizerError(
            f"the chat template of {what} changes or drops the user's message {shortened(message)!r}: mend its "
            "chat_template.jinja."
        )
    return chat(tokenizer, turn, what, ids=True, **options) if ids else text


def shortened(text: str, most: int = 40) -> str:
    """Return the start of a text on one line, for messages."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}…"


def plain_ids(tokenizer, text: str) -> list[int]:
    """Return the ids of a text alone; names of special tokens in it are text, not control tokens."""
    named = any(token.content in text for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tokenizer(text, add_special_tokens=False, **({"split_special_tokens": True} if named else {}))[
        "input_ids"
    ]


def around(tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer adds before and after a text, such as one BOS and nothing."""
    bare, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    starts = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
    start = next(starts, 0)
    return whole[:start], whole[start + len(bare) :]


def check_start(tokenizer, what: str) -> None:
    """Raise TokenizerError if a tokenizer puts one token twice before a text, as where BOS is added in two places."""
    before = around(tokenizer)[0]
    if len(set(before)) < len(before):
        shown = "".join(tokenizer.convert_ids_to_tokens(before))
        raise TokenizerError(
            f"the tokenizer of {what} begins a text with {shown}: mend its tokenizer.json, so that BOS is added once."
        )


def check_template(tokenizer, what: str, options: Mapping) -> None:
    """Raise TokenizerError unless the chat template writes a message once, unchanged, after what raw text begins with.

    what: names the model in messages. options: of the template, none of which may be an argument of the rendering itself.
    """
    if taken := sorted(RESERVED.intersection(options)):
        raise TokenizerError(
            f"{what}: `chat` in the model's file in params/models has {taken[0]!r}, which is no option of a chat template; "
            "remove it."
        )
    text, ids = (user_turn(tokenizer, PROBE, what, options, ids=ids) for ids in (False, True))
    start, n_bos = around(tokenizer)[0], bos_count(tokenizer, ids)
    named = "".join(tokenizer.convert_ids_to_tokens(start))
    fault = ""
    if text.count(MARK) > 1:
        fault = f"writes the user's message {text.count(MARK)} times"
    elif n_bos > 1 or (start and ids[: 2 * len(start)] == 2 * start):
        fault = f"begins with {max(n_bos, 2)} BOS tokens"
    elif ids[: len(start)] != start:
        fault = f"lacks the {named} that its tokenizer puts before raw text (such as {{{{ bos_token }}}} at its start)"
    elif ids[-1] == tokenizer.eos_token_id:
        fault = f"ends the prompt with {tokenizer.eos_token}, where the reply should begin"
    if fault:
        raise TokenizerError(f"the chat template of {what} {fault}: mend its chat_template.jinja.")


def turn_end(tokenizer, what: str, **options) -> list[int]:
    """Return the id of the special token that ends a reply in the chat template, in a list that is empty if there is none.

    The template is rendered with a marker as the reply; the first token after the marker counts if it is an added token.
    A template that writes no replies has no end.
    """
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": MARK}]
    try:
        text = chat(tokenizer, turns, what, **options)
    except TokenizerError:
        text = ""
    if MARK not in text:
        return []
    tail = tokenizer(text[text.rindex(MARK) + len(MARK) :], add_special_tokens=False)["input_ids"]
    return tail[:1] if tail and tail[0] in set(tokenizer.get_added_vocab().values()) else []


def stop_ids(tokenizer, named=None, end: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the ids that end a text: `end` (of a chat turn), the tokenizer's EOS, and those `named` by generation_config.

    named: an id, several or None. TokenizerError if there is none at all.
    """
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stops = dict.fromkeys([*end, *own, *np.atleast_1d([] if named is None else named).tolist()])
    if not stops:
        raise TokenizerError(
            f"{tokenizer.name_or_path} names no end-of-sequence token: give one in its tokenizer_config.json."
        )
    return tuple(stops)


def check_same_tokenizer(pt, it, key: str) -> None:
    """Raise TokenizerError unless all of PT's tokens have the same ids in IT, and both split a probe text alike.

    It names the first token that has another id or is missing in IT.
    """
    ours, theirs = pt.get_vocab(), it.get_vocab()
    remedy = "so their distributions cannot be compared: use a pair that shares one tokenizer."
    for token, index in sorted(ours.items(), key=lambda item: item[1]):
        if theirs.get(token) != index:
            other = f"id {theirs[token]} in IT's" if token in theirs else "no token of IT's"
            raise TokenizerError(
                f"{key}: the PT and IT tokenizers differ ({len(ours)} and {len(theirs)} tokens; {token!r} is id {index} in "
                f"PT's and {other}), {remedy}"
            )
    probe = "The 12 goats, (and 3 more) eat.\n- **figs**"
    split = (each(probe, add_special_tokens=False)["input_ids"] for each in (pt, it))
    if len({tuple(ids) for ids in split}) > 1:
        raise TokenizerError(f"{key}: the PT and IT tokenizers split the same text differently, {remedy}")


def words(tokenizer) -> dict[int, str]:
    """Return the tokens that a text can hold, by id: all but special ones, whose names `plain_ids` reads as text."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {index: token for token, index in tokenizer.get_vocab().items() if index not in special}


def bos_count(tokenizer, ids) -> int:
    """Return how many BOS tokens these ids start with."""
    count = 0
    while count < len(ids) and ids[count] == tokenizer.bos_token_id:
        count += 1
    return count
