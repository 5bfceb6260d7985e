"""The charts of exp08."""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.experiments.exp08_six_families.quantities import CRITERION, quantities
from nbhelpers.report.captions import BANDS, BARS, ONSET, ZERO, caption
from nbhelpers.report.charts import (
    DIGITS,
    SINGLE,
    banded,
    bands,
    by_category,
    interval_row,
    layers_axis,
    onset_rule,
    panels,
    tidy,
)
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.quantities import named
from nbhelpers.report.theme import INK
from nbhelpers.report.unmeasured import words
from nbhelpers.report.verdicts import short

SHOWN_OUTCOMES = {"format": "right form", "right": "right content"}
RULES = {"top1_strict": "top-1 token that stays", "kl_stays_0.1": "KL stays below 0.1 nats"}
ENDPOINTS = {"own": "its own final", "unedited": "unedited IT's final"}
ESTIMATORS = {"two_nn": "TwoNN", "participation": "participation ratio"}
REMOVED = {
    "direction": "mean direction",
    "top_2": "2 components",
    "top_8": "8 components",
    "random_8": "8 random",
}
RANKS = {"energy_share": "energy along the mean", "centred_pc1": "centred PC1, as published"}
PERMUTED = {"energy_share": "energy, labels exchanged"}
STABLE = {"split_half": "two halves of the prompts", "template_cosine": "own formats and raw prompts"}
STEERED = {0.0: "α = 0", -1.0: "α = −1"}
UNSCORED = "not measured: no prompt asks for a form or an answer that can be checked"
INCOHERENT = 0.2  # share of incoherent replies from which a dose is marked
JACKKNIFE = "bands are 95 % intervals from halves of the prompts"


def dose_axis(name: str = "dose") -> alt.X:
    """Return the x encoding of doses."""
    return alt.X(f"{name}:Q", title="dose α", scale=alt.Scale(nice=False))


def identity_rule() -> alt.Chart:
    """Return a dashed vertical line at dose 1, which changes nothing; rows need a column `one`."""
    rule = alt.Chart().transform_aggregate(one="max(one)").mark_rule(strokeDash=[4, 2], strokeWidth=1)
    return rule.encode(x="one:Q")


def dose_response(results) -> alt.Chart:
    """Return a chart of right forms and right content against the dose of the direction, by pair.

    A grey bar with ends at dose 0 is the range of right forms under random directions. Doses with more than 20 % of
    incoherent replies are shaded.
    """
    rows = pd.concat([_by_dose(dataset).assign(panel=title) for title, dataset in results.items()])
    rows = rows.dropna(subset=["mean"]).round(DIGITS).assign(one=1.0)
    if rows.empty:
        return words(UNSCORED)
    shade = (
        alt.Chart()
        .transform_filter(f"datum.incoherent > {INCOHERENT}")
        .mark_rule(strokeWidth=12, opacity=0.1)
    )
    known = alt.Chart().transform_filter("isValid(datum.band_low)")
    band = known.mark_rule(strokeWidth=7, opacity=0.5, color=INK).encode(
        x="dose:Q", y="band_low:Q", y2="band_high:Q"
    )
    # A range of next to nothing still has its two ends.
    tick = known.mark_tick(orient="horizontal", size=18, thickness=2, color=INK)
    edges = [tick.encode(x="dose:Q", y=f"{end}:Q") for end in ("band_low", "band_high")]
    options = {"colours": by_category("outcome", SHOWN_OUTCOMES.values()), "scale": alt.Scale(zero=False)}
    curves = bands(dose_axis(), "share of replies", fields=("outcome", "dose"), **options)
    return panels(
        rows, "Right form and right content by dose", shade.encode(x="dose:Q"), identity_rule(), *curves, band, *edges,
        description="Share of replies with the right form and with the right content, against the dose of the direction",
        marks=[
            BANDS, "the grey bar with ends at dose 0 is the range of right forms under random directions of the same size",
            "the dashed line marks dose 1, which changes nothing", "doses with many incoherent replies are shaded",
        ],
    )  # fmt: skip


