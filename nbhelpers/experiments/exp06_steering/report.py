"""The tables and the verdict of exp06."""

import hashlib
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.core.dose_stats import Discordance
from nbhelpers.experiments.exp06_steering import quantities as q
from nbhelpers.experiments.exp06_steering.figures import TITLES
from nbhelpers.experiments.exp06_steering.quantities import quantities
from nbhelpers.report.charts import interval_row
from nbhelpers.report.directions import among, answer, claim, fitting, larger_side, ranged, sentence, sides
from nbhelpers.report.exact_signs import confirmed, exact_matrix, exact_p, furthest, most_changed
from nbhelpers.report.families import turned
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.text import ENDS, number, p_value, percent, written
from nbhelpers.report.verdicts import DOWN, OPEN, UP, Matrix, Verdict, of, span

FORM, BEYOND, GAP = "shift.format.dose.0", "over_band.format.0", "gap_shift.tuned.0"
RANK = "rank_p.format.0"
MATRIX = {
    "requested form": FORM,
    "the same, less random directions": BEYOND,
    "right content of the same replies": "shift.content.dose.0",
    "distance of late layers, nats": GAP,
    "requested form, chosen dose": "chosen_shift.format",
}
SHOWN_ROLES = ("format", "choice", "arithmetic", "harmless")  # replies to harmful requests are never shown
BROKEN = "†"


def points(share: float) -> str:
    """Return a share as points of a hundred."""
    return f"{100 * share:.0f}"


def verdict(results) -> Verdict:
    """Return the verdict: whether removing the late direction costs replies their form, and nothing else."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    form = sure(results, "format")
    return Verdict(
        answer(form, DOWN).capitalize(), sentence(moved_form(results, form, detail)), powered(results, form),
        f"{off_target(results, detail)}; {distance(results)}.",
    )  # fmt: skip


def sure(results, metric: str, name: str = "") -> dict[str, list[str]]:
    """Return on which side removal moves a rate, by the joint interval and by McNemar's exact test, {mark: titles}.

    name: another quantity that rests on the same prompts, such as the change less that by random directions.
    """
    p = {title: value(quantities, d, f"mcnemar_p.{metric}") for title, d in results.items()}
    return confirmed(sides(results, quantities, name or f"shift.{metric}.dose.0"), p)


def matrix(results) -> Matrix:
    """Return the matrix of `MATRIX`; rates at dose 0 have a sign only where `sure` has one."""
    form, beyond, content, *_ = MATRIX
    found = {
        form: sure(results, "format"),
        beyond: sure(results, "format", BEYOND),
        content: sure(results, "content"),
    }
    return exact_matrix(results, quantities, MATRIX, found)


def moved_form(results, form, detail: int) -> str:
    """Return the clause on the requested form: by how much it is surely moved, or else where most replies change."""
    if form[UP] or form[DOWN]:
        size = claim(
            results, quantities, FORM, "without the late direction, {size} points {word} replies have the requested form",
            "", ("more", "fewer"), shown=points, detail=detail, found=form,
        )  # fmt: skip
        p = [value(quantities, results[title], "mcnemar_p.format") for title in form[UP] + form[DOWN]]
        return f"{size} ({exact_p(*p)}); {controlled(results, form, detail)}"
    changed = {title: changes(d) for title, d in results.items()}
    title = furthest(changed)
    known = kept(quantities, results[title])
    rank = f"; rank p {p_value(known[RANK].values)} among random directions" if RANK in known else ""
    n = int(known[FORM].values.notnull().sum())
    return f"without the late direction, {most_changed(results, changed, n, 'requested forms', rank)}"


def changes(result) -> Discordance:
    """Return how many replies lose and gain the requested form without the direction, and McNemar's exact p."""
    of = partial(value, quantities, result)
    return Discordance(int(of("lost.format")), int(of("gained.format")), of("mcnemar_p.format"))


def controlled(results, form, detail: int) -> str:
    """Return the clause on random directions where form is surely moved: whether they move it surely less."""
    side = larger_side(form)
    beyond = sides(results, quantities, BEYOND)[side]
    both = [title for title in form[side] if title in beyond]
    return f"random directions move it {f'surely less {among(both, results, detail)}' if both else 'as much'}".rstrip()


