"""The shape of a cloud of points: intrinsic dimension, covariance spectrum, similarity of two clouds.

A cloud is X [point, d]: one layer's residuals at one position of every prompt. Neighbours are found once per cloud and
passed to every estimator. This module knows nothing of models or layers; all is float64.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

_BLOCK = 1024
# A share of |x|² + |y|². Below it, |x|² + |y|² − 2xy has lost half of its digits, so |x − y|² is computed directly.
_CLOSE = 1e-8


class Neighbours(NamedTuple):
    """Each point's nearest neighbours, nearest first: distances [point, k] float64 and indices [point, k] int64."""

    distances: np.ndarray
    indices: np.ndarray


class Estimate(NamedTuple):
    """An estimate from the whole cloud, and the interval of the estimates from its subsamples."""

    value: float
    low: float
    high: float


def _cloud(x: ArrayLike) -> Tensor:
    """Return the centred cloud [point, d] in float64; ValueError if it is not a finite matrix of two points or more."""
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

    x: [point, d]; k is cut to the number of other rows. Both estimators take the distances; subsamples need lists longer
    than the estimator's k (32 for k = 10). A row that repeats an earlier one exactly does not count as a point: it is in no
    list, and its own list holds NaN and −1, which the other functions leave out; so do lists behind their last neighbour.
    Its distance of 0 would make ratios of distances 1 or infinite. ValueError if X is not finite or holds fewer than three
    distinct points.
    """
    repeated = repeats(x)
    kept, k = np.flatnonzero(~repeated), min(k, len(repeated) - 1)
    if len(kept) < 3:
        raise ValueError(f"Neighbours need three distinct points, and X holds {len(kept)}.")
    points = _cloud(torch.as_tensor(x)[kept])
    squares = points.square().sum(1)
    distances, indices = np.full((len(repeated), k), np.nan), np.full((len(repeated), k), -1)
    most = min(k, len(points) - 1)
    for start in range(0, len(points), _BLOCK):
        found = _nearest(points, squares, slice(start, start + _BLOCK), most)
        rows = kept[start : start + _BLOCK]
        distances[rows, :most], indices[rows, :most] = found[0].numpy(), kept[found[1].numpy()]
    return Neighbours(distances, indices)


def _nearest(points: Tensor, squares: Tensor, block: slice, k: int) -> tuple[Tensor, Tensor]:
    """Return distances and indices [row of the block, k] of the nearest other points."""
    scale = squares[block, None] + squares
    apart = (scale - 2 * points[block] @ points.T).clamp_(min=0)
    row, column = torch.nonzero(apart < _CLOSE * scale, as_tuple=True)
    apart[row, column] = (points[block][row] - points[column]).square().sum(1)
    own = torch.arange(len(apart))
    apart[own, own + block.start] = torch.inf
    nearest = apart.topk(k, largest=False)
    return nearest.values.sqrt(), nearest.indices


def two_nn(distances: ArrayLike, discard: float = 0.1) -> float:
    """Return the TwoNN intrinsic dimension, from the ratio of each point's second to its first neighbour distance.

    two_nn = Σ_i x_i y_i / Σ_i x_i²,  x_i = log μ_i,  y_i = −log(1 − i/N)
    distances: [point, ≥ 2], nearest first (`neighbours`); a row with a NaN is left out. μ_1 … μ_N are the ratios in
    ascending order. The fit is a line through the origin; it leaves out the largest `discard` of the ratios, and always
    the last, where 1 − i/N is 0. ValueError if fewer than two points are left.
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

    mle_dimension = [ 1/(N (k − 1)) Σ_i Σ_{j<k} log(T_k(i) / T_j(i)) ]⁻¹,  T_j(i) = distance of point i to its j-th neighbour
    distances: [point, ≥ k], nearest first; a row with a NaN is left out. Levina and Bickel 2004, Maximum likelihood
    estimation of intrinsic dimension, NIPS 17. The inverse estimates of the points are averaged before the inversion, as in
    the comment of MacKay and Ghahramani (2005): this is the maximum of the likelihood and has no bias at small k.
    ValueError for a k below 2 or longer than the lists.
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
    """Return the estimates "two_nn" and "mle", each with the interval of its values over subsamples without replacement.

    low, high = quantiles (1 − level)/2 and (1 + level)/2 of the estimate over `draws` subsamples
    found: `neighbours` of the cloud. k: of the MLE. share: of the points that a subsample keeps. The defaults are the
    study's (L8: 100 subsamples of 80 %, 5th to 95th percentile). Drawing with replacement would put copies at
    distance 0. A draw filters the lists of neighbours, without a new search; ValueError if a list is too short for that.
    NaN if a subsample holds no more than k points.
    The interval shows how much the estimate depends on single prompts. It is too narrow as a confidence interval, since
    subsamples overlap: for Gaussian clouds of 400 to 1000 points in 2 to 10 dimensions it has 0.6 to 0.8 of the width
    that the estimate's standard error implies.
    """
    rng = np.random.default_rng(seed)
    points = np.flatnonzero(found.indices[:, 0] >= 0)
    size = int(share * len(points))
    if size <= k:
        return dict.fromkeys(("two_nn", "mle"), Estimate(*[float("nan")] * 3))
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
    kept = among[found.indices[chosen]] & (found.indices[chosen] >= 0)
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

    spectrum = eigenvalues of XᵀX / (N − 1), X centred, N points
    x: [point, d]. The smaller of XᵀX and XXᵀ is decomposed.
    """
    x = _cloud(x)
    gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return torch.linalg.eigvalsh(gram).clamp(min=0).flip(0).numpy() / (len(x) - 1)


def participation_ratio(eigenvalues: ArrayLike) -> np.ndarray:
    """Return the participation ratio of the eigenvalues in the last axis: d if isotropic, 1 on a line; NaN if all are 0.

    participation_ratio = (Σ_i λ_i)² / Σ_i λ_i²
    """
    values = np.asarray(eigenvalues, dtype=float)
    return _ratio(np.square(values.sum(-1)), np.square(values).sum(-1))


def effective_rank(eigenvalues: ArrayLike) -> np.ndarray:
    """Return the effective rank of the eigenvalues in the last axis: d if isotropic, 1 on a line; NaN if all are 0.

    effective_rank = exp(−Σ_i s_i log s_i),  s_i = λ_i / Σ_j λ_j
    Roy and Vetterli (2007), The effective rank, EUSIPCO. They normalise singular values. Here, as in the study, s_i are
    shares of the variance: the squared singular values, normalised.
    """
    values = np.asarray(eigenvalues, dtype=float)
    shares = torch.as_tensor(_ratio(values, values.sum(-1, keepdims=True)))
    return torch.special.entr(shares).sum(-1).exp().numpy()


def top_share(eigenvalues: ArrayLike, n: int = 1) -> np.ndarray:
    """Return the share of the variance in the n largest eigenvalues of the last axis, in [0, 1]; NaN if all are 0.

    top_share = Σ_{i≤n} λ_i / Σ_i λ_i, λ in descending order
    """
    values = np.sort(np.asarray(eigenvalues, dtype=float), axis=-1)[..., ::-1]
    return _ratio(values[..., :n].sum(-1), values.sum(-1))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, NaN where b is 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Return the linear centred kernel alignment of two clouds of the same points, in [0, 1].

    linear_cka = ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms, X and Y centred
    x: [point, d], y: [point, e]. It is 1 when one cloud is a rotation and scaling of the other. With fewer points than
    features it is computed from XXᵀ and YYᵀ [point, point]. NaN if all points of a cloud coincide. ValueError if the
    numbers of points differ. The value rises when points are fewer than features: compare clouds of equal size only.
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
