"""exp14: which window of MLPs, grafted into PT or replaced in IT, changes late KL most, and on which read-outs?

Computed from exp11's dataset alone: shifts from the host's baseline by side, window and read-out; paired tests; and the
bootstrap probability that a window is the strongest, for every read-out, not only for the one that the study reports.
"""

import numpy as np
import xarray as xr

from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.measures.graft_shifts import RULE, WINDOWS, by_window, shifts, strongest_window, tested

# Read-out → the sign that the study calls a shift towards IT, for grafts into PT; for grafts into IT it is reversed.
TOWARDS_IT = {
    "kl_layer_final": 1,
    "kl_final_layer": 1,
    "kl_layer_baseline_final": 1,
    "kl_layer_teacher_final": -1,
    "kl_layer_teacher": -1,
    "js_teacher": -1,
    "entropy": 1,
    "commitment": 1,
    "delta_cosine_block": -1,
    "delta_cosine_mlp": -1,
    "nll": -1,
}


def readouts(changed: xr.Dataset) -> xr.DataArray:
    """Return the shifts of every read-out, (readout, region, side, window, lens, basis, prompt).

    changed: from `graft_shifts.by_window`. A read-out without layers, such as the commitment layer, is the same in both
    regions; one without a lens, such as the δ-cosine, is the same for all lenses. The divergence from the teacher's final
    is NaN on IT's side, where the teacher is the baseline.
    """
    found = {name: changed[name] for name in TOWARDS_IT if name in changed}
    found["commitment"] = changed.commitment.sel(rule=RULE, drop=True)
    for component in ("block", "mlp"):
        found[f"delta_cosine_{component}"] = changed.delta_cosine.sel(component=component, drop=True)
    # On IT's side the teacher is the baseline, so this would repeat `kl_layer_baseline_final` under another name.
    found["kl_layer_teacher_final"] = found["kl_layer_teacher_final"].where(changed.side == "sufficiency")
    whole = xr.broadcast(*(found[name] for name in TOWARDS_IT))
    dims = ("readout", "region", "side", "window", "lens", "basis", "prompt")
    names = xr.IndexVariable("readout", list(TOWARDS_IT))
    return xr.concat(whole, names, coords="minimal", compat="override").transpose(*dims)


def towards(shift: xr.DataArray) -> xr.DataArray:
    """Return shifts with signs such that, above zero, IT's MLPs add what the study calls IT-like, or PT's MLPs remove it."""
    sign = xr.DataArray(
        [TOWARDS_IT[name] for name in shift.readout.values], {"readout": shift.readout.values}
    )
    side = xr.DataArray(
        [1 if name == "sufficiency" else -1 for name in shift.side.values], {"side": shift.side.values}
    )
    return shift * sign * side


def window_shifts(grafted: xr.Dataset) -> xr.DataArray:
    """Return every read-out's shift by side and window, B_w − A' and D_w − C, from exp11's dataset, on IT's replies."""
    changed = by_window(shifts(grafted.sel(teacher="it", drop=True)))
    return readouts(changed.sel(window=list(WINDOWS))).astype(float)


def tests_of(shift: xr.DataArray, **draws) -> xr.Dataset:
    """Return `graft_shifts.tested` of shifts, corrected within each read-out, region, lens and basis."""
    return tested(shift, within=("readout", "region", "lens", "basis"), **draws)


def summarise(grafted: xr.Dataset, options: ExperimentParams) -> xr.Dataset:
    """Return exp14's dataset for one pair, from exp11's: `shift`, its tests, and `strongest`.

    `mean`, `low`, `high`, `p`, `p_holm` and `strongest` have the dims (readout, region, side, window, lens, basis). All
    replies are IT's.
    """
    shift, draws = window_shifts(grafted), {"n_resamples": options.n_resamples, "seed": options.seed}
    strongest = strongest_of(towards(shift), **draws)
    found = tests_of(shift, confidence=options.confidence, **draws).assign(
        strongest=strongest, shift=shift.astype(np.float32)
    )
    return found.assign_attrs(n_layers=grafted.attrs["n_layers"])


def strongest_of(values: xr.DataArray, **draws) -> xr.DataArray:
    """Return `graft_shifts.strongest_window` of values (…, window, prompt), NaN where a window was not read."""
    values = values.transpose("prompt", ..., "window")
    rest = values.isel(prompt=0, drop=True)
    flat = values.values.reshape(values.sizes["prompt"], -1, values.sizes["window"])
    whole = ~np.isnan(flat).any((0, 2))
    shares = np.full(flat.shape[1:], np.nan)
    if whole.any():
        cases = xr.DataArray(flat[:, whole], dims=("prompt", "case", "window"))
        shares[whole] = strongest_window(cases, **draws).values
    return rest.copy(data=shares.reshape(rest.shape))
