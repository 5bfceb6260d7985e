"""Divisions of a model's layers: depth, onset, phases, windows, thirds. All follow from the number of layers L alone."""

import numpy as np


def depth(n_layers: int) -> np.ndarray:
    """Return each layer's depth (layer + 1) / L, in (0, 1]."""
    return np.arange(1, n_layers + 1) / n_layers


def onset(n_layers: int) -> int:
    """Return the first layer of the late window, round(0.6 L)."""
    return (6 * n_layers + 5) // 10


def phases(n_layers: int) -> dict[str, range]:
    """Return the study's phases: content [0, b], format (b, onset), corrective [onset, L), with b = round(0.33 L)."""
    boundary = round(0.33 * n_layers) + 1
    return {
        "content": range(boundary),
        "format": range(boundary, onset(n_layers)),
        "corrective": range(onset(n_layers), n_layers),
    }


def windows(n_layers: int) -> dict[str, range]:
    """Return the windows early, mid and late, each L − onset layers wide; the late window is [onset, L)."""
    width = n_layers - onset(n_layers)
    middle = (n_layers - width) // 2
    return {
        "early": range(width),
        "mid": range(middle, middle + width),
        "late": range(n_layers - width, n_layers),
    }


def final_fifth(n_layers: int) -> range:
    """Return the layers [⌊0.8 L⌋, L)."""
    return range(4 * n_layers // 5, n_layers)


def late_half(n_layers: int) -> range:
    """Return the layers [⌊L/2⌋, L) over which the convergence gap is averaged."""
    return range(n_layers // 2, n_layers)


def thirds(n_layers: int) -> dict[str, range]:
    """Return the thirds early, middle and late, cut at ⌊L/3⌋ and ⌊2L/3⌋."""
    first, second = n_layers // 3, 2 * n_layers // 3
    return {"early": range(first), "middle": range(first, second), "late": range(second, n_layers)}


def around_third(n_layers: int) -> range:
    """Return the window around a third of the depth, round(0.33 L) ± max(1, ⌊L/12⌋), within the layers of the model."""
    centre, reach = round(0.33 * n_layers), max(1, n_layers // 12)
    return range(max(centre - reach, 0), min(centre + reach + 1, n_layers))
