"""The tables of exp09; `figures` has its figures, `readings` its verdict and sentences.

DeepSeek, a mixture of experts, is shown with the others but left out of the pool of dense families, as in the study.
"""

import json
from collections.abc import Callable
from functools import partial

import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.experiments.exp09_convergence_gap import readings
from nbhelpers.experiments.exp09_convergence_gap.quantities import (
    GAPS,
    TEXTS,
    gap_name,
    quantities,
    threshold,
)
from nbhelpers.report.charts import KL
from nbhelpers.report.families import interval_table
from nbhelpers.report.quantities import kept, named, value
from nbhelpers.report.text import number, percent, written
from nbhelpers.report.verdicts import DOWN, MISSING, OPEN, UP, joint, mark

SLICES = {
    "depth 0.5–0.7": "depth_0.5_0.7",
    "depth 0.7–0.9": "depth_0.7_0.9",
    "depth 0.9–1": "depth_0.9_1.0",
    "last fifth": "final_fifth",
}
THIRDS = {
    "early third": "early_third",
    "middle third": "middle_third",
    "late third": "late_third",
    "last fifth": "final_fifth",
}
# What the verdict rests on, through the raw lens.
MATRIX = {
    "gap, own text": gap_name("own"),
    "gap, PT's text": gap_name("pt"),
    "gap, IT's text": gap_name("it"),
    "commitment delay": "commitment_delay_kl_stays.raw",
    "final entropy": "final_entropy_shift",
    "δ-cosine, last fifth": "delta_cosine_shift.final_fifth",
}
of = partial(named, quantities)
verdict = readings.verdict


def text_table(results) -> pd.DataFrame:
    """Return a table of the gap's signs by text, direction of KL and lens: counts of pairs, ▲ above, ▼ below, · undecided.

    The intervals hold jointly over the pairs. For a single pair, its sign and the gap in nats.
    """

    def cell(name):
        quantity = [kept(quantities, dataset).get(name) for dataset in results.values()]
        signs = [mark(one, joint(results)) for one in quantity]
        if len(signs) == 1:
            return f"{signs[0]} {number(value(quantities, *results.values(), name))}"
        return "  ".join(f"{sign} {signs.count(sign)}" for sign in (UP, DOWN, OPEN, MISSING) if sign in signs)

    columns = {
        (KL[direction], f"{lens} lens"): [cell(gap_name(text, direction, lens)) for text in TEXTS]
        for direction in GAPS
        for lens in readings.lenses(results)
    }
    return pd.DataFrame(columns, index=list(TEXTS.values()))


def upright(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of one pair with its measures as rows, and any other as it is."""
    return table.T.set_axis([""], axis=1) if len(table) == 1 else table


def by_lens(results, table: Callable[[str], pd.DataFrame]) -> pd.DataFrame:
    """Return `table(lens)`, a row per pair, of every lens: one below the other or, of a single pair, as columns."""
    found = {f"{lens} lens": table(lens) for lens in readings.lenses(results)}
    if len(results) == 1:
        return pd.DataFrame({name: one.iloc[0] for name, one in found.items()})
    return pd.concat(found).rename_axis([None, None])


def gap_table(results, direction="final_layer", lens="raw") -> pd.DataFrame:
    """Return a table of the convergence gap, nats, by pair and for the dense pool: mean, low, high."""
    return interval_table(results, of(gap_name("own", direction, lens)))


def gap_summary(results) -> pd.DataFrame:
    """Return a table of the gaps in both directions as text, with layers above zero and final entropies, by lens and pair."""
    return by_lens(results, lambda lens: _gaps_of(results, lens))


def _gaps_of(results, lens: str) -> pd.DataFrame:
    """Return the rows of `gap_summary` of one lens."""
    gaps = {direction: gap_table(results, direction, lens) for direction in GAPS}
    table = pd.DataFrame({"family": gaps["final_layer"]["family"]}).set_index("family")
    table["KL(final ‖ layer), nats"] = written(gaps["final_layer"])
    table["KL(layer ‖ final), nats"] = written(gaps["layer_final"])
    for title, dataset in results.items():
        read, layers = partial(value, quantities, dataset), dataset.sizes["layer"]
        table.loc[title, "KL(final ‖ layer), by token"] = number(read(f"kl_excess_late_half_by_token.{lens}"))
        above = read(f"late_layers_above.{lens}")
        table.loc[title, "layers above"] = f"{above:.0f} of {layers - layers // 2 - 1}"
        entropy = [f"{read(f'final_entropy.{v}'):.2f}" for v in params.VARIANTS]
        table.loc[title, "final entropy PT → IT"] = " → ".join(entropy)
    return table.fillna("").rename_axis(None)


def columns(results, names) -> pd.DataFrame:
    """Return a table of quantities as text, a row per pair and one for the dense pool; names: {heading: quantity}."""
    found = {heading: interval_table(results, of(name)) for heading, name in names.items()}
    texts = {heading: pd.Series(written(table), index=table["family"]) for heading, table in found.items()}
    return pd.DataFrame(texts).rename_axis(None)


def third_summary(results, direction="final_layer") -> pd.DataFrame:
    """Return a table of the gap by thirds of the layers and over the last fifth as text, nats, by lens and pair."""
    return by_lens(
        results,
        lambda lens: columns(
            results, {heading: f"{GAPS[direction]}_{part}.{lens}" for heading, part in THIRDS.items()}
        ),
    )


def rules(dataset: xr.Dataset) -> dict[str, str]:
    """Return {rule: heading} of the study's rules, with the threshold, window and share that a run gave them."""
    tau, windows = (
        threshold(dataset),
        [r for r in map(str, dataset.rule.values) if r.startswith("top1_stable")],
    )
    share = json.loads(dataset.attrs.get("parameters", "{}")).get("majority_share", 0.9)
    return {
        "top1_first": "first top-1",
        "top1_strict": "top-1 stays",
        **{rule: f"top-1 for {rule.removeprefix('top1_stable')} layers" for rule in windows},
        f"kl_first_{tau}": f"first KL < {tau}",
        f"kl_stays_{tau}": f"KL < {tau} stays",
        f"majority_{tau}": f"{percent(share)} KL < {tau}",
    }


def delay_summary(results) -> pd.DataFrame:
    """Return a table of the commitment delays IT − PT, layers, as text, by lens and pair, one column for each of `rules`.

    A cell of a pair has the mean over prompts with its interval, then IT's median layer over all steps less PT's.
    """
    return by_lens(results, lambda lens: _delays_of(results, lens))


def _delays_of(results, lens: str) -> pd.DataFrame:
    """Return the rows of `delay_summary` of one lens."""
    headings = rules(next(iter(results.values())))
    table = columns(results, {text: f"commitment_delay.{lens}.{rule}" for rule, text in headings.items()})
    for title, dataset in results.items():
        for rule, text in headings.items():
            median = value(quantities, dataset, f"commitment_delay_median.{lens}.{rule}")
            table.loc[title, text] += f", median {number(median, 0)}"
    return table


def cosine_summary(results) -> pd.DataFrame:
    """Return a table of the shifts IT − PT of the block's δ-cosine as text, by pair, by depth and for the last fifth."""
    return upright(
        columns(results, {heading: f"delta_cosine_shift.{name}" for heading, name in SLICES.items()})
    )
