"""The ledger: each published figure, what the released artifacts say of it, and what a run measured.

`params/published.csv` holds the figures; a slice's `quantities` computes the same from results. This module sets them
beside each other; it loads no model. A figure whose metric no run measures stays in the ledger with its verdict.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params, stats

pd.set_option("display.max_rows", None)  # a ledger is read whole
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
FEWEST = 5  # prompts that an interval asks for
AGREEMENT = {"same sign": "✓", "other sign": "✗", "undecided": "~"}
# Values of one variant whose sign says something, and values of which the same may be said of no sign.
SIGNED = ("lens_improvement", "delta_cosine")
LEVELS = (
    "onset", "weight_mean", "weight_variation", "weight_peak", "attention_entropy_peak_layer", "crossover",
    "neuron_overlap", "n_positive", "n_negative", "reversals", "kl_level", "cross_kl_level", "residual_cosine",
    "commitment_layer", "first_miss", "displaced_share", "supported_share", "replaced_share", "late_win.", "rank_win",
    "candidate_overlap", *QUALITATIVE,
)  # fmt: skip
# What a value is compared with where that is not zero.
CENTRES = {
    "layers_above": 0.5, "delta_cosine_layers_below": 0.5, "weight_late_ratio": 1.0,
    "weight_last_third_ratio": 1.0, "sharpness_ratio": 1.0,
}  # fmt: skip
# The study's rules of commitment, whose cells of family, rule and lens it counts reversals in.
STUDY_RULES = ("top1_first", "top1_stable3", "kl_first_0.1", "majority_0.1")
# Where this run's definition is not the published one.
_BY_PROMPT = "published: means over steps; here: by prompt"
_LAST = "; published: the last layer through its translator"
_MEANS = "published: pooled over tokens; here: mean of the five families"
NOTES = {
    **dict.fromkeys(
        ("dense_five.rank_gain", "dense_five.displaced_share", "dense_five.supported_share"), _MEANS
    ),
    "kl_excess": "published: pooled over tokens; here: means by prompt, paired",
    "layers_above": "published: pooled over tokens; here: means by prompt, shares of its layers",
    "commitment_delay.": "published: pooled over tokens; here: means by prompt; in layers of this model",
    "commitment_delay_by_prompt": "published without each text's first five steps; in layers of this model",
    "commitment_delay_median.raw.top1_first": "published as the first match, computed as one that stays",
    "commitment_delay_median.raw.kl_first": "published as the first crossing, computed as the one that stays",
    "commitment_delay_median.tuned.top1_first": "published as the first match, computed as one that stays",
    "commitment_delay_median.tuned.kl_first": "published as the first crossing, computed as the one that stays",
    "delta_cosine": "the whole block's update, as computed; the text says MLP",
    "template_shift": "kinds of prompts are this project's own",
    "kl_first_layer": "published without, here with a mask over vocabulary rows that no token has",
    "steps": "fewer prompts and shorter texts than in the study",
    "matched_": "published: means over steps; here: by prompt",
    "weight_": "published attention counts norms, too; here projections alone",
    "attention_entropy_shift": "published without naming the template; window at a third scaled with depth",
    "attention_entropy_peak_layer": "in layers of this model",
    "dimension_minimum_layer": "in layers of this model",
    "lowest_layer": "in layers of this model; searched between 0.2 and 0.5 of the depth",
    "phase_kl_adjacent": "Gemma's figures: KL(layer ‖ before), clipped, no template; here KL(before ‖ layer)",
    "delay_by_confidence": "published without IT's template; in layers of this model",
    "late_change_structural_share": "from rates by token class, means over prompts",
    "gini": "published: dictionary features; here: MLP neurons",
    "n50": "published: dictionary features; here: MLP neurons",
    "n90": "published: dictionary features; here: MLP neurons",
    "neuron_overlap": "published: dictionary features; here: MLP neurons",
    "lens_improvement": "published on generated text; here on held-out text",
    "top1_agreement": "published for an older run's translators",
    "onset": "published: searched above layer 14 only, against layers 6–14; in layers of this model",
    "reversals": "cells of the four rules and both lenses",
    **dict.fromkeys(("kl_shift", "kl_window_shift", "kl_level", "late_lead", "cross_kl"), _BY_PROMPT + _LAST),
    **dict.fromkeys(("commitment_shift", "commitment_layer"), "in layers of this model" + _LAST),
    **dict.fromkeys(
        (
            "mlp_cosine_shift",
            "projection",
            "late_kl_r_cosine",
            *(f"late_kl_r.{feature}" for feature in ("support", "anti", "delta", "remainder")),
        ),
        "published: Gemma's and OLMo's MLPs before the norm that follows",
    ),
    **dict.fromkeys(
        ("displaced_share", "supported_share", "share_change"),
        "published: candidates classed by themselves; here: in their text, special tokens apart",
    ),
    **dict.fromkeys(("rank_gain", "rank_win", "candidate_overlap"), _BY_PROMPT),
    "late_win": "published: all through PT's lens; here: each through its host's",
    "reply_length": "shorter texts than in the study",
    **dict.fromkeys(
        ("rank_gain_raw", "late_kl_r.rank_gain"),
        "published: among all vocabulary rows; here among those of tokens",
    ),
}


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


def measured(result: xr.Dataset, quantities: Callable, **options) -> pd.DataFrame:
    """Return what one result says of every metric of its experiment: value, low, high by metric name.

    What is measured by prompt has a BCa interval over prompts, to which `options` apply, and is NaN with fewer than
    five of them; an onset has its dataset's bootstrap interval; the rest have none. Empty where no figure of the
    experiment is published.
    """
    found, rows, groups = quantities(result), {}, {}
    for name, value in found.items():
        if isinstance(value, stats.Interval):
            rows[name] = value
        elif np.ndim(value):
            groups.setdefault(np.shape(value), {})[name] = np.asarray(value, dtype=float)
        else:
            rows[name] = (float(value), np.nan, np.nan)
    for group in groups.values():
        rows |= zip(group, _intervals(np.stack(list(group.values()), axis=1), **options))
    return pd.DataFrame([rows[name] for name in found], list(found), list(ENDS), dtype=float)


def _intervals(values: np.ndarray, **options) -> np.ndarray:
    """Return mean, low and high of each column of values [prompt, column], NaN where too few are measured."""
    found = np.full((values.shape[1], len(ENDS)), np.nan)
    enough = np.isfinite(values).sum(0) >= FEWEST
    if enough.any():
        found[enough] = np.stack(stats.bca_mean(values[:, enough], **options), axis=1)
    return found


def centre(metric: str) -> float | None:
    """Return the value that parts a metric's two signs, None for a level, which has none to compare."""
    metric = metric.removeprefix("dense_five.")
    level = metric.endswith((".pt", ".it", ".it_plain")) and not metric.startswith(SIGNED)
    if level or metric.startswith(LEVELS):
        return None
    return next((value for start, value in CENTRES.items() if metric.startswith(start)), 0.0)


