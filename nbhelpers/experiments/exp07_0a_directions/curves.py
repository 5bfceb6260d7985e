"""The curves of 0A by layer, as rows of its figure."""

import pandas as pd
import xarray as xr

CURVES = {
    "split_half": "disjoint halves", "pairwise": "resamples, as the study", "template": "own format against raw prompts",
    "chance": "exchanged labels",
}  # fmt: skip


def drawn(values: xr.DataArray) -> xr.Dataset:
    """Return the mean over draws of values [draw, …], and the ends of their middle 95 %."""
    ends = values.astype(float).quantile([0.025, 0.975], "draw")
    low, high = (ends.isel(quantile=i, drop=True) for i in (0, 1))
    return xr.Dataset({"mean": values.astype(float).mean("draw"), "low": low, "high": high})


def template_curve(dataset: xr.Dataset) -> xr.Dataset:
    """Return the cosine of the direction with that of raw prompts, by layer, with its interval over prompts."""
    layers = [str(layer) for layer in dataset["layer"].values]
    one = dataset["cosine"].sel(part="mean_raw", against="mean", place=layers).astype(float)
    ends = {end: ("layer", one.sel(end=end).values) for end in ("mean", "low", "high")}
    return xr.Dataset(ends, {"layer": dataset["layer"].values})


def stability_rows(dataset: xr.Dataset) -> pd.DataFrame:
    """Return a table of the four curves of 0A by layer: `curve`, `layer`, `mean`, `low`, `high`."""
    pairwise = dataset["pairwise"].astype(float)
    curves = {
        "split_half": drawn(dataset["split_half"]),
        "pairwise": xr.Dataset(dict.fromkeys(("mean", "low", "high"), pairwise)),
        "template": template_curve(dataset),
        "chance": drawn(dataset["chance"]),
    }
    frames = [
        c[["mean", "low", "high"]].to_dataframe().reset_index().assign(curve=CURVES[n])
        for n, c in curves.items()
    ]
    return pd.concat(frames, ignore_index=True)
