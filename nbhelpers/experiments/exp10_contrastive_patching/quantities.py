"""The quantities of exp10, from one pair's dataset.

Patches are into PT on IT's tokens, means over the patched layers; "own" is KL(layer ‖ own final) above the patched layer,
"same" at it. Names of steering state the direction, the dose α and the score, such as `shift.conv.0.format`.
"""

import xarray as xr

from nbhelpers.core import dose_stats, stats
from nbhelpers.core.depths import windows
from nbhelpers.report.quantities import Quantities, Quantity, levels, shifts

JUDGED = "needs an LLM judge"
OUTSIDE = "its dose is outside those of this run"
CLASSES = "published from an LLM judge's classes, which rules cannot replace"
DIRECTIONS = ("mean", "conv")
UNMEASURED = (
    dict.fromkeys(
        ("steering_ratio.least", "steering_ratio.most"),
        "the study does not say of which scores it is the ratio",
    )
    | {f"{s}.{d}.{a}": JUDGED for s in ("g1", "g2", "s2") for d in DIRECTIONS for a in ("1", "0", "-1", "5")}
    | {f"g2_drop.{d}": JUDGED for d in DIRECTIONS}
    | {
        f"{s}_rate.{d}.{a}": CLASSES
        for s in ("refused", "incoherent")
        for d in DIRECTIONS
        for a in ("1", "-1", "5")
    }
    | {
        f"{s}.{d}.{a}": OUTSIDE
        for s in ("structure", "choice", "arithmetic")
        for d in DIRECTIONS
        for a in ("-5", "-0.5", "0.5", "5")
    }
)
PARTS = ("full", "orthogonal", "conv", "pattern", "mean", "conv, full size", "mean, full size")
READ = {"own": "own", "same": "same_layer", "unedited": "unedited"}
SCORES = (
    "format",
    "choice",
    "arithmetic",
    "fact",
    "structure",
    "refusal_harmful",
    "repetition",
    "incoherent",
    "length",
)
HALF = 0.5  # of what a probe predicts: less is not moving the gap


def name_of(condition: str) -> str:
    """Return a condition as part of a quantity's name: "conv, full size" is "conv_full"."""
    return condition.replace(", full size", "_full").replace(" ", "_")


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp10's quantities: how well the probes predict, what patches move, what steering moves."""
    return predicted(result) | directions(result) | patched(result) | unit_steps(result) | steered(result)


def predicted(result: xr.Dataset) -> Quantities:
    """Return `r2.<space>.<lens>.<window>` with its interval on unseen prompts, and what R² is without knowledge of Δ.

    `r2_folds.<space>.late`: over left-out folds of the training prompts; `r2_permuted.<space>`: the largest of probes of a
    permuted gap; `r2_position`: of the mean gap at the same generated token; means over late layers, tuned lens.
    """
    found, late = {}, late_layers(result)
    for space in result["space"].values:
        for lens in result["lens"].values:
            for window in result["window"].values:
                at = {"space": space, "lens": lens, "window": window}
                ends = (float(result[f"r2_{end}"].sel(at)) for end in ("mean", "low", "high"))
                found[f"r2.{space}.{lens}.{window}"] = stats.Interval(*ends)
    of = result.sel(lens="tuned").isel(layer=late)
    single = {"r2_position": float(of["r2_position"].mean())}
    for space in result["space"].values:
        single[f"r2_folds.{space}.late"] = float(of["r2_cv"].sel(space=space).mean())
        null = result["r2_permuted"].sel(space=space).isel(layer=late).mean("layer")
        single[f"r2_permuted.{space}"] = float(null.max())
    gap = (
        result["gap"].sel(lens="tuned", drop=True).isel(layer=late).mean("layer").rename(test_prompt="prompt")
    )
    return levels(found, "1", centre=0.0) | levels(single, "1") | shifts({"gap.late": gap}, "nats")


