"""Phase 3 of exp10: PT reads IT's reply, and part of what IT has there is added to its stream at one layer and position.

The first generated positions are taken one by one: up to each, the cache is PT's own, so that a patch acts at its
position alone. All layers and conditions of a prompt are rows of one batch, with the unpatched row among them.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformers import DynamicCache

from nbhelpers import progress
from nbhelpers.experiments.exp10_contrastive_patching.matched import Matched
from nbhelpers.measures import tuned_lens
from nbhelpers.measures.commitment import kl_stays
from nbhelpers.measures.directions import unit
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.fitting import in_batches
from nbhelpers.models.generation import Continuation, left_pad
from nbhelpers.models.row_edits import RowEdit, applied
from nbhelpers.models.unembedding import rounding

POSITIONS = 5  # generated tokens, as in the study
THRESHOLD = 0.1  # nats, of the commitment layer
READ = ("own", "unedited", "same_layer", "commitment")
PARTS = ("conv", "pattern", "mean")
FIXED = ("none", "full", "orthogonal", *PARTS)
LARGE = tuple(f"{name}, full size" for name in PARTS)
UNIT_STEPS = ("conv, +1 SD", "conv, −1 SD", "mean, +1 SD", "mean, −1 SD")


class PatchError(RuntimeError):
    """A patched run that is not what it must be; the message is one sentence."""


def condition_names(n_random: int, n_large: int) -> list[str]:
    """Return the names of the conditions in the order of `offsets`."""
    small = [f"random {i + 1}" for i in range(n_random)]
    large = [f"random {i + 1}, full size" for i in range(n_large)]
    return [*FIXED, *LARGE, *UNIT_STEPS, *small, *large]


def offsets(
    delta: Tensor, axes: Mapping[str, Tensor], randoms: Tensor, deviation: Mapping[str, float], n_large: int
) -> Tensor:
    """Return what each condition adds to a residual, [condition, d], in the order of `condition_names`.

    delta [d]: IT − PT at this layer and position. axes: unit vectors {"conv", "pattern", "mean"}; randoms [n, d]: unit
    vectors, of which the first n_large are also added at full size. deviation: standard deviation of the differences along
    "conv" and "mean".

    full = Δ;  conv = (Δ·c)c, and likewise pattern and mean;  orthogonal = Δ − (Δ·c)c;  random = |Δ·c| sgn(Δ·r) r
    "full size": along the same vector with the length of Δ, sgn(Δ·v)‖Δ‖ v;  ±1 SD: ± deviation · v
    """
    along = {name: delta @ axis for name, axis in axes.items()}
    size, signs = delta.norm(), torch.sign(randoms @ delta)[:, None]
    parts = [along[name] * axes[name] for name in PARTS]
    large = [torch.sign(along[name]) * size * axes[name] for name in PARTS]
    steps = [sign * deviation[name] * axes[name] for name in ("conv", "mean") for sign in (1, -1)]
    fixed = torch.stack([torch.zeros_like(delta), delta, delta - parts[0], *parts, *large, *steps])
    return torch.cat([fixed, along["conv"].abs() * signs * randoms, (size * signs * randoms)[:n_large]])


def random_axes(n: int, axis: np.ndarray, seed: int) -> np.ndarray:
    """Return n random unit vectors orthogonal to an axis, [n, d]."""
    drawn = np.random.default_rng(seed).standard_normal((n, len(axis)))
    return unit(drawn - (drawn @ axis)[:, None] * axis)


def planned(
    test: Matched, directions: xr.Dataset, layers: Sequence[int], n_random: int, n_large: int, seed: int
) -> Tensor:
    """Return what is added at every patched layer and test token, float32 [token, layer, condition, d].

    directions: from `probes.directions_of`; those of the residual space and their deviations are used.
    """
    vectors, spread = (directions[name].sel(space="residual", drop=True) for name in ("vector", "deviation"))
    found = []
    for layer in layers:
        axes = {n: torch.as_tensor(vectors.sel(direction=n).values[layer]) for n in PARTS}
        randoms = torch.as_tensor(random_axes(n_random, axes["conv"].numpy(), seed + layer)).float()
        deviation = {name: float(spread.sel(direction=name).values[layer]) for name in ("conv", "mean")}
        of = [
            offsets(delta, axes, randoms, deviation, n_large) for delta in test.difference["residual"][layer]
        ]
        found.append(torch.stack(of))
    return torch.stack(found, 1)


@torch.no_grad()
def patched(
    decoder: Decoder,
    rows: Sequence[Sequence[int]],
    replies: Sequence[Continuation],
    test: Matched,
    plan: Tensor,
    layers: Sequence[int],
    tuned: tuned_lens.TunedLens,
    *,
    batch_size: int,
) -> np.ndarray:
    """Return what patches change, by prompt, float [read-out, condition, patched layer, prompt]: means over positions.

    rows: ids of the prompts as PT reads them; test: the first `POSITIONS` tokens of each reply; plan: from `planned`, of
    the same tokens. Read-outs `READ`, patched − unpatched, PT's tuned lens, nats, at the patched position:
    own: KL(layer ‖ own final), mean over the layers above the patched one but the last; unedited: the same to the unpatched
    run's final; same_layer: KL(layer ‖ own final) at the patched layer; commitment: the layer from which it stays below
    `THRESHOLD`. batch_size: rows of one token in one forward. PatchError if the unpatched row is not the forced run, or
    another row equals it.
    """
    n_tokens, n_conditions = len(test.prompt), plan.shape[2]
    found = np.full((len(READ), n_conditions, len(layers), n_tokens), np.nan)
    at_once = max(1, min(len(layers), batch_size // n_conditions))
    per_batch = max(1, batch_size // (n_conditions * at_once))

    order, what = np.argsort([-len(row) for row in rows], kind="stable"), f"{decoder.name} patch"

    def of_prompts(some):  # what a batch that fails has written, smaller ones write again
        chosen = [int(i) for i in some if (test.prompt == i).any()]
        if not chosen:
            return
        cache = Cached(decoder, [rows[i] for i in chosen])
        for step in range(1, POSITIONS + 1):
            here = [(k, at[0]) for k, i in enumerate(chosen)
                    if len(at := np.flatnonzero((test.prompt == i) & (test.step == step)))]  # fmt: skip
            ids = [replies[i].ids[min(step, len(replies[i].ids)) - 1] for i in chosen]
            if here:
                lines, tokens = map(list, zip(*here))
                following = lines, [ids[k] for k in lines]
                tried = partial(
                    _tried, cache, following, plan[tokens], layers, test.last[tokens], step, tuned
                )
                for some, values in in_batches(range(len(layers)), at_once, tried, f"{what}, layers"):
                    found[:, :, slice(some[0], some[-1] + 1), tokens] = values
            cache.advance(ids)

    for _ in progress(in_batches(order, per_batch, of_prompts, what), "patch"):
        pass
    return by_prompt(found, test.prompt, len(rows))


def _tried(cache, following, plan, layers, last, step, tuned, some) -> np.ndarray:
    """Return `read` of patches after some layers (indices of `layers`, in a row) at the next token of some prompts."""
    part = slice(some[0], some[-1] + 1)
    h = cache.branch(*following, plan[:, part], layers[part])
    _check(cache.decoder, h, last, step)
    return read(cache.decoder, h, layers[part], tuned)


def by_prompt(values: np.ndarray, prompt: np.ndarray, n_prompts: int) -> np.ndarray:
    """Return means of values [..., token] over each prompt's tokens, [..., prompt]; NaN where a prompt has none."""
    out = np.full((*values.shape[:-1], n_prompts), np.nan)
    for i in np.unique(prompt):
        out[..., i] = values[..., prompt == i].mean(-1)
    return out


