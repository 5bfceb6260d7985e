"""The figures, tables and verdicts of exp07_0d: one verdict for the page, and one for each of its two validations."""

from functools import partial

import altair as alt
import numpy as np
import pandas as pd

from nbhelpers.experiments.exp07_0d_scores.quantities import (
    ALIKE,
    BRANCHES,
    CLASSES,
    OUTCOMES,
    RATES,
    name_of,
    quantities,
)
from nbhelpers.report import rates
from nbhelpers.report.captions import BARS, ZERO, caption
from nbhelpers.report.charts import DIGITS, banded, bands, by_category, panels, panels_of
from nbhelpers.report.directions import among, by_mark, fitting, in_pairs, levels_of, ranged, sentence
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.text import interval, number, p_value, percent
from nbhelpers.report.verdicts import DOWN, OPEN, UP, Verdict, sides, span, told

OUTCOME_WORDS = {
    "format": "format compliance", "choice": "right choice", "arithmetic": "right number",
    "refusal_harmful": "harmful refused", "refusal_harmless": "harmless refused", "structure": "structural token ratio",
    "incoherent": "incoherent", "nll_unedited": "NLL under unedited IT, nats",
}  # fmt: skip
DEFINITION_WORDS = {
    "structure": "structural token ratio", "structure_lines": "lines of markup", "structure_bold": "bold words",
    "format": "format compliance",
}  # fmt: skip
BRANCH_WORDS = {"whole": "all doses", "below": "doses up to 1", "above": "doses from 1"}
STUDIED = "structure"


def counted(results) -> pd.DataFrame:
    """Return a table of half-widths of 95 % intervals of the mean at dose 1, and what doubling every row makes of them.

    A rate that is the same for every prompt stands with its exact interval: a bootstrap would give it no width.
    """
    rows = {}
    for title, d in panels_of(results).items():
        found, row = kept(quantities, d), {}
        for name in OUTCOMES:
            shrunk = found[f"doubled_ratio.{name}"].values
            half = number(found[f"half_width.{name}"].values, 3)
            same = rates.written(found[f"unedited.{name}"])
            row[OUTCOME_WORDS[name]] = (
                f"all alike, {same}".replace("all alike, –", "–")
                if np.isnan(shrunk)
                else f"±{half}, doubled × {number(shrunk)}"
            )
        rows[title] = row
    return pd.DataFrame(rows)


def effects(results, dose: float = 0.0) -> pd.DataFrame:
    """Return a table of the change from dose 1 to a dose: mean with interval, d of paired differences, the study's pooled
    d, and the exact p of rates.
    """
    rows = {}
    for title, d in panels_of(results).items():
        found, row = kept(quantities, d), {}
        for name in OUTCOMES:
            key = f"{name}.{name_of(dose)}"
            paired, pooled = (number(found[f"{kind}.{key}"].values) for kind in ("d_paired", "d_pooled"))
            said = rates.written(found[f"change.{key}"], 3)
            exact = f"; exact p {p_value(found[f'exact_p.{key}'].values)}" if name in RATES else ""
            row[OUTCOME_WORDS[name]] = f"{said}; d {paired} paired, {pooled} pooled{exact}"
        rows[title] = row
    return pd.DataFrame(rows)


def trends(results) -> pd.DataFrame:
    """Return a table of rank correlations of mean score and dose with p of Page's trend, over all doses and on each side
    of 1.
    """
    rows = {}
    for title, d in panels_of(results).items():
        found, row = kept(quantities, d), {}
        for name in ("format", "structure", "nll_unedited", "incoherent"):
            for branch in BRANCHES:
                rho = found[f"rho.{name}.{branch}"].values
                said = number(rho.mean) if np.isnan(rho.low) else interval(rho)
                p = p_value(found[f"page_p.{name}.{branch}"].values)
                row[OUTCOME_WORDS[name], BRANCH_WORDS[branch]] = f"{said}; Page p {p}"
        rows[title] = row
    return pd.DataFrame(rows)


