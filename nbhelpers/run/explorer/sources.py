"""What the explorer reads: a pair, its tuned lenses, its measured directions and its prompts, each loaded once.

A lens or a direction comes from a finished result; where there is none, a sentence says how to make it, and the rest works.
"""

from functools import lru_cache

import numpy as np

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.core.params import VARIANTS, ParameterError
from nbhelpers.measures import tuned_lens_files
from nbhelpers.measures.tuned_lens import TunedLens, TunedLensError
from nbhelpers.models import loading
from nbhelpers.models.decoder import Pair
from nbhelpers.models.prompts import Prompt, read_prompts
from nbhelpers.run import export, results

PAIRS = 2  # held in memory at once: going back to the pair before takes no time
LENS = "tuned_lens_{}.safetensors"  # an artifact with the lens of a variant


@lru_cache(PAIRS)
def pair(model: str) -> Pair:
    """Return a pair by its key; ParameterError for an unknown key, and as in `loading.load_pair`."""
    return loading.load_pair(model)


@lru_cache(PAIRS)
def lenses(model: str, profile: str) -> dict[str, TunedLens]:
    """Return the tuned lenses of a pair by variant; ResultError or TunedLensError, with the remedy, where there is none."""
    key = _trains_lenses()
    if fault := results.fault(experiments.resolve(key, model=model, profile=profile)):
        raise store.ResultError(
            f"No tuned lens of {model}: {fault.rstrip('.')}; train it with `nbh run {key} --model {model} --profile "
            f"{profile}`."
        )
    folder = store.result_path(profile, model, key).parent
    return {
        decoder.variant: tuned_lens_files.load(folder / LENS.format(decoder.variant), decoder.unembedding)
        for decoder in pair(model)
    }


def _trains_lenses() -> str:
    """Return the experiment whose artifacts are tuned lenses; ParameterError if there is none."""
    wanted = {LENS.format(variant) for variant in VARIANTS}
    for key in params.ordered():
        if wanted <= set(params.experiment(key).artifacts):
            return key
    raise ParameterError(f"no experiment of params/experiments writes {' and '.join(sorted(wanted))}.")


@lru_cache(PAIRS)
def directions(model: str, profile: str) -> np.ndarray:
    """Return the mean IT − PT direction of MLP outputs at each layer, [layer, d]; ResultError where none was measured."""
    return export.measured(model, profile, "mean")


@lru_cache(PAIRS)
def lacking(model: str, profile: str) -> dict[str, str]:
    """Return a sentence for each of "lenses" and "directions" that a pair lacks; raises if the pair cannot be loaded."""
    found = {}
    pair(model)
    for name, load in (("lenses", lenses), ("directions", directions)):
        try:
            load(model, profile)
        except (store.ResultError, ParameterError, TunedLensError) as error:
            found[name] = _sentence(error)
    return found


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


@lru_cache(4)
def known(profile: str) -> dict[str, Prompt]:
    """Return the prompts of a profile by what IT reads, its message; none if the profile's file is not there."""
    try:
        return {prompt.message: prompt for prompt in read_prompts(params.profile_params(profile).prompts)}
    except (ParameterError, OSError):
        return {}


def request(text: str, profile: str) -> Prompt:
    """Return a typed text as a prompt: the profile's own if it is one of them, else with PT's form `Question: … Answer:`.

    ParameterError for an empty text.
    """
    message = " ".join(text.split())
    if not message:
        raise ParameterError("The prompt is empty: type a request, then press Enter.")
    return known(profile).get(message) or Prompt("typed", "typed", f"Question: {message}\nAnswer:", message)
