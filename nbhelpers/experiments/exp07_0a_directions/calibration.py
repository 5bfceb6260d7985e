"""exp07_0a, validation 0H: does the direction hang on the prompts that gave it?

The study chose the 600 prompts on which IT and PT differ most, and compared them with 600 random and 600 low ones out of
1,400, so that the sets overlap. Here three random and three ranked sets are disjoint, and each direction is removed on the
same prompts, none of which gave a direction.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.core.params import ParameterError
from nbhelpers.measures import directions, steering
from nbhelpers.measures.arms import Arm
from nbhelpers.measures.scoring import structure
from nbhelpers.models.decoder import Pair
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, choose

RANDOM, RANKED = ("random_1", "random_2", "random_3"), ("top", "middle", "bottom")
SETS = (*RANDOM, *RANKED)
ALL, EXCHANGED = (
    "all",
    "exchanged",
)  # the whole direction; one of exchanged labels, as long a change as the whole's
EFFECTS = ("kl_unedited", "nll", "agreement", "residual_change")


def contrasts(observed: xr.Dataset, prompts: Sequence[str]) -> np.ndarray:
    """Return how much IT and PT differ on each prompt, as the study ranks them but without its judge, [prompt].

    contrast = (S_IT − S_PT) + NLL_PT / max NLL_PT, the maximum over these prompts
    S: the structural token ratio of each model's reply. NLL_PT: mean negative log-probability, nats, of IT's reply under PT,
    which reads its own prompt format.
    """
    texts = observed["text"].sel(prompt=list(prompts)).transpose("variant", "prompt")
    ratio = {v: np.array([structure(t) for t in texts.sel(variant=v).values.tolist()]) for v in ("pt", "it")}
    on_it = np.flatnonzero((observed.history == "it").values)
    last = observed["target_log_probability"].sel(variant="pt", lens="raw").isel(layer=-1).values[on_it]
    prompt = observed.prompt_index.values[on_it]
    index = {name: i for i, name in enumerate(observed.prompt.values.tolist())}
    nll = np.array([-last[prompt == index[name]].mean() for name in prompts])
    return ratio["it"] - ratio["pt"] + nll / nll.max()


def thirds(contrast: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the prompts of each calibration set by index, {set: indices}: random thirds, and thirds by contrast.

    The three random sets share no prompt, nor do the top, middle and bottom third. ParameterError for fewer than six.
    """
    n = len(contrast)
    if n < 6:
        raise ParameterError(
            f"{n} prompts are too few for three disjoint calibration sets; six are the least."
        )
    order, ranked = np.random.default_rng(seed).permutation(n), np.argsort(-contrast, kind="stable")
    third = n // 3
    cut = {name: order[k * third : (k + 1) * third] for k, name in enumerate(RANDOM)}
    cut |= {"top": ranked[:third], "middle": ranked[third : n - third], "bottom": ranked[n - third :]}
    return {name: np.sort(indices) for name, indices in cut.items()}


def set_directions(cells: xr.DataArray, sets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the mean direction of each calibration set and of all prompts, {set: [layer, d]}."""
    own = directions.differences(cells).values
    return {name: own[indices].mean(0) for name, indices in sets.items()} | {ALL: own.mean(0)}


def set_cosines(found: Mapping[str, np.ndarray]) -> xr.DataArray:
    """Return the cosine between the directions of every two sets, (set, other, layer)."""
    names = list(found)
    values = np.array([[directions.cosine(found[a], found[b]) for b in names] for a in names])
    return xr.DataArray(values, dims=("set", "other", "layer"), coords={"set": names, "other": names})


def held_out(
    observed: xr.Dataset, known: Sequence[Prompt], used: Sequence[str], n: int, seed: int
) -> list[Prompt]:
    """Return up to n of the prompts that a capture has replies to and no direction was collected on, balanced by category.

    ParameterError if fewer than two are left.
    """
    ids = set(observed.prompt.values.tolist()) - set(used)
    left = [prompt for prompt in known if prompt.id in ids]
    if len(left) < 2:
        raise ParameterError(
            f"the directions were collected on {len(used)} of the capture's {observed.sizes['prompt']} prompts, so that "
            "none is left to remove them on; lower n_prompts of the directions."
        )
    return choose(left, min(n, len(left)), seed)


def removals(
    pair: Pair,
    cells: xr.DataArray,
    found: Mapping[str, np.ndarray],
    prompts: Sequence[Prompt],
    replies: Sequence[Continuation],
    *,
    batch_size: int,
    seed: int,
) -> xr.Dataset:
    """Return what removing each set's direction in the late window does to IT on its own replies, (set, prompt).

    h' = h − (d̂·h)d̂ at every position
    Variables as in `steering.READ`, by prompt, where `nll` is the rise over unedited IT. The set `EXCHANGED` changes each
    position by the length that removing the whole direction would, along a direction of exchanged labels: what any
    direction of that size does.
    """
    late = tuple(depths.windows(pair.n_layers)["late"])
    vectors = dict(found) | {EXCHANGED: directions.permuted_directions(cells, 1, seed=seed)[0]}
    arms = [Arm(name, change="rescale", layers=late, vector=name, dose=0.0) for name in found]
    arms.append(Arm(EXCHANGED, change="matched", layers=late, vector=ALL, write=EXCHANGED, dose=0.0))
    arms.append(Arm("none"))
    read = steering.forced(pair, arms, prompts, replies, vectors, batch_size=batch_size)
    plain = read.sel(arm="none", drop=True)
    edited = read.drop_sel(arm="none").rename(arm="set")
    return edited.assign(nll=edited["nll"] - plain["nll"])[list(EFFECTS)].transpose("set", "prompt")
