"""The study's own stored values as tables and datasets: long rows of one value each, and what experiments hold of them.

A row has `model`, `variable`, the labels of the variable's dimensions (`variant`, `layer`, …), `value`, the ends `low` and
`high` of an interval where one was stored, and `n` and `over`: of how many what (steps, prompts, replies) it is the mean.
This module knows no file of the study; a slice's `published` module reads those that it uses.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.core.variables import Variable, described
from nbhelpers.report.stored import STORED

PROFILE = "published"
FOLDER = Path("params") / "published"
VALUES = ("value", "low", "high", "n", "over")
NUMBERS: dict[str, Callable] = {
    "layer": int,
    "alpha": float,
    "forced_dose": float,
    "cloud_dose": float,
}  # labels that are numbers
DIGITS = 6  # significant ones of a shipped value
PROMPTS = ("prompt", "cloud_prompt", "text", "forced_prompt")
# {heading: the function of a figure or table, called when it is wanted}.
Drawn = dict[str, Callable[[], alt.Chart | pd.DataFrame]]


class FormatError(ValueError):
    """A file of the study that does not hold what its kind holds; the message is a clause, such as "it has no 'x'"."""


def layers_of(model: str) -> int:
    """Return the number of layers of one of the study's models; FormatError for a model that is none of them."""
    if model not in params.profile_params("paper").models:
        raise FormatError(f"it names a model {model!r}, which the study does not have")
    return params.model_params(model).size.layers


def point(model: str, variable: str, value, *, low=None, high=None, n=None, over="", **labels) -> dict:
    """Return one row; FormatError if the model is none of the study's or the value is no number. None stands for NaN."""
    layers_of(model)
    try:
        numbers = {
            name: np.nan if of is None else float(of)
            for name, of in (("value", value), ("low", low), ("high", high), ("n", n))
        }
    except (TypeError, ValueError):
        raise FormatError(f"its {variable} of {model} is no number") from None
    return {"model": model, "variable": variable, **labels, **numbers, "over": over}


def curve(
    model: str, variable: str, values: Sequence, *, low=None, high=None, n=None, over="", **labels
) -> list[dict]:
    """Return one row for each layer; FormatError if the values, or the ends of their intervals, are not one a layer."""
    layers = layers_of(model)
    for each in (values, low, high):
        if each is not None and (isinstance(each, str) or len(each) != layers):
            raise FormatError(f"its {variable} of {model} has {len(each)} values for {layers} layers")
    low, high = ([None] * layers if ends is None else ends for ends in (low, high))
    return [
        point(model, variable, value, low=a, high=b, n=n, over=over, layer=layer, **labels)
        for layer, (value, a, b) in enumerate(zip(values, low, high))
    ]


def table(rows: Iterable[Mapping]) -> pd.DataFrame:
    """Return rows as one table, without those that hold no value."""
    frame = pd.DataFrame(list(rows), columns=None)
    return frame.dropna(subset=["value"]).reset_index(drop=True) if len(frame) else frame


def labels_of(frame: pd.DataFrame) -> list[str]:
    """Return the columns of a table that are labels, in their order."""
    return [name for name in frame.columns if name not in ("model", "variable", "source", *VALUES)]


def csv(frame: pd.DataFrame) -> str:
    """Return a table as CSV: labels in alphabetical order, numbers with `DIGITS` significant digits, empty if unknown."""
    labels = sorted(labels_of(frame))
    whole = frame[["model", "variable", *labels, *VALUES]].copy()
    for name in ("value", "low", "high", "n"):
        digits = 12 if name == "n" else DIGITS
        whole[name] = ["" if pd.isna(x) else f"{x:.{digits}g}" for x in whole[name]]
    for name in labels:
        whole[name] = ["" if pd.isna(x) else _label(x) for x in whole[name]]
    return whole.to_csv(index=False, lineterminator="\n")


def _label(value) -> str:
    """Return a label as text, whole numbers without a point."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def read(path: Path) -> pd.DataFrame:
    """Return the table of a CSV file that `csv` wrote."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    for name in ("value", "low", "high", "n"):
        frame[name] = [float(x) if x else np.nan for x in frame[name]]
    return frame.replace({name: {"": None} for name in labels_of(frame)})


def dataset(frame: pd.DataFrame, model: str, variables: Mapping[str, Variable]) -> xr.Dataset:
    """Return the values of one model as a dataset: a variable for each in the table, with its declared dimensions.

    A dimension of prompts gets one entry, `STORED`. Stored intervals and counts stand beside as `<name>_low`,
    `<name>_high` and `<name>_n`. FormatError for a variable that is not declared or a value that stands twice.
    """
    whole, found = frame[frame["model"] == model], {}
    if unknown := set(whole["variable"]) - variables.keys():
        raise FormatError(f"{min(unknown)} is no variable of the experiment")
    groups = {
        name: labelled(rows, variables[name].dims) for name, rows in whole.groupby("variable", sort=False)
    }
    coords = coordinates(groups.values(), model)
    for name, rows in groups.items():
        about = variables[name]
        for kind in ("value", "low", "high", "n"):
            if kind == "value" or rows[kind].notna().any():
                key = name if kind == "value" else f"{name}_{kind}"
                found[key] = array(rows, kind, about.dims, coords).assign_attrs(_about(rows, kind, about))
    return xr.Dataset(found, attrs={"model": model, "n_layers": layers_of(model)})


