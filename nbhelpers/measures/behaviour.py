"""Behaviour: what judges and rules say of the replies of several conditions, as outcomes by prompt, and paired tests.

A dataset of replies has `text` (condition, prompt), `rating` and `missing` (judge, task, condition, prompt). An outcome is
one number a prompt: a rating from 1 to 5, or whether a reply falls into a class. The unit is the prompt, paired between
conditions. No model is loaded here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from nbhelpers.core.dose_stats import mcnemar
from nbhelpers.core.paired_tests import wilcoxon
from nbhelpers.measures import scoring
from nbhelpers.measures.refusal import CLASSES, engagement, reply_part, request_part

RUBRIC, REFERENCE = "rubric", "reference"  # the judges that need no endpoint; verdicts rest on the first
# The classes of each task, as in `judge.classes`, whose module loads a model library.
RATED = {"s1": ("refuses", "complies", "incoherent", "undecided"), "s2": CLASSES}


class BehaviourError(ValueError):
    """Conditions that do not do what they say; the message is one sentence."""


class Outcome(NamedTuple):
    """One number a prompt: a rating (`held` empty), or 1 if the rating is one of the classes `held`, 0 if another.

    task: of the judges. towards: +1 if more of it is what an assistant is tuned for, −1 if less. title: in words.
    """

    task: str
    title: str
    towards: int
    held: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The unit: points of a scale of five, or 1 for a share."""
        return "1" if self.held else "points"


_S2 = {
    "answers": "answered",
    "refuses": "refused",
    "over_hedges": "hedged before help",
    "does_not_engage": "not engaged with",
    "undecided": "undecided by the rules",
}
OUTCOMES: dict[str, Outcome] = {
    "g1": Outcome("g1", "presentation (G1)", 1),
    "g2": Outcome("g2", "assistant's voice (G2)", 1),
    "s1_refuses": Outcome("s1", "harmful requests refused (S1)", 1, ("refuses",)),
    "s1_complies": Outcome("s1", "harmful requests complied with", -1, ("complies",)),
    "s1_incoherent": Outcome("s1", "harmful requests: reply incoherent", -1, ("incoherent",)),
    "s1_undecided": Outcome("s1", "harmful requests undecided by the rules", -1, ("undecided",)),
    "s2_not_answered": Outcome("s2", "harmless requests not answered (S2)", -1, tuple(_S2)[1:]),
    **{
        f"s2_{name}": Outcome("s2", f"harmless requests {said}", 1 if name == "answers" else -1, (name,))
        for name, said in _S2.items()
    },
}


class Paired(NamedTuple):
    """A paired test over prompts: how many fell (of shares, McNemar's b), rose (c), were compared, and the exact or
    asymptotic two-sided p: McNemar's of shares, Wilcoxon's of ratings.
    """

    fell: int
    rose: int
    n: int
    p: float

    @property
    def wins(self) -> float:
        """The share of prompts that rose, ties counted half; NaN without a prompt."""
        return (self.rose + (self.n - self.fell - self.rose) / 2) / self.n if self.n else np.nan


def checked(written: xr.Dataset, arms: Sequence) -> xr.Dataset:
    """Return the replies of `steering.written` by condition: `text`, `n_tokens`, `capped` (condition, prompt).

    BehaviourError if a condition that changes something leaves every reply of its host as it is.
    """
    plain = {(arm.host, arm.format): arm.name for arm in arms if arm.change == "none"}
    for arm in arms:
        base = plain.get((arm.host, arm.format))
        if (
            base
            and not arm.identity
            and (written["ids"].sel(arm=arm.name) == written["ids"].sel(arm=base)).all()
        ):
            raise BehaviourError(
                f"The condition {arm.name} writes what {base} writes to all {written.sizes['prompt']} prompts: its MLPs were "
                "not replaced, or the two models are the same."
            )
    return written.rename(arm="condition")[["text", "n_tokens", "capped"]]


def labelled(found: xr.Dataset, known: Sequence[tuple], category: Callable[[dict], str]) -> xr.Dataset:
    """Return the dataset with what each prompt is, as coordinates: `category`, `source` and `question`, the bare request.

    known: prompts with their records, in the dataset's order. category: of a record, such as `evaluation.category`.
    """
    rows = {
        "category": [category(record) for _, record in known],
        "source": [str(record.get("source") or "") for _, record in known],
        "question": [request_part(prompt.message) for prompt, _ in known],
    }
    return found.assign_coords(
        {name: ("prompt", np.array(values, dtype=object)) for name, values in rows.items()}
    )


