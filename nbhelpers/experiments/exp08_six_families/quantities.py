"""The quantities of exp08, from one pair's dataset: what doses change, how far one direction is enough, layers by dose."""

import numpy as np
import xarray as xr

from nbhelpers.core import depths, stats
from nbhelpers.report.quantities import Quantities, Quantity, levels, over, shifts

UNITS = {"nll_unedited": "nats", "kl": "nats"}  # outcomes that are no rate or share
CRITERION = 0.6  # share from which the study calls a difference one direction
PAIRED = "paired by prompt; published: a pooled d with binomial spread"
OWN_LAYERS = "in layers of this model; published: pooled over tokens of texts that differ by dose"
FORCED = "by prompt, on the same tokens at every dose"

JUDGE = "needs an LLM judge"
BEYOND = "doses beyond −1 and 2 are not measured here: texts are degenerate there"
WHOLE_CURVE = (
    "one correlation over both branches of an inverted U is no trend; see rho.*.below and rho.*.above"
)
UNMEASURED = {
    "commitment.top1_strict.-5": BEYOND,
    "commitment.top1_strict.5": BEYOND,
    "d_z.alignment.0": "its scorer counts “I can help” as a refusal; harmful and harmless requests are scored apart here",
    **{f"score.alignment.{dose}": "its scorer counts “I can help” as a refusal" for dose in ("0", "1")},
    **{
        f"spearman.{name}": WHOLE_CURVE
        for name in ("structure", "format", "choice", "arithmetic", "alignment")
    },
    **{f"g1.{dose}": JUDGE for dose in ("1", "0", "-1", "3")},
    **{
        f"bootstrap_cosine.{name}": "compares resamples without IT's template with a direction with it; the template's "
        "part is measured alone, as template_cosine"
        for name in ("mean", "low", "stored")
    },
    "centred_top5.late": "the share of five components is not reported: one line is the question",
}


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp08's quantities: the dose response, removals on forced replies, commitment, dimension, rank, stability."""
    return (
        response(result) | selectivity(result) | removals(result) | commitment(result) | dimension(result)
        | rank(result) | stability(result)
    )  # fmt: skip


def dosed(dose: float) -> str:
    """Return a dose as names of quantities have it: "0", "-1", "0.5"."""
    return f"{float(dose):g}"


def response(result: xr.Dataset) -> Quantities:
    """Return `score.<outcome>.<dose>`, its `change` from dose 1, `d_z`, `rho.<outcome>.<branch>`, `band_p`, `detectable`."""
    found = {}
    for outcome in result["outcome"].values.tolist():
        at, unit = result.sel(outcome=outcome, drop=True), UNITS.get(outcome, "1")
        score = at["score"].astype(float)
        for dose in result["dose"].values:
            name = f"{outcome}.{dosed(dose)}"
            found |= levels({f"score.{name}": score.sel(dose=dose, drop=True)}, unit)
            if dose == 1.0:
                continue
            change = score.sel(dose=dose, drop=True) - score.sel(dose=1.0, drop=True)
            found |= shifts({f"change.{name}": change}, unit)
            found |= shifts({f"d_z.{name}": float(at["d_z"].sel(dose=dose))}, "1", PAIRED)
        for branch in result["branch"].values.tolist():
            found |= shifts({f"rho.{outcome}.{branch}": float(at["rho"].sel(branch=branch))}, "correlation")
        numbers = {f"{name}.{outcome}": float(at[name]) for name in ("band_p", "detectable")}
        found |= levels(numbers, "1")
    return found


def selectivity(result: xr.Dataset) -> Quantities:
    """Return `selectivity.<dose>`: how much more form is lost than right content, with an interval joint over pairs."""
    named = {
        f"selectivity.{dosed(dose)}": interval(result.sel(dose=dose), "selectivity")
        for dose in result["dose"].values
        if dose != 1.0
    }
    return shifts(named, "1")


def interval(one: xr.Dataset, name: str) -> stats.Interval:
    """Return a value with its interval, from the three variables of that name."""
    return stats.Interval(*(np.float64(one[name + end]) for end in ("", "_low", "_high")))


def removals(result: xr.Dataset) -> Quantities:
    """Return `nll_rise.<arm>`, `kl.<arm>` and `residual_change.<arm>`: removals on IT's own replies; PT's NLL beside them."""
    forced = result["forced"].astype(float)
    nll, found = forced.sel(readout="nll", drop=True), {}
    for arm in forced["arm"].values.tolist():
        if arm == "it":
            continue
        name = arm.replace(" ", "_")
        found |= shifts(
            {f"nll_rise.{name}": nll.sel(arm=arm, drop=True) - nll.sel(arm="it", drop=True)}, "nats"
        )
        if arm != "pt":
            here = forced.sel(arm=arm, drop=True)
            found |= levels({f"removal_kl.{name}": here.sel(readout="kl_unedited", drop=True)}, "nats")
            found |= levels({f"removal_size.{name}": here.sel(readout="residual_change", drop=True)}, "1")
    return found


