"""The tuned lens: one affine translator per layer, trained so that the layer's lens predicts the final distribution.

A translator T maps the residual after its block to one that the final norm and the unembedding can decode: T(h) = A h + b,
initialised at the identity ("full", as in the study), or T(h) = h + A h + b, initialised at zero ("residual", as in Belrose
et al. 2023, "Eliciting latent predictions from transformers with the tuned lens"). The reference is always the raw last
layer. The last layer's own translator is never applied; its gradient is exactly zero from the start, so it does not change.
This module knows nothing about texts or models: it takes residuals and an `Unembedding`. It draws no random numbers: the
same batches give the same lens.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from nbhelpers import progress
from nbhelpers.measures import lens
from nbhelpers.models.unembedding import Unembedding, cap_slope, logits

FORMS = ("full", "residual")


class TunedLensError(RuntimeError):
    """A tuned lens that cannot be trained, applied, loaded or written; the message is one sentence."""


@dataclass(frozen=True)
class TunedLens:
    """The translators of one model's layers.

    weight: A of every layer, [layer, d, d]; bias: b, [layer, d]; both float32. Entry ℓ applies to the output of block ℓ.
    form: "full" or "residual". digest: `unembedding_digest` of the model. metadata: where the lens comes from.
    """

    weight: Tensor
    bias: Tensor
    form: str
    digest: str
    metadata: dict = field(default_factory=dict)


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return the first 16 hex digits of the SHA-256 over the tensors' shapes and values (floats as float32)."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        for part in tensor.detach().reshape(-1).split(1 << 24):
            digest.update((part.float() if part.is_floating_point() else part).cpu().numpy())
    return digest.hexdigest()[:16]


def unembedding_digest(unembedding: Unembedding) -> str:
    """Return a digest that ties a lens to its model: 16 hex digits over unembedding, final norm, token ids and soft cap.

    Loading the model at another precision that represents its weights exactly gives the same digest.
    """
    state = getattr(unembedding.norm, "state_dict", dict)()
    cap = torch.tensor([unembedding.softcap or 0.0])
    return fingerprint(
        [unembedding.weight, unembedding.token_ids, cap, *(state[name] for name in sorted(state))]
    )


def untrained(
    n_layers: int, unembedding: Unembedding, *, form: str = "full", metadata: dict | None = None
) -> TunedLens:
    """Return the lens at the start of training: T(h) = h, the raw lens exactly. TunedLensError names an unknown form."""
    if form not in FORMS:
        raise TunedLensError(f"Tuned lens form {form!r}: choose from {', '.join(FORMS)}.")
    width, device = unembedding.weight.shape[1], unembedding.weight.device
    weight = torch.zeros(n_layers, width, width, device=device)
    if form == "full":
        weight.diagonal(dim1=1, dim2=2).fill_(1)
    bias = torch.zeros(n_layers, width, device=device)
    return TunedLens(weight, bias, form, unembedding_digest(unembedding), dict(metadata or {}))


def _check(tuned, residuals):
    layers, width = tuned.bias.shape
    shapes = {tuple(residual.shape) for residual in residuals}
    if len(residuals) != layers or len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[1] != width:
        raise TunedLensError(
            f"This tuned lens takes residuals of {layers} layers, [token, {width}] each and of one shape, not "
            f"{len(residuals)} layers of {sorted({tuple(residual.shape) for residual in residuals})}."
        )


def _apply(tuned, layers, h):
    """Return T(h) in float32 for one layer [token, d] or several [layer, token, d]."""
    translated = h @ tuned.weight[layers].mT + tuned.bias[layers][..., None, :]
    return translated if tuned.form == "full" else translated + h


@torch.no_grad()
def translate(tuned: TunedLens, residuals: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return the translated residuals, [layer][token, d] in their own dtype, ready for `lens.lens_metrics`.

    translate[ℓ] = T_ℓ(h_ℓ) for ℓ < L, in float32;  translate[L] = h_L, the raw last residual, the reference of both lenses
    TunedLensError if the number of layers or the width of the residuals differs from the lens's.
    """
    _check(tuned, residuals)
    return [translate_layer(tuned, layer, h) for layer, h in enumerate(residuals)]


@torch.no_grad()
def translate_layer(tuned: TunedLens, layer: int, residual: Tensor) -> Tensor:
    """Return `translate` of one layer's residual, [token, d], in its own dtype; the last layer's is unchanged."""
    h = residual.to(tuned.weight.device)
    return h if layer == len(tuned.bias) - 1 else _apply(tuned, layer, h.float()).to(h.dtype)


def metrics(
    residuals: Tensor | Sequence[Tensor], unembedding: Unembedding, tuned: TunedLens, **options
) -> dict[str, Tensor]:
    """Return `lens.lens_metrics` of the tuned lens, {metric: [layer, token]}, relative to the raw last layer.

    p_ℓ = softmax(lens_logits(T_ℓ(h_ℓ))) in the formulas of `lens.lens_metrics`, which takes the same options
    At the last layer all metrics equal those of the raw lens.
    """
    return lens.lens_metrics(translate(tuned, residuals), unembedding, **options)