def _by_dose(dataset: xr.Dataset) -> pd.DataFrame:
    """Return the rows of `dose_response` of one pair: curves, share of incoherent replies, and the random range of form."""
    found = banded(dataset["score"].astype(float).sel(outcome=list(SHOWN_OUTCOMES)))
    rows = found.assign(incoherent=dataset["incoherent"]).to_dataframe().reset_index()
    form, level = dataset.sel(outcome="format"), float(found["mean"].sel(outcome="format", dose=1.0))
    at = (rows["outcome"] == "format") & (rows["dose"] == 0)
    for end in ("band_low", "band_high"):
        rows[end] = np.where(at, level + float(form[end]), np.nan)
    return rows.assign(outcome=rows["outcome"].map(SHOWN_OUTCOMES))


def dissociation(results) -> alt.Chart:
    """Return a chart of the change of right forms against that of right content at dose 0, a point for each pair."""
    rows = _changes(results)
    if rows[["form_mean", "content_mean"]].isna().any(axis=1).all():
        return words(UNSCORED)
    x = alt.X("form_mean:Q", title="change of right forms at dose 0")
    y = alt.Y("content_mean:Q", title="change of right content")
    base = alt.Chart(rows)
    rule, text = (
        base.mark_rule(color=INK, strokeWidth=3, opacity=0.6),
        base.mark_text(align="left", dx=6, dy=-6),
    )
    tips = [alt.Tooltip("panel:N", title="pair")]
    tips += [alt.Tooltip(f"{axis}_mean:Q", title=axis, format=".3f") for axis in ("form", "content")]
    zero = alt.Chart(rows).mark_rule(strokeDash=[4, 2], strokeWidth=0.5)  # thinner than bars that lie on it
    chart = alt.layer(
        zero.encode(x=alt.datum(0)), zero.encode(y=alt.datum(0)),
        rule.encode(x=alt.X("form_low:Q"), x2="form_high:Q", y=y),
        rule.encode(y=alt.Y("content_low:Q"), y2="content_high:Q", x=x),
        base.mark_point(filled=True, opacity=1, size=60, color=INK).encode(x=x, y=y, tooltip=tips),
        text.encode(x=x, y=y, text="label:N"), data=rows,
    )  # fmt: skip
    said = caption(
        "Change of right content against the change of right forms, without the direction", rows,
        [BARS, "dashed lines mark zero"], each="point",
    )  # fmt: skip
    return chart.properties(**SINGLE, title="Form and content without the direction", description=said)


def _changes(results) -> pd.DataFrame:
    """Return the rows of `dissociation`; of pairs at one point the first bears the names of all."""
    rows = []
    for title, dataset in results.items():
        one = {"panel": title}
        for axis, outcome in (("form", "format"), ("content", "right")):
            ends = interval_row(named(quantities, f"change.{outcome}.0")(dataset))
            one |= {f"{axis}_{end}": ends[end] for end in ("mean", "low", "high")}
        rows.append(one)
    rows = pd.DataFrame(rows).round(DIGITS)
    places, called = rows[["form_mean", "content_mean"]].apply(tuple, axis=1), short(results)
    together = rows["panel"].map(called).groupby(places).transform(", ".join)
    return rows.assign(label=together.where(~places.duplicated(), ""))


