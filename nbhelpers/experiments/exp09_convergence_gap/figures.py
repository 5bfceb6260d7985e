"""The figures of exp09: curves over layers, commitment, forest plots of IT − PT, δ-cosine."""

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.experiments.exp09_convergence_gap.quantities import (
    GAPS,
    LENSES,
    TEXTS,
    gap_name,
    quantities,
    threshold,
)
from nbhelpers.measures.steps import STRATA
from nbhelpers.report.captions import BANDS, BARS, ONSET, VARIANTS, ZERO, caption
from nbhelpers.report.charts import (
    KL,
    NAMES,
    banded,
    bands,
    by_variant,
    layer_profile,
    layers_axis,
    onset_rule,
    packed,
    panels,
    panels_of,
    root_scale,
    rule_title,
    shift_profile,
    tidy,
)  # fmt: skip
from nbhelpers.report.forest import forest, forest_rows

COMPONENTS = {"block": "whole block", "attention": "attention", "mlp": "MLP"}
KL_TICKS = [0.05, 0.1, 0.2, 0.5, 1.0]
# Purple, grey, green: neither PT's nor IT's hue, told apart with any colour vision.
DIVERGING = ["#762a83", "#f7f7f7", "#1b7837"]
GAP = "Mean over the later half of the layers of the distance to the own final prediction, IT − PT in nats"


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
    rows["entropy"] = [f"{of}: entropy {value:.2f}" for of, value in zip(rows["variant"], rows["entropy"])]
    notes = [entropy_note("PT", 4), entropy_note("IT", 17)]
    curve = bands(layers_axis(), f"{KL[direction]}, nats", "nats", **root_scale())
    name = f", {lens} lens" if lens else ""
    title = f"{KL[direction]} by layer{name} (√ scale)"
    what = f"{KL[direction]}, nats on a square-root scale, against the layer, for {VARIANTS}, each on its own text"
    end = "the numbers give the mean entropy of the final prediction, nats"
    return panels(
        rows, title, onset_rule(), *curve, *notes, toggles=None if lens else {"lens": "lens"},
        description=what, marks=(BANDS, ONSET, end),
    )  # fmt: skip


def entropy_note(variant, height) -> alt.Chart:
    """Return a text mark of one variant's final entropy, at the top right of each panel, where the curves are low."""
    only = alt.Chart().transform_filter(f"datum.variant === '{variant}' && datum.layer === 0")
    text = only.mark_text(align="right", baseline="top", fontSize=11)
    return text.encode(x=alt.value("width"), y=alt.value(height), text="entropy:N")


def entropy_profile(results) -> alt.Chart:
    """Return a chart of the entropy of each layer's lens distribution, nats; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["entropy"], y="entropy, nats", unit="nats",
        title="Entropy of each layer's prediction", toggles={"lens": "lens"},
        description="Entropy of each layer's prediction, nats",
    )  # fmt: skip


def confidence_profile(results) -> alt.Chart:
    """Return a chart of the probability of each layer's own top-1 token; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["top1_probability"], y="probability",
        title="Probability of each layer's top-1 token", toggles={"lens": "lens"},
        description="Probability that each layer gives to its own most likely token",
    )  # fmt: skip


def adjacent_profile(results) -> alt.Chart:
    """Return a chart of KL(previous layer ‖ layer), nats, on a square-root scale; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["kl_adjacent"], y="nats", unit="nats",
        title="KL(previous layer ‖ layer) (√ scale)", toggles={"lens": "lens"}, **root_scale(),
        description="KL of each layer's prediction from that of the layer before, nats on a square-root scale",
    )  # fmt: skip


def cosine_to_final(results) -> alt.Chart:
    """Return a chart of the cosine of each layer's residual stream with that after the last layer."""
    return layer_profile(
        results, lambda dataset: dataset["cosine_to_final"], y="cosine", title="Cosine to the final residual",
        description="Cosine of the residual stream after each layer with that after the last",
    )  # fmt: skip


def delta_cosine(results, component="block") -> alt.Chart:
    """Return a chart of the cosine between each layer's update and the residual stream before it."""
    return layer_profile(
        results, lambda dataset: dataset["delta_cosine"].sel(component=component, drop=True),
        y="cosine(update, residual)", title=f"δ-cosine of the {COMPONENTS[component]} update",
        description=f"Cosine of the update of the {COMPONENTS[component]} with the residual stream before it",
    )  # fmt: skip