def visible(results, metrics) -> str:
    """Return the range over pairs and rates of the smallest visible changes, in points of a hundred."""
    sizes = [min(value(quantities, d, f"detectable.{m}"), 1) for d in results.values() for m in metrics]
    return ranged(sizes, points)


def powered(results, form) -> str:
    """Return the sentence on the change of form that would have shown where none is sure."""
    unsure = of(results, form[OPEN])
    if not unsure:
        return ""
    where = "elsewhere" if form[UP] or form[DOWN] else ""
    return sentence(
        f"a change by {visible(unsure, ['format'])} points would have shown {where}".rstrip()
        + " (80 % power)"
    )


def off_target(results, detail: int) -> str:
    """Return the clause on other scores: where they surely move, or how large a move would have shown."""
    moved = set()
    for metric in q.OFF_TARGET:
        found = sure(results, metric)
        moved |= {*found[UP], *found[DOWN]}
    if moved:
        return f"Other scores surely move {among(moved, results, detail)}".strip()
    return f"No other score surely moves ({visible(results, q.OFF_TARGET)} points would show)"


def distance(results) -> str:
    """Return the clause on the distance of late layers."""
    return (
        f"the distance of late layers goes {span(results, quantities, 'gap_closed.tuned')} of the way to PT's"
    )


def shift_table(results, key: str = "dose.0") -> pd.DataFrame:
    """Return a table of the shifts of rates with intervals; * if p < 0.05 in a sign-flip test, Holm over pairs and rates."""
    names = [f"shift.{metric}.{key}" for metric in q.RATES]
    found = {
        t: [kept(quantities, d)[name].values.dropna("prompt") for name in names] for t, d in results.items()
    }
    p = [
        float(stats.sign_flip(each.values[:, None])[0]) if each.size > 1 else np.nan
        for row in found.values()
        for each in row
    ]
    adjusted = stats.holm(p).reshape(len(found), len(names))
    rows = {}
    for (title, row), each in zip(found.items(), adjusted):
        cells = written(pd.DataFrame([interval_row(values) for values in row]))
        rows[title] = [f"{cell}{' *' if one < 0.05 else ''}" for cell, one in zip(cells, each)]
    return turned(pd.DataFrame(rows, index=[TITLES[m] for m in q.RATES]).T, results)


def test_table(results, metric: str = "format") -> pd.DataFrame:
    """Return a table of the tests of removal (α = 0) on one rate: prompts that changed, ranks, trends, equivalence, the
    smallest visible shift.
    """
    rows = {}
    for title, result in results.items():
        of = partial(value, quantities, result)
        known = kept(quantities, result)
        n = len(q.of_group(result, "matched").get(0.0, []))
        rank = f"rank_p.{metric}.0"
        rows[title] = {
            "prompts lost, gained": f"{of(f'lost.{metric}'):.0f}, {of(f'gained.{metric}'):.0f}",
            "McNemar p": p_value(of(f"mcnemar_p.{metric}"), 3),
            f"rank p among {n} random": p_value(of(rank), 3) if rank in known else "–",
            "Page p, α below 1": p_value(of(f"page_p.{metric}.below"), 3),
            "Page p, above 1": p_value(of(f"page_p.{metric}.above"), 3),
            "moved the wrong way": percent(of(f"wrong_way.{metric}")),
            "p of no effect (within 5 points)": p_value(of(f"equivalence_p.{metric}"), 3),
            "smallest visible shift": number(of(f"detectable.{metric}")),
        }
    return turned(pd.DataFrame(rows).T, results)


def chosen_table(results) -> pd.DataFrame:
    """Return a table of the dose that other prompts chose, what it changes here, and how selective removal is."""
    columns = {
        "requested form, chosen dose": "chosen_shift.format",
        "less random directions": "chosen_over_band.format",
        "α = 0: form less content, same replies": "format_minus_content",
        "α = 0: form less choices, other prompts": "format_minus.choice",
        "α = 0: form, late less early layers": "format_late_minus.early",
    }
    rows = {}
    for title, result in results.items():
        known, rows[title] = (
            kept(quantities, result),
            {"chosen α": f"{q.chosen_dose(result):g}".replace("-", "−")},
        )
        for heading, name in columns.items():
            rows[title][heading] = cell(known[name].values) if name in known else "–"
    return turned(pd.DataFrame(rows).T, results)


