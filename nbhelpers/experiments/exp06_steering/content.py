"""Whether a reply of a requested form also says what was asked: the off-target score of the very same prompts."""

import re
from functools import lru_cache

import numpy as np

from nbhelpers.measures.scoring import Task
from nbhelpers.measures.structure import FUNCTION

FIXED = (
    "upper_case",
    "lower_case",
    "ends_with",
    "quoted",
    "json",
    "one_word",
)  # kinds with one right content
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=4096)
def wanted(reply: str, message: str) -> frozenset[str]:
    """Return the words of a model answer that neither its request nor grammar gives away, in small letters."""
    return frozenset(_WORD.findall(reply.lower())) - set(_WORD.findall(message.lower())) - FUNCTION


def content(task: Task, record: dict, text: str) -> float:
    """Return 1 if a reply holds every word of the model answer that its request does not, 0 if not; the form is no matter.

    NaN if the prompt asks for no certain form, its answer is not fixed (a list of any three towns), or its record holds no
    model answer. "BROWN" answers "In which colour …, in capital letters", and so does "It is brown."
    """
    words = wanted(record.get("reply", ""), task.message) if task.kind in FIXED else frozenset()
    if task.role != "format" or not words:
        return np.nan
    return float(words <= set(_WORD.findall(text.lower())))
