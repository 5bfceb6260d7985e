"""Quantities: the named values of one pair that pages and the ledger report, each defined once.

A slice's `quantities(result)` maps a dataset to {name: Quantity}. Tables, interval figures, verdicts and the ledger
select quantities by name and restate no formula.

A name states the lens (`.raw` or `.tuned`) and the variant (`.pt` or `.it`; `.it_plain` is IT without its template).
Without a variant, the quantity is IT − PT. For clouds of states and attention, the name states the template: `.raw` or
`.chat` for both models, `.native` for each model's own.
"""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import depths, params, stats
from nbhelpers.report import charts

VARIANTS = params.VARIANTS
SPECTRA = ("participation_ratio", "effective_rank", "first_share")
# A note on classes of tokens, for quantities that the study publishes by class.
LEXICON = "the study counts what, how, which, who and end-of-turn tokens as content; here they are function words and special"
DIMENSIONS = {"two_nn": "TwoNN", "mle": "maximum likelihood"}


@dataclass(frozen=True)
class Quantity:
    """One named quantity of one pair.

    values: an array with one value per prompt, or one number, or an interval from the dataset. unit: as in the datasets.
    kind: "level", a size; "shift", a difference; "ratio", of two sizes. centre: the value that separates the two signs,
    None if the sign has no meaning. note: how this definition differs from the published one.
    """

    values: xr.DataArray | stats.Interval | float
    unit: str
    kind: Literal["level", "shift", "ratio"]
    centre: float | None = None
    note: str = ""


Quantities = dict[str, Quantity]
Source = Callable[[xr.Dataset], Quantities]


def levels(values: Mapping, unit: str, note: str = "", centre: float | None = None) -> Quantities:
    """Return {name: size} as quantities of kind "level"; centre: what separates their signs, if anything."""
    return {name: Quantity(value, unit, "level", centre, note) for name, value in values.items()}


def shifts(values: Mapping, unit: str, note: str = "") -> Quantities:
    """Return {name: difference} as quantities of kind "shift", with centre 0."""
    return {name: Quantity(value, unit, "shift", 0.0, note) for name, value in values.items()}


def ratios(values: Mapping, note: str = "") -> Quantities:
    """Return {name: ratio} as quantities of kind "ratio", with centre 1."""
    return {name: Quantity(value, "1", "ratio", 1.0, note) for name, value in values.items()}


_KEPT: dict[tuple[int, Source], tuple[weakref.ref, Quantities]] = {}


def kept(source: Source, dataset: xr.Dataset) -> Quantities:
    """Return `source(dataset)`, cached while the dataset exists, because a page selects from it many times."""
    key = id(dataset), source
    if key not in _KEPT or _KEPT[key][0]() is not dataset:
        _KEPT[key] = weakref.ref(dataset, lambda _: _KEPT.pop(key, None)), source(dataset)
    return _KEPT[key][1]


def named(source: Source, name: str) -> Callable[[xr.Dataset], xr.DataArray]:
    """Return a function that maps a dataset to one quantity by prompt, [prompt]; prompts without a value are left out."""

    def by_prompt(dataset: xr.Dataset) -> xr.DataArray:
        values = kept(source, dataset)[name].values
        (dim,) = values.dims
        return values.rename({dim: "prompt"} if dim != "prompt" else {}).dropna("prompt")

    return by_prompt


def value(source: Source, dataset: xr.Dataset, name: str) -> float:
    """Return one quantity as a number: its mean over prompts, or the point value of its interval."""
    found = kept(source, dataset)[name].values
    if isinstance(found, stats.Interval):
        return float(found.mean)
    return float(np.nanmean(found)) if np.isfinite(found).any() else np.nan


def interval_rows(results, source: Source, names: Mapping[str, Mapping]) -> pd.DataFrame:
    """Return a table of mean and interval of quantities by prompt, one row per family and name; names: {quantity: labels}."""
    rows = [
        charts.interval_row(named(source, name)(dataset), panel=title, **labels)
        for title, dataset in results.items()
        for name, labels in names.items()
        if name in kept(source, dataset)
    ]
    return pd.DataFrame(rows)


def difference(values: xr.DataArray) -> xr.DataArray:
    """Return IT − PT, without the variant dimension."""
    return values.sel(variant="it", drop=True) - values.sel(variant="pt", drop=True)