def update_levels(results) -> alt.Chart:
    """Return a forest plot of the δ-cosine of the whole block in the last fifth of the layers, PT and IT."""
    names = {f"delta_cosine_final_fifth.{v}": {"variant": shown} for v, shown in NAMES.items()}
    rows = forest_rows(results, quantities, names)
    what = (
        f"Mean cosine of the blocks' updates with the stream, in the last fifth of the layers, for {VARIANTS}"
    )
    return forest(
        rows, x="cosine(update, residual)", title="δ-cosine in the last fifth of the layers", by="variant",
        encodings=by_variant(), description=caption(what, rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


def delta_cosine_shift(results, component="block") -> alt.Chart:
    """Return a chart of IT − PT of the δ-cosine by layer; below zero, IT's cosine is the lower one."""
    return shift_profile(
        results, lambda dataset: dataset["delta_cosine"].sel(component=component, drop=True),
        y="IT − PT", title=f"δ-cosine of the {COMPONENTS[component]} update, IT − PT",
        description=f"Cosine of the update of the {COMPONENTS[component]} with the residual stream before it",
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
    titles = [alt.Tooltip("panel:N", title="model"), "variant:N", "layer:Q"]
    return [*titles, alt.Tooltip(f"{share}:Q", format=".1%")]


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
    return panels(
        rows, title, bars, onset_rule(), means, toggles=toggles, defaults=first_rule(results, rule), lists=lists,
        description=f"Share of steps that commit at each layer, for {VARIANTS}",
        marks=("vertical lines are the mean layers of PT (dashed) and IT (solid)", ONSET),
    )  # fmt: skip


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
    return panels(
        packed(rows, lists), title, marks, dots, toggles=toggles, defaults=first_rule(results, rule), lists=lists,
        description=f"Share of steps that have committed by each depth, (layer + 1) / L, for {VARIANTS}",
    )  # fmt: skip


def threshold_sensitivity(results, family="kl_stays") -> alt.Chart:
    """Return a chart of the mean commitment depth, layer / L, against the KL threshold τ of the rules `family`_τ, by lens."""

    def measure(dataset):
        rules = [rule for rule in dataset["rule"].values.tolist() if rule.startswith(f"{family}_")]
        depth = dataset["commitment"].sel(rule=rules) / dataset.sizes["layer"]
        thresholds = [float(rule.rsplit("_", 1)[1]) for rule in rules]
        return banded(depth.rename(rule="threshold").assign_coords(threshold=thresholds))

    scale, axis = alt.Scale(type="log", nice=False), alt.Axis(values=KL_TICKS)
    x = alt.X("threshold:Q", title="threshold τ, nats", scale=scale, axis=axis)
    curve = bands(x, "commitment layer / L", fields=("variant", "threshold"))
    title = "Commitment depth against the KL threshold"
    what = (
        f"Mean commitment layer as a share of the depth, against the threshold of KL in nats, for {VARIANTS}"
    )
    return panels(
        tidy(results, measure), title, *curve, toggles={"lens": "lens"}, description=what, marks=[BANDS]
    )


def first_rule(results, rule=None) -> dict[str, str]:
    """Return the rule that charts of several rules open on: KL stays below the run's own threshold; none if one is named."""
    tau = threshold(next(iter(panels_of(results).values())))
    return {} if rule else {"rule": rule_title(f"kl_stays_{tau}")}


def gap_intervals(results) -> alt.Chart:
    """Return a forest plot of the convergence gap by text and lens; the reader chooses the direction of KL."""
    names = {
        gap_name(text, direction, lens): {"text": shown, "lens": f"{lens} lens", "direction": KL[direction]}
        for direction in GAPS
        for text, shown in TEXTS.items()
        for lens in LENSES
    }
    rows = forest_rows(results, quantities, names)
    return forest(
        rows, x="IT − PT, nats", title="Convergence gap by text and lens", by="lens", column="text",
        toggles={"direction": "divergence"},
        description=caption(f"{GAP}, by text and lens", rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


def confidence_gap(results) -> alt.Chart:
    """Return a forest plot of the gap by confidence of the final prediction and text; the reader chooses the lens."""
    texts = {"free": TEXTS["own"], "it": TEXTS["it"]}
    names = {
        f"gap_by_confidence.{stratum}.{text}.{lens}": {"text": shown, "confidence": stratum, "lens": lens}
        for lens in LENSES
        for text, shown in texts.items()
        for stratum in STRATA
    }
    rows = forest_rows(results, quantities, names, pool=False)
    what = f"{GAP}, by text and by confidence (the probability of the final top-1 token)"
    return forest(
        rows, x="IT − PT, nats", title="Convergence gap by confidence", by="confidence", column="text",
        toggles={"lens": "lens"}, description=caption(what, rows, [BARS, ZERO], ["lens"], each="row"),
    )  # fmt: skip


def category_gap(results) -> alt.Chart:
    """Return a forest plot of the gap by category of prompt, each model on its own text; the reader chooses the lens."""
    categories = dict.fromkeys(str(c) for d in results.values() for c in d.category.values)
    names = {
        f"{GAPS['final_layer']}_by_category.{category}.{lens}": {
            "category": category.replace("_", " "),
            "lens": lens,
        }
        for lens in LENSES
        for category in categories
    }
    rows = forest_rows(results, quantities, names, pool=False)
    return forest(
        rows, x="IT − PT, nats", title="Convergence gap by category of prompt", column="category",
        toggles={"lens": "lens"},
        description=caption(f"{GAP}, by category of prompt", rows, [BARS, ZERO], ["lens"], each="row"),
    )  # fmt: skip


def delay_intervals(results) -> alt.Chart:
    """Return a forest plot of the commitment delay IT − PT, layers, through both lenses; the reader chooses the rule."""
    rules = [str(r) for r in next(iter(results.values()))["rule"].values if r != "cosine_0.95"]
    names = {
        f"commitment_delay.{lens}.{rule}": {"rule": rule_title(rule), "lens": f"{lens} lens"}
        for rule in rules
        for lens in LENSES
    }
    rows = forest_rows(results, quantities, names)
    return forest(
        rows, x="IT − PT, layers", title="Commitment delay", by="lens", toggles={"rule": "rule"},
        defaults=first_rule(results),
        description=caption(
            "Mean delay of IT's commitment, IT − PT in layers, by lens, for the chosen rule", rows, [BARS, ZERO],
            each="row",
        ),
    )  # fmt: skip


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
    title = f"{KL[direction]} of both models on {NAMES[history]}'s text (√ scale)"
    what = f"{KL[direction]}, nats on a square-root scale, against the layer, for {VARIANTS}"
    return panels(
        rows, title, onset_rule(), *curve, toggles={"lens": "lens", "basis": "read through the lens of"},
        description=f"{what}, both reading {NAMES[history]}'s text", marks=(BANDS, ONSET),
    )  # fmt: skip


def cosine_heat(results) -> alt.Chart:
    """Return a chart of the δ-cosine of the block by generation step and layer; the reader chooses PT or IT."""
    rows = tidy(results, lambda dataset: dataset.delta_cosine_by_step.rename("cosine").to_dataset())
    rows = rows[rows["token"] > 0].dropna(subset=["cosine"]).drop(columns=["depth", "onset"])
    rows = rows.sort_values("variant", ascending=True, kind="stable")
    x = alt.X("token:O", title="generated token", axis=alt.Axis(values=list(range(0, 512, 8))))
    y = alt.Y("layer:O", title="layer", sort="descending", axis=alt.Axis(labelOverlap=True))
    scale = alt.Scale(domain=[-1, 0, 1], range=DIVERGING, clamp=True)
    fill = alt.Color("cosine:Q", scale=scale, legend=alt.Legend(title="δ-cosine", gradientLength=120))
    tips = [alt.Tooltip("panel:N", title="model"), "token:O", "layer:O"]
    tips.append(alt.Tooltip("cosine:Q", format=".3f"))
    cells, lists = alt.Chart().mark_rect().encode(x=x, y=y, color=fill, tooltip=tips), ("token", "cosine")
    title, toggles = "δ-cosine by layer and step", {"variant": "model"}
    return panels(
        packed(rows, lists), title, cells, toggles=toggles, lists=lists,
        description="Mean cosine of each block's update with the residual stream before it, by layer and generated token, "
        "of the chosen model",
        marks=("green reinforces the stream, purple opposes it",),
    )  # fmt: skip
