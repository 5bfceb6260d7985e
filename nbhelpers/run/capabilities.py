"""What works on one pair of checkpoints, found by trying each part of the package on a few tokens of both models.

The parts are those that an architecture may lack: the lens, the updates, grafts, neurons, attention weights, the weights on
disk, the chat template. Nothing here knows an architecture by name.
"""

from collections.abc import Callable

import torch

from nbhelpers.core.params import ModelParams
from nbhelpers.measures import attention_entropy, lens, neurons, weight_change
from nbhelpers.models.decoder import Decoder, Pair, load_pair
from nbhelpers.models.edits import graft
from nbhelpers.models.forward import Batch, Stream, forward, replay_batches
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import chat_ids, text_ids

TEXT, MESSAGE = "The cat sat on the mat and", "Where did the cat sit?"
# Without these no experiment can run; without the others some of its parts are not measured.
NEEDED = ("loads", "chat template", "lens", "updates", "grafts")


def capabilities(params: ModelParams) -> dict[str, str]:
    """Return {part: why it does not work, in one sentence} for a pair, "" where it works; the pair is loaded for it."""
    try:
        pair = load_pair(params)
    except Exception as error:
        return {"loads": sentence(error)} | dict.fromkeys(TRIES, "not tried, since the pair does not load.")
    return {"loads": ""} | {part: _fault(attempt, pair) for part, attempt in TRIES.items()}


def lacking(found: dict[str, str]) -> list[str]:
    """Return the parts of `capabilities` that do not work and without which no experiment can run."""
    return [part for part in NEEDED if found[part]]


def table(found: dict[str, str]) -> list[str]:
    """Return the lines that show what works on a pair and what does not."""
    width = max(map(len, found)) + 2
    return [f"{part.ljust(width)}{why or 'works'}" for part, why in found.items()]


def sentence(error: Exception) -> str:
    """Return an error's message as one line; the error's own words if they are the package's, else with its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    ours = type(error).__module__.startswith("nbhelpers.")
    # nnsight shows a whole traceback, whose last line is the message.
    text = lines[-1 if "Traceback" in lines[0] else 0] if lines else ""
    kind = type(error).__name__
    return text if ours or text.startswith(f"{kind}:") else f"{kind}: {text}".rstrip(": ")


def _fault(attempt: Callable[[Pair], None], pair: Pair) -> str:
    """Return why one part does not work on a pair; "" if it does."""
    try:
        attempt(pair)
    except Exception as error:  # whatever a library raises is the answer
        return sentence(error)
    return ""


def _batch(decoder: Decoder) -> Batch:
    """Return one row of a few tokens, measured at its last two positions."""
    ids = text_ids(decoder, TEXT)
    continuation = Continuation(tuple(ids[-2:]), False)
    (batch,) = replay_batches([ids[:-1]], [continuation], 1, decoder.tokenizer.pad_token_id)
    return batch


def _stream(decoder: Decoder) -> Stream:
    """Return the stream of the probe."""
    return forward(decoder, _batch(decoder))


def _template(pair: Pair) -> None:
    if not pair.it.tokenizer.chat_template:
        raise PartError(
            "IT's tokenizer has no chat template: put a chat_template.jinja beside its tokenizer.json."
        )
    if not chat_ids(pair.it, MESSAGE):
        raise PartError("IT's chat template renders a message to nothing.")


@torch.no_grad()
def _lens(pair: Pair) -> None:
    for decoder in pair:
        batch = _batch(decoder)
        # The model's own forward, so that whatever it does to its logits counts.
        logits = decoder.module(batch.input_ids.to(decoder.module.device), use_cache=False).logits
        lens.check_identity(forward(decoder, batch).last_residual, logits[:, -1], decoder.unembedding)


def _updates(pair: Pair) -> None:
    for decoder in pair:
        stream, total = _stream(decoder), None
        for layer in range(decoder.n_layers):
            before = stream.embedding if total is None else stream.residual[layer - 1]
            total = before + stream.attention_update[layer] + stream.mlp_update[layer]
            error = ((total - stream.residual[layer]).norm() / stream.residual[layer].norm()).item()
            if not error <= (1e-4 if total.dtype == torch.float32 else 0.02):
                raise PartError(
                    f"the updates of layer {layer} do not add up to the residual stream (error {error:.2g} of its "
                    "length), so their cosines are not those of this model."
                )


def _grafts(pair: Pair) -> None:
    layers = list(range(pair.n_layers))
    for host, donor in ((pair.pt, pair.it), (pair.it, pair.pt)):
        batch = _batch(host)
        plain = forward(host, batch).last_logits
        own = forward(host, batch, graft(host, layers)).last_logits
        size = (plain.amax() - plain.amin()).clamp_min(1e-6)
        error = ((own - plain).abs().max() / size).item()
        if not error <= (1e-4 if plain.dtype == torch.float32 else 0.03):
            raise PartError(
                f"a graft of a model's own MLPs changes its logits by {error:.2g} of their range."
            )
        if not forward(host, batch, graft(donor, layers)).last_logits.isfinite().all():
            raise PartError("a graft of the other model's MLPs gives logits that are not finite.")


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
