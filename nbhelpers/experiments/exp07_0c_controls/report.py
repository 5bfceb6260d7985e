"""The tables and verdicts of exp07_0c: one verdict for the page, and one for each of its three validations."""

from functools import partial

import numpy as np
import pandas as pd

from nbhelpers.experiments.exp07_0c_controls.quantities import (
    BAND,
    CONTROLS,
    DOUBLED,
    FORMULAS,
    firsts,
    quantities,
)
from nbhelpers.report.charts import panels_of
from nbhelpers.report.directions import answer, by_side, fitting, levels_of, on_side, ranged, sentence
from nbhelpers.report.forest import forest_rows
from nbhelpers.report.quantities import kept, named, value
from nbhelpers.report.text import in_words, interval, number, p_value, percent
from nbhelpers.report.verdicts import DOWN, UP, Verdict, bounds, degree, sides, told

CONTROL_WORDS = {
    "matched": "random, as long",
    "covariance": "random by covariance, as long",
    "permuted": "exchanged labels, as long",
    "unit": "random, rescaled (study)",
}
FORMULA_WORDS = {
    "mlp": "MLP output, scaled",
    "update": "MLP update behind the norm, scaled",
    "attention": "attention update, own direction",
    "attention_mlp": "attention output, MLP's direction (as the study)",
    "residual_one": "stream after one late block, mean over blocks",
    "residual_all": "stream after every late block, own directions",
    "residual_mlp": "stream after every late block, MLP's directions (as the study)",
    "add_1": "gap added to the MLP output",
    "add_-1": "gap taken from the MLP output",
    "add_0": "gap times zero (what the study ran)",
}
SIZE = partial(number, digits=3)


def written(quantity, digits: int = 3) -> str:
    """Return a quantity's mean with its 95 % interval as text; a dash if it was not measured."""
    found = bounds(quantity, 0.95)
    return (
        "–"
        if np.isnan(found[0])
        else number(found[0], digits)
        if np.isnan(found[1])
        else interval(found, digits)
    )


def control_table(results) -> pd.DataFrame:
    """Return a table of what each control does beside the direction: KL, its share of the direction's, its dose, p by
    rank.
    """
    rows = {}
    for title, d in panels_of(results).items():
        found = kept(quantities, d)
        row = {("the direction", "KL, nats a token"): written(found["effect.direction"], 4)}
        row["the direction", "dose"] = written(found["dose.direction"])
        for name in CONTROLS:
            words = CONTROL_WORDS[name]
            row[words, "KL, nats a token"] = written(found[f"effect.{name}"], 4)
            row[words, "share of the direction's"] = percent_of(found[f"fraction.{name}"].values)
            row[words, "dose, share of the direction's"] = percent_of(found[f"dose_fraction.{name}"].values)
            n = found[f"control_n.{name}"].values
            row[words, "p by rank"] = f"{p_value(found[f'rank_p.{name}'].values)} of {n:.0f}"
        rows[title] = row
    return pd.DataFrame(rows)


def percent_of(share: float) -> str:
    """Return a share as text; a dash for NaN."""
    return "–" if np.isnan(share) else percent(share)


def behaviour_table(results) -> pd.DataFrame:
    """Return a table of changes of format compliance by dose, the direction beside matched random directions, with p by
    rank.
    """
    rows = {}
    for title, d in panels_of(results).items():
        found, row = kept(quantities, d), {}
        for dose in BAND:
            at = f"dose {dose.replace('-', '−')}"
            row[at, "the direction"] = written(found[f"format_change.direction.dose_{dose}"], 2)
            row[at, "random, as long"] = written(found[f"format_change.matched.dose_{dose}"], 2)
            row[at, "p by rank, two-sided"] = p_value(found[f"rank_p_format.matched.dose_{dose}"].values)
        row["dose 0", "random by covariance"] = written(found["format_change.covariance.dose_0"], 2)
        row["dose 0", "smallest difference seen with 80 % power"] = number(found["format_detectable"].values)
        rows[title] = row
    return pd.DataFrame(rows)


