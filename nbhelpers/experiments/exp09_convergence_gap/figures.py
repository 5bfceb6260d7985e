"""The figures of exp09 over layers: divergence and commitment, δ-cosine, histories."""

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.report.charts import (
    IT,
    KL,
    NAMES,
    PT,
    banded,
    bands,
    by_variant,
    layer_profile,
    layers_axis,
    onset_rule,
    packed,
    panels,
    root_scale,
    rule_title,
    shift_profile,
    tidy,
)

COMPONENTS = {"block": "whole block", "attention": "attention", "mlp": "MLP"}
KL_TICKS = [0.05, 0.1, 0.2, 0.5, 1.0]
DIVERGING = ["#b2182b", "#f7f7f7", "#2166ac"]


def kl_curves(results, direction="final_layer", lens=None) -> alt.Chart:
    """Return a chart of each layer's KL divergence from the model's own final distribution, with the final entropy as text.

    `direction` is final_layer for KL(final ‖ layer) or layer_final for KL(layer ‖ final); nats, on a
    square-root scale. If `lens` is None, the reader chooses the lens.
    """

    def measure(dataset):
        curve = banded(of_lens(dataset[f"kl_{direction}"], lens))
        entropy = of_lens(dataset["entropy"], lens).isel(layer=-1, drop=True).mean("prompt")
        return curve.assign(entropy=entropy)

    rows = tidy(results, measure)
    rows["entropy"] = [f"entropy {value:.2f}" for value in rows["entropy"]]
    notes = [entropy_note("PT", 4), entropy_note("IT", 17)]
    curve = bands(layers_axis(), f"{KL[direction]}, nats", "nats", **root_scale())
    name = f", {lens} lens" if lens else ""
    title = f"{KL[direction]} by layer{name} (√ scale)"
    return panels(rows, title, onset_rule(), *curve, *notes, toggles=None if lens else {"lens": "lens"})


def entropy_note(variant, height) -> alt.Chart:
    """Return a text mark of one variant's final entropy, at the top right of each panel, where the curves are low."""
    only = alt.Chart().transform_filter(f"datum.variant === '{variant}' && datum.layer === 0")
    text = only.mark_text(align="right", baseline="top", fontSize=10, color=PT if variant == "PT" else IT)
    return text.encode(x=alt.value("width"), y=alt.value(height), text="entropy:N")


def entropy_profile(results) -> alt.Chart:
    """Return a chart of the entropy of each layer's lens distribution, nats; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["entropy"], y="entropy, nats", unit="nats",
        title="Entropy of each layer's prediction", toggles={"lens": "lens"},
    )  # fmt: skip


def confidence_profile(results) -> alt.Chart:
    """Return a chart of the probability of each layer's own top-1 token; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["top1_probability"], y="probability",
        title="Probability of each layer's top-1 token", toggles={"lens": "lens"},
    )  # fmt: skip


def adjacent_profile(results) -> alt.Chart:
    """Return a chart of KL(previous layer ‖ layer), nats, on a square-root scale; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["kl_adjacent"], y="nats", unit="nats",
        title="KL(previous layer ‖ layer) (√ scale)", toggles={"lens": "lens"}, **root_scale(),
    )  # fmt: skip


def cosine_to_final(results) -> alt.Chart:
    """Return a chart of the cosine of each layer's residual stream with that after the last layer."""
    return layer_profile(
        results, lambda dataset: dataset["cosine_to_final"], y="cosine", title="Cosine to the final residual"
    )


def delta_cosine(results, component="block") -> alt.Chart:
    """Return a chart of the cosine between each layer's update and the residual stream before it."""
    return layer_profile(
        results, lambda dataset: dataset["delta_cosine"].sel(component=component, drop=True),
        y="cosine(update, residual)", title=f"δ-cosine of the {COMPONENTS[component]} update",
    )  # fmt: skip


def delta_cosine_shift(results, component="block") -> alt.Chart:
    """Return a chart of IT − PT of the δ-cosine by layer; below zero, IT opposes the residual stream more."""
    return shift_profile(
        results, lambda dataset: dataset["delta_cosine"].sel(component=component, drop=True),
        y="IT − PT", title=f"δ-cosine of the {COMPONENTS[component]} update, IT − PT",
    )  # fmt: skip


def shares(results, rule=None) -> pd.DataFrame:
    """Return a table of the shares of steps that commit at and up to each layer, and their mean layer, by lens and rule."""

    def measure(dataset):
        count = dataset["commitment_count"]
        count = count.sel(rule=[rule]) if rule else count
        share = count / count.sum("layer")
        return xr.Dataset(
            {"share": share, "sum": share.cumsum("layer"), "centre": (share * count["layer"]).sum("layer")}
        )

    rows = tidy(results, measure)
    return rows.assign(rule=rows["rule"].map(rule_title))


def step_tips(share: str) -> list:
    """Return the tooltips for a share of steps at a layer."""
    return [
        alt.Tooltip("panel:N", title="model"),
        "variant:N",
        "layer:Q",
        alt.Tooltip(f"{share}:Q", format=".1%"),
    ]


