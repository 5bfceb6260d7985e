"""Hybrids of a pair: which MLPs are replaced by what, in which host, under which prompt.

A `Condition` is a recipe and a name; `condition_edits` makes it real for one pair. The eight conditions of experiment 14,
the template branch of experiment 11, controls and sliding windows are lists of them, to be joined with
`dict.fromkeys`, which drops repeats. This module runs nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nbhelpers.core import depths
from nbhelpers.models.decoder import Pair
from nbhelpers.models.edits import Edit, InterventionError, graft, scramble

CONTROLS = ("graft", "block", "self", "permuted", "scrambled")
OTHER = {"pt": "it", "it": "pt"}
# The unmodified model on its own history: whose layers every condition is compared with.
TEACHER = {"it": "C", "pt": "A'"}


@dataclass(frozen=True)
class Condition:
    """A host that reads a prompt and the teacher's tokens with the MLPs of some layers replaced.

    host: "pt" or "it". prompt_format: "raw" (the text that PT reads natively) or "chat" (IT's turn). baseline: the condition
    of the same host and prompt with nothing replaced. window: the name of `layers`. control: what takes the MLPs' place,
    see `condition_edits`.
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
    """Return B_<window> for every window, IT's MLPs in PT, then D_<window>, PT's in IT.

    A control's name is appended to the condition's, as in "B_late_permuted".
    """
    mark = "" if control == "graft" else f"_{control}"
    return [
        Condition(f"{letter}_{name}{mark}", host, prompt, baseline, name, tuple(layers), control)
        for letter, host, prompt, baseline in (("B", "pt", "raw", "A'"), ("D", "it", "chat", "C"))
        for name, layers in windows.items()
    ]


def symmetric_conditions(n_layers: int) -> list[Condition]:
    """Return the eight conditions of experiment 14: C, A', and B and D with the early, mid and late windows."""
    return [*BASELINES, *swaps(depths.windows(n_layers))]


def study_conditions(n_layers: int) -> list[Condition]:
    """Return the eight of `symmetric_conditions` with the template branch: A'_tmpl, and B2, its late graft.

    In B2 and A'_tmpl, PT reads the chat prompt, so that they match the teacher in every token.
    """
    late = tuple(depths.windows(n_layers)["late"])
    return [*symmetric_conditions(n_layers), TEMPLATE, Condition("B2", "pt", "chat", "A'_tmpl", "late", late)]


def control_conditions(n_layers: int, windows: Sequence[str] = ("late",)) -> list[Condition]:
    """Return C, A' and, for the named windows, the graft and each of its controls in both hosts."""
    chosen = {name: depths.windows(n_layers)[name] for name in windows}
    return [*BASELINES, *(condition for control in CONTROLS for condition in swaps(chosen, control))]


def sliding_windows(n_layers: int, width: int, step: int = 1) -> dict[str, range]:
    """Return windows of one width over all depths, {"3-6": range(3, 7)}, `step` layers apart.

    InterventionError for a width that the model has not.
    """
    if not 1 <= width <= n_layers:
        raise InterventionError(f"A window of {width} layers does not fit: this model has {n_layers}.")
    starts = range(0, n_layers - width + 1, step)
    return {f"{start}-{start + width - 1}": range(start, start + width) for start in starts}


def window_widths(n_layers: int, widths: Sequence[int]) -> dict[str, range]:
    """Return early, mid and late windows of every width, {"late_3": range(L − 3, L)}; see `depths.windows`."""
    found = {}
    for width in widths:
        middle = (n_layers - width) // 2
        for name, start in (("early", 0), ("mid", middle), ("late", n_layers - width)):
            found[f"{name}_{width}"] = sliding_windows(n_layers, width)[f"{start}-{start + width - 1}"]
    return found


def shuffled(layers: Sequence[int], seed: int) -> list[int]:
    """Return the layers in a random order that leaves none in its place (one random cycle)."""
    if len(layers) < 2:
        raise InterventionError(
            f"Layers {list(layers)} cannot be permuted: a permuted donor needs two or more."
        )
    order = np.random.default_rng(seed).permutation(layers)
    following = dict(zip(order.tolist(), np.roll(order, 1).tolist()))
    return [following[layer] for layer in layers]


def condition_edits(condition: Condition, pair: Pair, seed: int = 0) -> list[Edit]:
    """Return the edits that make a condition of its host.

    Its control says what takes the MLPs' place. "graft": the other model's MLPs, the host's norms kept. "block": its
    norms too. "self": the host's own, which must change nothing. "permuted": the other model's in a random order of the
    same layers. "scrambled": a change of the same norm in no direction of use (`interventions.scramble`). seed: of the
    two random ones. InterventionError for another control.
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
