"""Stored means: values that were published without their prompts, which figures draw as they are, without an interval.

Such a value stands where a measured one has its prompts: along a dimension `prompt` of one entry, named `STORED`.
"""

import numpy as np
import xarray as xr

STORED = "stored mean"


def is_stored(values: xr.DataArray | xr.Dataset) -> bool:
    """Return whether values [prompt, …] are stored means rather than values by prompt."""
    return values.sizes.get("prompt") == 1 and str(values["prompt"].values[0]) == STORED


def ends(values: xr.DataArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, low and high of stored means [prompt, …], without the prompt; the ends are NaN, since none is known."""
    mean = np.asarray(values.isel(prompt=0).values, float)
    return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
