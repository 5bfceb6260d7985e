"""The ledger's quantities of experiments 11, 13 and 14, from one result of one pair; no model is loaded.

Replies are IT's. Distances are KL(layer ‖ own final) through the tuned lens over the final fifth, unless a name says
otherwise: `window` is the replaced layers. Shifts are against the same host with nothing replaced. exp11's shifts and
commitment layers are read through PT's lens, exp14's and all other levels through each host's own. Conditions go by the
names of `CONDITIONS`.
"""

import xarray as xr

from nbhelpers import stats, support
from nbhelpers.causality import RULE, WINDOWS
from nbhelpers.depths import final_fifth
from nbhelpers.effects import shifts

CONDITIONS = {
    "a": "A'", "b_early": "B_early", "b_mid": "B_mid", "b_late": "B_late", "a_template": "A'_tmpl",
    "b2": "B2", "c": "C", "d_early": "D_early", "d_mid": "D_mid", "d_late": "D_late",
}  # fmt: skip
UPDATED = ("a", "b_late", "c", "d_late")
# What the grafts of exp11 are called → their condition.
GRAFTS = {"early": "B_early", "mid": "B_mid", "late": "B_late", "template": "B2"}
SIDES = {"sufficiency": "b", "necessity": "d"}
GROUPS = ("format", "content", "function_other")
ROLES = {"displaced": "displaced_share", "supported": "supported_share", "change": "share_change"}
READINGS = {
    "kl_shift": "kl_layer_final",
    "cross_kl_shift": "kl_layer_teacher",
    "mlp_cosine_shift": "delta_cosine",
}


def lead(changed: dict[str, xr.DataArray]) -> xr.DataArray:
    """Return the late window's value minus the larger of the other windows' means, or of zero, by prompt; {window: [prompt]}.

    A window leads only in the direction that the study claims: a late change of the other sign is no lead.
    """
    others = [changed[name] for name in WINDOWS if name != "late"] + [0 * changed["late"]]
    return changed["late"] - max(others, key=lambda values: float(values.mean()))


# exp11


def exp11(result: xr.Dataset) -> dict:
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


# exp14


def exp14(result: xr.Dataset) -> dict:
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


# exp13


def exp13(result: xr.Dataset) -> dict:
    """Return exp13's quantities: tokens that the late graft replaces, rank gains, late wins, updates, correlations."""
    return replacements(result) | gains(result) | late_wins(result) | updates(result) | correlations(result)


def replacements(result: xr.Dataset) -> dict:
    """Return shares of token groups among the first tokens that the late graft displaces and supports, tuned lens.

    With the share of cells that it replaces, and the overlap of the twenty best tokens with and without it.
    """
    counts = result["replaced"].sel(condition=["B_late"], lens=["tuned"])
    shares, found = support.shares(support.grouped(counts, "displaced", "supported")).squeeze(), {}
    for role, name in ROLES.items():
        for group in GROUPS:
            one = shares.sel(role=role, token_class=group)
            found[f"{name}.{group}"] = stats.Interval(*(float(one[end]) for end in ("value", "low", "high")))
    cells = result["n_steps"].sum(["part", "token_class"]) * result["cells_per_step"]
    found["replaced_share"] = counts.squeeze(drop=True).sum(["displaced", "supported"]) / cells
    overlap = result["candidate_overlap"].sel(measured="B_late", lens="tuned", drop=True)
    return found | {"candidate_overlap": overlap.reset_coords(drop=True)}


def all_steps(means: xr.Dataset, dim: str = "part") -> xr.Dataset:
    """Return means over steps of all parts, every step counting once; with `n_steps`."""
    steps = means["n_steps"]
    total = steps.sum(dim)
    found = (means.drop_vars("n_steps") * steps).sum(dim) / total.where(total > 0)
    return found.assign(n_steps=total)


def gains(result: xr.Dataset) -> dict:
    """Return what each graft does for the rank of the teacher's token by group, late layers, all steps."""
    means, found = all_steps(result[["rank_gain", "rank_win", "n_steps"]]).reset_coords(drop=True), {}
    groups = support.grouped_means(means)
    for window in WINDOWS:
        for group in GROUPS:
            one = groups.sel(condition=f"B_{window}", lens="tuned", token_class=group, drop=True)
            found[f"rank_gain.{window}.{group}"] = one["rank_gain"]
            found[f"rank_win.{window}.{group}"] = one["rank_win"]
    whole = all_steps(means, "token_class")["rank_gain"].sel(lens="raw", drop=True)
    for short in ("b_late", "d_late"):
        found[f"rank_gain_raw.{short}"] = whole.sel(condition=CONDITIONS[short], drop=True)
    raw = groups["rank_gain"].sel(condition="B_late", lens="raw", drop=True)
    return found | {f"rank_gain_raw.b_late.{g}": raw.sel(token_class=g, drop=True) for g in GROUPS}


def late_wins(result: xr.Dataset) -> dict:
    """Return the share of steps whose token first leads at a late layer, and what the late graft adds to it."""
    means = all_steps(all_steps(result[["late_win", "n_steps"]]), "token_class")["late_win"]
    means = means.sel(lens="tuned", drop=True).reset_coords(drop=True)
    found = {
        f"late_win.{short}": means.sel(reader=CONDITIONS[short], drop=True) for short in ("a", "b_late", "c")
    }
    return found | {"late_win_shift.b_late": found["late_win.b_late"] - found["late_win.a"]}


def updates(result: xr.Dataset) -> dict:
    """Return late MLP updates along each axis, mean over the final fifth."""
    mean = result["projection"].mean("layer").reset_coords(drop=True)
    return {
        f"projection.{axis}.{short}": mean.sel(axis=axis, measured=CONDITIONS[short], drop=True)
        for axis in mean["axis"].values
        for short in UPDATED
    }


def correlations(result: xr.Dataset) -> dict:
    """Return r of late updates with the late distance over the steps of all conditions together, as the study pooled."""
    one, found = result.sel(kind="level", given="nothing", measured="pooled", lens="tuned"), {}
    # The study gave it of projections and of cosines; the others have one scale.
    for scale, name in (("projection", "late_kl_r"), ("cosine", "late_kl_r_cosine")):
        for feature in one["feature"].values:
            if scale == "projection" or feature in result["axis"]:
                ends = (
                    float(one[part].sel(feature=feature, scale=scale)) for part in ("r", "r_low", "r_high")
                )
                found[f"{name}.{feature}"] = stats.Interval(*ends)
    return found