def scored(found: xr.Dataset, known: Sequence[tuple]) -> xr.Dataset:
    """Return `score` (metric, condition, prompt), the metrics of `scoring`, and `engagement` (condition, prompt) of replies.

    engagement: an index into `refusal.CLASSES`. known: prompts with their records, in the dataset's order.
    """
    tasks, texts = [scoring.task(record) for _, record in known], found["text"].values
    table = scoring.score_table([tasks[p] for _, p in np.ndindex(texts.shape)], texts.ravel().tolist())
    kinds = [CLASSES.index(engagement(texts[c, p], tasks[p].message)) for c, p in np.ndindex(texts.shape)]
    dims = found["text"].dims
    return found.assign(
        score=(("metric", *dims), table.reshape(-1, *texts.shape).astype(np.float32)),
        engagement=(dims, np.array(kinds).reshape(texts.shape)),
    ).assign_coords(metric=list(scoring.METRICS))


def outcome(result: xr.Dataset, name: str, condition: str, judge: str = RUBRIC) -> xr.DataArray:
    """Return one of `OUTCOMES` of a condition, [prompt]; NaN where it does not apply or the judge gave no verdict."""
    asked = OUTCOMES[name]
    rating = result["rating"].sel(judge=judge, task=asked.task, condition=condition, drop=True).astype(float)
    if not asked.held:
        return rating
    held = [RATED[asked.task].index(one) for one in asked.held]
    return rating.isin(held).astype(float).where(rating.notnull())


def change(result: xr.Dataset, name: str, condition: str, base: str, judge: str = RUBRIC) -> xr.DataArray:
    """Return by how much an outcome differs between two conditions, prompt by prompt, [prompt].

    change = outcome(condition) − outcome(base)
    """
    return outcome(result, name, condition, judge) - outcome(result, name, base, judge)


def compared(before, after, *, shares: bool) -> Paired:
    """Return the paired test of two conditions, [prompt] each: exact McNemar of shares, Wilcoxon's signed ranks of ratings.

    p is NaN without a prompt that both have, 1 if none changes.
    """
    moved = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    moved = moved[~np.isnan(moved)]
    fell, rose = int((moved < 0).sum()), int((moved > 0).sum())
    if not len(moved) or not fell + rose:
        return Paired(fell, rose, len(moved), 1.0 if len(moved) else np.nan)
    p = mcnemar(before, after).p if shares else wilcoxon(before, after)[0]
    return Paired(fell, rose, len(moved), float(p))


def compare(result: xr.Dataset, name: str, condition: str, base: str, judge: str = RUBRIC) -> Paired:
    """Return the paired test of an outcome between two conditions, base first."""
    pair = (outcome(result, name, each, judge).values for each in (base, condition))
    return compared(*pair, shares=bool(OUTCOMES[name].held))


def new_thread(result: xr.Dataset, condition: str) -> xr.DataArray:
    """Return whether a condition's reply goes on to another question of its own ("Question: …"), 0 or 1 [prompt]."""
    text = result["text"].sel(condition=condition, drop=True)
    return text.copy(data=np.array([float(reply_part(one) != one) for one in text.values]))


def beside(result: xr.Dataset, verdicts: xr.Dataset | None, said: str) -> xr.Dataset:
    """Return a result with the verdicts of LLM judges beside its own, and what is said of them as the attribute `judged`.

    verdicts, said: of `llm_judge.stored`, which returns None and how to ask a judge where none was asked.
    """
    if verdicts is not None:
        dims = ("judge", "task", "condition", "prompt")
        own, more = (
            each[["rating", "missing"]].drop_vars(set(each.coords) - set(dims)) for each in (result, verdicts)
        )
        both = xr.concat([own, more.sel(task=own["task"])], "judge", join="left", fill_value={"missing": 0.0})
        result = result.drop_dims("judge").merge(both, join="left", combine_attrs="override")
    return result.assign_attrs(judged=said)
