"""Dimensions of clouds of residuals under steering: one point for each part of a reply, halves of the prompts as draws."""

import numpy as np
from torch import Tensor

from nbhelpers.measures import intrinsic_dimension
from nbhelpers.measures.intrinsic_dimension import Neighbours


def middle_steps(n_tokens: int, bins: int) -> np.ndarray:
    """Return the middle step of each of `bins` equal parts of a reply, each step once, [≤ bins]."""
    edges = np.linspace(0, n_tokens, bins + 1)
    return np.unique(((edges[:-1] + edges[1:]) / 2).astype(int))


def participation(gram: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the participation ratio of each part of a cloud, [draw], from the products X Xᵀ [point, point].

    (tr C)² / tr C² of the part's covariance C; kept: which points a part holds, bool [draw, point]. It equals
    `intrinsic_dimension.participation_ratio` of the part's spectrum, without an eigendecomposition for each.
    """
    kept = kept.astype(float)
    n, diagonal = kept.sum(1), kept @ np.diagonal(gram)
    rows = (kept @ gram) * kept
    whole, squares = rows.sum(1), ((kept @ np.square(gram)) * kept).sum(1)
    trace = diagonal - whole / n
    return np.square(trace) / (squares - 2 * np.square(rows).sum(1) / n + np.square(whole / n))


def nearest_two(found: Neighbours, kept: np.ndarray) -> np.ndarray:
    """Return the two nearest distances of each point of a part of a cloud to the others of it, [point of the part, 2].

    kept: which points the part holds, bool [point]. NaN where a list of neighbours holds fewer than two of them.
    """
    inside = kept[found.indices] & (found.indices >= 0)
    order = np.argsort(~inside, axis=1, kind="stable")[:, :2]
    both = np.take_along_axis(inside, order, 1).all(1, keepdims=True)
    return np.where(both, np.take_along_axis(found.distances, order, 1), np.nan)[kept]


def dimensions(cloud: Tensor, prompt: np.ndarray, halves: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
    """Return {estimator: its value on the whole cloud, its values on halves of the prompts [draw]}.

    cloud: [point, d]; prompt [point]: each point's prompt; halves [draw, prompt]: the prompts of each draw. "two_nn" is
    `intrinsic_dimension.two_nn`, "participation" the participation ratio. Points that repeat an earlier one are left out.
    """
    found = intrinsic_dimension.neighbours(cloud)
    once = found.indices[:, 0] >= 0
    kept = (prompt[None, :, None] == halves[:, None, :]).any(-1) & once
    parts = [intrinsic_dimension.two_nn(nearest_two(found, part)) for part in kept]
    points = cloud.double().numpy()
    gram = points @ points.T
    whole, *part = participation(gram, np.concatenate([once[None], kept]))
    return {
        "two_nn": (intrinsic_dimension.two_nn(found.distances), np.array(parts)),
        "participation": (float(whole), np.array(part)),
    }
