"""The ledger: each published figure, whether the study's released files support it, and what a run measured.

`claims` reads the figures of `params/published.csv`; a slice's `quantities` module defines what a run measures. A figure's
metric is the exact name of a quantity, or that name after the prefix of a pool over families ("dense_five.",
"n_positive.", "n_negative."). A figure without a quantity is listed with the reason that the slice states in `UNMEASURED`;
`SHOWN` names the figure that shows a quantity and the function that defines it.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from types import ModuleType

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params, stats
from nbhelpers.report import claims, ledger_table
from nbhelpers.report.claims import ALL, ALL_SIX, COLUMNS, QUALITATIVE, agreement, published
from nbhelpers.report.families import FEWEST, TITLES, is_dense, published_family
from nbhelpers.report.ledger_table import Ledger
from nbhelpers.report.quantities import Quantities, Quantity, kept

RUN = ("title", "layers", "run", "run_low", "run_high", "note", "agreement", "agrees", "missing")
ENDS = ("value", "low", "high")
# What the page of all claims is told of a figure.
KEPT = ("id", "title", "layers", "run", "run_low", "run_high", "agrees", "agreement", "missing")
UNMEASURED = "not measured here"
DENSE, POSITIVE, NEGATIVE = "dense_five", "n_positive", "n_negative"  # pools of a quantity over families
OF_DENSE = "the mean of the dense families"
NO_FIGURES = "the study has no figures of this pair; `published_as` in its file in params/models would name whose to show"


def measured(found: Quantities, **options) -> pd.DataFrame:
    """Return a table of value, low and high of quantities, one row per name.

    A quantity by prompt has a BCa interval over prompts, computed with `options`; it is NaN with fewer than five
    prompts. An interval from the dataset is used unchanged. Other quantities have no interval.
    """
    rows, groups = {}, {}
    for name, quantity in found.items():
        values = quantity.values
        if isinstance(values, stats.Interval):
            rows[name] = values
        elif np.ndim(values):
            groups.setdefault(np.shape(values), {})[name] = np.asarray(values, dtype=float)
        else:
            rows[name] = (float(values), np.nan, np.nan)
    for group in groups.values():
        rows |= zip(group, _intervals(np.stack(list(group.values()), axis=1), **options))
    return pd.DataFrame([rows[name] for name in found], list(found), list(ENDS), dtype=float)


def _intervals(values: np.ndarray, **options) -> np.ndarray:
    """Return mean, low and high of each column of values [prompt, column], NaN where too few prompts are measured."""
    found = np.full((values.shape[1], len(ENDS)), np.nan)
    enough = np.isfinite(values).sum(0) >= FEWEST
    if enough.any():
        found[enough] = np.stack(stats.bca_mean(values[:, enough], **options), axis=1)
    return found


def pooled(found: Mapping[str, Quantities], runs: Mapping[str, pd.DataFrame], dense, across: Callable):
    """Return quantities over all families and their values: means, means of the dense families, counts of signs, `across`."""
    values = pd.concat({title: run["value"] for title, run in runs.items()}, axis=1)
    quantities, rows = {}, {}
    for name in values.index:
        quantity = next(of[name] for of in found.values() if name in of)
        each, centre = values.loc[name], quantity.centre or 0.0
        known = np.nan if each.isna().any() else 1.0  # a pool of all families has a value if every family has
        count = Quantity(np.nan, "families", "level", None, quantity.note)
        whole = replace(quantity, values=np.nan, note="; ".join(filter(None, (quantity.note, OF_DENSE))))
        quantities |= {
            name: replace(quantity, values=np.nan),  # one family's values are not the pool's
            f"{DENSE}.{name}": whole,
            f"{POSITIVE}.{name}": count,
            f"{NEGATIVE}.{name}": count,
        }
        rows |= {
            name: each.mean(skipna=False),
            f"{DENSE}.{name}": each[dense].mean(skipna=False),
            f"{POSITIVE}.{name}": known * (each > centre).sum(),
            f"{NEGATIVE}.{name}": known * (each < centre).sum(),
        }
    more = across(found)
    rows |= {name: quantity.values for name, quantity in more.items()}
    return quantities | more, pd.Series(rows, dtype=float).rename("value").to_frame()


def ledger(experiment: str, results, source: ModuleType, **options) -> pd.DataFrame:
    """Return the published figures of an experiment beside the values of a run, one row for each figure and result.

    results: {title: dataset}. source: the slice's `quantities` module, which defines what is measured, which parameters
    its figures need as the study had them, and how families are counted. A figure of one family stands beside each result
    that is `published_as` that family; figures of all families stand beside all results together, if these cover the six
    families. Adds the columns `RUN` to `published`.
    """
    found = {title: as_published(source, result) for title, result in results.items()}
    runs = {title: measured(quantities, **options) for title, quantities in found.items()}
    families = {title: published_family(result) for title, result in results.items()}
    family = {title: name for title, name in families.items() if name}
    together = {}, pd.DataFrame(columns=list(ENDS), dtype=float)
    if set(family.values()) == set(params.FAMILIES):
        of_family = {name: found[title] for title, name in family.items()}
        dense = [title for title in family if is_dense(results[title])]
        across = getattr(source, "across", lambda found: {})
        whole = ({title: of[title] for title in family} for of in (found, runs))
        together = pooled(*whole, dense, lambda _: across(of_family))
    rows = []
    for figure in published(experiment).to_dict("records"):
        beside_it = {t: (found[t], runs[t]) for t, name in family.items() if name == figure["family"]}
        whole = together if figure["family"] in (ALL_SIX, ALL) else ({}, together[1].iloc[:0])
        for title, (quantities, run) in (beside_it or {figure["family"]: whole}).items():
            n_layers = results[title].sizes.get("layer", math.nan) if title in results else math.nan
            entry = _entry(figure, quantities, run, n_layers, **options)
            entry["missing"] = _missing(figure, entry["run"], bool(beside_it), source)
            rows.append(figure | {"title": title, "layers": n_layers} | entry)
    return pd.DataFrame(rows, columns=[*COLUMNS, *RUN])


def as_published(source: ModuleType, result: xr.Dataset) -> Quantities:
    """Return a result's quantities that can stand beside published ones.

    `source.AS_PUBLISHED` maps patterns of names to parameters and their values in the study: a quantity that was measured
    with another value is another quantity.
    """
    given = json.loads(result.attrs.get("parameters", "{}"))

    def same(name):
        needed = [
            values
            for pattern, values in getattr(source, "AS_PUBLISHED", {}).items()
            if fnmatchcase(name, pattern)
        ]
        return all(given.get(key, value) == value for values in needed for key, value in values.items())

    return {name: quantity for name, quantity in kept(source.quantities, result).items() if same(name)}


def _entry(figure: dict, quantities: Quantities, run: pd.DataFrame, n_layers: float, **options) -> dict:
    """Return the run's entries for one figure, matched by the exact name of its quantity."""
    metric = figure["metric"]
    value, low, high = _ends(run, metric)
    quantity = quantities.get(metric, Quantity(np.nan, "", "level"))
    note = "" if metric.startswith(QUALITATIVE) else UNMEASURED if np.isnan(value) else quantity.note
    test = claims.claim_test(figure["claim_test"])
    tests = test.parts() if test and not np.isnan(value) else []
    agrees = claims.together(_agrees(one, metric, quantities, run, n_layers, **options) for one in tests)
    return {
        "run": value, "run_low": low, "run_high": high, "note": note, "agrees": agrees,
        "agreement": agreement(quantity.centre, figure["value"], value, low, high),
    }  # fmt: skip


