"""Interventions in one forward: graft another model's MLPs, skip a layer, steer an activation, resume from a layer.

An `Edit` is one change at one place of one block; a list of edits is an intervention, and `+` of two lists their
composition. What an edit replaces is never computed: a graft skips the host's own MLP. `models/forward` makes them in a
single trace, `edited` in every trace of a decoder. This module knows nothing of lenses, prompts or experiments.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nbhelpers.models.decoder import Decoder, mlp_norms, residual_multiplier, stream_tensor
from nbhelpers.models.placement import through

SCOPES = ("mlp", "block")
# Where an edit can act, in the order of the forward pass: instead of the block, instead of its MLP, on what the MLP
# returns, instead of the norm behind it, on the residual stream after the block.
PLACES = ("block", "mlp", "mlp_output", "mlp_norm", "residual")
STEERED = ("mlp_output", "residual")


class InterventionError(ValueError):
    """An intervention that cannot be made; the message is one sentence."""


@dataclass(frozen=True)
class Edit:
    """One change at one place (`PLACES`) of one block; `change` takes the block's envoy inside a trace."""

    layer: int
    place: str
    change: Callable[[Any], None]


def graft(
    donor: Decoder, layers: Sequence[int], *, scope: str = "mlp", donor_layers: Sequence[int] | None = None
) -> list[Edit]:
    """Return the edits that put the donor's MLPs in place of the host's at `layers`, at every position.

    scope "mlp": the donor's MLP reads what the host's would have read, and any norm behind it stays the host's (the
    graft of the study). "block": the donor's norms around it are used too. Of DeepSeek-V2 the whole MoE block moves, its
    router included. donor_layers: which donor layer goes where, by default the same one. InterventionError for another
    scope or another number of donor layers.
    """
    if scope not in SCOPES:
        raise InterventionError(f"The graft's scope is {scope!r}; choose from {', '.join(SCOPES)}.")
    sources = list(layers if donor_layers is None else donor_layers)
    if len(sources) != len(layers):
        raise InterventionError(
            f"{len(layers)} layers cannot take {len(sources)} donor layers: give as many."
        )
    if scope == "mlp":
        return [Edit(at, "mlp", _graft_mlp(donor, source)) for at, source in zip(layers, sources)]
    changes = {"mlp": _graft_block, "mlp_norm": _graft_norm}
    return [
        Edit(at, place, change(donor, source))
        for at, source in zip(layers, sources)
        for place, change in changes.items()
    ]


def _graft_mlp(donor, source):
    def change(block):
        block.mlp.skip(through(donor.layers[source].mlp, block.mlp.input))

    return change


def _graft_block(donor, source):
    def change(block):
        theirs = donor.layers[source]
        before, _ = mlp_norms(theirs)
        middle = stream_tensor(block, "residual_mid")
        block.mlp.skip(through(theirs.mlp, middle if before is None else through(before, middle)))

    return change


def _graft_norm(donor, source):
    def change(block):
        (_, own_after), (_, after) = mlp_norms(block), mlp_norms(donor.layers[source])
        if own_after is not None:
            own_after.skip(through(after, block.mlp.output))  # steered, if it was

    return change


def scramble(donor: Decoder, layers: Sequence[int], *, seed: int = 0) -> list[Edit]:
    """Return the edits that change the host's MLP outputs at `layers` as much as the donor would, in no direction of use.

    A control for `graft`: the donor's change D(x) − H(x) of every MLP output is added after one random permutation of its
    coordinates with random signs, drawn once a layer. This map is orthogonal, so at every position the change of the
    output has exactly the donor's norm (which a norm behind the MLP may change), and the same input gets the same
    change. Both MLPs are computed. seed: of the draws.
    """
    return [Edit(layer, "mlp", _scrambled(donor, layer, seed)) for layer in layers]


