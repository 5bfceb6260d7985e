"""exp13: the dataset of token support for one pair, from the steps that exp11 kept.

It holds the classes of the top-1 tokens that late grafts displace and support, the gains of the teacher's token, the
directions of late MLP updates, and correlates of the late shift. All replies are IT's; each host has its own lens.
"""

import numpy as np
import xarray as xr

from nbhelpers.core import blocks
from nbhelpers.core.depths import final_fifth
from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.core.stats import prompt_means
from nbhelpers.experiments.exp13_token_support import correlates, support
from nbhelpers.measures.graft_shifts import PROJECTIONS


def assembled(steps: xr.Dataset, counts: xr.DataArray, **parts) -> xr.Dataset:
    """Return exp13's measures as one dataset; parts: shares, gains, wins, updates, overlaps, related (`summarise`)."""
    names = {
        "shares": {"value": "share", "low": "share_low", "high": "share_high"},
        "wins": {"condition": "reader"},
        "updates": {"condition": "measured"},
        "overlaps": {"condition": "measured"},
        "related": {"value": "r", "low": "r_low", "high": "r_high", "condition": "measured"},
    }
    renamed = [values.rename(names.get(part, {})) for part, values in parts.items()]
    whole = [each.reset_coords(drop=True) for each in (counts.to_dataset(), *renamed)]
    found = xr.merge(whole, compat="override", join="outer", combine_attrs="drop")
    found["cells_per_step"] = (), counts.attrs["cells_per_step"]
    return found.assign_attrs(n_layers=steps.attrs["n_layers"])


def summarise(steps: xr.Dataset, tokenizer, options: ExperimentParams) -> xr.Dataset:
    """Return exp13's dataset for one pair; its means are per prompt.

    steps: from `matched_prefix.with_steps`, with all layers. The dataset holds class counts and shares of replaced tokens
    (condition, lens, …); gains by class of the teacher's token (part, token_class, condition, lens, prompt); projections
    (axis, measured, layer, prompt) and overlaps of candidates (measured, lens, prompt) in the final fifth; correlations
    (scale, kind, given, feature, measured, lens) of cosines and projections.
    """
    draws = options.model_dump(include={"n_resamples", "confidence", "seed"})
    counts = blocks.over(steps, support.replaced, tokenizer)
    measures = {"gains": support.rank_gains, "wins": support.late_wins,
                "updates": update_means, "overlaps": overlap_means}  # fmt: skip
    return assembled(
        steps, counts, shares=support.shares(counts, **draws), related=correlates.by_scale(steps, **draws),
        **{name: blocks.over(steps, measure) for name, measure in measures.items()},
    )  # fmt: skip


def update_means(steps: xr.Dataset) -> xr.Dataset:
    """Return per-prompt means of `graft_shifts.PROJECTIONS`, (axis, condition, layer, prompt), where projected."""
    late = steps.sel(basis="host", layer=list(final_fifth(steps.attrs["n_layers"])), drop=True)
    late = late[list(PROJECTIONS)]
    late = late.sel(condition=~late.cosine.isnull().all(["axis", "layer", "step"]))
    prompts, prompt = np.unique(steps.prompt_index.values, return_inverse=True)
    dims = ("axis", "condition", "layer")
    means = {}
    for name, values in late.items():
        by_prompt = prompt_means(values.transpose(*dims, "step").values, prompt, len(prompts))
        means[name] = ("prompt", *dims), by_prompt
    kept = {name: late[name].values for name in dims}
    return xr.Dataset(means, kept | {"prompt": prompts})


def overlap_means(steps: xr.Dataset) -> xr.Dataset:
    """Return per-prompt means of `candidate_overlap` over the final fifth, (condition, lens, prompt), 1 for baselines."""
    late = steps.candidate_overlap.sel(
        basis="host", layer=list(final_fifth(steps.attrs["n_layers"])), drop=True
    )
    late = late.mean("layer").transpose("condition", "lens", "step").reset_coords(drop=True)
    late = late.sel(condition=~late.isnull().all(["lens", "step"]))
    prompts, prompt = np.unique(steps.prompt_index.values, return_inverse=True)
    means = prompt_means(late.values, prompt, len(prompts))
    coords = {"prompt": prompts, "condition": late.condition.values, "lens": late.lens.values}
    return xr.Dataset({"candidate_overlap": (("prompt", "condition", "lens"), means)}, coords)
