"""The quantities of exp07_0c, from one pair's dataset; unless a name says otherwise, over requests for a form and at dose 0.

Effects are KL(unedited ‖ edited) per token of IT's own replies, and changes of format compliance. `dose` is the change of the
last residual over its length.
"""

import numpy as np
import xarray as xr

from nbhelpers.core import dose_stats, stats
from nbhelpers.report import rates
from nbhelpers.report.quantities import Quantities, levels, shifts

CONTROLS = ("matched", "covariance", "permuted", "unit")
BAND = ("-1", "0", "2")  # doses with a band of matched random directions
NO_DOSE = 1e-6  # a smaller change of the last residual is rounding
DOSES = ("-1", "-0.5", "0", "0.25", "0.5", "0.75", "1", "1.5", "2")
# Formula → the control and the dose of its arms.
FORMULAS = {
    "mlp": ("direction", 0.0), "update": ("formula_update", 0.0), "attention": ("formula_attention", 0.0),
    "attention_mlp": ("formula_attention_mlp", 0.0), "residual_one": ("formula_residual_one", 0.0),
    "residual_all": ("formula_residual", 0.0), "residual_mlp": ("formula_residual_mlp", 0.0),
    "add_1": ("formula_add", 1.0), "add_-1": ("formula_add", -1.0), "add_0": ("formula_add", 0.0),
}  # fmt: skip
DOUBLED = {
    "mlp": ("direction", 2.0), "attention": ("formula_attention", 2.0), "attention_mlp": ("formula_attention_mlp", 2.0),
    "residual_all": ("formula_residual", 2.0), "residual_mlp": ("formula_residual_mlp", 2.0),
}  # fmt: skip
SEEDS = "published from 5 seeds"
ONE_SEED = "published from one random direction"
RANGE = "dose not run here, where replies are read at −1 to 2, and at 5 for text structure alone"
UNANSWERED = "formulas answer requests for a form alone"
NO_CHANGE = "a matched control at dose 1 changes nothing by construction"
NO_COEFFICIENT = "the published arm had the coefficient 0 at every dose; here c is −1 to 1"
UNMEASURED = {
    **{f"{o}.{c}.dose_{d}": RANGE for o in ("structure", "arithmetic", "alignment") for c in ("direction", "matched")
       for d in (("-5", "-2", "3") if o == "structure" else ("-5", "-2", "3", "5"))},
    **{f"{o}.matched.dose_1": NO_CHANGE for o in ("structure", "arithmetic", "alignment")},
    **{f"{o}_of.{f}.dose_{d}": UNANSWERED for o in ("choice", "arithmetic", "alignment") for f in
       ("attention_mlp", "residual_mlp", "add_0") for d in ("0", "2")},
    **{f"{o}_of.residual_mlp.dose_1": "at dose 1 nothing is changed" for o in ("choice", "arithmetic")},
    **{f"{o}_of.add_0.dose_2": NO_COEFFICIENT for o in ("format", "structure", "choice", "arithmetic", "alignment")},
    **{f"comparable_range.{name}": "windows here have one width and slide over all layers"
       for name in ("18_33", "20_33", "20_31", "22_33")},
}  # fmt: skip


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp07_0c's quantities: controls of the direction (0C), of the layers (0F) and of the formula (0I)."""
    on_forms = result.isel(prompt=np.flatnonzero((result["role"] == "format").values))
    return (
        controls(on_forms) | formats(on_forms) | headline(result, on_forms) | sliding(on_forms) | single(on_forms)
        | formulas(on_forms)
    )  # fmt: skip


def arms(
    result: xr.Dataset, outcome: str, control: str, dose: float = 0.0, first: int | None = None
) -> np.ndarray:
    """Return an outcome of a control's arms at a dose, of one first layer if it is given, [arm, prompt]."""
    chosen = (result["control"].values == control) & np.isclose(result["dose"].values, dose)
    chosen = chosen if first is None else chosen & (result["first"].values == first)
    at = result["outcome"].values.tolist().index(outcome)
    return result["effect"].values[at, chosen].astype(float)


