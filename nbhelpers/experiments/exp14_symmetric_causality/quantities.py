"""The quantities of exp14, from one pair's dataset. All replies are IT's; each host is read through its own lens."""

import xarray as xr

from nbhelpers.measures.graft_shifts import WINDOWS
from nbhelpers.report.graft_charts import BY_PROMPT, LAST, UPDATED_MLP, lead, margin
from nbhelpers.report.quantities import Quantities, levels, shifts

SIDES = {"sufficiency": "b", "necessity": "d"}
UNMEASURED = {}


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp14's quantities by side and window: shifts of late KL, commitment and δ-cosine, and the strongest window."""
    shift = result["shift"].sel(lens="tuned", basis="host", drop=True)
    fifth, found = shift.sel(region="final_fifth", drop=True), {}
    for side, letter in SIDES.items():
        moved = {}
        for window in WINDOWS:
            at, name = {"side": side, "window": window, "drop": True}, f"{side}.{window}"
            moved[window] = fifth.sel(readout="kl_layer_final", **at)
            inside = shift.sel(region="window", readout="kl_layer_final", **at)
            found |= shifts(
                {f"kl_shift.{name}": moved[window], f"kl_window_shift.{name}": inside},
                "nats",
                BY_PROMPT + LAST,
            )
            layer = {f"commitment_shift.{name}": fifth.sel(readout="commitment", **at)}
            found |= shifts(layer, "layers", f"in layers of this model{LAST}")
            cosine = {f"mlp_cosine_shift.{name}": fifth.sel(readout="delta_cosine_mlp", **at)}
            found |= shifts(cosine, "cosine", UPDATED_MLP)
            cross = fifth.sel(readout="kl_layer_teacher", **at)
            # The baseline of IT's side is the teacher itself, so that its shift is a level.
            level = levels({f"cross_kl_level.{letter}_{window}": cross}, "nats", BY_PROMPT + LAST)
            moves = shifts({f"cross_kl_shift.{name}": cross}, "nats", BY_PROMPT + LAST)
            found |= level if side == "necessity" else moves
        sign = 1 if side == "sufficiency" else -1
        signed = {window: sign * values for window, values in moved.items()}
        leads = {f"late_lead.{side}": lead(signed), f"late_margin.{side}": margin(signed)}
        found |= shifts(leads, "nats", BY_PROMPT + LAST)
    return found | through_pt(result) | by_readout(result) | strongest(result)


def through_pt(result: xr.Dataset) -> Quantities:
    """Return `kl_shift_pt_lens.<side>.<window>`: late shifts of KL(layer ‖ own final) with every model read by PT's lens."""
    at = {"readout": "kl_layer_final", "region": "final_fifth", "lens": "tuned", "basis": "pt", "drop": True}
    read = result["shift"].sel(**at)
    moved = {
        f"kl_shift_pt_lens.{side}.{window}": read.sel(side=side, window=window, drop=True)
        for side in SIDES
        for window in WINDOWS
    }
    return shifts(moved, "nats", LAST)


def by_readout(result: xr.Dataset) -> Quantities:
    """Return `shift.<read-out>.<side>.<window>.<lens>`: shifts of every read-out in the final fifth."""
    fifth, found = result["shift"].sel(region="final_fifth", basis="host", drop=True), {}
    for readout in fifth["readout"].values:
        unit = "layers" if readout == "commitment" else "cosine" if "cosine" in str(readout) else "nats"
        for side in SIDES:
            for window in WINDOWS:
                one = fifth.sel(readout=readout, side=side, window=window, drop=True)
                named = {f"shift.{readout}.{side}.{window}.{lens}": one.sel(lens=lens, drop=True).reset_coords(drop=True)
                         for lens in ("raw", "tuned")}  # fmt: skip
                found |= shifts(named, unit)
    return found


def strongest(result: xr.Dataset) -> Quantities:
    """Return `strongest_late.<read-out>.<side>.<region>.<lens>`: the probability that the late window is the strongest."""
    late, found = result["strongest"].sel(window="late", basis="host", drop=True), {}
    for readout in late["readout"].values:
        for side in SIDES:
            for region in late["region"].values:
                one = late.sel(readout=readout, side=side, region=region)
                found |= {f"strongest_late.{readout}.{side}.{region}.{lens}": float(one.sel(lens=lens))
                          for lens in ("raw", "tuned")}  # fmt: skip
    return levels(found, "1")


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "kl_shift_pt_lens.*": ("main_figure", through_pt),
    "kl_*shift.*": ("main_figure", quantities),
    "late_lead.*": ("strongest", lead),
    "late_margin.*": ("strongest", margin),
    "commitment_shift.*": ("commitment", quantities),
    "mlp_cosine_shift.*": ("cosine", quantities),
    "cross_kl_*": ("cross", quantities),
    "shift.*": ("readouts", by_readout),
    "strongest_late.*": ("strongest", strongest),
}
