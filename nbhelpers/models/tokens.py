"""What a tokenizer and its chat template do: real tokens, ends of a reply, what is added around a text; needs no model."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jinja2 import TemplateError

# Tokens that no training text can contain: `<unused12>`, `<|reserved_special_token_3|>`, `<|extra_id_0|>`,
# `[control_7]`, `<special_9>`, and the like.
PLACEHOLDER = re.compile(
    r"<unused\d+>|\[control_\d+\]|.*(reserved|extra_id|placeholder|dummy).*|<special_\d+>", re.I
)

MARK = "Zq7"  # a message that no template holds
# A template that asks for today's date is told this one, so that a prompt has the same ids on every day.
_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
_MOST_ADDED = 64


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
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise TokenizerError(
            f"{what} has no chat template: put its chat_template.jinja beside the weights, or name a checkpoint that has one."
        )
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
    """Return one user's turn up to the start of the reply, as `chat` does; options: of the template."""
    turn = [{"role": "user", "content": message}]
    return chat(tokenizer, turn, what, ids=ids, **({"add_generation_prompt": True} | dict(options)))


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


def check_template(tokenizer, what: str, options: Mapping) -> None:
    """Raise TokenizerError unless the chat template writes a message once, unchanged, after as many BOS as raw text has.

    what: names the model in messages. options: of the template.
    """
    text, ids = (user_turn(tokenizer, MARK, what, options, ids=ids) for ids in (False, True))
    fault = ""
    if MARK not in text:
        fault = "changes or drops the user's message"
    elif text.count(MARK) > 1:
        fault = f"writes the user's message {text.count(MARK)} times"
    raw, bos = bos_count(tokenizer, around(tokenizer)[0]), tokenizer.bos_token
    if raw > 1:
        fault = f"comes with a tokenizer that begins raw text with {raw} BOS tokens"
    elif bos_count(tokenizer, ids) > 1 and not fault:
        fault = f"begins with {bos_count(tokenizer, ids)} BOS tokens"
    elif raw > bos_count(tokenizer, ids) and not fault:
        fault = f"lacks the {bos} that its tokenizer puts before raw text (begin it with {{{{ bos_token }}}})"
    elif ids and ids[-1] == tokenizer.eos_token_id and not fault:
        fault = f"ends the prompt with {tokenizer.eos_token}, where the reply should begin"
    if fault:
        raise TokenizerError(f"the chat template of {what} {fault}: mend its chat_template.jinja.")


def turn_end(tokenizer, what: str, **options) -> list[int]:
    """Return the id of the special token that ends a reply in the chat template, in a list that is empty if there is none.

    The template is rendered with a marker as the reply; the first token after the marker counts if it is an added token.
    """
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": MARK}]
    text = chat(tokenizer, turns, what, **options)
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


def added_tokens(pt, it, key: str) -> dict[str, int]:
    """Return the tokens, with their ids, that IT's tokenizer adds to PT's, after checking that they agree otherwise.

    TokenizerError names the first token that has another id or is missing in IT, too many added ones, or a probe text that
    the two split differently.
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
    added = {token: index for token, index in theirs.items() if token not in ours}
    if len(added) > _MOST_ADDED:
        raise TokenizerError(f"{key}: IT's tokenizer has {len(added)} tokens that PT's lacks, {remedy}")
    probe = "The 12 goats, (and 3 more) eat.\n- **figs**"
    split = (each(probe, add_special_tokens=False)["input_ids"] for each in (pt, it))
    if len({tuple(ids) for ids in split}) > 1:
        raise TokenizerError(f"{key}: the PT and IT tokenizers split the same text differently, {remedy}")
    return dict(sorted(added.items(), key=lambda item: item[1]))


def bos_count(tokenizer, ids) -> int:
    """Return how many BOS tokens these ids start with."""
    count = 0
    while count < len(ids) and ids[count] == tokenizer.bos_token_id:
        count += 1
    return count
