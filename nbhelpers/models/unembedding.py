"""The final norm and the unembedding matrix, which map a residual to logits, and the check that they give the model's own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def rounding(dtype: torch.dtype) -> float:
    """Return the share of a tensor's range that rounding may move it by: 1e-3 in float32, 0.03 in half precision."""
    return 1e-3 if dtype == torch.float32 else 0.03


def logits(normed: Tensor, weight: Tensor, softcap: float | None, out: Tensor | None = None) -> Tensor:
    """Return the float32 logits [token, column] of normed residuals [token, d] and unembedding rows [column, d].

    logits = cap(normed Wᵀ), never rounded to bfloat16: that rounding alone adds some 5e-4 nats to the KL of late layers
    """
    if weight.is_cuda and normed.dtype == weight.dtype != torch.float32:
        z = torch.mm(normed, weight.T, out_dtype=torch.float32)
    else:
        z = torch.mm(normed.float(), weight.float().T, out=out)
    return cap(z, softcap)


def cap(z: Tensor, softcap: float | None) -> Tensor:
    """Return the soft-capped logits, softcap · tanh(z / softcap), in place; z itself without a soft cap."""
    return z.div_(softcap).tanh_().mul_(softcap) if softcap else z


def cap_slope(z: Tensor, softcap: float | None) -> Tensor:
    """Return the slope of the soft cap at capped logits z [token, row], 1 − (z / softcap)²; 1 without a soft cap."""
    return 1 - (z / softcap).square() if softcap else z.new_ones(1, 1).expand_as(z)


@dataclass(frozen=True)
class Unembedding:
    """The map from a residual to logits: the final norm, then the unembedding rows of the real vocabulary.

    norm: maps [token, d] to [token, d]. weight: [real vocabulary, d]; rows that no text can produce (padding, `<unusedN>`,
    reserved ids) are left out, which equals a logit of -inf before every softmax and argmax. token_ids: [real vocabulary]
    int64, the model's own id of each row. softcap: tanh soft cap of the logits, if any. A constant factor of the logits
    (Granite) is part of the norm.
    """

    norm: Callable[[Tensor], Tensor]
    weight: Tensor
    token_ids: Tensor
    softcap: float | None = None

    def rows(self, ids: Tensor) -> Tensor:
        """Return the row of `weight` of each token id, [token]; ValueError names ids outside the real vocabulary."""
        known, order = self.token_ids.sort()
        ids = ids.to(known)
        at = torch.searchsorted(known, ids).clamp_(max=len(known) - 1)
        if missing := ids[known[at] != ids].unique().tolist():
            raise ValueError(f"The tokens {missing[:5]} are not in the real vocabulary of the unembedding.")
        return order[at]

    def logits(self, residual: Tensor) -> Tensor:
        """Return the float32 logits [token, real vocabulary] of residuals [token, d], W norm(h) under the soft cap."""
        return logits(self.norm(residual.to(self.weight.device)), self.weight, self.softcap)

    def error(self, residual: Tensor, own: Tensor) -> float:
        """Return the largest error of `logits(residual)` against the model's own logits, as a share of their range.

        residual [token, d], own [token, model vocabulary]: of the same positions.
        """
        own = own[:, self.token_ids.to(own.device)].float().to(self.weight.device)
        off = (self.logits(residual) - own).abs().max()
        return (off / (own.amax() - own.amin()).clamp_min(1e-6)).item()