def agreement(metric: str, value: float, run: float, low: float, high: float) -> str:
    """Return whether a run's difference has the published sign: same sign, other sign, undecided, or "".

    A run is undecided where its interval holds the metric's centre. Levels have no sign to compare.
    """
    at = centre(metric)
    if at is None or np.isnan(value) or np.isnan(run) or value == at:
        return ""
    if run == at or (low <= at <= high):
        return "undecided"
    return "same sign" if (run > at) == (value > at) else "other sign"


def _note(metric: str, run: float) -> str:
    """Return what a reader must know to compare the two values."""
    if metric.startswith(QUALITATIVE):
        return ""
    if np.isnan(run):
        return UNMEASURED
    names = (metric, metric.removeprefix("dense_five."))
    return "; ".join(note for start, note in NOTES.items() if any(name.startswith(start) for name in names))


def _pooled(runs: dict[str, pd.DataFrame], dense) -> pd.DataFrame:
    """Return what the six families say together: means, of all and of the dense five, and counts of signs, by metric."""
    values = pd.concat(runs.values())["value"]
    by_metric, at = values.groupby(level=0), values.index.map(lambda metric: centre(metric) or 0.0)
    of_dense = pd.concat([runs[title] for title in dense])["value"].groupby(level=0)
    found = [by_metric.mean(), of_dense.mean().rename(lambda metric: f"dense_five.{metric}")]
    for name, holds in {"n_positive": values > at, "n_negative": values < at}.items():
        found.append(holds.groupby(level=0).sum().rename(lambda metric, name=name: f"{name}.{metric}"))
    delays = values[values.index.isin(_cells())]
    found.append(pd.Series({"reversals": (delays < 0).sum()} if len(delays) else {}, dtype=float))
    return pd.concat(found).astype(float).rename("value").to_frame()


