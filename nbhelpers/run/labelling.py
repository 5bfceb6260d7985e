"""Labelling by hand: which replies a person reads, and how keys become labels that are saved at once.

The rater sees a request and a reply, never the model, the condition or what is expected. `labelling_desk` draws it in a
notebook; this module knows no widget. `measures.gold` reads what is written here.
"""

import csv
import hashlib
import io
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.core.schemas import PromptSet
from nbhelpers.measures import gold, judge, rubrics
from nbhelpers.models import evaluation

CONTROLS = ("_scrambled", "_permuted", "_self")
# What stands for a bucket of the study's plan in records of other sources.
CATEGORY = {
    "conversation_source": "conversation",
    "gov_register": "register",
    "safety_benign": "harmless",
    "safety_harmful": "harmful",
}
UNDO, UNSURE = "u", "0"


class Item(NamedTuple):
    """One label to give: the reply's audit_id, the task, and what the rater reads."""

    audit_id: str
    task: str
    question: str
    reply: str


def with_replies() -> list[str]:
    """Return the experiments whose datasets hold replies by condition, in their order."""
    declared = {key: experiments.variables(key).get("text") for key in experiments.slices()}
    return [key for key, text in declared.items() if text and {*text.dims} == {"condition", "prompt"}]


def replies(experiment: str, profile: str, model: str) -> tuple[xr.DataArray, list[evaluation.Pair]]:
    """Return what the conditions of a finished result wrote, controls apart, and its prompts with their records.

    ResultError, which says what to run, if there is no result; ParameterError if it holds no replies by condition.
    """
    result = store.load(store.result_path(profile, model, experiment), experiment=experiment)
    if "text" not in result or set(result["text"].dims) != {"condition", "prompt"}:
        known = ", ".join(with_replies())
        raise params.ParameterError(f"{experiment} holds no replies by condition; those that do: {known}.")
    text = result["text"].reset_coords(drop=True)
    text = text.sel(condition=[name for name in text["condition"].values if not str(name).endswith(CONTROLS)])
    prompts = json.loads(result.attrs["parameters"])["prompts"]
    source = PromptSet.model_validate(prompts) if isinstance(prompts, dict) else prompts
    known = {prompt.id: (prompt, record) for prompt, record in evaluation.read_evaluation(source)}
    ids = [str(name) for name in text["prompt"].values]
    if lost := [name for name in ids if name not in known]:
        raise params.ParameterError(
            f"{prompts} has no record {lost[0]!r}, to which the result of {model} replies."
        )
    return text, [known[name] for name in ids]


def planned(
    text: xr.DataArray, pairs: Sequence[evaluation.Pair], model: str, *, each: int, overlap: int
) -> tuple[list[Item], pd.DataFrame]:
    """Return the labels that people should give of one model's replies, and the key of their audit_ids (`gold.KEY`).

    By `evaluation.audit_plan`: `each` records of conversation, register, harmless and harmful requests, the first `overlap`
    of them for both raters, conditions in turn. Every reply is rated on each task that applies to its request.
    """
    buckets = [name if evaluation.bucket(pairs, name) else CATEGORY[name] for name in evaluation.AUDIT]
    buckets = [name for name in buckets if evaluation.bucket(pairs, name)]
    conditions = [str(name) for name in text["condition"].values]
    plan = evaluation.audit_plan(pairs, conditions, buckets=buckets, each=each, overlap=overlap)
    known = {prompt.id: (prompt, record) for prompt, record in pairs}
    items, rows = [], []
    for row in plan:
        (prompt, record), reply = known[row["record_id"]], _reply(text, row)
        shown = hashlib.sha256("::".join([model, row["audit_id"], reply]).encode()).hexdigest()[:16]
        kept = (shown, row["audit_split"], row["audit_bucket"], model, row["condition"], prompt.id)
        rows.append((*kept, gold.digest(reply)))
        tasks = [task for task in gold.TASKS if judge.applies(task, evaluation.category(record))]
        items += [Item(shown, task, judge.question_of(prompt), reply) for task in tasks]
    return items, pd.DataFrame(rows, columns=list(gold.KEY))


def _reply(text: xr.DataArray, row: dict) -> str:
    """Return the reply that a row of the plan names."""
    return str(text.sel(condition=row["condition"], prompt=row["record_id"]).item())


def in_turn(items: Sequence[Item], rater: str) -> list[Item]:
    """Return labels task by task, within a task in an order of this rater's own, by SHA-256("rater::task::audit_id")."""

    def place(item):
        return hashlib.sha256(f"{rater}::{item.task}::{item.audit_id}".encode()).hexdigest()

    return sorted(items, key=lambda item: (gold.TASKS.index(item.task), place(item)))


