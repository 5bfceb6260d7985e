"""Ridge probes of the convergence gap: which direction of an IT − PT difference predicts how much farther IT's layer is.

`fit` solves all penalties and targets of a fold from one eigendecomposition; its tests hold it to scikit-learn. A probe's
direction is its weight, so it says what predicts the gap, not what the gap consists of: `pattern` is the latter.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nbhelpers.core import resampling
from nbhelpers.core.stats import Interval
from nbhelpers.models.unembedding import Unembedding

PENALTIES = tuple(10.0**power for power in range(-1, 7))
SUMS = ("n", "y", "y2", "error2")  # what R² is a function of, summed over a prompt's tokens


class ProbeError(ValueError):
    """Data that no probe can be fitted to; the message is one sentence."""


class Probe(NamedTuple):
    """Linear probes of several targets, in the units of the features: y ≈ x·weight + intercept.

    weight [target, d], intercept [target]; penalty [target]: the λ that cross-validation chose; cv_r2 [target]: R² over the
    left-out folds at that penalty.
    """

    weight: Tensor
    intercept: Tensor
    penalty: np.ndarray
    cv_r2: np.ndarray

    def predict(self, x: Tensor) -> Tensor:
        """Return the predicted targets of features [token, d], float64 [token, target]."""
        return x.to(self.weight) @ self.weight.T + self.intercept


def solutions(x: Tensor, y: Tensor, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return ridge weights [penalty, target, d] and intercepts [penalty, target], in the units of the features x [token, d].

    weight = b / sd(x),  b = (ZᵀZ + λ I)⁻¹ Zᵀ (y − ȳ),  Z = (x − x̄) / sd(x)
    b minimises ‖y − ȳ − Z b‖² + λ‖b‖², with Z the features of mean 0 and standard deviation 1. A constant feature has
    weight 0. y: [token, target]. Float64.
    """
    centre, middle = x.mean(0), y.mean(0)
    scale = x.std(0, correction=0)
    moves = scale > 1e-12 * x.abs().amax(0)  # less is rounding
    scale = torch.where(moves, scale, torch.ones_like(scale))
    z = torch.where(moves, (x - centre) / scale, torch.zeros_like(x))
    values, vectors = torch.linalg.eigh(z.T @ z)
    turned = vectors.T @ (z.T @ (y - middle))
    shrunk = values.clamp_min(0)[None] + torch.as_tensor(penalties, dtype=x.dtype, device=x.device)[:, None]
    weight = torch.einsum("df,pf,ft->ptd", vectors, 1 / shrunk, turned) / scale
    return weight, middle - torch.einsum("ptd,d->pt", weight, centre)


def fit(x: Tensor, y: Tensor, prompt: np.ndarray, *, penalties=PENALTIES, folds: int = 5) -> Probe:
    """Return ridge probes of every target, with λ chosen by cross-validation over folds of whole prompts.

    x: features [token, d]; y: targets [token, target]; prompt [token]: the prompt of each token, so that no prompt lies on
    both sides of a fold. λ has the least squared error over the left-out tokens, for each target by itself. The same as
    scikit-learn's StandardScaler, Ridge and GridSearchCV over GroupKFold, with the squared error pooled over folds.
    ProbeError with fewer prompts than folds.
    """
    from sklearn.model_selection import GroupKFold

    x, y = x.double(), y.double().to(x.device)
    if (n := len(np.unique(prompt))) < folds:
        raise ProbeError(
            f"a probe with {folds} folds needs {folds} prompts, and {n} are left: raise n_prompts of this experiment."
        )
    missed = torch.zeros(len(penalties), y.shape[1], dtype=x.dtype, device=x.device)
    for inside, outside in GroupKFold(folds).split(prompt, groups=prompt):
        inside, outside = (torch.as_tensor(part, device=x.device) for part in (inside, outside))
        weight, intercept = solutions(x[inside], y[inside], penalties)
        for k in range(len(penalties)):
            off = y[outside] - x[outside] @ weight[k].T - intercept[k]
            missed[k] += off.square().sum(0)
    best = missed.argmin(0)
    weight, intercept = solutions(x, y, penalties)
    target = torch.arange(y.shape[1], device=x.device)
    spread = (y - y.mean(0)).square().sum(0)
    cv_r2 = 1 - missed[best, target] / spread
    chosen = np.asarray(penalties)[best.cpu().numpy()]
    return Probe(weight[best, target], intercept[best, target], chosen, cv_r2.cpu().numpy())


