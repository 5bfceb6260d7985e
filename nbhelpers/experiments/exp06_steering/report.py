"""The tables and the verdict of exp06."""

import hashlib
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp06_steering import quantities as q
from nbhelpers.experiments.exp06_steering.figures import TITLES
from nbhelpers.experiments.exp06_steering.quantities import quantities
from nbhelpers.report.charts import interval_row
from nbhelpers.report.directions import among, answer, claim, fitting, ranged, sentence, sides
from nbhelpers.report.families import turned
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.text import ENDS, number, p_value, percent, written
from nbhelpers.report.verdicts import DOWN, OPEN, UP, Verdict, of, span

FORM, BEYOND, GAP = "shift.format.dose.0", "over_band.format.0", "gap_shift.tuned.0"
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
    form = sides(results, quantities, FORM)
    size = claim(
        results, quantities, FORM, "Removing it leaves {size} points {word} replies in the requested form",
        "Whether removing it costs replies their form is undecided", ("more", "fewer"), shown=points, detail=detail,
    )  # fmt: skip
    return Verdict(
        answer(form, DOWN).capitalize(), sentence(size), controlled(results, form, detail), off_target(results, detail)
    )  # fmt: skip


def controlled(results, form, detail: int) -> str:
    """Return the sentence on random directions where form is lost, and on what would have shown where nothing is sure."""
    beyond = sides(results, quantities, BEYOND)[DOWN]
    both = [title for title in form[DOWN] if title in beyond]
    said = "Random directions cost " + ("surely less" if both else "as much")
    parts = []
    if form[DOWN]:
        p = p_value(max(value(quantities, results[title], "mcnemar_p.format") for title in form[DOWN]))
        exact = f"(McNemar p {p if p.startswith('<') else f'≤ {p}'})"
        parts = [" ".join(filter(None, (said, among(both, results, detail) if both else "", exact)))]
    unsure = of(results, form[OPEN])
    if unsure:
        sizes = ranged((min(value(quantities, d, "detectable.format"), 1) for d in unsure.values()), points)
        parts.append(
            f"{'elsewhere a' if form[DOWN] or form[UP] else 'a'} change by {sizes} points would have shown"
        )
    return sentence("; ".join(parts))


def off_target(results, detail: int) -> str:
    """Return the sentence on other scores and on the distance of late layers."""
    moved = set()
    for metric in q.OFF_TARGET:
        found = sides(results, quantities, f"shift.{metric}.dose.0")
        moved |= {*found[UP], *found[DOWN]}
    others = (
        f"Other scores move {among(moved, results, detail)}".strip()
        if moved
        else "No other score surely moves"
    )
    way = span(results, quantities, "gap_closed.tuned")
    return f"{others}; the distance of late layers goes {way} of the way to PT's."


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