def typed(before: str, after: str) -> str:
    """Return the keys that turned a field's text into another: what was put in, or `UNDO` if it became shorter.

    The field keeps all keys, so that nothing is lost if the next is pressed before the last was dealt with.
    """
    if len(after) < len(before):
        return UNDO
    start = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), len(before))
    return after[start : start + len(after) - len(before)]


def asked(task: str) -> tuple[str, list[str]]:
    """Return what is asked in a task, and what its keys 1, 2, … say: the rubric that LLM judges are given, word by word."""
    labels = "|".join(map(str, rubrics.LABELS[task]))
    question, *rest = re.split(rf"^(?:{labels}) = ", rubrics.TEXTS[task], flags=re.MULTILINE)
    return " ".join(question.split()), [" ".join(text.split()) for text in rest]


def value_of(task: str, key: str) -> float | None:
    """Return the value that a key stands for: 1 to 5, the index of a class, NaN for `UNSURE`, None for another key."""
    values = dict(zip("123456789", map(float, rubrics.LABELS[task].values())))
    return float("nan") if key == UNSURE else values.get(key)


@dataclass
class Sitting:
    """One rater at work: the labels to give, and the file that holds those given, which is written at each key."""

    items: list[Item]
    path: Path
    rater: str
    since: float = field(default_factory=time.monotonic)

    def given(self) -> list[dict]:
        """Return the rows of the rater's file, in the order in which they were given."""
        return gold.read_labels(self.path).to_dict("records") if self.path.exists() else []

    def waiting(self) -> list[Item]:
        """Return the labels that are still to give, in order."""
        done = {(row["audit_id"], row["task"]) for row in self.given()}
        return [item for item in self.items if item[:2] not in done]

    def press(self, key: str) -> str:
        """Return what a key did, in words, after saving or taking back a label."""
        if key == UNDO:
            return self._undo()
        left = self.waiting()
        value = value_of(left[0].task, key) if left else None
        if value is None:
            return f"{key!r} is none of the keys." if left else "Everything is labelled."
        seconds, self.since = round(time.monotonic() - self.since, 1), time.monotonic()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = (left[0].audit_id, self.rater, left[0].task, value, seconds, now)
        self._write([*self.given(), dict(zip(gold.COLUMNS, row))])
        return f"Saved {key}."

    def _undo(self) -> str:
        """Return what was taken back: the last label of this sheet."""
        rows, own = self.given(), {item[:2] for item in self.items}
        last = next((row for row in reversed(rows) if (row["audit_id"], row["task"]) in own), None)
        if last is None:
            return "There is no label to take back."
        self._write([row for row in rows if row is not last])
        self.since = time.monotonic()
        return "Took back the last label."

    def _write(self, rows: Sequence[dict]) -> None:
        """Write the rater's file whole."""
        text = io.StringIO()
        sheet = csv.writer(text, lineterminator="\n")
        sheet.writerow(gold.COLUMNS)
        sheet.writerows(
            ["" if row[name] != row[name] else row[name] for name in gold.COLUMNS] for row in rows
        )
        store.write_whole(self.path, text.getvalue().encode())

    def progress(self) -> str:
        """Return how many labels are given, in all and by task: "12 of 48 labels · g1 12 of 24 · g2 0 of 12"."""
        left = self.waiting()
        parts = [f"{len(self.items) - len(left)} of {len(self.items)} labels"]
        for task in gold.TASKS:
            own, open_ = ([item for item in some if item.task == task] for some in (self.items, left))
            parts += [f"{task} {len(own) - len(open_)} of {len(own)}"] if own else []
        return " · ".join(parts)


def sitting(
    rater: str,
    experiment: str,
    profile: str,
    models: Sequence[str],
    *,
    each: int,
    overlap: int,
    shared: bool = False,
) -> Sitting:
    """Return a rater's sitting over replies of some models, where it was left; the key is written beside the labels.

    shared: only what both raters read. ParameterError, ResultError or LabelError with one sentence.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", rater) or rater == "key":
        raise params.ParameterError(
            f"the rater {rater!r} must be a name of small letters, digits and _, other than key."
        )
    items, keys = [], []
    for model in models:
        found, key = planned(*replies(experiment, profile, model), model, each=each, overlap=overlap)
        both = set(key.loc[key["split"] == "overlap", "audit_id"])
        items += [item for item in found if item.audit_id in both or not shared]
        keys.append(key)
    path = gold.key_path(profile, experiment)
    old = [gold.read_key(path)] if path.exists() else []
    table = pd.concat([*old, *keys]).drop_duplicates("audit_id", keep="last")
    store.write_whole(path, table.to_csv(index=False).encode())
    return Sitting(in_turn(items, rater), gold.label_path(profile, experiment, rater), rater)
