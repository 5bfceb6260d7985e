"""The tables and the verdict of exp08."""

from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import dose_stats
from nbhelpers.experiments.exp08_six_families.figures import RULES
from nbhelpers.experiments.exp08_six_families.quantities import quantities
from nbhelpers.report.directions import (
    LEAST,
    among,
    answer,
    by_side,
    claim,
    fitting,
    levels_of,
    sentence,
    sides,
)
from nbhelpers.report.exact_signs import confirmed, exact_matrix, exact_p, furthest, most_changed
from nbhelpers.report.families import ends, turned
from nbhelpers.report.quantities import kept, named, value
from nbhelpers.report.text import interval, number, p_value, percent
from nbhelpers.report.verdicts import DOWN, MISSING, UP, Matrix, Verdict, span

OUTCOMES = {
    "format": "form", "right": "content", "content": "its words", "choice": "its letter", "arithmetic": "its number",
    "engaged_harmless": "harmless answered", "refusal_harmful": "harmful refused", "structure": "structure",
    "repetition": "repetition", "incoherent": "incoherent", "nll_unedited": "NLL, nats", "kl": "KL, nats",
}  # fmt: skip
NO_FORM = "No prompt asks for a form that can be checked."
FORM, LEAD, SHIFT = "change.format.0", "selectivity.0", "commitment_shift.top1_strict.own.0"
MATRIX = {
    "change of right forms at dose 0": FORM,
    "form lost beyond content": LEAD,
    "energy along the direction": "energy_share.late",
    "commitment without the direction": SHIFT,
    "dimension without the direction": "dimension_shift.two_nn.0",
}


def measured(results) -> list[str]:
    """Return the outcomes that some pair's prompts support."""
    return [
        name
        for name in OUTCOMES
        if any(d["score"].sel(outcome=name).notnull().any() for d in results.values())
    ]


def change_table(results, dose: str = "0") -> pd.DataFrame:
    """Return a table of the change of every outcome from dose 1, with its interval; * if p < 0.05 by Holm within the pair."""
    rows = {}
    for title, dataset in results.items():
        rows[title] = {}
        for name in measured(results):
            found = ends(named(quantities, f"change.{name}.{dose}")(dataset))
            p = float(dataset["p_holm"].sel(outcome=name, dose=float(dose)))
            shown = "–" if np.isnan(found[0]) else interval(found, 3) + (" *" if p < 0.05 else "")
            rows[title][OUTCOMES[name]] = shown
    return turned(pd.DataFrame(rows).T, results)


def effect_table(results) -> pd.DataFrame:
    """Return a table of d_z at dose 0 and of the rank correlations up to and from dose 1; * if Page's p < 0.05."""
    rows = {}
    for title, dataset in results.items():
        rows[title] = {}
        for name in measured(results):
            parts = [number(value(quantities, dataset, f"d_z.{name}.0"))]
            for branch in ("below", "above"):
                p = float(dataset["page_p"].sel(outcome=name, branch=branch))
                parts.append(
                    number(value(quantities, dataset, f"rho.{name}.{branch}")) + (" *" if p < 0.05 else "")
                )
            rows[title][OUTCOMES[name]] = " · ".join(parts)
    return turned(pd.DataFrame(rows).T, results)


def null_table(results) -> pd.DataFrame:
    """Return a table of the removal's change of right forms and of KL beside random directions, and what would be seen."""
    rows = {}
    for title, dataset in results.items():
        rows[title] = {}
        for name in ("format", "kl"):
            at, said = dataset.sel(outcome=name), OUTCOMES[name]
            rows[title] |= {
                f"{said}: random directions": f"{number(float(at['band_low']), 3)} to {number(float(at['band_high']), 3)}",
                f"{said}: rank p": p_value(float(at["band_p"])),
                f"{said}: smallest visible change": number(float(at["detectable"]), 3),
            }
        lost, gained, p = exact(dataset)
        rows[title]["form: lost / gained, exact p"] = f"{lost} / {gained}, {p_value(p)}"
    return turned(pd.DataFrame(rows).T, results)


def exact(dataset: xr.Dataset, outcome: str = "format") -> dose_stats.Discordance:
    """Return how many replies lose and gain the right form, or content, at dose 0, and McNemar's exact p."""
    rate = dataset["score"].sel(outcome=outcome)
    return dose_stats.mcnemar(rate.sel(dose=1.0), rate.sel(dose=0.0))


def removal_table(results) -> pd.DataFrame:
    """Return a table of what each removal adds to the NLL of IT's own replies, nats, and how far it moves the residual."""
    rows = {}
    for title, dataset in results.items():
        found, rows[title] = kept(quantities, dataset), {}
        for arm in dataset["arm"].values.tolist():
            name = arm.replace(" ", "_")
            if f"nll_rise.{name}" not in found:
                continue
            rise = interval(ends(named(quantities, f"nll_rise.{name}")(dataset)), 3)
            size = f"removal_size.{name}"
            moved = f" · {percent(value(quantities, dataset, size))}" if size in found else ""
            rows[title]["PT" if arm == "pt" else arm] = rise + moved
    return turned(pd.DataFrame(rows).T.fillna("–"), results)


