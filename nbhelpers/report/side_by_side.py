"""Replies of all conditions to the same prompt, side by side, with the words marked that the first condition does not write.

Replies come from models, so nothing of them is trusted: all text is escaped, invisible characters are shown, long words
break. Replies to harmful prompts are counted and never shown.
"""

import difflib
import hashlib
import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import xarray as xr

from nbhelpers.report.condition_names import named, parts
from nbhelpers.report.theme import IT, PT

HIDDEN = ("harmful",)
LONGEST = 120  # words of a reply that are shown
EMPTY = "(no text)"
# A word with the space before it. A character of a script without spaces is a word, as is a mark at the end of a sentence.
_ALONE = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef"
_WORD = re.compile(rf"\s*(?:[{_ALONE}.,;:!?]|[^\s{_ALONE}.,;:!?]+)|\s+$")
# Not the class "dataframe", whose tables a page frames; not MathJax, which would set a reply's dollars as a formula.
STYLE = f"""<style>
div.replies {{ font-size: .875rem; line-height: 1.45; margin: 0 0 1.4rem; }}
div.replies p {{ margin: 0 0 .4rem; }}
div.replies p.request {{ font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }}
div.replies p.request small {{ font-weight: 400; }}
div.replies div.row {{ display: grid; gap: .7rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); }}
div.replies div.reply {{ border-left: 3px solid {IT}; padding: 0 0 0 .6rem; min-width: 0; }}
div.replies div.reply.pt {{ border-left: 3px dashed {PT}; }}
div.replies div.reply p.text {{ white-space: pre-wrap; overflow-wrap: anywhere; max-height: 16rem; overflow-y: auto;
  unicode-bidi: isolate; }}
div.replies mark {{ background: rgba(127, 127, 127, .28); color: inherit; text-decoration: underline;
  text-decoration-thickness: 1px; text-underline-offset: .2em; }}
</style>"""


@dataclass(frozen=True, repr=False)
class SideBySide:
    """Replies to read: `html`, which a page shows, and `plain`, its text without marks."""

    html: str
    plain: str

    def __repr__(self) -> str:
        """Return the replies as text, a line each."""
        return self.plain

    def _repr_html_(self) -> str:
        """Return the replies side by side as HTML."""
        return self.html


def chosen(prompts: Sequence[str], n: int) -> list[str]:
    """Return `n` of the prompts' ids, or all if there are fewer, in the order of the SHA-256 of each id.

    The order depends on the ids alone, so nobody picked a reply that suits, and more prompts never exchange those shown.
    """
    return sorted(prompts, key=lambda prompt: hashlib.sha256(str(prompt).encode()).hexdigest())[:n]


def words(text: str) -> list[str]:
    """Return the words of a text, each with the space before it; joined they are the text.

    Marks at the end of a sentence are words, as are single characters of scripts that are written without spaces.
    """
    return _WORD.findall(text)


def marked(first: str, other: str) -> list[tuple[str, bool]]:
    """Return `other` in pieces (text, whether `first` lacks it), by the longest common words (`difflib.SequenceMatcher`).

    Joined, the pieces are `other`. Spaces before a word do not count, capital letters do.
    """
    mine, theirs = words(other), words(first)
    bare = [[word.strip() for word in each] for each in (theirs, mine)]
    pieces = []
    for tag, _, _, start, end in difflib.SequenceMatcher(None, *bare, autojunk=False).get_opcodes():
        if start < end:
            pieces.append(("".join(mine[start:end]), tag != "equal"))
    return pieces


