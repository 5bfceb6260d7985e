"""The ledger: each published figure, what the released artifacts say of it, and what a run measured.

`params/published.csv` holds the figures. This module computes the same quantities from results and sets them
beside the published ones; it loads no model. A metric's name says what it is of: `.raw` or `.tuned` for the
lens, `.pt` or `.it` for one variant; without a variant it is IT − PT.
"""

from functools import cache

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers import params, stats

VERDICTS = ("supported", "contradicted", "no artifact")
COLUMNS = (
    "id", "claim", "metric", "family", "value", "ci_low", "ci_high", "unit", "source_section", "verdict",
    "reason",
)  # fmt: skip
ALL_SIX = "mean"
UNMEASURED = "not measured yet"
AGREEMENT = {"same sign": "✓", "other sign": "✗", "undecided": "~"}
RULES = {
    "top1_first": "first top-1 match",
    "top1_strict": "top-1 match that stays",
    "kl_first_0.1": "first KL < 0.1",
    "kl_stays_0.1": "KL < 0.1 that stays",
}
# Where this run's definition is not the published one.
NOTES = {
    "kl_excess": "published: pooled over tokens; here: means by prompt, paired",
    "layers_above": "published: pooled over tokens; here: means by prompt, shares of its layers",
    "commitment_delay.": "published: pooled over tokens; here: means by prompt; in layers of this model",
    "commitment_delay_median.raw.top1_first": "published as the first match, computed as one that stays",
    "commitment_delay_median.raw.kl_first": "published as the first crossing, computed as the one that stays",
    "delta_cosine": "the whole block's update, as computed; the text says MLP",
    "kl_first_layer": "published without, here with a mask over vocabulary rows that no token has",
    "steps": "fewer prompts and shorter texts than in the study",
}
DEPTHS = {"depth_0.5_0.7": (5, 7), "depth_0.7_0.9": (7, 9), "depth_0.9_1.0": (9, 10)}


class ClaimError(ValueError):
    """A ledger of published figures that cannot be read; its message is one sentence."""


@cache
def _table(path, _mtime: int) -> pd.DataFrame:
    """Return the checked table of one file; the modification time makes the cache see an edit."""
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
    """Return the published figures of an experiment, a row each, in the file's order.

    The columns are `COLUMNS`; `value` and the interval are NaN where none is published, the verdict is one of
    `VERDICTS`. Raises ClaimError where the file is malformed.
    """
    path = params.ROOT / "params" / "published.csv"
    table = _table(path, path.stat().st_mtime_ns)
    return table[table["id"].str.startswith(f"{experiment}.")].reset_index(drop=True)


def _paired(values: xr.DataArray) -> xr.DataArray:
    """Return IT − PT, [prompt]."""
    return values.sel(variant="it", drop=True) - values.sel(variant="pt", drop=True)


def _over(values: xr.DataArray, layers) -> xr.DataArray:
    """Return IT − PT of the mean over some layers, [prompt]."""
    return _paired(values.isel(layer=list(layers)).mean("layer"))


