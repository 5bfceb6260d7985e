"""Conditions: which MLPs of a host model are replaced, by what, under which prompt.

A `Condition` describes a hybrid of a pair; `condition_edits` returns the edits that make it. The eight symmetric
conditions, the template branch, controls and sliding windows are lists of conditions. Join lists with
`dict.fromkeys`, which drops repeats. This module runs no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nbhelpers.core import depths
from nbhelpers.models.decoder import Pair
from nbhelpers.models.edits import Edit, InterventionError, graft, scramble

CONTROLS = ("graft", "block", "self", "permuted", "scrambled")
OTHER = {"pt": "it", "it": "pt"}
# The teacher: the unmodified model on its own history. Every condition's layers are compared with the teacher's.
TEACHER = {"it": "C", "pt": "A'"}


@dataclass(frozen=True)
class Condition:
    """A host model that is given a prompt and the teacher's tokens, with the MLPs of some layers replaced.

    host: "pt" or "it". prompt_format: "raw" (PT's plain text) or "chat" (IT's chat turn). baseline: name of the condition
    with the same host and prompt and no replaced MLP. window: name of `layers`. control: what replaces the MLPs, see
    `condition_edits`.
    """

    name: str
    host: str
    prompt_format: str
    baseline: str
    window: str = ""
    layers: tuple[int, ...] = ()
    control: str = "graft"


BASELINES = (Condition("C", "it", "chat", "C"), Condition("A'", "pt", "raw", "A'"))
TEMPLATE = Condition("A'_tmpl", "pt", "chat", "A'_tmpl")


def swaps(windows: Mapping[str, Sequence[int]], control: str = "graft") -> list[Condition]:
    """Return the conditions B_<window> (IT's MLPs in PT) of all windows, then D_<window> (PT's MLPs in IT).

    The name of a control is appended, as in "B_late_permuted".
    """
    mark = "" if control == "graft" else f"_{control}"
    return [
        Condition(f"{letter}_{name}{mark}", host, prompt, baseline, name, tuple(layers), control)
        for letter, host, prompt, baseline in (("B", "pt", "raw", "A'"), ("D", "it", "chat", "C"))
        for name, layers in windows.items()
    ]


def symmetric_conditions(n_layers: int) -> list[Condition]:
    """Return the eight symmetric conditions: C, A', and B and D with the early, mid and late windows."""
    return [*BASELINES, *swaps(depths.windows(n_layers))]


def study_conditions(n_layers: int) -> list[Condition]:
    """Return the eight `symmetric_conditions` and the template branch: A'_tmpl, and B2, its late graft.

    In A'_tmpl and B2, PT is given the chat prompt, so that its whole input equals the IT teacher's.
    """
    late = tuple(depths.windows(n_layers)["late"])
    return [*symmetric_conditions(n_layers), TEMPLATE, Condition("B2", "pt", "chat", "A'_tmpl", "late", late)]


def control_conditions(n_layers: int, windows: Sequence[str] = ("late",)) -> list[Condition]:
    """Return C, A' and, for each named window, the graft and its controls in both hosts."""
    chosen = {name: depths.windows(n_layers)[name] for name in windows}
    return [*BASELINES, *(condition for control in CONTROLS for condition in swaps(chosen, control))]


def sliding_windows(n_layers: int, width: int, step: int = 1) -> dict[str, range]:
    """Return all windows of one width, `step` layers apart, as in {"3-6": range(3, 7)}; InterventionError if none fits."""
    if not 1 <= width <= n_layers:
        raise InterventionError(f"A window of {width} layers does not fit: this model has {n_layers}.")
    starts = range(0, n_layers - width + 1, step)
    return {f"{start}-{start + width - 1}": range(start, start + width) for start in starts}


def window_widths(n_layers: int, widths: Sequence[int]) -> dict[str, range]:
    """Return early, mid and late windows of every width, as in {"late_3": range(L − 3, L)}; see `depths.windows`."""
    found = {}
    for width in widths:
        middle = (n_layers - width) // 2
        for name, start in (("early", 0), ("mid", middle), ("late", n_layers - width)):
            found[f"{name}_{width}"] = sliding_windows(n_layers, width)[f"{start}-{start + width - 1}"]
    return found


def shuffled(layers: Sequence[int], seed: int) -> list[int]:
    """Return the layers in a random order in which none keeps its place (one random cycle); two layers at least."""
    if len(layers) < 2:
        raise InterventionError(
            f"Layers {list(layers)} cannot be permuted: a permuted donor needs two or more."
        )
    order = np.random.default_rng(seed).permutation(layers)
    following = dict(zip(order.tolist(), np.roll(order, 1).tolist()))
    return [following[layer] for layer in layers]


def condition_edits(condition: Condition, pair: Pair, seed: int = 0) -> list[Edit]:
    """Return the edits that turn a condition's host into the condition.

    The control says what replaces the MLPs. "graft": the other model's MLPs, with the host's norms. "block": the other
    model's MLPs and norms. "self": the host's own MLPs, which must change nothing. "permuted": the other model's MLPs of the
    same layers in random order. "scrambled": a change of the same norm in a random direction (`edits.scramble`). seed: for
    the two random controls. InterventionError for an unknown control.
    """
    host, donor = getattr(pair, condition.host), getattr(pair, OTHER[condition.host])
    layers = condition.layers
    if condition.control not in CONTROLS:
        raise InterventionError(f"Control {condition.control!r}: choose from {', '.join(CONTROLS)}.")
    if condition.control == "scrambled":
        return scramble(donor, layers, seed=seed)
    if condition.control == "permuted":
        return graft(donor, layers, donor_layers=shuffled(layers, seed))
    scope = "block" if condition.control == "block" else "mlp"
    return graft(host if condition.control == "self" else donor, layers, scope=scope)