def by_prompt(result: xr.Dataset, outcome: str, control: str, dose: float = 0.0, first=None) -> xr.DataArray:
    """Return an outcome by prompt, the mean over the arms of a control at a dose, [prompt]; NaN where none was read."""
    values = arms(result, outcome, control, dose, first)
    known = ~np.isnan(values)
    count = known.sum(0)
    mean = np.where(known, values, 0.0).sum(0) / np.where(count, count, np.nan)
    return xr.DataArray(mean, dims="prompt", coords={"prompt": result["prompt"].values})


def share_of(shift: xr.DataArray, whole: xr.DataArray) -> xr.DataArray:
    """Return changes by prompt as shares of the mean of another quantity over the same prompts, [prompt]; NaN if that is
    0.
    """
    mean = float(whole.where(shift.notnull()).mean())
    return shift / mean if mean else shift * np.nan


def ratio(a: xr.DataArray, b: xr.DataArray) -> float:
    """Return the ratio of two means over the prompts that both have."""
    known = a.notnull() & b.notnull()
    low = float(b.where(known).mean())
    return float(a.where(known).mean()) / low if low else np.nan


def member_means(
    result: xr.Dataset, outcome: str, control: str, dose: float, base: xr.DataArray
) -> np.ndarray:
    """Return each arm's mean change from `base` [prompt] over the prompts that it was read on, [arm]; NaN without one."""
    moved = arms(result, outcome, control, dose) - base.values
    count = (~np.isnan(moved)).sum(1)
    return np.nansum(moved, 1) / np.where(count, count, np.nan)


def spread(result: xr.Dataset, outcome: str) -> float:
    """Return the largest standard deviation over matched random directions of their mean, over the doses of the band."""
    zero = by_prompt(result, outcome, "direction", 1.0) * 0
    means = [member_means(result, outcome, "matched", float(dose), zero) for dose in BAND]
    return max((float(m.std(ddof=1)) for m in means if len(m) > 1), default=np.nan)


def controls(result: xr.Dataset) -> Quantities:
    """Return 0C by KL: `effect`, `excess` (direction less control, by prompt; `excess_share` of its mean), `fraction` of
    the direction's effect, `rank_p`.

    rank_p: how often a direction of the control does as much, (1 + #) / (n + 1), or, rank_p_less, as little; `control_n` is
    n. Both, and `fraction`, are over prompts that both were read on: `own_effect.<control>` is the direction's KL there, and
    `same_effect.<control>` the control's. `dose.<control>` is the size.
    """
    own, found = by_prompt(result, "kl", "direction"), {}
    found |= levels(
        {"effect.direction": own, "dose.direction": by_prompt(result, "residual_change", "direction")}, "nats"
    )
    for name in CONTROLS:
        other = by_prompt(result, "kl", name)
        null = member_means(result, "kl", name, 0.0, 0.0 * own)
        observed = float(own.where(other.notnull()).mean())
        p, less = (
            dose_stats.rank_p(sign * observed, sign * null) if len(null) else np.nan for sign in (1, -1)
        )
        size = by_prompt(result, "residual_change", name)
        found |= levels({f"effect.{name}": other}, "nats") | shifts({f"excess.{name}": own - other}, "nats")
        same = {
            f"own_effect.{name}": own.where(other.notnull()),
            f"same_effect.{name}": other.where(own.notnull()),
        }
        found |= levels(same, "nats") | levels({f"rank_p_less.{name}": less}, "1")
        whole = by_prompt(result, "residual_change", "direction")
        found |= shifts({f"excess_share.{name}": share_of(own - other, own)}, "1")
        found |= levels({f"fraction.{name}": ratio(other, own), f"rank_p.{name}": p}, "1")
        found |= levels({f"dose.{name}": size, f"dose_fraction.{name}": ratio(size, whole)}, "1")
        found |= levels({f"control_n.{name}": float(len(null))}, "directions")
    return found


