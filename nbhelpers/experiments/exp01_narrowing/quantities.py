"""The quantities of exp01, from one pair's dataset."""

import numpy as np
import xarray as xr
from scipy.stats import rankdata


def depth_trend(dataset: xr.Dataset, component: str = "mlp", variant: str = "it") -> xr.DataArray:
    """Return each prompt's Spearman correlation of an update's N90 with depth, [prompt]; below zero it narrows."""
    values = dataset.update_n90.sel(component=component, variant=variant).transpose("prompt", "layer").values
    ranks = np.apply_along_axis(rankdata, 1, values)
    layers = np.arange(values.shape[1])
    centred, along = ranks - ranks.mean(1, keepdims=True), layers - layers.mean()
    norms = np.linalg.norm(centred, axis=1) * np.linalg.norm(along)
    trend = np.divide(centred @ along, norms, out=np.full(len(values), np.nan), where=norms > 0)
    return xr.DataArray(trend, dims="prompt", coords={"prompt": dataset.prompt})
