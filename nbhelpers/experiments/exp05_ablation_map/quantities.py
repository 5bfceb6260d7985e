"""The quantities of exp05, from one pair's dataset. IT reads its own replies; changes are from unedited IT.

`kl` is KL(unedited ‖ edited) of next-token distributions, `nll` the rise of the replies' negative log-probability.
"""

import numpy as np
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.core.dose_stats import rank_p
from nbhelpers.report.quantities import Quantities, levels, shifts

GENERATED = (
    "this page reads losses on fixed replies; what edited models write is scored on the page on steering"
)
JUDGE = "needs an LLM judge"
SETS = "none of the random sets has the first layer"
# Scores of the study's reruns, under doses of the late direction and with the last layers skipped.
SCORED = {
    "judged_format": JUDGE,
    "judged_register": JUDGE,
    "format_compliance": GENERATED,
    "reasoning": GENERATED,
}
DOSES, SKIPPED = (-1, -0.5, 0, 0.5, 1, 1.5, 2), (1, 3, 4, 6, 10, 14)
UNMEASURED = (
    {f"{score}.dose_{dose:g}": why for score, why in SCORED.items() for dose in DOSES}
    | {f"{score}.pt": why for score, why in SCORED.items()}
    | {f"{score}.skipped_{n}": why for score, why in {**SCORED, "choice": GENERATED}.items() for n in SKIPPED}
    | dict.fromkeys(
        ("choice.skipped_11", "choice_over_doses.least", "choice_over_doses.most", "structure_over_doses"),
        GENERATED,
    )
)
LATE, EARLY, MID = "late", "early", "mid"


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp05's quantities: single layers, windows against random sets, the late removal, skips, PT, the direction."""
    return (
        by_layer(result)
        | by_window(result)
        | removal(result)
        | skipped(result)
        | parent(result)
        | direction(result)
    )


def regions(n_layers: int) -> dict[str, list[int]]:
    """Return the layers of the windows without the first layer, whose loss alone destroys a reply."""
    return {name: [i for i in layers if i] for name, layers in depths.windows(n_layers).items()}


def by_layer(result: xr.Dataset) -> Quantities:
    """Return the effect of editing one layer: of the first, the mean in each window without it, and where it is largest.

    `kl_layer.<edit>.<first or window>`; `late_less_mid.<edit>` = late − mid; `strongest_layer.<edit>`, of all layers
    but the first.
    """
    found, n = {}, result.sizes["layer"]
    for edit in result["edit"].values:
        kl = result["kl_layer"].sel(edit=edit, drop=True).reset_coords(drop=True)
        mean = {"first": kl.isel(layer=0, drop=True)}
        mean |= {name: kl.isel(layer=layers).mean("layer") for name, layers in regions(n).items()}
        found |= levels({f"kl_layer.{edit}.{name}": values for name, values in mean.items()}, "nats")
        found |= shifts({f"late_less_mid.{edit}": mean[LATE] - mean[MID]}, "nats")
        strongest = float(np.argmax(kl.mean("prompt").values[1:]) + 1)
        found |= levels({f"strongest_layer.{edit}": strongest}, "layers", "of all layers but the first")
    return found


def by_window(result: xr.Dataset) -> Quantities:
    """Return the effect of editing a window of layers, and what it has over random sets of as many layers.

    `kl_window.<change>.<window>`, `nll_window.…`; `kl_sets.<change>`, mean of the random sets;
    `window_less_sets.<change>.<window>` = window − mean of the sets, in KL.
    """
    found = {}
    for change in result["change"].values:
        sets = result["kl_set"].sel(change=change, drop=True).mean("layer_set")
        found |= levels({f"kl_sets.{change}": sets}, "nats", SETS)
        for window in result["window"].values:
            at, name = {"change": change, "window": window, "drop": True}, f"{change}.{window}"
            kl = result["kl_window"].sel(**at)
            found |= levels({f"kl_window.{name}": kl}, "nats")
            found |= shifts({f"nll_window.{name}": result["nll_window"].sel(**at)}, "nats")
            found |= shifts({f"window_less_sets.{name}": kl - sets}, "nats", SETS)
    return found


