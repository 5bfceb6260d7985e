"""The convergence gap: how much farther IT stays from its own final prediction than PT, paired by prompt."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nbhelpers.core import depths, stats


def layer_gap(kl_it: ArrayLike, kl_pt: ArrayLike, layers: Sequence[int] | None = None) -> np.ndarray:
    """Return the mean IT − PT over `layers` (None: the late half) of paired per-prompt values, nats
    [prompt].

    kl_it, kl_pt: [prompt, layer], row i of both being the same prompt. ValueError if their shapes differ.
    """
    kl_it, kl_pt = np.asarray(kl_it, dtype=float), np.asarray(kl_pt, dtype=float)
    if kl_it.shape != kl_pt.shape:
        raise ValueError(
            f"IT and PT must be paired by prompt and layer: shapes {kl_it.shape} and {kl_pt.shape}."
        )
    layers = list(depths.late_half(kl_it.shape[-1]) if layers is None else layers)
    return (kl_it - kl_pt)[..., layers].mean(-1)


def convergence_gap(kl_it: ArrayLike, kl_pt: ArrayLike) -> np.ndarray:
    """Return the convergence gap of each prompt, nats [prompt]: mean IT − PT over layers ≥ ⌊L/2⌋, the last
    included.

    kl_it, kl_pt: per-prompt means [prompt, layer]. Paper, section 2; `stats.bca_mean` of it is the estimate
    with its interval, `token_weighted_gap` the published one.
    """
    return layer_gap(kl_it, kl_pt)


def gap_by_third(kl_it: ArrayLike, kl_pt: ArrayLike) -> dict[str, np.ndarray]:
    """Return {early, middle, late: mean IT − PT [prompt]} over the thirds of the layers, cut with floor."""
    thirds = depths.thirds(np.shape(kl_it)[-1])
    return {name: layer_gap(kl_it, kl_pt, layers) for name, layers in thirds.items()}


def final_fifth_gap(kl_it: ArrayLike, kl_pt: ArrayLike) -> np.ndarray:
    """Return the mean IT − PT of each prompt over layers ≥ ⌊0.8 L⌋ [prompt]."""
    return layer_gap(kl_it, kl_pt, depths.final_fifth(np.shape(kl_it)[-1]))


def token_weighted_gap(
    kl_it: ArrayLike, kl_pt: ArrayLike, tokens_it: ArrayLike, tokens_pt: ArrayLike, layers=None
) -> float:
    """Return the gap of the two curves pooled over tokens, nats, as published: long generations count for
    more.

    kl_*: per-prompt means [prompt, layer] over tokens_* [prompt] steps. layers: None is the late half.
    """
    it, pt = stats.token_weighted_mean(kl_it, tokens_it), stats.token_weighted_mean(kl_pt, tokens_pt)
    return float(layer_gap(it, pt, layers))


def layers_above(kl_it: ArrayLike, kl_pt: ArrayLike, layers: Sequence[int] | None = None) -> tuple[int, int]:
    """Return at how many of `layers` (None: the late half) the mean IT curve lies above PT's, and of how
    many.

    kl_it, kl_pt: [prompt, layer]. The last layer is 0 in both, so a full house is one less than all.
    """
    it, pt = np.nanmean(kl_it, axis=0), np.nanmean(kl_pt, axis=0)
    layers = list(depths.late_half(len(it)) if layers is None else layers)
    return int((it > pt)[layers].sum()), len(layers)
