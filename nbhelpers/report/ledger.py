"""The ledger: each published figure, whether the released artifacts support it, and what a run measured.

`params/published.csv` holds the figures; a slice's `quantities` module defines what a run measures. A figure's metric is
the exact name of a quantity, or that name after the prefix of a pool over families ("dense_five.", "n_positive.",
"n_negative."). A figure without a quantity is listed with the reason that the slice states in `UNMEASURED`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from types import ModuleType

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params, stats
from nbhelpers.report.families import is_dense, published_family
from nbhelpers.report.quantities import Quantities, Quantity, kept

pd.set_option("display.max_rows", None)  # show every row of a ledger
VERDICTS = ("supported", "contradicted", "no artifact")
COLUMNS = (
    "id", "claim", "metric", "family", "value", "ci_low", "ci_high", "unit", "source_section", "verdict",
    "reason",
)  # fmt: skip
RUN = ("title", "run", "run_low", "run_high", "note", "agreement")
ENDS = ("value", "low", "high")
ALL_SIX, ALL = "mean", "all"
QUALITATIVE = ("definition", "statement")  # figures that are sentences, without a value
UNMEASURED = "not measured here"
FEWEST = 5  # prompts that an interval needs
AGREEMENT = {"same sign": "✓", "other sign": "✗", "undecided": "~"}
DENSE, POSITIVE, NEGATIVE = "dense_five", "n_positive", "n_negative"  # pools of a quantity over families
OF_DENSE = "the mean of the dense families"


class ClaimError(ValueError):
    """A ledger of published figures that cannot be read; its message is one sentence."""


@cache
def _table(path, _mtime: int) -> pd.DataFrame:
    """Return the checked table of one file, cached until its modification time changes."""
    table = pd.read_csv(path, keep_default_na=False, na_values={"value": "", "ci_low": "", "ci_high": ""})
    if tuple(table.columns) != COLUMNS:
        raise ClaimError(f"params/published.csv must have the columns {', '.join(COLUMNS)}.")
    for column, allowed in {"verdict": VERDICTS, "family": (*params.FAMILIES, ALL_SIX, "all")}.items():
        wrong = table.loc[~table[column].isin(allowed)]
        if len(wrong):
            row = wrong.iloc[0]
            known = params.suggestion(row[column], allowed)
            raise ClaimError(f"params/published.csv, {row['id']}: unknown {column} {row[column]!r}; {known}.")
    if table["id"].duplicated().any():
        double = table.loc[table["id"].duplicated(), "id"].iloc[0]
        raise ClaimError(f"params/published.csv: the id {double} occurs twice.")
    return table


def published(experiment: str) -> pd.DataFrame:
    """Return the published figures of an experiment, one row each, in the order of the file.

    The columns are `COLUMNS`; `value` and the interval are NaN where none is published; `verdict` is one of
    `VERDICTS`. Raises ClaimError if the file is malformed.
    """
    path = params.ROOT / "params" / "published.csv"
    table = _table(path, path.stat().st_mtime_ns)
    return table[table["id"].str.startswith(f"{experiment}.")].reset_index(drop=True)


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


def agreement(centre: float | None, value: float, run: float, low: float, high: float) -> str:
    """Return whether a run's value has the published sign: same sign, other sign, undecided, or "".

    A run is undecided if its interval contains the centre. A quantity without a centre has no sign to compare.
    """
    if centre is None or np.isnan(value) or np.isnan(run) or value == centre:
        return ""
    if run == centre or (low <= centre <= high):
        return "undecided"
    return "same sign" if (run > centre) == (value > centre) else "other sign"


def pooled(found: Mapping[str, Quantities], runs: Mapping[str, pd.DataFrame], dense, across: Callable):
    """Return quantities over all families and their values: means, means of the dense families, counts of signs, `across`."""
    values = pd.concat({title: run["value"] for title, run in runs.items()}, axis=1)
    quantities, rows = {}, {}
    for name in values.index:
        quantity = next(of[name] for of in found.values() if name in of)
        each, centre = values.loc[name], quantity.centre or 0.0
        known = np.nan if each.isna().any() else 1.0  # a pool of all families has a value if every family has
        count = Quantity(np.nan, "families", "level", None, quantity.note)
        whole = replace(quantity, note="; ".join(filter(None, (quantity.note, OF_DENSE))))
        quantities |= {
            name: quantity,
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
            rows.append(figure | {"title": title} | _entry(figure, quantities, run))
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


def _entry(figure: dict, quantities: Quantities, run: pd.DataFrame) -> dict:
    """Return the run's entries for one figure, matched by the exact name of its quantity."""
    metric = figure["metric"]
    found = run.loc[metric] if metric in run.index else pd.Series(dtype=float)
    value, low, high = (float(found.get(name, np.nan)) for name in ENDS)
    quantity = quantities.get(metric, Quantity(np.nan, "", "level"))
    note = "" if metric.startswith(QUALITATIVE) else UNMEASURED if np.isnan(value) else quantity.note
    return {
        "run": value, "run_low": low, "run_high": high, "note": note,
        "agreement": agreement(quantity.centre, figure["value"], value, low, high),
    }  # fmt: skip


