"""exp03: revision of predictions from layer to layer, from the steps that exp00 observed.

The measures are adjacent divergence by phase, changes of mind by token class, turnover of candidates, and commitment by
confidence, for each model on its own history and on the other's. This module loads no model and draws nothing.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr

from nbhelpers.core import blocks
from nbhelpers.core.depths import onset, phases
from nbhelpers.core.params import VARIANTS
from nbhelpers.core.schemas import CommitmentParams
from nbhelpers.core.store import joined
from nbhelpers.core.unmeasured import joint
from nbhelpers.measures import commitment
from nbhelpers.measures.steps import STRATA, confidence, history_steps, prompt_means, strata
from nbhelpers.models.token_classes import CLASSES

CURVES = (
    "kl_final_layer",
    "kl_adjacent",
    "turnover",
    "candidates_final",
    "target_probability",
    "target_log_rank",
)
RULES = ("kl_continuous", "kl_stays")
AGREEMENT = ("same token", "another token")


def with_target(steps: xr.Dataset) -> xr.Dataset:
    """Return steps with the probability and the log rank of the token that follows."""
    return steps.assign(
        target_probability=np.exp(steps.target_log_probability),
        target_log_rank=np.log(steps.target_rank.astype("float64")),
    )


def first_correct(steps: xr.Dataset) -> xr.DataArray:
    """Return the first layer whose top-1 token is the token that follows, L if there is none, (lens, step)."""
    right = (steps.top1 == steps.token_id).transpose("lens", "step", "layer")
    first = np.where(right.any("layer"), right.argmax("layer"), steps.sizes["layer"])
    return xr.DataArray(first, dims=("lens", "step"), coords={"prompt_index": steps.prompt_index})


def phase_means(steps: xr.Dataset, n_prompts: int) -> xr.DataArray:
    """Return each prompt's adjacent KL averaged over the layers of each phase, (phase, prompt, lens)."""
    ranges = phases(steps.sizes["layer"])
    # Layer 0 has no layer before it.
    means = [steps.kl_adjacent.isel(layer=[i for i in at if i > 0]).mean("layer") for at in ranges.values()]
    return xr.concat([prompt_means(mean, n_prompts) for mean in means], "phase")


def phase_of_mind(steps: xr.Dataset, n_prompts: int) -> xr.DataArray:
    """Return the share of each prompt's steps whose first correct layer lies in each phase, (phase, prompt, lens)."""
    first, ranges = first_correct(steps), phases(steps.sizes["layer"])
    inside = [(first >= at.start) & (first < at.stop) for at in ranges.values()]
    return xr.concat([prompt_means(share.astype(float), n_prompts) for share in inside], "phase")


def by_class(values: xr.DataArray, classes: np.ndarray, n_prompts: int) -> xr.DataArray:
    """Return per-prompt means over the steps that predict a token of each class, (token_class, prompt, …)."""
    parts = [
        prompt_means(values.isel(step=np.flatnonzero(classes == i)), n_prompts) for i in range(len(CLASSES))
    ]
    return xr.concat(parts, "token_class").assign_coords(token_class=list(CLASSES))


def minds(steps: xr.Dataset, n_prompts: int) -> xr.Dataset:
    """Return changes of mind by token class, (token_class, prompt, lens): late share, late flips per step, size (nats)."""
    n_layers = steps.sizes["layer"]
    first, late = first_correct(steps), onset(n_layers)
    ever = first < n_layers  # on the other model's text, no layer may rank the following token first
    changes = (steps.top1.diff("layer") != 0).isel(layer=slice(late - 1, None)).sum("layer").astype(float)
    size = steps.kl_adjacent.isel(layer=first.clip(1, n_layers - 1)).where((first > 0) & ever)
    kinds = steps.token_class.values
    found = {
        "late_mind_change": by_class(((first >= late) & ever).astype(float), kinds, n_prompts),
        "late_flips": by_class(changes, kinds, n_prompts),
        "kl_adjacent_at_change": by_class(size.drop_vars("layer", errors="ignore"), kinds, n_prompts),
    }
    return xr.Dataset(found).assign(class_count=class_count(kinds))


def class_count(kinds: np.ndarray) -> xr.DataArray:
    """Return the number of steps of each token class, (token_class)."""
    counts = np.bincount(kinds, minlength=len(CLASSES))
    return xr.DataArray(counts, dims="token_class", coords={"token_class": list(CLASSES)})


def commitment_by_confidence(
    steps: xr.Dataset, stratum: np.ndarray, n_prompts: int, threshold: float, divergence="kl_final_layer"
) -> xr.DataArray:
    """Return each prompt's mean commitment layer within strata of confidence, (stratum, prompt, rule, lens).

    divergence: the name of the KL that the threshold, nats, applies to.
    """
    kl = steps[divergence].transpose("lens", "step", "layer").values
    layers = xr.DataArray(
        np.stack([getattr(commitment, rule)(kl, threshold) for rule in RULES]).astype(float),
        dims=("rule", "lens", "step"),
        coords={"rule": list(RULES), "prompt_index": steps.prompt_index},
    )
    parts = [
        prompt_means(layers.isel(step=np.flatnonzero(stratum == i)), n_prompts) for i in range(len(STRATA))
    ]
    return xr.concat(parts, "stratum").assign_coords(stratum=list(STRATA))


