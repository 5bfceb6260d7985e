"""The quantities of exp07_0d, from one pair's dataset."""

import numpy as np
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp07_0d_scores.experiment import BRANCHES, CLASSES, DEFINITIONS, OUTCOMES
from nbhelpers.report import rates
from nbhelpers.report.quantities import Quantities, levels, ratios, shifts

RATES = (
    "format",
    "choice",
    "arithmetic",
    "refusal_harmful",
    "refusal_harmless",
    "incoherent",
)  # 0 or 1 by prompt
ALIKE = 0.8  # the least rank correlation of two scores of which one can stand for the other
RELABELLED = "a word list is not relabelled here: three other definitions of structure stand beside it"
RANGE = "doses here end at 2, where replies stay coherent"
UNMEASURED = {
    **{f"relabelled.{name}": RELABELLED for name in
       ("discourse_structural", "discourse_content", "function_content", "content_function")},
    **{f"enrichment.{name}.dose_3": RANGE for name in ("STRUCTURAL", "PUNCTUATION", "CONTENT", "FUNCTION")},
    **{f"enrichment.{name}.dose_5": RANGE for name in ("STRUCTURAL", "DISCOURSE")},
}  # fmt: skip


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp07_0d's quantities: intervals, effect sizes and trends (0D); definitions of structure and classes (0E)."""
    return counted(result) | effects(result) | trends(result) | agreements(result) | classes(result)


def name_of(dose: float) -> str:
    """Return a dose as names have it, "dose_-0.5"."""
    return f"dose_{dose:g}"


def counted(result: xr.Dataset) -> Quantities:
    """Return 0D: `unedited.<outcome>` at dose 1, `half_width.<outcome>` of its mean, and `doubled_ratio.<outcome>`, that of
    doubled rows over it.
    """
    at, found = result["half_width"].sel(dose=1.0), {}
    for name in OUTCOMES:
        once, twice = (float(at.sel(outcome=name, counted=c)) for c in ("prompt", "doubled"))
        plain = result["score"].sel(dose=1.0, outcome=name, drop=True).reset_coords(drop=True)
        found |= levels({f"half_width.{name}": once, f"unedited.{name}": plain}, "1")
        found |= ratios(
            {f"doubled_ratio.{name}": twice / once if once > 0 else np.nan},
            "the study's rows held most prompts twice",
        )
    known = [q.values for name, q in found.items() if name.startswith("doubled") and not np.isnan(q.values)]
    return found | ratios({"doubled_ratio.mean": float(np.mean(known)) if known else np.nan})


def effects(result: xr.Dataset) -> Quantities:
    """Return 0D: `change.<outcome>.<dose>` from dose 1 by prompt, and both effect sizes of it, `d_paired` and `d_pooled`.

    Of rates also `exact_p`, McNemar's, and `sure_change`, with an interval as strict.
    """
    base, found = result["score"].sel(dose=1.0, drop=True), {}
    for name in OUTCOMES:
        for dose in result["dose"].values:
            at, key = {"outcome": name, "dose": dose}, f"{name}.{name_of(dose)}"
            if dose != 1:
                moved = result["score"].sel(at, drop=True) - base.sel(outcome=name, drop=True)
                found |= shifts({f"change.{key}": moved.reset_coords(drop=True)}, "1")
                if name in RATES:
                    change = found[f"change.{key}"]
                    found |= levels({f"exact_p.{key}": rates.exact_p(change.values)}, "1")
                    found |= shifts({f"sure_change.{key}": rates.sure_change(change)}, "1")
                for kind in ("d_paired", "d_pooled"):
                    found |= levels({f"{kind}.{key}": float(result[kind].sel(at))}, "1", centre=0.0)
    return found


def interval(values: xr.DataArray) -> stats.Interval:
    """Return a value with its interval from the dimension `end`."""
    return stats.Interval(*(float(values.sel(end=end)) for end in ("mean", "low", "high")))


def trends(result: xr.Dataset) -> Quantities:
    """Return 0D: `rho.<outcome>.<branch>` of mean score and dose with its interval, and `page_p.<outcome>.<branch>`.

    `turn_p.format`: the larger p of both branches of format compliance if it rises up to dose 1 and falls from there, else 1.
    """
    found = {}
    for name in OUTCOMES:
        for branch in BRANCHES:
            at, key = {"outcome": name, "branch": branch}, f"{name}.{branch}"
            found |= levels({f"rho.{key}": interval(result["rho"].sel(at))}, "correlation", centre=0.0)
            found |= levels({f"page_p.{key}": float(result["page_p"].sel(at))}, "1")
    below, above = (found[f"rho.format.{branch}"].values.mean for branch in ("below", "above"))
    p = max(found[f"page_p.format.{branch}"].values for branch in ("below", "above"))
    found |= levels({"turn_p.format": p if below > 0 > above else 1.0}, "1")
    return found | shifts({"rho_turn.format": float(below) - float(above)}, "correlation")


def agreements(result: xr.Dataset) -> Quantities:
    """Return 0E: `agreement.<definition>.<other>.<kind>`, rank correlations over conditions, and structure by coherence.

    `stands_for.<definition>`: whether structure ranks all conditions as it does, by at least `ALIKE`.
    `structure_lost.<definition>`: a prompt's incoherent replies less its coherent ones, over all conditions.
    """
    found = {}
    for i, a in enumerate(DEFINITIONS):
        for b in DEFINITIONS[i + 1 :]:
            for kind in ("every", "sane", "doses"):
                one = result["rank_agreement"].sel(definition=a, other=b, kind=kind)
                found |= levels({f"agreement.{a}.{b}.{kind}": interval(one)}, "correlation", centre=0.0)
        if a != DEFINITIONS[0]:
            rho = found[f"agreement.{DEFINITIONS[0]}.{a}.every"].values.mean
            found |= levels({f"stands_for.{a}": float(rho >= ALIKE)}, "1")
        state = result["by_state"].sel(definition=a, drop=True)
        lost = (
            state.sel(state="incoherent", drop=True) - state.sel(state="coherent", drop=True)
        ).reset_coords(drop=True)
        found |= shifts({f"structure_lost.{a}": lost}, "1")
    return found


def classes(result: xr.Dataset) -> Quantities:
    """Return 0E: `share.<class>` of units at dose 1, and `enrichment.<class>.<dose>`, the share over that at dose 1."""
    share, found = result["class_share"], {}
    for name in CLASSES:
        base = share.sel(token_class=name, dose=1.0, drop=True).reset_coords(drop=True)
        found |= levels({f"share.{name}": base}, "1")
        for dose in result["dose"].values:
            mean = float(base.mean())
            one = float(share.sel(token_class=name, dose=dose).mean())
            found |= ratios({f"enrichment.{name}.{name_of(dose)}": one / mean if mean > 0 else np.nan})
    return found


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "half_width.*": ("counted", counted),
    "unedited.*": ("counted", counted),
    "doubled_ratio.*": ("counted", counted),
    "change.*": ("effects", effects),
    "exact_p.*": ("effects", effects),
    "sure_change.*": ("effects", effects),
    "d_p*": ("effects", effects),
    "rho*": ("trends", trends),
    "page_p.*": ("trends", trends),
    "turn_p.*": ("trends", trends),
    "stands_for.*": ("main_figure", agreements),
    "agreement.*": ("main_figure", agreements),
    "structure_lost.*": ("lost", agreements),
    "share.*": ("classes", classes),
    "enrichment.*": ("classes", classes),
}