def commitment_table(results) -> pd.DataFrame:
    """Return a table of how much later IT commits than PT, and how the layer moves without the direction, by rule."""
    rows = {}
    for title, dataset in results.items():
        rows[title] = {}
        for rule, said in RULES.items():
            names = {"IT − PT": f"commitment_gap.{rule}"} | {
                f"α = {dose.replace('-', '−')}": f"commitment_shift.{rule}.own.{dose}"
                for dose in ("0", "-1", "2")
            }
            for heading, name in names.items():
                rows[title][f"{said}: {heading}"] = interval(ends(named(quantities, name)(dataset)), 2)
    return turned(pd.DataFrame(rows).T, results)


def rank_table(results) -> pd.DataFrame:
    """Return a table of the measures of rank in the late window, each beside its value with labels exchanged."""
    names = {
        "centred PC1": "centred_pc1", "energy along the mean": "energy_share", "uncentred PC1": "uncentred_pc1",
        "|cos(PC1, mean)|": "cosine_pc1", "mean's share": "mean_share",
    }  # fmt: skip
    rows = {
        title: {
            heading: " · ".join(
                number(value(quantities, d, f"{name}.{kind}")) for kind in ("late", "permuted")
            )
            for heading, name in names.items()
        }
        | {
            "energy along the other prompts' mean": number(value(quantities, d, "energy_along.late")),
            "participation": number(value(quantities, d, "participation.late"), 1),
        }
        for title, d in results.items()
    }
    return turned(pd.DataFrame(rows).T, results)


def dimension_table(results) -> pd.DataFrame:
    """Return a table of the late window's dimension at dose 1 and its change at doses 0 and −1."""
    rows = {}
    for title, d in results.items():
        rows[title] = {}
        for estimator, said in (("two_nn", "TwoNN"), ("participation", "participation ratio")):
            rows[title][f"{said}, α = 1"] = number(value(quantities, d, f"late_dimension.{estimator}.1"), 1)
            for dose in ("0", "-1"):
                moved = kept(quantities, d)[f"dimension_shift.{estimator}.{dose}"].values
                rows[title][f"{said}, α = {dose.replace('-', '−')}"] = interval(tuple(map(float, moved)))
    return turned(pd.DataFrame(rows).T, results)


def points(share: float) -> str:
    """Return a share as text in whole points of per cent."""
    return number(100 * share, 0)


def verdict(results) -> Verdict:
    """Return the verdict: whether removing the direction costs form, and more form than content, in how many pairs."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    lead = sure_lead(results)
    energy = levels_of(results, quantities, "energy_share.late", percent)
    words = ("more form than content is lost", "more content than form is lost")
    where = by_side(results, lead, *words, "", detail)
    return Verdict(
        f"Form before content: {answer(lead)}",
        sentence("; ".join(filter(None, (moved_form(results, detail), where)))),
        f"{powered(results)} {committed(results)}",
        "" if detail == LEAST else f"The direction carries {energy} of the differences' energy.",
    )


def sure_form(results) -> dict[str, list[str]]:
    """Return on which side right forms are moved, by the joint interval and by McNemar's exact test, {mark: titles}."""
    return confirmed(sides(results, quantities, FORM), {title: exact(d).p for title, d in results.items()})


def sure_lead(results) -> dict[str, list[str]]:
    """Return where more form (▲) or more content (▼) is lost, by the joint interval and by an exact test of what is lost."""
    found = sides(results, quantities, LEAD)
    lost = {title: "format" if title in found[UP] else "right" for title in results}
    return confirmed(found, {title: exact(d, lost[title]).p for title, d in results.items()})


def matrix(results) -> Matrix:
    """Return the matrix of `MATRIX`; changes of forms have a sign only where an exact test confirms it."""
    form, lead, *_ = MATRIX
    return exact_matrix(results, quantities, MATRIX, {form: sure_form(results), lead: sure_lead(results)})


def moved_form(results, detail: int) -> str:
    """Return the clause on right forms: by how much they surely move, or else where most replies change."""
    form, changed = sure_form(results), {title: exact(d) for title, d in results.items()}
    titles = form[UP] + form[DOWN]
    if titles:
        size = claim(
            results, quantities, FORM, "removing the late direction {word} right forms by {size} points", "",
            ("raises", "lowers"), shown=points, detail=detail, found=form,
        )  # fmt: skip
        return f"{size} ({exact_p(*(changed[title].p for title in titles))})"
    n = int(results[furthest(changed)]["score"].sel(outcome="format", dose=1.0).notnull().sum())
    return f"without the late direction, {most_changed(results, changed, n, 'right forms')}" if n else ""


def powered(results) -> str:
    """Return the sentence on the changes of form and of content that would have shown."""
    form, content = (
        levels_of(results, quantities, f"detectable.{name}", points) for name in ("format", "right")
    )
    if form == MISSING:
        return NO_FORM
    what = f"form or content by {form}" if form == content else f"form by {form}, content by {content}"
    return f"Changes of {what} points would show (80 % power)."


def committed(results) -> str:
    """Return the sentence on commitment: what the removal moves, and whether IT commits later than PT at all."""
    moved = span(results, quantities, SHIFT, signed=True)
    apart = sides(results, quantities, "commitment_gap.top1_strict")
    ahead = (
        f"; IT already commits before PT {among(apart[DOWN], results, LEAST)}".rstrip() if apart[DOWN] else ""
    )
    return f"Commitment comes {moved} layers later{ahead}."