def late_layers(result: xr.Dataset) -> list[int]:
    """Return the late layers that have a gap: all but the model's last."""
    n = result.sizes["layer"] + 1
    return [layer for layer in windows(n)["late"] if layer < n - 1]


def directions(result: xr.Dataset) -> Quantities:
    """Return cosines of the probe's direction with others, by space, mean over late layers, and its share of the energy.

    `redundant.<space>`: late layers at which |cosine with the mean difference| > 0.95, the study's rule.
    """
    found, late = {}, late_layers(result)
    for space in result["space"].values:
        of = result.sel(space=space).isel(layer=late)
        for other in ("mean", "pattern", "gradient"):
            found[f"cosine_{other}.{space}"] = float(of[f"cosine_{other}"].mean())
        for name in result["direction"].values:
            found[f"energy_share.{name}.{space}"] = float(of["energy_share"].sel(direction=name).mean())
        found[f"redundant.{space}"] = float((abs(of["cosine_mean"]) > 0.95).sum())
    return levels(found, "1")


def patches(result: xr.Dataset, readout: str) -> xr.DataArray:
    """Return what patches change, (condition, prompt), mean over the patched layers."""
    shift = result["patch_shift"].sel(readout=READ[readout], drop=True).mean("patched_layer")
    return shift.rename(patched_prompt="prompt").astype(float)


def random_names(result: xr.Dataset, full: bool) -> list[str]:
    """Return the names of the random conditions with the length of the probe's part, or of the full difference."""
    names = [str(name) for name in result["condition"].values if str(name).startswith("random")]
    return [name for name in names if name.endswith("full size") == full]


def patched(result: xr.Dataset) -> Quantities:
    """Return `patch.<part>.<read-out>`, `patch.random.<read-out>` and `patch_beyond.<part>.<read-out>`: part − random.

    `patch_p.<part>`: two-sided rank p among the random directions of the same length, of the shift of "own".
    """
    found, p = {}, {}
    for readout in READ:
        shift = patches(result, readout)
        found |= {f"patch.{name_of(c)}.{readout}": shift.sel(condition=c, drop=True) for c in PARTS}
        for full, suffix in ((False, ""), (True, "_full")):
            null = shift.sel(condition=random_names(result, full))
            found[f"patch.random{suffix}.{readout}"] = null.mean("condition")
            for part in ("conv", "mean") if full else ("conv",):
                one = shift.sel(condition=f"{part}, full size" if full else part, drop=True)
                found[f"patch_beyond.{part}{suffix}.{readout}"] = one - null.mean("condition")
                if readout == "own":
                    observed, controls = float(one.mean()), null.mean("prompt").values
                    p[f"patch_p.{part}{suffix}"] = dose_stats.rank_p(observed, controls, two_sided=True)
    gap = result["patch_gap"].mean("patched_layer").rename(patched_prompt="prompt")
    return shifts(found | {"patch_gap": gap}, "nats") | levels(p, "1")


def unit_steps(result: xr.Dataset) -> Quantities:
    """Return what one standard deviation along a direction moves at the same layer, and what the probe says that it moves.

    `unit_effect.<direction>` = (shift at +1 SD − shift at −1 SD) / 2; `unit_predicted` = ‖w‖ · SD, both nats, means over the
    patched layers; `moved.conv`: the effect over the prediction, by prompt; `moved_detectable`: the smallest share that
    this run could have seen.
    """
    shift = patches(result, "same")
    effect = {
        name: (
            shift.sel(condition=f"{name}, +1 SD", drop=True)
            - shift.sel(condition=f"{name}, −1 SD", drop=True)
        )
        / 2
        for name in ("conv", "mean")
    }
    of = result.sel(space="residual").sel(layer=result["patched_layer"].values)
    expected = float((of["slope"] * of["deviation"].sel(direction="conv")).mean())
    moved = effect["conv"] / expected
    least = dose_stats.detectable(moved.dropna("prompt").values)
    return (
        shifts({f"unit_effect.{name}": values for name, values in effect.items()}, "nats")
        | levels({"unit_predicted": expected}, "nats")
        | levels({"moved_detectable": least}, "1")
        | {"moved.conv": Quantity(moved, "1", "level", HALF)}
    )


