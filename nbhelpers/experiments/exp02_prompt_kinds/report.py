"""The figures, tables and verdict of exp02."""

from functools import partial

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp02_prompt_kinds.quantities import CONDITIONS, quantities
from nbhelpers.report.captions import BANDS, ONSET
from nbhelpers.report.charts import (
    DASHES,
    IT,
    PT,
    banded,
    bands,
    by_category,
    layers_axis,
    onset_rule,
    panels,
    tidy,
)
from nbhelpers.report.directions import (
    NAMES,
    capital,
    caveat,
    claim,
    fitting,
    larger_side,
    ranged,
    sentence,
    sides,
)
from nbhelpers.report.families import cells, turned
from nbhelpers.report.quantities import named, value
from nbhelpers.report.text import in_words, p_value
from nbhelpers.report.unmeasured import sentences
from nbhelpers.report.verdicts import Verdict, degree, listing, noun, signs, where

KINDS = {"IC": "in context", "OOC": "out of context", "R": "reasoning"}
MEASURES = {
    "delta_cosine": ("δ-cosine of the block", "δ-cosine"),
    "entropy": ("Entropy of each layer's prediction", "nats"),
}
LOOKS = {
    "PT": (PT, DASHES["pt"]),
    "IT": (IT, DASHES["it"]),
    "IT without template": (IT, [2, 3]),
}  # colour and dash


def kinds_profile(results, measure="delta_cosine") -> alt.Chart:
    """Return a chart of a measure over layers by kind of prompt, with intervals; the reader chooses the condition."""

    def values(dataset):
        curve = dataset[measure]
        curve = curve.sel(component="block", drop=True) if "component" in curve.dims else curve
        kinds = dict.fromkeys(dataset.category.values.tolist())
        parts = [banded(curve.isel(prompt=np.flatnonzero(dataset.category.values == kind))) for kind in kinds]
        return xr.concat(parts, "kind").assign_coords(kind=list(kinds))

    rows = tidy(results, values)
    rows["kind"] = rows["kind"].map(KINDS)
    heading, unit = MEASURES[measure]
    colours = by_category("kind", [shown for shown in KINDS.values() if shown in set(rows["kind"])])
    return panels(
        rows, f"{heading} by kind of prompt", onset_rule(),
        *bands(layers_axis(), unit, fields=("kind", "layer"), colours=colours), toggles={"condition": "condition"},
        description=f"{heading} against the layer, by kind of prompt, under the chosen condition", marks=(BANDS, ONSET),
    )  # fmt: skip


def template_overlay(results) -> alt.Chart:
    """Return a chart of the block's δ-cosine of IT with and without its chat template, and of PT."""

    def values(dataset):
        return banded(dataset.delta_cosine.sel(component="block", drop=True))

    rows = tidy(results, values)
    names, legend = list(LOOKS), alt.Legend(title=None, symbolType="stroke", symbolOpacity=1)
    colours, dashes = (alt.Scale(domain=names, range=list(found)) for found in zip(*LOOKS.values()))
    looks = {
        "color": alt.Color("condition:N", scale=colours, legend=legend),
        "strokeDash": alt.StrokeDash("condition:N", scale=dashes, legend=legend),
    }
    curve = bands(layers_axis(), "δ-cosine", fields=("condition", "layer"), colours=looks)
    return panels(
        rows, "δ-cosine with and without the chat template", onset_rule(), *curve, marks=(BANDS, ONSET),
        description="δ-cosine of the whole block's update against the layer, for PT (blue, dashed), IT with its chat "
        "template (orange, solid) and IT without it (orange, dotted)",
    )  # fmt: skip


TESTED = {
    "delta_cosine": "δ-cosine of the block",
    "update_norm": "norm of the block's update",
    "entropy": "lens entropy",
    "kl_final_layer": "KL(final ‖ layer), raw lens",
}


def kinds_table(results) -> pd.DataFrame:
    """Return a table of the p-values of differences between kinds of prompts at any layer, by measure and condition.

    One column per pair. * if below 0.05 after Holm's correction over the pairs.
    """
    rows = {}
    for measure, name in TESTED.items():
        for v, condition in CONDITIONS.items():
            sure = kinds_differ(results, measure, v)
            rows[name, condition] = {
                title: p_value(value(quantities, d, f"kinds_p.{measure}.{v}"), 3) + " *" * (title in sure)
                for title, d in results.items()
            }
    table = pd.DataFrame(rows).T.rename_axis(["measure", "condition"])
    return table if len(results) > 1 else table.set_axis(["p"], axis="columns")


def template_table(results) -> pd.DataFrame:
    """Return a table of δ-cosines in the last layers: IT − PT with the template and without, and the template's effect."""
    names = {
        "IT − PT, final fifth, with template": "late_cosine_shift.it",
        "IT − PT, final fifth, without": "late_cosine_shift.it_plain",
        "IT with template − without, last layer": "template_effect.last",
        "IT with template − without, other layers": "template_effect.other",
    }
    return turned(
        cells(results, {heading: named(quantities, name) for heading, name in names.items()}), results
    )


