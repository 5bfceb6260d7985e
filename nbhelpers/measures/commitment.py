"""Commitment: the layer from which a token's prediction is the final one, by each of the study's rules.

Arrays end in the layer axis: top1 [..., layer] token ids, kl [..., layer] nats from the final layer's
prediction. A commitment rule returns [...] layers; the last layer always qualifies in principle, and a
token that never does (NaN, or an endpoint that is itself above an absolute threshold) gets L − 1, as in the
study. The study's text and its code disagree on several rules: each function below says which of the two it
is.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def _first(holds: np.ndarray) -> np.ndarray:
    """First layer at which `holds` [..., layer], L − 1 if none."""
    return np.where(holds.any(-1), holds.argmax(-1), holds.shape[-1] - 1)


def _onwards(holds: np.ndarray) -> np.ndarray:
    """Whether `holds` at a layer and at every later one."""
    return np.logical_and.accumulate(holds[..., ::-1], axis=-1)[..., ::-1]


def _sum_onwards(values: np.ndarray) -> np.ndarray:
    """Sum over a layer and every later one, float64."""
    return np.cumsum(values[..., ::-1], axis=-1, dtype=float)[..., ::-1]


def _left(n_layers: int) -> np.ndarray:
    """How many layers remain from each one on, itself included."""
    return np.arange(n_layers, 0, -1)


def _agrees(top1: ArrayLike) -> np.ndarray:
    top1 = np.asarray(top1)
    return top1 == top1[..., -1:]


def _below(kl: ArrayLike, threshold: float) -> np.ndarray:
    return np.asarray(kl) < threshold


def top1_first(top1: ArrayLike) -> np.ndarray:
    """Return the first layer whose top-1 token is the final one: "top-1 commitment" as the paper's text
    has it.

    top1_first = min {ℓ : top1[ℓ] = top1[L − 1]}
    """
    return _first(_agrees(top1))


def top1_strict(top1: ArrayLike) -> np.ndarray:
    """Return the first layer from which the top-1 token is the final one throughout: what the study
    computed.

    top1_strict = min {ℓ : top1[j] = top1[L − 1] for all j ≥ ℓ}
    """
    return _first(_onwards(_agrees(top1)))


def top1_stable(top1: ArrayLike, window: int = 3) -> np.ndarray:
    """Return the first layer whose top-1 token is the final one for `window` layers: "no flip-back" in the
    text.

    top1_stable = min {ℓ : top1[j] = top1[L − 1] for ℓ ≤ j < min(ℓ + window, L)}
    The window is cut at L − 1. The study's figures of this name show `top1_strict`.
    """
    holds = _agrees(top1)
    match = holds.copy()
    for ahead in range(1, min(window, holds.shape[-1])):
        holds[..., :-ahead] &= match[..., ahead:]
    return _first(holds)


def kl_first(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the first layer with KL below `threshold` nats: "KL commitment" as the paper's text has it.

    kl_first = min {ℓ : kl[ℓ] < threshold}
    """
    return _first(_below(kl, threshold))


