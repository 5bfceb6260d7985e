"""The figures of the observation chapter beside the convergence gap: lenses, texts, revision, clouds, kinds, breadth.

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

FIVE = [
    "#2a9d5c",
    "#9467bd",
    "#b07d2b",
    "#d6568c",
    "#7a7a7a",
]  # none of PT's or IT's, readable on light and dark
MINDS = {
    "late_mind_change": ("First correct at the onset or later", "share of tokens"),
    "late_flips": ("Changes of the first token in late layers", "changes a step"),
    "kl_adjacent_at_change": ("Divergence at the change of mind", "nats"),
}
TEMPLATES = {"raw": "plain text", "chat": "chat turn"}


def by_category(field, values, title=None, palette=FIVE) -> dict:
    """Return the encodings that tell the values of a field apart by colour."""
    scale = alt.Scale(domain=list(values), range=palette[: len(values)])
    legend = alt.Legend(title=title, symbolType="stroke", symbolOpacity=1)
    return {"color": alt.Color(f"{field}:N", scale=scale, legend=legend)}


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


def neuron_gini(results) -> alt.Chart:
    """Return the Gini coefficient of neuron use by layer: 0 if all neurons are used alike, towards 1 if one does all."""
    rows = tidy(results, lambda dataset: dataset.gini.rename("mean").to_dataset())
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "variant:N",
        "layer:Q",
        alt.Tooltip("mean:Q", format=".3f"),
    ]
    y = alt.Y("mean:Q", title="Gini coefficient", scale=alt.Scale(zero=False))
    line = (
        alt.Chart()
        .mark_line(point=True, strokeWidth=2)
        .encode(x=layers_axis(), y=y, tooltip=tips, **by_variant())
    )
    return panels(rows, "Concentration of neuron use by layer", onset_rule(), line)


def weight_change(results, measure="relative") -> alt.Chart:
    """Return how far tuning moved each layer's parameters, by group: relative Frobenius norm, or RMS."""
    rows = tidy(results, lambda dataset: dataset[f"weight_{measure}"].rename("mean").to_dataset()).dropna(
        subset=["mean"]
    )
    groups = ["attention", "mlp", "norm", "router"]
    rows = rows[rows["group"].isin(groups)]
    name = "‖ΔW‖ / ‖W‖" if measure == "relative" else "RMS of ΔW"
    tips = [alt.Tooltip("panel:N", title="model"), "group:N", "layer:Q", alt.Tooltip("mean:Q", format=".3g")]
    line = alt.Chart().mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=2)
    line = line.encode(
        x=layers_axis(), y=alt.Y("mean:Q", title=name), tooltip=tips, **by_category("group", groups)
    )
    return panels(rows, f"Weight change by layer, {name}", onset_rule(), line, y="independent")


def dimension_profile(results) -> alt.Chart:
    """Return the intrinsic dimension of the cloud of last-prompt states, by layer; estimator and template to choose.

    Bands are the middle 90 % over subsamples of four fifths of the prompts without replacement.
    """

    def measure(dataset):
        names = {"dimension": "mean", "dimension_low": "low", "dimension_high": "high"}
        return dataset[list(names)].rename(names)

    rows = tidy(results, measure)
    rows["template"] = rows["template"].map(TEMPLATES)
    rows["estimator"] = rows["estimator"].map({"two_nn": "TwoNN", "mle": "maximum likelihood"})
    curve = bands(layers_axis(), "intrinsic dimension")
    toggles = {"estimator": "estimator", "template": "prompts read as"}
    return panels(rows, "Intrinsic dimension of the states at the prompt's end", *curve, toggles=toggles)


def spectrum_profile(results, measure="participation_ratio") -> alt.Chart:
    """Return the participation ratio, effective rank or first axis' share of each layer's cloud; template to choose."""
    rows = tidy(results, lambda dataset: dataset[measure].rename("mean").to_dataset())
    rows["template"] = rows["template"].map(TEMPLATES)
    title = {"participation_ratio": "Participation ratio", "effective_rank": "Effective rank"}.get(
        measure, "Variance along the first axis"
    )
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "variant:N",
        "layer:Q",
        alt.Tooltip("mean:Q", format=".2f"),
    ]
    line = alt.Chart().mark_line(point=alt.OverlayMarkDef(size=16), strokeWidth=2)
    line = line.encode(x=layers_axis(), y=alt.Y("mean:Q", title=title.lower()), tooltip=tips, **by_variant())
    return panels(rows, f"{title} of each layer's cloud", line, toggles={"template": "prompts read as"})


def attention_shift(results, measure="attention_normalised") -> alt.Chart:
    """Return IT − PT of the attention entropy at the prompt's end, mean over heads; the reader chooses the template.

    With `attention_normalised` the entropy is divided by its ceiling, the logarithm of the visible keys.
    """

    def values(dataset):
        entropy = dataset[measure].rename(cloud_prompt="prompt")
        both = entropy.assign_coords(template=[TEMPLATES[t] for t in entropy.template.values])
        native = xr.concat(
            [entropy.sel(variant=v, template=t, drop=True) for v, t in (("pt", "raw"), ("it", "chat"))],
            "variant",
        ).assign_coords(variant=["pt", "it"], template="native")
        return xr.concat([native.expand_dims("template"), both], "template")

    name = "H / log T" if measure == "attention_normalised" else "nats"
    return charts.shift_profile(
        results, values, y=f"IT − PT, {name}", title="Attention entropy at the prompt's end, IT − PT",
        toggles={"template": "prompts read as"},
    )  # fmt: skip