def definitions(results, kind: str = "every") -> alt.Chart:
    """Return a forest plot of how the structural token ratio ranks conditions beside other definitions of structure."""
    shown = ("structure_lines", "structure_bold", "format")
    rows = []
    for title, d in panels_of(results).items():
        for other in shown:
            found = kept(quantities, d)[f"agreement.{STUDIED}.{other}.{kind}"].values
            rows.append(
                {
                    "panel": title,
                    "definition": DEFINITION_WORDS[other],
                    **dict(zip(("mean", "low", "high"), found)),
                }
            )
    table = pd.DataFrame(rows)
    what = "Rank correlation over conditions between the study's structural token ratio and another measure of structure"
    return forest(
        table, x="rank correlation", by="definition",
        encodings=by_category("definition", [DEFINITION_WORDS[n] for n in shown]),
        title="Do definitions of structure agree?",
        description=caption(what, table, [BARS, ZERO], each="row"),
    )  # fmt: skip


def by_dose(results) -> alt.Chart:
    """Return a chart of the change of format compliance and of the structural token ratio against the dose."""
    frames = []
    for panel, d in panels_of(results).items():
        for name in ("format", "structure"):
            moved = d["score"].sel(outcome=name, drop=True) - d["score"].sel(
                outcome=name, dose=1.0, drop=True
            )
            ends = banded(moved.transpose("prompt", "dose").astype(float)).to_dataframe().reset_index()
            frames.append(ends.assign(panel=panel, score=OUTCOME_WORDS[name]))
    rows = pd.concat(frames, ignore_index=True).dropna(subset=["mean"]).round(DIGITS)
    x = alt.X("dose:Q", title="dose α", scale=alt.Scale(nice=False))
    colours = by_category("score", [OUTCOME_WORDS["format"], OUTCOME_WORDS["structure"]])
    return panels(
        rows, "Two scores of the same replies", *bands(x, "change from dose 1", fields=("score", "dose"), colours=colours),
        marks=("bands are 95 % intervals of the mean over prompts",),
        description="Change from dose 1 of format compliance and of the structural token ratio against the dose of the late "
        "direction",
    )  # fmt: skip


