"""exp14: which window of MLPs, put into PT or taken out of IT, moves the late distance most, and on which read-out?

From exp11's dataset alone: shifts against the host's baseline, by side, window and read-out; paired tests; and the
bootstrap probability that a window is the strongest. "Late is strongest" is asked of every read-out, not only of the one
that the study reports.
"""

import numpy as np
import xarray as xr

from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.core.store import described
from nbhelpers.measures.graft_shifts import RULE, WINDOWS, by_window, shifts, strongest_window, tested

# Read-out → the sign of what the study calls a shift towards IT, on the PT side; the IT side's is the other one.
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
UNITS = {
    "shift": ("nats, layers or 1", "change from the host's baseline, by read-out"),
    "mean": ("nats, layers or 1", "mean change over prompts"),
    "low": ("nats, layers or 1", "lower end of its BCa interval"),
    "high": ("nats, layers or 1", "upper end of its BCa interval"),
    "p": ("1", "two-sided p of the sign-flip test over prompts"),
    "p_holm": ("1", "the same, Holm over windows and sides, within each read-out, region, lens and basis"),
    "strongest": (
        "1",
        "bootstrap probability that the window has the largest change in the study's direction",
    ),
}


def readouts(changed: xr.Dataset) -> xr.DataArray:
    """Return the shifts of every read-out, (readout, region, side, window, lens, basis, prompt).

    changed: of `effects.by_window`. A read-out without layers, such as the commitment layer, is the same in both
    regions; one without a lens, such as the δ-cosine, the same for all. The distance to the teacher's final is NaN on
    IT's side, where the teacher is the baseline.
    """
    found = {name: changed[name] for name in TOWARDS_IT if name in changed}
    found["commitment"] = changed.commitment.sel(rule=RULE, drop=True)
    for component in ("block", "mlp"):
        found[f"delta_cosine_{component}"] = changed.delta_cosine.sel(component=component, drop=True)
    # On IT's side the teacher is the baseline itself: the same distance as the read-out before, in another name.
    found["kl_layer_teacher_final"] = found["kl_layer_teacher_final"].where(changed.side == "sufficiency")
    whole = xr.broadcast(*(found[name] for name in TOWARDS_IT))
    dims = ("readout", "region", "side", "window", "lens", "basis", "prompt")
    names = xr.IndexVariable("readout", list(TOWARDS_IT))
    return xr.concat(whole, names, coords="minimal", compat="override").transpose(*dims)


def towards(shift: xr.DataArray) -> xr.DataArray:
    """Return shifts with the sign turned: above zero, IT's MLPs bring what the study calls IT's, or PT's take it away."""
    sign = xr.DataArray(
        [TOWARDS_IT[name] for name in shift.readout.values], {"readout": shift.readout.values}
    )
    side = xr.DataArray(
        [1 if name == "sufficiency" else -1 for name in shift.side.values], {"side": shift.side.values}
    )
    return shift * sign * side


def summarise(grafted: xr.Dataset, options: ExperimentParams) -> xr.Dataset:
    """Return exp14's dataset for one pair, from exp11's: `shift`, its tests, and `strongest`.

    `mean`, `low`, `high`, `p`, `p_holm` (readout, region, side, window, lens, basis); `strongest` likewise. IT's replies.
    """
    of_it = grafted.sel(teacher="it", drop=True)
    shift = readouts(by_window(shifts(of_it)).sel(window=list(WINDOWS))).astype(float)
    draws = {"n_resamples": options.n_resamples, "seed": options.seed}
    found = tested(shift, within=("readout", "region", "lens", "basis"), **draws)
    found["strongest"] = strongest_of(towards(shift), **draws)
    found["shift"] = shift.astype(np.float32)
    return described(found, UNITS).assign_attrs(n_layers=grafted.attrs["n_layers"])


def strongest_of(values: xr.DataArray, **draws) -> xr.DataArray:
    """Return `effects.strongest_window` of values (…, window, prompt), NaN where one was not read."""
    values = values.transpose("prompt", ..., "window")
    rest = values.isel(prompt=0, drop=True)
    flat = values.values.reshape(values.sizes["prompt"], -1, values.sizes["window"])
    whole = ~np.isnan(flat).any((0, 2))
    shares = np.full(flat.shape[1:], np.nan)
    if whole.any():
        cases = xr.DataArray(flat[:, whole], dims=("prompt", "case", "window"))
        shares[whole] = strongest_window(cases, **draws).values
    return rest.copy(data=shares.reshape(rest.shape))
