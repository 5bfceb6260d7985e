"""The quantities of exp07_0g, from one pair's dataset."""

import xarray as xr

from nbhelpers.report.quantities import VARIANTS, by_variant


def ratio(part: xr.DataArray, whole: xr.DataArray) -> xr.DataArray:
    """Return values [prompt] whose mean is mean(part) / mean(whole) and whose spread is that ratio's, to first order."""
    found = part.mean() / whole.mean()
    return found + (part - found * whole) / whole.mean()


def quantities(result: xr.Dataset) -> dict:
    """Return by how much the tuned lens is closer than the raw one at 0.6 of the depth, and how often each agrees."""
    n, found = result.sizes["layer"], {}
    for v in VARIANTS:
        kl = result["kl_final_layer"].sel(variant=v).isel(layer=int(0.6 * n))
        raw, tuned = (kl.sel(lens=name, drop=True) for name in ("raw", "tuned"))
        found[f"lens_improvement.{v}"] = ratio(raw - tuned, raw)
        for lens in ("raw", "tuned"):
            top1 = result["top1_agreement"].sel(variant=v, lens=lens, drop=True)
            found[f"top1_agreement.{lens}.{v}"] = top1.mean("layer")
            found[f"top1_agreement_last_layer.{lens}.{v}"] = top1.isel(layer=-1)
    return found | by_variant("last_layer_kl", result["last_layer_kl"])