def removals(results) -> alt.Chart:
    """Return a forest of KL(unedited ‖ edited) on IT's own replies, by what is removed from the late window."""
    names = {f"removal_kl.{name}": {"removed": label} for name, label in REMOVED.items()}
    rows = forest_rows(results, quantities, names)
    what = "KL(unedited ‖ edited) on IT's own replies, nats, by what is removed from late MLP outputs"
    return forest(
        rows, by="removed", x="nats a token", title="One direction or a subspace?",
        description=caption(what, rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


def commitment(results) -> alt.Chart:
    """Return a chart of the layer of commitment against the dose, IT under each dose and PT on the same tokens.

    The reader chooses the rule and the end point.
    """

    def measure(dataset):
        it = dataset["commitment"].rename(forced_prompt="prompt", forced_dose="dose").astype(float)
        pt = dataset["commitment_pt"].rename(forced_prompt="prompt").astype(float)
        both = xr.concat([xr.broadcast(pt, it)[0], it], "variant").assign_coords(variant=["pt", "it"])
        return banded(both)

    rows = tidy(results, measure)
    rows = rows.assign(rule=rows["rule"].map(RULES), endpoint=rows["endpoint"].map(ENDPOINTS), one=1.0)
    curves = bands(dose_axis(), "layer", "layers", fields=("variant", "dose"), scale=alt.Scale(zero=False))
    return panels(
        rows, "Layer of commitment by dose", identity_rule(), *curves, y="independent",
        toggles={"rule": "rule", "endpoint": "agrees with"},
        description="Layer of commitment, mean over the tokens of IT's reply, against the dose, for PT (blue, dashed) and IT "
        "(orange, solid)",
        marks=[BANDS, "the dashed vertical line marks dose 1, which changes nothing"],
    )  # fmt: skip


def dimension(results) -> alt.Chart:
    """Return a chart of the change of dimension of clouds of residuals from dose 1, at doses 0 and −1, against the layer."""
    rows = layered(results, "dimension_change", "cloud_dose", STEERED.get)
    rows["estimator"] = rows["estimator"].map(ESTIMATORS)
    curves = bands(
        layers_axis(),
        "change of dimension",
        fields=("curve", "layer"),
        colours=by_category("curve", STEERED.values()),
    )
    return panels(
        rows, "Dimension of residuals by dose", onset_rule(), *curves, toggles={"estimator": "estimator"}, y="independent",
        description="Change from dose 1 of the dimension of clouds of residuals, on IT's own replies, against the layer",
        marks=[JACKKNIFE, ONSET],
    )  # fmt: skip


def layered(results, name: str, dim: str, label) -> pd.DataFrame:
    """Return a table of mean, low and high by panel, layer and the labels (`curve`) of a dim, from a variable with ends."""

    def measure(dataset):
        return xr.Dataset(
            {new: dataset[name + end] for new, end in (("mean", ""), ("low", "_low"), ("high", "_high"))}
        )

    rows = pd.concat(
        [
            measure(d).to_dataframe().reset_index().assign(panel=title, onset=depths.onset(d.sizes["layer"]))
            for title, d in results.items()
        ]
    ).round(DIGITS)
    rows["curve"] = rows[dim].map(label)
    return rows.dropna(subset=["curve"]).drop(columns=[dim, "depth"], errors="ignore")


def rank(results) -> alt.Chart:
    """Return a chart of the share of differences on one line by layer: uncentred, centred, and with labels exchanged."""
    rows = layered(results, "rank_one", "rank_measure", RANKS.get)
    exchanged = {title: d.assign(permuted_low=d["permuted"]) for title, d in results.items()}
    null = layered(exchanged, "permuted", "rank_measure", PERMUTED.get)
    rows = pd.concat([rows, null]).assign(line=CRITERION)
    colours = by_category("curve", [*RANKS.values(), *PERMUTED.values()])
    curves = bands(layers_axis(), "share", fields=("curve", "layer"), colours=colours)
    line = alt.Chart().transform_aggregate(line="max(line)").mark_rule(strokeDash=[4, 2], strokeWidth=1)
    line = line.encode(y="line:Q")
    return panels(
        rows, "How much of the difference is one direction", onset_rule(), line, *curves,
        description="Share of the prompts' differences on one line, against the layer",
        marks=[
            f"{JACKKNIFE} or, with labels exchanged, reach to the 95th percentile", ONSET,
            "the dashed line marks the study's criterion, 0.6",
        ],
    )  # fmt: skip


def stability(results) -> alt.Chart:
    """Return a chart of the cosine of two estimates of the direction by layer: of two halves, and of two prompt formats."""
    rows = layered(results, "stability", "stability_measure", STABLE.get)
    curves = bands(
        layers_axis(),
        "cosine",
        fields=("curve", "layer"),
        colours=by_category("curve", list(STABLE.values())),
    )
    return panels(
        rows, "Stability of the direction", onset_rule(), *curves,
        description="Cosine of two estimates of the direction, against the layer",
        marks=[f"{JACKKNIFE}; of the halves themselves, the 5th to the 95th percentile", ONSET],
    )  # fmt: skip
