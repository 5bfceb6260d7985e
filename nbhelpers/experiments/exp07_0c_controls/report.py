"""The tables and verdicts of exp07_0c: one verdict for the page, and one for each of its three validations."""

from functools import partial

import numpy as np
import pandas as pd

from nbhelpers.experiments.exp07_0c_controls.experiment import width
from nbhelpers.experiments.exp07_0c_controls.quantities import (
    BAND,
    CONTROLS,
    DOUBLED,
    FORMULAS,
    firsts,
    quantities,
)
from nbhelpers.report import rates
from nbhelpers.report.charts import panels_of
from nbhelpers.report.directions import LEAST, among, by_mark, fitting, in_pairs, levels_of, ranged, sentence
from nbhelpers.report.forest import forest_rows
from nbhelpers.report.quantities import kept, named, value
from nbhelpers.report.text import in_words, interval, number, p_value, percent
from nbhelpers.report.verdicts import DOWN, OPEN, UP, Verdict, bounds, sides, told

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
    """Return a table of what each control does beside the direction on the same prompts: both KLs, the one's share of the
    other, its dose, p by rank.
    """
    rows = {}
    for title, d in panels_of(results).items():
        found = kept(quantities, d)
        row = {("the direction", "KL, nats a token"): written(found["effect.direction"], 4)}
        row["the direction", "dose"] = written(found["dose.direction"])
        for name in CONTROLS:
            words = CONTROL_WORDS[name]
            row[words, "KL, nats a token"] = written(found[f"same_effect.{name}"], 4)
            row[words, "the direction's, same prompts"] = written(found[f"own_effect.{name}"], 4)
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
            row[at, "the direction"] = rates.written(found[f"format_change.direction.dose_{dose}"])
            row[at, "its exact p (McNemar)"] = p_value(found[f"format_exact_p.dose_{dose}"].values)
            row[at, "random, as long"] = rates.written(found[f"format_change.matched.dose_{dose}"])
            row[at, "p by rank, two-sided"] = p_value(found[f"rank_p_format.matched.dose_{dose}"].values)
        row["dose 0", "random by covariance"] = rates.written(found["format_change.covariance.dose_0"])
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
                row[f"dose 5: {outcome}", said] = rates.written(found[f"{outcome}.{which}.dose_5"])
            row["dose 0: structure", said] = rates.written(found[f"structure.{which}.dose_0"])
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
            row[f"layer {layer}", "format"] = rates.written(found[f"single_format.{layer}"]) + mark
            row[f"layer {layer}", "KL, nats a token"] = written(found[f"single_kl.{layer}"], 4)
        rows[title] = row
    return pd.DataFrame(rows)


def beyond_random(dataset, first: int) -> bool:
    """Return whether removing the direction in a window surely does more than random directions as long there (Holm)."""
    p, excess = (value(quantities, dataset, f"window_{name}.{first}") for name in ("p", "excess"))
    return p < 0.05 and excess > 0


def window_table(results) -> pd.DataFrame:
    """Return a table of which windows do more than random directions, which does most, and how far the last one leads."""
    rows = {}
    for title, d in panels_of(results).items():
        layers, wide = firsts(d, "window"), width(int(d.attrs["n_layers"]))
        if not layers:
            continue
        found = kept(quantities, d)
        called = {first: f"{first}–{first + wide - 1}" if wide > 1 else f"{first}" for first in layers}
        most = max(layers, key=lambda first: value(quantities, d, f"window.{first}"))
        rows[title] = {
            "beyond random (p < 0.05 by Holm), layers": ", ".join(
                called[first] for first in layers if beyond_random(d, first)
            ) or "none",
            "largest KL, layers": called[most],
            "its KL, nats a token": written(found[f"window.{most}"]),
            "the last window's KL": written(found[f"window.{layers[-1]}"]),
            "its excess over random directions there": written(found[f"window_excess.{layers[-1]}"]),
            "its lead over the mean of the others, share": written(found["last_window_lead"], 2),
        }  # fmt: skip
    return pd.DataFrame(rows)


def formula_table(results) -> pd.DataFrame:
    """Return a table of every formula: dose, KL per token, KL per unit of dose, and change of format compliance, * if its
    exact p is below 0.05.
    """
    rows = {}
    for title, d in panels_of(results).items():
        found, row = kept(quantities, d), {}
        for at, names in (("0", FORMULAS), ("2", DOUBLED)):
            for name in names:
                key = f"{name}.dose_{at}"
                said = FORMULA_WORDS[name] if name.startswith("add") else f"{FORMULA_WORDS[name]}, α = {at}"
                row[said, "dose, share of the residual"] = written(found[f"formula_dose.{key}"], 2)
                row[said, "KL, nats a token"] = written(found[f"formula_kl.{key}"])
                row[said, "KL per unit of dose, nats"] = written(found[f"formula_per_dose.{key}"], 2)
                sure = " *" if found[f"formula_exact_p.{key}"].values < 0.05 else ""
                row[said, "format, change"] = rates.written(found[f"formula_format.{key}"]) + sure
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
    "format, dose 0 less dose 1": "format_sure.dose_0",
    "last window less the mean of the others": "last_window_lead",
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
    """Return where the direction surely does more than matched random ones, where less, and where it lies within their range,
    with the ranks' p there.

    Both sides need prompts and rank: an interval that leaves out zero, and a rank p of 0.05.
    """
    more, below = specific(results), sides(results, quantities, "excess_share.matched")[DOWN]
    less = [t for t in below if value(quantities, results[t], "rank_p_less.matched") <= 0.05]
    rest = [t for t in results if t not in more + less]
    p = ranged((value(quantities, results[t], "rank_p.matched") for t in rest), p_value)
    said = [
        f"{word} {among(t, results, detail)}".strip() for word, t in (("more", more), ("less", less)) if t
    ]
    left = "in the others " if said else f"{among(rest, results, detail)} "
    within = (
        [
            f"{left if len(results) > 1 else ''}{'it' if said else 'the direction'} lies within their range (rank p {p})"
        ]
        if rest
        else []
    )
    return "; ".join([f"The direction does surely {' and '.join(said)}", *within] if said else within)