def _about(rows: pd.DataFrame, kind: str, about: Variable) -> dict[str, str]:
    """Return units and long name of a variable, of an end of its interval, or of its count."""
    if kind == "n":
        return {
            "units": rows["over"].iloc[0] or "1",
            "long_name": f"number behind the mean: {about.long_name}",
        }
    end = {
        "value": "",
        "low": "lower end of the stored interval: ",
        "high": "upper end of the stored interval: ",
    }
    return {"units": about.unit, "long_name": end[kind] + about.long_name}


def labelled(rows: pd.DataFrame, dims: Sequence[str]) -> pd.DataFrame:
    """Return the rows of one variable, indexed by its labels, numbers where they are; FormatError if one lacks a label."""
    name, labels = rows["variable"].iloc[0], [dim for dim in dims if dim not in PROMPTS]
    lacking = [dim for dim in labels if dim not in rows or rows[dim].isna().any()]
    if lacking:
        raise FormatError(f"{name} lacks a label for {', '.join(lacking)}")
    keys = {dim: [NUMBERS.get(dim, str)(each) for each in rows[dim]] for dim in labels}
    if labels:
        rows = rows.assign(**keys).set_index(labels)
    if labels and rows.index.has_duplicates or not labels and len(rows) > 1:
        raise FormatError(f"a value of {name} stands twice")
    return rows


def coordinates(groups: Iterable[pd.DataFrame], model: str) -> dict[str, list]:
    """Return the entries of every dimension: all layers of the model, PT before IT, numbers ascending, else as they come."""
    found: dict[str, dict] = {}
    for rows in groups:
        for dim in filter(None, rows.index.names):
            found.setdefault(dim, {}).update(dict.fromkeys(rows.index.get_level_values(dim)))
    entries = {dim: sorted(of) if dim in NUMBERS else list(of) for dim, of in found.items()}
    if "variant" in entries:
        entries["variant"] = [name for name in params.VARIANTS if name in found["variant"]]
    return entries | ({"layer": list(range(layers_of(model)))} if "layer" in entries else {})


def array(rows: pd.DataFrame, kind: str, dims: Sequence[str], coords: Mapping[str, Sequence]) -> xr.DataArray:
    """Return one column of the rows of a variable as an array with the given dimensions, NaN where there is no row."""
    labels = [dim for dim in dims if dim not in PROMPTS]
    values = rows[kind].to_numpy(float)
    if labels:
        every = pd.MultiIndex.from_product([coords[dim] for dim in labels])
        values = rows[kind].reindex(every if labels[1:] else coords[labels[0]]).to_numpy(float)
    shape = [len(coords[dim]) for dim in labels]
    found = xr.DataArray(values.reshape(shape), {dim: coords[dim] for dim in labels}, labels)
    return found.expand_dims({dim: [STORED] for dim in dims if dim in PROMPTS}).transpose(*dims)


def in_words(frame: pd.DataFrame, column: str, words: Mapping[str, str]) -> pd.DataFrame:
    """Return a table with the entries of a column in words, its rows in the order of the words."""
    named = pd.Categorical(frame[column].map(words), words.values())
    return frame.assign(**{column: named}).sort_values(column, kind="stable").astype({column: str})


def completed(
    data: xr.Dataset, variables: Mapping[str, Variable], coords: Mapping[str, Sequence]
) -> xr.Dataset:
    """Return a dataset with every declared variable, those that are not stored as NaN.

    coords: the entries that a dimension must have, beside those that are stored. The quantities of an experiment can then be
    computed, and are NaN where something is missing.
    """
    known = {name: [STORED] for name in PROMPTS} | {"variant": list(params.VARIANTS)}
    known |= {"layer": list(range(data.attrs["n_layers"]))}
    known |= {name: data[name].values.tolist() for name in data.dims}
    for name, entries in coords.items():
        known[name] = list(dict.fromkeys([*entries, *known.get(name, [])]))
    data = data.reindex({name: entries for name, entries in known.items() if name in data.dims})
    missing = {
        name: xr.DataArray(np.nan, {dim: known[dim] for dim in of.dims}, of.dims)
        for name, of in variables.items()
        if name not in data and set(of.dims) <= known.keys()
    }
    return described(data.assign(missing), variables)
