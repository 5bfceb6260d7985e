"""exp07_0j: the layer from which IT's δ-cosine falls below PT's, under nine threshold rules, and its frequency by chance.

The study looked for an onset only above layer 14 and took layers 6 to 14 as its baseline. Here every layer is
searched, the baseline is the first half of the layers, and two resamplings are added: a null that exchanges PT and IT
within prompts, and a bootstrap.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from nbhelpers.core.params import VARIANTS
from nbhelpers.experiments.exp07_0j_onset.experiment import Params, rule_names
from nbhelpers.measures.steps import free_steps, prompt_means

NONE = -1  # no onset


def differences(observed: xr.Dataset) -> xr.Dataset:
    """Return IT − PT of each prompt's mean δ-cosine on own texts, `delta_cosine_shift` (prompt, component, layer)."""
    n = observed.sizes["prompt"]
    pt, it = (prompt_means(free_steps(observed, v).delta_cosine, n) for v in VARIANTS)
    return xr.Dataset({"delta_cosine_shift": it - pt})


def baseline(n_layers: int) -> range:
    """Return the layers of the baseline: the first half, without layer 0, which adds to the embedding."""
    return range(1, n_layers // 2)


def below(difference: np.ndarray, options: Params) -> np.ndarray:
    """Return whether IT − PT of the δ-cosine [..., layer] meets each rule at each layer, bool [..., rule, layer].

    k σ: below the baseline's mean by k of its standard deviations. drop τ: below −τ.
    """
    first = difference[..., list(baseline(difference.shape[-1]))]
    mean, spread = first.mean(-1, keepdims=True), first.std(-1, keepdims=True) + 1e-6
    limits = [mean - k * spread for k in options.sigmas] + [np.full_like(mean, -tau) for tau in options.drops]
    return difference[..., None, :] < np.stack(limits, axis=-2)


def first_run(holds: np.ndarray, length: int) -> np.ndarray:
    """Return the layer at which the first `length` consecutive true layers begin, [...], `NONE` if there is no such run.

    A run may extend past the last layer, so that an effect of the last layer alone is found too.
    """
    n_layers = holds.shape[-1]
    padded = np.concatenate([holds, np.repeat(holds[..., -1:], length - 1, axis=-1)], axis=-1)
    runs = np.stack([padded[..., i : i + n_layers] for i in range(length)]).all(0)
    return np.where(runs.any(-1), runs.argmax(-1), NONE)


def onsets(difference: np.ndarray, options: Params) -> np.ndarray:
    """Return the onset layer of mean curves IT − PT [..., layer] under every rule, [..., rule]."""
    return first_run(below(difference, options), options.run_length)


def exchanged(differences: np.ndarray, options: Params) -> np.ndarray:
    """Return the onsets when PT and IT are exchanged in each prompt with probability 1/2, [permutation, rule].

    differences: IT − PT by prompt, [prompt, layer]. Under the null hypothesis that PT and IT do not differ, the exchange
    has no effect.
    """
    rng = np.random.default_rng(options.seed)
    signs = rng.choice([-1.0, 1.0], (options.n_permutations, len(differences)))
    return onsets(signs @ differences / len(differences), options)


def resampled(differences: np.ndarray, options: Params) -> np.ndarray:
    """Return the onsets of bootstrap resamples of prompts, [resample, rule]."""
    rng = np.random.default_rng(options.seed)
    n = len(differences)
    times = rng.multinomial(n, np.full(n, 1 / n), size=options.n_permutations)
    return onsets(times @ differences / n, options)


def share_found(null: np.ndarray) -> np.ndarray:
    """Return the share of draws with an onset, [rule], from onsets [draw, rule]."""
    return (null != NONE).mean(0)


def interval(drawn: np.ndarray, confidence: float) -> np.ndarray:
    """Return the ends of the central interval of the onsets that were found, [2, rule]; NaN if none was found."""
    found = np.where(drawn == NONE, np.nan, drawn.astype(float))
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    return np.stack([_quantiles(column[~np.isnan(column)], ends) for column in found.T], axis=1)


def _quantiles(values: np.ndarray, ends: Sequence[float]) -> np.ndarray:
    return np.quantile(values, ends, method="nearest") if len(values) else np.full(len(ends), np.nan)


def onset_by_rule(difference: xr.DataArray, options: Params) -> xr.Dataset:
    """Return exp07_0j's dataset from IT − PT of the δ-cosine, (component, prompt, layer).

    It holds, for each component: the layers of the mean curve that meet a rule; the onset under each rule with a bootstrap
    interval; and how often a rule finds an onset when PT and IT are exchanged at random (its false-alarm rate).
    """
    parts = [_of_component(difference.sel(component=c), options) for c in difference.component.values]
    found = xr.concat(parts, "component").assign_coords(component=difference.component.values)
    return found.assign(delta_cosine_shift=difference.transpose("component", "prompt", "layer"))


def _of_component(difference: xr.DataArray, options: Params) -> xr.Dataset:
    """Return the onsets of one component's differences (prompt, layer)."""
    values = difference.transpose("prompt", "layer").values
    drawn, mean = resampled(values, options), values.mean(0)
    low, high = interval(drawn, options.confidence)
    return xr.Dataset(
        {
            "onset": ("rule", onsets(mean, options)),
            "onset_low": ("rule", low),
            "onset_high": ("rule", high),
            "found_resampled": ("rule", share_found(drawn)),
            "found_exchanged": ("rule", share_found(exchanged(values, options))),
            "meets": (("rule", "layer"), below(mean, options)),
        },
        coords={"rule": rule_names(options), "layer": difference.layer.values},
    )
