"""The quantities of exp01, from one pair's dataset: narrowing of predictions and updates, and fits on breadth."""

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from nbhelpers.core import stats
from nbhelpers.report.quantities import VARIANTS, Quantities, levels, shifts

STATISTICS = ("slope", "pearson")
BAR = 0.1  # the study's decision rule: broad neurons get more attribution if r > 0.1


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp01's quantities: narrowing of the prediction and of updates with depth, and the fits on breadth."""
    falls = {f"support_fall.{v}": support_fall(result, v) for v in VARIANTS}
    trends = {f"update_breadth_trend.{v}": depth_trend(result, variant=v) for v in VARIANTS}
    return shifts(falls, "1") | levels(trends, "1", centre=0.0) | fits(result)


def support_fall(result: xr.Dataset, variant: str) -> xr.DataArray:
    """Return ln(effective support of the middle layer / of the last layer), [prompt]; above zero, predictions narrow."""
    support = np.log(result.support.sel(variant=variant, drop=True))
    return support.isel(layer=support.sizes["layer"] // 2, drop=True) - support.isel(layer=-1, drop=True)


def depth_trend(result: xr.Dataset, component: str = "mlp", variant: str = "it") -> xr.DataArray:
    """Return each prompt's Spearman correlation of an update's N90 with depth, [prompt]; below zero, updates narrow."""
    values = result.update_n90.sel(component=component, variant=variant).transpose("prompt", "layer").values
    ranks = np.apply_along_axis(rankdata, 1, values)
    layers = np.arange(values.shape[1])
    centred, along = ranks - ranks.mean(1, keepdims=True), layers - layers.mean()
    norms = np.linalg.norm(centred, axis=1) * np.linalg.norm(along)
    trend = np.divide(centred @ along, norms, out=np.full(len(values), np.nan), where=norms > 0)
    return xr.DataArray(trend, dims="prompt", coords={"prompt": result.prompt})


def fits(result: xr.Dataset) -> Quantities:
    """Return slope and Pearson's r of ln attribution on ln N90, by selection of neurons, with intervals over prompts.

    `attribution_over_bar`: r less the study's bar.
    """
    one, found, over = result.sel(quantity="attribution"), {}, {}
    for selection in one.selection.values:
        for statistic in STATISTICS:
            for v in VARIANTS:
                at = one.sel(selection=selection, statistic=statistic, variant=v)
                ends = (float(at[name]) for name in ("fit", "fit_low", "fit_high"))
                found[f"attribution_{statistic}.{selection}.{v}"] = interval = stats.Interval(*ends)
                if statistic == "pearson":
                    over[f"attribution_over_bar.{selection}.{v}"] = stats.Interval(
                        *(end - BAR for end in interval)
                    )
    return levels(found, "1", centre=0.0) | shifts(over, "1")
