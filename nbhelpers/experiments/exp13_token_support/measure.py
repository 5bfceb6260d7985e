"""exp13: the dataset of token support for one pair, from the steps that exp11 kept.

What late grafts take from the first place and what they bring; what they do for the teacher's token; what late MLP
updates push for and against; and what goes with the late shift. IT's replies throughout, each host's own lens.
"""

import numpy as np
import xarray as xr

from nbhelpers.core.depths import final_fifth
from nbhelpers.core.schemas import ExperimentParams
from nbhelpers.core.stats import prompt_means
from nbhelpers.core.store import described
from nbhelpers.experiments.exp13_token_support import support
from nbhelpers.experiments.exp13_token_support.correlates import correlations
from nbhelpers.measures.graft_shifts import PROJECTIONS

UNITS = {
    "replaced": ("cells", "cells whose first token the graft replaces, by class of both"),
    "share": ("1", "share of a class among the displaced or the supported tokens"),
    "share_low": ("1", "lower end of its BCa interval"),
    "share_high": ("1", "upper end of its BCa interval"),
    "n_steps": ("tokens", "steps by class of the teacher's token"),
    "rank_gain": ("ranks", "baseline's rank of the teacher's token minus the condition's"),
    "log_rank_gain": ("1", "the same of natural logarithms of ranks"),
    "log_probability_gain": ("nats", "gain of the teacher's token's log-probability"),
    "rank_win": ("1", "share of steps where the graft moves the teacher's token up"),
    "rank_loss": ("1", "share of steps where the graft moves it down"),
    "late_win": ("1", "share of steps whose first layer to rank the teacher's token first is a late one"),
    "never": ("1", "share of steps where no layer ranks the teacher's token first"),
    "effect": ("logits or nats", "first-order change of an axis by the layer's MLP update"),
    "projection": ("1", "length of the layer's MLP update along an axis, in units of the residual"),
    "cosine": ("1", "cosine of the layer's MLP update with an axis"),
    "candidate_overlap": (
        "1",
        "Jaccard index of the twenty best tokens with the baseline's, mean of late layers",
    ),
    "r": ("1", "Pearson's r of a feature with late KL over steps"),
    "r_low": ("1", "lower end of its BCa interval over prompts"),
    "r_high": ("1", "upper end of its BCa interval over prompts"),
    "cells_per_step": ("layers", "layers read at a step"),
}


def summarise(steps: xr.Dataset, tokenizer, options: ExperimentParams) -> xr.Dataset:
    """Return exp13's dataset for one pair: what `UNITS` lists, per prompt where it is a mean.

    steps: of `matched_prefix.with_steps`, with all layers. Class counts and shares of grafts, (condition, lens, …); gains by
    class of the teacher's token (part, token_class, condition, lens, prompt); projections (axis, condition, layer,
    prompt) and overlaps of candidates (condition, lens, prompt) in the final fifth; correlations (scale, kind, given,
    feature, condition, lens), of cosines and projections.
    """
    draws = {"n_resamples": options.n_resamples, "seed": options.seed}
    counts = support.replaced(steps, tokenizer)
    shares = support.shares(counts, **draws).rename(value="share", low="share_low", high="share_high")
    gains = support.rank_gains(steps)
    wins = support.late_wins(steps).rename(condition="reader").drop_vars("n_steps")
    scales = ("cosine", "projection")
    related = [correlations(steps, scale=scale, **draws) for scale in scales]
    related = xr.concat(related, xr.IndexVariable("scale", list(scales)))
    related = related.rename(value="r", low="r_low", high="r_high", condition="measured")
    pushes = update_means(steps).rename(condition="measured")
    overlaps = overlap_means(steps).to_dataset().rename(condition="measured")
    parts = [
        each.reset_coords(drop=True)
        for each in (counts.to_dataset(), shares, gains, wins, related, pushes, overlaps)
    ]
    found = xr.merge(parts, compat="override", join="outer", combine_attrs="drop")
    found["cells_per_step"] = (), counts.attrs["cells_per_step"]
    return described(found, UNITS).assign_attrs(n_layers=steps.attrs["n_layers"])


def update_means(steps: xr.Dataset) -> xr.Dataset:
    """Return per-prompt means of `effects.PROJECTIONS`, (axis, condition, layer, prompt), of what was projected."""
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


def overlap_means(steps: xr.Dataset) -> xr.DataArray:
    """Return per-prompt means of `candidate_overlap` over the final fifth, (condition, lens, prompt), 1 for baselines."""
    late = steps.candidate_overlap.sel(
        basis="host", layer=list(final_fifth(steps.attrs["n_layers"])), drop=True
    )
    late = late.mean("layer").transpose("condition", "lens", "step").reset_coords(drop=True)
    late = late.sel(condition=~late.isnull().all(["lens", "step"]))
    prompts, prompt = np.unique(steps.prompt_index.values, return_inverse=True)
    means = prompt_means(late.values, prompt, len(prompts))
    coords = {"prompt": prompts, "condition": late.condition.values, "lens": late.lens.values}
    return xr.DataArray(means, coords, ("prompt", "condition", "lens"), "candidate_overlap")
