"""Grafts that differ from row to row of a batch: each MLP runs on its own rows, and what it returns goes back to them.

Rows of one prompt under several grafts, and its ungrafted baseline, decode together. `row_edits.applied` makes these
grafts as it makes other edits by row. A host's MLP that no row uses is not computed, nor is a donor's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import torch
from torch import Tensor, nn

from nbhelpers.models.decoder import Decoder
from nbhelpers.models.edits import InterventionError
from nbhelpers.models.placement import through


@dataclass(frozen=True)
class Source:
    """What stands in place of a host's MLP H: the donor's MLP D, or the control that changes H's output as much.

    With `order` and `signs` [d] (`edits.scrambling`) the output is H(x) + signs · (D(x) − H(x))[order], whose distance from
    H(x) is the donor's.
    """

    donor: nn.Module
    order: Tensor | None = None
    signs: Tensor | None = None

    def __call__(
        self, x: Tensor, own: Callable[[Tensor], Tensor], known: Mapping = MappingProxyType({})
    ) -> Tensor:
        """Return the output for x [row, position, d]; own: the host's MLP; known: what to call for some donors."""
        call = known.get(self.donor)
        made = call(x) if call else through(self.donor, x)
        if self.order is None:
            return made
        h = own(x)
        return h + (made - h)[..., self.order.to(h.device)] * self.signs.to(h)


@dataclass(frozen=True)
class RowGraft:
    """What stands in place of one block's MLP: `which` [row] is an index into `sources`, or −1 for the host's own."""

    layer: int
    sources: tuple[Source, ...]
    which: Tensor

    def of(self, rows: Tensor) -> "RowGraft":
        """Return the graft of some rows, by their indices."""
        return replace(self, which=self.which[rows])

    def on(self, device) -> "RowGraft":
        """Return the graft as it is: the donor's weights stay where they are."""
        return self

    def check(self, decoder: Decoder, n_rows: int) -> None:
        """Raise InterventionError unless each row names a source or the host's own MLP."""
        if tuple(self.which.shape) != (n_rows,):
            raise InterventionError(
                f"The graft of layer {self.layer} names the donors of {len(self.which)} rows; this batch has {n_rows}."
            )
        if not ((self.which >= -1) & (self.which < len(self.sources))).all():
            raise InterventionError(
                f"The graft of layer {self.layer} names a donor beyond its {len(self.sources)}."
            )

    def touched(self, n_rows: int) -> Tensor:
        """Return which rows have another MLP than the host's own, bool [row]."""
        return self.which >= 0

    def attach(self, block: nn.Module, current: Callable[[], "RowGraft"]) -> Callable[[], None]:
        """Put the graft in place of a block's MLP; return what takes it out. current: gives the graft of the rows left."""
        mlp = block.mlp
        own, before = mlp.forward, mlp.__dict__.get("forward")
        # A block's own MLP as its donor is called by its forward as it was, not by the one that is put here.
        mlp.forward = lambda x: current().output(x, own, {mlp: own})

        def undo():
            if before is None:
                del mlp.forward
            else:
                mlp.forward = before

        return undo

    @cached_property
    def parts(self) -> list[tuple[int, Tensor]]:
        """The sources in use, each with its rows: [(index or −1, [row])]."""
        return [(int(k), (self.which == k).nonzero()[:, 0]) for k in self.which.unique()]

    def output(
        self, x: Tensor, own: Callable[[Tensor], Tensor], known: Mapping = MappingProxyType({})
    ) -> Tensor:
        """Return what stands in place of the MLP's output, [row, position, d]; own, known: as of `Source`."""

        def one(k, rows):
            return own(rows) if k < 0 else self.sources[k](rows, own, known)

        if len(self.parts) == 1:
            return one(self.parts[0][0], x)
        out = torch.empty_like(x)
        for k, rows in self.parts:
            rows = rows.to(x.device)
            out[rows] = one(k, x[rows])
        return out
