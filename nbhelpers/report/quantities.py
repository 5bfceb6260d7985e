"""The quantities of the claims ledger, computed from one result of one pair; no model is loaded, nothing is drawn.

A metric's name says what it is of: `.raw` or `.tuned` for the lens, `.pt` or `.it` for one variant (`.it_plain` is IT
without its template); without a variant it is IT − PT. Clouds of states and attention are read under a template, `.raw`
or `.chat` for both models, `.native` for each model's own.
"""

import numpy as np
import xarray as xr

from nbhelpers.core import depths, params
from nbhelpers.measures.graft_shifts import WINDOWS

VARIANTS = params.VARIANTS
SPECTRA = ("participation_ratio", "effective_rank", "first_share")


def shift(values: xr.DataArray) -> xr.DataArray:
    """Return IT − PT, without the variant dimension."""
    return values.sel(variant="it", drop=True) - values.sel(variant="pt", drop=True)


def over(values: xr.DataArray, layers) -> xr.DataArray:
    """Return the mean over some layers, by their numbers."""
    return values.isel(layer=list(layers)).mean("layer")


def by_variant(name: str, values: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return values of each variant by name and variant, `name.pt` and `name.it`."""
    return {f"{name}.{v}": values.sel(variant=v, drop=True) for v in VARIANTS}


def weights(result: xr.Dataset) -> dict:
    """Return how much parameters moved, RMS, by kind of module: mean, spread, peak, late over early layers."""
    found, n = {}, result.sizes["layer"]
    for group in ("mlp", "attention"):
        rms = result["weight_rms"].sel(group=group).values
        found[f"weight_mean.{group}"] = rms.mean()
        found[f"weight_variation.{group}"] = rms.std() / rms.mean()
        found[f"weight_peak_layer.{group}"] = np.argmax(rms)
        for name, start in {"late": depths.onset(n), "last_third": 2 * n // 3}.items():
            found[f"weight_{name}_ratio.{group}"] = rms[start:].mean() / rms[:start].mean()
    return found


def read_as(values: xr.DataArray, reading: str) -> xr.DataArray:
    """Return values under one template for both models, or under each model's native one."""
    if reading != "native":
        return values.sel(template=reading, drop=True)
    parts = [values.sel(variant=v, template=template, drop=True) for v, template in params.NATIVE.items()]
    return xr.concat(parts, "variant").assign_coords(variant=list(params.NATIVE))


def clouds(result: xr.Dataset) -> dict:
    """Return dimension and spectrum of the states at the prompt's end, and attention entropy there, where measured."""
    found, n = {}, result.sizes["layer"]
    late = depths.final_fifth(n)
    for reading in ("raw", "chat", "native"):
        for estimator in result["estimator"].values if "dimension" in result else ():
            one = shift(read_as(result["dimension"].sel(estimator=estimator, drop=True), reading))
            found[f"late_dimension_shift.{estimator}.{reading}"] = over(one, late)
            found[f"last_dimension_shift.{estimator}.{reading}"] = one.isel(layer=-1)
        for name in SPECTRA:
            if name in result:
                found[f"late_{name}_shift.{reading}"] = over(shift(read_as(result[name], reading)), late)
        if "attention_entropy" in result:
            found |= attention(read_as(result["attention_entropy"], reading), reading)
    return found


def attention(entropy: xr.DataArray, reading: str) -> dict:
    """Return shifts of attention entropy, nats, [cloud_prompt]: over all layers and around a third of the depth."""
    by_prompt, n = shift(entropy), entropy.sizes["layer"]
    centre, reach = round(0.33 * n), max(1, n // 10)
    around = range(max(centre - reach, 0), min(centre + reach + 1, n))
    return {
        f"attention_entropy_shift.{reading}": by_prompt.mean("layer"),
        f"attention_entropy_shift_third.{reading}": over(by_prompt, around),
        f"attention_entropy_shift_third_layer.{reading}": by_prompt.isel(layer=centre, drop=True),
        f"attention_entropy_peak_layer.{reading}": np.argmax(abs(by_prompt.mean("cloud_prompt").values)),
    }


def with_shift(name: str, values: xr.DataArray, suffix: str = "") -> dict:
    """Return values of each variant and IT − PT: `name.suffix.pt`, `name.suffix.it`, `name_shift.suffix`."""
    return by_variant(name + suffix, values) | {f"{name}_shift{suffix}": shift(values)}


CONDITIONS = {
    "a": "A'", "b_early": "B_early", "b_mid": "B_mid", "b_late": "B_late", "a_template": "A'_tmpl",
    "b2": "B2", "c": "C", "d_early": "D_early", "d_mid": "D_mid", "d_late": "D_late",
}  # fmt: skip


def lead(changed: dict[str, xr.DataArray]) -> xr.DataArray:
    """Return the late window's value minus the larger of the other windows' means, or of zero, by prompt; {window: [prompt]}.

    A window leads only in the direction that the study claims: a late change of the other sign is no lead.
    """
    others = [changed[name] for name in WINDOWS if name != "late"] + [0 * changed["late"]]
    return changed["late"] - max(others, key=lambda values: float(values.mean()))
