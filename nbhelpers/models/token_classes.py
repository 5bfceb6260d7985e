"""Class of each token: structural, punctuation, discourse, function word, content word, other, or special.

A token has the class of the word that it is part of, so all pieces of a word share one class. Layout marks and punctuation
have classes of their own. English only: words of other scripts are `other`. Needs ids and a tokenizer, no model.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

CLASSES = ("structural", "punctuation", "discourse", "function", "content", "other", "special")
# Layout marks: headers, emphasis, code, rules; at the start of a line also bullets, quotes and list numbers.
STRUCTURAL = re.compile(r"#+|\*+|`+|-{2,}|={2,}|^[ \t]*(?:[-+•]|>+|\d+\.)(?=\s)", re.MULTILINE)
WORD = re.compile(r"[^\W\d_]+(?:[-'’/][^\W\d_]+)*|\d+(?:[.,]\d+)*")
LATIN = re.compile(r"[A-Za-z\u00c0-\u024f0-9]")
PHRASES = (
    "for example|for instance|in addition|in other words|in fact|in short|in summary|in conclusion|on the other hand|"
    "as a result|of course|at first|after all|that is"
)
DISCOURSE = set(
    "however therefore moreover furthermore additionally consequently thus hence meanwhile nevertheless nonetheless "
    "instead otherwise finally firstly secondly thirdly first second third next then also overall".split()
)
FUNCTION = set(
    "a an the this that these those each every either neither some any no all both few many much more most several such "
    "i you he she it we they me him her us them my your his its our their mine yours hers ours theirs myself yourself "
    "himself herself itself ourselves themselves who whom whose which what where when why how "
    "am is are was were be been being do does did done have has had having will would shall should can could may might must "
    "of in to for with on at from by about as into like through after over between out against during without before under "
    "around among up down off near and but or nor so yet if because while although though unless until since than whether "
    "not won't shan't there here very too just only quite rather".split()
)
PHRASE = re.compile(rf"\b(?:{PHRASES})\b", re.IGNORECASE)


def byte_table() -> dict[str, int]:
    """Return the byte that each character of a byte-level BPE vocabulary stands for (Radford et al. 2019)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def is_byte_level(tokenizer) -> bool:
    """Return whether a tokenizer has a byte-level BPE vocabulary."""
    return "ByteLevel" in str(tokenizer.backend_tokenizer.decoder)


def token_bytes(tokenizer, ids: Sequence[int]) -> list[bytes]:
    """Return the UTF-8 bytes of each id in a text, spaces included; special tokens have none.

    Decoding ids one by one would lose the space before a word in some families and break characters that span tokens.
    """
    special, byte_level, table = set(tokenizer.all_special_ids), is_byte_level(tokenizer), byte_table()
    found = []
    for index, token in zip(ids, tokenizer.convert_ids_to_tokens(list(ids))):
        if index in special or token is None:
            found.append(b"")
        elif byte_level:
            found.append(b"".join(bytes([table[c]]) if c in table else c.encode() for c in token))
        elif byte := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            found.append(bytes([int(byte[1], 16)]))
        else:
            found.append(token.replace("▁", " ").encode())
    return found


def spans(pieces: Sequence[bytes]) -> tuple[str, np.ndarray]:
    """Return the text of consecutive pieces and the character index at which each begins, plus the end, [piece + 1]."""
    whole = b"".join(pieces)
    ends = np.cumsum([0, *map(len, pieces)])
    return whole.decode("utf-8", "ignore"), np.array(
        [len(whole[:end].decode("utf-8", "ignore")) for end in ends]
    )


def word_class(word: str) -> str:
    """Return the class of one word; a contraction has the class of its first part: "don't" that of "do"."""
    lower = word.lower().replace("’", "'")
    if not LATIN.match(lower):
        return "other"
    if lower in DISCOURSE:
        return "discourse"
    forms = (lower, lower.removesuffix("n't"), re.sub(r"'\w+$", "", lower))
    return "function" if any(form in FUNCTION for form in forms) else "content"


def is_mark(character: str) -> bool:
    """Return whether a character is ASCII, or punctuation or a space of any script."""
    return character.isascii() or unicodedata.category(character)[0] in "PZ"


def character_classes(text: str) -> np.ndarray:
    """Return the class of every character's word or mark, an index into `CLASSES`; −1 if it belongs to neither."""
    found = np.full(len(text), -1)
    for word in WORD.finditer(text):
        found[word.start() : word.end()] = CLASSES.index(word_class(word[0]))
    for pattern, kind in ((PHRASE, "discourse"), (STRUCTURAL, "structural")):
        for match in pattern.finditer(text):
            found[match.start() : match.end()] = CLASSES.index(kind)
    return found


def piece_class(piece: str, classes: np.ndarray) -> str:
    """Return the class of a piece of text from the classes of its characters."""
    marked = [kind for character, kind in zip(piece, classes) if not character.isspace()]
    structural = CLASSES.index("structural")
    if marked and all(kind == structural for kind in marked):
        return "structural"
    words = [kind for kind in marked if kind not in (-1, structural)]
    return CLASSES[words[0]] if words else "punctuation" if all(map(is_mark, piece)) else "other"


def token_classes(tokenizer, ids: Sequence[int]) -> np.ndarray:
    """Return the class of each token of one text, an index into `CLASSES`, int8 [token].

    The first rule that applies decides. A special token is `special`. A token of layout marks only is `structural`. A token
    with letters or digits has the class of its (first) word. White space and punctuation are `punctuation`. Anything else
    is `other`. Tokens that share one character have the class of that character.
    """
    pieces = token_bytes(tokenizer, ids)
    text, starts = spans(pieces)
    by_character, special = character_classes(text), set(tokenizer.all_special_ids)
    found = np.empty(len(pieces), dtype=np.int8)
    for i, index in enumerate(ids):
        whole = slice(starts[i], max(starts[i + 1], starts[i] + bool(pieces[i])))
        kind = "special" if index in special else piece_class(text[whole], by_character[whole])
        found[i] = CLASSES.index(kind)
    return found