def lost(results) -> alt.Chart:
    """Return a forest plot of what each measure says of incoherent replies, less what it says of coherent ones."""
    shown = ("structure", "structure_lines", "format")
    names = {f"structure_lost.{name}": {"definition": DEFINITION_WORDS[name]} for name in shown}
    rows = forest_rows(results, quantities, names, pool=False)  # prompts that all pairs have are three
    what = "Mean score of a prompt's incoherent replies over all conditions, less that of its coherent ones"
    return forest(
        rows, x="incoherent less coherent", by="definition",
        encodings=by_category("definition", [DEFINITION_WORDS[n] for n in shown]),
        title="What scores say of degenerate text", description=caption(what, rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


def classes(results) -> pd.DataFrame:
    """Return a table of shares of classes of units at dose 1, and their enrichment at the lowest and the highest dose."""
    rows = {}
    for title, d in panels_of(results).items():
        found, row = kept(quantities, d), {}
        ends = [float(dose) for dose in (d["dose"].min(), 0.0, d["dose"].max())]
        for name in CLASSES:
            share = value(quantities, d, f"share.{name}")
            times = ", ".join(
                f"× {number(found[f'enrichment.{name}.{name_of(dose)}'].values)} at dose {f'{dose:g}'.replace('-', '−')}"
                for dose in ends
            )
            row[name.lower()] = f"{percent_of(share)}; {times}" if share else "none"
        rows[title] = row
    return pd.DataFrame(rows)


def percent_of(share: float) -> str:
    """Return a share as text with a decimal, "8.1 %"; a dash for NaN."""
    return "–" if np.isnan(share) else f"{number(100 * share, 1)} %"


MATRIX = {
    "format, dose 0 less dose 1": "sure_change.format.dose_0",
    "structural ratio, dose 0 less dose 1": "change.structure.dose_0",
    "ratio and format rank alike": "agreement.structure.format.every",
    "the same, doses of the direction alone": "agreement.structure.format.doses",
    "ratio, incoherent less coherent": "structure_lost.structure",
    "doubled rows, interval's width": "doubled_ratio.mean",
}


def verdict(results) -> Verdict:
    """Return the page's verdict: whether the study's structure score sees what compliance sees, and what duplicates did."""
    return fitting(partial(said, results))


def moved(results) -> list[str]:
    """Return the pairs in which format compliance surely moves at dose 0, by McNemar's exact test."""
    return [t for t, d in results.items() if value(quantities, d, "exact_p.format.dose_0") < 0.05]


def blind(results) -> list[str]:
    """Return the pairs in which format compliance surely moves at dose 0 and the structural token ratio does not."""
    ratio = sides(results, quantities, "change.structure.dose_0")
    return [t for t in moved(results) if t not in ratio[UP] + ratio[DOWN]]


def stands_for(results, *others: str) -> list[str]:
    """Return the pairs in which the structural token ratio ranks all conditions as each of the others does, at `ALIKE`."""
    return [
        t
        for t, d in results.items()
        if all(value(quantities, d, f"stands_for.{name}") == 1 for name in others)
    ]


def narrower(results) -> str:
    """Return by how much doubled rows narrow intervals, mean over outcomes, "28–31 %"."""
    values = (1 - value(quantities, d, "doubled_ratio.mean") for d in results.values())
    return ranged((v for v in values if not np.isnan(v)), percent)


def said(results, detail: int) -> Verdict:
    """Return the page's verdict, with more or less detail on the pairs that differ."""
    rho = span(results, quantities, f"agreement.{STUDIED}.format.every")
    doses = span(results, quantities, f"agreement.{STUDIED}.format.doses")
    against = sides(results, quantities, f"agreement.{STUDIED}.format.doses")[DOWN]
    opposed = f", surely opposed {among(against, results, detail)}".rstrip() if against else ""
    change = span(results, quantities, "change.structure.dose_0", 3)
    sure = [mark for mark in (UP, DOWN) if sides(results, quantities, "change.structure.dose_0")[mark]]
    p = ranged((value(quantities, d, "exact_p.format.dose_0") for d in results.values()), p_value)
    form = (
        f"surely moves {among(moved(results), results, 1)}".rstrip()
        if moved(results)
        else "does not surely move"
    )
    alike = in_pairs(stands_for(results, "format"), results)
    return Verdict(
        f"Text structure stands in for compliance (ρ ≥ {number(ALIKE, 1)}): {alike}",
        f"Over all conditions their ranks agree by {rho}; over doses of the direction {doses}{opposed}.",
        sentence(f"At dose 0 structure moves by {change}{'' if sure else ' (undecided)'}; compliance "
                 f"{form} (exact p {p})"),
        f"Doubled rows, as published, narrow intervals by {narrower(results)}.",
    )  # fmt: skip


def verdict_0d(results) -> Verdict:
    """Return the verdict of 0D: whether the study's intervals and trends hold when prompts count once and branches apart."""
    turned = [t for t, d in results.items() if value(quantities, d, "turn_p.format") < 0.05]
    whole = span(results, quantities, "rho.format.whole")
    below = span(results, quantities, "rho.format.below")
    p = levels_of(results, quantities, "turn_p.format", p_value)
    return Verdict(
        "Intervals hold as published: no" if narrower(results) != "–" else "Intervals hold as published: not measured",
        f"Rows counted twice, as in the study, narrow intervals by {narrower(results)}, mean over outcomes "
        "(1 − 1/√2 is 29 %).",
        f"Format compliance has rank correlation {whole} with the dose over all doses, {below} up to dose 1.",
        sentence(told(turned, results, "It surely turns at dose 1", "No turn at dose 1 is significant", True) + f" (p {p})"),
    )  # fmt: skip


def verdict_0e(results) -> Verdict:
    """Return the verdict of 0E: whether definitions of structure agree, and what the ratio says of degenerate text."""
    same = stands_for(results, "structure_lines", "structure_bold")
    bold = span(results, quantities, f"agreement.{STUDIED}.structure_bold.every")
    lines = span(results, quantities, f"agreement.{STUDIED}.structure_lines.every")
    unseen = blind(results)
    miss = (
        told(unseen, results, "It misses a sure change of compliance at dose 0",
             "It misses no sure change of compliance at dose 0", True)
        if moved(results) else "No change of compliance at dose 0 is sure, so it has none to miss"
    )  # fmt: skip
    words = {UP: "higher", DOWN: "lower", OPEN: "undecided"}
    lost = by_mark(results, quantities, f"structure_lost.{STUDIED}", words)
    return Verdict(
        f"One definition is as good as another (ρ ≥ {number(ALIKE, 1)}): {in_pairs(same, results)}",
        f"The ratio ranks conditions as lines of markup do with {lines}, as bold words do with {bold}.",
        sentence(miss),
        sentence(f"Incoherent replies score on it {lost}" if lost else ""),
    )
