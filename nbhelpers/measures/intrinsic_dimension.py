"""The shape of a cloud of points: intrinsic dimension, covariance spectrum, likeness of two clouds.

A cloud is X [point, d], one layer's residuals at one position of every prompt. Neighbours are found once per cloud and
handed to every estimator. This module knows nothing of models or layers; all is float64.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

_BLOCK = 1024
# Of |x|² + |y|². Below, the product form of |x − y|² has lost half of its digits and the difference is taken instead.
_CLOSE = 1e-8


class Neighbours(NamedTuple):
    """Each point's nearest others, nearest first: distances [point, k] float64 and indices [point, k] int64."""

    distances: np.ndarray
    indices: np.ndarray


class Estimate(NamedTuple):
    """An estimate from the whole cloud and the ends of the interval that its subsamples span."""

    value: float
    low: float
    high: float


def _cloud(x: ArrayLike) -> Tensor:
    """Return a centred cloud [point, d] in float64; ValueError if it is no matrix or not finite."""
    x = torch.as_tensor(x).double()
    if x.ndim != 2 or len(x) < 2 or not x.isfinite().all():
        raise ValueError(f"A cloud is a finite array [point, d] of two points or more, not {tuple(x.shape)}.")
    return x - x.mean(0)


def repeats(x: ArrayLike) -> np.ndarray:
    """Return which rows of X [point, d] repeat an earlier row exactly, bool [point]."""
    first: dict[bytes, int] = {}
    # Adding 0 turns −0 into 0, whose bytes differ.
    rows = torch.as_tensor(x).double().numpy() + 0.0
    return np.array([first.setdefault(row.tobytes(), i) != i for i, row in enumerate(rows)])


def neighbours(x: ArrayLike, k: int = 32) -> Neighbours:
    """Return the Euclidean distances and row indices of the k nearest other points of every point.

    x: [point, d]; k is cut to the number of other points. Both estimators take the distances; a subsample of them needs
    lists longer than its own k (32 for a k of 10). A row that repeats an earlier one exactly is no further point: no
    list names it, and its own list holds NaN and −1, which everything here leaves out. Otherwise ratios of distances
    would be 1 or infinite. ValueError if X is not finite or holds fewer than three distinct points.
    """
    repeated = repeats(x)
    kept = np.flatnonzero(~repeated)
    if len(kept) < 3:
        raise ValueError(f"Neighbours need three distinct points, and X holds {len(kept)}.")
    points = _cloud(torch.as_tensor(x)[kept])
    squares = points.square().sum(1)
    k = min(k, len(points) - 1)
    distances, indices = np.full((len(repeated), k), np.nan), np.full((len(repeated), k), -1)
    for start in range(0, len(points), _BLOCK):
        found = _nearest(points, squares, slice(start, start + _BLOCK), k)
        rows = kept[start : start + _BLOCK]
        distances[rows], indices[rows] = found[0].numpy(), kept[found[1].numpy()]
    return Neighbours(distances, indices)


