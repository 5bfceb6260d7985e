"""Cosines and norms in the residual stream: δ-cosine and length of each update, length and direction of the stream.

All is computed layer by layer in float32, whatever the model's dtype, without a new tensor [layer, token, d]. This module
knows nothing of vocabularies: it never unembeds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

COMPONENTS = ("block", "attention", "mlp")
_SMALLEST = 1e-8


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of vectors [..., d], float32 [...]; NaN where the product of their norms is below 1e-8.

    cosine = a·b / (‖a‖ ‖b‖)
    """
    a, b = a.float(), b.float()
    norms = a.norm(dim=-1) * b.norm(dim=-1)
    return torch.where(norms < _SMALLEST, torch.nan, (a * b).sum(-1) / norms)


@torch.no_grad()
def stream_geometry(
    embedding: Tensor,
    residual: Sequence[Tensor] | Tensor,
    attention_update: Sequence[Tensor] | Tensor,
    mlp_update: Sequence[Tensor] | Tensor,
) -> dict[str, Tensor]:
    """Return cosines and norms of updates [component, layer, token] and of the residual stream [layer, token], float32.

    delta_cosine[block] = cos(h_ℓ − h_{ℓ−1}, h_{ℓ−1}), the paper's δ_ℓ as it was computed
    delta_cosine[attention] = cos(a_ℓ, h_{ℓ−1})
    delta_cosine[mlp] = cos(m_ℓ, h_{ℓ−1} + a_ℓ), as the paper's text defines it
    update_norm = ‖h_ℓ − h_{ℓ−1}‖, ‖a_ℓ‖, ‖m_ℓ‖;  residual_norm = ‖h_ℓ‖;  cosine_to_final = cos(h_ℓ, h_last)
    embedding: the input of block 0, [token, d], which is h_{−1}; so layer 0 has a δ-cosine, which the published curves
    leave out. residual: h_ℓ, the output of each block before the final norm; attention_update a_ℓ and mlp_update m_ℓ: what
    is added to the stream, after any norm behind the module; each [layer, token, d] or a list. NaN as in `cosine`.
    ValueError if the three have different numbers of layers.
    """
    layers = len(residual)
    if not len(attention_update) == len(mlp_update) == layers:
        raise ValueError(
            f"The stream has {layers} layers of residuals, {len(attention_update)} of attention updates and "
            f"{len(mlp_update)} of MLP updates."
        )
    before = [embedding, *residual[: layers - 1]]
    layerwise = zip(before, residual, attention_update, mlp_update)
    blocks = [_block(*tensors, residual[-1]) for tensors in layerwise]
    return {name: torch.stack([block[name] for block in blocks], dim=-2) for name in blocks[0]}


def _block(before, after, attention_update, mlp_update, final):
    """Return the values of `stream_geometry` for one layer: [component, token] and [token]."""
    before, after, attention_update = before.float(), after.float(), attention_update.float()
    bases = (before, before, before + attention_update)
    updates = (after - before, attention_update, mlp_update.float())
    return {
        "delta_cosine": torch.stack([cosine(update, base) for update, base in zip(updates, bases)]),
        "update_norm": torch.stack([update.norm(dim=-1) for update in updates]),
        "residual_norm": after.norm(dim=-1),
        "cosine_to_final": cosine(after, final),
    }
