"""The arms of exp06: every condition, by group.

dose: the late direction rescaled in IT. matched: the same change along a random direction. permuted: a direction from
exchanged labels. unit: a random direction rescaled. raw: the dose without the chat template. early, mid, single: other
layers. inject: the gap added to PT. skip: late blocks left out. plain: nothing changed.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core.depths import onset, windows
from nbhelpers.experiments.exp06_steering.experiment import Params
from nbhelpers.measures import directions
from nbhelpers.measures.arms import Arm

PLAIN = (Arm("it"), Arm("it_raw", prompt_format="raw"), Arm("pt", host="pt"))
PROMPTED = Arm("prompted")


def rescaled(group: str, doses: Sequence[float], layers, **options) -> list[Arm]:
    """Return one arm a dose that rescales the direction in some layers, named "<group>_<dose>"."""
    return [
        Arm(f"{group}_{dose:g}", change="rescale", layers=tuple(layers), dose=dose, **options)
        for dose in doses
    ]


def matched(options: Params, layers) -> list[Arm]:
    """Return the random band: `n_random` directions at each dose of `band_doses`, `n_random_removed` at dose 0."""
    counts = {dose: options.n_random for dose in options.band_doses} | {0.0: options.n_random_removed}
    return [
        Arm(
            f"matched_{dose:g}_{i:02d}",
            change="matched",
            layers=tuple(layers),
            dose=dose,
            write=f"random_{i:02d}",
        )
        for dose, n in sorted(counts.items())
        for i in range(n)
    ]


def skipped(n_layers: int) -> list[Arm]:
    """Return one arm for each number of blocks left out, from the last one down to the onset of the late window."""
    return [
        Arm(
            f"skip_{n_layers - first}",
            change="skip",
            layers=tuple(range(first, n_layers)),
            dose=n_layers - first,
        )
        for first in range(n_layers - 1, onset(n_layers) - 1, -1)
    ]


def injected(options: Params, layers) -> list[Arm]:
    """Return one arm for each factor c, that adds c times the gap itself to PT's late MLP outputs."""
    return [
        Arm(f"inject_{c:g}", host="pt", change="add", layers=tuple(layers), dose=c) for c in options.factors
    ]


def groups(n_layers: int, options: Params) -> dict[str, list[Arm]]:
    """Return {group: arms} of a model with this number of layers; the prompt-only baseline is `PROMPTED`."""
    early, mid, late = (tuple(span) for span in windows(n_layers).values())
    single = [
        Arm(f"single_{layer:02d}", change="rescale", layers=(layer,), dose=0.0) for layer in range(n_layers)
    ]
    return {
        "plain": list(PLAIN),
        "dose": rescaled("dose", options.doses, late),
        "matched": matched(options, late),
        "permuted": rescaled("permuted", options.band_doses, late, vector="permuted"),
        "unit": rescaled("unit", (-1.0, 0.0), late, vector="random_00"),
        "raw": rescaled("raw", options.raw_doses, late, prompt_format="raw"),
        "early": rescaled("early", options.band_doses, early),
        "mid": rescaled("mid", options.band_doses, mid),
        "single": single,
        "inject": injected(options, late),
        "skip": skipped(n_layers),
    }


def window_of(arm: Arm, n_layers: int) -> str:
    """Return the name of the window that an arm edits, "layer" for a single layer, "" for none."""
    if arm.change in ("none", "skip"):
        return arm.change.replace("none", "")
    named = {tuple(span): name for name, span in windows(n_layers).items()}
    return named.get(arm.layers, "layer")


def described(found: dict[str, list[Arm]], n_layers: int) -> dict[str, tuple[str, list]]:
    """Return the coordinates of the dim `arm`: what every arm is, {name: ("arm", values)}."""
    flat = [(group, arm) for group, arms in found.items() for arm in arms]
    about = {
        "group": [group for group, _ in flat],
        "window": [window_of(arm, n_layers) for _, arm in flat],
        "prompt_format": [arm.format for _, arm in flat],
    }
    about |= {
        name: [getattr(arm, name) for _, arm in flat]
        for name in ("host", "change", "place", "vector", "write")
    }
    names = {name: ("arm", np.array(values, dtype=object)) for name, values in about.items()}
    doses = [np.nan if arm.change == "none" else arm.dose for _, arm in flat]
    return {"arm": np.array([arm.name for _, arm in flat], dtype=object), "dose": ("arm", doses), **names}


def vectors(artifact: xr.Dataset, options: Params) -> dict[str, np.ndarray]:
    """Return the vectors that the arms name, {name: [layer, d]}: the mean direction, one from exchanged labels, random ones.

    artifact: exp05's directions. Random directions have no part along the mean direction.
    """
    mean = artifact["direction"].sel(kind="mean").values.astype(float)
    n = max(options.n_random, options.n_random_removed)
    drawn = directions.random_directions(n, *mean.shape, orthogonal_to=mean, seed=options.seed)
    permuted = directions.permuted_directions(artifact["mlp_mean"], 1, seed=options.seed)[0]
    return {"mean": mean, "permuted": permuted} | {f"random_{i:02d}": one for i, one in enumerate(drawn)}
