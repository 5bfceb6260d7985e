"""From generation steps to prompts: which observed steps count, means over each prompt's steps, strata of confidence."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core import stats

LENSES = ("raw", "tuned")


def free_steps(observed: xr.Dataset, variant: str, *, first: bool = False) -> xr.Dataset:
    """Return a variant's steps on its own history (free running), without the variant dimension.

    As in the study, the steps are those that predict generated tokens 2 … n. The step at the last prompt token, which
    predicts the first generated token, is left out; with `first`, it is returned alone.
    """
    return history_steps(observed, variant, variant, first=first)


def history_steps(observed: xr.Dataset, variant: str, history: str, *, first: bool = False) -> xr.Dataset:
    """Return a variant's steps on the tokens that the variant `history` generated, chosen as in `free_steps`."""
    at = (observed.history == history) & ((observed.token == 0) if first else (observed.token > 0))
    return observed.sel(variant=variant, drop=True).isel(step=np.flatnonzero(at.values))


STRATA = ("low", "medium", "high")


def prompt_means(steps: xr.DataArray | xr.Dataset, n_prompts: int):
    """Return means over each prompt's steps, with dim `prompt` in place of `step`; NaN where a prompt has none.

    prompt_means[i] = mean of x_s over the steps s of prompt i, NaN left out
    """
    arrays = steps.data_vars if isinstance(steps, xr.Dataset) else {"only": steps}
    found = {}
    for name, array in arrays.items():
        array = array.transpose(..., "step")
        means = stats.prompt_means(array.values, steps.prompt_index.values, n_prompts)
        coords = {dim: array[dim].values for dim in array.dims[:-1] if dim in array.coords}
        found[name] = xr.DataArray(means, dims=("prompt", *array.dims[:-1]), coords=coords)
    return xr.Dataset(found) if isinstance(steps, xr.Dataset) else found["only"]


def strata(confidence: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Return each step's stratum of confidence, 0 low … 2 high; a value on an edge goes to the higher stratum.

    strata = #{edge : edge ≤ confidence}
    """
    return np.digitize(confidence, edges)


def confidence(steps: xr.Dataset) -> np.ndarray:
    """Return the probability of the top-1 token in the model's final distribution, [step].

    confidence = max_v p_L(v)
    """
    return steps.top1_probability.sel(lens="raw").isel(layer=-1).values
