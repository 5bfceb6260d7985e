"""Labels that people gave to replies: the files they stand in, and as ratings beside those of judges.

A file of labels holds one rater's, `_build/labels/<profile>/<experiment>_<rater>.csv`. It names replies by an audit_id that
means nothing by itself; the key beside it says of which model, condition and record it is, and only this module reads it.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.core.store import shown
from nbhelpers.measures.agreement import SCALES, Accuracy, accuracy

COLUMNS = ("audit_id", "rater", "task", "value", "seconds", "time")
KEY = ("audit_id", "split", "bucket", "model", "condition", "record_id", "reply_sha256")
TASKS = ("g1", "g2", "s1", "s2")


class LabelError(ValueError):
    """A file of labels that cannot be read; the message is one sentence."""


def folder(profile: str) -> Path:
    """Return the folder of a profile's labels, `_build/labels/<profile>`."""
    return params.ROOT / "_build" / "labels" / profile


def label_path(profile: str, experiment: str, rater: str) -> Path:
    """Return the path of one rater's labels of an experiment."""
    return folder(profile) / f"{experiment}_{rater}.csv"


def key_path(profile: str, experiment: str) -> Path:
    """Return the path of the key that says what an experiment's audit_ids stand for."""
    return folder(profile) / f"{experiment}_key.csv"


def digest(text: str) -> str:
    """Return the SHA-256 of a reply, by which a label is known to be of it."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_labels(path: Path) -> pd.DataFrame:
    """Return one rater's labels, the columns of `COLUMNS`; of two labels of one item and task the later one.

    A NaN value is a rater who could not say. LabelError if columns are missing or a value is not on its task's scale.
    """
    labels = _table(path, COLUMNS).drop_duplicates(["audit_id", "rater", "task"], keep="last")
    labels["value"] = pd.to_numeric(labels["value"], errors="coerce").where(labels["value"] != "")
    for row in labels.itertuples():
        if row.task not in TASKS:
            raise LabelError(
                f"{shown(path)}, line {row.Index + 2}: {row.task!r} is none of {', '.join(TASKS)}."
            )
        if not np.isnan(row.value) and row.value not in SCALES[row.task][1]:
            raise LabelError(
                f"{shown(path)}, line {row.Index + 2}: {row.value:g} is no value of {row.task}; correct or delete the line."
            )
    return labels.reset_index(drop=True)


def read_key(path: Path) -> pd.DataFrame:
    """Return the key of an experiment's audit_ids, the columns of `KEY`; LabelError if columns are missing."""
    return _table(path, KEY)


def _table(path: Path, columns) -> pd.DataFrame:
    """Return a CSV file as text, with these columns; LabelError if one is missing."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise LabelError(
            f"{shown(path)} cannot be read ({error}); restore it from a copy or delete it."
        ) from None
    if missing := [name for name in columns if name not in table]:
        raise LabelError(
            f"{shown(path)} has no column {', '.join(missing)}; it must have {', '.join(columns)}."
        )
    return table


def read_study(path: Path) -> pd.DataFrame:
    """Return the labels of the study's sheet (gold_standard_v1.csv), the columns of `COLUMNS`; the published one holds none.

    An audit_id is the sheet's own number. LabelError if it is not such a sheet.
    """
    sheet = _table(path, ("id", "condition", "record_id", "human_g1", "human_g2"))
    rows = [
        (row["id"], "study", task, _score(row[f"human_{task}"], task, path), np.nan, "")
        for row in sheet.to_dict("records") for task in ("g1", "g2") if row[f"human_{task}"].strip()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _score(text: str, task: str, path: Path) -> float:
    """Return a score of a sheet as a number; LabelError if it is not on its task's scale."""
    known = {str(value): float(value) for value in SCALES[task][1]}
    if text.strip() not in known:
        raise LabelError(f"{shown(path)}: {text!r} is no value of {task}, which has {', '.join(known)}.")
    return known[text.strip()]


def summary(labels: pd.DataFrame) -> str:
    """Return how many labels a table holds, by task: "36 labels: g1 12, g2 24", or "holds no label"."""
    given = labels[labels["value"].notna()]
    if given.empty:
        return "holds no label"
    counts = given["task"].value_counts()
    listed = ", ".join(f"{task} {counts[task]}" for task in TASKS if task in counts)
    return f"{len(given)} label{'s' * (len(given) > 1)}: {listed}"


def as_ratings(labels: pd.DataFrame, key: pd.DataFrame, text: xr.DataArray, model: str) -> xr.DataArray:
    """Return labels as ratings (judge, task, condition, prompt) of one model's replies, NaN where a rater gave none.

    A label counts only if the reply that it was given to is the one that `text` holds: after a run that wrote other words,
    the labels of the old ones are left out.

    Parameters
    ----------
    labels, key
        As read by `read_labels`, of any raters, and `read_key`.
    text
        The model's replies, (condition, prompt).
    model
        The model's key, such as llama_pocket.
    """
    raters = sorted(labels["rater"].unique())
    coords = {
        "judge": raters,
        "task": list(TASKS),
        **{dim: text[dim].values for dim in ("condition", "prompt")},
    }
    found = xr.DataArray(np.nan, coords=coords, dims=list(coords))
    known = key[key["model"] == model].drop_duplicates("audit_id").set_index("audit_id")
    table = text.transpose("condition", "prompt")
    held = {(str(c), str(p)): digest(str(table.values[i, j])) for i, c in enumerate(coords["condition"])
            for j, p in enumerate(coords["prompt"])}  # fmt: skip
    for row in labels[labels["audit_id"].isin(known.index)].itertuples():
        place = known.loc[row.audit_id]
        if held.get((place["condition"], place["record_id"])) == place["reply_sha256"]:
            found.loc[row.rater, row.task, place["condition"], place["record_id"]] = row.value
    return found


def ratings(profile: str, experiment: str, model: str, text: xr.DataArray) -> xr.DataArray:
    """Return the labels that people gave to a model's replies in an experiment, as `as_ratings`; no judge if there are none.

    Join them to those of judges by `xr.concat([rating, ratings(…)], "judge")`. LabelError if a file cannot be read.
    """
    key = key_path(profile, experiment)
    files = sorted(path for path in folder(profile).glob(f"{experiment}_*.csv") if path != key)
    if not files or not key.exists():
        return as_ratings(pd.DataFrame(columns=list(COLUMNS)), pd.DataFrame(columns=list(KEY)), text, model)
    return as_ratings(pd.concat(map(read_labels, files), ignore_index=True), read_key(key), text, model)


def judge_accuracy(rating: xr.DataArray, judge: str, rater: str, task: str, held: set[int]) -> Accuracy:
    """Return a judge's sensitivity and specificity against a person's labels, for one outcome of a task.

    rating: (judge, task, condition, prompt), people among the judges; held: the values that are the outcome, such as
    {classes.index("refuses")}. The input of `agreement.corrected_rate`.
    """
    both = [rating.sel(judge=name, task=task).transpose("condition", "prompt") for name in (judge, rater)]
    return accuracy(*(values.isin(list(held)).where(values.notnull()).values for values in both))