def change_between_layers(results) -> alt.Chart:
    """Return 1 − cosine of each prompt's state with that of the layer before; the reader chooses the template."""

    def values(dataset):
        change = dataset.adjacent_change.rename(cloud_prompt="prompt")
        return change.assign_coords(template=[TEMPLATES[t] for t in change.template.values])

    return charts.layer_profile(
        results, values, y="1 − cosine", title="Change of the state from layer to layer",
        toggles={"template": "prompts read as"},
    )  # fmt: skip


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


def log_axis() -> dict:
    """Return the options of a logarithmic y axis."""
    return {"scale": alt.Scale(type="log", nice=False), "axis": alt.Axis(format="~s", tickCount=4)}


def support_profile(results) -> alt.Chart:
    """Return the effective support, exp of the entropy, of each layer's lens distribution at the answer's position."""
    return charts.layer_profile(
        results, lambda dataset: dataset.support, y="tokens", unit="tokens",
        title="Effective support of each layer's prediction (log scale)", **log_axis(),
    )  # fmt: skip


def update_breadth(results) -> alt.Chart:
    """Return N90 of each layer's whole update at the answer's position; the reader chooses the component."""
    return charts.layer_profile(
        results, lambda dataset: dataset.update_n90.isel(component=[2, 1, 0]).astype(float), y="N90, tokens",
        unit="tokens", title="Breadth of each layer's update", toggles={"component": "update"},
        resolve="independent",
    )  # fmt: skip


def neuron_breadth(results) -> alt.Chart:
    """Return the mean ln N90 of the chosen neurons of each layer; the reader chooses the selection."""
    return charts.layer_profile(
        results, lambda dataset: enough(dataset.neuron_n90), y="mean ln N90",
        title="Breadth of the chosen neurons", toggles={"selection": "chosen by"}, resolve="independent",
    )  # fmt: skip


def enough(values: xr.DataArray, fewest: int = 2) -> xr.DataArray:
    """Return values with every entry that fewer than two prompts measure set to NaN throughout."""
    return values.where(values.notnull().sum("prompt") >= fewest)


def breadth_scatter(results) -> alt.Chart:
    """Return attribution against N90 for a sample of the neurons chosen by attribution, on logarithmic axes."""
    rows = tidy(results, lambda dataset: dataset[["sample_n90", "sample_attribution", "sample_layer"]])
    rows = rows[(rows["sample_n90"] > 0) & (rows["sample_attribution"] > 0)]
    x = alt.X("sample_n90:Q", title="N90, tokens", scale=alt.Scale(type="log", nice=False))
    y = alt.Y("sample_attribution:Q", title="attribution, logits", scale=alt.Scale(type="log", nice=False))
    tips = ["variant:N", "sample_layer:Q", "sample_n90:Q", alt.Tooltip("sample_attribution:Q", format=".3f")]
    dots = alt.Chart().mark_point(filled=True, size=18, opacity=0.5)
    legend = alt.Legend(title=None, symbolType="circle", symbolOpacity=1, symbolSize=60)
    colour = alt.Color("variant:N", scale=alt.Scale(domain=["PT", "IT"], range=[PT, IT]), legend=legend)
    dots = dots.encode(x=x, y=y, color=colour, tooltip=tips)
    return panels(rows, "Attribution against breadth, neurons chosen by attribution", dots)


def breadth_fits(results, statistic="pearson") -> alt.Chart:
    """Return the correlation of log attribution with log N90, with intervals over prompts, by selection, PT and IT."""

    def measure(dataset):
        one = dataset[["fit", "fit_low", "fit_high"]].sel(
            statistic=statistic, quantity="attribution", drop=True
        )
        return one.rename(fit="mean", fit_low="low", fit_high="high")

    rows = tidy(results, measure)
    y = alt.Y(
        "selection:N",
        title=None,
        sort=["attribution", "random", "impact"],
        axis=alt.Axis(grid=True, ticks=False),
    )
    offset, colour = alt.YOffset("variant:N", sort=["PT", "IT"]), by_variant()["color"]
    zero = alt.Chart().mark_rule(strokeDash=[4, 2]).encode(x=alt.datum(0))
    bar = alt.Chart().mark_rule(strokeWidth=2)
    bar = bar.encode(x=alt.X("low:Q", title="r"), x2="high:Q", y=y, yOffset=offset, color=colour)
    dot = alt.Chart().mark_point(size=40, filled=True, opacity=1)
    tips = hint("selection", "variant")
    dot = dot.encode(x=alt.X("mean:Q", title="r"), y=y, yOffset=offset, color=colour, tooltip=tips)
    return panels(rows, "Correlation of log attribution with log breadth", zero, bar, dot)
