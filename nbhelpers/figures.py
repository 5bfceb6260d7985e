"""The figures of the observation chapter that are of no module of their own: lenses, texts, revision, kinds, onset.

Each takes results, panel title → dataset of one experiment, and returns a chart made with `charts`.
"""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers import charts
from nbhelpers.charts import (
    INK,
    IT,
    NAMES,
    PT,
    banded,
    bands,
    by_category,
    by_variant,
    difference,
    dots,
    hint,
    interval_row,
    layers_axis,
    onset_rule,
    panels,
    tidy,
)
from nbhelpers.synthesis import free
from nbhelpers.token_classes import CLASSES

MINDS = {
    "late_mind_change": ("First correct at the onset or later", "share of tokens"),
    "late_flips": ("Changes of the first token in late layers", "changes a step"),
    "kl_adjacent_at_change": ("Divergence at the change of mind", "nats"),
}


def tuned_against_raw(results) -> alt.Chart:
    """Return held-out KL(final ‖ layer) by layer, raw and tuned lens, for PT and IT (validation 0G)."""
    rows = tidy(results, lambda dataset: banded(dataset.kl_final_layer.rename(text="prompt")))
    colours = by_category("lens", ["raw", "tuned"]) | {"strokeDash": by_variant()["strokeDash"]}
    curve = bands(layers_axis(), "KL(final ‖ layer), nats", fields=("lens", "variant", "layer"), colours=colours,
                  **charts.root_scale())  # fmt: skip
    return panels(rows, "Raw and tuned lens on held-out text (√ scale)", *curve)


def agreement_of_lenses(results) -> alt.Chart:
    """Return the share of held-out tokens whose first token is the final one, by layer, raw and tuned lens."""
    rows = tidy(results, lambda dataset: banded(dataset.top1_agreement.rename(text="prompt")))
    colours = by_category("lens", ["raw", "tuned"]) | {"strokeDash": by_variant()["strokeDash"]}
    fields = ("lens", "variant", "layer")
    curve = bands(layers_axis(), "share", fields=fields, colours=colours, axis=alt.Axis(format="%"))
    return panels(rows, "First token agrees with the final layer's", *curve)


def learning(results) -> alt.Chart:
    """Return the lenses' validation loss by training step, mean over layers, PT and IT."""
    rows = tidy(results, lambda d: d.validation_loss.mean("layer").rename("mean").to_dataset())
    x = alt.X("check:Q", title="gradient steps")
    y = alt.Y("mean:Q", title="validation KL, nats", scale=alt.Scale(zero=False))
    tips = ["panel:N", "variant:N", "check:Q", alt.Tooltip("mean:Q", format=".3f")]
    line = alt.Chart().mark_line(point=True).encode(x=x, y=y, tooltip=tips, **by_variant())
    return panels(rows, "Training of the tuned lenses, mean over layers", line, y="independent")


def transfer(results) -> alt.Chart:
    """Return KL(final ‖ layer) of IT's states read with PT's translators, over that with IT's own, by layer."""

    def ratio(dataset):
        own = dataset.kl_final_layer.sel(variant="it", lens="tuned", drop=True).mean("text")
        return (dataset.kl_transfer.mean("text") / own).where(own > 0).rename("ratio").to_dataset()

    rows = tidy(results, ratio).dropna(subset=["ratio"])
    tips = [alt.Tooltip("panel:N", title="model"), "layer:Q", alt.Tooltip("ratio:Q", format=".2f")]
    line = (
        alt.Chart()
        .mark_line(point=alt.OverlayMarkDef(color=IT), color=IT)
        .encode(x=layers_axis(), y=alt.Y("ratio:Q", title="ratio of KL"), tooltip=tips)
    )
    one = alt.Chart().mark_rule(strokeDash=[4, 2]).encode(y=alt.datum(1))
    return panels(rows, "IT read with PT's translators, KL over that with its own", one, line)


def lengths(results) -> alt.Chart:
    """Return how long each model's texts are: the share of prompts with at least so many tokens."""

    def survival(dataset):
        width = int(dataset.n_tokens.max())
        at = np.arange(1, width + 1)
        share = [(dataset.n_tokens.sel(variant=v).values[:, None] >= at).mean(0) for v in ("pt", "it")]
        return xr.Dataset(
            {"share": (("variant", "token"), np.array(share))}, {"variant": ["pt", "it"], "token": at}
        )

    rows = tidy(results, survival)
    y = alt.Y("share:Q", title="share of texts", axis=alt.Axis(format="%"))
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "variant:N",
        "token:Q",
        alt.Tooltip("share:Q", format=".0%"),
    ]
    x = alt.X("token:Q", title="tokens, at least")
    line = (
        alt.Chart()
        .mark_line(interpolate="step-before", strokeWidth=2)
        .encode(x=x, y=y, tooltip=tips, **by_variant())
    )
    return panels(rows, "Length of the texts", line)


def phases_of_revision(results) -> alt.Chart:
    """Return KL(previous layer ‖ layer) by layer, free running; the reader chooses the lens."""
    return charts.layer_profile(
        results, lambda d: free(d[["kl_adjacent"]]).kl_adjacent, y="nats", unit="nats",
        title="KL(previous layer ‖ layer): how much each layer revises (√ scale)", toggles={"lens": "lens"},
        **charts.root_scale(),
    )  # fmt: skip


def turnover(results) -> alt.Chart:
    """Return the Jaccard index of the five best tokens with the layer before, free running; the lens to choose."""
    return charts.layer_profile(
        results, lambda d: free(d[["turnover"]]).turnover, y="Jaccard index",
        title="Candidates kept from the layer before (five best tokens)", toggles={"lens": "lens"},
    )  # fmt: skip


