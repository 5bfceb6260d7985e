"""Phase 1 of exp10: both models read the same ids, IT's chat prompt and IT's reply; their differences and their gaps.

Every array is over tokens, those of all prompts in a row. The last layer is left out of gaps: it is its own final.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nbhelpers.measures import lens, tuned_lens
from nbhelpers.measures.forced_tokens import check_same_ids
from nbhelpers.measures.steps import LENSES
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.forward import check_stream, forced_batch, forward, replay
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt, check_fit, read_as

SPACES = ("residual", "mlp_output")


@dataclass(frozen=True)
class Matched:
    """What two models do on the same ids, at the positions of generated tokens.

    difference: {space: IT − PT, float32 [layer, token, d]}. gap [lens, layer, token]: KL(layer ‖ own final), IT's − PT's,
    nats. prompt, step [token]: which prompt, and which generated token the position reads, from 1. last [token, d]: PT's
    last residual. it_residual [layer, token, d]: IT's residuals, in its dtype.
    """

    difference: dict[str, Tensor]
    gap: np.ndarray
    prompt: np.ndarray
    step: np.ndarray
    last: Tensor
    it_residual: Tensor

    def at(self, tokens: np.ndarray) -> "Matched":
        """Return the same of some tokens, by index."""
        kept = torch.as_tensor(tokens)
        return Matched(
            {space: values[:, kept] for space, values in self.difference.items()},
            self.gap[..., tokens], self.prompt[tokens], self.step[tokens], self.last[kept], self.it_residual[:, kept],
        )  # fmt: skip


def matched_rows(pair: Pair, prompts: Sequence[Prompt], replies: Sequence[Continuation]) -> list[list[int]]:
    """Return the ids of IT's chat turns, once PT is known to read the same tokens by them and by the replies.

    TokenizerError if PT has another token for an id; ParameterError if a prompt and its reply do not fit into PT's context.
    """
    rows = read_as(pair.it, prompts, "chat")
    check_fit(pair.pt, prompts, rows, max(len(reply.ids) for reply in replies))
    check_same_ids(pair.pt.tokenizer, pair.it.tokenizer, [*rows, *(reply.ids for reply in replies)])
    return rows


def kept_steps(batch, per_prompt: int) -> np.ndarray:
    """Return which measured positions of a batch are kept, bool: up to `per_prompt` generated tokens of each."""
    kept, start = np.zeros(len(batch.step_of_step), dtype=bool), 0
    for steps in batch.steps:
        n = len(steps) - 1
        chosen = np.unique(np.linspace(1, n, min(n, per_prompt)).round().astype(int)) if n > 0 else []
        kept[start + np.asarray(chosen, dtype=int)] = True
        start += len(steps)
    return kept


def matched(
    pair: Pair,
    rows: Sequence[Sequence[int]],
    replies: Sequence[Continuation],
    lenses: Mapping[str, tuned_lens.TunedLens],
    *,
    per_prompt: int,
    batch_size: int,
    lens_rows: int,
) -> Matched:
    """Return what both models do after the same ids, `rows` (from `matched_rows`) and then replies.

    lenses: tuned lens by variant. per_prompt: positions kept of each reply. All but the last position of the prompt count,
    as in the study.
    """

    def read(batch, pt):
        it = forward(pair.it, forced_batch(batch.rows, rows, replies, pair.it.pad_id))
        check_stream(it, pair.it.name)
        return _batch(pair, batch, pt, it, lenses, per_prompt, lens_rows)

    parts = list(replay(pair.pt, rows, replies, batch_size=batch_size, read=read))
    order = np.lexsort((np.concatenate([p.step for p in parts]), np.concatenate([p.prompt for p in parts])))
    whole = Matched(
        {space: torch.cat([p.difference[space] for p in parts], 1) for space in SPACES},
        np.concatenate([p.gap for p in parts], -1),
        np.concatenate([p.prompt for p in parts]),
        np.concatenate([p.step for p in parts]),
        torch.cat([p.last for p in parts]),
        torch.cat([p.it_residual for p in parts], 1),
    )
    return whole.at(order)


def _batch(pair, batch, pt, it, lenses, per_prompt, lens_rows) -> Matched:
    """Return one batch's part, from the streams of both models."""
    kept = kept_steps(batch, per_prompt)
    where = torch.as_tensor(np.flatnonzero(kept))
    chosen = {
        space: [torch.stack([h[where.to(h.device)] for h in getattr(s, space)]) for s in (pt, it)]
        for space in SPACES
    }
    difference = {space: b.float().cpu() - a.float().cpu() for space, (a, b) in chosen.items()}
    far = [
        distances(decoder, h, lenses[decoder.variant], lens_rows)
        for decoder, h in zip(pair, chosen["residual"])
    ]
    pt_residual, it_residual = chosen["residual"]
    return Matched(
        difference, far[1] - far[0], batch.row_of_step[kept], batch.step_of_step[kept], pt_residual[-1].float().cpu(),
        it_residual,
    )  # fmt: skip


def distances(decoder: Decoder, residual: Tensor, tuned: tuned_lens.TunedLens, rows: int) -> np.ndarray:
    """Return KL(layer ‖ own final) by the raw and the tuned lens, nats [lens, layer, token]; residual: [layer, token, d]."""
    options = {"metrics": ("kl_layer_final",), "rows": rows}
    read = {
        "raw": lens.lens_metrics(residual, decoder.unembedding, **options),
        "tuned": tuned_lens.metrics(residual, decoder.unembedding, tuned, **options),
    }
    return np.stack([read[name]["kl_layer_final"].cpu().numpy() for name in LENSES]).astype(float)
