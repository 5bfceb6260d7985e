"""exp04: is there a transition of the representation near a third of the depth, and is it sharper in IT?

Two tests ask of each profile over layers whether the layers around a third of the depth stand out: one against layers
in random order, one against all windows of the same width, since neighbouring layers resemble each other. This module
loads no model and draws nothing.
"""

import numpy as np
import xarray as xr

from nbhelpers.core.depths import around_third
from nbhelpers.core.store import joined
from nbhelpers.core.unmeasured import joint
from nbhelpers.experiments.exp04_phase_transition.experiment import Params
from nbhelpers.measures import prompt_end


def contrast(profile: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the mean of profile [..., layer] over the layers in `inside`, bool [layer], minus its mean over the others."""
    return profile[..., inside].mean(-1) - profile[..., ~inside].mean(-1)


def permutation_p(profile: np.ndarray, inside: np.ndarray, *, n: int, seed: int) -> float:
    """Return the two-sided p-value of a contrast against layers in random order; NaN if no layer or every layer is inside."""
    if not inside.any() or inside.all():
        return float("nan")
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.broadcast_to(profile, (n, len(profile))), axis=-1)
    null, found = np.abs(contrast(orders, inside)), abs(contrast(profile, inside))
    return float((1 + (null >= found - 1e-12).sum()) / (n + 1))


def window_p(profile: np.ndarray, inside: np.ndarray) -> float:
    """Return the share of all contiguous windows of this width whose contrast is at least as large in size."""
    width, n_layers = int(inside.sum()), len(profile)
    starts = np.arange(n_layers - width + 1)[:, None]
    layers = np.arange(n_layers)
    windows = (layers >= starts) & (layers < starts + width)
    null = np.abs([contrast(profile, window) for window in windows])
    return float((null >= abs(contrast(profile, inside)) - 1e-12).mean())


TESTS = ("statistic", "p_permuted", "p_window", "global_statistic", "p_global")


def standing_out(profiles: dict[str, np.ndarray], global_layer: np.ndarray, options: Params) -> xr.Dataset:
    """Return contrasts and p-values of the window at a third of the depth, (profile), from {name: profile [layer]}.

    A profile without a value has none of them.
    """
    rows, nothing = [], dict.fromkeys(TESTS, np.nan)
    for profile in profiles.values():
        kept = np.isfinite(profile)  # a change between layers has no value at layer 0
        if not kept.any():
            rows.append(nothing)
            continue
        inside = np.isin(np.arange(len(profile)), around_third(len(profile)))[kept]
        values, attends = profile[kept], global_layer[kept]
        some = attends.any() and not attends.all()
        size = dict(n=options.n_permutations, seed=options.seed)
        rows.append(
            {
                "statistic": contrast(values, inside),
                "p_permuted": permutation_p(values, inside, **size),
                "p_window": window_p(values, inside),
                "global_statistic": contrast(values, attends) if some else np.nan,
                "p_global": permutation_p(values, attends, **size),
            }
        )
    found = {name: ("profile", [float(row[name]) for row in rows]) for name in TESTS}
    return xr.Dataset(found, coords={"profile": list(profiles)})


def dip(dimension: xr.DataArray) -> xr.Dataset:
    """Return the layer of the lowest dimension between 0.2 L and 0.5 L, and its sharpness, with all dims but the layer.

    Sharpness as in the study: |ID before − ID after| over the larger of the two.
    """
    n_layers = dimension.sizes["layer"]
    searched = dimension.isel(layer=slice(round(0.2 * n_layers), round(0.5 * n_layers) + 1))
    known = searched.notnull().any("layer")
    at = searched.fillna(np.inf).idxmin("layer").astype(int)
    before, after = dimension.sel(layer=at - 1, drop=True), dimension.sel(layer=at + 1, drop=True)
    at = at if known.all() else at.where(known)
    sharpness = abs(before - after) / np.maximum(before, after)
    return xr.Dataset({"lowest_layer": at.drop_vars("layer", errors="ignore"), "sharpness": sharpness})


def clouds(observed: xr.Dataset, options: Params) -> xr.Dataset:
    """Return dimension, spectrum, attention entropy and change between layers of the states at the prompt's end."""
    size = dict(draws=options.n_subsamples, k=options.mle_neighbours, seed=options.seed)
    found = joined(prompt_end.dimensions(observed, **size), prompt_end.head_means(observed))
    kept = {name: observed[name] for name in ("adjacent_cka", "pair_cka", "global_layer")}
    found = found.assign(kept).assign(adjacent_change=1 - observed.adjacent_cosine)
    return found.assign_attrs(joint([observed]))


def summarise(observed: xr.Dataset, options: Params) -> xr.Dataset:
    """Return exp04's dataset for one pair: dimension, attention entropy, change between layers, and the tests."""
    found = clouds(observed, options)
    lowest = dip(found.dimension.sel(estimator="two_nn", drop=True))
    tests = standing_out(tested(found), observed.global_layer.values, options)
    coords = {name: observed[name] for name in ("layer", "depth")}
    return joined(found, lowest, tests).assign_coords(coords)


def tested(found: xr.Dataset) -> dict[str, np.ndarray]:
    """Return {name: profile [layer]} for the tests of `standing_out`, under native templates."""
    names = ["dimension", "adjacent_cka", "attention_normalised", "adjacent_change"]
    native = prompt_end.native(found[names])
    entropy = native.attention_normalised.mean("cloud_prompt")
    dimension = native.dimension.sel(estimator="two_nn", drop=True)
    change = native.adjacent_change.mean("cloud_prompt")
    both = {
        "dimension": dimension,
        "1 − CKA to the layer before": 1 - native.adjacent_cka,
        "1 − cosine": change,
    }
    profiles = {
        f"{name}, {variant.upper()}": values.sel(variant=variant).values
        for name, values in both.items()
        for variant in ("pt", "it")
    }
    shift = lambda values: (values.sel(variant="it") - values.sel(variant="pt")).values  # noqa: E731
    profiles["dimension, IT − PT"] = shift(dimension)
    profiles["|attention entropy, IT − PT|"] = np.abs(shift(entropy))
    return profiles
