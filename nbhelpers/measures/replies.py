"""Replies that a capture kept: read back as continuations, for experiments that force or steer the same texts."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core.store import ResultError
from nbhelpers.models.decoder import Pair
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, choose, digest, render


def replies(observed: xr.Dataset, history: str, prompts: Sequence[str]) -> list[Continuation]:
    """Return one model's replies to the named prompts, stop token included, from a capture's dataset."""
    of = observed.isel(step=np.flatnonzero((observed.history == history).values))
    index = {name: i for i, name in enumerate(observed.prompt.values.tolist())}
    ids, prompt = of.token_id.values, of.prompt_index.values
    stopped = observed.stopped.sel(variant=history).values
    return [
        Continuation(tuple(ids[prompt == index[name]].tolist()), bool(stopped[index[name]]))
        for name in prompts
    ]


def check_rendered(observed: xr.Dataset, pair: Pair, known: Sequence[Prompt]) -> None:
    """Raise ResultError unless this pair renders the prompts to the ids after which a capture's replies were written."""
    ids = set(observed.prompt.values.tolist())
    answered = [prompt for prompt in known if prompt.id in ids]
    now = digest({decoder.variant: render(decoder, answered) for decoder in pair})
    if now != observed.attrs.get("prompts_digest"):
        capture = observed.attrs.get("experiment", "the capture")
        raise ResultError(
            f"the prompts of {pair.key} are no longer rendered as when its replies were written (another tokenizer, template "
            f"or prompt file); measure them anew with `nbh run {capture} --model {pair.key}`."
        )


def measured_prompts(observed: xr.Dataset, known: Sequence[Prompt], n: int, seed: int) -> list[Prompt]:
    """Return n of the prompts that a capture has replies to, balanced over categories; all of them if there are fewer."""
    ids = set(observed.prompt.values.tolist())
    answered = [prompt for prompt in known if prompt.id in ids]
    return choose(answered, min(n, len(answered)), seed)