def arm_names(result: xr.Dataset) -> dict[str, str]:
    """Return {arm: its part of a quantity's name} of the arms that wrote: "conv -1" is "conv.-1"; "it" is left out."""
    return {str(arm): str(arm).replace(" ", ".") for arm in result["shown_arm"].values if arm != "it"}


def steered(result: xr.Dataset) -> Quantities:
    """Return levels `<score>.<direction>.<dose>` and changes from unsteered IT, `shift.<direction>.<dose>.<score>`.

    Also `steer_gap.<direction>.<dose>`: change of KL(layer ‖ own final) over late layers; `steer_kl.…`: KL(unedited ‖
    edited); `steer_size.…`: change of the last residual as a share of its norm. "equal": the probe's direction at the size
    of the mean direction's removal; `detectable.<score>`: the smallest change, by its removal, that this run could have
    seen; `equal_p.<read-out>`: its two-sided rank p among random directions of that size.
    """
    score, plain = result["score"], result["score"].sel(arm="it", drop=True)
    moved, level, units = {}, {}, {}
    for metric in SCORES:
        own = plain.sel(metric=metric, drop=True).astype(float)
        level[f"{metric}.it"] = own
        for arm, name in arm_names(result).items():
            values = score.sel(metric=metric, arm=arm, drop=True).astype(float)
            moved[f"shift.{name}.{metric}"], level[f"{metric}.{name}"] = values - own, values
            units[f"shift.{name}.{metric}"] = units[f"{metric}.{name}"] = (
                "tokens" if metric == "length" else "1"
            )
    found = {}
    for metric in SCORES:
        name = f"shift.conv.0.{metric}"
        found |= levels(
            {f"detectable.{metric}": dose_stats.detectable(moved[name].dropna("prompt"))}, units[name]
        )
    for name, values in moved.items():
        found |= shifts({name: values}, units[name])
    for name, values in level.items():
        found |= levels({name: values}, units.get(name, "tokens" if name.startswith("length") else "1"))
    return found | forced(result)


def forced(result: xr.Dataset) -> Quantities:
    """Return what steered IT makes of IT's replies: see `steered`."""
    read = result[["kl_late", "kl_unedited", "residual_change"]].rename(forced_prompt="prompt").astype(float)
    gap, kl, size = read["kl_late"], read["kl_unedited"], read["residual_change"]
    found, sizes = {}, {}
    for arm, name in arm_names(result).items():
        found[f"steer_gap.{name}"] = gap.sel(arm=arm, drop=True) - gap.sel(arm="it", drop=True)
        found[f"steer_kl.{name}"] = kl.sel(arm=arm, drop=True)
        sizes[f"steer_size.{name}"] = size.sel(arm=arm, drop=True)
    band = [str(arm) for arm in result["arm"].values if str(arm).startswith("random")]
    found["steer_gap.random"] = gap.sel(arm=band).mean("arm") - gap.sel(arm="it", drop=True)
    p = {}
    for readout, values in (("gap", gap), ("kl", kl)):
        null = values.sel(arm=band).mean("prompt").values
        for name, arm in (("equal", "equal 0"), ("mean", "mean 0")):
            p[f"{name}_p.{readout}"] = dose_stats.rank_p(
                float(values.sel(arm=arm).mean()), null, two_sided=True
            )
    return shifts(found, "nats") | levels(sizes, "1") | levels(p, "1")


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "r2*": ("prediction", predicted),
    "gap.*": ("prediction", predicted),
    "patch*": ("main_figure", patched),
    "unit_*": ("unit-table", unit_steps),
    "moved*": ("unit-table", unit_steps),
    "cosine_*": ("cosines", directions),
    "energy_share.*": ("cosines", directions),
    "steer_*": ("steering", forced),
    "*": ("scores", steered),
}
