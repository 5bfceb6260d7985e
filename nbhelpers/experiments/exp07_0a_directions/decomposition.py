"""exp07_0a, validation 0B: how much of the direction comes from the weights, the token history and the prompt format?

All from one collection of eight cells, weights × history × prompt format. The mean direction, IT on its own chat replies
less PT on its own raw ones, is exactly the sum of three main effects and their three-way interaction.
"""

import numpy as np
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.measures.directions import CELLS, COMBINATIONS, Cell

FACTORS = ("weights", "history", "template", "interaction")  # their sum is the direction "mean"


def _raw_effect(axis: int) -> dict[Cell, float]:
    """Return one factor's effect in the four cells of raw prompts: +½ at IT, −½ at PT."""
    return {c: 0.5 if c[axis] == "it" else -0.5 for c in CELLS if c[2] == "raw"}


def _interaction() -> dict[Cell, float]:
    """Return what the three main effects leave of the mean direction."""
    left = dict.fromkeys(CELLS, 0.0) | COMBINATIONS["mean"]
    for factor in FACTORS[:3]:
        left = {c: left[c] - COMBINATIONS[factor][c] for c in CELLS}
    return left


# Part of the direction → the weights of the cells whose sum it is.
PARTS: dict[str, dict[Cell, float]] = {
    **{name: COMBINATIONS[name] for name in ("mean", "mean_raw", "mean_chat", "matched", "reversed")},
    **{name: COMBINATIONS[name] for name in FACTORS[:3]},
    "interaction": _interaction(),
    # What the study's "reversed" condition computed: IT's weights in both terms, PT's text less IT's.
    "reversed_as_run": {("it", "pt", "raw"): 1.0, ("it", "it", "raw"): -1.0},
    # Without a template in the game: mean_raw is exactly their sum.
    "weights_raw": _raw_effect(0),
    "history_raw": _raw_effect(1),
}
AGAINST = ("mean", "mean_raw", "history")  # what cosines are taken with
ENDS = ("mean", "low", "high")


def coefficients() -> np.ndarray:
    """Return the weights of the cells, [part, cell], in the orders of `PARTS` and `directions.CELLS`."""
    return np.array([[part.get(cell, 0.0) for cell in CELLS] for part in PARTS.values()])


def by_cell(cells: xr.DataArray) -> np.ndarray:
    """Return a collection of `directions.collect` as [cell, prompt, layer, d], in the order of `directions.CELLS`."""
    named = [cells.sel(weights=w, history=h, prompt_format=f) for w, h, f in CELLS]
    return np.stack([one.transpose("prompt", "layer", "feature").values for one in named])


def read(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is read of parts [draw, part, d] of one layer: `cosine` [draw, part, against], `norm`, `share` [draw,
    part].

    norm = ‖v‖;  share = v·d / ‖d‖²,  d = "mean"
    The shares of the four `FACTORS` add up to 1.
    """
    names, length = list(PARTS), np.linalg.norm(vectors, axis=-1)
    axes = vectors[:, [names.index(name) for name in AGAINST]]
    product = np.einsum("npd,nad->npa", vectors, axes)
    scale = length[:, :, None] * np.linalg.norm(axes, axis=-1)[:, None]
    return {
        "cosine": product / scale.clip(1e-30),
        "norm": length,
        "share": product[:, :, 0] / (length[:, :1] ** 2).clip(1e-30),
    }


def drawn(cells: np.ndarray, *, draws: int, seed: int) -> tuple[dict[str, np.ndarray], ...]:
    """Return `read` of the prompts as they are, of bootstrap resamples, and with each prompt left out, {name: [draw,
    layer, …]}.

    cells: from `by_cell`. One layer at a time, so that memory does not grow with the depth.
    """
    n, weights = cells.shape[1], coefficients()
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws) / n
    plans = (np.full((1, n), 1 / n), times, (1 - np.eye(n)) / (n - 1))
    found = []
    for plan in plans:
        layers = []
        for layer in range(cells.shape[2]):
            means = np.einsum("kn,cnd->kcd", plan, cells[:, :, layer].astype(float), optimize=True)
            layers.append(read(np.einsum("pc,kcd->kpd", weights, means, optimize=True)))
        found.append({name: np.stack([one[name] for one in layers], 1) for name in layers[0]})
    return tuple(found)


def bca(point: np.ndarray, resampled: np.ndarray, left_out: np.ndarray, confidence: float) -> np.ndarray:
    """Return values with their bias-corrected and accelerated bootstrap intervals, [end, entry]; ends as in `ENDS`.

    point [entry]; resampled [draw, entry]; left_out [prompt, entry]: the value without each prompt.
    """
    below = ((resampled < point).mean(0) + (resampled <= point).mean(0)) / 2
    pull = left_out.mean(0) - left_out
    levels = stats.bca_levels(below, pull, len(resampled), confidence)
    ends = [np.array([np.quantile(b, q) for b, q in zip(resampled.T, level)]) for level in levels]
    return np.stack([point, *ends])


def decompose(
    cells: xr.DataArray, spans: dict[str, range], *, draws: int, confidence: float, seed: int
) -> xr.Dataset:
    """Return the parts of the direction with BCa intervals over prompts, by layer and averaged over windows.

    Variables `cosine` (part, against, place, end), `norm` and `share` (part, place, end). place: the number of a layer, or
    the name of a window of `spans`, over which the value of each layer is averaged within every resample.
    """
    point, resampled, left = drawn(by_cell(cells), draws=draws, seed=seed)
    variables = {}
    for name in point:
        placed = [
            np.concatenate([one[name], _by_window(one[name], spans)], 1) for one in (point, resampled, left)
        ]
        shape = placed[0].shape[1:]
        flat = [values.reshape(len(values), -1) for values in placed]
        ends = bca(flat[0][0], *flat[1:], confidence).reshape(len(ENDS), *shape)
        dims = ("end", "place", "part", "against")[: ends.ndim]
        variables[name] = (dims, ends)
    n_layers = cells.sizes["layer"]
    places = [*map(str, range(n_layers)), *spans]
    coords = {"end": list(ENDS), "place": places, "part": list(PARTS), "against": list(AGAINST)}
    return xr.Dataset(variables, coords)


def _by_window(values: np.ndarray, spans: dict[str, range]) -> np.ndarray:
    """Return values [draw, layer, …] averaged over the layers of each window, [draw, window, …]."""
    return np.stack([values[:, list(layers)].mean(1) for layers in spans.values()], 1)