class Cached:
    """A decoder after some prompts, one cache for all: `branch` tries edited rows at the next token, `advance` reads it."""

    def __init__(self, decoder: Decoder, rows: Sequence[Sequence[int]]):
        """Read the prompts."""
        self.decoder, self.device = decoder, decoder.module.device
        padded = left_pad(rows, decoder.pad_id, self.device)
        self.mask, self.cache = padded["attention_mask"], DynamicCache(config=decoder.module.config)
        places = (self.mask.cumsum(1) - 1).clamp_min(0)
        self._run(padded["input_ids"], self.mask, places, self.cache)

    def _run(self, ids, mask, places, cache):
        self.decoder.stack._module(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        )

    def _next(self, ids: Tensor, mask: Tensor, cache) -> Tensor:
        """Run one more token of each row; return the mask that now holds."""
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        self._run(ids[:, None], mask, mask.sum(1, keepdim=True) - 1, cache)
        return mask

    def advance(self, ids: Sequence[int]) -> None:
        """Read one more token of every prompt."""
        self.mask = self._next(torch.as_tensor(ids, device=self.device), self.mask, self.cache)

    def branch(self, lines: Sequence[int], ids: Sequence[int], plan: Tensor, layers: Sequence[int]) -> Tensor:
        """Return the residuals after the next token, [layer, line, patched layer, condition, d].

        lines: which prompts; ids: their next tokens; plan [line, patched layer, condition, d]: what is added after a layer.
        """
        n, each = len(lines), plan.shape[1] * plan.shape[2]
        repeat = lambda values: torch.as_tensor(values, device=self.device).repeat_interleave(each, 0)  # noqa: E731
        cache = copy.deepcopy(self.cache)
        index = repeat(lines)
        cache.batch_select_indices(index.cpu())  # which serves layers of a cache on any device
        edits = []
        for k, layer in enumerate(layers):
            offset = torch.zeros_like(plan)
            offset[:, k] = plan[:, k]
            edits.append(RowEdit(layer, "residual", offset=offset.reshape(n * each, -1)))
        kept, blocks = [], self.decoder.stack._module.layers

        def keep(module, inputs, output):
            kept.append((output[0] if isinstance(output, tuple) else output)[:, -1])

        with applied(self.decoder, edits, n * each):  # edits come before `keep`
            handles = [block.register_forward_hook(keep) for block in blocks]
            try:
                self._next(repeat(ids), self.mask[index], cache)
            finally:
                for handle in handles:
                    handle.remove()
        return torch.stack([h.to(self.device) for h in kept]).view(len(blocks), n, *plan.shape[1:])