def differences(result: xr.Dataset) -> xr.Dataset:
    """Return IT − PT of each prompt for every metric that has such a difference, [prompt] by metric name."""
    n_layers = result.sizes["layer"]
    kl = result["kl_final_layer"].sel(lens="raw", drop=True)
    cosine = result["delta_cosine"].sel(component="block", drop=True)
    delay = _paired(result["commitment"].sel(lens="raw", drop=True))
    thirds = {f"{name}_third": layers for name, layers in params.thirds(n_layers).items()}
    fifth = {"final_fifth": params.final_fifth(n_layers)}
    late = {"late_half": params.late_half(n_layers)}
    slices = {name: range(a * n_layers // 10, b * n_layers // 10) for name, (a, b) in DEPTHS.items()}
    # The published curve has no first layer, whose predecessor would be the embedding.
    no_first = {"early_third": range(1, n_layers // 3)} if n_layers >= 6 else {}
    last = {"last_layer": [n_layers - 1]}
    found = {f"kl_excess_{name}.raw": _over(kl, layers) for name, layers in (late | thirds | fifth).items()}
    for name, layers in (slices | last | fifth | thirds | no_first).items():
        found[f"delta_cosine_shift.{name}"] = _over(cosine, layers)
    found["cosine_to_final_shift.mean"] = _over(result["cosine_to_final"], range(n_layers))
    found |= {f"commitment_delay.raw.{rule}": delay.sel(rule=rule, drop=True) for rule in RULES}
    return xr.Dataset(found).dropna("prompt")


def quantile_layer(counts: xr.DataArray, share: float = 0.5) -> int:
    """Return the layer by which `share` of the pooled steps have committed, counts [layer]."""
    return int(np.argmax(np.cumsum(counts.values) >= share * counts.values.sum()))


def levels(result: xr.Dataset) -> dict[str, float]:
    """Return the metrics of one result that are no mean of paired differences, by metric name."""
    n_layers = result.sizes["layer"]
    kl = result["kl_final_layer"].sel(lens="raw").mean("prompt")
    half = kl.isel(layer=list(params.late_half(n_layers)))
    above = half.sel(variant="it", drop=True) > half.sel(variant="pt", drop=True)
    cosine = result["cosine_to_final"].mean("prompt")
    shift = cosine.sel(variant="it", drop=True) - cosine.sel(variant="pt", drop=True)
    found = {
        "layers_above.raw": float(above.mean()),
        "cosine_to_final_shift.extreme": float(shift[np.argmax(abs(shift.values))]),
    }
    for variant in params.VARIANTS:
        one = result.sel(variant=variant)
        found[f"final_entropy.{variant}"] = float(one["entropy"].sel(lens="raw").isel(layer=-1).mean())
        found[f"kl_first_layer.raw.{variant}"] = float(kl.sel(variant=variant).isel(layer=0))
        found[f"steps.{variant}"] = float((one["n_tokens"] - 1).clip(min=0).sum())
        last = one["delta_cosine"].sel(component="block").isel(layer=-1)
        found[f"delta_cosine_last_layer.{variant}"] = float(last.mean())
    return found | _commitment_levels(result)


def _commitment_levels(result: xr.Dataset) -> dict[str, float]:
    """Return means of both variants and differences of medians of commitment layers, over pooled steps."""
    counts, found = result["commitment_count"].sel(lens="raw"), {}
    for rule in RULES:
        pooled = {variant: counts.sel(variant=variant, rule=rule) for variant in params.VARIANTS}
        for variant, count in pooled.items():
            found[f"commitment.raw.{rule}.{variant}"] = float((count * count["layer"]).sum() / count.sum())
        median = quantile_layer(pooled["it"]) - quantile_layer(pooled["pt"])
        found[f"commitment_delay_median.raw.{rule}"] = float(median)
    return found


def measured(result: xr.Dataset, **options) -> pd.DataFrame:
    """Return what one exp09 result says of every metric: value, low, high by metric name.

    Paired differences have a BCa interval over prompts, to which `options` apply; the others have none.
    """
    paired = differences(result)
    values = np.stack([variable.values for variable in paired.data_vars.values()], axis=1)
    bounds = np.stack([np.asarray(bound) for bound in stats.bca_mean(values, **options)], axis=1)
    found = pd.DataFrame(bounds, index=list(paired.data_vars), columns=["value", "low", "high"])
    single = levels(result)
    rest = pd.DataFrame({"value": list(single.values())}, index=list(single), columns=found.columns)
    return pd.concat([found, rest.astype(float)])


def agreement(metric: str, value: float, run: float, low: float, high: float) -> str:
    """Return whether a run's difference has the published sign: same sign, other sign, undecided, or "".

    A run is undecided where its interval holds zero. Levels (of one variant) have no sign to compare.
    """
    if metric.endswith((".pt", ".it")) or np.isnan(value) or np.isnan(run) or value == 0:
        return ""
    centre = 0.5 if metric.startswith("layers_above") else 0.0
    if run == centre or (low <= centre <= high):
        return "undecided"
    return "same sign" if (run > centre) == (value > centre) else "other sign"


def _note(metric: str, run: float) -> str:
    """Return what a reader must know to compare the two values."""
    if metric.startswith("definition"):
        return ""
    if np.isnan(run):
        return UNMEASURED
    return "; ".join(note for start, note in NOTES.items() if metric.startswith(start))


def ledger(experiment: str, results, **options) -> pd.DataFrame:
    """Return the published figures of an experiment beside those of a run, a row for each figure and result.

    `results` maps titles to datasets; a figure of a family is set beside each result of that family, the mean
    of the six beside the mean of all results where they cover the six. Adds to `published`: title, run,
    run_low, run_high, agreement, note.
    """
    runs = {title: _run(experiment, result, options) for title, result in results.items()}
    family = {title: params.model_params(result.attrs["model"]).family for title, result in results.items()}
    pooled = pd.concat(runs.values()).groupby(level=0)["value"].mean().to_frame()
    if set(family.values()) != set(params.FAMILIES):
        pooled = pooled.iloc[:0]
    rows = []
    for figure in published(experiment).to_dict("records"):
        beside_it = {title: run for title, run in runs.items() if family[title] == figure["family"]}
        if figure["family"] == ALL_SIX:
            beside_it = {ALL_SIX: pooled}
        for title, run in (beside_it or {figure["family"]: pooled.iloc[:0]}).items():
            rows.append(figure | {"title": title} | _entry(figure, run))
    return pd.DataFrame(rows)


def _run(experiment: str, result: xr.Dataset, options: dict) -> pd.DataFrame:
    """Return what one result says of every metric; nothing for an experiment whose figures have no metric here yet."""
    if experiment != "exp09":
        return pd.DataFrame(columns=["value", "low", "high"], dtype=float)
    return measured(result, **options)


def _entry(figure: dict, run: pd.DataFrame) -> dict:
    """Return a run's side of one figure."""
    metric = figure["metric"]
    found = run.loc[metric] if metric in run.index else pd.Series(dtype=float)
    value, low, high = (float(found.get(name, np.nan)) for name in ("value", "low", "high"))
    return {
        "run": value, "run_low": low, "run_high": high, "note": _note(metric, value),
        "agreement": agreement(metric, figure["value"], value, low, high),
    }  # fmt: skip


def beside(experiment: str, results, **options) -> pd.DataFrame:
    """Return the ledger as a table to read: a row for each claim, in each family's cell "published → run".

    ✓ the run has the published sign, ✗ the other one, ~ its 95 % interval holds zero. The last column counts
    the audit's verdicts. Claims that no result measures are left out; `ledger` has them.
    """
    table = ledger(experiment, results, **options)
    if table.empty:
        return pd.DataFrame(columns=["unit", *results, "audit"])
    table = table[table["run"].notna()]
    table["cell"] = [
        f"{_number(row.value)} → {_number(row.run)} {AGREEMENT.get(row.agreement, '')}".strip()
        for row in table.itertuples()
    ]
    order = [title for title in (*results, ALL_SIX) if title in set(table["title"])]
    wide = table.pivot_table(
        index=["claim", "unit"], columns="title", values="cell", aggfunc="first", sort=False
    )
    wide = wide.reindex(columns=order).fillna("")
    wide["audit"] = table.groupby(["claim", "unit"], sort=False)["verdict"].agg(_audit)
    return wide.reset_index().set_index("claim").rename_axis(index=None, columns=None)


def _audit(verdicts: pd.Series) -> str:
    """Return verdicts as text: the one they share, or each with its number."""
    counts = verdicts.value_counts()
    return (
        counts.index[0]
        if len(counts) == 1
        else ", ".join(f"{name} {count}" for name, count in counts.items())
    )


def _number(value: float) -> str:
    """Return a figure as text, whole or with two decimals, with a true minus sign."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 2) + 0.0:.2f}"
    return text.replace("-", "−")
