"""Arms of a steering run: each says which host, where, along which vector and how much; many become edits by row.

This module runs no model. `measures/steering` decodes and forces arms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nbhelpers.core.params import NATIVE
from nbhelpers.models.conditions import OTHER, shuffled
from nbhelpers.models.decoder import Pair
from nbhelpers.models.edits import scrambling
from nbhelpers.models.row_edits import RowEdit
from nbhelpers.models.row_grafts import RowGraft, Source

GRAFTS = ("graft", "permuted", "scrambled", "self")
CHANGES = ("none", "rescale", "matched", "add", "mean", "zero", "skip", *GRAFTS)


class SteeringError(ValueError):
    """Arms that cannot be run, or that do not do what they say; the message is one sentence."""


@dataclass(frozen=True)
class Arm:
    """One condition: a host, a prompt format, and one change of some layers.

    change: "none"; "rescale" h + (α − 1)(d·h)d; "matched" the same length along the unit vector `write` instead of d; "add"
    h + dose · v with the vector v itself, not its unit; "mean" puts the vector v in place of h; "zero" zero; "skip" makes the
    blocks the identity (both their updates are zero). "graft" puts the other model's MLPs in place of the host's, "permuted"
    those of the same layers in random order, "scrambled" changes the MLP outputs as much in no direction of use
    (`edits.scramble`), "self" the host's own MLPs, which changes nothing. vector: the key of d or v among the vectors of
    the run. dose: α of "rescale" and "matched" (1 is the identity), the factor of "add" (0 is the identity); without meaning
    for the others.
    """

    name: str
    host: str = "it"
    prompt_format: str = ""
    change: str = "none"
    layers: tuple[int, ...] = ()
    place: str = "mlp_output"
    vector: str = "mean"
    write: str = ""
    dose: float = 1.0

    def __post_init__(self):
        """Raise SteeringError for an unknown change, or a change without layers."""
        if self.change not in CHANGES:
            raise SteeringError(
                f"Arm {self.name}: the change {self.change!r} is none of {', '.join(CHANGES)}."
            )
        if self.change != "none" and not self.layers:
            raise SteeringError(f"Arm {self.name}: the change {self.change!r} needs layers.")
        if (self.change == "matched") != bool(self.write):
            raise SteeringError(
                f"Arm {self.name}: a matched control, and nothing else, writes along another vector."
            )

    @property
    def format(self) -> str:
        """The prompt format: the given one, else the host's own."""
        return self.prompt_format or NATIVE[self.host]

    @property
    def identity(self) -> bool:
        """Whether the arm must leave its host as it is."""
        neutral = {"rescale": 1.0, "matched": 1.0, "add": 0.0}
        return self.change in ("none", "self") or neutral.get(self.change) == self.dose


# name → [layer, d], or [layer, k, d] of k orthonormal rows: "rescale" acts along one after another, so on their span
Vectors = Mapping[str, np.ndarray]


def _rank(vectors: Vectors, arm: Arm) -> int:
    """Return along how many vectors an arm rescales a layer: one, or k of a subspace."""
    subspace = arm.change == "rescale" and np.ndim(vectors.get(arm.vector)) == 3
    return vectors[arm.vector].shape[1] if subspace else 1


def _unit(vectors: Vectors, arm: Arm, key: str, layer: int, component: int = 0) -> np.ndarray:
    """Return the unit vector of a key at a layer, of a subspace one component; SteeringError if there is none."""
    vector = _vector(vectors, arm, key, layer)
    vector = vector[component] if vector.ndim == 2 else vector
    length = np.linalg.norm(vector)
    if not length > 0:
        raise SteeringError(f"Arm {arm.name}: the vector {key!r} is zero at layer {layer}.")
    return vector / length


def _vector(vectors: Vectors, arm: Arm, key: str, layer: int) -> np.ndarray:
    """Return the vector of a key at a layer as it is; SteeringError if there is none."""
    if key not in vectors:
        raise SteeringError(
            f"Arm {arm.name}: there is no vector {key!r} among {', '.join(map(str, vectors))}."
        )
    return np.asarray(vectors[key][layer], dtype=float)


