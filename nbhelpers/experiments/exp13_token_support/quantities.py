"""The quantities of exp13, from one pair's dataset. Replies are IT's, each host read through its own lens."""

import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp13_token_support import support
from nbhelpers.measures.graft_shifts import WINDOWS
from nbhelpers.report.quantities import CONDITIONS

UPDATED = ("a", "b_late", "c", "d_late")
GROUPS = ("format", "content", "function_other")
ROLES = {"displaced": "displaced_share", "supported": "supported_share", "change": "share_change"}


def quantities(result: xr.Dataset) -> dict:
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