def formed(results) -> list[str]:
    """Return the pairs in which format compliance surely moves at dose 0: McNemar's exact p below 0.05, and rank p 0.05."""
    limits = {"format_exact_p.dose_0": 0.0499, "rank_p_format.matched.dose_0": 0.05}
    return [
        t for t, d in results.items() if all(value(quantities, d, name) <= p for name, p in limits.items())
    ]


def said(results, detail: int) -> Verdict:
    """Return the page's verdict, with more or less detail on the pairs that differ."""
    p = ranged((value(quantities, d, "format_exact_p.dose_0") for d in results.values()), p_value)
    seen = levels_of(results, quantities, "format_detectable")
    found = sides(results, quantities, "last_window_lead")
    does, places = ("surely do", among(found[UP], results, detail)) if found[UP] else ("do not surely do", "")
    form = told(formed(results), results, "Format compliance surely moves beyond them",
                "Format compliance does not surely move", True)  # fmt: skip
    return Verdict(
        f"More than matched random directions: {in_pairs(specific(results), results)}",
        sentence(beside_random(results, detail)),
        sentence(f"{form} (exact p {p}; visible: {seen})"),
        f"The last layers {does} more than the average window {places}".rstrip() + ".",
    )  # fmt: skip


def verdict_0c(results) -> Verdict:
    """Return the verdict of 0C: how much of the effect any direction has, and what the study's headline rests on."""
    unit, dose = (
        levels_of(results, quantities, name, percent_of) for name in ("fraction.unit", "dose_fraction.unit")
    )
    p = ranged((value(quantities, d, "rank_p.matched") for d in results.values()), p_value)
    lost = levels_of(results, quantities, "incoherent.direction.dose_5", percent_of)
    return Verdict(
        f"Beyond matched random directions: {in_pairs(specific(results), results)}",
        f"They do {random_share(results)} of the direction's effect at dose 0 (rank p {p}).",
        f"The study's unmatched ones have {dose} of its dose, and do {unit}.",
        f"At dose 5, the study's headline, {lost} of replies are incoherent.",
    )


def verdict_0f(results) -> Verdict:
    """Return the verdict of 0F: which windows do more than random directions there, and whether single layers do anything."""
    lead = sides(results, quantities, "last_window_lead")[UP]
    counts = ranged(
        (value(quantities, d, "windows_beyond_random") for d in results.values()), "{:.0f}".format
    )
    n = in_words(len(firsts(next(iter(results.values())), "window")))
    last = [t for t, d in results.items() if (first := firsts(d, "window")) and beyond_random(d, first[-1])]
    alone = [t for t, d in results.items() if value(quantities, d, "single_layers_found") > 0]
    seen = levels_of(results, quantities, "single_detectable")
    rest = by_mark(results, quantities, "last_window_lead", {DOWN: "surely less", OPEN: "undecided"})
    return Verdict(
        f"The last window does more than the average one: {in_pairs(lead, results)}",
        sentence(rest),
        sentence(f"Of {n} windows, {counts} do more than random directions as long there; the last "
                 + (f"does {among(last, results, LEAST)}" if last else "does not")),
        sentence(told(alone, results, "A single layer changes format compliance",
                      "No single layer surely changes format compliance", True)
                 + f" (visible: {seen})"),
    )  # fmt: skip


def verdict_0i(results) -> Verdict:
    """Return the verdict of 0I: whether the formula matters once doses are compared."""
    beside = by_mark(
        results, quantities, "per_dose_excess.add_1", {UP: "surely more than scaling", DOWN: "less"}, LEAST
    )
    grown, published = (
        levels_of(results, quantities, name, partial(number, digits=1))
        for name in ("compounding", "compounding_mlp")
    )
    own = ranged((value(quantities, d, "formula_kl.add_1.dose_0") for d in results.values()), SIZE)
    lost = [t for t, d in results.items() if value(quantities, d, "formula_exact_p.add_-1.dose_0") < 0.05]
    form = f"Taken away, it surely changes compliance {among(lost, results, LEAST)}".rstrip() if lost else ""
    return Verdict(
        f"Adding is inert, as published: {'no' if all_above(results, 'formula_kl.add_1.dose_0') else 'not shown'}",
        f"Its coefficient was zero; at one, the gap costs {own} nats a token"
        + (f", per dose {beside}." if beside else "."),
        sentence(form),
        f"After every late block, α = 2 moves the stream {grown} times as far as α = 0, "
        f"{published} along the MLP's directions (published).",
    )


def all_above(results, name: str) -> bool:
    """Return whether a quantity is positive for every prompt that was read in every pair."""
    return all(bool((named(quantities, name)(d) > 0).all()) for d in results.values())
