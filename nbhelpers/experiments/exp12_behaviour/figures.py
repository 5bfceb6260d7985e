"""The figures of exp12: levels and classes by condition, changes from PT, gap closure."""

import altair as alt
import numpy as np
import pandas as pd

from nbhelpers.experiments.exp12_behaviour.quantities import CLOSED, CONDITIONS, MAIN, gap, quantities
from nbhelpers.measures.behaviour import OUTCOMES, RATED
from nbhelpers.report import behaviour_charts
from nbhelpers.report import rates as exact
from nbhelpers.report.captions import BARS, ZERO, caption
from nbhelpers.report.charts import by_category, interval_row
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.quantities import Quantity, kept
from nbhelpers.report.unmeasured import words

RATES, RATINGS = ("s2_not_answered", "s1_refuses"), ("g2", "g1")
CHANGES = {"B_A": "PT + late − PT", "scrambled_A": "scrambled − PT", "C_A": "IT − PT"}
NOTHING = "not measured: no prompt is of a kind that this is judged on"


def level_rows(results, outcomes) -> pd.DataFrame:
    """Return a table of outcomes by condition: `panel`, `condition`, `outcome`, `mean`, `low`, `high`, `prompts`."""
    rows = [
        level_row(kept(quantities, d)[f"{name}_{short}"])
        | {"panel": title, "condition": condition, "outcome": OUTCOMES[name].title}
        for name in outcomes
        for title, d in results.items()
        for short, condition in CONDITIONS.items()
    ]
    return pd.DataFrame(rows).dropna(subset=["mean"])


def level_row(quantity: Quantity) -> dict:
    """Return the mean of a quantity by prompt with its interval; of a share that all prompts have alike, the exact one."""
    row = interval_row(quantity.values)
    if quantity.unit != "1" or np.isnan(row["mean"]):
        return row
    return row | dict(zip(("mean", "low", "high"), map(float, exact.ends(quantity))))


def rates(results) -> alt.Chart:
    """Return a chart of the share of harmless requests not answered, or of harmful ones refused, by condition."""
    return rate_bars(level_rows(results, RATES))


def rate_bars(rows: pd.DataFrame) -> alt.Chart:
    """Return the chart of the rows of `level_rows` for the outcomes of `RATES`."""
    if rows.empty:
        return words(NOTHING)
    return behaviour_charts.condition_bars(
        rows, x="share of requests", ends=(0, 1), title="Requests that are not answered, and that are refused",
        description="Share of requests with the chosen outcome, by condition", toggles={"outcome": "outcome"},
    )  # fmt: skip


def ratings(results) -> alt.Chart:
    """Return a chart of the mean rating of an assistant's voice, or of presentation, by condition."""
    return rating_bars(level_rows(results, RATINGS))


def rating_bars(rows: pd.DataFrame, judge: str = "rules") -> alt.Chart:
    """Return the chart of the rows of `level_rows` for the outcomes of `RATINGS`; judge: who rated, for the caption."""
    if rows.empty:
        return words(NOTHING)
    return behaviour_charts.condition_bars(
        rows, x="points, 1 to 5", ends=(1, 5), title="Voice and presentation of replies",
        description=f"Mean rating of replies by {judge}, by condition", toggles={"outcome": "outcome"},
    )  # fmt: skip


def changes(results) -> alt.Chart:
    """Return a forest plot of the changes from PT that the graft, its control and IT make, for the chosen outcome."""
    names = {
        f"{name}_{key}": {"outcome": f"{OUTCOMES[name].title}, {unit(name)}", "change": said}
        for name in MAIN
        for key, said in CHANGES.items()
    }
    return change_forest(forest_rows(results, quantities, names).dropna(subset=["mean"]))


def change_forest(rows: pd.DataFrame) -> alt.Chart:
    """Return the forest plot of a table of changes from PT, by panel, `outcome` and `change`."""
    if rows.empty:
        return words(NOTHING)
    toggles, shown = (
        {"outcome": "outcome"},
        [said for said in CHANGES.values() if said in set(rows["change"])],
    )
    control = " under their scrambled control," if CHANGES["scrambled_A"] in shown else ""
    what = f"Change from PT of the chosen outcome: with IT's late MLPs,{control} and IT"
    return forest(
        rows, x="change", by="change", encodings=by_category("change", shown), toggles=toggles,
        title="Changes from PT", description=caption(what, rows, [BARS, ZERO], toggles, each="row"),
    )  # fmt: skip


def unit(name: str) -> str:
    """Return the unit of an outcome in words."""
    return "share" if OUTCOMES[name].held else "points"


def class_rows(results, task: str) -> pd.DataFrame:
    """Return a table of the shares of a task's classes: `panel`, `condition`, `class`, `share`, `replies`."""
    rows = []
    for title, d in results.items():
        for condition in CONDITIONS.values():
            rating = d["rating"].sel(judge="rubric", task=task, condition=condition).values
            known = rating[~np.isnan(rating)]
            rows += [
                {"panel": title, "condition": condition, "class": name, "share": float((known == i).mean()),
                 "replies": len(known)}
                for i, name in enumerate(RATED[task]) if len(known)
            ]  # fmt: skip
    return pd.DataFrame(rows, columns=["panel", "condition", "class", "share", "replies"])


def classes(results, task: str) -> alt.Chart:
    """Return a chart of the classes of replies to harmful ("s1") or harmless ("s2") requests, stacked by condition."""
    return class_bars(class_rows(results, task), task)


def class_bars(rows: pd.DataFrame, task: str) -> alt.Chart:
    """Return the chart of the rows of `class_rows`."""
    kind = {"s1": "harmful", "s2": "harmless"}[task]
    if rows.empty:
        return words(NOTHING)
    return behaviour_charts.class_shares(
        rows, classes=RATED[task], title=f"What becomes of {kind} requests",
        description=f"Share of replies to {kind} requests in each class, by condition",
    )  # fmt: skip


def closure(results) -> alt.Chart:
    """Return a forest plot of the share of the way from PT to IT that PT with IT's late MLPs goes, by outcome."""
    rows = []
    for name in CLOSED:
        for title, d in results.items():
            if found := gap(d, name):
                ends = dict(zip(("mean", "low", "high"), map(float, found.ratio_of_means)))
                rows.append(
                    {"panel": title, "measure": OUTCOMES[name].title, "separated": found.separated} | ends
                )
    table = pd.DataFrame(rows, columns=["panel", "measure", "mean", "low", "high", "separated"])
    if not table["separated"].astype(bool).any():
        return words("there is no gap between PT and IT to close")
    return behaviour_charts.closure_forest(
        table, title="How much of the way from PT to IT?",
        description="Change by IT's late MLPs in PT as a share of the difference of IT from PT",
    )  # fmt: skip
