"""Which vocabulary rows are real tokens, and which special tokens begin and end a text; needs a tokenizer, no model."""

import re

import numpy as np

# Tokens that no training text can contain: `<unused12>`, `<|reserved_special_token_3|>`, `<|extra_id_0|>`,
# `[control_7]`, `<special_9>`, and the like.
PLACEHOLDER = re.compile(
    r"<unused\d+>|\[control_\d+\]|.*(reserved|extra_id|placeholder|dummy).*|<special_\d+>", re.I
)


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


def stop_ids(tokenizer, template_options: dict | None = None) -> tuple[int, ...]:
    """Return the ids that end a reply: the tokenizer's EOS and the special token that ends a turn of its chat template.

    Neither is hard-coded: the template is rendered with a marker as the reply, and the first token after the marker counts
    if it is an added token. TokenizerError if both are missing.
    """
    stops = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if tokenizer.chat_template:
        mark = "Zq7"
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": mark}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, **(template_options or {}))
        tail = tokenizer(text[text.rindex(mark) + len(mark) :], add_special_tokens=False)["input_ids"]
        if tail and tail[0] in set(tokenizer.get_added_vocab().values()):
            stops.insert(0, tail[0])
    if not stops:
        raise TokenizerError(
            f"{tokenizer.name_or_path} names no end-of-sequence token: give one in its tokenizer_config.json"
        )
    return tuple(dict.fromkeys(stops))


def check_same_tokenizer(pt, it, key: str) -> None:
    """Raise TokenizerError unless all PT tokens have the same id in IT (which may add up to 64) and a probe text agrees."""
    ours, theirs = pt.get_vocab(), it.get_vocab()
    moved = [token for token, index in ours.items() if theirs.get(token, index) != index]
    missing = set(ours) - set(theirs)
    if moved or missing or abs(len(ours) - len(theirs)) > 64:
        token = (moved or sorted(missing) or ["(size)"])[0]
        raise TokenizerError(
            f"{key}: the PT and IT tokenizers differ ({len(ours)} and {len(theirs)} tokens, first difference {token!r}), so "
            "their distributions cannot be compared: use a pair that shares one tokenizer"
        )
    probe = "The 12 goats, (and 3 more) eat.\n- **figs**"
    if pt(probe, add_special_tokens=False)["input_ids"] != it(probe, add_special_tokens=False)["input_ids"]:
        raise TokenizerError(
            f"{key}: the PT and IT tokenizers split the same text differently, so their tokens cannot be compared: "
            "use a pair that shares one tokenizer"
        )


def bos_count(tokenizer, ids) -> int:
    """Return how many BOS tokens these ids start with."""
    count = 0
    while count < len(ids) and ids[count] == tokenizer.bos_token_id:
        count += 1
    return count


def check_one_bos(tokenizer, ids, expected: int, what: str) -> None:
    """Raise TokenizerError unless the ids begin with exactly `expected` (0 or 1) BOS tokens."""
    found = bos_count(tokenizer, ids)
    if found != expected:
        raise TokenizerError(
            f"{what} begins with {found} BOS tokens where {expected} belongs: render the chat template to text and tokenise "
            "it with add_special_tokens=False"
        )
