"""How an MLP update changes the prediction after its layer, to first order and in closed form (no backward pass).

`support_teacher` is positive where the update raises the logit of the teacher's token, `anti_top1` where it lowers the
logit of the layer's top-1 token, `anti_kl` where it moves the layer's prediction away from the model's own final one.
This module takes residuals, updates and an unembedding; it knows nothing of grafts or of datasets.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nbhelpers.measures import lens
from nbhelpers.measures.graft_shifts import PROJECTIONS
from nbhelpers.models.unembedding import Unembedding, cap_slope


def weighted_rows(weights: Tensor, rows: Tensor) -> Tensor:
    """Return weighted sums of unembedding rows [row, d], float32 [token, d].

    weighted_rows[t] = Σ_r weights[t, r] rows[r]
    """
    return sum(part @ block.float() for part, block in zip(weights.split(32768, -1), rows.split(32768)))


def norm_pullback(norm, h: Tensor, a: Tensor) -> Tensor:
    """Return Jᵀa for the Jacobian J of a norm at h [token, d], float32 [token, d].

    Jᵀa = (g∘a)/r − h ⟨h, g∘a⟩ / (d r³),  g the gain,  r = √(mean h² + ε)
    The gain comes from the norm's own output, so Gemma's 1 + weight needs no special case. A norm for which this form does
    not hold, such as a LayerNorm, takes a backward pass.
    """
    h, eps = h.float(), getattr(norm, "variance_epsilon", getattr(norm, "eps", None)) or 0.0
    gain = norm(torch.ones_like(h[:1])).float() * (1 + eps) ** 0.5
    r = (h.square().mean(-1, keepdim=True) + eps).sqrt()
    normed = gain * h / r
    if not torch.allclose(norm(h).float(), normed, rtol=1e-3, atol=1e-3 * float(normed.abs().amax())):
        with torch.enable_grad():
            x = h.detach().requires_grad_()
            return torch.autograd.grad(norm(x), x, a.to(h))[0]
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
    """Return each MLP update's first-order effect on the prediction after its layer, {name: [axis, layer, token]}.

    effect = u·g, in logits (teacher, top-1) or nats (KL);  projection = u·g / ‖g‖, in units of the residual
    cosine = u·g / (‖g‖ ‖u‖), with u the update and g the gradient of the axis at the residual h_ℓ after the layer:
    g = Jᵀ W[teacher's token],  −Jᵀ W[top-1 token of the layer],  JᵀWᵀ(p_ℓ − p_L), the gradient of KL(p_L ‖ p_ℓ)
    W is the unembedding, J the Jacobian of the final norm at h_ℓ; axes in the order of `graft_shifts.AXES`. All three are 0
    where g is, as for `anti_kl` at the last layer. residual, update: [layer][token, d] of all layers, the output of each
    block and what its MLP added to the stream. rows: the unembedding row of the teacher's token, [token]
    (`Unembedding.rows`). layers: those to measure. cells: logits held at once. Under a soft cap each row of W is
    multiplied by the cap's slope at its logit (`unembedding.cap_slope`). The
    study used three backward passes a layer and, for Gemma and OLMo, the MLP's output before the norm that follows it.
    """
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
    """Return {name: [axis, token]} of updates u [token, d] at residuals h [token, d]; the last layer's KL gradient is 0."""
    z, weight = lens.lens_logits(h, unembedding), unembedding.weight
    best = z.argmax(-1)
    # Subtract the probabilities first: the difference of two nearly equal mean rows would lose its digits.
    slope = cap_slope(z, unembedding.softcap)
    away = torch.zeros_like(z) if last else (z.softmax(-1) - p_final) * slope
    rise, fall = (slope.gather(1, at.to(z.device)[:, None]) * weight[at].float() for at in (targets, best))
    pushes = rise, -fall, weighted_rows(away, weight)
    gradients = torch.stack([norm_pullback(unembedding.norm, h, push) for push in pushes])
    return _along(u.float(), gradients)


def _along(u, gradients):
    """Return effect, projection and cosine [axis, token] of updates [token, d] with gradients [axis, token, d]."""
    effect = (u * gradients).sum(-1)
    length, size = gradients.norm(dim=-1), u.norm(dim=-1)
    projection = torch.where(length > 0, effect / length, 0.0)
    return {"effect": effect, "projection": projection, "cosine": projection / size.clamp(min=1e-12)}
