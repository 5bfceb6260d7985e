"""All claims of the study in one table: what the paper prints, what its files hold, what a run measured, whether they agree.

A run's values come from the ledgers of its experiments (`ledger.of_claims`), which the pages across pairs keep; nothing is
measured here. Signs and claims are judged there. This module adds the order over families, and intervals where scales
compare: where a pair has as many layers as the study's.
"""

import math
from collections.abc import Iterable

import altair as alt
import numpy as np
import pandas as pd
from scipy import stats

from nbhelpers.core import params
from nbhelpers.report import claims
from nbhelpers.report.claims import ALL, ALL_SIX, NO, UNDECIDED, YES
from nbhelpers.report.families import TITLES
from nbhelpers.report.ledger import KEPT
from nbhelpers.report.theme import CATEGORIES, INK, STEPS

FEWEST_FAMILIES = 4  # that an order needs
STUDY = "study"  # the first part of the id of a fact about the study
POOLED = "all"  # the column of figures of all families
VOTES = {"same sign": YES, "other sign": NO}
INSIDE, APART = "overlap", "apart"
NOT_RUN = "no result of this profile is of a pair with the study's figures"
# What a cell of the picture says, with its mark.
MARKS = {
    "agrees": "✓", "partly, or undecided": "~", "disagrees": "✗", "measured, nothing to compare": "·", "not measured": "–",
}  # fmt: skip
COLOURS = dict(zip(MARKS, (STEPS[1], STEPS[1], CATEGORIES[2], INK, INK)))
STRENGTHS = (0.55, 0.2, 0.75, 0.25, 0.08)  # of the colours: marks read on them on light and dark pages
CSV = (
    "claim_id", "claim", "section", "audit", "audit_reason", "artifacts", "id", "figure", "metric", "family", "pair", "unit",
    "printed", "stored", "run", "run_low", "run_high", "agrees_with_claim", "sign", "order_over_families", "interval",
    "figure_audit", "figure_reason", "not_measured_because",
)  # fmt: skip


def table(runs: Iterable[list]) -> pd.DataFrame:
    """Return all figures of all claims with a run's values, one row per figure and pair, in the order of the claims.

    runs: rows of `ledger.KEPT`, those of every experiment. Adds to `claims.COLUMNS` what is kept of a run, `order`, the rank
    correlation of published and measured values over families, and `interval`, whether they agree within their errors.
    """
    figures, listed = claims.of_claims(), claims.listed()
    run = pd.DataFrame(list(runs), columns=list(KEPT)).astype(
        {"run": float, "run_low": float, "run_high": float}
    )
    found = figures.merge(run, on="id", how="left", sort=False)
    for name in ("agrees", "agreement", "missing"):
        found[name] = found[name].fillna("")
    found["title"] = (
        found["title"].fillna(found["family"]).replace(TITLES)
    )  # without a pair, the study's family
    silent = found["run"].isna() & (found["missing"] == "")
    found.loc[silent, "missing"] = (
        found["claim_id"].map(listed["no_run"]).where(study(found), NOT_RUN)[silent]
    )
    found["order"] = _orders(found)
    found["layers"] = found["title"].map(
        run.groupby("title")["layers"].max()
    )  # an experiment may not know them
    layers = claims.published(STUDY).query("metric == 'n_layers'").set_index("family")["value"]
    found["interval"] = [_interval(row, layers) for row in found.itertuples()]
    order = {name: place for place, name in enumerate(listed.index)}
    return found.sort_values("claim_id", key=lambda ids: ids.map(order), kind="stable").reset_index(drop=True)


def study(found: pd.DataFrame) -> pd.Series:
    """Return which rows are facts about the study."""
    return found["id"].str.startswith(f"{STUDY}.")


def _orders(found: pd.DataFrame) -> pd.Series:
    """Return the rank correlation over families of published and measured values, for each row of a quantity with enough."""
    known = found["family"].isin(params.FAMILIES) & found["value"].notna() & found["run"].notna()
    orders = pd.Series(np.nan, found.index)
    for _, of in found[known].groupby(["claim_id", "metric", "unit"], sort=False):
        both = of.drop_duplicates("family")
        varied = both["value"].nunique() > 1 and both["run"].nunique() > 1
        if len(both) >= FEWEST_FAMILIES and varied:
            orders[of.index] = stats.spearmanr(both["value"], both["run"]).statistic
    return orders


def _interval(row, layers: pd.Series) -> str:
    """Return whether the published value, with its interval if it has one, meets the run's; "" where scales differ."""
    if math.isnan(row.run_low) or math.isnan(row.value) or row.layers != layers.get(row.family):
        return ""
    low, high = (row.value, row.value) if math.isnan(row.ci_low) else (row.ci_low, row.ci_high)
    return INSIDE if low <= row.run_high and high >= row.run_low else APART


def vote(row) -> str:
    """Return whether a run agrees with a figure: with what its claim asserts, else with its sign; "" if neither is there."""
    return row.agrees or VOTES.get(row.agreement, row.agreement)


def says(of: pd.DataFrame) -> str:
    """Return what a run says of some figures, one of `MARKS`."""
    measured = of[of["run"].notna()]
    votes = {vote(row) for row in measured.itertuples()} - {""}
    if not votes:
        return "not measured" if measured.empty else "measured, nothing to compare"
    return {frozenset({YES}): "agrees", frozenset({NO}): "disagrees"}.get(
        frozenset(votes), "partly, or undecided"
    )