def commitment(result: xr.Dataset) -> Quantities:
    """Return `commitment.<rule>.<dose>`, PT's as `.pt`, and `commitment_shift.<rule>.<end point>.<dose>` from dose 1."""
    found = {}
    for rule in result["rule"].values.tolist():
        here = result["commitment"].sel(rule=rule, drop=True)
        own, pt = here.sel(endpoint="own", drop=True), result["commitment_pt"].sel(rule=rule, drop=True)
        found |= levels({f"commitment.{rule}.pt": pt}, "layers", OWN_LAYERS)
        found |= shifts(
            {f"commitment_gap.{rule}": own.sel(forced_dose=1.0, drop=True) - pt}, "layers", FORCED
        )
        for dose in result["forced_dose"].values:
            level = {f"commitment.{rule}.{dosed(dose)}": own.sel(forced_dose=dose, drop=True)}
            found |= levels(level, "layers", OWN_LAYERS)
            moved = here.sel(forced_dose=dose, drop=True) - here.sel(forced_dose=1.0, drop=True)
            for endpoint in result["endpoint"].values.tolist():
                shift = moved.sel(endpoint=endpoint, drop=True)
                found |= shifts(
                    {f"commitment_shift.{rule}.{endpoint}.{dosed(dose)}": shift}, "layers", FORCED
                )
    return found


def dimension(result: xr.Dataset) -> Quantities:
    """Return `late_dimension.<estimator>.<dose>` and `dimension_shift.<estimator>.<dose>` from dose 1, late window."""
    found, late = {}, depths.windows(result.sizes["layer"])["late"]
    for estimator in result["estimator"].values.tolist():
        for dose in result["cloud_dose"].values:
            at, name = {"estimator": estimator, "cloud_dose": dose}, f"{estimator}.{dosed(dose)}"
            level = float(over(result["dimension"].sel(**at), late))
            found |= levels(
                {f"late_dimension.{name}": level}, "1", "published: tokens of texts that differ by dose"
            )
            if dose != 1.0:
                moved = interval(result.sel(**at, window="late"), "dimension_shift")
                found |= shifts({f"dimension_shift.{name}": moved}, "1", FORCED)
                below = interval(result.sel(**at, window="early"), "dimension_shift")
                found |= shifts({f"early_dimension_shift.{name}": below}, "1", FORCED)
    return found


def rank(result: xr.Dataset) -> Quantities:
    """Return `<measure>.late` with its interval, and what exchanged labels give, `<measure>.permuted`.

    `energy_along.late`, by prompt: the energy along the mean of the *other* prompts. Shares are held against the study's
    criterion, 0.6. An interval's ends are means over late layers, as if these were one: it is at least wide enough.
    """
    late, found = depths.windows(result.sizes["layer"])["late"], {}
    for measure in result["rank_measure"].values.tolist():
        at = result.sel(rank_measure=measure, drop=True)
        ends = (np.float64(over(at["rank_one" + end], late)) for end in ("", "_low", "_high"))
        values = {
            f"{measure}.late": stats.Interval(*ends),
            f"{measure}.permuted": float(over(at["permuted"], late)),
        }
        centre = None if measure in ("participation", "cosine_pc1") else CRITERION
        found |= levels(values, "1", centre=centre)
    along = over(result["energy_along"], late)
    return found | {"energy_along.late": Quantity(along, "1", "level", CRITERION)}


def stability(result: xr.Dataset) -> Quantities:
    """Return `<measure>.late` of the direction's stability: means over the late window's layers."""
    late = depths.windows(result.sizes["layer"])["late"]
    found = over(result["stability"], late)
    named = {
        f"{name}.late": float(found.sel(stability_measure=name)) for name in found["stability_measure"].values
    }
    return levels(named, "cosine", "the study's halves hold about 300 prompts")


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "score.*": ("main_figure", response),
    "change.*": ("changes", response),
    "d_z.*": ("effects", response),
    "rho.*": ("trends", response),
    "band_p.*": ("changes", response),
    "detectable.*": ("changes", response),
    "selectivity.*": ("dissociation", selectivity),
    "nll_rise.*": ("removals", removals),
    "removal_*": ("removals", removals),
    "commitment*": ("commitment", commitment),
    "*dimension*": ("dimension", dimension),
    "split_half.*": ("stability", stability),
    "template_cosine.*": ("stability", stability),
    "agreement.*": ("stability", stability),
    "*.late": ("rank", rank),
    "*.permuted": ("rank", rank),
}
