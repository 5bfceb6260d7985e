"""exp01: do broad neurons give way to narrow ones with depth, and do broad neurons get more attribution?

All values are taken at the position that predicts a one-word answer: N90, the number of tokens that hold 90 % of the
effect of a neuron or of a layer's update on the logits; its attribution to the answer; and the effective support exp H
of each layer's lens distribution. Both models read plain text.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from nbhelpers.core.params import VARIANTS, ParameterError
from nbhelpers.core.unmeasured import joint
from nbhelpers.experiments.exp01_narrowing.experiment import Params
from nbhelpers.experiments.exp01_narrowing.fits import log_log_fit
from nbhelpers.measures import logit_attribution
from nbhelpers.models import prompts
from nbhelpers.models.decoder import Decoder, Pair
from nbhelpers.models.stubs import Stub, single_token

# Variables whose logarithm is regressed on ln N90 over the chosen neurons → their names.
FITS = {"attribution": "attribution", "target_efficiency": "target efficiency"}
N_SAMPLE = 300
Kept = list[tuple[Stub, list[int], int]]  # stubs with the ids of their prompt and of their answer


def chosen_stubs(pair: Pair, stubs: Sequence[Stub], n: int) -> Kept:
    """Return up to n stubs whose answer is one token, balanced over categories, with prompt ids and target id.

    The two models share the tokenizer.
    """
    kept = single_token(pair.pt, stubs)
    if len(kept) < 2:
        raise ParameterError(
            f"{pair.key}: {len(kept)} of {len(stubs)} stubs have an answer of one token; exp01 needs two: name others under "
            "`prompts` in params/experiments/exp01.yml"
        )
    chosen = prompts.choose([stub for stub, *_ in kept], min(n, len(kept)))
    return [(stub, *rest) for stub, *rest in kept if stub in chosen]


def layer_means(found: xr.Dataset) -> xr.DataArray:
    """Return the mean ln N90 of each prompt's chosen neurons in each layer, (selection, prompt, layer), NaN if none."""
    n_layers = found.sizes["layer"]
    value = np.log(found.n90.where(found.n90 > 0)).transpose("selection", "prompt", "feature").values
    layer = found.neuron_layer.transpose("selection", "prompt", "feature").values
    counted = np.isfinite(value)
    value, means = np.where(counted, value, 0), []
    for i in range(n_layers):
        here = counted & (layer == i)
        n = here.sum(-1)
        means.append(np.divide((value * here).sum(-1), n, out=np.full(n.shape, np.nan), where=n > 0))
    return xr.DataArray(np.stack(means, axis=-1), dims=("selection", "prompt", "layer"))


def fits(found: xr.Dataset, options: Params) -> xr.Dataset:
    """Return the fit of each quantity in `FITS` on N90, with intervals and draws, (selection, quantity, statistic)."""
    size = dict(n_resamples=options.n_resamples, confidence=options.confidence, seed=options.seed)
    rows = []
    for selection in logit_attribution.SELECTIONS:
        one = found.sel(selection=selection)
        x = one.n90.transpose("prompt", "feature").values
        each = [
            log_log_fit(x, np.abs(one[name].transpose("prompt", "feature").values), **size) for name in FITS
        ]
        rows.append(xr.concat(each, "quantity"))
    return xr.concat(rows, "selection").assign_coords(
        selection=list(logit_attribution.SELECTIONS), quantity=list(FITS.values())
    )


def sample(found: xr.Dataset, seed: int) -> xr.Dataset:
    """Return a random sample of the neurons chosen by attribution, for a scatter plot, (sample)."""
    one = found.sel(selection="attribution")[["n90", "attribution", "neuron_layer"]].stack(
        sample=("prompt", "feature")
    )
    drawn = np.random.default_rng(seed).permutation(one.sizes["sample"])[:N_SAMPLE]
    names = {"n90": "sample_n90", "attribution": "sample_attribution", "neuron_layer": "sample_layer"}
    return (
        one.isel(sample=np.sort(drawn)).reset_index("sample", drop=True).rename(names).drop_vars("selection")
    )


def neurons_of(decoder: Decoder, kept: Kept, options: Params) -> xr.Dataset:
    """Return the `direct_attribution` of the chosen neurons and of each layer's updates to the answer, logits."""
    ids, targets = [row for _, row, _ in kept], [target for *_, target in kept]
    size = dict(k=options.n_neurons, seed=options.seed, batch_size=options.batch_size)
    return logit_attribution.direct_attribution(decoder, ids, targets, **size)


def by_layer(found: xr.Dataset, options: Params) -> xr.Dataset:
    """Return effective support, breadth of updates and of neurons by layer, and a sample of neurons for a scatter plot."""
    names = ["target_rank", "update_n90", "update_n50", "update_target_contribution"]
    profile = found[names].assign(support=np.exp(found.lens_entropy), neuron_n90=layer_means(found))
    return xr.merge([profile, sample(found, options.seed)], compat="override", join="exact")


def shift(pt: xr.DataArray, it: xr.DataArray, confidence: float) -> list[xr.DataArray]:
    """Return the ends of the interval of IT − PT from paired draws [..., resample]."""
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    return [(it - pt).quantile(end, "resample").drop_vars("quantile") for end in ends]


def assembled(
    layers: Mapping[str, xr.Dataset], fitted: Mapping[str, xr.Dataset], kept: Kept, confidence: float
) -> xr.Dataset:
    """Return one dataset of both models' `by_layer` and `fits`, with the shift IT − PT of the fits and its interval."""
    found, both = (xr.concat([of[v] for v in VARIANTS], "variant") for of in (layers, fitted))
    names = {"estimate": "fit", "low": "fit_low", "high": "fit_high"}
    found = found.assign({new: both[old] for old, new in names.items()})
    low, high = shift(fitted["pt"].draws, fitted["it"].draws, confidence)
    difference = fitted["it"].estimate - fitted["pt"].estimate
    found = found.assign(fit_shift=difference, fit_shift_low=low, fit_shift_high=high)
    found = found.assign_attrs(joint(layers.values()))
    texts = {"group": [stub.category for stub, *_ in kept], "target": [stub.target for stub, *_ in kept]}
    found = found.assign({name: ("prompt", np.array(values, dtype=object)) for name, values in texts.items()})
    return found.assign_coords(variant=list(VARIANTS), prompt=[stub.id for stub, *_ in kept])


def summarise(pair: Pair, stubs: Sequence[Stub], options: Params) -> xr.Dataset:
    """Return exp01's dataset for one pair: breadth by layer, fits of attribution on breadth, effective support."""
    kept = chosen_stubs(pair, stubs, options.n_prompts)
    found = {decoder.variant: neurons_of(decoder, kept, options) for decoder in pair}
    layers = {variant: by_layer(one, options) for variant, one in found.items()}
    fitted = {variant: fits(one, options) for variant, one in found.items()}
    return assembled(layers, fitted, kept, options.confidence)
