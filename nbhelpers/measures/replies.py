"""Replies that a capture kept: read back as continuations, for experiments that force or steer the same texts."""

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from nbhelpers.core.params import ParameterError
from nbhelpers.core.store import ResultError
from nbhelpers.models.decoder import Pair
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, choose, digest, render


def replies(observed: xr.Dataset, history: str, prompts: Sequence[str]) -> list[Continuation]:
    """Return one model's replies to the named prompts, stop token included, from a capture's dataset."""
    at = np.flatnonzero((observed.history == history).values)
    index = {name: i for i, name in enumerate(observed.prompt.values.tolist())}
    ids, prompt = observed.token_id.values[at], observed.prompt_index.values[at]
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


def held_out(
    known: Sequence[tuple[Prompt, dict]],
    role: Callable[[dict], str],
    counts: Mapping[str, int],
    *,
    without: Sequence[str] = (),
    seed: int = 0,
) -> list[tuple[Prompt, dict]]:
    """Return prompts with their records, up to `counts` of each role, in file order, none with an id of `without`.

    known: from `prompts.read_pairs`. role: of a record, such as `scoring.task(record).role`. without: prompts that a
    direction was collected on, or that chose a dose. ParameterError if none is left.
    """
    used, by_role = set(without), {name: [] for name in counts}
    for at, (prompt, record) in enumerate(known):
        if prompt.id not in used and (name := role(record)) in by_role:
            by_role[name].append(at)
    chosen = []
    for name, places in by_role.items():
        random.Random(f"{seed} {name}").shuffle(places)
        chosen += places[: counts[name]]
    if not chosen:
        raise ParameterError(
            f"no prompt is left for the evaluation: all {len(known)} are among those that directions were "
            "collected on; name other prompts for this experiment, or lower n_prompts of the capture."
        )
    return [known[at] for at in sorted(chosen)]
