"""exp03: how a prediction is revised from layer to layer, from the steps that exp00 observed.

Phases of adjacent divergence, changes of mind by token class, turnover of candidates, commitment by confidence: for
each model on its own history and on the other's. Loads no model, draws nothing.
"""

import numpy as np
import xarray as xr

from nbhelpers.core.depths import onset, phases
from nbhelpers.core.params import VARIANTS
from nbhelpers.core.schemas import CommitmentParams
from nbhelpers.core.store import described, joined
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
UNITS = {
    "kl_final_layer": ("nats", "KL(final ‖ layer)"),
    "kl_adjacent": ("nats", "KL(previous layer ‖ layer)"),
    "turnover": ("1", "Jaccard index of a layer's five best tokens with the previous layer's"),
    "candidates_final": ("1", "Jaccard index of a layer's five best tokens with the last layer's"),
    "target_probability": ("1", "probability of the token that follows"),
    "target_log_rank": ("1", "natural logarithm of the rank of the token that follows"),
    "delta_cosine": ("1", "δ-cosine of the block update, mean over steps"),
    "phase_kl_adjacent": ("nats", "KL(previous layer ‖ layer), mean over the layers of a phase"),
    "phase_of_mind": (
        "1",
        "share of steps whose first layer with the following token on top lies in a phase",
    ),
    "late_mind_change": (
        "1",
        "share of a class's steps that first rank the following token first at the onset or later",
    ),
    "late_flips": ("1", "changes of the first token in the corrective phase, a step"),
    "kl_adjacent_at_change": (
        "nats",
        "KL(previous layer ‖ layer) at the layer that first ranks the following token first",
    ),
    "class_share": ("1", "share of steps that predict a token of the class"),
    "commitment_by_confidence": (
        "layers",
        "mean commitment layer of the steps in a stratum of final probability",
    ),
    "kl_by_agreement": (
        "nats",
        "KL(final ‖ layer) of steps by whether both models' final first token is the same",
    ),
    "agreement": ("1", "share of steps at which both models' final first token is the same"),
}


def with_target(steps: xr.Dataset) -> xr.Dataset:
    """Return steps with the following token's probability, log rank, and whether a layer ranks it first."""
    return steps.assign(
        target_probability=np.exp(steps.target_log_probability),
        target_log_rank=np.log(steps.target_rank.astype("float64")),
    )


def first_correct(steps: xr.Dataset) -> xr.DataArray:
    """Return the first layer whose first token is the one that follows, L where none is, (lens, step)."""
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
    """Return changes of mind by token class: how often late, how often to and fro, how large, (token_class, prompt, lens)."""
    n_layers = steps.sizes["layer"]
    first, late = first_correct(steps), onset(n_layers)
    ever = first < n_layers  # on another's text a model may never rank the following token first
    changes = (steps.top1.diff("layer") != 0).isel(layer=slice(late - 1, None)).sum("layer").astype(float)
    size = steps.kl_adjacent.isel(layer=first.clip(1, n_layers - 1)).where((first > 0) & ever)
    kinds = steps.token_class.values
    found = {
        "late_mind_change": by_class(((first >= late) & ever).astype(float), kinds, n_prompts),
        "late_flips": by_class(changes, kinds, n_prompts),
        "kl_adjacent_at_change": by_class(size.drop_vars("layer", errors="ignore"), kinds, n_prompts),
    }
    return xr.Dataset(found).assign(class_share=class_share(kinds))


def class_share(kinds: np.ndarray) -> xr.DataArray:
    """Return the share of steps of each token class, (token_class)."""
    counts = np.bincount(kinds, minlength=len(CLASSES))
    return xr.DataArray(
        counts / max(counts.sum(), 1), dims="token_class", coords={"token_class": list(CLASSES)}
    )


def commitment_by_confidence(
    steps: xr.Dataset, stratum: np.ndarray, n_prompts: int, threshold: float
) -> xr.DataArray:
    """Return each prompt's mean commitment layer within strata of confidence, (stratum, prompt, rule, lens)."""
    kl = steps.kl_final_layer.transpose("lens", "step", "layer").values
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
    """Return KL curves of steps where both models end on the same token and of the others, (agreement, prompt, …)."""
    parts = [
        prompt_means(steps.kl_final_layer.isel(step=np.flatnonzero(agrees == flag)), n_prompts)
        for flag in (True, False)
    ]
    return xr.concat(parts, "agreement_of").assign_coords(agreement_of=list(AGREEMENT))


def final_token(steps: xr.Dataset) -> np.ndarray:
    """Return the first token of the final distribution at each step, ids [step]."""
    return steps.top1.sel(lens="raw").isel(layer=-1).values


def on_history(observed: xr.Dataset, variant: str, history: str, options: CommitmentParams) -> xr.Dataset:
    """Return everything that exp03 says of one model on one history."""
    n = observed.sizes["prompt"]
    steps = with_target(history_steps(observed, variant, history))
    writer = history_steps(observed, history, history)
    other = history_steps(observed, VARIANTS[variant == "pt"], history)
    agrees = final_token(steps) == final_token(other)
    stratum = strata(confidence(writer), options.confidence_edges)
    found = joined(prompt_means(steps[list(CURVES)], n), minds(steps, n))
    cosine = steps.delta_cosine.sel(component="block", drop=True)
    return found.assign(
        delta_cosine=prompt_means(cosine, n),
        phase_kl_adjacent=phase_means(steps, n),
        phase_of_mind=phase_of_mind(steps, n),
        commitment_by_confidence=commitment_by_confidence(steps, stratum, n, options.kl_threshold),
        kl_by_agreement=by_agreement(steps, agrees, n),
        agreement=float(agrees.mean()),
    )


def summarise(observed: xr.Dataset, options: CommitmentParams) -> xr.Dataset:
    """Return exp03's dataset for one pair: every measure for both models on both histories, with units and names."""
    rows = [
        xr.concat([on_history(observed, variant, history, options) for history in VARIANTS], "history")
        for variant in VARIANTS
    ]
    found = xr.concat(rows, "variant").assign_coords(
        variant=list(VARIANTS), history=list(VARIANTS), phase=list(phases(observed.sizes["layer"]))
    )
    found = found.assign_coords({name: observed[name] for name in ("prompt", "layer", "depth", "lens")})
    return described(found, UNITS)


def free_of(result: xr.Dataset) -> xr.Dataset:
    """Return exp03's measures free running: each model on the history that it wrote."""
    parts = [result.sel(variant=v, history=v, drop=True) for v in VARIANTS]
    return xr.concat(parts, "variant").assign_coords(variant=list(VARIANTS))
