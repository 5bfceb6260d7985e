"""A language model as judge, its retest rate, and the file in which its verdicts stand beside a result.

Only the command `nbh judge` asks an endpoint. Notebooks read the file that it wrote (`stored`); there is none until
somebody names an endpoint and pays.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from nbhelpers.core import store
from nbhelpers.core.variables import Variable, declared
from nbhelpers.measures import rubrics
from nbhelpers.measures.judge import VARIABLES, Item, Verdict
from nbhelpers.models.endpoint import Ask, Endpoint

RETESTED = 0.05  # share of the items of a task that are judged twice

STEADINESS: dict[str, Variable] = declared(
    {
        ("judge", "task", "comparison"): {
            "order_swaps": ("1", "pairs on which the two orders disagree, among those judged in both"),
        },
        ("judge", "task"): {
            "retest_flips": ("1", "items judged twice whose two verdicts differ"),
            "retest_n": ("1", "items judged twice with two verdicts"),
        },
    }
)


class EndpointJudge:
    """The judge that asks a model for each verdict; its name is the model's.

    Parameters
    ----------
    endpoint
        The model, with its cache.
    question_chars, reply_chars
        How much of a request and of a reply it reads.
    done
        Called after each item, for a progress bar.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        question_chars: int = rubrics.QUESTION_CHARS,
        reply_chars: int = rubrics.REPLY_CHARS,
        done: Callable[[], object] = lambda: None,
    ):
        self.name, self.endpoint, self.done = endpoint.model, endpoint, done
        self._chars = question_chars, reply_chars

    def asks(self, items: Sequence[Item]) -> list[Ask]:
        """Return items as questions to the endpoint."""
        return [rubrics.ask(item, *self._chars) for item in items]

    def __call__(self, items: Sequence[Item]) -> list[Verdict]:
        """Return one verdict for each item; NaN, with the reason, where the model gave none that can be read."""
        found = self.endpoint.answers(self.asks(items), self.done)
        return [Verdict(np.nan, answer.why) if answer.value is None else answer.value for answer in found]


def retested(items: Sequence[Item], share: float = RETESTED) -> list[Item]:
    """Return the items that are judged twice: of each task this share, at least one, first by the hash of what is read."""
    by_task = defaultdict(list)
    for item in dict.fromkeys(items):
        by_task[item.task].append(item)
    chosen = []
    for same in by_task.values():
        same.sort(key=lambda item: hashlib.sha256("\0".join(item).encode()).hexdigest())
        chosen += same[: max(1, round(share * len(same)))]
    return chosen


def flips(
    items: Sequence[Item], first: Sequence[Verdict], second: Sequence[Verdict], tasks: Sequence[str]
) -> xr.Dataset:
    """Return how many verdicts differ between two judgements of the same items: `retest_flips`, `retest_n`, each (task)."""
    changed, n = np.zeros(len(tasks)), np.zeros(len(tasks))
    for item, a, b in zip(items, first, second):
        if not np.isnan([a.value, b.value]).any():
            place = list(tasks).index(item.task)
            n[place] += 1
            changed[place] += a.value != b.value
    return xr.Dataset(
        {"retest_flips": ("task", changed), "retest_n": ("task", n)}, coords={"task": list(tasks)}
    )


def text_digest(text: xr.DataArray) -> str:
    """Return 12 hexadecimal digits that change with any reply, condition or prompt of texts (condition, prompt)."""
    table = text.transpose("condition", "prompt")
    parts = [
        *map(str, table["condition"].values),
        *map(str, table["prompt"].values),
        *map(str, table.values.ravel()),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def judged_path(profile: str, model: str, experiment: str) -> Path:
    """Return the path of the verdicts on one result, `_build/results/<profile>/<model>/<experiment>_judge.nc`."""
    return store.result_path(profile, model, f"{experiment}_judge")


def stored(profile: str, model: str, experiment: str, text: xr.DataArray) -> tuple[xr.Dataset | None, str]:
    """Return the verdicts of LLM judges on a result, None if there are none, and a sentence: which, or how to get them.

    text: the replies that the result holds now; verdicts on other replies, or in a damaged file, are not returned.
    """
    path = judged_path(profile, model, experiment)
    command = f"`nbh judge {experiment} --model {model} --profile {profile}`"
    if not path.exists():
        return (
            None,
            f"No language model has judged these replies; {command} asks one at an endpoint that you name.",
        )
    try:
        found = store.load(path, experiment=f"{experiment}_judge", expects=VARIABLES)
    except store.ResultError:
        return (
            None,
            f"The verdicts of {store.shown(path)} cannot be read; {command} writes them anew from its cache.",
        )
    if found.attrs.get("text_digest") != text_digest(text):
        return None, f"The verdicts of {store.shown(path)} are on earlier replies; {command} judges these."
    return found, f"Judged by {', '.join(found['judge'].values)} on {found.attrs['created'][:10]}."