def formats(result: xr.Dataset) -> Quantities:
    """Return 0C by behaviour: changes of format compliance from dose 1 of the direction and its controls, and rank p's.

    rank_p_format is two-sided; with 20 directions it cannot lie below 0.10, with 39 not below 0.05. `format_exact_p` is
    McNemar's of the direction, `format_sure` its change with an interval as strict. `format_detectable`: the smallest change
    at dose 0 that these prompts show with 80 % power, as a difference from random directions or from dose 1.
    """
    base, found = by_prompt(result, "format", "direction", 1.0), {}
    for dose in DOSES:
        own = by_prompt(result, "format", "direction", float(dose))
        found |= shifts({f"format_change.direction.dose_{dose}": own - base}, "1")
    for dose in BAND:
        own = by_prompt(result, "format", "direction", float(dose))
        for control in ("matched", "covariance"):
            other = by_prompt(result, "format", control, float(dose))
            null = member_means(result, "format", control, float(dose), base)
            p = dose_stats.rank_p(float((own - base).mean()), null, two_sided=True) if len(null) else np.nan
            found |= shifts({f"format_change.{control}.dose_{dose}": other - base}, "1")
            found |= shifts({f"format_excess.{control}.dose_{dose}": own - other}, "1")
            found |= levels({f"rank_p_format.{control}.dose_{dose}": p}, "1")
    for dose in BAND:
        own = found[f"format_change.direction.dose_{dose}"]
        found |= levels({f"format_exact_p.dose_{dose}": rates.exact_p(own.values)}, "1")
        found |= shifts({f"format_sure.dose_{dose}": rates.sure_change(own)}, "1")
    seen = ("format_excess.matched.dose_0", "format_change.direction.dose_0")
    smallest = np.fmax.reduce([dose_stats.detectable(found[name].values.values) for name in seen])
    return found | levels({"format_detectable": float(smallest)}, "1")


def headline(result: xr.Dataset, on_forms: xr.Dataset) -> Quantities:
    """Return the study's read-outs: structure, arithmetic and alignment by dose over all prompts, and dose 5 on requests
    for a form.

    `structure_ratio.dose_5` is the study's headline; `incoherent.<which>.dose_5` is what it rests on.
    """
    found = {}
    for outcome in ("structure", "arithmetic", "alignment"):
        for dose in DOSES:
            found[f"{outcome}.direction.dose_{dose}"] = by_prompt(result, outcome, "direction", float(dose))
        for dose in BAND:
            found[f"{outcome}.matched.dose_{dose}"] = by_prompt(result, outcome, "matched", float(dose))
    for outcome in ("choice", "arithmetic", "alignment"):
        for dose in ("0", "2"):
            found[f"{outcome}_of.mlp.dose_{dose}"] = by_prompt(result, outcome, "direction", float(dose))
    for outcome in ("structure", "incoherent", "format"):
        found[f"{outcome}.direction.dose_5"] = by_prompt(on_forms, outcome, "degenerate", 5.0)
        found[f"{outcome}.matched.dose_5"] = by_prompt(on_forms, outcome, "degenerate_random", 5.0)
    own, other = found["structure.direction.dose_5"], found["structure.matched.dose_5"]
    ends = {"structure_ratio.dose_5": ratio(own, other)}
    ends |= {f"matched_spread.{outcome}": spread(result, outcome) for outcome in ("structure", "arithmetic")}
    excess = {"structure_excess.dose_5": own - other}
    return levels(found, "1", ONE_SEED) | levels(ends, "1", SEEDS) | shifts(excess, "1")


def firsts(result: xr.Dataset, control: str) -> list[int]:
    """Return the first layers of a control's arms, in order."""
    return sorted(set(result["first"].values[(result["control"] == control).values].tolist()))


def holm_of(shifted: dict, n_resamples: int = 2000) -> dict:
    """Return {name: Holm-adjusted p of the sign-flip test} of changes by prompt; 1 where nothing changes."""
    raw = []
    for values in shifted.values():
        known = values.dropna("prompt").values
        raw.append(
            float(stats.sign_flip(known, n_resamples=n_resamples)) if len(known) > 1 and known.any() else 1.0
        )
    return dict(zip(shifted, stats.holm(raw))) if raw else {}