def _moments(normed, weight, rows, columns):
    """Return (log-sum-exp of the logits [row], mean unembedding row under their softmax [row, d]) of normed states [row, d].

    One pass over tiles; earlier sums are rescaled when a later tile has a larger maximum.
    """
    top = torch.full((len(normed),), -torch.inf, device=normed.device)
    mass, mean = torch.zeros_like(top), torch.zeros_like(normed)
    buffer = torch.empty(min(rows, len(normed)) * columns, device=normed.device)
    for block in weight.split(columns):
        block = block.float()
        for start in range(0, len(normed), rows):
            here = slice(start, start + rows)
            z = buffer[: len(top[here]) * len(block)].view(-1, len(block))
            torch.mm(normed[here], block.T, out=z)
            highest = torch.maximum(top[here], z.amax(-1))
            kept = (top[here] - highest).exp_()
            # As in the lens: exp2 is faster than exp on a CPU, and denormals are slow.
            z.sub_(highest[:, None]).mul_(math.log2(math.e)).clamp_(min=-115.0).exp2_()
            mass[here] = mass[here] * kept + z.sum(-1)
            mean[here].mul_(kept[:, None]).addmm_(z, block)
            top[here] = highest
    return top + mass.log(), mean / mass[:, None]


@torch.no_grad()
def kl_gradients(
    tuned: TunedLens,
    residuals: Tensor | Sequence[Tensor],
    unembedding: Unembedding,
    *,
    rows: int = 512,
    columns: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return KL(final ‖ layer) [layer] in nats and its gradients by weight and by bias, all summed over tokens.

    kl_ℓ = Σ_token Σ_v p_L(v) (log p_L(v) − log p_ℓ(v)),  p_ℓ = softmax(W u_ℓ),  u_ℓ = norm(T_ℓ(h_ℓ)),  W the unembedding
    ∂kl_ℓ/∂u_ℓ = Wᵀ p_ℓ − Wᵀ p_L
    That takes two matrix products a layer. The last layer's are shared by all layers, so its own loss and gradient are
    exactly 0. `rows` tokens of all layers go together: memory is a few [layer, rows, d] and one tile of rows × columns.
    Under a soft cap each row of W in the first product is multiplied by the cap's slope, so all logits of a layer's rows
    are in memory. TunedLensError for mismatched residuals.
    """
    _check(tuned, residuals)
    device, columns = tuned.weight.device, lens.tile_columns(unembedding, columns)
    loss, d_weight, d_bias = (torch.zeros_like(like) for like in (tuned.bias[:, 0], tuned.weight, tuned.bias))
    for start in range(0, len(residuals[0]), rows):
        h = torch.stack([residual[start : start + rows].to(device) for residual in residuals])
        x = _apply(tuned, slice(None), h.float()).to(h.dtype)
        x[-1] = h[-1]
        with torch.enable_grad():
            u = unembedding.norm(x.requires_grad_().flatten(0, 1)).view_as(x)
        kl, push = (_capped if unembedding.softcap else _linear)(
            u.detach().float(), unembedding, rows, columns
        )
        loss += kl.clamp_(min=0).sum(-1)
        (dx,) = torch.autograd.grad(u, x, push.to(u.dtype))
        d_weight.baddbmm_(dx.float().mT, h.float())
        d_bias += dx.float().sum(1)
    return loss, d_weight, d_bias


def _linear(normed, unembedding, rows, columns):
    """Return KL(final ‖ layer) [layer, token] and its gradients [layer, token, d] by normed states [layer, token, d]."""
    log_mass, mean = _moments(normed.flatten(0, 1), unembedding.weight, rows, columns)
    log_mass, mean = log_mass.view(len(normed), -1), mean.view_as(normed)
    cross = torch.linalg.vecdot(mean[-1:], normed[-1:] - normed)
    return cross + log_mass - log_mass[-1], mean - mean[-1]


def _capped(normed, unembedding, rows, columns):
    """Return what `_linear` does, for logits under a soft cap, layer by layer."""
    weight, softcap = unembedding.weight, unembedding.softcap
    final = logits(normed[-1], weight, softcap).log_softmax(-1)
    kl, push = torch.zeros_like(normed[..., 0]), torch.zeros_like(normed)
    for layer in range(len(normed) - 1):
        z = logits(normed[layer], weight, softcap)
        log_p = z.log_softmax(-1)
        kl[layer] = (final.exp() * (final - log_p)).sum(-1)
        push[layer] = (log_p.exp() - final.exp()).mul_(cap_slope(z, softcap)) @ weight.float()
    return kl, push


def _clip(gradients, limit):
    """Scale each layer's gradients in place to a norm of at most `limit` over all of that layer's parameters."""
    norm = sum(gradient.flatten(1).square().sum(1) for gradient in gradients).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))


def _cut(batches, tokens_per_step):
    """Yield the batches, split where a step is full; the remainder starts the next step."""
    missing = tokens_per_step
    for batch in batches:
        while len(batch[0]):
            part, batch = [h[:missing] for h in batch], [h[missing:] for h in batch]
            missing = missing - len(part[0]) or tokens_per_step
            yield part
        part = batch = None  # these views would keep the old batch in memory while the next is made


def _step(tuned, optimiser, batches, unembedding, tokens_per_step, clip, tiles):
    """Take one optimiser step on the next batches; return the mean loss [layer] before it and its number of tokens."""
    tokens, sums = 0, None
    while tokens < tokens_per_step:
        if (batch := next(batches, None)) is None:
            raise TunedLensError(
                f"The batches ended {tokens_per_step - tokens} tokens before a step was full."
            )
        new = kl_gradients(tuned, batch, unembedding, **tiles)
        sums = new if sums is None else [total.add_(part) for total, part in zip(sums, new)]
        tokens += len(batch[0])
        batch = None  # as in `_cut`
    loss, *gradients = (total.div_(tokens) for total in sums)
    _finite(loss)
    _clip(gradients, clip)
    tuned.weight.grad, tuned.bias.grad = gradients
    optimiser.step()
    return loss.cpu().numpy(), tokens


@torch.no_grad()
def train(
    batches: Iterable[Sequence[Tensor]],
    unembedding: Unembedding,
    *,
    validation: Sequence[Tensor],
    learning_rate: float,
    form: str = "full",
    steps: int = 250,
    tokens_per_step: int = 262_144,
    momentum: float = 0.9,
    clip: float = 1.0,
    validate_every: int = 50,
    rows: int = 512,
    columns: int | None = None,
    metadata: dict | None = None,
) -> tuple[TunedLens, xr.Dataset]:
    """Return the tuned lens with the lowest validation loss of each layer, and the log of its training.

    loss_ℓ = mean over tokens of KL(p_L ‖ p_ℓ), see `kl_gradients`
    batches: micro-batches of residuals, [layer][token, d] each. A step takes exactly `tokens_per_step` tokens; the rest of
    a batch starts the next step. validation: cached residuals [layer][token, d], measured after step 1, every
    `validate_every` steps and after the last. SGD with Nesterov momentum; the rate falls linearly to 0 without warm-up;
    each layer's gradient is clipped to norm `clip` (inf: no clipping). The study's learning_rate is 0.1·s, s = 0.25 for
    Gemma, 0.5 for Qwen and DeepSeek, else 1. Log: train_loss (step, layer) and validation_loss (check, layer) in nats,
    chosen_step (layer), tokens (step); step and check count from 1. Memory and errors as in `kl_gradients`; TunedLensError
    also if the batches end too soon or a loss is not finite.
    """
    tuned = untrained(len(validation), unembedding, form=form, metadata=metadata)
    parameters, tiles = [tuned.weight, tuned.bias], {"rows": rows, "columns": columns}
    optimiser = torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, nesterov=momentum > 0)
    best = replace(tuned, weight=tuned.weight.clone(), bias=tuned.bias.clone())
    batches, losses, checks = _cut(batches, tokens_per_step), [], {}
    for step in progress(range(1, steps + 1), "tuned lens"):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - (step - 1) / steps)
        losses.append(_step(tuned, optimiser, batches, unembedding, tokens_per_step, clip, tiles))
        if step in (1, steps) or step % validate_every == 0:
            checks[step] = _validate(tuned, best, checks, validation, unembedding, tiles)
    return best, _log(losses, checks)


def _validate(tuned, best, checks, validation, unembedding, tiles):
    """Return the mean loss [layer] on the validation residuals; layers better than in all earlier `checks` go to `best`."""
    kl = metrics(validation, unembedding, tuned, metrics=("kl_final_layer",), **tiles)["kl_final_layer"]
    kl = _finite(kl.double().mean(1)).cpu().numpy()
    better = torch.as_tensor(kl < np.min([np.full_like(kl, np.inf), *checks.values()], axis=0))
    better = better.to(tuned.weight.device)
    best.weight[better], best.bias[better] = tuned.weight[better], tuned.bias[better]
    return kl


def _finite(loss):
    if bad := (~loss.isfinite()).nonzero().flatten().tolist():
        raise TunedLensError(f"The loss of layers {bad} is not finite: lower learning_rate or clip.")
    return loss


def _log(losses, checks):
    train_loss, tokens = zip(*losses)
    validation_loss, check = np.stack(list(checks.values())), np.asarray(list(checks))
    nats = {"units": "nats", "long_name": "KL(final ‖ layer)"}
    steps = {"units": "steps", "long_name": "step of the lowest validation loss"}
    return xr.Dataset(
        {
            "train_loss": (("step", "layer"), np.stack(train_loss), nats),
            "validation_loss": (("check", "layer"), validation_loss, nats),
            "chosen_step": (("layer",), check[validation_loss.argmin(0)], steps),
            "tokens": (("step",), np.asarray(tokens), {"units": "tokens", "long_name": "tokens of the step"}),
        },
        coords={"step": np.arange(1, len(losses) + 1), "check": check},
    )
