"""Edits that differ from row to row of a batch: their own dose, direction and layers in every row, made by plain hooks.

One batch can hold a whole dose sweep, its controls and its baseline. `applied` makes the edits in every forward of a
model, prefill and decode steps alike; `as_edits` gives the same edits to nnsight, for a trace. `folding` writes the same
change into weights. Sums are formed in float32 and cast once, so α = 1 leaves a tensor as it is, bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from nbhelpers.models.decoder import STREAM, Decoder, block_layout
from nbhelpers.models.edits import STEERED, Edit, InterventionError
from nbhelpers.models.placement import device_of
from nbhelpers.models.row_grafts import RowGraft

# What an edit can change: what a module returns, by the names of `decoder.STREAM`, or the stream after the block.
# "attention_output" is what self-attention returns, before the norm that Gemma 3 and OLMo 2 put after it.
PLACES = ("attention_output", "attention_update", "mlp_output", "mlp_update", "residual")
PER_ROW = ("alpha", "direction", "write", "offset", "keep")


@dataclass(frozen=True)
class RowEdit:
    """One change of one tensor h [row, position, d] of one block, with its own strength in every row.

    h' = keep·h + (α − 1)·|d·h|·sgn(w·h)·w + offset, in which w = d unless `write` gives another direction, so that

    - rescaling is h + (α − 1)(d·h)d: 1 is the identity, 0 removes d, −1 reverses it, 2 doubles it;
    - the matched control writes along another unit vector w, by exactly |(α − 1)(d·h)| at every position;
    - adding is `offset`, replacing is keep = 0 with an offset, and skipping is keep = 0.

    alpha, keep: [row]; direction, write: unit vectors [row, d] or [1, d]; offset: [row, d] or [1, d].
    """

    layer: int
    place: str = "mlp_output"
    alpha: Tensor | None = None
    direction: Tensor | None = None
    write: Tensor | None = None
    offset: Tensor | None = None
    keep: Tensor | None = None

    def __post_init__(self):
        """Raise InterventionError for an unknown place, or a dose without a direction."""
        if self.place not in PLACES:
            raise InterventionError(f"A row's edit acts on {', '.join(PLACES)}, not on {self.place!r}.")
        if (self.alpha is None) != (self.direction is None):
            raise InterventionError(f"Layer {self.layer}: a dose needs a direction, and a direction a dose.")

    def of(self, rows: Tensor) -> "RowEdit":
        """Return the edit of some rows, by their indices."""
        values = {name: getattr(self, name) for name in PER_ROW}
        return replace(self, **{n: v[rows] for n, v in values.items() if v is not None and len(v) > 1})

    def on(self, device) -> "RowEdit":
        """Return the edit with its tensors on a device, in float32."""
        values = {name: getattr(self, name) for name in PER_ROW}
        return replace(self, **{n: v.to(device, torch.float32) for n, v in values.items() if v is not None})

    def check(self, decoder: Decoder, n_rows: int) -> None:
        """Raise InterventionError unless the tensors fit the model and the rows."""
        width = decoder.config.hidden_size
        for name in PER_ROW:
            value, own = getattr(self, name), () if name in ("alpha", "keep") else (width,)
            if value is not None and tuple(value.shape) not in ((1, *own), (n_rows, *own)):
                wanted = f"[{n_rows}, {width}]" if own else f"[{n_rows}]"
                raise InterventionError(
                    f"{name} of layer {self.layer} has the shape {list(value.shape)}; this batch needs {wanted}, or one "
                    "entry for all rows."
                )

    def touched(self, n_rows: int) -> Tensor:
        """Return which rows the edit changes, bool [row]."""
        found = torch.zeros(n_rows, dtype=torch.bool)
        for name, neutral in (("alpha", 1), ("keep", 1), ("offset", 0)):
            if (values := getattr(self, name)) is not None:
                found |= (values.reshape(len(values), -1) != neutral).any(1).cpu()
        return found

    def attach(self, block: nn.Module, current: Callable[[], "RowEdit"]) -> Callable[[], None]:
        """Make the edit in every forward of a block; return what takes it out. current: gives the edit of the rows left."""

        def hook(module, inputs, output):
            if isinstance(output, tuple):
                return (changed(output[0], current()), *output[1:])
            return changed(output, current())

        return edited_module(block, self.place).register_forward_hook(hook).remove


RowChange = RowEdit | RowGraft


def check(edit: RowChange, decoder: Decoder, n_rows: int) -> None:
    """Raise InterventionError unless an edit's layer is one of the model and its tensors fit the model and the rows."""
    if not 0 <= edit.layer < decoder.n_layers:
        raise InterventionError(
            f"There is no layer {edit.layer}: this model's are 0 to {decoder.n_layers - 1}."
        )
    edit.check(decoder, n_rows)