def of_claim(found: pd.DataFrame, claim_id: str) -> pd.DataFrame:
    """Return the rows of one claim; of a claim that has none of its own, those of the claims that it sums up."""
    others = claims.listed().loc[claim_id, "same_as"].split()
    return found[found["claim_id"].isin(others or [claim_id])]


def cells(found: pd.DataFrame) -> pd.DataFrame:
    """Return the picture's cells, one row per claim and family or pool: what a run says, its mark and how many figures."""
    column = found["family"].replace({ALL_SIX: POOLED, ALL: POOLED})
    rows = []
    for claim_id, claim in claims.listed().iterrows():
        of = of_claim(found, claim_id)
        for family in (*params.FAMILIES, POOLED):
            these = of[column[of.index] == family]
            if len(these):
                said = says(these)
                told = {"says": said, "mark": MARKS[said], "figures": len(these)}
                rows.append(
                    {"claim": claim_id, "words": claim["claim"], "family": TITLES.get(family, family)} | told
                )
    return pd.DataFrame(rows, columns=["claim", "words", "family", "says", "mark", "figures"])


def counts(found: pd.DataFrame) -> dict[str, int]:
    """Return {what a run says: number of claims}, over all figures of each claim, in the order of `MARKS`."""
    said = [says(of_claim(found, claim_id)) for claim_id in claims.listed().index]
    return {name: said.count(name) for name in MARKS}


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row per claim: its words, the audit, what this run says, how many figures, and why some have no value."""
    rows = {}
    for claim_id, claim in claims.listed().iterrows():
        of = of_claim(found, claim_id)
        votes = [vote(row) for row in of[of["run"].notna()].itertuples()]
        why = "; ".join(dict.fromkeys(of.loc[of["missing"] != "", "missing"]))
        judged = [votes.count(name) for name in (YES, NO, UNDECIDED)]
        rows[claim_id] = [claim["claim"], claim["verdict"], says(of), len(of), len(votes), *judged, why]
    columns = [
        "claim",
        "audit",
        "this run",
        "figures",
        "measured",
        YES,
        NO,
        UNDECIDED,
        "not measured because",
    ]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def sentence(found: pd.DataFrame) -> str:
    """Return how this run stands to the claims, as one sentence."""
    n = counts(found)
    return (
        f"Of {sum(n.values())} claims this run agrees with {n['agrees']} in all that it can compare and disagrees with "
        f"{n['disagrees']}; {n['partly, or undecided']} are mixed or undecided, "
        f"{n['measured, nothing to compare']} give no sign, bound or order to compare, and to {n['not measured']} it cannot "
        f"speak."
    )


def caption(found: pd.DataFrame) -> str:
    """Return the picture's caption, which also says what it shows to those who do not see it."""
    marks = ", ".join(f"{mark} {name}" for name, mark in MARKS.items())
    return (
        f"The study's claims, a row each, against its six families and all of them together: whether this run agrees with "
        f"the figures of a claim ({marks}); no cell where the study has no figure. {sentence(found)}"
    )


def picture(found: pd.DataFrame) -> alt.Chart:
    """Return the picture: claims × families, coloured and marked by agreement."""
    rows = cells(found)
    families = [*TITLES.values(), POOLED]
    plain = {"domain": False, "ticks": False}
    hints = {
        "claim": "claim",
        "words": "it says",
        "family": "family",
        "says": "this run",
        "figures": "figures",
    }
    base = alt.Chart(rows).encode(
        x=alt.X(
            "family:N",
            sort=families,
            title=None,
            axis=alt.Axis(orient="top", labelAngle=-90, labelPadding=4, **plain),
        ),
        y=alt.Y("claim:N", sort=None, title=None, axis=alt.Axis(labelLimit=60, labelOverlap=False, **plain)),
        tooltip=[alt.Tooltip(name, title=title) for name, title in hints.items()],
    )
    legend, order = alt.Legend(columns=2, symbolType="square", symbolStrokeWidth=0), list(MARKS)
    tiles = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color(
            "says:N", title=None, scale=alt.Scale(domain=order, range=list(COLOURS.values())), legend=legend
        ),
        opacity=alt.Opacity(
            "says:N",
            title=None,
            scale=alt.Scale(type="ordinal", domain=order, range=STRENGTHS),
            legend=legend,
        ),
    )
    marks = base.mark_text(fontSize=10, fontWeight="bold").encode(text="mark:N")
    size = {"width": 30 * len(families), "height": 14 * rows["claim"].nunique()}
    return alt.layer(tiles, marks).properties(**size, description=caption(found))


def csv(found: pd.DataFrame) -> str:
    """Return the whole table as CSV: the columns `CSV`, one row per figure and pair."""
    listed = claims.listed()
    of = listed.loc[found["claim_id"]].reset_index()
    named = found.rename(columns={
        "claim": "figure", "title": "pair", "agrees": "agrees_with_claim", "agreement": "sign",
        "order": "order_over_families", "verdict": "figure_audit", "reason": "figure_reason",
        "missing": "not_measured_because",
    }).assign(
        claim=of["claim"].values, section=of["section"].values, audit=of["verdict"].values,
        audit_reason=of["reason"].values, artifacts=of["artifacts"].values,
    )  # fmt: skip
    named["order_over_families"] = named["order_over_families"].round(3)
    return named[list(CSV)].to_csv(index=False, lineterminator="\n")