def not_measured(experiment: str, source: ModuleType) -> pd.DataFrame:
    """Return the published figures that no quantity of this book measures, one row per claim, with the reason.

    Columns: figures, their number; published, their values; audit, the verdicts; why not here, the reason.
    """
    table = published(experiment)
    reasons = table["metric"].map(lambda metric: reason(metric, source))
    table = table.assign(why=reasons)[reasons.notna()]
    rows = [
        [claim, of["why"].iloc[0], _audit(of["verdict"]), _extent(of["value"].dropna(), of["unit"].iloc[0]), len(of)]
        for claim, of in table.groupby("claim", sort=False)
    ]  # fmt: skip
    return (
        pd.DataFrame(rows, columns=["claim", "why not here", "audit", "published", "figures"])
        .set_index("claim")
        .rename_axis(None)
    )


def _extent(values: pd.Series, unit: str) -> str:
    """Return published values as text: one, or the least and the largest."""
    ends = [_number(value, unit, 2) for value in sorted({values.min(), values.max()})] if len(values) else []
    return " … ".join(ends) or "a sentence"


def reason(metric: str, source: ModuleType) -> str | None:
    """Return the reason why a published figure is not measured here, None if it is measured."""
    if metric.startswith(QUALITATIVE):
        return "a definition or a statement without a number"
    return getattr(source, "UNMEASURED", {}).get(metric)


def beside(experiment: str, results, source: ModuleType, **options) -> pd.DataFrame:
    """Return the ledger as a table to read: one row per claim, with "published → run" in the cell of each family.

    ✓: the run has the published sign; ✗: it has the other sign; ~: its 95 % interval contains the centre (`agreement`).
    Columns: unit; the results' titles; "mean" and "all" for figures of all families; audit, the counts of its verdicts.
    Claims that no result measures are left out; `not_measured` lists them. If no result is of a pair whose figures the study
    published, a row for each result says so, with an empty unit.
    """
    if not any(map(published_family, results.values())):
        said = "the study has no figures of this pair; `published_as` in its file in params/models would name whose to show"
        return pd.DataFrame({"unit": "", "published": said}, index=pd.Index(list(results)))
    table = ledger(experiment, results, source, **options)
    table = table[table["run"].notna()]
    columns = [*results, *(title for title in (ALL_SIX, ALL) if title in set(table["title"]))]
    if table.empty:
        return pd.DataFrame(columns=["unit", *columns, "audit"])
    cells = [_cell(row) for row in table.itertuples()]
    table = table.assign(cell=cells)
    by_claim = ["claim", "unit"]
    wide = table.pivot_table(index=by_claim, columns="title", values="cell", aggfunc="first", sort=False)
    wide = wide.reindex(columns=columns).fillna("")
    verdicts = table.drop_duplicates("id").groupby(by_claim, sort=False)["verdict"]
    wide["audit"] = verdicts.agg(_audit)
    return wide.reset_index().set_index("claim").rename_axis(index=None, columns=None)


def _cell(row) -> str:
    """Return one cell: "published → run" and the mark of their agreement."""
    both = (row.value, row.run)
    whole = all(float(value).is_integer() for value in both)
    # Shifts of a cosine are small; three digits keep the sign, which is compared.
    numbers = " → ".join(
        _number(value, row.unit, 0 if whole else 3 if abs(value) < 0.1 else 2) for value in both
    )
    return f"{numbers} {AGREEMENT.get(row.agreement, '')}".strip()


def _audit(verdicts: pd.Series) -> str:
    """Return verdicts as text: the shared one, or each with its count."""
    counts = verdicts.value_counts()
    if len(counts) == 1:
        return counts.index[0]
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _number(value: float, unit: str, digits: int) -> str:
    """Return a figure as text with a true minus sign; an onset may be "none", and an RMS has two significant digits."""
    if unit.startswith("onset") and value < 0:
        return "none"
    if unit == "RMS":
        return np.format_float_positional(value, precision=2, fractional=False, trim="-")
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, digits) + 0.0:.{digits}f}"
    return text.replace("-", "−")