def changed(h: Tensor, edit: RowEdit) -> Tensor:
    """Return h' [row, position, d] of a tensor h, in its dtype; see `RowEdit` for the formula."""
    wide = h.float()
    out = wide if edit.keep is None else wide * edit.keep[:, None, None]
    if edit.alpha is not None:
        length = wide @ edit.direction[..., None]  # [row, position, 1]
        write = edit.direction if edit.write is None else edit.write
        if edit.write is not None:
            length = length.abs() * torch.sign(wide @ write[..., None])
        out = torch.addcmul(out, (edit.alpha[:, None, None] - 1) * length, write[:, None])
    if edit.offset is not None:
        out = out + edit.offset[:, None]
    return out.to(h.dtype)


def edited_module(block: nn.Module, place: str) -> nn.Module:
    """Return the module of a block whose output an edit at `place` changes."""
    if place == "residual":
        return block
    if place == "attention_output":
        return block.self_attn
    submodule, side = STREAM[block_layout(block)][place]
    if side != "output":
        raise InterventionError(f"{type(block).__name__} has no output called {place!r}.")
    return getattr(block, submodule)


@dataclass
class Applied:
    """Edits at work: which rows of the batch are left, and how many real positions of each row were edited.

    `rows` [row]: indices of the rows that are still in the batch. `positions` [row]: by index, over all layers alike.
    """

    edits: Sequence[RowChange]
    rows: Tensor
    positions: Tensor
    mask: Tensor | None = None
    current: dict[int, RowChange] = field(default_factory=dict)

    def select(self, left: Tensor) -> None:
        """Leave out rows: `left` [row] are the indices, in the present batch, of those that stay."""
        self.rows = self.rows[left]
        self.current = {i: edit.of(left) for i, edit in self.current.items()}

    def count(self, mask: Tensor) -> None:
        """Count one forward; mask [row, position]: which positions are real."""
        self.positions[self.rows] += mask.sum(1).to(self.positions)


@contextmanager
def applied(decoder: Decoder, edits: Sequence[RowChange], n_rows: int) -> Iterator[Applied]:
    """Make the edits in every forward of a decoder's module within the block; yield their state.

    In a trace of nnsight, `.output` of an edited module is still what it returned before the edit: to read what the edits
    made, capture with hooks, or trace with `as_edits`. InterventionError as in `check`.
    """
    blocks = decoder.stack._module.layers
    for edit in edits:
        check(edit, decoder, n_rows)
    state = Applied(edits, torch.arange(n_rows), torch.zeros(n_rows, dtype=torch.long))
    device = decoder.module.device
    state.current = {i: edit.on(device_of(blocks[edit.layer], device)) for i, edit in enumerate(edits)}
    undo = []
    try:
        for i, edit in enumerate(edits):
            undo.append(edit.attach(blocks[edit.layer], lambda i=i: state.current[i]))
        yield state
    finally:
        for each in reversed(undo):
            each()


def as_edits(edits: Sequence[RowEdit]) -> list[Edit]:
    """Return edits at `mlp_output` or `residual` as nnsight's (`edits.Edit`), for `forward.forward` and `edits.edited`.

    They take the rows of a batch in its order; `generation.generate` puts the longest first. InterventionError for another
    place.
    """

    def made(edit):
        if edit.place not in STEERED:
            raise InterventionError(
                f"In a trace, a row's edit acts on {' or '.join(STEERED)}, not on {edit.place!r}."
            )

        def change(block):
            target = block.mlp if edit.place == "mlp_output" else block
            target.output = changed(target.output, edit.on(target.output.device))

        return Edit(edit.layer, edit.place, change)

    return [made(edit) for edit in edits]


def first_layers(edits: Sequence[RowChange], n_rows: int, n_layers: int) -> Tensor:
    """Return the first layer at which each row is edited, [row]; the last layer for a row that no edit touches."""
    found = torch.full((n_rows,), n_layers - 1)
    for edit in edits:
        touched = edit.touched(n_rows)
        found[touched] = found[touched].clamp_max(edit.layer)
    return found


@torch.no_grad()
def block_outputs(decoder: Decoder, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> list:
    """Return what some blocks return in one forward of rows [row, position], in the order of `layers`: tensors, or tuples."""
    kept, blocks = {}, decoder.stack._module.layers
    handles = [
        blocks[i].register_forward_hook(lambda module, inputs, output, i=i: kept.update({i: output})) for i in layers
    ]  # fmt: skip
    try:
        ids, mask = ids.to(decoder.module.device), mask.to(decoder.module.device)
        decoder.stack._module(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [kept[i] for i in layers]


@contextmanager
def resumed(decoder: Decoder, layer: int, before, times: int) -> Iterator[None]:
    """Leave out the blocks below `layer` within the block: what enters it are the rows of `before`, `times` times over.

    before: what the block below `layer` returned, a tensor or a tuple, as `block_outputs` has it; unused at layer 0.
    """
    blocks = decoder.stack._module.layers[:layer]
    own = [block.__dict__.get("forward") for block in blocks]
    if layer:
        first, rest = (before[0], before[1:]) if isinstance(before, tuple) else (before, None)
        whole = first.repeat(times, 1, 1)
        output = whole if rest is None else (whole, *rest)
    try:
        for block in blocks:
            block.forward = lambda *_, **__: output
        yield
    finally:
        for block, forward in zip(blocks, own):
            if forward is None:
                del block.forward
            else:
                block.forward = forward
