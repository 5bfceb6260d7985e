"""Small copies of the results of one pair, committed, with which tests compare a fresh run: means over all that is many.

Prompts, steps, texts, neurons and the like are averaged; layers, variants, lenses, conditions and the like stay.
"""

import ast
from pathlib import Path

import numpy as np
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.run import notebooks

FOLDER = Path("tests/reference")
MANY = 24  # a dimension longer than this is averaged


def path(key: str) -> Path:
    """Return the path of an experiment's reference, `tests/reference/<key>.nc`."""
    return params.ROOT / FOLDER / f"{key}.nc"


def reduced(dataset: xr.Dataset) -> xr.Dataset:
    """Return each variable's mean over its long dimensions, float32; of texts, the mean number of characters.

    NaN does not count. A variable of whole numbers that has no long dimension keeps the attribute `whole`, 1.
    """
    found = {}
    for name, values in dataset.data_vars.items():
        whole = values.dtype.kind in "iu"
        if values.dtype.kind not in "iufb":
            values = xr.apply_ufunc(np.vectorize(lambda text: len(str(text)), otypes=[float]), values)
        long = [dim for dim in values.dims if values.sizes[dim] > MANY]
        mean = values.astype(float).mean(long) if long else values.astype(float)
        found[name] = mean.astype("float32").reset_coords(drop=True)
        found[name].attrs = {"whole": 1} if whole and not long else {}
    kept = xr.Dataset(found)
    return kept.assign_attrs({name: dataset.attrs[name] for name in ("experiment", "model", "profile")})


def write(key: str, profile: str, model: str) -> Path:
    """Return the path of an experiment's reference after writing it from a result; ResultError if there is none."""
    target = path(key)
    target.parent.mkdir(parents=True, exist_ok=True)
    small = reduced(experiments.load(profile, model, key))
    # NetCDF-3 has no overhead for each variable, which would be most of the file.
    store.write_whole(target, bytes(small.to_netcdf(engine="scipy", format="NETCDF3_64BIT")))
    return target


def write_of(notebook: Path) -> Path | None:
    """Return the reference of the pair that a notebook measures by default, written anew; None if it measures none."""
    given = notebooks.declared(notebook)
    if "model" not in given:
        return None
    profile, model = (ast.literal_eval(given[name]) for name in ("profile", "model"))
    return write(experiments.key_of(notebook.stem), profile, model)
