"""All claims of the study in one table: what the paper prints, what its files hold, what a run measured, whether they agree.

A run's values come from the ledgers of its experiments (`ledger.of_claims`), which the pages across pairs keep; nothing is
measured here. Signs and claims are judged there. This module adds the order over families, and intervals where scales
compare: where a pair has as many layers as the study's.
"""

import json
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
INSIDE, APART = "overlap", "apart"
NOT_RUN = "no result of this profile is of a pair with the study's figures"
SAME, OTHER = "same sign", "other sign"
AGREES, PARTLY, DISAGREES = "agrees", "partly, or undecided", "disagrees"
SAME_SIGN, OTHER_SIGN = "same sign, claim not tested", "sign differs or undecided, claim not tested"
NO_TEST, UNMEASURED = "measured, nothing to compare", "not measured"
# What a run says of a claim, with its mark.
MARKS = {
    AGREES: "✓", PARTLY: "~", DISAGREES: "✗", SAME_SIGN: "=", OTHER_SIGN: "≠", NO_TEST: "·", UNMEASURED: "–",
}  # fmt: skip
# Hue and strength tell the states apart on light and dark pages: what is tested has a hue, what is not has greys.
COLOURS = dict(zip(MARKS, (CATEGORIES[0], CATEGORIES[2], CATEGORIES[1], STEPS[1], STEPS[1], INK, INK)))
STRENGTHS = (0.5, 0.43, 0.4, 0.38, 0.18, 0.3, 0.02)  # of the colours: marks read on them
CSV = (
    "claim_id", "claim", "section", "audit", "audit_reason", "artifacts", "claim_this_run", "id", "figure", "metric",
    "family", "pair", "unit", "printed", "stored", "run", "run_low", "run_high", "agrees_with_claim", "sign",
    "order_over_families", "interval", "figure_audit", "figure_reason", "not_measured_because",
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


def says(of: pd.DataFrame) -> str:
    """Return what a run says of some figures, one of `MARKS`.

    Only figures whose test decides something that their claim asserts can agree or disagree. Where none has a test, the signs
    are set beside the published ones, which tests no claim.
    """
    measured = of[of["run"].notna()]
    votes, signs = (set(measured[name]) - {""} for name in ("agrees", "agreement"))
    if votes:
        return AGREES if votes == {YES} else DISAGREES if votes == {NO} else PARTLY
    if signs:
        return SAME_SIGN if signs == {SAME} else OTHER_SIGN
    return UNMEASURED if measured.empty else NO_TEST


def counted(of: pd.DataFrame) -> dict[str, int]:
    """Return how many measured figures have each judgment or, where none has a test, each sign."""
    measured = of[of["run"].notna()]
    tested = (measured["agrees"] != "").any()
    found, names = ("agrees", (YES, NO)) if tested else ("agreement", (SAME, OTHER))
    return {name: int((measured[found] == name).sum()) for name in (*names, UNDECIDED)}


def of_claim(found: pd.DataFrame, claim_id: str) -> pd.DataFrame:
    """Return the rows of one claim; of a claim that has none of its own, those of the claims that it sums up."""
    others = claims.listed().loc[claim_id, "same_as"].split()
    return found[found["claim_id"].isin(others or [claim_id])]


def judged(found: pd.DataFrame, claim_id: str) -> pd.DataFrame:
    """Return the rows of `of_claim`, judged by what this claim asserts of them where that is another thing than their own
    tests say; a claim that asserts nothing has no judgments and no signs.
    """
    of, text = of_claim(found, claim_id), claims.listed().loc[claim_id, "asserts"]
    if text == claims.NOTHING:
        return of.assign(agrees="", agreement="")
    if test := claims.asserted(text):
        return of.assign(
            agrees=[test.judged(row.run, row.run_low, row.run_high, row.layers) for row in of.itertuples()]
        )
    return of


def cells(found: pd.DataFrame) -> pd.DataFrame:
    """Return the picture's cells, one row per claim and family or pool: what a run says, its mark and how many figures."""
    column = found["family"].replace({ALL_SIX: POOLED, ALL: POOLED})
    rows = []
    for claim_id, claim in claims.listed().iterrows():
        of = judged(found, claim_id)
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
    said = [says(judged(found, claim_id)) for claim_id in claims.listed().index]
    return {name: said.count(name) for name in MARKS}


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Return one row per claim: its words, the audit, what this run says, how many figures, and why some have no value."""
    rows = {}
    for claim_id, claim in claims.listed().iterrows():
        of = judged(found, claim_id)
        measured = of[of["run"].notna()]
        why = "; ".join(dict.fromkeys(of.loc[of["missing"] != "", "missing"]))
        votes = [(measured["agrees"] == name).sum() for name in (YES, NO, UNDECIDED)]
        signs = [(measured["agreement"] == name).sum() for name in (SAME, OTHER)]
        rows[claim_id] = [
            claim["claim"],
            claim["verdict"],
            says(of),
            len(of),
            len(measured),
            *votes,
            *signs,
            why,
        ]
    columns = [
        "claim",
        "audit",
        "this run",
        "figures",
        "measured",
        YES,
        NO,
        UNDECIDED,
        SAME,
        OTHER,
        "not measured because",
    ]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def sentence(found: pd.DataFrame) -> str:
    """Return how this run stands to the claims, as a few sentences."""
    n = counts(found)
    return (
        f"Of {sum(n.values())} claims this run agrees with {n[AGREES]} in all that it tests, disagrees with {n[DISAGREES]}, "
        f"and for {n[PARTLY]} it is mixed or undecided. {n[SAME_SIGN] + n[OTHER_SIGN]} are not tested, because no figure "
        f"decides what they assert: in {n[SAME_SIGN]} all signs are the published ones, in {n[OTHER_SIGN]} not all. "
        f"{n[NO_TEST]} assert no sign, bound or order of what is measured, and to {n[UNMEASURED]} this run cannot speak."
    )


def caption(found: pd.DataFrame) -> str:
    """Return the picture's caption, which also says what it shows to those who do not see it."""
    marks = ", ".join(f"{mark} {name}" for name, mark in MARKS.items())
    return (
        f"The study's claims, a row each, against its six families and all of them together: whether this run agrees with "
        f"what a claim asserts ({marks}); no cell where the study has no figure. The ids are the study's and not "
        f"consecutive. {sentence(found)}"
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
    order = list(MARKS)
    marked = f"{json.dumps(MARKS, ensure_ascii=False)}[datum.label] + ' ' + datum.label"
    legend = alt.Legend(columns=2, symbolType="square", symbolStrokeWidth=0, labelExpr=marked, labelLimit=300)
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
        claim_this_run=of["claim_id"].map({name: says(judged(found, name)) for name in listed.index}).values,
    )  # fmt: skip
    named["order_over_families"] = named["order_over_families"].round(3)
    return named[list(CSV)].to_csv(index=False, lineterminator="\n")
