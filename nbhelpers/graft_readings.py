"""What a run says to the questions of the internal-causality chapter (experiments 11, 13 and 14).

As in `readings`, every sentence is made from results and would say the opposite if they did.
"""

from collections.abc import Callable

import numpy as np

from nbhelpers.correlates import OF_UPDATES
from nbhelpers.graft_tables import (
    class_change,
    gain_by_prompt,
    late_shift,
    strongest_late,
    template_shift,
    window_shift,
)
from nbhelpers.readings import grounds, sentence
from nbhelpers.synthesis import compared, counted, number

SURE = 0.95


def others_rest_on(results) -> str:
    """Return what the signs rest on, where a reading has counts that rest on something else, too."""
    return grounds(results).replace("Counts rest", "The other counts rest", 1)


def by_interval(results, interval: Callable) -> dict[str, list[str]]:
    """Return the families whose `interval(dataset)`, (value, low, high), is above, below or open at zero."""
    groups = {"above": [], "below": [], "open": []}
    for title, dataset in results.items():
        _, low, high = interval(dataset)
        groups["above" if low > 0 else "below" if high < 0 else "open"].append(title)
    return groups


def exp11(results) -> str:
    """Return what IT's late MLPs do in PT under the same tokens, and what the controls do."""
    later = ("above the host's", "below the host's")
    late = sentence(results, lambda d: late_shift(d, "kl_layer_final", "sufficiency"), *later)
    raw = sentence(results, lambda d: late_shift(d, "kl_layer_final", "sufficiency", "raw"), *later)
    branch = sentence(results, lambda d: template_shift(d, "kl_layer_final"), *later)
    scrambled = sentence(
        results, lambda d: late_shift(d, "kl_layer_final", "sufficiency", control="scrambled"), *later
    )
    cross = sentence(
        results,
        lambda d: -late_shift(d, "kl_layer_teacher", "sufficiency"),
        "closer to the teacher's",
        "farther from them",
    )
    return (
        f"With IT's late MLPs, PT's distance KL(layer ‖ own final) in the final fifth is, tuned lens, {late}; raw lens, "
        f"{raw}. In the template branch it is {branch}. After a change of the same size in scrambled directions it is "
        f"{scrambled}. The late distributions of the graft are, compared with the host's, {cross}. {grounds(results)}"
    )


def exp14(results) -> str:
    """Return whether the late window is the strongest, both ways, and on which read-outs it is not."""
    total = len(results)
    put = sentence(results, lambda d: window_shift(d, "sufficiency", "late"), "positive", "negative")
    taken = sentence(results, lambda d: -window_shift(d, "necessity", "late"), "negative", "positive")
    probable = strongest_late(results)
    sure = {side: [t for t, p in found.items() if p >= SURE] for side, found in probable.items()}
    cross = strongest_late(results, "kl_layer_teacher")["necessity"]
    farthest = [title for title, p in cross.items() if p >= SURE]
    each = ", each family alone" if total > 1 else ""
    return (
        f"Putting IT's late MLPs into PT changes KL(layer ‖ own final) in the final fifth (tuned lens) by an amount that "
        f"is {put}; putting PT's into IT, by one that is {taken}. Of the three windows the late one changes it most in the "
        f"study's direction, up on PT's side, in {counted(sure['sufficiency'], total)}, and, down on IT's side, in "
        f"{counted(sure['necessity'], total)} (bootstrap probability of at least {SURE}{each}). Of the three swaps the late "
        f"one carries IT's late layers farthest from where they were in {counted(farthest, total)}. "
        f"{others_rest_on(results)}"
    )


def exp13(results) -> str:
    """Return which tokens a late graft brings, for which it works, and what goes with the late shift."""
    total = len(results)
    frequency = ("more frequent", "less frequent")
    changed = {
        kind: compared(by_interval(results, lambda d, k=kind: class_change(d, k)), total, *frequency)
        for kind in ("content", "function")
    }
    content = sentence(results, lambda d: gain_by_prompt(d, "content"), "positive", "negative")
    function = sentence(results, lambda d: gain_by_prompt(d, "function"), "positive", "negative")
    chosen = {"scale": "cosine", "kind": "shift", "given": "nothing", "lens": "tuned"}
    shifts = [d.r.sel(chosen | {"feature": list(OF_UPDATES)}) for d in results.values()]
    sizes = [float(np.abs(r).max()) for r in shifts]
    largest = max((size for size in sizes if not np.isnan(size)), default=np.nan)
    each = ", each family alone" if total > 1 else ""
    return (
        f"Among the first tokens that the late graft brings, compared with those that it takes away, content tokens are "
        f"{changed['content']}; function words are {changed['function']} (95 % intervals over prompts{each}). The log-rank "
        f"gain of the teacher's content tokens is {content}; that of its function words is {function}. Step by step, the "
        f"change of a late update and the change of late KL correlate with at most {number(largest)} in size. "
        f"{others_rest_on(results)}"
    )


READINGS = {"exp11": exp11, "exp13": exp13, "exp14": exp14}