def over(values: xr.DataArray, layers) -> xr.DataArray:
    """Return the mean of values over the layers with the given numbers."""
    return values.isel(layer=list(layers)).mean("layer")


def by_variant(name: str, values: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return {`<name>.pt`: PT's values, `<name>.it`: IT's values}."""
    return {f"{name}.{v}": values.sel(variant=v, drop=True) for v in VARIANTS}


def with_shift(
    name: str, values: xr.DataArray, unit: str, suffix: str = "", note: str = "", centre=None
) -> Quantities:
    """Return each variant's level and the shift IT − PT: `<name><suffix>.pt`, `<name><suffix>.it`, `<name>_shift<suffix>`."""
    both = levels(by_variant(name + suffix, values), unit, note, centre)
    return both | shifts({f"{name}_shift{suffix}": difference(values)}, unit, note)


def peak(values: np.ndarray) -> float:
    """Return the layer of the largest of values [layer]; NaN if one is missing."""
    return np.nan if np.isnan(values).any() else np.argmax(values)


def weights(result: xr.Dataset) -> Quantities:
    """Return the RMS weight change of MLPs and of attention: mean, variation, peak layer, ratios of late to early layers."""
    note = "published attention counts norms, too; here projections alone"
    found, n = {}, result.sizes["layer"]
    for group in ("mlp", "attention"):
        rms = result["weight_rms"].sel(group=group).values
        found |= levels({f"weight_mean.{group}": rms.mean()}, "RMS", note)
        found |= levels({f"weight_variation.{group}": rms.std() / rms.mean()}, "1", note)
        found |= levels({f"weight_peak_layer.{group}": peak(rms)}, "layers", note)
        for name, start in {"late": depths.onset(n), "last_third": 2 * n // 3}.items():
            late = {f"weight_{name}_ratio.{group}": rms[start:].mean() / rms[:start].mean()}
            found |= ratios(late, note)
    return found


def read_as(values: xr.DataArray, template: str) -> xr.DataArray:
    """Return values under one template for both models or, for "native", under each model's own."""
    if template != "native":
        return values.sel(template=template, drop=True)
    parts = [values.sel(variant=v, template=t, drop=True) for v, t in params.NATIVE.items()]
    return xr.concat(parts, "variant").assign_coords(variant=list(params.NATIVE))


def clouds(result: xr.Dataset) -> Quantities:
    """Return shifts of dimension, spectrum and attention entropy at the last prompt position, if they were measured."""
    found, n = {}, result.sizes["layer"]
    late = depths.final_fifth(n)
    for template in ("raw", "chat", "native"):
        moved = {}
        for estimator in result["estimator"].values if "dimension" in result else ():
            one = difference(read_as(result["dimension"].sel(estimator=estimator, drop=True), template))
            moved[f"late_dimension_shift.{estimator}.{template}"] = over(one, late)
            moved[f"last_dimension_shift.{estimator}.{template}"] = one.isel(layer=-1)
        for name in SPECTRA:
            if name in result:
                moved[f"late_{name}_shift.{template}"] = over(
                    difference(read_as(result[name], template)), late
                )
        found |= shifts(moved, "1")
        if "attention_entropy" in result:
            found |= attention(result, template)
    return found


def attention(result: xr.Dataset, template: str) -> Quantities:
    """Return shifts of attention entropy [cloud_prompt]: in nats, over all layers and around a third of the depth, and as a
    share of its ceiling; and the layer of the largest mean shift.
    """
    by_prompt = difference(read_as(result["attention_entropy"], template))
    n = by_prompt.sizes["layer"]
    centre, reach = round(0.33 * n), max(1, n // 10)
    around = range(max(centre - reach, 0), min(centre + reach + 1, n))
    moved = {
        f"attention_entropy_shift.{template}": by_prompt.mean("layer"),
        f"attention_entropy_shift_third.{template}": over(by_prompt, around),
        f"attention_entropy_shift_third_layer.{template}": by_prompt.isel(layer=centre, drop=True),
    }
    note = "published without naming the template; window at a third scaled with depth"
    at = {f"attention_entropy_peak_layer.{template}": peak(abs(by_prompt.mean("cloud_prompt").values))}
    share = difference(read_as(result["attention_normalised"], template)).mean("layer")
    return (
        shifts(moved, "nats", note)
        | levels(at, "layer", "in layers of this model")
        | shifts({f"attention_share_shift.{template}": share}, "1")
    )
