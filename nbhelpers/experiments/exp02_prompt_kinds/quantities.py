"""The quantities of exp02, from one pair's dataset."""

import numpy as np
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.report.quantities import weights

CONDITIONS = {"pt": "PT", "it": "IT", "it_plain": "IT without template"}
KINDS = ("IC", "OOC", "R")


def quantities(result: xr.Dataset) -> dict:
    """Return the block's δ-cosine of each kind of prompt, with and without the template, and weight change."""
    block, found = result["delta_cosine"].sel(component="block", drop=True), weights(result)
    for kind in KINDS:
        of = {"prompt": np.flatnonzero((result["category"] == kind).values)}
        for place, at in {"onset": depths.onset(result.sizes["layer"]), "last_layer": -1}.items():
            one = block.isel(layer=at, drop=True).isel(of)
            for name, condition in CONDITIONS.items():
                found[f"delta_cosine_{place}.{kind}.{name}"] = one.sel(condition=condition, drop=True)
            found[f"template_shift.{place}.{kind}"] = (
                found[f"delta_cosine_{place}.{kind}.it"] - found[f"delta_cosine_{place}.{kind}.it_plain"]
            )
    return found
