"""What works on one pair of checkpoints, found by trying each part of the package on a few tokens of both models.

The parts are those that an architecture may lack: the lens, the updates, grafts, neurons, attention weights, the weights on
disk, the chat template. Nothing here knows an architecture by name.
"""

from collections.abc import Callable

from nbhelpers.core.params import ModelParams
from nbhelpers.measures import attention_entropy, lens, neurons, weight_change
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.edits import graft
from nbhelpers.models.forward import Batch, Stream, StreamError, check_stream, forward, replay_batches
from nbhelpers.models.generation import Continuation
from nbhelpers.models.loading import paired
from nbhelpers.models.prompts import chat_ids, text_ids
from nbhelpers.models.tokens import check_template
from nbhelpers.models.unembedding import rounding
from nbhelpers.run import checkpoints

TEXT, MESSAGE = "The cat sat on the mat and", "Where did the cat sit?"
# Without these no experiment can run; without the others some of its parts are not measured.
NEEDED = ("loads", "chat template", "lens", "updates", "grafts")


def capabilities(params: ModelParams) -> dict[str, str]:
    """Return {part: why it does not work, in one sentence} for a pair, "" where it works; the pair is loaded for it.

    If it does not load, that is the only part.
    """
    try:
        pair = paired(params)
    except Exception as error:
        return {"loads": checkpoints.sentence(error)}
    return {"loads": ""} | {part: _fault(attempt, pair) for part, attempt in TRIES.items()}


def lacking(found: dict[str, str]) -> list[str]:
    """Return the parts of `capabilities` that do not work and without which no experiment can run."""
    return [part for part in NEEDED if found.get(part)]


def table(found: dict[str, str]) -> list[str]:
    """Return the lines that show what works on a pair and what does not."""
    width = max(map(len, found)) + 2
    return [f"{part.ljust(width)}{why or 'works'}" for part, why in found.items()]


def _fault(attempt: Callable[[Pair], None], pair: Pair) -> str:
    """Return why one part does not work on a pair; "" if it does."""
    try:
        attempt(pair)
    except Exception as error:  # whatever a library raises is the answer
        return checkpoints.sentence(error)
    return ""


def _batch(decoder: Decoder) -> Batch:
    """Return one row of a few tokens, measured at its last positions."""
    ids = text_ids(decoder, TEXT)
    continuation = Continuation(tuple(ids[-3:]), False)
    (batch,) = replay_batches([ids[:-3]], [continuation], 1, decoder.pad_id)
    return batch


def _stream(decoder: Decoder) -> Stream:
    """Return the stream of the probe."""
    return forward(decoder, _batch(decoder))


def _template(pair: Pair) -> None:
    check_template(pair.it.tokenizer, pair.it.name, pair.params.chat)
    for decoder in pair:
        chat_ids(decoder, MESSAGE)


def _lens(pair: Pair) -> None:
    for decoder in pair:
        stream = _stream(decoder)
        lens.check_identity(stream.last_residual, stream.last_logits, decoder.unembedding)


def _updates(pair: Pair) -> None:
    for decoder in pair:
        check_stream(_stream(decoder), decoder.name)


def _grafts(pair: Pair) -> None:
    layers = list(range(pair.n_layers))
    for host, donor in ((pair.pt, pair.it), (pair.it, pair.pt)):
        batch = _batch(host)
        plain = forward(host, batch).last_logits
        own = forward(host, batch, graft(host, layers)).last_logits
        size = (plain.amax() - plain.amin()).clamp_min(1e-6)
        error = ((own - plain).abs().max() / size).item()
        if not error <= rounding(plain.dtype):
            raise PartError(
                f"a graft of a model's own MLPs changes its logits by {error:.2g} of their range."
            )
        try:
            forward(host, batch, graft(donor, layers))
        except StreamError as error:
            raise PartError(f"with the MLPs of {donor.name}, {error}") from None


def _neurons(pair: Pair) -> None:
    for decoder in pair:
        for _ in neurons.neuron_layers(decoder, _stream(decoder)):
            pass


def _attention(pair: Pair) -> None:
    for decoder in pair:
        attention_entropy.last_position_attention(decoder, [text_ids(decoder, TEXT)])


def _weights(pair: Pair) -> None:
    folders = [weight_change.checkpoint_folder(side, pair.key) for side in (pair.params.pt, pair.params.it)]
    next(weight_change.tensor_changes(*folders))  # names and kinds of all tensors, values of the first


class PartError(ValueError):
    """A part that does not work; its message is one sentence."""


TRIES: dict[str, Callable[[Pair], None]] = {
    "chat template": _template,
    "lens": _lens,
    "updates": _updates,
    "grafts": _grafts,
    "neurons": _neurons,
    "attention": _attention,
    "weights": _weights,
}
