"""The quantities of exp04, from one pair's dataset."""

import numpy as np
import xarray as xr

from nbhelpers.core.depths import around_third
from nbhelpers.report.quantities import Quantities, attention, by_variant, clouds, levels, ratios

HERE = "in layers of this model"
OF_DICTIONARIES = "needs the study's dictionaries of features, which exist for one family"
AS_PUBLISHED = {"*_dimension_shift.mle.*": {"mle_neighbours": 10}}
UNMEASURED = {
    "late_dimension_shift.lpca.native": "local PCA is not computed: it has no parameter-free form",
    "late_dimension_shift.two_nn_stored.native": "an older run's TwoNN; the estimator of its follow-up is measured",
    **{f"feature_continuity.{name}": OF_DICTIONARIES
       for name in ("cross_dip.pt", "cross_dip.it", "layers_10_11.it", "layers_11_12.it")},
    **{f"feature_deaths.{v}": OF_DICTIONARIES for v in ("pt", "it")},
}  # fmt: skip


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp04's quantities: lowest dimension, its layer and sharpness, both models on plain text; clouds; windows."""
    plain = result.sel(template="raw")
    two_nn = plain["dimension"].sel(estimator="two_nn", drop=True)
    at, sharp = plain["lowest_layer"], plain["sharpness"]
    searched = f"{HERE}; searched between 0.2 and 0.5 of the depth"
    ratio = sharp.sel(variant="it") / sharp.sel(variant="pt").where(lambda x: x > 0)
    lowest = two_nn.fillna(np.inf).argmin("layer").where(two_nn.notnull().any("layer"))
    return (
        levels(by_variant("lowest_layer", at), "layers", searched)
        | levels(by_variant("sharpness", sharp), "1")
        | ratios({"sharpness_ratio": ratio})
        | at_it_dip(two_nn, at.sel(variant="it", drop=True))
        | levels(by_variant("dimension_lowest", two_nn.where(two_nn["layer"] == at).max("layer")), "1")
        | levels(by_variant("dimension_last", two_nn.isel(layer=-1)), "1")
        | levels(by_variant("dimension_minimum_layer", lowest), "layers", HERE)
        | clouds(result)
        | windows(result)
    )


def at_it_dip(two_nn: xr.DataArray, at: xr.DataArray) -> Quantities:
    """Return both models' sharpness at the layer `at` of IT's lowest two_nn [variant, layer], and their ratio.

    sharpness = |dimension before − dimension after| / the larger of the two
    """
    before, after = (two_nn.where(two_nn["layer"] == at + step).max("layer") for step in (-1, 1))
    sharp = abs(before - after) / np.maximum(before, after)
    ratio = sharp.sel(variant="it") / sharp.sel(variant="pt").where(lambda x: x > 0)
    both = levels(by_variant("sharpness_at_it_dip", sharp), "1")
    return both | ratios({"sharpness_at_it_dip_ratio": ratio})


def windows(result: xr.Dataset) -> Quantities:
    """Return the number of profiles whose window at a third of the depth has the largest contrast, of all that were
    measured, and by chance.
    """
    n = int(result["p_window"].notnull().sum())
    counts = {
        "third_is_largest": int(is_largest(result).sum()),
        "profiles": n,
        "third_by_chance": n / n_windows(result),
    }
    return levels(counts, "profiles")


def n_windows(result: xr.Dataset) -> int:
    """Return the number of contiguous windows as wide as that at a third of the depth."""
    n_layers = result.sizes["layer"]
    return n_layers - len(around_third(n_layers)) + 1


def is_largest(result: xr.Dataset) -> xr.DataArray:
    """Return whether the window at a third of the depth has the largest contrast of all, bool [profile]."""
    # A change between layers has no layer 0, hence one window less; the limit 1.5 still separates ranks one and two.
    return result["p_window"] < 1.5 / n_windows(result)


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "sharpness_at_it_dip*": ("main_figure", at_it_dip),
    "sharpness*": ("main_figure", quantities),
    "lowest_layer.*": ("main_figure", quantities),
    "dimension_*": ("main_figure", quantities),
    "*_dimension_shift.*": ("main_figure", clouds),
    "late_participation_ratio_shift.*": ("participation_ratio", clouds),
    "late_effective_rank_shift.*": ("effective_rank", clouds),
    "late_first_share_shift.*": ("participation_ratio", clouds),
    "attention_*": ("attention", attention),
    "third_*": ("transition_table", windows),
    "profiles": ("transition_table", windows),
}
