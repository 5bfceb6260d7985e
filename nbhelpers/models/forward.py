"""One teacher-forced forward over prompt ⊕ continuation, with or without edits, and what it keeps of the residual stream.

No lens, no generation: this module turns ids into tensors [layer, token, d]. The rows are right-padded; under a causal
mask, padding on the right changes nothing to its left (tested against each row alone on all six architectures).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import nnsight
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nbhelpers.models.decoder import Decoder
from nbhelpers.models.edits import Edit, edits_by_layer, visit
from nbhelpers.models.fitting import in_batches
from nbhelpers.models.generation import Continuation, batches_by_length, by_length
from nbhelpers.models.placement import taken
from nbhelpers.models.unembedding import rounding

LAYERED = ("residual", "attention_update", "mlp_output", "mlp_update")  # what a stream holds of every layer


class StreamError(RuntimeError):
    """A residual stream that is not finite, or not the sum of its updates; the message is one sentence."""


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
    """The residual stream at the measured positions of one forward, in the model's dtype, on the unembedding's device.

    `embedding` [token, d] enters block 0. Per layer, [token, d]: `residual` leaves the block, before the final norm;
    `attention_update` and `mlp_update` are what the block adds to the stream; `mlp_output` is what the MLP module returns,
    before the norm that Gemma 3 and OLMo 2 put after it. The updates of a skipped block are zero. `last_residual` [row, d]
    and `last_logits` [row, rows of the unembedding] are those of the last column. `entering` holds whole residuals [row,
    position, d] before the layers where a later forward may resume. The logits are those that the model returns, soft caps
    and factors included.
    """

    embedding: Tensor
    residual: list[Tensor]
    attention_update: list[Tensor]
    mlp_output: list[Tensor]
    mlp_update: list[Tensor]
    last_residual: Tensor
    last_logits: Tensor
    entering: dict[int, Tensor]


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return rows of ids as one array with its mask, [row, position], padded on the right."""
    ids = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.as_tensor(row)
        mask[at, : len(row)] = 1
    return ids, mask


def forced_batch(
    chosen: Sequence[int],
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Continuation],
    pad_id: int,
) -> Batch:
    """Return the batch that forces the chosen continuations after their prompts, measured at every generated token.

    The last generated token is left out of the input: nothing measured depends on it.
    """
    rows = [[*prompts[i], *continuations[i].ids[:-1]] for i in chosen]
    ids, mask = padded(rows, pad_id)
    steps = tuple(range(len(prompts[i]) - 1, len(row)) for i, row in zip(chosen, rows))
    targets = torch.as_tensor([token for i in chosen for token in continuations[i].ids])
    return Batch(np.asarray(chosen), ids, mask, steps, targets)


def replay_batches(
    prompts: Sequence[Sequence[int]], continuations: Sequence[Continuation], batch_size: int, pad_id: int
) -> list[Batch]:
    """Return the batches that force prompts' continuations, rows of like length together."""
    chosen = batches_by_length(forced_rows(prompts, continuations), batch_size)
    return [forced_batch(rows, prompts, continuations, pad_id) for rows in chosen]


def read_batches(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Continuation],
    read: Callable[[Batch], Any],
    *,
    batch_size: int,
    what: str,
) -> Iterator[Any]:
    """Yield what `read` makes of each of `replay_batches`, and of smaller ones where memory does not suffice for it.

    read must leave nothing behind if it fails. what: names it in messages.
    """

    def made(chosen):
        return read(forced_batch(chosen, prompts, continuations, decoder.pad_id))

    order = by_length(forced_rows(prompts, continuations))
    for _, found in in_batches(order, batch_size, made, f"{decoder.name} {what}"):
        yield found


def forced_rows(prompts: Sequence[Sequence[int]], continuations: Sequence[Continuation]) -> list[range]:
    """Return the positions of each row of a forced batch: its prompt and all of its continuation but the last token."""
    return [range(len(p) + len(c.ids) - 1) for p, c in zip(prompts, continuations, strict=True)]


def resume_layer(edits: Sequence[Edit], resume: Stream | None) -> int:
    """Return the first layer that a forward with these edits must compute, 0 without a stream to resume from."""
    kept = resume.entering if resume else {}
    first = min((edit.layer for edit in edits), default=0)
    return max((layer for layer in kept if layer <= first), default=0)


