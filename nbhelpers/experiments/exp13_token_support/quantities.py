"""The quantities of exp13, from one pair's dataset. All replies are IT's; each host is read through its own lens."""

import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp13_token_support import support
from nbhelpers.measures.graft_shifts import WINDOWS
from nbhelpers.report.graft_charts import BY_PROMPT, CONDITIONS, UPDATED_MLP
from nbhelpers.report.quantities import LEXICON, Quantities, levels, shifts

UPDATED = ("a", "b_late", "c", "d_late")
GROUPS = ("format", "content", "function_other")
ROLES = {"displaced": "displaced_share", "supported": "supported_share", "change": "share_change"}
CLASSES = ("content", "function", "punctuation", "structural", "discourse", "other")
CLASSED = f"published: candidates classed by themselves; here: in their text; {LEXICON}"
NOISE = "here exactly 0 at the last layer, where the study's is rounding scaled to length 1"
ALL_ROWS = "published: among all vocabulary rows; here among those of tokens"
UNMEASURED = {
    f"dense_three.rank_gain.{window}.{group}": "a pool of the three families of which traces survive; here all families stand"
    for window in WINDOWS for group in GROUPS
}  # fmt: skip


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp13's quantities: tokens that the late graft replaces, rank gains, late wins, updates, correlations."""
    return replacements(result) | gains(result) | late_wins(result) | updates(result) | correlations(result)


def interval(one: xr.Dataset, *names: str) -> stats.Interval:
    """Return a value with its interval from the three named variables of a dataset."""
    return stats.Interval(*(float(one[name]) for name in names))


def replacements(result: xr.Dataset) -> Quantities:
    """Return shares of token groups and classes among the top-1 tokens that the late graft displaces and supports.

    Through the tuned lens; with the share of cells that the graft replaces, and the overlap of the twenty best tokens with
    and without it.
    """
    counts = result["replaced"].sel(condition=["B_late"], lens=["tuned"])
    shares, found = support.shares(support.grouped(counts, "displaced", "supported")).squeeze(), {}
    for role, name in ROLES.items():
        make = shifts if role == "change" else levels
        for group in GROUPS:
            one = shares.sel(role=role, token_class=group)
            found |= make({f"{name}.{group}": interval(one, "value", "low", "high")}, "1", CLASSED)
    each = result.sel(condition="B_late", lens="tuned")
    for role in ROLES:
        make = shifts if role == "change" else levels
        for kind in CLASSES:
            one = each.sel(role=role, token_class=kind)
            found |= make(
                {f"{role}_class.{kind}": interval(one, "share", "share_low", "share_high")}, "1", CLASSED
            )
    cells = result["n_steps"].sum(["part", "token_class"]) * result["cells_per_step"]
    replaced = counts.squeeze(drop=True).sum(["displaced", "supported"]) / cells
    found |= class_shifts(counts.squeeze(drop=True))
    overlap = (
        result["candidate_overlap"].sel(measured="B_late", lens="tuned", drop=True).reset_coords(drop=True)
    )
    return (
        found
        | levels({"replaced_share": replaced}, "1")
        | levels({"candidate_overlap": overlap}, "1", BY_PROMPT)
    )


def class_shifts(counts: xr.DataArray) -> Quantities:
    """Return `class_shift.<class>` [prompt] from counts (displaced, supported, prompt): a class's share of the tokens
    supported minus its share of those displaced.

    The mean is that of all replaced cells together; the spread over prompts is the ratio's, to first order, so that intervals
    at any confidence can be had.
    """
    total = counts.sum(["displaced", "supported"])
    won, lost = counts.sum("displaced"), counts.sum("supported")
    found = {}
    for kind in ("content", "function", "punctuation"):
        part = won.sel(supported=kind, drop=True) - lost.sel(displaced=kind, drop=True)
        share = part.sum() / total.sum()
        found[f"class_shift.{kind}"] = share + (part - share * total) / total.mean()
    return shifts(found, "1", CLASSED)


def all_steps(means: xr.Dataset, dim: str = "part") -> xr.Dataset:
    """Return means over the steps along `dim`, each step with the same weight; with `n_steps`."""
    steps = means["n_steps"]
    total = steps.sum(dim)
    found = (means.drop_vars("n_steps") * steps).sum(dim) / total.where(total > 0)
    return found.assign(n_steps=total)


