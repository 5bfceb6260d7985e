"""What a run says to the questions of the internal-causality chapter (experiments 11, 13 and 14).

As in `readings`, every sentence is made from results and would say the opposite if they did.
"""

import numpy as np

from nbhelpers.graft_tables import (
    class_change,
    gain_by_prompt,
    late_shift,
    strongest_late,
    template_shift,
    window_shift,
)
from nbhelpers.readings import grounds
from nbhelpers.synthesis import compared, counted, number, signs


def sign_of(results, measure, above: str, below: str) -> str:
    """Return a clause on the sign of `measure(dataset)`, [prompt], over the families."""
    return compared(signs(results, measure), len(results), above, below)


def exp11(results) -> str:
    """Return what IT's late MLPs do in PT under the same tokens, and what the controls do."""
    later = ("above the host's", "below the host's")
    late = sign_of(results, lambda d: late_shift(d, "kl_layer_final", "sufficiency"), *later)
    raw = sign_of(results, lambda d: late_shift(d, "kl_layer_final", "sufficiency", "raw"), *later)
    branch = sign_of(results, lambda d: template_shift(d, "kl_layer_final"), *later)
    scrambled = sign_of(
        results, lambda d: late_shift(d, "kl_layer_final", "sufficiency", control="scrambled"), *later
    )
    cross = sign_of(
        results,
        lambda d: -late_shift(d, "kl_layer_teacher", "sufficiency"),
        "closer to the teacher's",
        "farther from them",
    )
    return (
        f"With IT's late MLPs, PT's distance KL(layer ‖ own final) in the final fifth is, tuned lens, {late}; raw lens, "
        f"{raw}. In the template branch it is {branch}. After a change of the same norm in scrambled directions it is "
        f"{scrambled}. The late distributions of the graft are, compared with the host's, {cross}. {grounds(results)}"
    )


def exp14(results) -> str:
    """Return whether the late window is the strongest, both ways, and on which read-outs it is not."""
    total = len(results)
    put = sign_of(results, lambda d: window_shift(d, "sufficiency", "late"), "positive", "negative")
    taken = sign_of(results, lambda d: -window_shift(d, "necessity", "late"), "negative", "positive")
    probable = strongest_late(results)
    sure = {side: [t for t, p in found.items() if p >= 0.95] for side, found in probable.items()}
    cross = strongest_late(results, "kl_layer_teacher")["necessity"]
    least = [title for title, p in cross.items() if p >= 0.95]
    return (
        f"Putting IT's late MLPs into PT changes KL(layer ‖ own final) in the final fifth (tuned lens) by an amount that "
        f"is {put}; putting PT's into IT, by one that is {taken}. Of the three windows the late one lies farthest in the "
        f"study's direction, up on PT's side and down on IT's, with a bootstrap probability of at least 0.95 in "
        f"{counted(sure['sufficiency'], total)} on PT's side and in {counted(sure['necessity'], total)} on IT's. It also "
        f"moves IT's late layers farthest from where they were, with that probability, in {counted(least, total)}. "
        f"{grounds(results)}"
    )


def exp13(results) -> str:
    """Return which tokens a late graft brings, for which it works, and what goes with the late shift."""
    total = len(results)
    up = [t for t, d in results.items() if class_change(d, "content")[1] > 0]
    down = [t for t, d in results.items() if class_change(d, "function")[2] < 0]
    content = sign_of(results, lambda d: gain_by_prompt(d, "content"), "positive", "negative")
    function = sign_of(results, lambda d: gain_by_prompt(d, "function"), "positive", "negative")
    largest = max(
        float(np.abs(d.r.sel(kind="shift", given="nothing", lens="tuned")).max()) for d in results.values()
    )
    return (
        f"Where the late graft replaces a layer's first token, content tokens are more frequent among those that it "
        f"brings than among those that it takes in {counted(up, total)}, function words less frequent in "
        f"{counted(down, total)} (95 % intervals over prompts). The log-rank gain of the teacher's content tokens is "
        f"{content}; that of its function words is {function}. Step by step, the change of a late update and the change of "
        f"late KL correlate with at most {number(largest)} in size. {grounds(results)}"
    )


READINGS = {"exp11": exp11, "exp13": exp13, "exp14": exp14}