def _agrees(test, metric: str, quantities: Quantities, run: pd.DataFrame, n_layers: float, **options) -> str:
    """Return whether a run's value of a quantity passes one test, an order by its differences from the other quantities."""
    if not test.others:
        return test.judged(*_ends(run, metric), n_layers)
    each = (_difference(quantities, run, metric, name, **options) for name in claims.others(metric, test))
    return claims.together(test.judged(*one) for one in each)


def _ends(run: pd.DataFrame, metric: str) -> tuple[float, float, float]:
    """Return value, low and high of one quantity of a run, NaN where it has none."""
    found = run.loc[metric] if metric in run.index else pd.Series(dtype=float)
    return tuple(float(found.get(name, np.nan)) for name in ENDS)


def _difference(quantities: Quantities, run: pd.DataFrame, metric: str, other: str, **options):
    """Return value, low and high of one quantity less another: by prompt with an interval, else of their values alone."""
    values = [quantities[name].values if name in quantities else np.nan for name in (metric, other)]
    if all(isinstance(one, xr.DataArray) and one.ndim for one in values):
        return _ends(measured({metric: Quantity(values[0] - values[1], "", "shift")}, **options), metric)
    return _ends(run, metric)[0] - _ends(run, other)[0], np.nan, np.nan


def _missing(figure: dict, run: float, has_result: bool, source: ModuleType) -> str:
    """Return why a run has no value of one figure, "" if it has one."""
    why = reason(figure["metric"], source)
    if why or not np.isnan(run):
        return why or ""
    if figure["family"] in (ALL_SIX, ALL):
        return "needs a value of each of the six families"
    if not has_result:
        return f"no pair here stands for {TITLES[figure['family']]}"
    return "too few prompts in this run, or other parameters than the study's"


