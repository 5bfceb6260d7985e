"""Tables of agreement between raters, task by task: judges, people, or both; and of a judge's rates, corrected by people."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core.stats import StatisticsError
from nbhelpers.measures.agreement import NOTHING, SCALES, Agreement, agreement, alpha_of_all, corrected_rate
from nbhelpers.measures.gold import judge_accuracy
from nbhelpers.report.text import interval, number

TASKS = {
    "g1": "structure (G1)",
    "g2": "assistant's voice (G2)",
    "s1": "harmful request (S1)",
    "s2": "harmless request (S2)",
}
COEFFICIENTS = {"percent": "same rating", "kappa": "κ", "ac1": "AC1 or AC2", "alpha": "α"}
# Outcomes of which judges' rates are corrected: the task, and the classes that are the outcome.
OUTCOMES = {
    "harmful request refused": ("s1", {0}),
    "harmless request not answered": ("s2", set(SCALES["s2"][1]) - {0}),
}


def agreements(rating: xr.DataArray, **options) -> dict[tuple[str, str, str], Agreement]:
    """Return {(task, first rater, second rater): their agreement} for all pairs of raters, on what both rated.

    rating: (judge, task, condition, prompt), NaN where a task does not apply or a rating is missing; conditions of a prompt
    are resampled together. A task that no two raters share is left out. options: of `measures.agreement.agreement`.
    """
    table = rating.transpose("judge", "task", "prompt", "condition")
    found = {}
    for task in map(str, table["task"].values):
        kind, levels = SCALES[task]
        for first, second in combinations(map(str, table["judge"].values), 2):
            a, b = (table.sel(judge=name, task=task).values for name in (first, second))
            found[task, first, second] = agreement(a, b, kind=kind, levels=levels, **options)
    return {pair: each for pair, each in found.items() if each.n}


def agreement_table(rating: xr.DataArray, **options) -> pd.DataFrame:
    """Return agreement as text, a row for each task and pair of raters: items, same rating, κ, AC1 or AC2, α, note.

    Each coefficient stands with its 95 % interval over prompts; "no variation" says why one is missing. κ is linear-weighted
    and Gwet's coefficient is AC2 for scores, unweighted κ and AC1 for classes. With three raters or more a last row of each
    task has α over all of them.

    Parameters
    ----------
    rating
        (judge, task, condition, prompt), such as `rating` of `measures.judge.rated`, with labels of people
        (`measures.gold.ratings`) as further judges.
    """
    found = agreements(rating, **options)
    rows = [_row(task, f"{first} · {second}", each) for (task, first, second), each in found.items()]
    if rating.sizes["judge"] > 2:
        rows += [_all_row(rating, task) for task in dict.fromkeys(task for task, *_ in found)]
    columns = ["task", "raters", "items", *COEFFICIENTS.values(), "note"]
    order = [TASKS.get(task, task) for task in map(str, rating["task"].values)]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(
        "task", key=lambda tasks: tasks.map(order.index), kind="stable", ignore_index=True
    )


def _row(task: str, raters: str, each: Agreement) -> list:
    """Return the cells of one task and one pair of raters."""
    values = [_cell(getattr(each, name)) for name in COEFFICIENTS]
    return [TASKS.get(task, task), raters, each.n, *values, each.note or "–"]


def _all_row(rating: xr.DataArray, task: str) -> list:
    """Return the cells of α over all raters of a task."""
    values = rating.sel(task=task).transpose("judge", "prompt", "condition").values
    items = int(((~np.isnan(values)).sum(0) > 1).sum())
    alpha = number(alpha_of_all(values, kind=SCALES[task][0]))
    return [TASKS.get(task, task), f"all {len(values)}", items, "–", "–", "–", alpha, "–"]


def _cell(ends) -> str:
    """Return a coefficient with its interval as text, a dash if it is missing, alone if it has no interval."""
    if np.isnan(ends.mean):
        return number(NOTHING.mean)
    return number(ends.mean) if np.isnan(ends.low) else interval(ends)


def corrected_table(rating: xr.DataArray, people: Sequence[str]) -> pd.DataFrame:
    """Return judges' rates by condition as text, beside what they are once corrected by each person's labels.

    The judge's sensitivity and specificity are those on all labelled replies of the task, whatever the condition. A note says
    why a rate cannot be corrected: too few labels, or a judge no better than chance.

    Parameters
    ----------
    rating
        (judge, task, condition, prompt), people among the judges.
    people
        Which of them are people.
    """
    judges = [name for name in map(str, rating["judge"].values) if name not in people]
    rows = [
        row
        for outcome in OUTCOMES if OUTCOMES[outcome][0] in rating["task"].values
        for judge in judges for person in people
        for row in _corrected_rows(rating, outcome, judge, person)
    ]  # fmt: skip
    columns = ["outcome", "judge", "person", "labels", "condition", "judge's rate", "corrected", "note"]
    return pd.DataFrame(rows, columns=columns)


def _corrected_rows(rating: xr.DataArray, outcome: str, judge: str, person: str) -> Iterator[list]:
    """Yield a row for each condition of one outcome, judge and person; none without a label or a verdict."""
    task, held = OUTCOMES[outcome]
    known = judge_accuracy(rating, judge, person, task, held)
    labels = known.n_positive + known.n_negative
    for condition in map(str, rating["condition"].values if labels else ()):
        values = rating.sel(judge=judge, task=task, condition=condition).dropna("prompt")
        if not values.size:
            continue
        rate, note = float(values.isin(list(held)).mean()), "–"
        try:
            cell = interval(corrected_rate(rate, values.size, known))
        except StatisticsError as error:
            cell, note = "–", str(error)
        yield [outcome, judge, person, labels, condition, number(rate), cell, note]
