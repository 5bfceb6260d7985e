"""Names of the conditions of behaviour runs: A (PT), B (PT with IT's MLPs), C (IT), D (IT with PT's MLPs), in words.

A name of B and D ends in the grafted window, and may end in the control that stands in the graft's place.
"""

from collections.abc import Iterable

from nbhelpers.report.graft_charts import WINDOWS

HOSTS = {"A": "PT", "B": "PT", "C": "IT", "D": "IT"}  # by the first letter of a condition's name
WORDS = {"early": "early", "mid": "middle", "late": "late"}
DONE = {"permuted": "shuffled", "scrambled": "scrambled", "self": "self"}


def parts(condition: str) -> tuple[str, str, str]:
    """Return (host, grafted window, control) of a condition's name: "B_late_permuted" is ("PT", "late", "permuted").

    Window and control are "" where the name has none; B and D alone are the late window, as in the study's run of one
    window. ValueError for a name that is no condition's.
    """
    letter, *rest = condition.split("_")
    grafted = letter in ("B", "D")
    window = rest.pop(0) if grafted and rest and rest[0] in WINDOWS else "late" if grafted else ""
    control = rest.pop(0) if grafted and rest and rest[0] in DONE else ""
    if letter not in HOSTS or rest:
        raise ValueError(
            f"There is no condition {condition!r}; its name is A, C, or B or D with a window, such as B_late."
        )
    return HOSTS[letter], window, control


def named(condition: str) -> str:
    """Return a condition in words: "B_late" is "PT with IT's late MLPs", "D_mid_permuted" ends in ", shuffled"."""
    host, window, control = parts(condition)
    if not window:
        return host
    donor = "IT" if host == "PT" else "PT"
    return f"{host} with {donor}'s {WORDS[window]} MLPs{control and f', {DONE[control]}'}"


def short(condition: str) -> str:
    """Return a condition as a label of an axis: "B_late" is "PT + late", "D_mid_permuted" "IT + mid, shuffled"."""
    host, window, control = parts(condition)
    return f"{host}{window and f' + {window}'}{control and f', {DONE[control]}'}"


def ordered(conditions: Iterable[str]) -> list[str]:
    """Return conditions, each once, in the book's order: A, B, C, D, by window, a graft before its controls."""
    windows, controls = ("", *WINDOWS), ("", *DONE)

    def place(name):
        _, window, control = parts(name)
        return name[0], windows.index(window), controls.index(control)

    return sorted(dict.fromkeys(conditions), key=place)
