"""The same tokens for every condition: batches whose measured steps match, and one forward of each condition.

A reply that one model wrote is forced on all hosts after their own rendering of the prompt, so batches differ in their
prompts and agree in their steps. This module reads nothing out; `matched_prefix` does.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from nbhelpers.measures import delta_cosine, lens
from nbhelpers.models.conditions import Condition, condition_edits
from nbhelpers.models.decoder import Pair
from nbhelpers.models.forward import Batch, Stream, forced_batch, forward
from nbhelpers.models.generation import Continuation, by_length
from nbhelpers.models.tokens import TokenizerError


def check_same_ids(pt, it, rows: Sequence[Sequence[int]]) -> None:
    """Raise TokenizerError unless both tokenizers have one token for every id in rows; it names the first that differs.

    An id that only IT's tokenizer knows, such as the end of a turn, is no conflict: `loading.load_pair` saw to it.
    """
    used = list(dict.fromkeys(index for row in rows for index in row))
    ours, theirs = pt.convert_ids_to_tokens(used), it.convert_ids_to_tokens(used)
    for index, our, their in zip(used, ours, theirs):
        if our is not None and our != their:
            raise TokenizerError(
                f"id {index} is {our!r} to the PT tokenizer and {their!r} to IT's, so both models cannot be forced "
                "through the same ids: use a pair that shares one tokenizer."
            )


def matched_order(
    prompts: Mapping[str, Sequence[Sequence[int]]], continuations: Sequence[Continuation]
) -> np.ndarray:
    """Return the indices of the prompts, those with the longest rendering and reply first."""
    longest = [max(map(len, both)) for both in zip(*prompts.values(), strict=True)]
    return by_length([range(long + len(c.ids)) for long, c in zip(longest, continuations, strict=True)])


def matched_batch(
    chosen: Sequence[int],
    prompts: Mapping[str, Sequence[Sequence[int]]],
    continuations: Sequence[Continuation],
    pad_id: int,
) -> dict[str, Batch]:
    """Return {"raw", "chat": batch} whose measured positions are the same steps in the same order, right-padded.

    prompts: ids of each prompt, by rendering. The last forced token is left out of the input: nothing depends on it.
    """
    return {name: forced_batch(chosen, ids, continuations, pad_id) for name, ids in prompts.items()}


def streams(
    pair: Pair, batch: Mapping[str, Batch], conditions: Sequence[Condition], seed: int = 0
) -> Iterator[tuple[Condition, Stream]]:
    """Yield each condition with its stream, baselines first, one forward each, every other one resumed from its baseline.

    The lens of a baseline is checked against its model's own logits (`lens.LensError`).
    """
    found = {}
    for condition in sorted(conditions, key=lambda c: c.name != c.baseline):
        host, edits = getattr(pair, condition.host), condition_edits(condition, pair, seed)
        starts = [min(c.layers) for c in conditions if c.baseline == condition.name and c.layers]
        keep = starts if condition.name == condition.baseline else ()
        stream = forward(
            host, batch[condition.prompt_format], edits, resume=found.get(condition.baseline), keep=keep
        )
        if condition.name == condition.baseline:
            lens.check_identity(stream.last_residual, stream.last_logits, host.unembedding)
            found[condition.name] = stream
        yield condition, stream


def shape_of(stream: Stream) -> dict[str, Tensor]:
    """Return `delta_cosine.stream_geometry` of a stream: cosines and norms of what each block, attention and MLP adds."""
    updates = stream.attention_update, stream.mlp_update
    return delta_cosine.stream_geometry(stream.embedding, stream.residual, *updates)