def by_agreement(steps: xr.Dataset, agrees: np.ndarray, n_prompts: int) -> xr.DataArray:
    """Return KL curves, nats, of steps where both models' final top-1 token is the same and of others, (agreement_of, …)."""
    parts = [
        prompt_means(steps.kl_final_layer.isel(step=np.flatnonzero(agrees == flag)), n_prompts)
        for flag in (True, False)
    ]
    return xr.concat(parts, "agreement_of").assign_coords(agreement_of=list(AGREEMENT))


def final_token(steps: xr.Dataset) -> np.ndarray:
    """Return the top-1 token of the final distribution at each step, ids [step]."""
    return steps.top1.sel(lens="raw").isel(layer=-1).values


def over_histories(observed: xr.Dataset, measure: Callable, *options) -> xr.Dataset:
    """Return `measure(observed, variant, history, *options)` of both models on both texts, dims (variant, history, …)."""
    rows = [xr.concat([measure(observed, v, h, *options) for h in VARIANTS], "history") for v in VARIANTS]
    found = xr.concat(rows, "variant").assign_coords(variant=list(VARIANTS), history=list(VARIANTS))
    found = found.assign_coords({name: observed[name] for name in ("prompt", "layer", "depth", "lens")})
    return found.assign_attrs(joint([observed]))


def curves(observed: xr.Dataset, variant: str, history: str) -> xr.Dataset:
    """Return one model's per-prompt curves on one text: divergences, turnover, and the token that follows."""
    steps, n = with_target(history_steps(observed, variant, history)), observed.sizes["prompt"]
    cosine = prompt_means(steps.delta_cosine.sel(component="block", drop=True), n)
    return prompt_means(steps[list(CURVES)], n).assign(delta_cosine=cosine)


def by_phase(observed: xr.Dataset, variant: str, history: str) -> xr.Dataset:
    """Return the adjacent KL and the changes of mind of each phase, (phase, prompt, lens)."""
    steps, n = history_steps(observed, variant, history), observed.sizes["prompt"]
    found = {"phase_kl_adjacent": phase_means(steps, n), "phase_of_mind": phase_of_mind(steps, n)}
    return xr.Dataset(found).assign_coords(phase=list(phases(observed.sizes["layer"])))


def changes_of_mind(observed: xr.Dataset, variant: str, history: str) -> xr.Dataset:
    """Return changes of mind by class of the token that follows (`minds`)."""
    return minds(history_steps(observed, variant, history), observed.sizes["prompt"])


def by_confidence(observed: xr.Dataset, variant: str, history: str, options: CommitmentParams) -> xr.Dataset:
    """Return commitment layers within strata of the confidence of the history's model, (stratum, prompt, rule, lens)."""
    stratum = strata(confidence(history_steps(observed, history, history)), options.confidence_edges)
    steps, n = history_steps(observed, variant, history), observed.sizes["prompt"]
    of = (steps, stratum, n, options.kl_threshold)
    found = {"commitment_by_confidence": commitment_by_confidence(*of)}
    # The study's threshold by confidence applies to KL(layer ‖ final).
    found["commitment_by_confidence_layer_final"] = commitment_by_confidence(*of, divergence="kl_layer_final")
    return xr.Dataset(found)


def where_both_agree(observed: xr.Dataset, variant: str, history: str) -> xr.Dataset:
    """Return KL curves by whether both models' final top-1 token is the same, and at how many of how many steps it is."""
    steps = history_steps(observed, variant, history)
    other = history_steps(observed, VARIANTS[variant == "pt"], history)
    agrees = final_token(steps) == final_token(other)
    split = by_agreement(steps, agrees, observed.sizes["prompt"])
    return xr.Dataset({"kl_by_agreement": split, "agreeing": agrees.sum(), "compared": agrees.size})


def of_block(observed: xr.Dataset, options: CommitmentParams) -> xr.Dataset:
    """Return every measure of one block of prompts, for both models on both histories, with counts in place of shares."""
    found = [over_histories(observed, m) for m in (curves, by_phase, changes_of_mind, where_both_agree)]
    return joined(*found, over_histories(observed, by_confidence, options))


def with_shares(found: xr.Dataset) -> xr.Dataset:
    """Return measures of all blocks with the share of each token class, and of steps at which both models agree."""
    classes = found.class_count / found.class_count.sum("token_class").clip(min=1)
    found = found.assign(class_share=classes, agreement=found.agreeing / found.compared)
    return found.drop_vars(["class_count", "agreeing", "compared"])


def summarise(observed: xr.Dataset, options: CommitmentParams) -> xr.Dataset:
    """Return exp03's dataset for one pair, without neurons, block by block of prompts."""
    return with_shares(blocks.over(observed, of_block, options)).assign_attrs(joint([observed]))
