"""exp07_0a: stability, composition and calibration of the IT − PT direction, from the collection that gave it.

0A compares the directions of prompts that are not shared, 0B splits the direction into weights, history and prompt format,
0H takes it from disjoint calibration sets and removes each.
"""

import numpy as np
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.experiments.exp07_0a_directions import calibration, decomposition, stability
from nbhelpers.experiments.exp07_0a_directions.experiment import Params
from nbhelpers.measures import directions


def sizes(n_prompts: int, options: Params) -> list[int]:
    """Return the subset sizes of the parameters that half of the prompts can fill, and half of them itself."""
    half = n_prompts // 2
    return sorted({size for size in options.sizes if size < half} | {half})


def stable(cells: xr.DataArray, options: Params) -> xr.Dataset:
    """Return 0A's part of the dataset from `directions.collect`'s cells: cosines of disjoint halves, chance, size curves."""
    own = directions.differences(cells).values
    draws = {"draws": options.n_draws, "seed": options.seed}
    chosen = sizes(len(own), options)
    disjoint, nested = (
        stability.disjoint_curve(own, chosen, **draws),
        stability.nested_curve(own, chosen, **draws),
    )
    return xr.Dataset(
        {
            "split_half": (("draw", "layer"), disjoint[-1]),
            "chance": (("draw", "layer"), stability.exchanged(own, **draws)),
            "pairwise": ("layer", stability.pairwise(own, **draws)),
            "disjoint": (("size", "draw", "layer"), disjoint),
            "nested": (("size", "draw", "layer"), nested),
        },
        {"size": chosen, "layer": np.arange(own.shape[1])},
    )


def composed(cells: xr.DataArray, options: Params) -> xr.Dataset:
    """Return 0B's part of the dataset from `directions.collect`'s cells; see `decomposition.decompose`."""
    spans = depths.windows(cells.sizes["layer"])
    return decomposition.decompose(
        cells, spans, draws=options.n_boot, confidence=options.confidence, seed=options.seed
    )


def gathered(*parts: xr.Dataset) -> xr.Dataset:
    """Return exp07_0a's dataset from those of `stable`, `composed` and 0H's, without the tensors of a set's directions."""
    whole = xr.merge(parts, compat="override", join="outer")
    return whole.assign(
        {name: v.astype(np.float32) for name, v in whole.data_vars.items() if v.dtype == float}
    )


def calibrated(
    cells: xr.DataArray, contrast: np.ndarray, sets: dict[str, np.ndarray], effects: xr.Dataset
) -> xr.Dataset:
    """Return 0H's part of the dataset: contrasts, sets, cosines between their directions, and what removing each does.

    effects: of `calibration.removals`. Its prompts are held out, dimension `prompt`; those that gave directions are
    `calibration`.
    """
    found = calibration.set_directions(cells, sets)
    names = cells.prompt.values.tolist()
    member = np.zeros((len(sets), len(names)), dtype=np.int8)
    for row, indices in zip(member, sets.values()):
        row[indices] = 1
    part = xr.Dataset(
        {
            "contrast": ("calibration", contrast),
            "member": (("third", "calibration"), member),
            "set_cosine": calibration.set_cosines(found).rename(set="from_set", other="other_set"),
        },
        {"calibration": names, "third": list(sets)},
    )
    return part.merge(effects.rename(kl_unedited="removal_kl", nll="removal_nll", agreement="removal_agreement",
                                     residual_change="removal_dose"))  # fmt: skip
