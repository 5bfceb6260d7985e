"""The quantities of exp07_0j, from one pair's dataset."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.report.quantities import Quantities, levels

NOTE = "published: searched above layer 14 only, against layers 6–14; in layers of this model"
UNMEASURED = {}
ALLOWED = 0.15  # of the depth: how far apart onsets may lie that the study calls the same
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
    return (
        levels(found, "layers", NOTE) | levels(depth, "1", NOTE) | levels(alarm, "1") | agreement(layers, n)
    )


def agreement(layers: Mapping[str, float], n_layers: int) -> Quantities:
    """Return how far the rules agree on an onset, from {rule: layer, −1 for none}.

    `onset_spread`: layers between the first and the last onset, beside the study's allowance of 15 % of the depth;
    `rules_without_onset`; `onsets_in_first_half`: σ rules of which the onset lies among the layers that their baseline is
    taken from, or below them.
    """
    reached = [layer for layer in layers.values() if layer >= 0]
    early = [
        layer for rule, layer in layers.items() if rule.startswith("sigma") and 0 <= layer < n_layers // 2
    ]
    spread = {"onset_spread": float(max(reached) - min(reached)) if reached else np.nan}
    counts = {
        "rules_without_onset": float(len(layers) - len(reached)),
        "onsets_in_first_half": float(len(early)),
    }
    allowed = float(max(1, round(ALLOWED * n_layers)))
    return levels(spread, "layers", centre=allowed) | levels(counts, "rules", centre=0.0)


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {"onset*": ("main_figure", quantities)}
