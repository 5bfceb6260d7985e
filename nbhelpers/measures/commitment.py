"""Where a prediction settles: commitment layers of single tokens, and the convergence gap of paired
prompts.

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
    """
    return _first(_agrees(top1))


def top1_strict(top1: ArrayLike) -> np.ndarray:
    """Return the first layer from which the top-1 token is the final one throughout: what the study
    computed.
    """
    return _first(_onwards(_agrees(top1)))


def top1_stable(top1: ArrayLike, window: int = 3) -> np.ndarray:
    """Return the first layer whose top-1 token is the final one for `window` layers: "no flip-back" in the
    text.

    The window is cut at L − 1. The study's figures of this name show `top1_strict`.
    """
    holds = _agrees(top1)
    match = holds.copy()
    for ahead in range(1, min(window, holds.shape[-1])):
        holds[..., :-ahead] &= match[..., ahead:]
    return _first(holds)


def top1_qualified(top1: ArrayLike, rank: ArrayLike, worst: int = 3) -> np.ndarray:
    """Return the first layer from which the top-1 token is the final one and its rank [..., layer] stays ≤
    `worst`.

    Ranks count from 1. The clause on rank adds nothing, since a token that stays first has rank 1: equal to
    `top1_strict`, and kept to show that.
    """
    return _first(_onwards(_agrees(top1) & (np.asarray(rank) <= worst)))


def kl_first(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the first layer with KL below `threshold` nats: "KL commitment" as the paper's text has it."""
    return _first(_below(kl, threshold))


def kl_stays(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the first layer from which KL stays below `threshold` nats: what the study computed."""
    return _first(_onwards(_below(kl, threshold)))


def kl_qualified(kl: ArrayLike, threshold: float = 0.1, factor: float = 3.0) -> np.ndarray:
    """Return the first layer with KL below `threshold` from which it stays below `factor` × `threshold`,
    in nats.
    """
    return _first(_below(kl, threshold) & _onwards(_below(kl, factor * threshold)))


def _share_below(kl, threshold):
    below = _below(kl, threshold)
    return _sum_onwards(below) / _left(below.shape[-1])


def majority(kl: ArrayLike, threshold: float = 0.1, share: float = 0.9) -> np.ndarray:
    """Return the first layer from which at least `share` of the layers have KL below `threshold` nats.

    Text and code agree on this "majority vote". The layer itself need not be below: with ten or more layers
    left it can fire one layer before the crossing. Compare `majority_below`.
    """
    return _first(_share_below(kl, threshold) >= share)


def majority_below(kl: ArrayLike, threshold: float = 0.1, share: float = 0.9) -> np.ndarray:
    """Return the first layer with KL below `threshold` nats from which at least `share` of the layers
    are too.
    """
    return _first(_below(kl, threshold) & (_share_below(kl, threshold) >= share))


def majority_adaptive(
    kl: ArrayLike, threshold: float = 0.1, share: float = 0.9, enough: int = 10
) -> np.ndarray:
    """Return the first layer with KL below `threshold` from which `share` are too, or all but one of the
    last few.

    "All but one" replaces the share where fewer than `enough` layers are left. The study uses it in some
    plots.
    """
    below, share_below = _below(kl, threshold), _share_below(kl, threshold)
    left = _left(below.shape[-1])
    all_but_one = left - _sum_onwards(below) <= 1
    return _first(below & np.where(left >= enough, share_below >= share, all_but_one))


def _mean_onwards(kl):
    kl = np.asarray(kl)
    return _sum_onwards(kl) / _left(kl.shape[-1])


def kl_mean(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the first layer from which the mean KL of the remaining layers is below `threshold` nats."""
    return _first(_mean_onwards(kl) < threshold)


def kl_and_mean(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the first layer where both KL and its mean over the remaining layers are below `threshold`
    nats.
    """
    return _first(_below(kl, threshold) & (_mean_onwards(kl) < threshold))


def kl_median(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the first layer from which the median KL of the remaining layers is below `threshold` nats."""
    kl = np.asarray(kl)
    medians = [np.median(kl[..., layer:], axis=-1) for layer in range(kl.shape[-1])]
    return _first(np.stack(medians, axis=-1) < threshold)


def kl_mean_and_median(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the later of `kl_mean` and `kl_median`."""
    return np.maximum(kl_mean(kl, threshold), kl_median(kl, threshold))


def kl_continuous(kl: ArrayLike, threshold: float = 0.1) -> np.ndarray:
    """Return the depth, in layers and fractions, at which KL first falls below `threshold`, float [...].

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
    """
    return _first(_onwards(np.asarray(cosine) >= threshold))


def entropy_stays(entropy: ArrayLike, threshold: float = 0.2) -> np.ndarray:
    """Return the first layer from which entropy [..., layer] stays below `threshold` nats: the study's
    arrays.
    """
    return _first(_onwards(_below(entropy, threshold)))


def entropy_near_final(entropy: ArrayLike, threshold: float = 0.2) -> np.ndarray:
    """Return the first layer from which entropy stays within `threshold` nats of its final value: the
    titles.
    """
    entropy = np.asarray(entropy)
    return _first(_onwards(np.abs(entropy - entropy[..., -1:]) < threshold))


def commitment_table(
    top1: ArrayLike,
    kl: ArrayLike,
    *,
    threshold: float = 0.1,
    grid: Sequence[float] = (0.05, 0.1, 0.2, 0.5, 1.0),
    share: float = 0.9,
    window: int = 3,
) -> dict[str, np.ndarray]:
    """Return {rule: layer of commitment [...]} of the rules that experiment 09 stores, in their order.

    top1, kl: [..., layer]. threshold: nats, of the rules that take one; grid: nats, of `kl_stays` beside
    it.
    """
    table = {"top1_first": top1_first(top1), "top1_strict": top1_strict(top1)}
    table[f"top1_stable{window}"] = top1_stable(top1, window)
    table[f"kl_first_{threshold}"] = kl_first(kl, threshold)
    table |= {f"kl_stays_{value}": kl_stays(kl, value) for value in sorted({threshold, *grid})}
    table[f"majority_{threshold}"] = majority(kl, threshold, share)
    table[f"majority_below_{threshold}"] = majority_below(kl, threshold, share)
    return table


def commitment_counts(commitment: ArrayLike, n_layers: int) -> np.ndarray:
    """Return how many tokens commit at each layer, int [layer], from layers of any shape."""
    return np.bincount(np.ravel(commitment).astype(int), minlength=n_layers)


def commitment_ecdf(commitment: ArrayLike, n_layers: int) -> np.ndarray:
    """Return the share of tokens that have committed by each layer [layer]; it ends at 1."""
    counts = commitment_counts(commitment, n_layers)
    return np.cumsum(counts) / max(counts.sum(), 1)
