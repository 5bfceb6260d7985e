"""The quantities of exp11, from one pair's dataset.

All replies are IT's. Published figures use the tuned lens over the final fifth of the layers, unless a name says
otherwise (`window`: the replaced layers). Names with `_shift` are differences from the same host with nothing replaced.
These and `commitment_layer` are read through PT's lens; other levels and names under `shift.`, through each host's own.
Conditions have the names of `CONDITIONS`.
"""

from collections.abc import Mapping

import xarray as xr

from nbhelpers.core import stats
from nbhelpers.core.depths import final_fifth
from nbhelpers.measures import graft_shifts
from nbhelpers.measures.graft_shifts import RULE, WINDOWS
from nbhelpers.report.graft_charts import (
    BY_PROMPT,
    CONDITIONS,
    CONTROLS,
    LAST,
    UPDATED_MLP,
    lead,
    margin,
    study_windows,
)
from nbhelpers.report.quantities import Quantities, Quantity, levels, shifts

# Name of a graft in quantities → its condition.
GRAFTS = {"early": "B_early", "mid": "B_mid", "late": "B_late", "template": "B2"}
PUBLISHED = {
    "kl_shift": "kl_layer_final",
    "cross_kl_shift": "kl_layer_teacher",
    "mlp_cosine_shift": "delta_cosine",
}
LATE = ("kl_layer_final", "kl_layer_teacher", "js_teacher", "delta_cosine", "commitment", "nll")
UNITS = {"delta_cosine": "cosine", "commitment": "layers"}
NOT_KEPT = "the first step at which two conditions of PT part is kept against the teacher and the host alone"
UNMEASURED = {
    "first_difference_range.least": NOT_KEPT,
    "first_difference_range.most": NOT_KEPT,
    "structural_mass_shift": "the probability of all structural tokens together is not kept",
}


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp11's quantities: shifts by window and in the template branch, levels, commitment, first divergence."""
    of_it = result.sel(teacher="it", drop=True)
    changed = graft_shifts.shifts(of_it)
    return as_published(changed) | through_hosts(changed, of_it["n_tokens"]) | graft_levels(of_it)


def as_published(changed: xr.Dataset) -> Quantities:
    """Return the shifts by IT's MLPs in PT, read through PT's lens, in the final fifth and in the window itself."""
    changed = changed.sel(lens="tuned", basis="pt", component="mlp", rule=RULE).reset_coords(drop=True)
    found, unit = {}, {"kl_shift": "nats", "cross_kl_shift": "nats", "mlp_cosine_shift": "cosine"}
    note = {"mlp_cosine_shift": UPDATED_MLP}
    for window, condition in GRAFTS.items():
        one = changed.sel(condition=condition, drop=True)
        for name, readout in PUBLISHED.items():
            named = {f"{name}.{region}.{window}": one[readout].sel(region=region, drop=True)
                     for region in ("final_fifth", "window")}  # fmt: skip
            found |= shifts(named, unit[name], note.get(name, BY_PROMPT + LAST))
        found |= shifts(
            {f"commitment_shift.{window}": one["commitment"]}, "layers", f"in layers of this model{LAST}"
        )
    moved = {w: found[f"kl_shift.final_fifth.{w}"].values for w in WINDOWS}
    leads = {"late_lead": lead(moved), "late_margin": margin(moved)}
    return found | shifts(leads, "nats", BY_PROMPT + LAST)


def through_hosts(changed: xr.Dataset, n_tokens: xr.DataArray) -> Quantities:
    """Return the late window's shifts in the final fifth through each host's lens, by read-out, side, control and lens.

    `shift.<read-out>.<side>.<control>.<lens>`; with `.by_token`, every token has the same weight;
    `shift.<read-out>.template.<lens>`: B2 − A'_tmpl.
    """
    found = {}
    for control in CONTROLS:
        chosen = study_windows(changed[list(LATE)], control).sel(window="late", drop=True)
        for readout in LATE:
            values = _final_fifth(chosen[readout])
            for side in values["side"].values:
                found |= _by_lens(
                    f"shift.{readout}.{side}.{control}", values.sel(side=side, drop=True), readout
                )
    branch = changed.sel(condition="B2", basis="host")
    for readout in ("kl_layer_final", "kl_layer_teacher"):
        found |= _by_lens(f"shift.{readout}.template", _final_fifth(branch[readout]), readout)
    pooled = {}
    for name in [name for name in found if name.startswith("shift.kl_layer_final.") and ".graft." in name]:
        values = found[name].values
        weights = n_tokens.sel(prompt=values["prompt"])
        pooled[f"{name}.by_token"] = float(stats.token_weighted_mean(values.values, weights.values))
    return found | shifts(pooled, "nats") | beyond_controls(found)


