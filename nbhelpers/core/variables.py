"""Declarations of the variables that a dataset holds: dimensions, units and long names.

One declaration describes a dataset, checks it on saving and loading, and lets tests generate one.
"""

from collections.abc import Mapping
from typing import NamedTuple

import xarray as xr


class Variable(NamedTuple):
    """One variable of a dataset: its dimensions in any order, its unit, and its long name."""

    dims: tuple[str, ...]
    unit: str
    long_name: str


def declared(groups: Mapping[tuple[str, ...], Mapping[str, tuple[str, str]]]) -> dict[str, Variable]:
    """Return {name: Variable} from {dimensions: {name: (unit, long name)}}."""
    return {name: Variable(dims, *about) for dims, rows in groups.items() for name, about in rows.items()}


def described(dataset: xr.Dataset, variables: Mapping[str, tuple]) -> xr.Dataset:
    """Return the dataset after giving each variable its unit and long name, the last two entries of `variables[name]`."""
    for name, (*_, unit, long_name) in variables.items():
        if name in dataset:
            dataset[name].attrs |= {"units": unit, "long_name": long_name}
    return dataset


def lacking(dims: Mapping[str, tuple[str, ...]], variables: Mapping[str, Variable]) -> list[str]:
    """Return one clause for each declared variable that `dims` lacks or has with other dimensions."""
    problems = []
    for name, wanted in variables.items():
        if name not in dims:
            problems.append(f"no {name}")
        elif set(dims[name]) != set(wanted.dims):
            problems.append(f"{name} has dims {dims[name]}, not {wanted.dims}")
    return problems