def commitment_histograms(results, rule=None) -> alt.Chart:
    """Return a chart of the layers at which steps commit: histograms with means, pooled over steps.

    The reader chooses the lens, and the rule if `rule` is None.
    """
    colours, rows, lists = by_variant(), shares(results, rule), ("layer", "share")
    y = alt.Y("share:Q", stack=None, title="share of steps", axis=alt.Axis(format="%"))
    bars = alt.Chart().transform_calculate(left="datum.layer - 0.45", right="datum.layer + 0.45")
    tips = step_tips("share")
    bars = bars.mark_rect(opacity=0.45).encode(
        layers_axis("left"), y, x2="right:Q", y2=alt.datum(0), color=colours["color"], tooltip=tips
    )
    means = alt.Chart().mark_rule(strokeWidth=2).encode(x=alt.X("mean(centre):Q", title="layer"), **colours)
    title = f"Commitment: {rule_title(rule)}" if rule else "Layer of commitment"
    rows, toggles = packed(rows.drop(columns=["sum", "depth"]), lists), {"rule": "rule", "lens": "lens"}
    return panels(rows, title, bars, onset_rule(), means, toggles=toggles, lists=lists)


def commitment_cdf(results, rule=None) -> alt.Chart:
    """Return a chart of the share of steps that have committed by each depth, (layer + 1) / L, pooled over steps."""
    y = alt.Y("sum:Q", title="share committed", axis=alt.Axis(format="%"))
    x = alt.X("depth:Q", title="depth, (layer + 1) / L", scale=alt.Scale(domain=[0, 1], nice=False))
    marks = alt.Chart().mark_line(interpolate="step-after", strokeWidth=2).encode(x=x, y=y, **by_variant())
    dots = alt.Chart().mark_point(size=16, filled=True, opacity=1)
    dots = dots.encode(x=x, y=y, color=by_variant()["color"], tooltip=step_tips("sum"))
    title = f"Committed by each depth: {rule_title(rule)}" if rule else "Committed by each depth"
    rows, lists = shares(results, rule).drop(columns=["share", "centre", "onset"]), ("layer", "depth", "sum")
    toggles = {"rule": "rule", "lens": "lens"}
    return panels(packed(rows, lists), title, marks, dots, toggles=toggles, lists=lists)


def threshold_sensitivity(results, family="kl_stays") -> alt.Chart:
    """Return a chart of the mean commitment depth, layer / L, against the KL threshold τ of the rules `family`_τ, by lens."""

    def measure(dataset):
        rules = [rule for rule in dataset["rule"].values.tolist() if rule.startswith(f"{family}_")]
        depth = dataset["commitment"].sel(rule=rules) / dataset.sizes["layer"]
        thresholds = [float(rule.rsplit("_", 1)[1]) for rule in rules]
        return banded(depth.rename(rule="threshold").assign_coords(threshold=thresholds))

    x = alt.X(
        "threshold:Q",
        title="threshold τ, nats",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=KL_TICKS),
    )
    curve = bands(x, "commitment layer / L", fields=("variant", "threshold"))
    title = "Commitment depth against the KL threshold"
    return panels(tidy(results, measure), title, *curve, toggles={"lens": "lens"})


def of_lens(values: xr.DataArray, lens: str | None) -> xr.DataArray:
    """Return the values of one lens, or of all lenses if `lens` is None."""
    return values.sel(lens=lens, drop=True) if lens else values


def matched_curves(results, history="it", direction="final_layer") -> alt.Chart:
    """Return a chart of both models' KL curves on one model's tokens; the reader chooses the lens and its model."""

    def measure(dataset):
        return banded(dataset[f"kl_{direction}_matched"].sel(history=history, drop=True))

    rows = tidy(results, measure)
    rows["basis"] = rows["basis"].map({"own": "own", "other": "the other model's"})
    curve = bands(layers_axis(), f"{KL[direction]}, nats", "nats", **root_scale())
    title = f"{KL[direction]} of both models on {NAMES[history]}'s tokens (√ scale)"
    return panels(
        rows, title, onset_rule(), *curve, toggles={"lens": "lens", "basis": "read through the lens of"}
    )


def cosine_heat(results) -> alt.Chart:
    """Return a chart of the δ-cosine of the block by generation step and layer; the reader chooses PT or IT."""
    rows = tidy(results, lambda dataset: dataset.delta_cosine_by_step.rename("cosine").to_dataset())
    rows = rows[rows["token"] > 0].dropna(subset=["cosine"]).drop(columns=["depth", "onset"])
    rows = rows.sort_values("variant", ascending=True, kind="stable")
    x = alt.X("token:O", title="generated token", axis=alt.Axis(values=list(range(0, 512, 8))))
    y = alt.Y("layer:O", title="layer", sort="descending", axis=alt.Axis(labelOverlap=True))
    scale = alt.Scale(domain=[-1, 0, 1], range=DIVERGING, clamp=True)
    fill = alt.Color("cosine:Q", scale=scale, legend=alt.Legend(title="δ-cosine", gradientLength=120))
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "token:O",
        "layer:O",
        alt.Tooltip("cosine:Q", format=".3f"),
    ]
    cells, lists = alt.Chart().mark_rect().encode(x=x, y=y, color=fill, tooltip=tips), ("token", "cosine")
    title, toggles = "δ-cosine by layer and step", {"variant": "model"}
    return panels(packed(rows, lists), title, cells, toggles=toggles, lists=lists)
