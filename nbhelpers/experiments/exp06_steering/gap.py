"""exp06: how far each layer lies from the end under every dose, all on IT's own replies, with PT for reference."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from nbhelpers.experiments.exp06_steering.experiment import Params
from nbhelpers.measures import lens, steering, tuned_lens
from nbhelpers.measures.arms import Arm, Vectors
from nbhelpers.measures.commitment import kl_stays, top1_strict
from nbhelpers.models.decoder import Pair
from nbhelpers.models.forward import forced_batch, forward, read_batches
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, read_as
from nbhelpers.models.row_edits import as_edits

RULES = {
    "kl_stays_0.1": lambda read: kl_stays(read["kl_layer_final"]),
    "top1_strict": lambda read: top1_strict(read["top1"]),
}

ENDS = ("kl_layer_final", "kl_layer_unedited_final")


def _by_prompt(values: torch.Tensor, batch, n: int) -> np.ndarray:
    """Return means over each row's tokens of values [layer, token], [row of the batch, layer]."""
    row = np.repeat(np.arange(n), [len(steps) for steps in batch.steps])
    flat = values.double().cpu().numpy()
    return (
        np.stack([np.bincount(row, layer, n) for layer in flat], 1) / np.bincount(row, minlength=n)[:, None]
    )


def _lens_read(decoder, stream, translators, unedited_final, options) -> dict[str, dict[str, torch.Tensor]]:
    """Return {lens: {metric: [layer, token]}} of a stream, up to its own final and to unedited IT's final residual.

    unedited_final: None for another model, whose unembedding cannot read IT's residual.
    """
    found, rows = {}, options.lens_rows
    tuned = tuned_lens.translate(translators, stream.residual)
    for name, states in {"raw": stream.residual, "tuned": tuned}.items():
        own = ("kl_layer_final", "top1")
        found[name] = lens.lens_metrics(states, decoder.unembedding, metrics=own, rows=rows)
        if unedited_final is not None:
            ends = [*states, unedited_final]
            far = lens.lens_metrics(ends, decoder.unembedding, metrics=own[:1], rows=rows)
            found[name]["kl_layer_unedited_final"] = far["kl_layer_final"][:-1]
    return found


def gap(
    pair: Pair, arms: Sequence[Arm], prompts: Sequence[Prompt], read: Sequence[Continuation], vectors: Vectors,
    lenses: Mapping[str, tuned_lens.TunedLens], options: Params,
) -> xr.Dataset:  # fmt: skip
    """Return how far each layer lies from the end under every dose, all on IT's own replies, with PT as reference.

    `kl_layer_final`, `kl_layer_unedited_final` (reader, lens, layer, prompt) and `commitment` (reader, lens, rule, prompt),
    means over a prompt's tokens. KL = Σ_v p_ℓ(v) (log p_ℓ(v) − log p_end(v)). reader: the arms' names, then "pt", which reads
    the same tokens after its raw prompt through its own lens; its distance from IT's final is NaN.
    """
    readers = [*(arm.name for arm in arms), "pt"]
    L, shape = pair.n_layers, (len(readers), 2)
    kl = np.full((2, *shape, L, len(prompts)), np.nan, dtype=np.float32)
    commit = np.full((*shape, len(RULES), len(prompts)), np.nan, dtype=np.float32)
    rows = {"it": read_as(pair.it, prompts, "chat"), "pt": read_as(pair.pt, prompts, "raw")}

    def measured(own_batch):  # what a batch that fails has written, smaller ones write again
        chosen_rows = own_batch.rows
        for r, stream, batch, decoder, final in _readers(pair, arms, rows, read, vectors, own_batch):
            values = _lens_read(decoder, stream, lenses[decoder.variant], final, options)
            for i, own in enumerate(values.values()):
                for k, name in enumerate(ENDS):
                    if name in own:
                        kl[k, r, i, :, chosen_rows] = _by_prompt(own[name], batch, len(chosen_rows))
                layers = {name: each.T.cpu().numpy() for name, each in own.items()}
                settled = torch.as_tensor(np.stack([rule(layers) for rule in RULES.values()]))
                commit[r, i, :, chosen_rows] = _by_prompt(settled, batch, len(chosen_rows))

    sizes = {"batch_size": options.batch_size, "what": "gap"}
    for _ in read_batches(pair.it, rows["it"], read, measured, **sizes):
        pass
    dims = ("reader", "lens", "layer", "prompt")
    return xr.Dataset(
        {
            "kl_layer_final": (dims, kl[0]), "kl_layer_unedited_final": (dims, kl[1]),
            "commitment": (("reader", "lens", "rule", "prompt"), commit),
        },
        {"reader": readers, "lens": ["raw", "tuned"], "rule": list(RULES), "prompt": [p.id for p in prompts]},
    )  # fmt: skip


def _readers(pair, arms, rows, read, vectors, batch):
    """Yield (index, stream, batch, decoder, unedited IT's last residual) of every dose, then of PT; batch: as IT reads it."""
    keep = sorted({min(arm.layers) for arm in arms})
    plain = forward(pair.it, batch, keep=keep)
    lens.check_identity(plain.last_residual, plain.last_logits, pair.it.unembedding)
    final = plain.residual[-1]
    for r, arm in enumerate(arms):
        edits = as_edits(steering.row_edits([arm], vectors, pair.it.config.hidden_size))
        stream = forward(pair.it, batch, edits, resume=plain) if edits and not arm.identity else plain
        yield r, stream, batch, pair.it, final
    other = forced_batch(batch.rows, rows["pt"], read, pair.pt.pad_id)
    yield len(arms), forward(pair.pt, other), other, pair.pt, None
