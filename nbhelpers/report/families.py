"""Results by family: their order and titles, paired differences, the dense pool, tables of intervals."""

import math
from collections import Counter
from collections.abc import Callable

import pandas as pd
import xarray as xr

from nbhelpers.core import params, stats
from nbhelpers.report.text import ENDS, written

FEWEST = 5  # prompts that an interval needs


def usable(results, measure: Callable) -> dict[str, xr.DataArray]:
    """Return {title: `measure(dataset)`, [prompt]} of the results that have at least `FEWEST` prompts for it."""
    measured = {title: measure(dataset) for title, dataset in results.items()}
    return {title: values for title, values in measured.items() if values.sizes["prompt"] >= FEWEST}


def cells(results, measures: dict[str, Callable]) -> pd.DataFrame:
    """Return means with intervals as text: one row per family, one column per measure [prompt], a dash if prompts are few."""
    columns = {}
    for heading, measure in measures.items():
        table = interval_table(usable(results, measure), lambda values: values, pool=False)
        columns[heading] = pd.Series(written(table), index=table["family"], dtype=object)
    return pd.DataFrame(columns).reindex(list(results)).fillna("–").rename_axis(None)


TITLES = {
    "gemma": "Gemma",
    "llama": "Llama",
    "qwen": "Qwen",
    "mistral": "Mistral",
    "deepseek": "DeepSeek",
    "olmo": "OLMo",
}
POOL = "dense pool"


def family_titles(profile: str) -> dict[str, str]:
    """Return {model key: title} in the book's order: the study's families first, then others by name.

    A title is the pair's own, such as "Pocket Gemma", never that of the family whose architecture it has; where two are the
    same, each has its key added.
    """
    models = [params.model_params(key) for key in params.profile_params(profile).models]
    models.sort(key=lambda model: (place(model.family), model.family))
    twice = Counter(model.title for model in models)
    return {
        model.key: f"{model.title} ({model.key})" if twice[model.title] > 1 else model.title
        for model in models
    }


def place(family: str) -> int:
    """Return the position of a family among the study's, after all of them for any other family."""
    return params.FAMILIES.index(family) if family in params.FAMILIES else len(params.FAMILIES)


def published_family(dataset: xr.Dataset) -> str | None:
    """Return the family of the study whose published figures stand beside a result; None if no family's do."""
    return params.model_params(dataset.attrs["model"]).published_as


def is_dense(dataset: xr.Dataset) -> bool:
    """Return whether a result's model is dense, that is, no mixture of experts."""
    return not params.model_params(dataset.attrs["model"]).mixture


def free(result: xr.Dataset) -> xr.Dataset:
    """Return the free-running part of measures with a `history` dimension: each model on the text that it wrote."""
    parts = [result.sel(variant=name, history=name, drop=True) for name in params.VARIANTS]
    return xr.concat(parts, "variant").assign_coords(variant=list(params.VARIANTS))


def pooled(results, measure) -> xr.DataArray:
    """Return the mean over dense families of `measure(dataset)`, [prompt], for the prompts that all of them share."""
    return mean_of([measure(dataset) for dataset in results.values() if is_dense(dataset)])


def mean_of(values: list[xr.DataArray]) -> xr.DataArray:
    """Return the mean over families of values [prompt], for the prompts that all of them share."""
    return xr.concat(xr.align(*values, join="inner"), dim="model").mean("model")


def interval_table(results, measure, *, pool=True, **options) -> pd.DataFrame:
    """Return a table of the mean and BCa interval of `measure(dataset)`, [prompt], by family and for the dense pool.

    All three are NaN where fewer than two prompts are measured.
    """
    rows = {title: measure(dataset) for title, dataset in results.items()}
    dense = [rows[title] for title, dataset in results.items() if pool and is_dense(dataset)]
    if len(dense) > 1:
        rows[POOL] = mean_of(dense)
    table = [[title, *ends(values, **options)] for title, values in rows.items()]
    return pd.DataFrame(table, columns=["family", *ENDS])


def ends(values: xr.DataArray, **options) -> list[float]:
    """Return the mean of values [prompt] and its BCa interval; NaN with fewer than two prompts."""
    values = values.dropna("prompt").values
    return [math.nan] * 3 if len(values) < 2 else [float(end) for end in stats.bca_mean(values, **options)]


def turned(table: pd.DataFrame, results) -> pd.DataFrame:
    """Return a table with a row per pair; of a single pair one with a row per measure, which does not repeat its title."""
    return table if len(results) > 1 else table.T.set_axis(["this pair"], axis="columns")
