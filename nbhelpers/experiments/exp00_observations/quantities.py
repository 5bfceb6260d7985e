"""The quantities of exp00, from one pair's dataset: lengths of texts, sharpness of final distributions, agreement."""

import xarray as xr

from nbhelpers.measures.steps import free_steps, history_steps, prompt_means
from nbhelpers.report.quantities import VARIANTS, Quantities, by_variant, levels, shifts, with_shift


def quantities(result: xr.Dataset) -> Quantities:
    """Return exp00's quantities: lengths, shares of finished texts, final distributions on own texts, agreement."""
    result = ends(result)
    found = with_shift("n_tokens", result["n_tokens"], "tokens")
    found |= levels(by_variant("stopped", result["stopped"].astype(float)), "1")
    return found | end_point(result) | agreement(result)


def ends(result: xr.Dataset) -> xr.Dataset:
    """Return what the quantities need, loaded: of the measurements by step only the last layer's, raw lens."""
    last = result[["entropy", "top1_probability", "top1"]].sel(lens="raw").isel(layer=-1).load()
    return last.assign({name: result[name] for name in ("n_tokens", "stopped")})


def end_point(result: xr.Dataset) -> Quantities:
    """Return entropy (nats) and top-1 probability of the final distribution, means over each model's `free_steps`."""
    found, n = {}, result.sizes["prompt"]
    for name, unit in {"entropy": "nats", "top1_probability": "1"}.items():
        last = [free_steps(result, v)[name] for v in VARIANTS]
        both = xr.concat([prompt_means(one, n) for one in last], xr.IndexVariable("variant", list(VARIANTS)))
        found |= with_shift(f"final_{name}", both, unit)
    return found


def agreement(result: xr.Dataset) -> Quantities:
    """Return the share of steps at which both models' final top-1 token is the same, on PT's (`.pt`) or IT's text.

    `same_top1_on_it_less_pt`: the difference of the two texts, by prompt.
    """
    found, by_prompt = {}, {}
    for history in VARIANTS:
        tops = [history_steps(result, v, history).top1 for v in VARIANTS]
        same = (tops[0] == tops[1]).astype(float)
        found[f"same_top1.{history}"] = float(same.mean())
        by_prompt[history] = prompt_means(same, result.sizes["prompt"])
    moved = {"same_top1_on_it_less_pt": by_prompt["it"] - by_prompt["pt"]}
    return levels(found, "1") | shifts(moved, "1")