def beyond_controls(found: Quantities) -> Quantities:
    """Return `beyond.<control>.<lens>`: how much more IT's late MLPs raise PT's KL(layer ‖ own final) than a control does."""
    names = {
        f"beyond.{control}.{lens}": f"shift.kl_layer_final.sufficiency.{{}}.{lens}"
        for control in ("scrambled", "permuted") for lens in ("raw", "tuned")
    }  # fmt: skip
    return shifts({
        name: found[of.format("graft")].values - found[of.format(name.split(".")[1])].values for name, of in names.items()
    }, "nats")  # fmt: skip


def _final_fifth(values: xr.DataArray) -> xr.DataArray:
    """Return the shifts of one read-out in the final fifth: δ-cosine of the MLP, commitment by the study's rule."""
    wanted = {"region": "final_fifth", "rule": RULE, "component": "mlp"}
    return values.sel({dim: at for dim, at in wanted.items() if dim in values.dims}).reset_coords(drop=True)


def _by_lens(name: str, values: xr.DataArray, readout: str) -> Quantities:
    """Return shifts [prompt] by lens; a read-out that needs no lens has the same values for both."""
    named = {f"{name}.{lens}": values.sel(lens=lens, drop=True) if "lens" in values.dims else values
             for lens in ("raw", "tuned")}  # fmt: skip
    return shifts(named, UNITS.get(readout, "nats"))


def graft_levels(of_it: xr.Dataset) -> Quantities:
    """Return each condition's own values: late distances, commitment, first divergence from the teacher, length."""
    late, found = list(final_fifth(of_it.sizes["layer"])), {}
    tuned = of_it.sel(lens="tuned", drop=True)
    host = tuned.sel(basis="host", drop=True)
    commitment = tuned["commitment"].sel(rule=RULE, basis="pt", drop=True)
    for short, name in CONDITIONS.items():
        own = host.sel(condition=name, drop=True)
        mean = (
            own[["kl_layer_final", "kl_layer_teacher", "residual_cosine_teacher"]]
            .isel(layer=late)
            .mean("layer")
        )
        at = {
            f"kl_level.{short}": mean["kl_layer_final"],
            f"cross_kl_level.{short}": mean["kl_layer_teacher"],
        }
        found |= levels(at, "nats", BY_PROMPT + LAST)
        found |= levels({f"residual_cosine.{short}": mean["residual_cosine_teacher"]}, "cosine")
        missed = own["first_divergence_teacher"]
        # The study leaves out a reply that the condition would have written whole; its length stands in `first_miss`.
        any_miss = missed.where(missed < own["n_tokens"])
        found |= levels({f"first_miss.{short}": missed, f"first_miss_where_any.{short}": any_miss}, "tokens")
        found |= levels({f"agreement.{short}": own["agreement_teacher"]}, "1")
        layer = {f"commitment_layer.{short}": commitment.sel(condition=name, drop=True)}
        found |= levels(layer, "layers", f"in layers of this model{LAST}")
    return found | levels({"reply_length.it": of_it["n_tokens"]}, "tokens", "shorter texts than in the study")


def across(found: Mapping[str, Quantities]) -> Quantities:
    """Return the smallest and the largest shift of late KL(layer ‖ own final) by IT's late MLPs among the dense families."""
    name = "kl_shift.final_fifth.late"
    rises = [float(of[name].values.mean()) for title, of in found.items() if title != "deepseek"]
    ends = {"least": min(rises), "most": max(rises)}
    return {
        f"kl_shift_range.{end}": Quantity(rise, "nats", "shift", 0.0, BY_PROMPT + LAST)
        for end, rise in ends.items()
    }


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "kl_shift_range.*": ("main_figure", across),
    "kl_shift.*.template": ("branch-table", as_published),
    "kl_shift.*": ("main_figure", as_published),
    "cross_kl_shift.*": ("late-table", as_published),
    "mlp_cosine_shift.*": ("late-table", as_published),
    "commitment_shift.*": ("late-table", as_published),
    "late_lead": ("main_figure", lead),
    "late_margin": ("main_figure", margin),
    "shift.*.template.*": ("branch-table", through_hosts),
    "shift.*": ("controls", through_hosts),
    "cross_kl_level.*": ("teacher-figure", graft_levels),
    "kl_level.*": ("trajectories", graft_levels),
    "residual_cosine.*": ("teacher-figure", graft_levels),
    "commitment_layer.*": ("late-table", graft_levels),
    "first_miss*": ("divergence", graft_levels),
    "agreement.*": ("divergence", graft_levels),
    "reply_length.*": ("divergence", graft_levels),
}