def reason(metric: str, source: ModuleType) -> str | None:
    """Return the reason why a published figure is not measured here, None if it is measured."""
    if metric.startswith(QUALITATIVE):
        return "a definition or a statement without a number"
    return getattr(source, "UNMEASURED", {}).get(metric)


def shown(metric: str, source: ModuleType) -> tuple[str, Callable] | None:
    """Return the name of the cell that shows a quantity and the function that defines it, as the slice's `SHOWN` has them."""
    name = metric.removeprefix(f"{DENSE}.").removeprefix(f"{POSITIVE}.").removeprefix(f"{NEGATIVE}.")
    for pattern, found in getattr(source, "SHOWN", {}).items():
        if fnmatchcase(name, pattern):
            return found
    return None


def beside(experiment: str, results, source: ModuleType, **options) -> Ledger:
    """Return the ledger to read: a row for each claim, with "published → run [95 % interval]" in the cell of each pair.

    Each cell says whether the run agrees with the claim (`claims.ClaimTest`) and whether it has the published sign
    (`claims.agreement`); the row says where the figures stand and what the audit found. With a single pair, published value
    and run have columns of their own. Claims that no result measures are left out, counted and named below the table, or by
    `not_measured`. If no result is of a pair whose figures the study published, a row for each result says so.
    """
    families = {title: published_family(result) for title, result in results.items()}
    if not any(families.values()):
        said = pd.DataFrame({"published": NO_FIGURES}, index=pd.Index(list(results)))
        return Ledger(said, said.to_html())
    table = ledger(experiment, results, source, **options)
    if len(results) == 1:
        table = table[table["family"].isin(families.values())]
    titles = [title for title, family in families.items() if family]
    links = {metric: shown(metric, source) for metric in table["metric"].unique()}
    elsewhere = {row.id for row in table.itertuples() if reason(row.metric, source)}
    shown_table = ledger_table.beside(table, titles, links, elsewhere)
    return replace(shown_table, figures=of_claims(table))


def of_claims(table: pd.DataFrame) -> tuple[list, ...]:
    """Return the rows of `ledger` that belong to a claim, as lists of `KEPT`, plain enough for JSON."""
    rows = table.loc[table["claim_id"] != "", list(KEPT)]
    return tuple([*map(_plain, row)] for row in rows.itertuples(index=False))


def _plain(value):
    """Return a number with six digits that count, None for NaN; anything else as it is."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else float(f"{value:.6g}")


def not_measured(experiment: str, source: ModuleType) -> Ledger:
    """Return the published figures that no quantity of this book measures, one row per claim, with the reason.

    Columns: why not here, the reason; audit, the verdicts; published, the values; figures, their number; source.
    """
    table = published(experiment)
    reasons = table["metric"].map(lambda metric: reason(metric, source))
    return ledger_table.not_measured(table.assign(why=reasons)[reasons.notna()])
