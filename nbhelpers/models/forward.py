"""One teacher-forced forward over prompt ⊕ continuation captures the residual stream at every measured position.

No lens, no generation: this module turns ids into tensors [layer, token, d]. The rows are right-padded; under a causal
mask, padding on the right changes nothing to its left (tested against each row alone on all six architectures).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import nnsight
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nbhelpers.models.decoder import STREAM, Decoder, block_layout, stream_tensor
from nbhelpers.models.generation import Continuation, batches_by_length


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together: ids and mask [row, position], where to measure, and what comes there.

    `steps[row]` lists the input positions that predict the row's generated tokens: P−1 … P+n−2 for a prompt of P and a
    continuation of n tokens. Position P−1, the last of the prompt, predicts the first generated token. `targets` [token] are
    the generated tokens themselves, row by row.
    """

    rows: np.ndarray
    input_ids: Tensor
    attention_mask: Tensor
    steps: tuple[range, ...]
    targets: Tensor

    @property
    def row_of_step(self) -> np.ndarray:
        """The caller's row index of every measured position, [token]."""
        return np.repeat(self.rows, [len(steps) for steps in self.steps])

    @property
    def step_of_step(self) -> np.ndarray:
        """Which generated token (from 0) every measured position predicts, [token]."""
        return np.concatenate([np.arange(len(steps)) for steps in self.steps])

    @property
    def where(self) -> tuple[Tensor, Tensor]:
        """Row and column of every measured position in the batch, for indexing [row, position, …]."""
        row = np.repeat(np.arange(len(self.rows)), [len(steps) for steps in self.steps])
        column = np.concatenate([np.asarray(steps) for steps in self.steps])
        return torch.as_tensor(row), torch.as_tensor(column)


@dataclass(frozen=True)
class Stream:
    """The residual stream at the measured positions of one batch, in the model's dtype.

    `embedding` [token, d] enters block 0. `residual` [layer, token, d] leaves each block, before the final norm.
    `attention_update` and `mlp_update` [layer, token, d] are what a block adds to the stream; `mlp_output` is what the
    MLP module returns, before the norm that Gemma 3 and OLMo 2 put after it.
    """

    embedding: Tensor
    residual: list[Tensor]
    attention_update: list[Tensor]
    mlp_output: list[Tensor]
    mlp_update: list[Tensor]
    last_residual: Tensor
    last_logits: Tensor


def replay_batches(
    prompts: Sequence[Sequence[int]], continuations: Sequence[Continuation], batch_size: int, pad_id: int
) -> list[Batch]:
    """Return the teacher-forcing batches of prompts with their continuations, each right-padded.

    The last generated token is left out of the input: nothing measured depends on it.
    """
    rows = [
        [*prompt, *continuation.ids[:-1]] for prompt, continuation in zip(prompts, continuations, strict=True)
    ]
    batches = []
    for chosen in batches_by_length(rows, batch_size):
        width = max(len(rows[i]) for i in chosen)
        ids = torch.full((len(chosen), width), pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for at, i in enumerate(chosen):
            ids[at, : len(rows[i])] = torch.as_tensor(rows[i])
            mask[at, : len(rows[i])] = 1
        steps = tuple(range(len(prompts[i]) - 1, len(rows[i])) for i in chosen)
        targets = torch.as_tensor([token for i in chosen for token in continuations[i].ids])
        batches.append(Batch(np.asarray(chosen), ids, mask, steps, targets))
    return batches


@torch.no_grad()
def capture(decoder: Decoder, batch: Batch) -> Stream:
    """Return the residual stream of one batch at its measured positions, from a single forward pass.

    Only the last column goes through the model's own unembedding (`last_logits` [row, rows of the unembedding]); with
    `last_residual` it lets the lens check itself against the model (`lens.check_identity`).
    """
    row, column = (index.to(decoder.module.device) for index in batch.where)
    inputs = {
        "input_ids": batch.input_ids.to(decoder.module.device),
        "attention_mask": batch.attention_mask.to(decoder.module.device),
    }
    where = STREAM[block_layout(decoder.layers[0])]
    normed = where["mlp_update"] != where["mlp_output"]  # else they are one tensor, kept once
    with decoder.lm.trace(inputs, use_cache=False, logits_to_keep=1):
        kept = nnsight.save(
            {name: [] for name in ("residual", "attention_update", "mlp_output", "mlp_update")}
        )
        embedding = nnsight.save(decoder.layers[0].input[row, column])
        for block in decoder.layers:
            for name in ("attention_update", "mlp_output"):
                kept[name].append(stream_tensor(block, name)[row, column])
            update = stream_tensor(block, "mlp_update")[row, column] if normed else kept["mlp_output"][-1]
            kept["mlp_update"].append(update)
            after = block.output
            kept["residual"].append(after[row, column])
        last_residual = nnsight.save(after[:, -1])
        last_logits = nnsight.save(decoder.head.output[:, -1])
    return Stream(embedding=embedding, last_residual=last_residual, last_logits=last_logits, **kept)


@torch.no_grad()
def residuals(
    decoder: Decoder, rows: Sequence[Sequence[int]], *, batch_size: int = 32
) -> Iterator[list[Tensor]]:
    """Yield the residual stream after every block, [layer][token, d], batch by batch of rows of ids.

    Every position counts but each row's first, whose state depends on no context. Rows of like length share a batch.
    """
    device, pad_id = decoder.module.device, decoder.tokenizer.pad_token_id
    for chosen in batches_by_length(rows, batch_size):
        ids = torch.full((len(chosen), max(len(rows[i]) for i in chosen)), pad_id)
        mask = torch.zeros_like(ids)
        for at, i in enumerate(chosen):
            ids[at, : len(rows[i])] = torch.as_tensor(rows[i])
            mask[at, : len(rows[i])] = 1
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        measured = mask.clone()
        measured[:, 0] = 0
        yield _residuals(decoder, inputs, measured.bool().to(device))


def _residuals(decoder, inputs, measured):
    """[layer][token, d] where `measured` [row, position]."""
    with decoder.lm.trace(inputs, use_cache=False, logits_to_keep=1):
        kept = nnsight.save([block.output[measured] for block in decoder.layers])
    return kept


def replay(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Continuation],
    *,
    batch_size: int = 32,
) -> Iterator[tuple[Batch, Stream]]:
    """Yield each batch with its captured stream; one batch is in memory at a time.

    Give continuations of another model to measure this one under a matched history (teacher forcing).
    """
    batches = replay_batches(prompts, continuations, batch_size, decoder.tokenizer.pad_token_id)
    for batch in tqdm(batches, desc=f"{decoder.variant} measure", disable=None):
        yield batch, capture(decoder, batch)


def narrow(values: Tensor) -> np.ndarray:
    """Return a tensor as a NumPy array of 32 bits an entry."""
    array = values.cpu().numpy()
    return array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