def _nearest(points: Tensor, squares: Tensor, block: slice, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices [row of the block, k] of the nearest others among the points."""
    scale = squares[block, None] + squares
    apart = (scale - 2 * points[block] @ points.T).clamp_(min=0)
    row, column = torch.nonzero(apart < _CLOSE * scale, as_tuple=True)
    apart[row, column] = (points[block][row] - points[column]).square().sum(1)
    own = torch.arange(len(apart))
    apart[own, own + block.start] = torch.inf
    nearest = apart.topk(k, largest=False)
    return nearest.values.sqrt(), nearest.indices


def two_nn(distances: ArrayLike, discard: float = 0.1) -> float:
    """Return the TwoNN intrinsic dimension, from the ratio of each point's second to its first distance.

    distances: [point, ≥ 2], nearest first (`neighbours`); a row with a NaN is left out. With μ the ratios in ascending
    order and F_i = i/N, i = 1 … N, the estimate is the slope through the origin of −log(1 − F) on log μ, without the
    largest `discard` of the ratios (and always without the last, where 1 − F is 0).

    Facco, d'Errico, Rodriguez and Laio (2017), Estimating the intrinsic dimension of datasets by a minimal neighborhood
    information, Scientific Reports 7. scikit-dimension counts i from 0, which gives about (1 − 3/N) of this value.
    """
    first, second = np.asarray(distances, dtype=float)[:, :2].T
    ratios = np.sort(np.log((second / first)[~np.isnan(first)]))
    n = len(ratios)
    kept = min(int(n * (1 - discard)), n - 1)
    if kept < 1:
        raise ValueError(f"TwoNN needs two points after discarding {discard:.0%}, and the cloud holds {n}.")
    x, y = ratios[:kept], -np.log1p(-np.arange(1, kept + 1) / n)
    return float(x @ y / (x @ x)) if x.any() else float("nan")


def mle_dimension(distances: ArrayLike, k: int = 10) -> float:
    """Return the maximum-likelihood intrinsic dimension from each point's k nearest distances.

    distances: [point, ≥ k], nearest first; a row with a NaN is left out. Each point's inverse estimate is the mean of
    log(T_k / T_j) over j < k (Levina and Bickel 2004, Maximum likelihood estimation of intrinsic dimension, NIPS 17).
    The inverse estimates are averaged and the mean inverted, as MacKay and Ghahramani (2005) comment: that is the
    likelihood's own maximum, and no bias at small k.
    """
    distances = np.asarray(distances, dtype=float)
    if not 2 <= k <= distances.shape[1]:
        raise ValueError(f"k = {k} is out of range: the lists of neighbours allow 2 to {distances.shape[1]}.")
    logs = np.log(distances[~np.isnan(distances[:, 0]), :k])
    inverse = (logs[:, -1:] - logs[:, :-1]).mean()
    return float(1 / inverse) if inverse > 0 else float("nan")


def subsample_interval(
    found: Neighbours, *, k: int = 10, draws: int = 100, share: float = 0.8, level: float = 0.9, seed: int = 0
) -> dict[str, Estimate]:
    """Return the estimates "two_nn" and "mle" with the middle `level` of what subsamples without replacement give.

    found: `neighbours` of the cloud; the k of the MLE, draws, share of the points a draw keeps, all as the study had
    them (exp04/L8: 100 subsamples of 80 %, 5th to 95th percentile). Drawing with replacement would put copies at
    distance 0. A draw filters the lists, so nothing is searched again; ValueError if a list is too short for that.

    It shows how much the estimate hangs on single prompts. Subsamples overlap, so as a confidence interval it is too
    narrow: over Gaussian clouds of 400 to 1000 points in 2 to 10 dimensions, 0.6 to 0.8 of what the estimate's standard
    error asks for.
    """
    rng = np.random.default_rng(seed)
    points = np.flatnonzero(found.indices[:, 0] >= 0)
    size = int(share * len(points))
    lists = [_filtered(found, rng.choice(points, size, replace=False), k) for _ in range(draws)]
    ends = [(1 - level) / 2, (1 + level) / 2]
    return {
        name: Estimate(
            estimate(found.distances), *np.quantile([estimate(drawn) for drawn in lists], ends).tolist()
        )
        for name, estimate in (("two_nn", two_nn), ("mle", lambda distances: mle_dimension(distances, k)))
    }


def _filtered(found: Neighbours, chosen: np.ndarray, k: int) -> np.ndarray:
    """Return the k nearest distances of the chosen points among themselves, [chosen, k]."""
    among = np.zeros(len(found.indices), dtype=bool)
    among[chosen] = True
    kept = among[found.indices[chosen]]
    counts = kept.sum(1)
    if counts.min() < k:
        raise ValueError(
            f"A subsample of {len(chosen)} points left a point {counts.min()} of its {kept.shape[1]} neighbours, "
            f"fewer than k = {k}: find more neighbours, or choose a smaller k."
        )
    starts = np.cumsum(counts) - counts
    return found.distances[chosen][kept][starts[:, None] + np.arange(k)]


def spectrum(x: ArrayLike) -> np.ndarray:
    """Return the eigenvalues of the covariance over points, largest first, [min(point, d)], in squared units of X.

    x: [point, d]. Divided by points − 1; of the two Gram matrices of the centred cloud the smaller one is decomposed.
    """
    x = _cloud(x)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(gram).clamp(min=0).flip(0).numpy() / (len(x) - 1)


def participation_ratio(eigenvalues: ArrayLike) -> np.ndarray:
    """Return (Σλ)² / Σλ² over the last axis: d for an isotropic cloud, 1 for a line; NaN if all are 0."""
    values = np.asarray(eigenvalues, dtype=float)
    return _ratio(np.square(values.sum(-1)), np.square(values).sum(-1))


def effective_rank(eigenvalues: ArrayLike) -> np.ndarray:
    """Return exp of the entropy of λ / Σλ over the last axis: d if isotropic, 1 for a line; NaN if all are 0.

    Roy and Vetterli (2007), The effective rank, EUSIPCO. They normalise singular values; as in the study, these are
    their squares, shares of the variance.
    """
    values = np.asarray(eigenvalues, dtype=float)
    shares = torch.as_tensor(_ratio(values, values.sum(-1, keepdims=True)))
    return torch.special.entr(shares).sum(-1).exp().numpy()


def top_share(eigenvalues: ArrayLike, n: int = 1) -> np.ndarray:
    """Return the share of the variance in the n largest eigenvalues of the last axis, in [0, 1]; NaN if all are 0."""
    values = np.sort(np.asarray(eigenvalues, dtype=float), axis=-1)[..., ::-1]
    return _ratio(values[..., :n].sum(-1), values.sum(-1))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, NaN where b is 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Return the linear centred kernel alignment of two clouds of the same points, in [0, 1].

    x: [point, d], y: [point, e]. ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms of centred clouds; 1 when one is a rotation
    and scaling of the other. With fewer points than features the same from the Gram matrices [point, point]. NaN if all
    points of a cloud coincide. ValueError if the clouds have different points. The value rises as points get fewer than
    features: compare clouds of equal size only.

    Kornblith, Norouzi, Lee and Hinton (2019), Similarity of neural network representations revisited, ICML.
    """
    x, y = _cloud(x), _cloud(y)
    if len(x) != len(y):
        raise ValueError(
            f"CKA compares two clouds of the same points, not one of {len(x)} and one of {len(y)}."
        )
    if len(x) < min(x.shape[1], y.shape[1]):
        own_x, own_y = x @ x.T, y @ y.T
        shared = (own_x * own_y).sum()
    else:
        own_x, own_y, shared = x.T @ x, y.T @ y, (y.T @ x).square().sum()
    return float(_ratio(shared.numpy(), (own_x.norm() * own_y.norm()).numpy()))


def knn_overlap(a: ArrayLike, b: ArrayLike, k: int = 10) -> float:
    """Return the mean share of a point's k nearest neighbours that it has in both of two clouds, in [0, 1].

    a, b: [point, ≥ k], row indices of the same points (`Neighbours.indices`); a point that repeats another in either
    cloud (−1) is left out. Two unrelated clouds share k / (points − 1).
    """
    a, b = np.asarray(a), np.asarray(b)
    if len(a) != len(b) or not 1 <= k <= min(a.shape[1], b.shape[1]):
        raise ValueError(f"k = {k} does not fit lists of neighbours of shapes {a.shape} and {b.shape}.")
    measured = (a[:, 0] >= 0) & (b[:, 0] >= 0)
    shared = (a[measured, :k, None] == b[measured, None, :k]).any(-1)
    return float(shared.mean()) if measured.any() else float("nan")
