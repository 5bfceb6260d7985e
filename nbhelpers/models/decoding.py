"""Greedy decoding of many edited rows at once: a cached loop of our own that drops rows when they are finished.

`generation.generate` decodes one model as it is. Here each row may have its own edit (`row_edits`), so that a dose sweep
with its baseline and its controls is one generation. Rows that have stopped leave the batch and the cache. Below the first
edited layer, rows of one prompt have one state: there each prompt is computed once.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import DynamicCache

from nbhelpers.core.params import ParameterError
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.fitting import in_batches
from nbhelpers.models.generation import Continuation, by_length, cut_at_stop, left_pad
from nbhelpers.models.row_edits import Applied, RowChange, applied, check

COMPACT = 0.125  # rows are dropped once this share of them is finished
# What a block is given of every row, beside its input.
BY_ROW = ("hidden_states", "attention_mask", "position_ids", "position_embeddings")


@dataclass(frozen=True)
class Decoded:
    """What rows generated: a continuation each, and how many positions the edits reached in each row."""

    continuations: list[Continuation]
    positions: np.ndarray


@torch.no_grad()
def decode(
    decoder: Decoder,
    rows: Sequence[Sequence[int]],
    edits: Sequence[RowChange] = (),
    *,
    max_new_tokens: int,
    batch_size: int = 512,
) -> Decoded:
    """Return the greedy continuation of each row of ids under the edits, in the order of the rows.

    edits: with tensors of one entry a row (or one for all). batch_size: rows decoded together, those of like length,
    fewer where memory does not suffice. The edits act on every position: the prompt's and each generated token's but the
    last, whose forward is not needed. Each token is the arg max over real tokens, the stop token included. ParameterError
    if rows do not fit the context; InterventionError if an edit fits neither the model nor the rows.
    """
    longest = max(map(len, rows), default=0)
    if decoder.context and longest + max_new_tokens > decoder.context:
        raise ParameterError(
            f"{decoder.name}: a prompt of {longest} tokens and {max_new_tokens} new ones do not fit into its context of "
            f"{decoder.context}: shorten the prompt or lower max_new_tokens."
        )
    for edit in edits:
        check(edit, decoder, len(rows))
    found: list[Continuation | None] = [None] * len(rows)
    positions = np.zeros(len(rows), dtype=np.int64)

    def written(batch):
        here = [edit.of(torch.as_tensor(batch)) for edit in edits]
        with applied(decoder, here, len(batch)) as state:
            ids = _decode(decoder, [rows[i] for i in batch], state, max_new_tokens)
        return ids, state.positions.numpy()

    batches = in_batches(by_length(rows), batch_size, written, f"{decoder.name} decode")
    for batch, (ids, reached) in tqdm(batches, desc=f"{decoder.variant} decode", disable=None):
        positions[batch] = reached
        for i, row in zip(batch, ids):
            found[i] = cut_at_stop(row, decoder.stop_ids)
    return Decoded(found, positions)


def _decode(decoder: Decoder, rows, state: Applied, max_new_tokens: int) -> list[list[int]]:
    """Return the generated ids of one batch of rows, each at least up to its stop token."""
    device = decoder.module.device
    padded = left_pad(rows, decoder.pad_id, device)
    ids, mask = padded["input_ids"], padded["attention_mask"]
    unreal = torch.as_tensor(~decoder.real_tokens, device=device)
    stops = torch.as_tensor(decoder.stop_ids, device=device)
    made = torch.full((len(rows), max_new_tokens), decoder.stop_ids[0], device=device)
    cache = DynamicCache(config=decoder.module.config)
    done = torch.zeros(len(rows), dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        fresh = mask[:, -ids.shape[1] :]
        logits = (
            _forward(decoder, ids, mask, cache) if step else _prefill(decoder, ids, mask, cache, state.edits)
        )
        state.count(fresh.cpu() if step == 0 else (~done[:, None]).cpu())
        token = logits.masked_fill(unreal, -torch.inf).argmax(-1)
        live = state.rows.to(device)
        made[live[~done], step] = token[~done]
        done |= torch.isin(token, stops)
        if done.all() or step + 1 == max_new_tokens:
            break
        ids, mask = token[:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        if done.float().mean() >= COMPACT:
            left = (~done).nonzero()[:, 0].cpu()  # which serves layers of a cache on any device
            cache.batch_select_indices(left)
            state.select(left)
            ids, mask, done = ids[left], mask[left], done[left]
    return made.tolist()


def _forward(decoder: Decoder, ids: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
    """Return the logits [row, token] of the last position of ids [row, new position] behind a cache."""
    places = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
    out = decoder.module(
        input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True,
        logits_to_keep=1,
    )  # fmt: skip
    return out.logits[:, -1].to(ids.device)


def _prefill(decoder: Decoder, ids: Tensor, mask: Tensor, cache: DynamicCache, edits) -> Tensor:
    """Return the logits [row, token] after the prompts; equal rows are one below the first edited layer."""
    first = min((edit.layer for edit in edits), default=0)
    both, index = torch.unique(torch.cat([ids, mask], 1), dim=0, return_inverse=True)
    if first == 0 or len(both) == len(ids):
        return _forward(decoder, ids, mask, cache)
    with spread(decoder.stack._module.layers[first:], index, len(both)):
        logits = _forward(decoder, *both.chunk(2, 1), cache)
    kept = index.cpu()
    for layer in cache.layers[:first]:
        layer.batch_select_indices(kept)
    return logits


@contextmanager
def spread(blocks: Iterable[nn.Module], index: Tensor, n: int) -> Iterator[None]:
    """Make a batch of n rows one of `index` [row], in which rows repeat, where it enters the first of the blocks.

    The other blocks are given the masks and positions of the new rows too.
    """

    def whole(value):
        if isinstance(value, tuple):
            return tuple(map(whole, value))
        return value[index.to(value.device)] if isinstance(value, Tensor) and len(value) == n else value

    def hook(module, inputs, named):
        named = {name: whole(value) if name in BY_ROW else value for name, value in named.items()}
        return (*map(whole, inputs[:1]), *inputs[1:]), named

    handles = [block.register_forward_pre_hook(hook, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
