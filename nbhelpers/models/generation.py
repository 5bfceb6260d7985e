"""Greedy generation, batched and left-padded, with a KV cache; `models/forward` measures afterwards, in one forced pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm
from transformers import GenerationConfig

from nbhelpers.core.params import ParameterError
from nbhelpers.models.decoder import Decoder
from nbhelpers.models.fitting import in_batches


@dataclass(frozen=True)
class Continuation:
    """The ids that a model generated after a prompt (the stop token included) and whether it stopped by itself."""

    ids: tuple[int, ...]
    stopped: bool


def left_pad(rows: Sequence[Sequence[int]], pad_id: int, device=None) -> dict[str, torch.Tensor]:
    """Return input ids and attention mask [row, longest], padded on the left."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.as_tensor(row)
        mask[i, width - len(row) :] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def batches_by_length(rows: Sequence[Sequence[int]], batch_size: int) -> list[np.ndarray]:
    """Return the row indices of each batch; rows of similar length go together, longest first, to save padding."""
    order = by_length(rows)
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def by_length(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the indices of rows, longest first."""
    return np.argsort([-len(row) for row in rows], kind="stable")


def cut_at_stop(ids: Sequence[int], stops: Sequence[int]) -> Continuation:
    """Return the continuation up to and including its first stop token."""
    for i, token in enumerate(ids):
        if token in stops:
            return Continuation(tuple(ids[: i + 1]), True)
    return Continuation(tuple(ids), False)


def clean_settings(decoder: Decoder, max_new_tokens: int) -> GenerationConfig:
    """Return the settings of greedy decoding for a model, free of those that its checkpoint brings along.

    `transformers` fills what is left open from the model's own configuration, so that is emptied but for the stop ids.
    """
    module = decoder.module
    module.generation_config = GenerationConfig(eos_token_id=module.generation_config.eos_token_id)
    unreal = np.flatnonzero(~decoder.real_tokens).tolist()
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        suppress_tokens=unreal or None,
        eos_token_id=list(decoder.stop_ids),
        pad_token_id=decoder.pad_id,
    )


@torch.no_grad()
def generate(
    decoder: Decoder, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, batch_size: int = 32
) -> list[Continuation]:
    """Return the greedy continuation of each prompt, in the order of the prompts.

    prompts: ids of each prompt, already rendered (`prompts.render`); max_new_tokens: cap on generated tokens, the stop
    token included; batch_size: rows decoded together, fewer where memory does not suffice. Rows are left-padded with an
    attention mask, from which `transformers` derives position ids, so batching does not change a row's tokens. Unreal
    vocabulary rows are never chosen. Nothing else of a checkpoint's generation_config is obeyed but its stop ids, so each
    token is the arg max of the model's own logits. ParameterError if a prompt and its continuation do not fit into the
    model's context.
    """
    longest = max(map(len, prompts), default=0)
    if decoder.context and longest + max_new_tokens > decoder.context:
        raise ParameterError(
            f"{decoder.name}: a prompt of {longest} tokens and {max_new_tokens} new ones do not fit into its context of "
            f"{decoder.context}: shorten the prompt or lower max_new_tokens."
        )
    settings = clean_settings(decoder, max_new_tokens)
    results: list[Continuation | None] = [None] * len(prompts)

    def written(batch):
        inputs = left_pad([prompts[i] for i in batch], decoder.pad_id, decoder.module.device)
        output = decoder.lm.generate(inputs, generation_config=settings)
        return output[:, inputs["input_ids"].shape[1] :].tolist()

    batches = in_batches(by_length(prompts), batch_size, written, f"{decoder.name} generate")
    for batch, rows in tqdm(batches, desc=f"{decoder.variant} generate", disable=None):
        for i, row in zip(batch, rows):
            results[i] = cut_at_stop(row, decoder.stop_ids)
    return results
