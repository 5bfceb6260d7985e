"""Entropy of each head's attention at the last prompt token, and the residual stream there, from one forward pass.

Attention weights exist only under eager attention, so the model is switched to it for the call. A layer's weights
[row, head, query, key] are cut to one query a row as soon as they are computed. Rows are padded on the right; under a
causal mask the last token of a row cannot attend to its padding. This module knows nothing of text or of statistics.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import nnsight
import numpy as np
import torch
from torch import Tensor

from nbhelpers import progress
from nbhelpers.core.params import LackingError, ParameterError
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.forward import Batch, read_batches
from nbhelpers.models.generation import Continuation


@dataclass(frozen=True)
class LastPosition:
    """Attention entropy, attention sink and residual stream at the last token of each prompt.

    `entropy` [prompt, layer, head] is in nats. `entropy_without_sink` is the entropy of the same weights without key 0,
    rescaled to sum to one; NaN where no weight is left. `sink` is the weight on key 0, in [0, 1]. `visible_keys`
    [prompt, layer] counts the keys that the mask allows, `length` [prompt] the tokens. `residual` [prompt, layer, d] is
    the output of each block, before the final norm. All are float32, but the two counts are int64. Prompts keep their order.
    """

    entropy: np.ndarray
    entropy_without_sink: np.ndarray
    sink: np.ndarray
    visible_keys: np.ndarray
    length: np.ndarray
    residual: np.ndarray


def attention_entropy(weights: Tensor) -> dict[str, Tensor]:
    """Return the entropies of attention rows [..., key] in nats and their weight on key 0, each float32 [...].

    entropy = −Σ_j p_j log p_j,  p_j = w_j / Σ_i w_i
    entropy_without_sink = −Σ_{j>0} q_j log q_j,  q_j = p_j / Σ_{i>0} p_i
    sink = p_0
    A weight of 0 adds exactly 0, so masked and padded keys change nothing. Rows are rescaled after the upcast because
    weights rounded to bfloat16 do not sum to one. `entropy_without_sink` is NaN where key 0 has all the weight. Many
    heads put most of their weight on this sink whatever the text, so both entropies are given (Xiao et al. 2024,
    Efficient streaming language models with attention sinks, ICLR).
    """
    weights = weights.float()
    weights = weights / weights.sum(-1, keepdim=True)
    rest = weights[..., 1:]
    left = rest.sum(-1)
    return {
        "entropy": torch.special.entr(weights).sum(-1),
        "entropy_without_sink": torch.where(
            left > 0, torch.special.entr(rest / left[..., None]).sum(-1), torch.nan
        ),
        "sink": weights[..., 0],
    }


def visible_keys(config, length: np.ndarray) -> np.ndarray:
    """Return how many keys the last of T = `length` tokens can attend to, itself included, int64 [prompt, layer].

    visible_keys = min(T, window) in layers with sliding attention, T in layers with full attention
    config: the text configuration (`Decoder.config`). Where it lists no layer types, a window holds for all layers
    (Mistral). LackingError for any other type of layer.
    """
    window = getattr(config, "sliding_window", None)
    default = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    kinds = getattr(config, "layer_types", None) or default
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown:
        raise LackingError(f"the visible keys of a layer of type {min(unknown)!r} are not known")
    if "sliding_attention" in kinds and not window:
        raise LackingError("the configuration has layers with sliding attention and gives no sliding_window")
    limits = [window if kind == "sliding_attention" else np.iinfo(np.int64).max for kind in kinds]
    return np.minimum(np.asarray(length)[:, None], np.array(limits))


@contextmanager
def eager_attention(decoder: Decoder) -> Iterator[None]:
    """Switch the model to eager attention inside the block; its earlier attention is restored, also after an error."""
    config = decoder.module.config
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    before = {"": config, **{name: part for name, part in parts.items() if part is not None}}
    before = {name: part._attn_implementation for name, part in before.items()}
    try:
        decoder.module.set_attn_implementation("eager")
        yield
    finally:
        decoder.module.set_attn_implementation(before)


@torch.no_grad()
def last_position_attention(
    decoder: Decoder, rows: Sequence[Sequence[int]], *, batch_size: int = 32, attention: bool = True
) -> LastPosition:
    """Return attention entropy (nats), sink and residuals at the last token of each prompt, from one forward a batch.

    Formulas: `attention_entropy`. rows: ids of each prompt, already rendered (`prompts.render`); batch_size: rows that go
    through together. Batching does not change a row's values. The residuals are computed with eager attention; they equal
    those of SDPA up to the rounding of the dtype (float32 or bfloat16). One forward serves both L9 (attention entropy) and
    L8 (the cloud of last-token residuals) of the study. attention: False reads the residuals alone, under the model's own
    attention; entropies and sink are then NaN, visible keys 0. ParameterError for an empty row; LackingError, after one batch
    at the most, for a model that gives no attention weights or has layers whose visible keys are not known.
    """
    length = np.array([len(row) for row in rows], dtype=np.int64)
    if not length.all():
        raise ParameterError("a prompt without tokens has no last position: leave empty rows out.")
    # A continuation of one token adds nothing to the input, and its step is the last token of the prompt.
    nothing = [Continuation((0,), False)] * len(rows)
    batches = read_batches(
        decoder, rows, nothing, lambda batch: (batch.rows, _of(decoder, _read, decoder, batch, attention)),
        batch_size=batch_size, what="attention",
    )  # fmt: skip
    shape, config = (len(rows), decoder.n_layers), decoder.config
    visible = _of(decoder, visible_keys, config, length) if attention else np.zeros(shape, np.int64)
    read = {
        name: np.full((*shape, config.num_attention_heads), np.nan, np.float32)
        for name in ("entropy", "entropy_without_sink", "sink")
    }
    read["residual"] = np.empty((*shape, config.hidden_size), np.float32)
    with eager_attention(decoder) if attention else nullcontext():
        for chosen, found in progress(batches, f"{decoder.variant} attention"):
            for name, values in found.items():
                read[name][chosen] = values
    return LastPosition(visible_keys=visible, length=length, **read)


def _of(decoder: Decoder, call: Callable, *arguments):
    """Return what `call` returns; a LackingError names the model."""
    try:
        return call(*arguments)
    except LackingError as error:
        raise LackingError(f"{decoder.key}: {error}") from None


def _read(decoder: Decoder, batch: Batch, attention: bool) -> dict[str, np.ndarray]:
    """Return the entropies, sink [row, layer, head], if asked for, and residuals [row, layer, d] of one batch."""
    # Indices on the CPU serve layers on any device.
    row, column = batch.where
    device = decoder.module.device
    inputs = {"input_ids": batch.input_ids.to(device), "attention_mask": batch.attention_mask.to(device)}
    with decoder.lm.trace(inputs, use_cache=False) as tracer:
        layers = nnsight.save([])
        for block in decoder.layers:
            # Only the last query's weights get a name, so the rest is freed with its layer.
            weights = _weights(decoder, block.self_attn.output)[row, :, column] if attention else None
            kept = attention_entropy(weights) if attention else {}
            layers.append(kept | {"residual": block.output[row, column].float()})
        tracer.stop()
    return {name: torch.stack([kept[name].cpu() for kept in layers], dim=1).numpy() for name in layers[0]}


def _weights(decoder: Decoder, output) -> Tensor:
    """Return the attention weights [row, head, query, key] from the output of an attention module."""
    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    if weights is None:
        raise LackingError(
            f"{type(decoder.module).__name__} gives no attention weights under eager attention"
        )
    return weights
