"""The figures of exp15, drawn by `report.behaviour_charts`, and its tables over pairs: correlations and dense means."""

import altair as alt
import numpy as np
import pandas as pd

from nbhelpers.experiments.exp15_symmetric_behaviour.quantities import (
    COMPARED,
    PAIRWISE,
    RULES,
    SIDES,
    conditions,
    quantities,
)
from nbhelpers.measures.behaviour import RATED
from nbhelpers.measures.graft_shifts import WINDOWS
from nbhelpers.report import behaviour_charts, unmeasured
from nbhelpers.report.families import POOL, is_dense
from nbhelpers.report.forest import forest_rows
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.rates import ends as exact_ends
from nbhelpers.report.text import interval, number
from nbhelpers.report.verdicts import MISSING

TITLES = {
    "g2": "G2, assistant's voice",
    "s2": "S2, harmless requests answered",
    "g1": "G1, structure of the reply",
    "s1": "S1, harmful requests refused",
    "structure": "structural words",
    "format": "requested form",
    "arithmetic": "right sum",
    "choice": "right choice, written",
    "choice_logprob": "right choice, likeliest",
}
HEADS = {"sufficiency": "into PT", "necessity": "into IT"}
POOLED = (17, 4000)  # the study's seed and number of resamples of families
MAIN, OTHERS = ("s2", "g2"), ("s1", "g1")
REQUESTS = {"s2": "harmless", "s1": "harmful"}
COMPARISONS = {"sufficiency": "PT + late or PT", "necessity": "IT or IT + late"}


def effect_rows(results, tasks) -> pd.DataFrame:
    """Return a table of effects and those of their controls, by panel, measure, side, window and control."""
    names = {
        f"{task}_{kind}.{side}.{window}": {
            "measure": TITLES[task].split(",")[0], "side": side, "window": window, "control": control,
        }
        for task in tasks
        for side in SIDES
        for window in WINDOWS
        for kind, control in (("effect", "graft"), ("control", "scrambled"))
    }  # fmt: skip
    return exact_rows(results, names)


def exact_rows(results, names) -> pd.DataFrame:
    """Return `forest_rows` of each pair, in which shares that are all alike have the exact interval of `rates.ends`."""
    rows = forest_rows(results, quantities, names, pool=False)
    known = [kept(quantities, d) for d in results.values()]
    held = [each[name] for name in names for each in known if name in each]
    for at, quantity in enumerate(held):
        if quantity.unit == "1" and rows.loc[at, "low"] == rows.loc[at, "high"]:
            rows.loc[at, ["low", "high"]] = exact_ends(quantity)[1:]
    return rows


def effects(results, tasks=MAIN) -> alt.Chart:
    """Return the symmetric panel: what PT gains with IT's MLPs of each window, and what IT loses with PT's, with controls."""
    rows = effect_rows(results, tasks).dropna(subset=["mean"])
    if rows.empty:
        return unmeasured.words(
            f"not measured: no prompt of this run is judged by {' or '.join(tasks).upper()}"
        )
    said = "; ".join(TITLES[task] for task in tasks if TITLES[task].split(",")[0] in set(rows["measure"]))
    return behaviour_charts.window_shifts(
        rows, x="with IT's MLPs less with PT's", title="What PT gains with IT's MLPs, and IT loses with PT's",
        description=f"Change of replies with IT's MLPs in a window instead of PT's ({said}): PT's gain, IT's loss",
    )  # fmt: skip


def other_effects(results) -> alt.Chart:
    """Return `effects` of structure and of refusals of harmful requests."""
    return effects(results, OTHERS)


def level_rows(results, names) -> pd.DataFrame:
    """Return a table of levels by panel, condition and measure; names: {start of the quantity: title}."""
    wanted = {
        f"{start}_{name}": {"condition": name, "measure": title}
        for start, title in names.items()
        for name in conditions(next(iter(results.values())))
    }
    return exact_rows(results, wanted).dropna(subset=["mean"])


def points(results) -> alt.Chart:
    """Return the mean ratings of every condition, from 1 to 5; the reader chooses G1 or G2."""
    rows = level_rows(results, {"g2": "G2", "g1": "G1"})
    return behaviour_charts.condition_bars(
        rows, x="mean rating", ends=(1, 5), title="Ratings by condition", toggles={"measure": "rating"},
        description="Mean rating of replies by the rubric judge, by condition",
    )  # fmt: skip


def rates(results) -> alt.Chart:
    """Return the rates of every condition: what the reader chooses of answers, refusals, incoherent and cut replies."""
    names = {
        "s2_answers": "harmless answered", "s1_refuses": "harmful refused", "incoherent": "incoherent",
        "capped": "cut at the cap", **{rule: TITLES[rule] for rule in RULES}, "unparsed": "no answer to read",
    }  # fmt: skip
    return behaviour_charts.condition_bars(
        level_rows(results, names), x="share of replies", ends=(0, 1), title="Rates by condition",
        toggles={"measure": "share"}, description="Share of replies, by condition",
    )  # fmt: skip


def class_rows(results, task: str) -> pd.DataFrame:
    """Return a table of the shares of the classes of a task, by panel and condition."""
    rows = []
    for title, result in results.items():
        known = kept(quantities, result)
        for name in conditions(result):
            for held in RATED[task]:
                found = known[f"{task}_{held}_{name}"].values.dropna("prompt")
                about = {"panel": title, "condition": name, "class": held, "replies": len(found)}
                rows.append(about | {"share": float(found.mean()) if len(found) else np.nan})
    return pd.DataFrame(rows).dropna(subset=["share"])


