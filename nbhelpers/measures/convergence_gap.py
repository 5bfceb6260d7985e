"""The convergence gap: how much farther IT's layers are from IT's final prediction than PT's from PT's, by prompt."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from nbhelpers.core import depths, stats


def layer_gap(kl_it: ArrayLike, kl_pt: ArrayLike, layers: Sequence[int] | None = None) -> np.ndarray:
    """Return the difference IT − PT of each prompt, averaged over `layers` (None: the late half), nats [prompt].

    layer_gap = mean_{ℓ ∈ layers} (kl_it[ℓ] − kl_pt[ℓ])
    kl_it, kl_pt: [prompt, layer]; row i is the same prompt in both. ValueError if their shapes differ.
    """
    kl_it, kl_pt = np.asarray(kl_it, dtype=float), np.asarray(kl_pt, dtype=float)
    if kl_it.shape != kl_pt.shape:
        raise ValueError(
            f"IT and PT must be paired by prompt and layer: shapes {kl_it.shape} and {kl_pt.shape}."
        )
    layers = list(depths.late_half(kl_it.shape[-1]) if layers is None else layers)
    return (kl_it - kl_pt)[..., layers].mean(-1)


def convergence_gap(kl_it: ArrayLike, kl_pt: ArrayLike) -> np.ndarray:
    """Return the convergence gap of each prompt, nats [prompt].

    convergence_gap = mean_{⌊L/2⌋ ≤ ℓ < L} (kl_it[ℓ] − kl_pt[ℓ]), the last layer included
    kl_it, kl_pt: per-prompt means [prompt, layer]. Paper, section 2. `stats.bca_mean` of it gives the estimate and its
    interval; `token_weighted_gap` gives the published estimate.
    """
    return layer_gap(kl_it, kl_pt)


def token_weighted_gap(
    kl_it: ArrayLike, kl_pt: ArrayLike, tokens_it: ArrayLike, tokens_pt: ArrayLike, layers=None
) -> float:
    """Return the gap of the two curves pooled over tokens, nats, as published: long generations weigh more.

    token_weighted_gap = mean_{ℓ ∈ layers} (Σ_i n_it[i] kl_it[i, ℓ] / Σ_i n_it[i] − Σ_i n_pt[i] kl_pt[i, ℓ] / Σ_i n_pt[i])
    kl_*: per-prompt means [prompt, layer] over n_* = tokens_* [prompt] steps. layers: None is the late half.
    """
    it, pt = stats.token_weighted_mean(kl_it, tokens_it), stats.token_weighted_mean(kl_pt, tokens_pt)
    return float(layer_gap(it, pt, layers))