def headline_table(results) -> pd.DataFrame:
    """Return a table of what the study's headline rests on: text structure, coherence and compliance at dose 5 beside dose
    0.
    """
    rows = {}
    words = {"direction": "the direction", "matched": "random, as long"}
    for title, d in panels_of(results).items():
        found, row = kept(quantities, d), {}
        for which, said in words.items():
            for outcome in ("structure", "incoherent", "format"):
                row[f"dose 5: {outcome}", said] = written(found[f"{outcome}.{which}.dose_5"], 2)
            row["dose 0: structure", said] = written(found[f"structure.{which}.dose_0"], 2)
        row["dose 5: structure", "ratio"] = number(found["structure_ratio.dose_5"].values)
        rows[title] = row
    return pd.DataFrame(rows)


def single_table(results) -> pd.DataFrame:
    """Return a table of single layers: change of format compliance with its interval, * if p < 0.05 by Holm; KL below it."""
    rows = {}
    for title, d in panels_of(results).items():
        found, row = kept(quantities, d), {}
        for layer in firsts(d, "single"):
            mark = " *" if found[f"single_p.{layer}"].values < 0.05 else ""
            row[f"layer {layer}", "format"] = written(found[f"single_format.{layer}"], 2) + mark
            row[f"layer {layer}", "KL, nats a token"] = written(found[f"single_kl.{layer}"], 4)
        rows[title] = row
    return pd.DataFrame(rows)


def formula_table(results) -> pd.DataFrame:
    """Return a table of every formula: dose, KL per token, KL per unit of dose, and change of format compliance."""
    rows = {}
    for title, d in panels_of(results).items():
        row = {}
        for at, names in (("0", FORMULAS), ("2", DOUBLED)):
            for name in names:
                key = f"{name}.dose_{at}"
                said = FORMULA_WORDS[name] if name.startswith("add") else f"{FORMULA_WORDS[name]}, α = {at}"
                row[said] = (
                    f"dose {number(value(quantities, d, f'formula_dose.{key}'))}, "
                    f"KL {number(value(quantities, d, f'formula_kl.{key}'), 3)}, "
                    f"per dose {number(value(quantities, d, f'formula_per_dose.{key}'))}, "
                    f"format {number(value(quantities, d, f'formula_format.{key}'))}"
                )
        rows[title] = row
    return pd.DataFrame(rows)


def excess_rows(results) -> pd.DataFrame:
    """Return a table of what the direction does beyond each control, with intervals, for `figures.controls`."""
    return forest_rows(
        results, quantities, {f"excess.{name}": {"control": CONTROL_WORDS[name]} for name in CONTROLS}
    )


MATRIX = {
    "share beyond matched random, KL": "excess_share.matched",
    "share beyond exchanged labels, KL": "excess_share.permuted",
    "beyond random, format, dose 0": "format_excess.matched.dose_0",
    "last window's lead, share of its KL": "last_window_lead",
    "stream: all blocks less one, share": "residual_all_lead",
    "added gap less scaling, per dose, share": "per_dose_excess.add_1",
}


def verdict(results) -> Verdict:
    """Return the page's verdict: whether direction, layers and formula matter at equal dose."""
    return fitting(partial(said, results))


def random_share(results) -> str:
    """Return the range over pairs of what matched random directions do, as a share of the direction's effect."""
    return levels_of(results, quantities, "fraction.matched", percent_of)


def specific(results) -> list[str]:
    """Return the pairs in which the direction surely does more than matched random ones: over prompts, and by rank at
    0.05.
    """
    above = sides(results, quantities, "excess_share.matched")[UP]
    return [t for t in above if value(quantities, results[t], "rank_p.matched") <= 0.05]


