"""The quantities of exp04, from one pair's dataset."""

import numpy as np
import xarray as xr

from nbhelpers.report.quantities import by_variant, clouds


def quantities(result: xr.Dataset) -> dict:
    """Return dimension, its lowest layer and how sharp it is there, both models on plain text, and the clouds."""
    plain = result.sel(template="raw")
    two_nn = plain["dimension"].sel(estimator="two_nn", drop=True)
    at, sharp = plain["lowest_layer"], plain["sharpness"]
    found = by_variant("lowest_layer", at) | by_variant("sharpness", sharp)
    found["sharpness_ratio"] = sharp.sel(variant="it") / sharp.sel(variant="pt").where(lambda x: x > 0)
    found |= by_variant("dimension_lowest", two_nn.sel(layer=at))
    found |= by_variant("dimension_last", two_nn.isel(layer=-1))
    return (
        found | by_variant("dimension_minimum_layer", two_nn.fillna(np.inf).argmin("layer")) | clouds(result)
    )