def gains(result: xr.Dataset) -> Quantities:
    """Return each graft's rank gain of the teacher's token in late layers by group, over all steps; and the late graft's gain
    of its log rank by class, over later steps.
    """
    means, found = all_steps(result[["rank_gain", "rank_win", "n_steps"]]).reset_coords(drop=True), {}
    groups = support.grouped_means(means)
    for window in WINDOWS:
        for group in GROUPS:
            one = groups.sel(condition=f"B_{window}", lens="tuned", token_class=group, drop=True)
            found |= shifts(
                {f"rank_gain.{window}.{group}": one["rank_gain"]}, "ranks", f"{BY_PROMPT}; {LEXICON}"
            )
            found |= levels({f"rank_win.{window}.{group}": one["rank_win"]}, "1", f"{BY_PROMPT}; {LEXICON}")
    late = means["rank_gain"].sel(condition="B_late", lens="tuned", drop=True)
    classes = {
        f"rank_gain.late.{kind}": late.sel(token_class=kind, drop=True)
        for kind in CLASSES
        if kind != "content"
    }
    whole = all_steps(means, "token_class")["rank_gain"].sel(lens="raw", drop=True)
    raw = groups["rank_gain"].sel(condition="B_late", lens="raw", drop=True)
    named = {
        f"rank_gain_raw.{c}": whole.sel(condition=CONDITIONS[c], drop=True) for c in ("b_late", "d_late")
    }
    named |= {f"rank_gain_raw.b_late.{g}": raw.sel(token_class=g, drop=True) for g in GROUPS}
    later = result["log_rank_gain"].sel(part="later", condition="B_late", lens="tuned", drop=True)
    logs = {f"log_rank_gain_later.{kind}": later.sel(token_class=kind, drop=True) for kind in CLASSES}
    logs["function_before_content"] = (
        logs["log_rank_gain_later.function"] - logs["log_rank_gain_later.content"]
    )
    return (
        found
        | shifts(classes, "ranks", BY_PROMPT)
        | shifts(named, "ranks", f"{BY_PROMPT}; {ALL_ROWS}")
        | shifts({name: values.reset_coords(drop=True) for name, values in logs.items()}, "1")
    )


def late_wins(result: xr.Dataset) -> Quantities:
    """Return the share of steps at which a late layer is the first to rank the teacher's token first, and its shift."""
    means = all_steps(all_steps(result[["late_win", "n_steps"]]), "token_class")["late_win"]
    means = means.sel(lens="tuned", drop=True).reset_coords(drop=True)
    won = {c: means.sel(reader=CONDITIONS[c], drop=True) for c in ("a", "b_late", "c")}
    note = "published: all through PT's lens; here: each through its host's"
    found = levels({f"late_win.{c}": share for c, share in won.items()}, "1", note)
    return found | shifts({"late_win_shift.b_late": won["b_late"] - won["a"]}, "1", note)


def updates(result: xr.Dataset) -> Quantities:
    """Return the projections of late MLP updates on each axis, mean over the final fifth."""
    mean, found = result["projection"].mean("layer").reset_coords(drop=True), {}
    for axis in mean["axis"].values:
        along = mean.sel(axis=axis, drop=True)
        named = {f"projection.{axis}.{c}": along.sel(measured=CONDITIONS[c], drop=True) for c in UPDATED}
        note = f"{UPDATED_MLP}; {NOISE}" if axis == "anti_kl" else UPDATED_MLP
        found |= levels(named, "residual units", note, centre=0.0)
    return found


def correlations(result: xr.Dataset) -> Quantities:
    """Return r of late updates with late KL over the steps of all conditions together, as in the study; and the largest |r|
    of a shift of an update with the shift of late KL.
    """
    one, found = result.sel(kind="level", given="nothing", measured="pooled", lens="tuned"), {}
    # The study reports r for projections and for cosines of the axes; the other features have one scale.
    for scale, name in (("projection", "late_kl_r"), ("cosine", "late_kl_r_cosine")):
        for feature in one["feature"].values:
            if scale == "projection" or feature in result["axis"]:
                r = interval(one.sel(feature=feature, scale=scale), "r", "r_low", "r_high")
                note = ALL_ROWS if feature == "rank_gain" else UPDATED_MLP
                note += f"; {NOISE}" if feature in ("anti_kl", "remainder") else ""
                found |= levels({f"{name}.{feature}": r}, "1", note, centre=0.0)
    chosen = {"scale": "cosine", "kind": "shift", "given": "nothing", "lens": "tuned"}
    of_updates = [feature for feature in result["feature"].values if feature != "rank_gain"]
    largest = float(abs(result["r"].sel(chosen | {"feature": of_updates})).max())
    return found | levels({"shift_r.largest": largest}, "1")


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "displaced_*": ("main_figure", replacements),
    "supported_*": ("main_figure", replacements),
    "share_change.*": ("class-table", replacements),
    "change_class.*": ("class-table", replacements),
    "replaced_share": ("main_figure", replacements),
    "candidate_overlap": ("main_figure", replacements),
    "rank_*": ("gains", gains),
    "log_rank_gain_*": ("gains", gains),
    "late_win*": ("wins", late_wins),
    "projection.*": ("pushes", updates),
    "late_kl_r*": ("related", correlations),
    "shift_r.*": ("related", correlations),
}
