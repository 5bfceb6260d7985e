"""Replies and lens readings of a pair on one prompt, as it is and under an edit; each is kept by its arguments.

An arm (`measures.arms`) is a model with one change. `reply` is what it writes, `lens_view` what each of its layers would say
at every token of a given text, `explore` both models on one text. Every dataset is shared between callers: do not change it.
"""

from functools import lru_cache

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers.core.params import NATIVE, VARIANTS, ParameterError
from nbhelpers.measures import lens, tuned_lens
from nbhelpers.measures.arms import Arm
from nbhelpers.measures.steering import changes
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.decoding import decode
from nbhelpers.models.forward import Batch, forced_batch, narrow
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, read_as
from nbhelpers.models.row_edits import applied, block_outputs
from nbhelpers.run.explorer import sources
from nbhelpers.run.explorer.pictures import TITLES

MOST_TOKENS = 24  # of a reply: wider grids fit no screen
KEPT = 512  # readings and replies kept; a pocket reading is some 20 kB
METRICS = ("top1", "top1_probability", "entropy", "kl_final_layer")
PLAIN = {"pt": Arm("pt", host="pt"), "it": Arm("it", host="it")}


def grafted(host: str, first: int, last: int) -> Arm:
    """Return the arm of a host with the other model's MLPs at layers `first` to `last`, both included."""
    return Arm("grafted", host=host, change="graft", layers=tuple(range(first, last + 1)))


def scaled(first: int, last: int, alpha: float) -> Arm:
    """Return the arm of IT whose MLP outputs at layers `first` to `last` are h + (α − 1)(d·h)d, d the mean direction."""
    layers = tuple(range(first, last + 1))
    return Arm("scaled", host="it", change="rescale", layers=layers, dose=alpha)


def check_tokens(n: int) -> int:
    """Return the number of tokens of a reply; ParameterError unless it is 1 to `MOST_TOKENS`."""
    if not 1 <= n <= MOST_TOKENS:
        raise ParameterError(f"A reply of {n} tokens cannot be shown: choose 1 to {MOST_TOKENS}.")
    return n


def _edits(model: str, arm: Arm, profile: str):
    """Return an arm's edits of one row; ResultError if it needs a direction that was not measured."""
    if arm.change == "none":
        return []
    vectors = {arm.vector: sources.directions(model, profile)} if arm.change == "rescale" else {}
    return changes([arm], sources.pair(model), vectors)


def _ids(decoder: Decoder, prompt: Prompt, n: int) -> list[int]:
    """Return a prompt's ids in the model's own format; ParameterError if they do not fit the context with n more."""
    return read_as(decoder, [prompt], NATIVE[decoder.variant], new_tokens=n)[0]


@lru_cache(KEPT)
def reply(model: str, prompt: Prompt, arm: Arm, max_new_tokens: int, profile: str = "pocket") -> Continuation:
    """Return the greedy reply of an arm to a prompt, at most `max_new_tokens` tokens.

    ParameterError for an unknown pair, a prompt that does not fit or another number of tokens than `check_tokens` allows.
    """
    n, decoder = check_tokens(max_new_tokens), getattr(sources.pair(model), arm.host)
    ids = _ids(decoder, prompt, n)
    return decode(decoder, [ids], _edits(model, arm, profile), max_new_tokens=n).continuations[0]


def written(model: str, prompt: Prompt, arm: Arm, max_new_tokens: int, profile: str = "pocket") -> str:
    """Return the reply of an arm as text, without special tokens; raises as `reply`."""
    ids = reply(model, prompt, arm, max_new_tokens, profile).ids
    return getattr(sources.pair(model), arm.host).tokenizer.decode(ids, skip_special_tokens=True).strip()


@torch.no_grad()
def residuals(decoder: Decoder, batch: Batch, edits) -> list[Tensor]:
    """Return the residual stream after every block at the measured positions of a forced batch, [layer][token, d]."""
    row, column = batch.where
    with applied(decoder, edits, len(batch.input_ids)):
        found = block_outputs(decoder, batch.input_ids, batch.attention_mask, range(decoder.n_layers))
    states = (each[0] if isinstance(each, tuple) else each for each in found)
    return [state[row.to(state.device), column.to(state.device)] for state in states]


@lru_cache(KEPT)
def lens_view(
    model: str, prompt: Prompt, arm: Arm, history: str, max_new_tokens: int, profile: str = "pocket"
) -> xr.Dataset:
    """Return what each layer of an arm would say at every token of the reply of `history`, dims (lens, layer, token).

    Variables: `top1` (id), `top1_probability`, `entropy` (nats) and `kl_final_layer` (nats, to the arm's own last layer); see
    `lens.lens_metrics`. history: "pt" or "it", whose unchanged reply is forced through the arm. Without tuned lenses, the
    lens is raw alone. Raises as `reply`.
    """
    text = reply(model, prompt, PLAIN[history], max_new_tokens, profile)
    decoder = getattr(sources.pair(model), arm.host)
    ids = _ids(decoder, prompt, max_new_tokens)
    batch = forced_batch([0], [ids], [text], decoder.pad_id)
    states = residuals(decoder, batch, _edits(model, arm, profile))
    found = {"raw": lens.lens_metrics(states, decoder.unembedding, metrics=METRICS)}
    if "lenses" not in sources.lacking(model, profile):
        tuned = sources.lenses(model, profile)[arm.host]
        found["tuned"] = tuned_lens.metrics(states, decoder.unembedding, tuned, metrics=METRICS)
    arrays = {name: np.stack([narrow(values[name]) for values in found.values()]) for name in METRICS}
    return xr.Dataset(
        {name: (("lens", "layer", "token"), values) for name, values in arrays.items()},
        {"lens": list(found), "layer": np.arange(decoder.n_layers), "token": np.arange(len(text.ids))},
    )


@lru_cache(KEPT)
def explore(
    model: str,
    prompt: Prompt,
    *,
    history: str = "it",
    max_new_tokens: int = 16,
    profile: str = "pocket",
    arms: tuple[Arm, ...] = (),
) -> xr.Dataset:
    """Return what each layer of PT, IT and further arms would say at every token of one reply, (who, lens, layer, token).

    model: key of a pair. prompt: as `sources.request` returns it. history: whose reply is read, "pt" or "it"; all read the
    same tokens, each behind the prompt in its own format. Variables: those of `lens_view`, `top1_text`, and `token_text`
    (token), what was written. ParameterError for an unknown history, and as in `reply`.
    """
    if history not in VARIANTS:
        raise ParameterError(f"There is no reply of {history!r}: choose from {', '.join(VARIANTS)}.")
    every = [*PLAIN.values(), *arms]
    views = [lens_view(model, prompt, arm, history, max_new_tokens, profile) for arm in every]
    found = xr.concat(views, "who").assign_coords(who=[arm.name for arm in every])
    tokenizer = sources.pair(model).it.tokenizer
    text = reply(model, prompt, PLAIN[history], max_new_tokens, profile)
    for name, (title, unit) in TITLES.items():
        found[name].attrs = {"long_name": title, "units": unit}
    return found.assign(
        top1_text=(found["top1"].dims, spelled(tokenizer, found["top1"].values)),
        token_text=("token", spelled(tokenizer, np.array(text.ids))),
    )


def spelled(tokenizer, ids: np.ndarray) -> np.ndarray:
    """Return each id as the text that it adds, of the ids' shape, as strings; a leading space is kept."""
    different, at = np.unique(ids, return_inverse=True)
    words = np.array([tokenizer.decode([int(index)]) for index in different], dtype=object)
    return words[at].reshape(ids.shape)