def gap_table(results) -> pd.DataFrame:
    """Return a table of form beside distance: the shares of the way to PT that removal goes, and their rank correlation over
    doses from 0 to 1.5, of which there are few.
    """
    columns = {
        "way to PT, requested form": "format_closed",
        "way to PT, distance, raw lens": "gap_closed.raw",
        "way to PT, distance, tuned lens": "gap_closed.tuned",
        "later commitment, layers": "commitment_shift.tuned.0",
    }
    rows = {}
    for title, result in results.items():
        known = kept(quantities, result)
        n = sum(q.JOINT[0] <= dose <= q.JOINT[1] for dose in q.of_group(result, "dose"))
        rows[title] = {heading: cell(known[name].values) for heading, name in columns.items()}
        for lens in ("raw", "tuned"):
            rho = number(value(quantities, result, f"gap_format_rho.{lens}"))
            rows[title][f"rank correlation over {n} doses, {lens} lens"] = rho
    return turned(pd.DataFrame(rows).T, results)


def cell(values) -> str:
    """Return the mean of values by prompt, or the value of an interval, as text with its interval."""
    ends = (
        dict(zip(ENDS, values))
        if isinstance(values, stats.Interval)
        else interval_row(values.dropna("prompt"))
    )
    return written(pd.DataFrame([ends]))[0]


def dose_panel(result: xr.Dataset) -> pd.DataFrame:
    """Return a table of every score at every dose and of its size; † marks doses with too many incoherent replies."""
    limit, rows = q.option(result, "incoherent_share", 0.2), {}
    for dose, (arm, *_) in q.of_group(result, "dose").items():
        broken = float(q.score(result, "incoherent", arm).mean()) > limit
        head = f"{dose:g}{BROKEN if broken else ''}".replace("-", "−")
        cells = {TITLES[m]: number(float(q.score(result, m, arm).mean())) for m in TITLES}
        cells |= {
            "tokens": number(float(q.score(result, "length", arm).mean()), 0),
            "cut at the cap": percent(q.score(result, "capped", arm).mean()),
            "NLL under IT, nats": number(float(q.score(result, "nll_unedited", arm).mean())),
            "change of the residual": percent(result["forced_residual_change"].sel(arm=arm).mean()),
            "KL on neutral text, nats": number(float(result["neutral_kl"].sel(neutral_arm=arm).mean()), 3),
        }
        rows[head] = cells
    return pd.DataFrame(rows).T.rename_axis("α")


def size_table(results) -> pd.DataFrame:
    """Return a table of how large removal is: the change of the residual and the KL on neutral text, with controls."""
    columns = {
        "residual, the direction": "residual_change.dose.0",
        "residual, random directions": "residual_change.matched.0",
        "KL on IT's replies, nats": "kl_unedited.dose.0",
        "the same, random": "kl_unedited.matched.0",
        "KL on neutral text, nats": "neutral_kl.dose.0",
    }
    rows = {
        title: {heading: number(value(quantities, d, name), 3) for heading, name in columns.items()}
        for title, d in results.items()
    }
    return turned(pd.DataFrame(rows).T, results)


def hashed(names) -> list[str]:
    """Return ids in the order of their hashes, so that no one picks the examples."""
    return sorted(map(str, names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def examples(
    result: xr.Dataset, n: int = 2, arms=("dose_-1", "dose_0", "dose_1", "dose_2", "pt")
) -> pd.DataFrame:
    """Return a table of replies by dose to the first n prompts of each role, in the order of the ids' hashes.

    Replies to harmful requests are never shown.
    """
    rows, roles = {}, dict(zip(result["prompt"].values.tolist(), result["role"].values.tolist()))
    shown = [arm for arm in arms if arm in result["shown_arm"].values]
    for role in SHOWN_ROLES:
        for name in hashed(name for name, own in roles.items() if own == role)[:n]:
            one = result.sel(prompt=name)
            texts = {heading(arm): str(one["text"].sel(shown_arm=arm).item()) for arm in shown}
            rows[role, str(one["message"].item())] = texts
    return pd.DataFrame(rows).T


def heading(arm: str) -> str:
    """Return what a column of examples is called: "α = −1" or "PT"."""
    return "PT" if arm == "pt" else f"α = {arm.removeprefix('dose_')}".replace("-", "−")