def classes(results, task: str = "s2") -> alt.Chart:
    """Return the shares of what becomes of harmless requests (S2), or of harmful ones (S1), by condition."""
    rows, request = class_rows(results, task), REQUESTS[task]
    if rows.empty:
        return unmeasured.words(f"not measured: no prompt of this run is a {request} request")
    return behaviour_charts.class_shares(
        rows, classes=RATED[task], title=f"What becomes of a {request} request",
        description=f"Shares of replies to {request} requests by class, by condition",
    )  # fmt: skip


def preferences(results) -> alt.Chart:
    """Return how often the reply with IT's late MLPs is preferred to the other, both orders of presentation agreeing."""
    rows = [
        {
            "panel": title, "task": TITLES[task], "comparison": COMPARISONS[side], "outcome": outcome,
            "share": value(quantities, result, f"{outcome}.{task}.{side}"),
            "replies": int(kept(quantities, result)[f"{outcome}.{task}.{side}"].values.notnull().sum()),
        }
        for title, result in results.items()
        for task in PAIRWISE
        for side in COMPARED
        for outcome in behaviour_charts.OUTCOMES
    ]  # fmt: skip
    table = pd.DataFrame(rows).dropna(subset=["share"])
    if table.empty:
        return unmeasured.words("not measured: no prompt of this run has its replies compared")
    return behaviour_charts.preference_bars(
        table, title="Which of two replies is preferred", toggles={"task": "question"},
        description="Share of prompts by which reply the rubric judge prefers, shown in both orders",
    )  # fmt: skip


def scatter_rows(results) -> pd.DataFrame:
    """Return a table of effects beside what the same graft changes inside, by panel, measure, side and window."""
    rows = effect_rows(results, MAIN)
    rows = rows[rows["control"] == "graft"]
    inside = [
        value(quantities, results[row.panel], f"internal.{row.side}.{row.window}")
        for row in rows.itertuples()
    ]
    return rows.assign(internal=inside).dropna(subset=["mean", "internal"])


def scatter(results) -> alt.Chart:
    """Return effects on replies against the change of late KL(layer ‖ own final) by the same graft."""
    rows = scatter_rows(results)
    if rows.empty:
        return unmeasured.words("not measured: no effect of this run has a change inside beside it")
    return behaviour_charts.internal_scatter(
        rows, x="late KL(layer ‖ own final), nats", y="change of replies", title="Replies and late layers",
        description="Change of replies with IT's MLPs in a window against the change of the late distance, by side",
    )  # fmt: skip


def correlation_table(results) -> pd.DataFrame:
    """Return a table of the correlation of effects with changes inside, over pairs × windows, by measure and side.

    Of dense pairs, if there are several. The interval resamples prompts within each pair, so it holds the error of the
    points, not that of the choice of pairs.
    """
    dense = {title: d for title, d in results.items() if is_dense(d)}
    results = dense if len(dense) > 1 else results
    rows = {}
    for (measure, side), of in scatter_rows(results).groupby(["measure", "side"], sort=False):
        low, high = correlation_ends(results, measure.lower(), side)
        r = pearson(of["internal"].values, of["mean"].values)
        row = {
            "r": number(r),
            "95 %, over prompts": f"{number(low)} to {number(high)}",
            "points": len(of),
            "at zero": int((of["mean"] == 0).sum()),
        }
        rows[f"{measure}, {HEADS[side]}"] = row
    return pd.DataFrame(rows).T


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Return Pearson's r of points, NaN with fewer than three or without spread."""
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0 else np.nan


def correlation_ends(
    results, task: str, side: str, *, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % quantiles of r over resamples of prompts, those of replies and those inside drawn apart."""
    rng, columns = np.random.default_rng(seed), []
    for d in results.values():
        known = kept(quantities, d)
        both = []
        for name in (f"{task}_effect", "internal"):
            table = np.stack([known[f"{name}.{side}.{w}"].values.values for w in WINDOWS], axis=1)
            table = table[~np.isnan(table).any(1)]
            if not len(table):
                break
            times = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), n_resamples) / len(table)
            both.append(times @ table)
        columns += [both] if len(both) == 2 else []
    if not columns:
        return np.nan, np.nan
    y, x = (np.concatenate([both[i] for both in columns], axis=1) for i in (0, 1))
    r = [pearson(a, b) for a, b in zip(x, y)]
    known_r = [one for one in r if not np.isnan(one)]
    return tuple(np.quantile(known_r, (0.025, 0.975))) if known_r else (np.nan, np.nan)


def dense_table(results) -> pd.DataFrame:
    """Return a table of effects averaged over dense pairs; intervals resample the pairs, of which there are few."""
    dense = [d for d in results.values() if is_dense(d)]
    rows = {}
    for task in (*MAIN, *OTHERS, *RULES):
        row = {}
        for side in SIDES:
            for window in WINDOWS:
                each = [value(quantities, d, f"{task}_effect.{side}.{window}") for d in dense]
                row[HEADS[side], window] = family_interval(np.array(each))
        rows[TITLES[task]] = row
    return pd.DataFrame(rows).T.rename_axis(f"{POOL}, n = {len(dense)}")


def family_interval(values: np.ndarray) -> str:
    """Return the mean over families with its percentile interval, families drawn with replacement; a dash if one lacks it."""
    if len(values) < 2 or np.isnan(values).any():
        return MISSING
    seed, n = POOLED
    drawn = np.random.default_rng(seed).integers(len(values), size=(n, len(values)))
    return interval((values.mean(), *np.quantile(values[drawn].mean(1), (0.025, 0.975))))