def kinds_differ(results, measure: str, condition: str) -> list[str]:
    """Return the pairs in which kinds of prompts differ in a measure under a condition: p < 0.05, Holm over the pairs."""
    p = [value(quantities, d, f"kinds_p.{measure}.{condition}") for d in results.values()]
    return [title for title, adjusted in zip(results, stats.holm(p)) if adjusted < 0.05]


MATRIX = {
    "late δ-cosine, IT": "late_cosine.it",
    "late δ-cosine, IT without template": "late_cosine.it_plain",
    "IT − PT": "late_cosine_shift.it",
    "IT without template − PT": "late_cosine_shift.it_plain",
    "last layer: with template − without": "template_effect.last",
}


def verdict(results) -> Verdict:
    """Return the verdict: whether kinds of prompts differ, and whether late updates oppose the stream, by template."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict with more or less detail on the pairs that differ."""
    differ = {v: kinds_differ(results, "delta_cosine", v) for v in CONDITIONS}
    with_, without = (degree(differ[v], results) for v in ("it", "it_plain"))
    answer = (
        f"{capital(with_)}, with the chat template or without it"
        if with_ == without
        else f"With the chat template, {with_}; without it, {without}"
    )
    opposed = {v: signs(results, quantities, f"late_cosine.{v}").below for v in ("it", "it_plain")}
    return Verdict(
        answer, sentence(kinds(differ, results, detail)), sentence(lower(results, detail)),
        caveat(sentence(oppose(opposed, results)), sentences(results, "weights"), detail),
    )  # fmt: skip


def kinds(differ: dict[str, list[str]], results, detail: int) -> str:
    """Return the clause on the conditions and the pairs in which kinds of prompts differ in the δ-cosine."""
    places = {"it": "under IT's template", "it_plain": "without it", "pt": "in PT"}
    if not any(differ.values()):
        spots = "" if len(results) == 1 else f" in any of the {in_words(len(results))} {noun(results)},"
        return f"Prompt kinds do not surely differ in δ-cosine{spots} {listing(list(places.values()), 'or')}"
    if len(results) > 1:
        first = where(differ["it"], results)
        counts = [f"in {in_words(len(differ[v]))} {places[v]}" for v in ("it_plain", "pt")]
        said = [f"{first if detail == NAMES else first.split(' (')[0]} {places['it']}", *counts]
        return f"Prompt kinds differ in δ-cosine {', '.join(said).replace(', in none in PT', ', none in PT')}"
    yes, no = ([name for v, name in places.items() if bool(differ[v]) == wanted] for wanted in (True, False))
    rest = f", not {listing(no, 'or')}" if no else ""
    return f"Prompt kinds differ in δ-cosine {listing(yes)}{rest}"


def lower(results, detail: int) -> str:
    """Return the clause on IT − PT of the late δ-cosine, with the template and without it."""
    shifts = {"with": "late_cosine_shift.it", "without": "late_cosine_shift.it_plain"}
    found = {which: sides(results, quantities, name) for which, name in shifts.items()}
    words, start = ("above", "below"), "IT's late δ-cosines lie"
    open_ = "Whether IT's late δ-cosines differ from PT's is undecided"
    if found["with"] == found["without"]:
        titles = found["with"][larger_side(found["with"])]
        size = ranged(abs(value(quantities, results[t], name)) for t in titles for name in shifts.values())
        says = f"{start} {size} {{word}} PT's"
        both = claim(results, quantities, shifts["with"], says, open_, words, again=True, detail=detail)
        return f"{both}, template or not"
    one = claim(
        results, quantities, shifts["with"], f"{start} {{size}} {{word}} PT's with the template", open_, words, again=True,
        detail=detail,
    )  # fmt: skip
    other = claim(
        results, quantities, shifts["without"], "without it, {size} {word}", "without it, undecided", words, again=True,
        detail=detail,
    )  # fmt: skip
    return f"{one}; {other}"


def oppose(opposed: dict[str, list[str]], results) -> str:
    """Return the clause on the pairs in which IT's late updates oppose the stream: the cosine's interval is below zero."""
    with_, without = opposed["it"], opposed["it_plain"]
    act = "oppose the stream (cosine below zero)"
    if not with_ and not without:
        return f"IT's updates {f'do not surely {act}' if len(results) == 1 else f'surely {act} in none'}, either way"
    if len(results) > 1:
        return (
            f"IT's updates {act} in {in_words(len(with_))} with template, in {in_words(len(without))} without"
        )
    if with_ and without:
        return f"IT's updates {act} with the template and without"
    return f"IT's updates {act} {'with the template, not without' if with_ else 'without the template, not with it'}"