def removal(result: xr.Dataset) -> Quantities:
    """Return what removing the direction in the late window does beyond random directions of the same length.

    `removal_less_random.<write>` = KL(removal) − mean over random directions; `removal_rank_p.<write>`, its rank among them;
    `removal_change` and `random_change.<write>`, relative change of the last residual; `update_less_output`, removal behind
    the norm after the MLP − removal before it; `removal_share`, of KL(IT ‖ PT).
    """
    at = {"change": "remove", "window": LATE, "drop": True}
    kl, change = (result[f"{name}_window"].sel(**at) for name in ("kl", "residual_change"))
    found = levels({"removal_change": change}, "1")
    for write in result["write"].values:
        null = result["kl_random"].sel(write=write, drop=True)
        p = rank_p(float(kl.mean()), null.mean("prompt").values)
        excess = 1000 * (kl - null.mean("control"))
        found |= shifts({f"removal_less_random.{write}": excess}, "thousandths of a nat")
        found |= levels(
            {f"removal_rank_p.{write}": p}, "1", f"one-sided, of {null.sizes['control']} directions"
        )
        moved = result["residual_change_random"].sel(write=write, drop=True).mean("control")
        found |= levels({f"random_change.{write}": moved}, "1")
    place = result["kl_place"]
    behind = place.sel(place="mlp_update", drop=True) - place.sel(place="mlp_output", drop=True)
    share = float(kl.mean() / result["kl_parent"].sel(prompt_format="raw", drop=True).mean())
    return found | shifts({"update_less_output": behind}, "nats") | levels({"removal_share": share}, "1")


def skipped(result: xr.Dataset) -> Quantities:
    """Return the effect of skipping the last n layers, `kl_skipped.<n>`, `nll_skipped.<n>` and `agreement_skipped.<n>`."""
    found, n_layers = {}, result.sizes["layer"]
    for first in result["first_skipped"].values:
        at, n = {"first_skipped": first, "drop": True}, n_layers - int(first)
        found |= levels({f"kl_skipped.{n}": result["kl_skipped"].sel(**at)}, "nats")
        found |= shifts({f"nll_skipped.{n}": result["nll_skipped"].sel(**at)}, "nats")
        found |= levels({f"agreement_skipped.{n}": result["agreement_skipped"].sel(**at)}, "1")
    return found


def parent(result: xr.Dataset) -> Quantities:
    """Return how far PT is from IT on IT's replies, `kl_parent.<format>` and `nll_parent.<format>`."""
    found = {}
    for name in result["prompt_format"].values:
        at = {"prompt_format": name, "drop": True}
        found |= levels({f"kl_parent.{name}": result["kl_parent"].sel(**at)}, "nats")
        found |= shifts({f"nll_parent.{name}": result["nll_parent"].sel(**at)}, "nats")
    return found


def direction(result: xr.Dataset) -> Quantities:
    """Return how good the direction is, means over the late window: `<measure>.<kind>`, without intervals."""
    late, found = list(depths.windows(result.sizes["layer"])[LATE]), {}
    for kind in result["kind"].values:
        for name in ("split_half", "template_cosine", "agreement_of_prompts", "auroc", "energy_share"):
            values = result[name].sel(kind=kind).isel(layer=late)
            found |= levels({f"{name}.{kind}": float(values.mean())}, "1")
    return found


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "kl_layer.*": ("main_figure", by_layer),
    "strongest_layer.*": ("layer_table", by_layer),
    "late_less_mid.*": ("matrix", by_layer),
    "kl_window.*": ("windows", by_window),
    "nll_window.*": ("windows", by_window),
    "kl_sets.*": ("windows", by_window),
    "window_less_sets.*": ("windows", by_window),
    "*_skipped.*": ("skips", skipped),
    "*_parent.*": ("skips", parent),
    "removal_*": ("removal", removal),
}
