"""Forced choice by log-probability: which of a question's candidate answers each arm of a steering run finds likeliest."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from nbhelpers.measures import scoring, steering
from nbhelpers.measures.arms import Arm, Vectors
from nbhelpers.models import tokens
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, without_wrapper


def runs(pair: Pair, arms: Sequence[Arm]) -> Iterator[tuple[Decoder, str, list[int]]]:
    """Yield (decoder, prompt format, indices of its arms) for each host and prompt format that the arms use."""
    for host, prompt_format in dict.fromkeys((arm.host, arm.format) for arm in arms):
        members = [i for i, arm in enumerate(arms) if (arm.host, arm.format) == (host, prompt_format)]
        yield getattr(pair, host), prompt_format, members


def candidate_ids(decoder: Decoder, prompt_format: str, text: str) -> Continuation:
    """Return a candidate reply as the tokens that the model reads after a prompt; after raw text it opens with a space."""
    text = text.strip() if prompt_format == "chat" else f" {text.strip()}"
    return Continuation(tuple(tokens.plain_ids(decoder.tokenizer, text)), True)


def choice_prompt(prompt: Prompt, record: dict) -> Prompt:
    """Return the prompt that asks for one letter alone (format C), if a record has one; else its own.

    The candidates of such a record are letters (`scoring.candidates`).
    """
    letter = record.get("formats", {}).get("C")
    if not letter or "check" in record:
        return prompt
    return replace(prompt, text=letter, message=without_wrapper(letter))


def forced_choice(
    pair: Pair,
    arms: Sequence[Arm],
    known: Sequence[tuple[Prompt, dict]],
    vectors: Vectors,
    *,
    batch_size: int,
) -> xr.DataArray:
    """Return whether each arm gives the right candidate the largest log p, 0 or 1 (arm, prompt); NaN without candidates.

    log p(candidate) = Σ_t log p(y_t | prompt, y_<t) of the whole candidate, in the arm's prompt format
    known: prompts with their records. SteeringError as in `steering.forced`.
    """
    right = np.full((len(arms), len(known)), np.nan)
    places = [p for p, (_, record) in enumerate(known) if scoring.task(record).role == "choice"]
    sets = [scoring.candidates(known[p][1]) for p in places]
    repeated = [choice_prompt(*known[p]) for p, (texts, _) in zip(places, sets) for _ in texts]
    ends = np.cumsum([0, *(len(texts) for texts, _ in sets)])
    for decoder, prompt_format, members in runs(pair, arms) if places else ():
        read = [candidate_ids(decoder, prompt_format, text) for texts, _ in sets for text in texts]
        mine = [arms[i] for i in members]
        nll = steering.forced(pair, mine, repeated, read, vectors, batch_size=batch_size)["nll"].values
        total = nll * [len(one.ids) for one in read]
        for p, (_, answer), start, stop in zip(places, sets, ends, ends[1:]):
            right[members, p] = total[:, start:stop].argmin(1) == answer
    coords = {"arm": [arm.name for arm in arms], "prompt": [prompt.id for prompt, _ in known]}
    return xr.DataArray(right, coords, ("arm", "prompt"))