def _cells() -> list[str]:
    """Return the metrics whose reversals the study counts: commitment delays by its rules, both lenses."""
    return [f"commitment_delay.{lens}.{rule}" for lens in ("raw", "tuned") for rule in STUDY_RULES]


def ledger(experiment: str, results, quantities: Callable, **options) -> pd.DataFrame:
    """Return the published figures of an experiment beside those of a run, a row for each figure and result.

    `results` maps titles to datasets, of which `quantities(dataset)` says what is measured. A figure of a family is set
    beside each result of that family, the mean of the six and counts of families beside all results where they cover
    the six. Adds to `published`: `RUN`.
    """
    runs = {title: measured(result, quantities, **options) for title, result in results.items()}
    family = {title: params.model_params(result.attrs["model"]).family for title, result in results.items()}
    whole = set(family.values()) == set(params.FAMILIES)
    dense = [title for title in runs if family[title] != "deepseek"]
    pooled = _pooled(runs, dense) if whole else pd.DataFrame(columns=list(ENDS), dtype=float)
    rows = []
    for figure in published(experiment).to_dict("records"):
        of = figure["family"]
        beside_it = {title: run for title, run in runs.items() if family[title] == of}
        for title, run in (beside_it or {of: pooled if of in (ALL_SIX, ALL) else pooled.iloc[:0]}).items():
            rows.append(figure | {"title": title} | _entry(figure, run))
    return pd.DataFrame(rows, columns=[*COLUMNS, *RUN])


def _entry(figure: dict, run: pd.DataFrame) -> dict:
    """Return a run's side of one figure."""
    metric = figure["metric"]
    found = run.loc[metric] if metric in run.index else pd.Series(dtype=float)
    value, low, high = (float(found.get(name, np.nan)) for name in ("value", "low", "high"))
    return {
        "run": value, "run_low": low, "run_high": high, "note": _note(metric, value),
        "agreement": agreement(metric, figure["value"], value, low, high),
    }  # fmt: skip


def beside(experiment: str, results, quantities: Callable, **options) -> pd.DataFrame:
    """Return the ledger as a table to read: a row for each claim, in each family's cell "published → run".

    ✓ the run has the published sign, ✗ the other one, ~ its 95 % interval holds zero. The last column counts
    the audit's verdicts. Claims that no result measures are left out; `ledger` has them. Columns: unit, the results'
    titles, mean and all where figures are of all families, audit.
    """
    table = ledger(experiment, results, quantities, **options)
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
    """Return one cell, "published → run" and the mark of their signs."""
    both = (row.value, row.run)
    whole = all(float(value).is_integer() for value in both)
    # A shift of a cosine is small, and its sign is what is compared.
    numbers = " → ".join(
        _number(value, row.unit, 0 if whole else 3 if abs(value) < 0.1 else 2) for value in both
    )
    return f"{numbers} {AGREEMENT.get(row.agreement, '')}".strip()


def _audit(verdicts: pd.Series) -> str:
    """Return verdicts as text: the one they share, or each with its number."""
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