def beside_random(results, detail: int) -> str:
    """Return where the direction surely does more and where less than matched random ones: "more in Gemma, less in Qwen"."""
    below = sides(results, quantities, "excess_share.matched")[DOWN]
    return by_side(
        results,
        {UP: specific(results), DOWN: below},
        "surely more",
        "less",
        "neither surely more nor less",
        detail,
    )


def said(results, detail: int) -> Verdict:
    """Return the page's verdict, with more or less detail on the pairs that differ."""
    form = sides(results, quantities, "format_excess.matched.dose_0")
    moved, lead = form[UP] + form[DOWN], sides(results, quantities, "last_window_lead")[UP]
    return Verdict(
        f"More than a random direction: {degree(specific(results), results)}",
        f"Matched random directions do {random_share(results)} of what it does to IT's predictions: "
        f"{beside_random(results, detail)}.",
        sentence(told(moved, results, "Format compliance moves beyond them",
                      "Format compliance does not surely move beyond them", True)),
        sentence(told(lead, results, "The last layers do most", "The last layers do not surely do most", True)),
    )  # fmt: skip


def verdict_0c(results) -> Verdict:
    """Return the verdict of 0C: how much of the effect any direction has, and what the study's headline rests on."""
    found = specific(results)
    unit, dose = (
        levels_of(results, quantities, name, percent_of) for name in ("fraction.unit", "dose_fraction.unit")
    )
    p = ranged((value(quantities, d, "rank_p.matched") for d in results.values()), p_value)
    lost = levels_of(results, quantities, "incoherent.direction.dose_5", percent_of)
    return Verdict(
        f"Specific to the direction: {degree(found, results)}",
        f"Matched random directions do {random_share(results)} of its effect at dose 0 (p by rank {p}).",
        f"The study's unmatched ones have {dose} of its dose, and do {unit}.",
        f"At dose 5, the study's headline, {lost} of replies are incoherent.",
    )


def verdict_0f(results) -> Verdict:
    """Return the verdict of 0F: which windows do more than random directions there, and whether single layers do anything."""
    lead = sides(results, quantities, "last_window_lead")
    counts = ranged(
        (value(quantities, d, "windows_beyond_random") for d in results.values()), "{:.0f}".format
    )
    n = in_words(len(firsts(next(iter(results.values())), "window")))
    depth = levels_of(on_side(results, quantities, "last_window_lead"), quantities, "window_strongest")
    alone = [t for t, d in results.items() if value(quantities, d, "single_layers_found") > 0]
    return Verdict(
        f"The last layers do most: {answer(lead)}",
        f"Of {n} windows of one width, {counts} do more than random directions of the same dose there.",
        f"Where they do, the largest effect lies at depth {depth}.",
        sentence(told(alone, results, "A single layer changes format compliance",
                      "No single layer surely changes format compliance", True)),
    )  # fmt: skip


def verdict_0i(results) -> Verdict:
    """Return the verdict of 0I: whether the formula matters once doses are compared."""
    added = sides(results, quantities, "per_dose_excess.add_1")
    alike = [t for t in results if t in added["·"]]
    grown = levels_of(results, quantities, "compounding")
    compound = (
        ": edits compound" if all(value(quantities, d, "compounding") > 2 for d in results.values()) else ""
    )
    own = ranged((value(quantities, d, "formula_kl.add_1.dose_0") for d in results.values()), SIZE)
    return Verdict(
        f"Adding is inert, as published: {'no' if all_above(results, 'formula_kl.add_1.dose_0') else 'not shown'}",
        f"Its coefficient was zero; at one, the added gap costs {own} nats a token.",
        sentence(told(alike, results, "Per unit of dose it is not told apart from scaling",
                      "Per unit of dose it differs from scaling", True)),
        f"Scaled to 2 after every late block, the stream's dose is {grown} times that of removal{compound}.",
    )  # fmt: skip


def all_above(results, name: str) -> bool:
    """Return whether a quantity is positive for every prompt that was read in every pair."""
    return all(bool((named(quantities, name)(d) > 0).all()) for d in results.values())