def emergence(results) -> alt.Chart:
    """Return the probability that each layer gives the token that follows, free running; the lens to choose."""
    return charts.layer_profile(
        results, lambda d: free(d[["target_probability"]]).target_probability, y="probability",
        title="Probability of the token that follows", toggles={"lens": "lens"},
    )  # fmt: skip


def minds_by_class(results, measure="late_mind_change", history="free", lens="raw") -> alt.Chart:
    """Return a measure of late changes of mind by class of the following token, PT and IT, with intervals."""
    found = []
    for title, d in results.items():
        one = free(d[[measure]]) if history == "free" else d[[measure]].sel(history=history)
        values = one[measure].sel(lens=lens)
        for variant in ("pt", "it"):
            for kind in values.token_class.values:
                row = interval_row(
                    values.sel(variant=variant, token_class=kind), panel=title, token_class=str(kind)
                )
                found.append(row | {"variant": NAMES[variant]})
    rows = pd.DataFrame(found).dropna(subset=["mean"])
    rows = rows[(rows["prompts"] >= 5) & (rows["token_class"] != "special")].round(charts.DIGITS)
    y = alt.Y("token_class:N", title=None, sort=list(CLASSES), axis=alt.Axis(grid=True, ticks=False))
    offset = alt.YOffset("variant:N", sort=["PT", "IT"])
    colour, (heading, unit) = by_variant()["color"], MINDS[measure]
    bar = (
        alt.Chart()
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title=unit), x2="high:Q", y=y, yOffset=offset, color=colour)
    )
    dot = alt.Chart().mark_point(size=40, filled=True, opacity=1)
    dot = dot.encode(
        x=alt.X("mean:Q", title=unit),
        y=y,
        yOffset=offset,
        color=colour,
        tooltip=[*hint("token_class", "variant"), "prompts:Q"],
    )
    return panels(rows, f"{heading}, by class of the following token", bar, dot)


def commitment_by_confidence(results, rule="kl_continuous", lens="raw", history="free") -> alt.Chart:
    """Return the delay IT − PT of commitment by confidence of the final prediction, with intervals over prompts."""
    found = []
    for title, d in results.items():
        names = ["commitment_by_confidence"]
        one = free(d[names]) if history == "free" else d[names].sel(history=history)
        shift = difference(one.commitment_by_confidence.sel(rule=rule, lens=lens))
        found += [
            interval_row(shift.sel(stratum=s), panel=title, stratum=str(s)) for s in shift.stratum.values
        ]
    where = "free running" if history == "free" else f"on {NAMES[history]}'s tokens"
    return dots(
        pd.DataFrame(found), "stratum", x="IT − PT, layers", title=f"Commitment delay by confidence, {where}"
    )


def kinds_profile(results, measure="delta_cosine") -> alt.Chart:
    """Return a profile over layers by kind of prompt, with intervals; the reader chooses the condition."""

    def values(dataset):
        curve = dataset[measure]
        curve = curve.sel(component="block", drop=True) if "component" in curve.dims else curve
        kinds = dict.fromkeys(dataset.category.values.tolist())
        parts = [banded(curve.isel(prompt=np.flatnonzero(dataset.category.values == kind))) for kind in kinds]
        return xr.concat(parts, "kind").assign_coords(kind=list(kinds))

    rows = tidy(results, values)
    names = {"delta_cosine": ("δ-cosine of the block", "δ-cosine"), "entropy": ("Lens entropy", "nats")}
    heading, unit = names.get(measure, (measure, measure))
    colours = by_category("kind", list(dict.fromkeys(rows["kind"])))
    curve, toggles = (
        bands(layers_axis(), unit, fields=("kind", "layer"), colours=colours),
        {"condition": "condition"},
    )
    return panels(rows, f"{heading} by kind of prompt", onset_rule(), *curve, toggles=toggles)


def template_overlay(results) -> alt.Chart:
    """Return the block's δ-cosine of IT with and without its chat template, and of PT."""

    def values(dataset):
        return banded(dataset.delta_cosine.sel(component="block", drop=True))

    rows = tidy(results, values)
    order = list(dict.fromkeys(rows["condition"]))
    colours = by_category("condition", order, palette=[PT, IT, INK])
    curve = bands(layers_axis(), "δ-cosine", fields=("condition", "layer"), colours=colours)
    return panels(rows, "δ-cosine with and without the chat template", onset_rule(), *curve)


def onset_matrix(results, component="block") -> alt.Chart:
    """Return which layers meet each threshold rule, and where each rule sees the onset."""

    def measure(dataset):
        one = dataset.sel(component=component, drop=True)
        return xr.Dataset({"meets": one.meets.astype(int), "first": one.onset})

    rows = tidy(results, measure)
    rows["is_onset"] = (rows["layer"] == rows["first"]).astype(int)
    y = alt.Y("rule:N", sort=list(dict.fromkeys(rows["rule"])), title=None)
    x = alt.X("layer:O", title="layer", axis=alt.Axis(labelOverlap=True, labelAngle=0))
    fill = alt.Color("meets:N", scale=alt.Scale(domain=[0, 1], range=["#88888826", IT]), legend=None)
    cells = (
        alt.Chart()
        .mark_rect(stroke="#88888840")
        .encode(
            x=x,
            y=y,
            color=fill,
            tooltip=[alt.Tooltip("panel:N", title="model"), "rule:N", "layer:Q", "first:Q"],
        )
    )
    mark = alt.Chart().transform_filter("datum.is_onset === 1")
    mark = mark.mark_point(shape="diamond", filled=True, size=45, color="white", opacity=1).encode(x=x, y=y)
    return panels(rows, "Layers at which IT − PT of the δ-cosine meets a rule (◆ onset)", cells, mark)