def kl_stays(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the first layer from which KL stays below `threshold` nats: what the study computed.

    kl_stays = min {ℓ : kl[j] < threshold for all j ≥ ℓ}
    """
    return _first(_onwards(_below(kl, threshold)))


def kl_qualified(kl: ArrayLike, threshold: float = 0.1, factor: float = 3.0) -> np.ndarray:
    """Return the first layer with KL below `threshold` from which it stays below `factor` × `threshold`,
    in nats.

    kl_qualified = min {ℓ : kl[ℓ] < threshold, kl[j] < factor · threshold for all j ≥ ℓ}
    """
    return _first(_below(kl, threshold) & _onwards(_below(kl, factor * threshold)))


def _share_below(kl, threshold):
    below = _below(kl, threshold)
    return _sum_onwards(below) / _left(below.shape[-1])


def majority(kl: ArrayLike, threshold: float = 0.1, share: float = 0.9) -> np.ndarray:
    """Return the first layer from which at least `share` of the layers have KL below `threshold` nats.

    majority = min {ℓ : #{j ≥ ℓ : kl[j] < threshold} ≥ share · (L − ℓ)}
    Text and code agree on this "majority vote". The layer itself need not be below: with ten or more layers
    left it can fire one layer before the crossing. Compare `majority_below`.
    """
    return _first(_share_below(kl, threshold) >= share)


def majority_below(kl: ArrayLike, threshold: float = 0.1, share: float = 0.9) -> np.ndarray:
    """Return the first layer with KL below `threshold` nats from which at least `share` of the layers
    are too.

    majority_below = min {ℓ : kl[ℓ] < threshold, #{j ≥ ℓ : kl[j] < threshold} ≥ share · (L − ℓ)}
    """
    return _first(_below(kl, threshold) & (_share_below(kl, threshold) >= share))


def kl_continuous(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the depth, in layers and fractions, at which KL first falls below `threshold`, float [...].

    kl_continuous = ℓ − 1 + (kl[ℓ − 1] − threshold) / (kl[ℓ − 1] − kl[ℓ]),  ℓ = kl_first
    Linear between the layers on either side of the first crossing; 0 if layer 0 is below already.
    """
    kl = np.asarray(kl, dtype=float)
    first = _first(kl < threshold)
    before = np.maximum(first - 1, 0)
    high, low = (np.take_along_axis(kl, at[..., None], axis=-1)[..., 0] for at in (before, first))
    crosses = (low < threshold) & (first > 0) & np.isfinite(high)
    part = np.divide(high - threshold, high - low, out=np.ones_like(high), where=crosses)
    return np.where(crosses, before + part, first)


def cosine_stays(cosine: ArrayLike, threshold: float = 0.95) -> np.ndarray:
    """Return the first layer from which the cosine to the final residual [..., layer] stays ≥
    `threshold`.

    cosine_stays = min {ℓ : cosine[j] ≥ threshold for all j ≥ ℓ}
    """
    return _first(_onwards(np.asarray(cosine) >= threshold))


def entropy_stays(entropy: ArrayLike, threshold: float = 0.2) -> np.ndarray:
    """Return the first layer from which entropy [..., layer] stays below `threshold` nats: the study's
    arrays.

    entropy_stays = min {ℓ : entropy[j] < threshold for all j ≥ ℓ}
    """
    return _first(_onwards(_below(entropy, threshold)))


def commitment_table(
    top1: ArrayLike,
    kl: ArrayLike,
    entropy: ArrayLike,
    cosine: ArrayLike,
    *,
    threshold: float = 0.1,
    grid: Sequence[float] = (0.05, 0.1, 0.2, 0.5, 1.0),
    share: float = 0.9,
    window: int = 3,
) -> dict[str, np.ndarray]:
    """Return {rule: layer of commitment [...]} of every rule, in the order of the dataset.

    top1, kl, entropy: [..., layer] of one lens; cosine: the cosine to the final residual, which no lens reads and which
    broadcasts to the others' shape. threshold: nats, of the rules that take one; grid: nats, of `kl_stays` beside it. The
    last three rules have the thresholds of the study's figures.
    """
    table = {"top1_first": top1_first(top1), "top1_strict": top1_strict(top1)}
    table[f"top1_stable{window}"] = top1_stable(top1, window)
    table[f"kl_first_{threshold}"] = kl_first(kl, threshold)
    table |= {f"kl_stays_{value}": kl_stays(kl, value) for value in sorted({threshold, *grid})}
    table[f"majority_{threshold}"] = majority(kl, threshold, share)
    table[f"majority_below_{threshold}"] = majority_below(kl, threshold, share)
    table["kl_qualified_0.5_3x"] = kl_qualified(kl, 0.5, 3)
    table["entropy_0.2"] = entropy_stays(entropy, 0.2)
    table["cosine_0.95"] = np.broadcast_to(cosine_stays(cosine, 0.95), table["entropy_0.2"].shape)
    return table


def commitment_counts(commitment: ArrayLike, n_layers: int) -> np.ndarray:
    """Return how many tokens commit at each layer, int [layer], from layers of any shape.

    commitment_counts[ℓ] = #{token : its commitment is ℓ}
    """
    return np.bincount(np.ravel(commitment).astype(int), minlength=n_layers)
