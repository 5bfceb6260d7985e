"""The quantities of exp06, from one pair's dataset.

Doses in names are written 0, 0_5 or m1 for α = 0, 0.5 or −1. A shift is an arm less its host as it is, prompt by prompt. The
chosen dose is the one of those with a random band that lowers format compliance most on other prompts.
"""

import numpy as np
import xarray as xr

from nbhelpers.core import dose_stats
from nbhelpers.core.resampling import bca_of_sums
from nbhelpers.core.stats import Interval
from nbhelpers.experiments.exp06_steering.selections import (
    band,
    band_doses,
    dose_table,
    gap_of,
    label,
    of_group,
    option,
    score,
    shift,
)
from nbhelpers.report.quantities import Quantities, levels, shifts

RATES = ("format", "content", "choice", "arithmetic", "refusal_harmful", "engaged_harmless")
STYLE = ("structure", "repetition", "incoherent")
MEASURED = (*RATES, *STYLE)
OFF_TARGET = ("content", "choice", "arithmetic", "refusal_harmful", "engaged_harmless")
GROUPS = ("dose", "permuted", "unit", "raw", "early", "mid", "inject", "skip", "prompted")
SIDES = {"below": lambda dose: dose <= 1, "above": lambda dose: dose >= 1}
JOINT = (0.0, 1.5)  # doses over which gap and format are compared
BY_RULE = "published: by an LLM judge or rules that differ; here rules alone"
PAIRED = "published: d of independent samples; prompts are the same here"
OWN_DOSES = "published over 14 doses from −5 to 5; here over those of this run"


def chosen_dose(result: xr.Dataset) -> float:
    """Return the dose, of those with a random band, with the lowest format compliance on the prompts that choose it.

    Doses whose replies there are too often incoherent are left out, and so is α = 1. Of equal ones it is the nearest to 1; 0
    if there are no such prompts.
    """
    if "tuning_format" not in result or not result.sizes.get("tuning_prompt"):
        return 0.0
    by_arm = result[["tuning_format", "tuning_incoherent"]].mean("tuning_prompt")
    limit, names, found = option(result, "incoherent_share", 0.2), of_group(result, "dose"), []
    for dose in filter(names.__contains__, band_doses(result)):
        one = by_arm.sel(tuned_arm=names[dose][0])
        if float(one["tuning_incoherent"]) <= limit:
            found.append((round(float(one["tuning_format"]), 9), abs(dose - 1), dose))
    return min(found)[2] if found else 0.0


def by_dose(result: xr.Dataset) -> Quantities:
    """Return `<metric>.<group>.<α>` (dose, raw, early or mid) and `<metric>.pt`, `.it`, `.it_raw`: scores of replies."""
    named = {}
    for metric in MEASURED:
        for group in ("dose", "raw", "early", "mid"):
            for dose, (arm, *_) in of_group(result, group).items():
                named[f"{metric}.{group}.{label(dose)}"] = score(result, metric, arm)
        named |= {f"{metric}.{arm}": score(result, metric, arm) for arm in ("pt", "it", "it_raw")}
    return levels(named, "1", BY_RULE)


def skipping(result: xr.Dataset) -> Quantities:
    """Return `format.skip.<n>` and `coherent.skip.<n>`: scores with the last n blocks left out."""
    named = {}
    for n, (arm, *_) in of_group(result, "skip").items():
        named[f"format.skip.{label(n)}"] = score(result, "format", arm)
        named[f"coherent.skip.{label(n)}"] = 1 - score(result, "incoherent", arm)
    return levels(named, "1", BY_RULE)


def shifted(result: xr.Dataset) -> Quantities:
    """Return `shift.<metric>.<group>.<α>`: an arm less its host as it is; `…matched.<α>`: the mean of the random band;
    `…single.<layer>`: format compliance with the direction removed at one layer; `….pt`: PT less IT.
    """
    found = {}
    for metric in MEASURED:
        for group in GROUPS:
            for dose, (arm, *_) in of_group(result, group).items():
                name = group if np.isnan(dose) else f"{group}.{label(dose)}"
                found[f"shift.{metric}.{name}"] = shift(result, metric, arm, group)
        for dose in band_doses(result):
            found[f"shift.{metric}.matched.{label(dose)}"] = band(result, metric, dose).mean("control")
        found[f"shift.{metric}.pt"] = score(result, metric, "pt") - score(result, metric, "it")
    for arms in of_group(result, "single").values():
        for arm in arms:
            found[f"shift.format.single.{arm.rpartition('_')[2]}"] = shift(result, "format", arm)
    return shifts(found, "1")