def row_edits(arms: Sequence[Arm], vectors: Vectors, width: int) -> list[RowEdit]:
    """Return the edits of a batch with one row an arm; repeat them by `RowEdit.of` for more rows of each.

    Rows that an arm does not touch at a layer have dose 1, keep 1 and offset 0 there. width: d of the model.
    """
    found = []
    sites = sorted({(layer, place) for arm in arms for layer in arm.layers for place in _places(arm)})
    for layer, place in sites:
        here = [layer in arm.layers and place in _places(arm) for arm in arms]
        for component in range(max(_rank(vectors, arm) for arm in arms)):
            deep = [touched and component < _rank(vectors, arm) for touched, arm in zip(here, arms)]
            if any(deep):
                found.append(_site(arms, deep, vectors, layer, place, width, component))
    return found


def row_grafts(arms: Sequence[Arm], pair: Pair, *, seed: int = 0) -> list[RowGraft]:
    """Return the grafts of a batch with one row an arm, all of one host; none if no arm is a graft.

    seed: of the random order of "permuted" and of "scrambled". InterventionError as in `conditions.shuffled`.
    """
    found = []
    for layer in sorted({layer for arm in arms if arm.change in GRAFTS for layer in arm.layers}):
        sources, which = {}, torch.full((len(arms),), -1)
        for i, arm in enumerate(arms):
            if arm.change in GRAFTS and layer in arm.layers:
                key = arm.change, _donor_layer(arm, layer, seed)
                sources.setdefault(key, (len(sources), _source(arm, pair, *key, seed)))
                which[i] = sources[key][0]
        found.append(RowGraft(layer, tuple(source for _, source in sources.values()), which))
    return found


def _donor_layer(arm: Arm, layer: int, seed: int) -> int:
    """Return which layer of the donor stands at a layer of the host."""
    return dict(zip(arm.layers, shuffled(arm.layers, seed)))[layer] if arm.change == "permuted" else layer


def _source(arm: Arm, pair: Pair, change: str, layer: int, seed: int) -> Source:
    """Return what stands in place of the host's MLP: that of a layer of the donor, or a control."""
    donor = getattr(pair, arm.host if change == "self" else OTHER[arm.host])
    mlp = donor.stack._module.layers[layer].mlp
    return (
        Source(mlp, *scrambling(donor.config.hidden_size, layer, seed))
        if change == "scrambled"
        else Source(mlp)
    )


def _places(arm: Arm) -> tuple[str, ...]:
    """Return where an arm edits activations; skipping a block silences both of its updates."""
    if arm.change in GRAFTS:
        return ()
    return ("attention_update", "mlp_update") if arm.change == "skip" else (arm.place,)


def _site(arms, here, vectors, layer: int, place: str, width: int, component: int) -> RowEdit:
    """Return the edit of one layer and place for all arms, with only the tensors that some arm needs."""
    n = len(arms)
    alpha, keep = np.ones(n), np.ones(n)
    direction, write, offset = (np.zeros((n, width)) for _ in range(3))
    for i, (arm, touched) in enumerate(zip(arms, here)):
        if not touched or arm.change == "none":
            continue
        if arm.change in ("rescale", "matched"):
            alpha[i] = arm.dose
            direction[i] = _unit(vectors, arm, arm.vector, layer, component)
            write[i] = _unit(vectors, arm, arm.write, layer) if arm.write else direction[i]
        elif arm.change == "add":
            offset[i] = arm.dose * _vector(vectors, arm, arm.vector, layer)
        else:
            keep[i] = 0.0
            offset[i] = _vector(vectors, arm, arm.vector, layer) if arm.change == "mean" else 0.0
    return RowEdit(
        layer,
        place,
        alpha=_tensor(alpha) if (alpha != 1).any() else None,
        direction=_tensor(direction) if (alpha != 1).any() else None,
        write=_tensor(write) if (alpha != 1).any() and (write != direction).any() else None,
        offset=_tensor(offset) if offset.any() else None,
        keep=_tensor(keep) if (keep != 1).any() else None,
    )


def _tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)