def permuted(y: Tensor, n: int, *, seed: int = 0) -> Tensor:
    """Return n copies of a target [token] with its tokens in random order, [token, n]: targets that nothing predicts."""
    rng = np.random.default_rng(seed)
    return torch.stack([y[torch.as_tensor(rng.permutation(len(y)))] for _ in range(n)], 1)


def by_position(y: np.ndarray, step: np.ndarray, test_step: np.ndarray) -> np.ndarray:
    """Return the mean of y [token, …] at each test token's step of the reply, [test token, …]: what place alone predicts.

    by_position[t] = mean {y_s : step_s = step_t}, s over training tokens
    A step that no reply of the training prompts reaches takes the last step that one does.
    """
    last = step.max()
    count = np.bincount(step, minlength=last + 1)
    total = np.zeros((last + 1, *y.shape[1:]))
    np.add.at(total, step, y)
    known = np.flatnonzero(count)
    at = known[np.searchsorted(known, np.minimum(test_step, last), side="right").clip(1) - 1]
    return total[at] / count[at].reshape(-1, *[1] * (y.ndim - 1))


def prompt_sums(y: np.ndarray, predicted: np.ndarray, prompt: np.ndarray, n_prompts: int) -> np.ndarray:
    """Return the sums that R² needs, by prompt, [prompt, …, 4] in the order of `SUMS`. y, predicted: [token, …]."""
    parts = np.stack([np.ones_like(y), y, y**2, (y - predicted) ** 2], -1)
    found = np.zeros((n_prompts, *parts.shape[1:]))
    np.add.at(found, prompt, parts)
    return found


def r2(sums: np.ndarray) -> np.ndarray:
    """Return R² from sums over tokens [..., 4] (`SUMS`), [...]; below 0 where the mean of these tokens predicts better.

    R² = 1 − Σ (y − ŷ)² / (Σ y² − (Σ y)² / n)
    """
    n, y, y2, error2 = np.moveaxis(sums, -1, 0)
    spread = y2 - np.divide(y**2, n, out=np.zeros_like(y), where=n > 0)
    return 1 - np.divide(error2, spread, out=np.full_like(y, np.nan), where=spread > 0)


def mean_r2(sums: np.ndarray) -> np.ndarray:
    """Return the mean of R² over layers, from sums [..., layer, 4].

    mean_r2 = mean_ℓ R²_ℓ
    """
    return r2(sums).mean(-1)


def r2_interval(sums: np.ndarray, **options) -> Interval:
    """Return the mean R² over layers and its BCa interval over prompts; sums: [prompt, layer, 4] (`prompt_sums`)."""
    return resampling.bca_of_sums(sums, lambda s: mean_r2(s)[:, None], **options)


def pattern(x: Tensor, weight: Tensor) -> Tensor:
    """Return what varies with a probe's prediction, [d]. A probe's weight also cancels what does not vary with y.

    pattern = Cov(x) w
    Haufe et al. (2014), On the interpretation of weight vectors of linear models in multivariate neuroimaging.
    """
    centred = (x - x.mean(0)).to(weight)
    return centred.T @ (centred @ weight) / len(x)


def energy_share(x: Tensor, unit: Tensor) -> float:
    """Return the share of the energy of differences x [token, d] along a unit vector d.

    energy_share = Σ_t (x_t·d)² / Σ_t ‖x_t‖²
    """
    wide = x.double()
    return float((wide @ unit.double()).square().sum() / wide.square().sum())


def kl_gradient(h: Tensor, last: Tensor, unembedding: Unembedding) -> Tensor:
    """Return the mean over tokens of the gradient of KL(layer ‖ final) by the layer's residual, raw lens, float32 [d].

    kl_gradient = mean_t ∂/∂h KL(softmax(W norm(h_t)) ‖ p_L,t), p_L held fixed
    h, last: residuals [token, d] of the layer and of the last one.
    """
    with torch.no_grad():
        final = torch.log_softmax(unembedding.logits(last), -1)
    with torch.enable_grad():
        start = h.detach().float().requires_grad_()
        logp = torch.log_softmax(_logits(start.to(h.dtype), unembedding), -1)
        distance = (logp.exp() * (logp - final)).sum()
        (slope,) = torch.autograd.grad(distance, start)
    return slope.mean(0)


def _logits(h: Tensor, unembedding: Unembedding) -> Tensor:
    """Return the lens logits of h as `Unembedding.logits` does, but with a soft cap that autograd can pass."""
    z = unembedding.norm(h).float() @ unembedding.weight.float().T
    return unembedding.softcap * torch.tanh(z / unembedding.softcap) if unembedding.softcap else z
