"""Clouds of states at the last prompt position: what is kept of each cloud, and what is computed from it.

A cloud is one layer's residuals over many prompts. Each model reads every prompt as plain text and as a chat turn, so
that a difference between models is told from one between templates. Only distances to neighbours, spectra and
similarities of neighbouring layers are kept.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr

from nbhelpers.core.params import NATIVE, VARIANTS, LackingError
from nbhelpers.core.store import joined
from nbhelpers.core.unmeasured import noted
from nbhelpers.measures import attention_entropy, delta_cosine, intrinsic_dimension
from nbhelpers.models.decoder import Pair
from nbhelpers.models.prompts import Prompt, read_as

TEMPLATES = ("raw", "chat")


def cloud(states: np.ndarray, n_neighbours: int) -> xr.Dataset:
    """Return what is kept of the states [prompt, layer, d] of one model and template, by layer."""
    layers = [states[:, layer] for layer in range(states.shape[1])]
    found = [_neighbours(states, n_neighbours) for states in layers]
    before = [None, *layers[:-1]]
    cka = [np.nan if a is None else intrinsic_dimension.linear_cka(a, b) for a, b in zip(before, layers)]
    cosine = np.full(states.shape[:2], np.nan, np.float32)
    tensors = torch.as_tensor(states)
    cosine[:, 1:] = delta_cosine.cosine(tensors[:, 1:], tensors[:, :-1]).numpy()
    by_layer = ("layer", "cloud_prompt", "neighbour")
    return xr.Dataset(
        {
            "neighbour_distance": (by_layer, np.stack([f.distances for f in found]).astype("float32")),
            "neighbour_index": (by_layer, np.stack([f.indices for f in found]).astype("int32")),
            "spectrum": (
                ("layer", "axis"),
                np.stack([intrinsic_dimension.spectrum(s) for s in layers]).astype("float32"),
            ),
            "adjacent_cka": ("layer", np.array(cka, dtype="float32")),
            "adjacent_cosine": (("cloud_prompt", "layer"), cosine),
        }
    )


def _neighbours(states: np.ndarray, k: int) -> intrinsic_dimension.Neighbours:
    """Return `intrinsic_dimension.neighbours`, without any where fewer than three states differ."""
    if (~intrinsic_dimension.repeats(states)).sum() > 2:
        return intrinsic_dimension.neighbours(states, k)
    shape = len(states), min(k, len(states) - 1)
    return intrinsic_dimension.Neighbours(np.full(shape, np.nan), np.full(shape, -1))


def attention_arrays(read: attention_entropy.LastPosition) -> xr.Dataset:
    """Return the attention of one model and template, (cloud_prompt, layer, head) and (cloud_prompt, layer)."""
    heads = ("cloud_prompt", "layer", "head")
    return xr.Dataset(
        {
            "attention_entropy": (heads, read.entropy),
            "attention_entropy_no_sink": (heads, read.entropy_without_sink),
            "attention_sink": (heads, read.sink),
            "visible_keys": (("cloud_prompt", "layer"), read.visible_keys.astype("int32")),
        }
    )


def observe_clouds(
    pair: Pair, prompts: Sequence[Prompt], *, n_neighbours: int, batch_size: int
) -> xr.Dataset:
    """Return the clouds and attention of both models under both templates, dims (template, variant, …).

    One forward a batch, under eager attention, gives both the states and the attention at the last prompt position. The
    attention is NaN, and noted, if the model gives none.
    """
    found, alike, lacking = [], [], None
    for template in TEMPLATES:
        read = []
        for decoder in pair:
            ids = read_as(decoder, prompts, template)
            last = partial(attention_entropy.last_position_attention, decoder, ids, batch_size=batch_size)
            try:
                read.append(last(attention=not lacking))
            except LackingError as error:
                lacking = error
                read.append(last(attention=False))
        parts = [cloud(r.residual, n_neighbours).merge(attention_arrays(r)) for r in read]
        found.append(xr.concat(parts, "variant"))
        pt, it = (r.residual for r in read)
        alike.append([intrinsic_dimension.linear_cka(pt[:, i], it[:, i]) for i in range(pt.shape[1])])
    both = xr.concat(found, "template").assign_coords(variant=list(VARIANTS), template=list(TEMPLATES))
    both["pair_cka"] = (("template", "layer"), np.array(alike, dtype="float32"))
    far = np.array([1 << 40])
    seen = np.zeros((1, pair.n_layers)) if lacking else attention_entropy.visible_keys(pair.pt.config, far)
    both["global_layer"] = ("layer", seen[0] == far)
    both = both.assign_coords(cloud_prompt=[prompt.id for prompt in prompts])
    return noted(both, "attention", lacking) if lacking else both


def native(dataset: xr.Dataset) -> xr.Dataset:
    """Return each variant under its native template, PT raw and IT chat, without the template dimension."""
    parts = [dataset.sel(variant=v, template=NATIVE[v], drop=True) for v in VARIANTS]
    return xr.concat(parts, "variant").assign_coords(variant=list(VARIANTS))


def dimensions(observed: xr.Dataset, *, draws: int, k: int, seed: int) -> xr.Dataset:
    """Return TwoNN and MLE dimension with their ranges, (estimator, template, variant, layer), and sizes of spectra."""
    shape = [observed.sizes[name] for name in ("template", "variant", "layer")]
    values = np.full((3, 2, *shape), np.nan)
    distances = observed.neighbour_distance.transpose("template", "variant", "layer", ...).values
    indices = observed.neighbour_index.transpose("template", "variant", "layer", ...).values
    for at in np.ndindex(*shape):
        near = intrinsic_dimension.Neighbours(distances[at].astype(float), indices[at])
        found = intrinsic_dimension.subsample_interval(near, k=k, draws=draws, seed=seed)
        for i, name in enumerate(("two_nn", "mle")):
            values[(slice(None), i, *at)] = found[name]
    dims = ("estimator", "template", "variant", "layer")
    names = ("dimension", "dimension_low", "dimension_high")
    result = xr.Dataset({name: (dims, part) for name, part in zip(names, values)})
    spectrum = observed.spectrum.transpose("template", "variant", "layer", "axis").values
    sizes = {
        "participation_ratio": intrinsic_dimension.participation_ratio(spectrum),
        "effective_rank": intrinsic_dimension.effective_rank(spectrum),
        "first_share": intrinsic_dimension.top_share(spectrum),
    }
    coords = {name: observed[name].values for name in ("template", "variant", "layer")}
    result = result.assign({name: (dims[1:], size) for name, size in sizes.items()})
    return result.assign_coords(estimator=["two_nn", "mle"], **coords)


def head_means(observed: xr.Dataset) -> xr.Dataset:
    """Return attention entropy averaged over heads, (template, variant, cloud_prompt, layer), in nats and as a share
    of its ceiling.

    `attention_normalised` divides by the logarithm of the visible keys, its value when attention is uniform.
    """
    keys = np.log(observed.visible_keys.where(observed.visible_keys > 0).astype("float64"))
    entropy = observed.attention_entropy.mean("head")
    found = xr.Dataset(
        {
            "attention_entropy": entropy,
            "attention_normalised": (entropy / keys).where(keys > 0),
            "attention_entropy_no_sink": observed.attention_entropy_no_sink.mean("head"),
            "attention_sink": observed.attention_sink.mean("head"),
        }
    )
    return found


def side_panels(observed: xr.Dataset, *, draws: int, k: int, seed: int) -> xr.Dataset:
    """Return the side panels on clouds (L8) and on attention (L9): dimensions, spectra, entropies by prompt.

    draws, k, seed: as in `dimensions`.
    """
    heads = head_means(observed)[["attention_entropy", "attention_normalised"]]
    return joined(dimensions(observed, draws=draws, k=k, seed=seed), heads)
