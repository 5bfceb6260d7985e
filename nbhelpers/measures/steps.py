"""From steps to prompts: which steps of exp00 count, their means by prompt, strata of confidence."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core import stats

LENSES = ("raw", "tuned")
OBSERVED = {
    "kl_final_layer": ("nats", "KL(final ‖ layer)"),
    "kl_layer_final": ("nats", "KL(layer ‖ final)"),
    "kl_adjacent": ("nats", "KL(previous layer ‖ layer)"),
    "entropy": ("nats", "entropy of the layer's lens distribution"),
    "top1": ("1", "token id that the layer's lens ranks first"),
    "top1_probability": ("1", "probability of the layer's own first token"),
    "target_log_probability": ("nats", "log-probability of the token that follows"),
    "target_rank": ("1", "rank of the token that follows, 1 is first"),
    "turnover": ("1", "Jaccard index of a layer's five best tokens with the previous layer's"),
    "candidates_final": ("1", "Jaccard index of a layer's five best tokens with the last layer's"),
    "kl_final_layer_cross": ("nats", "KL(final ‖ layer) read through the other model's lens"),
    "kl_layer_final_cross": ("nats", "KL(layer ‖ final) read through the other model's lens"),
    "delta_cosine": ("1", "cosine of an update with the residual stream that it is added to"),
    "update_norm": ("1", "Euclidean norm of an update"),
    "residual_norm": ("1", "Euclidean norm of the residual stream after the layer"),
    "cosine_to_final": ("1", "cosine of the residual stream with that after the last layer"),
    "neuron_mass": ("1", "Σ |activation|·‖write vector‖ of a neuron over the model's own steps"),
    "token_id": ("1", "id of the token that the step predicts"),
    "token_class": ("1", "class of the token that the step predicts, an index into token_classes.CLASSES"),
    "n_tokens": ("tokens", "generated tokens, the stop token included"),
    "stopped": ("1", "whether the model ended its turn before the cap"),
    "text": ("1", "generated text"),
    "category": ("1", "category of the prompt"),
    "message": ("1", "what IT is asked"),
}


def free_steps(observed: xr.Dataset, variant: str, *, first: bool = False) -> xr.Dataset:
    """Return a variant's steps on its own history, free running, without the variant dimension.

    As in the study the steps predict generated tokens 2 … n; the first, made at the last prompt position, is left out,
    or with `first` returned alone.
    """
    return history_steps(observed, variant, variant, first=first)


def history_steps(observed: xr.Dataset, variant: str, history: str, *, first: bool = False) -> xr.Dataset:
    """Return a variant's steps on the tokens that `history` wrote, as `free_steps` does."""
    at = (observed.history == history) & ((observed.token == 0) if first else (observed.token > 0))
    return observed.sel(variant=variant, drop=True).isel(step=np.flatnonzero(at.values))


STRATA = ("low", "medium", "high")


def prompt_means(steps: xr.DataArray | xr.Dataset, n_prompts: int):
    """Return means over each prompt's steps, with dim `prompt` for `step`; NaN where a prompt has none."""
    arrays = steps.data_vars if isinstance(steps, xr.Dataset) else {"only": steps}
    found = {}
    for name, array in arrays.items():
        array = array.transpose(..., "step")
        means = stats.prompt_means(array.values, steps.prompt_index.values, n_prompts)
        coords = {dim: array[dim].values for dim in array.dims[:-1] if dim in array.coords}
        found[name] = xr.DataArray(means, dims=("prompt", *array.dims[:-1]), coords=coords)
    return xr.Dataset(found) if isinstance(steps, xr.Dataset) else found["only"]


def strata(confidence: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Return each step's stratum of confidence, 0 low … 2 high; an edge belongs to the higher one."""
    return np.digitize(confidence, edges)


def confidence(steps: xr.Dataset) -> np.ndarray:
    """Return the probability that the model's own final distribution gives its first token, [step]."""
    return steps.top1_probability.sel(lens="raw").isel(layer=-1).values