def scrambling(width: int, layer: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the random order and signs of coordinates, [d] each, by which `scramble` moves a change at a layer."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + layer)
    order = torch.randperm(width, generator=generator)
    return order, 2.0 * torch.randint(2, (width,), generator=generator) - 1


def _scrambled(donor, layer, seed):
    order, signs = scrambling(donor.config.hidden_size, layer, seed)

    def change(block):
        x = block.mlp.input
        own = block.mlp.output
        delta = through(donor.layers[layer].mlp, x) - own
        block.mlp.output = own + delta[..., order.to(own.device)] * signs.to(own)

    return change


def skip(layers: Sequence[int]) -> list[Edit]:
    """Return the edits that make whole blocks the identity; they are not computed.

    In generation with a KV cache, never skip layer 0: `transformers` sizes the padding mask by that layer's cache.
    """
    return [Edit(layer, "block", lambda block: block.skip(block.input)) for layer in layers]


def steer(
    layers: Sequence[int], change: Callable[[Tensor], Tensor], *, place: str = "residual"
) -> list[Edit]:
    """Return the edits that put `change` of a tensor [row, position, d] in its place.

    place "residual": the stream after the block; "mlp_output": what its MLP returns, grafted or its own. `along` makes
    the usual change. InterventionError for another place.
    """
    if place not in STEERED:
        raise InterventionError(f"Steering acts on {' or '.join(STEERED)}, not on {place!r}.")

    def steered(block):
        target = block.mlp if place == "mlp_output" else block
        target.output = change(target.output)

    return [Edit(layer, place, steered) for layer in layers]


def along(direction: Tensor, alpha: float) -> Callable[[Tensor], Tensor]:
    """Return h ↦ h + (α − 1)(d·h) d for the unit vector d of `direction` [d]: 1 is the identity, 0 removes d from h."""
    unit = direction / direction.norm()
    return lambda h: h + (alpha - 1) * (h @ unit.to(h))[..., None] * unit.to(h)


def edits_by_layer(edits: Sequence[Edit], n_layers: int) -> dict[int, list[Edit]]:
    """Return the edits of each layer, in the order of the forward pass.

    InterventionError for a layer that the model lacks, for two edits in place of one module, and for any edit inside a
    skipped block.
    """
    found = defaultdict(list)
    for edit in sorted(edits, key=lambda edit: PLACES.index(edit.place)):
        if not 0 <= edit.layer < n_layers:
            raise InterventionError(f"There is no layer {edit.layer}: this model's are 0 to {n_layers - 1}.")
        if found[edit.layer] and (
            found[edit.layer][0].place == "block" or edit.place == found[edit.layer][-1].place == "mlp"
        ):
            raise InterventionError(
                f"Layer {edit.layer} is replaced twice: skip it, or graft once, or steer what it computes."
            )
        found[edit.layer].append(edit)
    return dict(found)


def _make(block, edits, places):
    for edit in edits:
        if edit.place in places:
            edit.change(block)


def visit(block, edits: Sequence[Edit] = ()) -> dict[str, Tensor]:
    """Return what one block does to the stream, {name: [row, position, d]}, inside a trace with edits made.

    Names: `attention_update`, `mlp_output`, `mlp_update` and `residual`, as in `forward.Stream`. Visit blocks in the order
    of the forward pass, each once.
    """
    if edits and edits[0].place == "block":
        before = block.input
        edits[0].change(block)
        nothing = torch.zeros_like(before)
        return {"attention_update": nothing, "mlp_output": nothing, "mlp_update": nothing, "residual": before}
    attention_update = stream_tensor(block, "attention_update")
    _make(block, edits, ("mlp", "mlp_output"))
    mlp_output = stream_tensor(block, "mlp_output")
    _make(block, edits, ("mlp_norm",))
    # Without a norm or a factor behind the MLP, both names stand for one tensor.
    same = mlp_norms(block)[1] is None and residual_multiplier(block) == 1
    mlp_update = mlp_output if same else stream_tensor(block, "mlp_update")
    _make(block, edits, ("residual",))
    return {
        "attention_update": attention_update,
        "mlp_output": mlp_output,
        "mlp_update": mlp_update,
        "residual": block.output,
    }


def edited(decoder: Decoder, edits: Sequence[Edit]) -> Decoder:
    """Return a decoder whose every trace and every generated token runs with the edits made; the original stays as it is.

    For free-running generation (`generation.generate`). A block that is skipped writes no KV cache: see `skip`.
    """
    # The loop over all steps ends where generation does; nnsight tells of it on every call.
    warnings.filterwarnings("ignore", message="(?s).*was never reached: the loop asked for a step")
    planned = edits_by_layer(edits, decoder.n_layers)
    with decoder.lm.edit() as (tracer, view):
        changed = replace(decoder, lm=view)
        for _ in tracer.all():
            for layer, here in sorted(planned.items()):
                for edit in here:
                    edit.change(changed.layers[layer])
    return replace(decoder, lm=view)
