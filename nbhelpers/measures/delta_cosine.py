"""Directions and lengths in the residual stream: what each update does to the stream that it is added to.

Layer by layer, in float32 whatever the model's dtype; nothing of size [layer, token, d] is made. This
module knows nothing of vocabularies: it never unembeds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

COMPONENTS = ("block", "attention", "mlp")
_SMALLEST = 1e-8


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine [...] of vectors [..., d], float32; NaN where the product of their norms is <
    1e-8.
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
    """Return cosines and norms of the updates [component, layer, token] and of the stream [layer, token].

    Keys: `delta_cosine` and `update_norm`, by component (block, attention, mlp), `residual_norm` and
    `cosine_to_final`; float32.

    embedding: what enters block 0, [token, d]. residual: what leaves each block, before the final norm;
    attention_update, mlp_update: what is added to the stream, after any norm behind the module; each
    [layer, token, d] or a list.

    δ-cosine is the cosine of an update with the residual that it is added to. Block: h_ℓ − h_{ℓ−1} with
    h_{ℓ−1}, the paper's δ_ℓ as it was computed. Attention: with h_{ℓ−1}. MLP: with h_{ℓ−1} + attention
    update, as the paper's text has it. h_{−1} is the embedding, so layer 0 has a value; the published
    curves leave it out. NaN as in `cosine`.
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
    """One layer of `stream_geometry`: [component, token] and [token]."""
    before, after, attention_update = before.float(), after.float(), attention_update.float()
    bases = (before, before, before + attention_update)
    updates = (after - before, attention_update, mlp_update.float())
    return {
        "delta_cosine": torch.stack([cosine(update, base) for update, base in zip(updates, bases)]),
        "update_norm": torch.stack([update.norm(dim=-1) for update in updates]),
        "residual_norm": after.norm(dim=-1),
        "cosine_to_final": cosine(after, final),
    }