@torch.no_grad()
def forward(
    decoder: Decoder,
    batch: Batch,
    edits: Sequence[Edit] = (),
    *,
    resume: Stream | None = None,
    keep: Sequence[int] = (),
) -> Stream:
    """Return the residual stream of one batch at its measured positions, from a single forward with the edits made.

    batch: ids, mask and measured positions, padded on either side. resume: the stream of an earlier forward of the same
    decoder over the same batch; layers below the first edit are taken from it, from the nearest layer whose entering
    residual it kept, and the result is bitwise what a whole forward gives. keep: the layers at which later forwards may
    resume, those of the first edits. Only the last column goes through the model's own unembedding; with its residual it
    lets the lens check itself against the model (`lens.check_identity`). InterventionError as in `edits.edits_by_layer`;
    StreamError if a measured residual is not finite.
    """
    planned, start = edits_by_layer(edits, decoder.n_layers), resume_layer(edits, resume)
    device, home = decoder.module.device, decoder.home
    where = tuple(index.to(device) for index in batch.where)
    inputs = {"input_ids": batch.input_ids.to(device), "attention_mask": batch.attention_mask.to(device)}
    with decoder.lm.trace(inputs, use_cache=False, logits_to_keep=1):
        kept = nnsight.save({name: [] for name in LAYERED})
        entering = nnsight.save({})
        before = _enter(decoder.layers, start, resume)
        embedding = nnsight.save(taken(before, where, home))
        for layer in range(start, decoder.n_layers):
            if layer in keep:
                entering[layer] = before
            seen = visit(decoder.layers[layer], planned.get(layer, ()))
            for name in LAYERED:
                same = name == "mlp_update" and seen[name] is seen["mlp_output"]
                kept[name].append(kept["mlp_output"][-1] if same else taken(seen[name], where, home))
            before = seen["residual"]
        last_residual = nnsight.save(before[:, -1])
        last_logits = nnsight.save(decoder.lm.output.logits[:, -1])
    stream = Stream(
        embedding, last_residual=last_residual, last_logits=last_logits, entering=entering, **kept
    )
    _check_finite(stream, decoder, start)
    return stream if start == 0 else _joined(resume, stream, start)


def _check_finite(stream, decoder, start):
    """Raise StreamError that names the first layer whose residual is not finite."""
    if stream.residual[-1].isfinite().all():
        return
    first = next(layer for layer, h in enumerate(stream.residual, start) if not h.isfinite().all())
    dtype = str(stream.embedding.dtype).removeprefix("torch.")
    remedy = "check the weights of that layer" if dtype == "float32" else "set dtype to bfloat16 or float32"
    raise StreamError(
        f"the logits of {decoder.name} are not finite (first at layer {first}; {dtype}): {remedy}."
    )


def check_stream(stream: Stream, what: str) -> None:
    """Raise StreamError unless each block's updates add up to its step of the residual stream.

    h_ℓ = h_{ℓ−1} + attention_update_ℓ + mlp_update_ℓ, up to rounding, with the embedding as h_{−1}
    what: names the model in messages. A block that adds its updates in another way (in parallel, scaled, through a further
    norm) fails here, and its δ-cosines, neurons and attributions would be wrong.
    """
    before = [stream.embedding, *stream.residual]
    for layer, (h, after) in enumerate(zip(before, before[1:])):
        added = h.float() + stream.attention_update[layer].float() + stream.mlp_update[layer].float()
        error = ((added - after.float()).norm() / after.float().norm().clamp_min(1e-12)).item()
        if not error <= rounding(after.dtype):
            raise StreamError(
                f"{what}: at layer {layer} the attention and MLP updates do not add up to the residual stream (error "
                f"{error:.2g} of its norm): this kind of block is not known, so the pair cannot be measured."
            )


def _enter(layers, start, resume):
    """The residual that enters layer `start`, with the layers below skipped."""
    if start == 0:
        return layers[0].input
    for layer in range(start):
        layers[layer].skip(resume.entering[start])
    return resume.entering[start]


def _joined(resume, stream, start):
    """A whole stream from the lower layers of one and the upper layers of another."""
    lists = {name: getattr(resume, name)[:start] + getattr(stream, name) for name in LAYERED}
    below = {layer: state for layer, state in resume.entering.items() if layer <= start}
    return replace(stream, embedding=resume.embedding, entering=below | stream.entering, **lists)


@torch.no_grad()
def residuals(
    decoder: Decoder, rows: Sequence[Sequence[int]], *, batch_size: int = 32
) -> Iterator[list[Tensor]]:
    """Yield the residual stream after every block, [layer][token, d], batch by batch of rows of ids.

    Every position counts but each row's first, whose state depends on no context. Rows of like length share a batch, fewer
    where memory does not suffice.
    """
    device, pad_id = decoder.module.device, decoder.pad_id

    def read(chosen):
        ids, mask = padded([rows[i] for i in chosen], pad_id)
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        measured = mask.clone()
        measured[:, 0] = 0
        return _residuals(decoder, inputs, measured.bool().to(device))

    for _, found in in_batches(by_length(rows), batch_size, read, f"{decoder.name} residuals"):
        yield found


def _residuals(decoder, inputs, measured):
    """[layer][token, d] where `measured` [row, position]."""
    with decoder.lm.trace(inputs, use_cache=False, logits_to_keep=1):
        kept = nnsight.save([taken(block.output, (measured,), decoder.home) for block in decoder.layers])
    return kept


def replay(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Continuation],
    *,
    batch_size: int = 32,
    read: Callable[[Batch, Stream], Any] | None = None,
) -> Iterator[Any]:
    """Yield each batch with its captured stream, or what `read` makes of both; one batch at a time is in memory.

    Where memory does not suffice, for `read` too, the batch is smaller. Give continuations of another model to measure
    this one under a matched history (teacher forcing).
    """
    checked = False

    def seen(batch):
        nonlocal checked
        stream = forward(decoder, batch)
        if not checked:
            check_stream(stream, decoder.name)
            checked = True
        return read(batch, stream) if read else (batch, stream)

    options = {"batch_size": batch_size, "what": "measure"}
    found = read_batches(decoder, prompts, continuations, seen, **options)
    yield from tqdm(found, desc=f"{decoder.variant} measure", disable=None)


def narrow(values: Tensor) -> np.ndarray:
    """Return a tensor as a NumPy array of 32 bits an entry."""
    array = values.cpu().numpy()
    return array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