def sliding(result: xr.Dataset) -> Quantities:
    """Return 0F by windows of one width: `window.<first layer>`, its excess over matched random directions there, and p by
    Holm.

    `windows_beyond_random`: windows whose excess is above 0 at 0.05; `window_strongest`: middle of the one with the
    largest KL, as a share of the depth, `window_strongest_per_dose` the same per unit of dose. `last_window_lead`: the
    last window's KL less the mean of the others', as a share of its mean. `wide_…`: the study's early, mid and late.
    """
    layers, n = firsts(result, "window"), int(result.attrs["n_layers"])
    chosen = result["last"].values[(result["control"] == "window").values] if layers else [0]
    wide = (
        int(chosen[0]) - int(result["first"].values[(result["control"] == "window").values][0]) + 1
        if layers
        else 1
    )
    kl = {first: by_prompt(result, "kl", "window", 0.0, first) for first in layers}
    size = {first: by_prompt(result, "residual_change", "window", 0.0, first) for first in layers}
    excess = {first: kl[first] - by_prompt(result, "kl", "window_random", 0.0, first) for first in layers}
    holm = holm_of(excess)
    found = levels({f"window.{f}": v for f, v in kl.items()}, "nats") | levels(
        {f"window_dose.{f}": v for f, v in size.items()}, "1"
    )
    found |= shifts({f"window_excess.{f}": v for f, v in excess.items()}, "nats")
    found |= levels({f"window_p.{f}": p for f, p in holm.items()}, "1")
    beyond = sum(p < 0.05 and float(excess[f].mean()) > 0 for f, p in holm.items())
    found |= levels({"windows_beyond_random": float(beyond)}, "windows", centre=0.0)
    means = {f: float(v.mean()) for f, v in kl.items()}
    per = {f: means[f] / float(size[f].mean()) for f in layers}
    best = {"window_strongest": means, "window_strongest_per_dose": per}
    found |= levels({k: (max(v, key=v.get) + wide / 2) / n for k, v in best.items() if v}, "depth")
    if len(layers) > 1:
        others = sum(kl[f] for f in layers[:-1]) / (len(layers) - 1)
        found |= shifts({"last_window_lead": share_of(kl[layers[-1]] - others, kl[layers[-1]])}, "1")
    broad = {
        w: by_prompt(result, "kl", c) for w, c in (("early", "early"), ("mid", "mid"), ("late", "direction"))
    }
    return found | levels({f"wide_window.{w}": v for w, v in broad.items()}, "nats")


def single(result: xr.Dataset) -> Quantities:
    """Return 0F by single layers: changes of format compliance and text structure, p by Holm, and the study's ranks.

    `single_layers_found`: layers whose removal changes format compliance at 0.05; `single_detectable` the smallest change
    of one layer that would have passed Holm's first step with 80 % power; `single_rank.<k>` the layer with the k-th largest
    change of the structural token ratio, `single_structure.<k>` its size.
    """
    base = {o: by_prompt(result, o, "direction", 1.0) for o in ("format", "structure")}
    moved = {
        layer: {o: by_prompt(result, o, "single", 0.0, layer) - b for o, b in base.items()}
        for layer in firsts(result, "single")
    }
    holm = holm_of({layer: change["format"] for layer, change in moved.items()})
    found = shifts({f"single_format.{layer}": change["format"] for layer, change in moved.items()}, "1")
    found |= levels(
        {f"single_kl.{layer}": by_prompt(result, "kl", "single", 0.0, layer) for layer in moved}, "nats"
    )
    found |= levels({f"single_p.{layer}": p for layer, p in holm.items()}, "1")
    sizes = sorted(((abs(float(c["structure"].mean())), layer) for layer, c in moved.items()), reverse=True)
    for k, (size, layer) in enumerate(sizes[:6], 1):
        found |= levels({f"single_structure.{k}": size}, "1") | levels(
            {f"single_rank.{k}": float(layer)}, "layer"
        )
    seen = [
        dose_stats.detectable(change["format"].values, level=0.05 / len(moved)) for change in moved.values()
    ]
    found |= levels({"single_detectable": float(np.fmax.reduce(seen)) if seen else np.nan}, "1")
    return found | levels(
        {"single_layers_found": float(sum(p < 0.05 for p in holm.values()))}, "layers", centre=0.0
    )