def side_by_side(
    text: xr.DataArray,
    questions: pd.DataFrame,
    conditions: Sequence[str],
    *,
    n: int = 1,
    hide: Sequence[str] = HIDDEN,
    longest: int = LONGEST,
) -> SideBySide:
    """Return the replies of conditions beside each other, for the first `n` prompts of each category (`chosen`).

    text: (condition, prompt), what was written. questions: indexed by prompt, with the columns `question` and `category`;
    categories come in the order of its rows. conditions: names of the dataset; words that the first does not write are
    marked in the others. hide: categories whose replies are counted, not shown. longest: words shown of a reply. ValueError
    names a condition or a prompt that is missing.
    """
    _check(text, questions, conditions)
    made, plain = [], []
    for category, of in questions.groupby("category", sort=False):
        title = str(category).replace("_", " ")
        if category in hide:
            said = f"{title}: {len(of)} prompts, {len(of) * len(conditions)} replies, not shown"
            made.append(f'<div class="replies"><p>{html.escape(said)}.</p></div>')
            plain.append(said)
            continue
        for prompt in chosen(of.index, n):
            question = str(of.loc[prompt, "question"])
            replies = {name: _reply(text, name, prompt, longest) for name in conditions}
            made.append(_block(title, question, replies))
            plain.append(_lines(title, question, replies))
    page = f'<div class="tex2jax_ignore mathjax_ignore">{STYLE}{"".join(made)}</div>'
    return SideBySide(page, "\n\n".join(plain))


def _check(text: xr.DataArray, questions: pd.DataFrame, conditions: Sequence[str]):
    """Raise ValueError for a condition or a prompt without replies, or no condition at all."""
    if not len(conditions):
        raise ValueError("No condition is named whose replies to show.")
    for what, wanted in {"condition": conditions, "prompt": questions.index}.items():
        lacking = [name for name in wanted if name not in text[what].values]
        if lacking:
            raise ValueError(f"The replies have no {what} {lacking[0]!r}.")


def _reply(text: xr.DataArray, condition: str, prompt: str, longest: int) -> str:
    """Return one reply, its invisible characters shown, cut after `longest` words with the number of those left out."""
    whole = words(visible(str(text.sel(condition=condition, prompt=prompt).item()).strip()))
    left = len(whole) - longest
    return "".join(whole[:longest]) + (f" … [{left} more]" if left > 0 else "")


def visible(text: str) -> str:
    """Return a text in which characters that control display or direction, all but new lines, are U+FFFD; tabs are spaces."""
    text = text.replace("\r\n", "\n").replace("\t", " ")
    joiners = "\u200c\u200d"  # scripts and emoji need them
    return "".join(
        c if c == "\n" or c in joiners or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "\ufffd"
        for c in text
    )


def _block(category: str, question: str, replies: dict[str, str]) -> str:
    """Return one prompt and the replies to it as HTML."""
    first, *_ = replies.values()
    cells = []
    for at, (name, reply) in enumerate(replies.items()):
        pieces = marked(first, reply) if at else [(reply, False)]
        shown = "".join(_piece(*piece) for piece in pieces) if reply else f"<small>{EMPTY}</small>"
        host = parts(name)[0].lower()
        cells.append(
            f'<div class="reply {host}"><p><b>{html.escape(named(name))}</b></p><p class="text" dir="auto">{shown}</p></div>'
        )
    said = html.escape(visible(question.strip()))
    head = f'<p class="request"><small>{html.escape(category)}</small> <span dir="auto">{said}</span></p>'
    return f'<div class="replies">{head}<div class="row">{"".join(cells)}</div></div>'


def _piece(text: str, new: bool) -> str:
    """Return a piece of a reply as HTML, marked if it is new; the space before it is never marked."""
    space = text[: len(text) - len(text.lstrip())]
    inner = html.escape(text[len(space) :])
    return f"{space}<mark>{inner}</mark>" if new and inner else f"{space}{inner}"


def _lines(category: str, question: str, replies: dict[str, str]) -> str:
    """Return one prompt and the replies to it as text, a line each."""
    flat = {named(name): " ".join(reply.split()) or EMPTY for name, reply in replies.items()}
    head = f"[{category}] {' '.join(visible(question).split())}"
    return "\n".join([head, *(f"  {name}: {reply}" for name, reply in flat.items())])
