"""Parts of a result that a model's architecture lacks: their variables are NaN, and an attribute says which and why."""

import json
from collections.abc import Iterable

import xarray as xr

ATTRIBUTE = "not_measured"
PARTS = ("neurons", "attention", "weights")


def noted(dataset: xr.Dataset, part: str, reason: object) -> xr.Dataset:
    """Return the dataset with a note that one of `PARTS` was not measured, and why."""
    return dataset.assign_attrs({ATTRIBUTE: json.dumps(reasons(dataset) | {part: str(reason)})})


def reasons(dataset: xr.Dataset) -> dict[str, str]:
    """Return {part: why it was not measured} of a dataset; empty if it has every part."""
    return json.loads(dataset.attrs.get(ATTRIBUTE, "{}"))


def joint(datasets: Iterable[xr.Dataset]) -> dict[str, str]:
    """Return the attribute that says what any of several datasets lacks, as {name: value}; empty if none lacks a part."""
    found = {part: why for dataset in datasets for part, why in reasons(dataset).items()}
    return {ATTRIBUTE: json.dumps(found)} if found else {}