def formulas(result: xr.Dataset) -> Quantities:
    """Return 0I: KL, dose, KL per unit of dose and change of format compliance of every formula, at dose 0 and where run
    at 2.

    `per_dose_excess.<formula>`: KL per unit of dose, less that of the MLP output's removal, as a share of the latter's
    mean. `compounding`: dose of the residual edit after all late blocks at α = 2 over that at α = 0, which for one edit
    alone would be 1; `compounding_mlp` the same along the MLP's directions, as in the study. `formula_exact_p` is McNemar's.
    """
    base = {o: by_prompt(result, o, "direction", 1.0) for o in ("format", "structure")}
    found, own = {}, None
    for at, arms_of in (("0", FORMULAS), ("2", DOUBLED)):
        for name, (control, dose) in arms_of.items():
            kl, size = (by_prompt(result, o, control, dose) for o in ("kl", "residual_change"))
            key, per = f"{name}.dose_{at}", (kl / size.where(size > NO_DOSE))
            own = per if name == "mlp" and at == "0" else own
            found |= levels({f"formula_kl.{key}": kl}, "nats") | levels({f"formula_dose.{key}": size}, "1")
            found |= levels({f"formula_per_dose.{key}": per}, "nats")
            if at == "0":
                found |= shifts({f"per_dose_excess.{name}": share_of(per - own, own)}, "1")
            for outcome, plain in base.items():
                score = by_prompt(result, outcome, control, dose)
                found |= levels({f"{outcome}_of.{key}": score}, "1", "here over requests for a form alone")
                found |= shifts({f"formula_{outcome}.{key}": score - plain}, "1")
            found |= levels(
                {f"formula_exact_p.{key}": rates.exact_p(found[f"formula_format.{key}"].values)}, "1"
            )
    whole = found["formula_kl.residual_all.dose_0"].values
    many = whole - found["formula_kl.residual_one.dose_0"].values
    grown = {"compounding": "formula_residual", "compounding_mlp": "formula_residual_mlp"}
    grown = {
        n: [by_prompt(result, "residual_change", c, dose) for dose in (2.0, 0.0)] for n, c in grown.items()
    }
    found |= levels({name: ratio(twice, once) for name, (twice, once) in grown.items()}, "1", centre=1.0)
    return found | shifts({"residual_all_lead": share_of(many, whole)}, "1")


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "structure_of.*": ("formulas", formulas),
    "format_of.*": ("formulas", formulas),
    "effect.*": ("controls", controls),
    "own_effect.*": ("controls", controls),
    "same_effect.*": ("controls", controls),
    "rank_p_less.*": ("controls", controls),
    "excess.*": ("main_figure", controls),
    "fraction.*": ("controls", controls),
    "rank_p.*": ("controls", controls),
    "dose*": ("controls", controls),
    "control_n.*": ("controls", controls),
    "format_*": ("behaviour", formats),
    "rank_p_format.*": ("behaviour", formats),
    "structure*": ("headline", headline),
    "incoherent.*": ("headline", headline),
    "format.*": ("headline", headline),
    "arithmetic*": ("headline", headline),
    "choice_of.*": ("headline", headline),
    "alignment*": ("headline", headline),
    "matched_spread.*": ("headline", headline),
    "window*": ("windows", sliding),
    "last_window_lead": ("windows", sliding),
    "wide_window.*": ("windows", sliding),
    "single_*": ("single", single),
    "formula_*": ("formulas", formulas),
    "per_dose_excess.*": ("formulas", formulas),
    "compounding*": ("formulas", formulas),
    "residual_all_lead": ("formulas", formulas),
}