def controls(result: xr.Dataset) -> Quantities:
    """Return `over_band.<metric>.<α>`, the shift less the mean one of the random band; `rank_p.<metric>.<α>`, its rank
    among them (for a fall; two-sided at α = 0); `band_low` and `band_high`, the range of their means.
    """
    beyond, ranks = {}, {}
    for metric in RATES:
        for dose, (arm, *_) in of_group(result, "dose").items():
            null, at = band(result, metric, dose), label(dose)
            if not null.size or dose == 1:
                continue
            own, means = (
                shift(result, metric, arm),
                null.mean("prompt"),
            )  # NaN of controls that did not answer
            beyond[f"over_band.{metric}.{at}"] = own - null.mean("control")
            ranks[f"rank_p.{metric}.{at}"] = dose_stats.rank_p(
                -float(own.mean()), -means.values, two_sided=dose == 0
            )
            ranks |= {
                f"band_low.{metric}.{at}": float(means.min()),
                f"band_high.{metric}.{at}": float(means.max()),
            }
    return shifts(beyond, "1") | levels(ranks, "1")


def headline(result: xr.Dataset) -> Quantities:
    """Return what happens at the chosen dose: `chosen_dose`; `chosen_shift.<metric>`; `chosen_over_band.<metric>`;
    `chosen_rank_p.<metric>`; `chosen_gap_shift.<lens>`.
    """
    dose, own = chosen_dose(result), controls(result)
    arm = of_group(result, "dose")[dose][0]
    found = levels({"chosen_dose": dose}, "α", centre=1.0)
    found |= shifts({f"chosen_shift.{m}": shift(result, m, arm) for m in MEASURED}, "1")
    for kind in ("over_band", "rank_p"):
        names = {m: f"{kind}.{m}.{label(dose)}" for m in RATES}
        found |= {f"chosen_{kind}.{m}": own[name] for m, name in names.items() if name in own}
    one = of_group(result, "dose")[1.0][0]
    moved = {lens: gap_of(result, lens, arm) - gap_of(result, lens, one) for lens in ("raw", "tuned")}
    return found | shifts({f"chosen_gap_shift.{lens}": values for lens, values in moved.items()}, "nats")


def selectivity(result: xr.Dataset) -> Quantities:
    """Return at α = 0 the shift of format compliance less an off-target one: `format_minus_content`, paired, on the same
    replies; `format_minus.<metric>`, on other prompts; `format_late_minus.<window>`, less that by other layers.
    """
    arm = of_group(result, "dose")[0.0][0]
    form = shift(result, "format", arm)
    found = shifts({"format_minus_content": form - shift(result, "content", arm)}, "1")
    apart = {}
    for metric in ("choice", "arithmetic"):
        both = [each.dropna("prompt").values for each in (form, shift(result, metric, arm))]
        if min(map(len, both)) > 1:
            apart[f"format_minus.{metric}"] = dose_stats.between_groups(*both)
    for group in ("early", "mid"):
        other = shift(result, "format", of_group(result, group)[0.0][0])
        found |= shifts({f"format_late_minus.{group}": form - other}, "1")
    return found | shifts(apart, "1")


def nulls(result: xr.Dataset) -> Quantities:
    """Return at α = 0, for each rate: `lost` and `gained`, prompts that changed; `mcnemar_p`; `equivalence_p`, that the
    shift is within the bound; `detectable`, the smallest shift that these prompts could show.
    """
    arm, bound = of_group(result, "dose")[0.0][0], option(result, "bound", 0.05)
    counts, found = {}, {}
    for metric in RATES:
        moved = shift(result, metric, arm)
        changed = dose_stats.mcnemar(score(result, metric, "it"), score(result, metric, arm))
        counts |= {f"lost.{metric}": changed.lost, f"gained.{metric}": changed.gained}
        found |= {
            f"mcnemar_p.{metric}": changed.p,
            f"equivalence_p.{metric}": dose_stats.equivalence(moved, bound),
            f"detectable.{metric}": dose_stats.detectable(moved),
        }
    return levels(counts, "prompts") | levels(found, "1")


