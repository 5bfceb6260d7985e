"""The quantities of exp14, from one pair's dataset. Replies are IT's, each host read through its own lens."""

import xarray as xr

from nbhelpers.measures.graft_shifts import WINDOWS
from nbhelpers.report.quantities import lead

SIDES = {"sufficiency": "b", "necessity": "d"}


def quantities(result: xr.Dataset) -> dict:
    """Return exp14's quantities by side and window: shifts of late distance, commitment and δ-cosine."""
    shift = result["shift"].sel(lens="tuned", basis="host", drop=True)
    fifth, found = shift.sel(region="final_fifth", drop=True), {}
    for side, letter in SIDES.items():
        for window in WINDOWS:
            at, name = {"side": side, "window": window, "drop": True}, f"{side}.{window}"
            found[f"kl_shift.{name}"] = fifth.sel(readout="kl_layer_final", **at)
            inside = shift.sel(region="window", readout="kl_layer_final", **at)
            found[f"kl_window_shift.{name}"] = inside
            found[f"commitment_shift.{name}"] = fifth.sel(readout="commitment", **at)
            found[f"mlp_cosine_shift.{name}"] = fifth.sel(readout="delta_cosine_mlp", **at)
            cross = fifth.sel(readout="kl_layer_teacher", **at)
            # The baseline of IT's side is the teacher itself, so that its shift is a level.
            level = f"cross_kl_level.{letter}_{window}"
            found[level if side == "necessity" else f"cross_kl_shift.{name}"] = cross
        sign = 1 if side == "sufficiency" else -1
        found[f"late_lead.{side}"] = lead({w: sign * found[f"kl_shift.{side}.{w}"] for w in WINDOWS})
    return found
