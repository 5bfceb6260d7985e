"""The quantities of exp11, from one pair's dataset.

Replies are IT's. Distances are KL(layer ‖ own final) through the tuned lens over the final fifth, unless a name says
otherwise: `window` is the replaced layers. Shifts are against the same host with nothing replaced, read through PT's
lens; levels through each host's own. Conditions go by the names of `CONDITIONS`.
"""

import xarray as xr

from nbhelpers.core.depths import final_fifth
from nbhelpers.measures.graft_shifts import RULE, WINDOWS, shifts
from nbhelpers.report.quantities import CONDITIONS, lead

# What the grafts of exp11 are called → their condition.
GRAFTS = {"early": "B_early", "mid": "B_mid", "late": "B_late", "template": "B2"}
READINGS = {
    "kl_shift": "kl_layer_final",
    "cross_kl_shift": "kl_layer_teacher",
    "mlp_cosine_shift": "delta_cosine",
}


def quantities(result: xr.Dataset) -> dict:
    """Return exp11's quantities: shifts by window and in the template branch, levels, commitment, first divergence."""
    of_it = result.sel(teacher="it", drop=True)
    return graft_shifts(of_it) | graft_levels(of_it)


def graft_shifts(of_it: xr.Dataset) -> dict:
    """Return what IT's MLPs change in PT, read through PT's lens, in the final fifth and in the window itself."""
    changed = shifts(of_it[[*READINGS.values(), "commitment"]])
    changed = changed.sel(lens="tuned", basis="pt", component="mlp", rule=RULE).reset_coords(drop=True)
    found = {}
    for window, condition in GRAFTS.items():
        one = changed.sel(condition=condition, drop=True)
        for name, reading in READINGS.items():
            for region in ("final_fifth", "window"):
                found[f"{name}.{region}.{window}"] = one[reading].sel(region=region, drop=True)
        found[f"commitment_shift.{window}"] = one["commitment"]
    return found | {"late_lead": lead({w: found[f"kl_shift.final_fifth.{w}"] for w in WINDOWS})}


def graft_levels(of_it: xr.Dataset) -> dict:
    """Return each condition's own values: late distances, commitment, first divergence from the teacher, length."""
    late, found = list(final_fifth(of_it.sizes["layer"])), {}
    tuned = of_it.sel(lens="tuned", drop=True)
    host = tuned.sel(basis="host", drop=True)
    for short, name in CONDITIONS.items():
        own, at = host.sel(condition=name, drop=True), {"condition": name, "drop": True}
        found[f"kl_level.{short}"] = own["kl_layer_final"].isel(layer=late).mean("layer")
        found[f"cross_kl_level.{short}"] = own["kl_layer_teacher"].isel(layer=late).mean("layer")
        found[f"residual_cosine.{short}"] = own["residual_cosine_teacher"].isel(layer=late).mean("layer")
        found[f"first_miss.{short}"] = own["first_divergence_teacher"]
        found[f"commitment_layer.{short}"] = (
            tuned["commitment"].sel(rule=RULE, basis="pt", drop=True).sel(**at)
        )
    return found | {"reply_length.it": of_it["n_tokens"]}