def trends(result: xr.Dataset) -> Quantities:
    """Return `slope.<metric>.<side>` [prompt], per unit of α, below and above α = 1; `page_p.<metric>.<side>`, Page's test
    that it rises towards α = 1; `wrong_way.<metric>`, the share of prompts that removal moves up; and `as_published`.
    """
    slopes, tests = {}, {}
    for metric in RATES:
        table = dose_table(result, metric)
        for side, inside in SIDES.items():
            part = table.sel(dose=[dose for dose in table["dose"].values if inside(dose)])
            values, n = part.values, part.sizes["dose"]
            slope = dose_stats.prompt_slopes(values, part["dose"]) if n > 1 else np.full(len(values), np.nan)
            slopes[f"slope.{metric}.{side}"] = xr.DataArray(slope, dims="prompt")
            # A trend has three doses or more.
            p = dose_stats.page_trend(values, rises=side == "below").p if n > 2 else np.nan
            tests[f"page_p.{metric}.{side}"] = p
        tests[f"wrong_way.{metric}"] = dose_stats.wrong_way(table.sel(dose=0) - table.sel(dose=1), towards=-1)
    return shifts(slopes, "1 per α") | levels(tests, "1") | as_published(result)


def as_published(result: xr.Dataset) -> Quantities:
    """Return the study's statistics: `spearman.<metric>`, the rank correlation of means with α over all doses, and
    `pooled_d.<metric>.0`, Cohen's d of α = 0 against α = 1 with the pooled standard deviation.
    """
    rho, size = {}, {}
    for metric in (*RATES, "structure"):
        table = dose_table(result, metric)
        rho[f"spearman.{metric}"] = dose_stats.spearman_branches(
            table["dose"], table.mean("prompt"), centre=np.inf
        )["below"].rho
        a, b = (table.sel(dose=dose).dropna("prompt") for dose in (0, 1))
        spread = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2) if len(a) > 1 else np.nan
        size[f"pooled_d.{metric}.0"] = float((a.mean() - b.mean()) / spread) if spread > 0 else np.nan
    return levels(rho, "1", OWN_DOSES, 0.0) | levels(size, "1", PAIRED, 0.0)


def gaps(result: xr.Dataset) -> Quantities:
    """Return the late half's distance on IT's own reply: `gap.<lens>.<α>` and `….pt`; `gap_shift.<lens>.<α>` and `….pt`, less
    that at α = 1; `commitment_shift.<lens>.<α>`; `gap_format_rho.<lens>`, its rank correlation with format compliance over
    doses.
    """
    doses, level, moved, settled, rho = of_group(result, "dose"), {}, {}, {}, {}
    for lens in ("raw", "tuned"):
        read = {label(dose): gap_of(result, lens, arms[0]) for dose, arms in doses.items()}
        read["pt"] = gap_of(result, lens, "pt")
        level |= {f"gap.{lens}.{at}": values for at, values in read.items()}
        moved |= {f"gap_shift.{lens}.{at}": values - read["1"] for at, values in read.items() if at != "1"}
        rule = result["commitment"].sel(lens=lens, rule="kl_stays_0.1", drop=True).astype(float)
        for reader in result["reader"].values:
            at = "pt" if reader == "pt" else label(float(str(reader).removeprefix("dose_")))
            settled[f"commitment_shift.{lens}.{at}"] = rule.sel(reader=reader, drop=True) - rule.sel(
                reader=doses[1.0][0], drop=True
            )
        between = [dose for dose in doses if JOINT[0] <= dose <= JOINT[1]]
        means = [float(read[label(dose)].mean()) for dose in between]
        form = [float(score(result, "format", doses[dose][0]).mean()) for dose in between]
        rho[f"gap_format_rho.{lens}"] = dose_stats.spearman_branches(form, means, centre=np.inf)["below"].rho
    settled.pop("commitment_shift.raw.1"), settled.pop("commitment_shift.tuned.1")
    found = levels(level, "nats") | shifts(moved, "nats") | shifts(settled, "layers")
    return found | levels(rho, "1", centre=0.0)


