"""The quantities of exp07_0g, from one pair's dataset."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from nbhelpers.report.quantities import VARIANTS, Quantities, Quantity, by_variant, levels, shifts

RECIPE = "a setting of the training, which this book's parameters state for its own"
UNMEASURED = {
    f"recipe.{name}": RECIPE
    for name in ("learning_rate", "momentum", "steps", "tokens_per_step", "clip", "scale_gemma",
                 "scale_qwen_deepseek", "scale_others", "activations", "unique_tokens")
}  # fmt: skip


def ratio(part: xr.DataArray, whole: xr.DataArray) -> xr.DataArray:
    """Return values [prompt] whose mean is mean(part) / mean(whole) and whose spread is the ratio's, to first order."""
    found = part.mean() / whole.mean()
    return found + (part - found * whole) / whole.mean()


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp07_0g's quantities: gain of the tuned over the raw lens at 0.6 of the depth, top-1 agreement of each."""
    n, found = result.sizes["layer"], {}
    for v in VARIANTS:
        kl = result["kl_final_layer"].sel(variant=v, drop=True).isel(layer=int(0.6 * n), drop=True)
        raw, tuned = (kl.sel(lens=name, drop=True) for name in ("raw", "tuned"))
        note = "published on generated text; here on held-out text"
        found |= levels({f"lens_improvement.{v}": ratio(raw - tuned, raw)}, "1", note, centre=0.0)
        found |= shifts({f"lens_gain.{v}": raw - tuned}, "nats")
        for lens in ("raw", "tuned"):
            top1 = result["top1_agreement"].sel(variant=v, lens=lens)
            mean, last = top1.mean("layer"), top1.isel(layer=-1)
            named = {f"top1_agreement.{lens}.{v}": mean, f"top1_agreement_last_layer.{lens}.{v}": last}
            found |= levels(named, "1", "published for an older run's translators")
        raw_top1, tuned_top1 = (found[f"top1_agreement.{lens}.{v}"].values for lens in ("raw", "tuned"))
        found |= shifts({f"top1_gain.{v}": tuned_top1.drop_vars("lens") - raw_top1.drop_vars("lens")}, "1")
    return found | levels(by_variant("last_layer_kl", result["last_layer_kl"]), "nats")


def across(found: Mapping[str, Quantities]) -> Quantities:
    """Return the smallest and the largest gain of PT's tuned lens among all families except Gemma, as in the study."""
    gains = [
        float(np.mean(of["lens_improvement.pt"].values)) for title, of in found.items() if title != "gemma"
    ]
    ends = {"least": min(gains), "most": max(gains)}
    note = "both models in the study; here PT's"
    return {
        f"lens_improvement_range.{end}": Quantity(gain, "1", "level", 0.0, note) for end, gain in ends.items()
    }


# Pattern of names → the cell that shows these quantities on the page across pairs, and the function that defines them.
SHOWN = {
    "lens_improvement_range.*": ("lens_table", across),
    "lens_*": ("main_figure", quantities),
    "top1_agreement*": ("agreement", quantities),
    "last_layer_kl.*": ("lens_table", quantities),
}
