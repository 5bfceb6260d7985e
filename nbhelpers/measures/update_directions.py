"""What an MLP update does to the prediction after its layer, in closed form: no backward pass.

Signs, in words. `support_teacher` is positive where the update raises the logit of the teacher's token. `anti_top1` is
positive where it lowers the logit of the token that leads after the layer. `anti_kl` is positive where it carries the
layer's prediction away from the model's own final one.

This module takes states, updates and an unembedding; it knows nothing of grafts or of datasets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nbhelpers.measures import lens
from nbhelpers.measures.graft_shifts import PROJECTIONS
from nbhelpers.models.unembedding import Unembedding


def weighted_rows(weights: Tensor, rows: Tensor) -> Tensor:
    """Return the sums [token, d], float32, of unembedding rows [row, d] with weights [token, row]."""
    return sum(part @ block.float() for part, block in zip(weights.split(32768, -1), rows.split(32768)))


def norm_pullback(norm, h: Tensor, a: Tensor) -> Tensor:
    """Return Jᵀa [token, d] for the Jacobian J of an RMS norm at h [token, d], float32, without a backward pass.

    With gain g and r = √(mean h² + ε): Jᵀa = (g∘a)/r − h ⟨h, g∘a⟩ / (d r³). The gain is read off the norm itself, so
    Gemma's 1 + weight needs no case. ValueError for a norm that is not of this kind.
    """
    h, eps = h.float(), getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 0.0
    gain = norm(torch.ones_like(h[:1])).float() * (1 + eps) ** 0.5
    r = (h.square().mean(-1, keepdim=True) + eps).sqrt()
    normed = gain * h / r
    if not torch.allclose(norm(h).float(), normed, rtol=1e-3, atol=1e-3 * float(normed.abs().amax())):
        raise ValueError(f"{type(norm).__name__} is not an RMS norm: its gradient has another closed form.")
    scaled = gain * a
    return scaled / r - h * (h * scaled).sum(-1, keepdim=True) / (h.shape[-1] * r**3)


@torch.no_grad()
def projections(
    residual: Sequence[Tensor],
    update: Sequence[Tensor],
    unembedding: Unembedding,
    rows: Tensor,
    *,
    layers: Sequence[int],
    cells: int = 1 << 23,
) -> dict[str, Tensor]:
    """Return what updates do to the prediction after their layer: {name: [axis, layer, token]}, axes as in `AXES`.

    `effect`, u·g: the first-order change of the axis, in logits (teacher, top-1) or nats (KL(final ‖ layer)).
    `projection`, u·g/‖g‖: the update's length along it, in units of the residual. `cosine`: that over ‖u‖. Zero where
    the gradient is, as for `anti_kl` at the last layer.

    residual, update: [layer][token, d] of all layers, the state after each block and what its MLP added to it. rows: the
    unembedding row of the teacher's token, [token] (`matched_lens.target_rows`). layers: those to read. The axes are
    gradients, at the state after the layer, of the teacher's logit; of minus the leading logit; and of KL(final ‖
    layer), which is JᵀWᵀ(p_layer − p_final) with W the unembedding and J of the final norm. The study took three backward
    passes a layer; and, for Gemma and OLMo, the MLP's output before the norm that follows it. cells: logits held at once.
    """
    if unembedding.softcap:
        raise ValueError("The projections' closed form holds without a soft cap of the logits only.")
    size, device = max(1, cells // len(unembedding.weight)), unembedding.weight.device
    parts = []
    for start in range(0, len(rows), size):
        here = slice(start, start + size)
        final = residual[-1][here].to(device)
        p_final = lens.lens_logits(final, unembedding).softmax(-1)
        states = [(residual[layer][here].to(device), update[layer][here].to(device)) for layer in layers]
        last = [layer == len(residual) - 1 for layer in layers]
        parts.append(
            [_pushed(*state, p_final, unembedding, rows[here], end) for state, end in zip(states, last)]
        )
    return {
        name: torch.cat([torch.stack([each[name] for each in part], dim=1) for part in parts], dim=-1)
        for name in PROJECTIONS
    }


def _pushed(h, u, p_final, unembedding, targets, last):
    """{name: [axis, token]} of updates u [token, d] at states h [token, d] of one layer; the last has no KL to leave."""
    z, weight = lens.lens_logits(h, unembedding), unembedding.weight
    best = z.argmax(-1)
    # The difference of probabilities first: that of two mean rows would lose its digits where they agree.
    away = torch.zeros_like(z) if last else z.softmax(-1) - p_final
    pushes = weight[targets].float(), -weight[best].float(), weighted_rows(away, weight)
    gradients = torch.stack([norm_pullback(unembedding.norm, h, push) for push in pushes])
    return _along(u.float(), gradients)


def _along(u, gradients):
    """effect, projection and cosine [axis, token] of updates [token, d] with gradients [axis, token, d]."""
    effect = (u * gradients).sum(-1)
    length, size = gradients.norm(dim=-1), u.norm(dim=-1)
    projection = torch.where(length > 0, effect / length, 0.0)
    return {"effect": effect, "projection": projection, "cosine": projection / size.clamp(min=1e-12)}