def share_of_way(values: xr.DataArray, it: xr.DataArray, pt: xr.DataArray) -> Interval:
    """Return how far a dose carries IT towards PT, as a share of the way, and its BCa interval: Σ (v − it) / Σ (pt − it).

    All NaN with fewer than two prompts, or if PT and IT are alike.
    """
    both = np.stack([(values - it).values, (pt - it).values], axis=1)
    both = both[np.isfinite(both).all(1)]
    if len(both) < 2 or both[:, 1].sum() == 0:
        return Interval(np.nan, np.nan, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = bca_of_sums(both, lambda sums: (sums[:, 0] / sums[:, 1])[:, None])
    return Interval(*(float(end[0]) for end in found))


def closed(result: xr.Dataset) -> Quantities:
    """Return the share of the way from IT to PT that removal (α = 0) goes: `gap_closed.<lens>` of the late half's distance,
    `format_closed` of format compliance.
    """
    doses = of_group(result, "dose")
    readers = doses[0.0][0], doses[1.0][0], "pt"
    ways = {
        f"gap_closed.{lens}": share_of_way(*(gap_of(result, lens, reader) for reader in readers))
        for lens in ("raw", "tuned")
    }
    ways["format_closed"] = share_of_way(*(score(result, "format", arm) for arm in readers))
    return levels(ways, "1", centre=0.0)


def sizes(result: xr.Dataset) -> Quantities:
    """Return how large each dose is: `residual_change.<group>.<α>` and `kl_unedited.<group>.<α>` on IT's replies, and
    `neutral_kl.<group>.<α>` on neutral text.
    """
    found, nats = {}, {}
    for group in ("dose", "matched", "permuted", "early", "mid"):
        for dose, arms in of_group(result, group).items():
            if dose == 1:
                continue
            own, name = result.sel(arm=arms), f"{group}.{label(dose)}"
            found[f"residual_change.{name}"] = (
                own["forced_residual_change"].mean("arm").reset_coords(drop=True)
            )
            nats[f"kl_unedited.{name}"] = own["forced_kl_unedited"].mean("arm").reset_coords(drop=True)
            if arms[0] in result["neutral_arm"].values:
                read = result["neutral_kl"].sel(neutral_arm=arms[0], drop=True).rename(text_id="prompt")
                nats[f"neutral_kl.{name}"] = read.reset_coords(drop=True)
    return levels(found, "1") | levels(nats, "nats")


def quantities(result: xr.Dataset) -> Quantities:
    """Return the quantities of exp06."""
    found = by_dose(result) | skipping(result) | shifted(result) | controls(result) | headline(result)
    found |= selectivity(result) | nulls(result) | trends(result) | gaps(result) | closed(result)
    return found | sizes(result)


JUDGE = "needs an LLM judge"
BEYOND_GRID = "a dose outside this run's grid, which ends where text breaks down"
OTHER_SCALE = "added as a vector as long as the activation, times β; here the gap itself is added, times c"
JUDGED = ("judged_format", "judged_register", "judged_refusal", "judged_over_refusal")
STUDY_DOSES = (-5, -3, -2, -1, -0.5, 0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5)
FAR = (-5, -3, -2, 3, 5)
PUBLISHED = ("format", "choice", "arithmetic", "refusal_harmful", "structure")
UNMEASURED = (
    {f"{name}.dose.{label(dose)}": JUDGE for name in JUDGED for dose in STUDY_DOSES}
    | {f"{name}.pt": JUDGE for name in JUDGED}
    | {f"{name}.raw.{label(dose)}": JUDGE for name in JUDGED[:2] for dose in (0, 1)}
    | {f"{name}.dose.up_to_m2": JUDGE for name in JUDGED[2:]}
    | dict.fromkeys(("judged_format.d.m5", "judged_format.beta.0_5", "judged_register.beta.m3"), JUDGE)
    | {f"{metric}.dose.{label(dose)}": BEYOND_GRID for metric in PUBLISHED for dose in FAR}
    | {f"pooled_d.{metric}.{label(dose)}": BEYOND_GRID for metric in PUBLISHED for dose in (-5, -3)}
    | dict.fromkeys(("structure.early.m5", "choice.early.5", "choice.mid.5", "structure.raw.5"), BEYOND_GRID)
    | dict.fromkeys(("choice.beta.1", "choice.beta.3", "format.beta.2", "structure.beta.1_5"), OTHER_SCALE)
)
# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "shift.*.inject.*": ("injection", shifted),
    "shift.*.raw.*": ("controls", shifted),
    "shift.*.early.*": ("windows", shifted),
    "shift.*.unit.*": ("controls", shifted),
    "shift.*": ("shift-table", shifted),
    "gap_shift.*": ("together", gaps),
    "pooled_d.*": ("shift-table", as_published),
    "spearman.*": ("main_figure", as_published),
    "*.skip.*": ("skipping", skipping),
    "*.early.*": ("windows", by_dose),
    "*.mid.*": ("windows", by_dose),
    "*": ("main_figure", by_dose),
}
