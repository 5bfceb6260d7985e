"""The quantities of exp07_0j, from one pair's dataset."""

import numpy as np
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.report.quantities import Quantities, levels

NOTE = "published: searched above layer 14 only, against layers 6–14; in layers of this model"
UNMEASURED = {}
SIGMAS, DROPS = [0.5, 0.75, 1.0, 1.5, 2.0], [0.02, 0.05, 0.1, 0.15]
AS_PUBLISHED = {
    "onset*": {"run_length": 2},
    "onset_span.sigma": {"sigmas": SIGMAS},
    "onset_depth_sigma.*": {"sigmas": SIGMAS},
    **{name: {"sigmas": SIGMAS, "drops": DROPS} for name in ("onset_span.all", "onset_depth.*")},
}


def quantities(result: xr.Dataset) -> Quantities:
    """Return the onset layer of the block's δ-cosine by rule, −1 for none, its span over rules, and the false-alarm rate."""
    block, n = result.sel(component="block"), result.sizes["layer"]
    found, layers = {}, {}
    for rule in result["rule"].values:
        number, drop = rule.removesuffix(" σ"), rule.removeprefix("drop ")
        name = f"drop_{drop}" if rule.startswith("drop ") else f"sigma_{number}"
        one = [float(block[part].sel(rule=rule)) for part in ("onset", "onset_low", "onset_high")]
        found[f"onset.{name}"] = stats.Interval(*one)
        layers[name] = one[0]
    depth, ends = {}, {"least": min, "most": max}
    for name, start in {"sigma": "sigma", "all": ""}.items():
        reached = [layer for rule, layer in layers.items() if rule.startswith(start) and layer >= 0]
        found[f"onset_span.{name}"] = max(reached) - min(reached) if reached else np.nan
        of_depth = "onset_depth_sigma" if start else "onset_depth"
        depth |= {f"{of_depth}.{end}": of(reached) / n if reached else np.nan for end, of in ends.items()}
    alarm = {"onset_by_chance.most": float(block["found_exchanged"].max())}
    return levels(found, "layers", NOTE) | levels(depth, "1", NOTE) | levels(alarm, "1")


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {"onset*": ("main_figure", quantities)}