def _check(decoder: Decoder, h: Tensor, last: Tensor, step: int) -> None:
    """Raise PatchError unless the unpatched row is PT's forced run at this token, and every patch changes something."""
    plain, limit = h[-1, :, 0, 0].float().cpu(), 10 * rounding(decoder.module.dtype)
    error = ((plain - last).norm() / last.norm()).item()
    if not error <= limit:
        raise PatchError(
            f"{decoder.name}: at generated token {step} the cached run differs from the forced one by {error:.2g} of its "
            f"norm (limit {limit:g}): its cache does not hold what it read."
        )
    moved = (h[-1, :, :, 1:] - h[-1, :, :, :1]).float().norm(dim=-1).amax((0, 1))
    if not (moved > 0).all():
        raise PatchError(f"{decoder.name}: a patch at generated token {step} changes nothing.")


def read(decoder: Decoder, h: Tensor, layers: Sequence[int], tuned: tuned_lens.TunedLens) -> np.ndarray:
    """Return the read-outs, [read-out, condition, patched layer, line], of h [layer, line, patched layer, condition, d].

    Below the patched layer a row's states are the unpatched row's; only its final distribution differs.
    """
    n_layers = len(h)
    below = [_logp(decoder, tuned, layer, h[layer, :, 0, 0]) for layer in range(n_layers)]
    out = []
    for k, layer in enumerate(layers):
        kl, kl_unedited = _distances(decoder, tuned, h[:, :, k], layer, below)
        later = slice(layer + 1, n_layers - 1)
        one = np.stack(
            [
                kl[..., later].mean(-1),
                kl_unedited[..., later].mean(-1),
                kl[..., layer],
                kl_stays(kl, THRESHOLD),
            ]
        )
        out.append(one - one[:, :, :1])
    return np.stack(out).transpose(1, 3, 0, 2)


def _distances(decoder, tuned, h, patched_layer, below) -> tuple[np.ndarray, np.ndarray]:
    """Return KL(layer ‖ own final) and KL(layer ‖ the unpatched final), nats [line, condition, layer], of one patched layer.

    h: [layer, line, condition, d]. below: the unpatched row's log-probabilities [line, vocabulary], by layer.
    """
    n_layers, lines, conditions, width = h.shape
    own, unedited = _logp(decoder, tuned, n_layers - 1, h[-1]), below[-1][:, None]
    found = np.zeros((2, lines, conditions, n_layers))
    for layer in range(n_layers):
        if layer < patched_layer:
            p = below[layer].exp()
            level = (p * below[layer]).sum(-1)[:, None]
            both = [level - torch.einsum("lv,lcv->lc", p, end) for end in (own, unedited.expand_as(own))]
        else:
            logp = own if layer == n_layers - 1 else _logp(decoder, tuned, layer, h[layer])
            p = logp.exp()
            both = [(p * (logp - end)).sum(-1) for end in (own, unedited)]
        found[..., layer] = torch.stack(both).clamp_min(0).double().cpu().numpy()
    found[0, ..., -1] = 0
    return found[0], found[1]


def _logp(decoder: Decoder, tuned: tuned_lens.TunedLens, layer: int, h: Tensor) -> Tensor:
    """Return the tuned lens's log-probabilities at a layer, float32 [..., vocabulary]."""
    flat = tuned_lens.translate_layer(tuned, layer, h.reshape(-1, h.shape[-1]))
    return torch.log_softmax(decoder.unembedding.logits(flat), -1).view(*h.shape[:-1], -1)
