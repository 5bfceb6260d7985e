"""The final norm and the unembedding matrix, which map a residual to logits."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Unembedding:
    """The map from a residual to logits: the final norm, then the unembedding rows of the real vocabulary.

    norm: maps [token, d] to [token, d]. weight: [real vocabulary, d]; rows that no text can produce (padding, `<unusedN>`,
    reserved ids) are left out, which equals a logit of -inf before every softmax and argmax. token_ids: [real vocabulary]
    int64, the model's own id of each row. softcap: tanh soft cap of the logits, if any.
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
