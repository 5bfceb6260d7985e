"""The quantities of exp03, from one pair's dataset."""

import xarray as xr

from nbhelpers.core import depths
from nbhelpers.report.quantities import VARIANTS, by_variant, over, shift, with_shift

STRUCTURAL = ("structural", "discourse", "punctuation")


def quantities(result: xr.Dataset) -> dict:
    """Return how predictions are revised, each model on its own text, and how concentrated its use of neurons is."""
    parts = [result.sel(variant=v, history=v, drop=True) for v in VARIANTS]
    own = xr.concat(parts, "variant").assign_coords(variant=list(VARIANTS))
    raw = own.sel(lens="raw", drop=True)
    found, ranges = {}, depths.phases(result.sizes["layer"])
    for phase, layers in ranges.items():
        for lens in result["lens"].values:
            kl = own["phase_kl_adjacent"].sel(phase=phase, lens=lens, drop=True)
            found |= with_shift("phase_kl_adjacent", kl, f".{phase}.{lens}")
        found |= with_shift("phase_of_mind", raw["phase_of_mind"].sel(phase=phase, drop=True), f".{phase}")
        # Layer 0 has no layer before it.
        turnover = over(raw["turnover"], [i for i in layers if i])
        found |= with_shift("turnover", turnover, f".{phase}")
    for stratum in result["stratum"].values:
        layer = raw["commitment_by_confidence"].sel(stratum=stratum, rule="kl_continuous", drop=True)
        found |= by_variant(f"commitment_by_confidence.{stratum}", layer)
        found[f"delay_by_confidence.{stratum}"] = shift(layer)
    found |= with_shift("delta_cosine_corrective", over(raw["delta_cosine"], ranges["corrective"]))
    found |= with_shift("late_change_structural_share", structural_share(raw))
    return found | concentration(result, ranges["corrective"])


def structural_share(own: xr.Dataset) -> xr.DataArray:
    """Return the share of late changes of mind that end on a structural token, discourse or punctuation, (variant)."""
    late = (own["late_mind_change"].mean("prompt") * own["class_share"]).fillna(0)
    structural = late.sel(token_class=late["token_class"].isin(STRUCTURAL))
    return structural.sum("token_class") / late.sum("token_class")


def concentration(result: xr.Dataset, layers) -> dict:
    """Return Gini, N50 and N90 of the use of neurons, and PT's and IT's shared ones, mean over some layers."""
    found = {}
    for name in ("gini", "n50", "n90"):
        found |= with_shift(name, over(result[name], layers))
    shared = over(result["neuron_overlap"], layers)
    return found | {f"neuron_overlap.k{k}": shared.sel(k=k) for k in result["k"].values}
