"""The figures, tables and verdict of exp09."""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import depths, params
from nbhelpers.report.charts import (
    IT,
    KL,
    NAMES,
    PT,
    banded,
    bands,
    by_variant,
    difference,
    dots,
    interval_row,
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
from nbhelpers.report.families import interval_table, paired
from nbhelpers.report.sentences import ONE, SEVERAL, compared, signs
from nbhelpers.report.text import counted, number, written

COMPONENTS = {"block": "whole block", "attention": "attention", "mlp": "MLP"}
KL_TICKS = [0.05, 0.1, 0.2, 0.5, 1.0]
DIVERGING = ["#b2182b", "#f7f7f7", "#2166ac"]


def kl_curves(results, direction="final_layer", lens=None) -> alt.Chart:
    """Return each layer's KL divergence from the model's own final distribution, its entropy written beside.

    `direction` is final_layer for KL(final ‖ layer) or layer_final for KL(layer ‖ final); nats, on a
    square-root scale. Where no lens is named the reader chooses one.
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
    """Return one variant's final entropy, at the top right of each panel, where the curves have come down."""
    only = alt.Chart().transform_filter(f"datum.variant === '{variant}' && datum.layer === 0")
    text = only.mark_text(align="right", baseline="top", fontSize=10, color=PT if variant == "PT" else IT)
    return text.encode(x=alt.value("width"), y=alt.value(height), text="entropy:N")


def entropy_profile(results) -> alt.Chart:
    """Return the entropy of each layer's lens distribution, nats; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["entropy"], y="entropy, nats", unit="nats",
        title="Entropy of each layer's prediction", toggles={"lens": "lens"},
    )  # fmt: skip


def confidence_profile(results) -> alt.Chart:
    """Return the probability of each layer's own first token; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["top1_probability"], y="probability",
        title="Probability of each layer's first token", toggles={"lens": "lens"},
    )  # fmt: skip


def adjacent_profile(results) -> alt.Chart:
    """Return KL(previous layer ‖ layer), nats, on a square-root scale; the reader chooses the lens."""
    return layer_profile(
        results, lambda dataset: dataset["kl_adjacent"], y="nats", unit="nats",
        title="KL(previous layer ‖ layer) (√ scale)", toggles={"lens": "lens"}, **root_scale(),
    )  # fmt: skip


def cosine_to_final(results) -> alt.Chart:
    """Return the cosine of the residual stream with that after the last layer."""
    return layer_profile(
        results, lambda dataset: dataset["cosine_to_final"], y="cosine", title="Cosine to the final residual"
    )


def delta_cosine(results, component="block") -> alt.Chart:
    """Return the cosine between each layer's update and the residual stream before it."""
    return layer_profile(
        results, lambda dataset: dataset["delta_cosine"].sel(component=component, drop=True),
        y="cosine(update, residual)", title=f"δ-cosine of the {COMPONENTS[component]} update",
    )  # fmt: skip


def delta_cosine_shift(results, component="block") -> alt.Chart:
    """Return the difference IT − PT of the δ-cosine by layer; below zero IT opposes the residual more."""
    return shift_profile(
        results, lambda dataset: dataset["delta_cosine"].sel(component=component, drop=True),
        y="IT − PT", title=f"δ-cosine of the {COMPONENTS[component]} update, IT − PT",
    )  # fmt: skip


def shares(results, rule=None) -> pd.DataFrame:
    """Return the shares of steps that commit at and up to each layer, and their mean layer, by lens and rule."""

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
    """Return the tooltips of a share of steps at a layer."""
    return [
        alt.Tooltip("panel:N", title="model"),
        "variant:N",
        "layer:Q",
        alt.Tooltip(f"{share}:Q", format=".1%"),
    ]


def commitment_histograms(results, rule=None) -> alt.Chart:
    """Return the layers at which steps commit, as histograms with means; pooled over steps.

    The reader chooses the lens, and the rule where none is named.
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
    """Return the share of steps that have committed by each depth, (layer + 1) / L; pooled over steps."""
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
    """Return the mean commitment depth, layer / L, against the KL threshold τ of the rules `family`_τ, by lens."""

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
    """Return the values of one lens, or of all, to choose from, where none is named."""
    return values.sel(lens=lens, drop=True) if lens else values


def matched_curves(results, history="it", direction="final_layer") -> alt.Chart:
    """Return both models' KL curves on the tokens that one of them wrote; the reader chooses the lens and whose it is."""

    def measure(dataset):
        return banded(dataset[f"kl_{direction}_matched"].sel(history=history, drop=True))

    rows = tidy(results, measure)
    rows["basis"] = rows["basis"].map({"own": "own", "other": "the other model's"})
    curve = bands(layers_axis(), f"{KL[direction]}, nats", "nats", **root_scale())
    title = f"{KL[direction]} of both models on {NAMES[history]}'s tokens (√ scale)"
    return panels(
        rows, title, onset_rule(), *curve, toggles={"lens": "lens", "basis": "read through the lens of"}
    )


def history_gap(results, lens="raw", direction="final_layer") -> alt.Chart:
    """Return the late-half gap IT − PT under each history, with intervals: free running, IT's tokens, PT's tokens."""
    found = []
    for title, d in results.items():
        half = slice(d.sizes["layer"] // 2, None)
        free = difference(d[f"kl_{direction}"].sel(lens=lens).isel(layer=half).mean("layer"))
        same = d[f"kl_{direction}_matched"].sel(lens=lens, basis="own").isel(layer=half).mean("layer")
        gaps = {"free running": free, "IT's tokens": difference(same.sel(history="it"))}
        gaps["PT's tokens"] = difference(same.sel(history="pt"))
        found += [interval_row(values, panel=title, history=name) for name, values in gaps.items()]
    return dots(
        pd.DataFrame(found), "history", x="IT − PT, nats", title=f"Convergence gap by history, {lens} lens"
    )


def gap_intervals(results, direction="final_layer") -> alt.Chart:
    """Return the convergence gap of every model with its interval, raw and tuned lens."""
    found = []
    for title, d in results.items():
        half = d[f"kl_{direction}"].isel(layer=slice(d.sizes["layer"] // 2, None)).mean("layer")
        found += [
            interval_row(difference(half.sel(lens=n)), panel=title, lens=str(n)) for n in half.lens.values
        ]
    return dots(pd.DataFrame(found), "lens", x="IT − PT, nats", title=f"Convergence gap, {KL[direction]}")


def confidence_gap(results, lens="raw", matched=False) -> alt.Chart:
    """Return the late-half gap IT − PT by confidence of the final prediction, with intervals over prompts."""
    found = []
    for title, d in results.items():
        name = "kl_by_confidence_matched" if matched else "kl_by_confidence"
        values = d[name].sel(lens=lens).isel(layer=slice(d.sizes["layer"] // 2, None)).mean("layer")
        values = difference(values.sel(history="it") if matched else values)
        found += [interval_row(values.sel(stratum=s), panel=title, stratum=s) for s in values.stratum.values]
    where = "on IT's tokens" if matched else "free running"
    return dots(
        pd.DataFrame(found), "stratum", x="IT − PT, nats", title=f"Gap by confidence, {where}, {lens} lens"
    )


def category_gap(results, lens="raw", direction="final_layer") -> alt.Chart:
    """Return the late-half gap IT − PT by category of prompt, with intervals over prompts."""
    found = []
    for title, d in results.items():
        gap = difference(
            d[f"kl_{direction}"].sel(lens=lens).isel(layer=slice(d.sizes["layer"] // 2, None)).mean("layer")
        )
        for category in dict.fromkeys(d.category.values.tolist()):
            inside = gap.isel(prompt=np.flatnonzero(d.category.values == category))
            found.append(interval_row(inside, panel=title, category=category))
    return dots(
        pd.DataFrame(found), "category", x="IT − PT, nats", title=f"Convergence gap by category, {lens} lens"
    )


def cosine_heat(results) -> alt.Chart:
    """Return the δ-cosine of the block by generation step and layer; the reader chooses PT or IT."""
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


RULES = {
    "top1_first": "first top-1",
    "top1_strict": "top-1 stays",
    "top1_stable3": "top-1 for 3 layers",
    "kl_first_0.1": "first KL < 0.1",
    "kl_stays_0.1": "KL < 0.1 stays",
    "majority_0.1": "90 % KL < 0.1",
}
SLICES = {"depth 0.5–0.7": (5, 7), "depth 0.7–0.9": (7, 9), "depth 0.9–1": (9, 10)}


def gap_by_prompt(dataset: xr.Dataset, direction="final_layer", lens="raw") -> xr.DataArray:
    """Return the convergence gap of each prompt, nats [prompt]: mean over the late half of IT − PT."""
    layers = list(depths.late_half(dataset.sizes["layer"]))
    return paired(dataset[f"kl_{direction}"].sel(lens=lens, drop=True).isel(layer=layers).mean("layer"))


def gap_table(results, direction="final_layer", lens="raw") -> pd.DataFrame:
    """Return the convergence gap, nats, by family and for the dense pool: mean, low, high."""
    return interval_table(results, lambda dataset: gap_by_prompt(dataset, direction, lens))


def delay_by_prompt(dataset: xr.Dataset, rule, lens="raw") -> xr.DataArray:
    """Return the commitment delay of each prompt, layers [prompt]: IT − PT under one rule."""
    return paired(dataset["commitment"].sel(lens=lens, rule=rule, drop=True))


def cosine_by_prompt(dataset: xr.Dataset, component="block", layers=None) -> xr.DataArray:
    """Return IT − PT of the mean δ-cosine over `layers`, [prompt]; the final fifth unless given."""
    layers = list(depths.final_fifth(dataset.sizes["layer"]) if layers is None else layers)
    return paired(
        dataset["delta_cosine"].sel(component=component, drop=True).isel(layer=layers).mean("layer")
    )


def late_layers_above(dataset: xr.Dataset, direction="final_layer", lens="raw") -> str:
    """Return in how many late-half layers, the last one excepted, IT's mean lies above PT's: "5 of 5"."""
    layers = list(depths.late_half(dataset.sizes["layer"]))[:-1]
    curve = dataset[f"kl_{direction}"].sel(lens=lens).isel(layer=layers).mean("prompt")
    return f"{int((curve.sel(variant='it') > curve.sel(variant='pt')).sum())} of {len(layers)}"


def final_entropy(dataset: xr.Dataset, lens="raw") -> dict[str, float]:
    """Return the mean entropy of the final distribution, nats, by variant."""
    mean = dataset["entropy"].sel(lens=lens).isel(layer=-1).mean("prompt")
    return {name: float(mean.sel(variant=name)) for name in params.VARIANTS}


def gap_summary(results, lens="raw") -> pd.DataFrame:
    """Return the convergence gaps by family as text, in both directions, with what they are read beside."""
    gaps = {name: gap_table(results, name, lens) for name in ("final_layer", "layer_final")}
    table = pd.DataFrame({"family": gaps["final_layer"]["family"]}).set_index("family")
    table["KL(final ‖ layer), nats"] = written(gaps["final_layer"])
    table["KL(layer ‖ final), nats"] = written(gaps["layer_final"])
    for title, dataset in results.items():
        tokens = float(dataset["convergence_gap_tokens"].sel(lens=lens, direction="final_layer"))
        table.loc[title, "first, by token"] = number(tokens)
        table.loc[title, "layers above"] = late_layers_above(dataset, lens=lens)
        table.loc[title, "final entropy PT → IT"] = "{pt:.2f} → {it:.2f}".format(
            **final_entropy(dataset, lens)
        )
    return table.fillna("").rename_axis(None)


def third_summary(results, direction="final_layer") -> pd.DataFrame:
    """Return the gap by thirds of the layers and over the final fifth as text, nats: a row a lens and family."""
    found = {}
    for lens in ("raw", "tuned"):
        parts = dict.fromkeys(("early", "middle", "late", "final fifth"))
        for name in parts:

            def measure(dataset, name=name, lens=lens):
                layers = depths.thirds(dataset.sizes["layer"]) | {
                    "final fifth": depths.final_fifth(dataset.sizes["layer"])
                }
                curve = dataset[f"kl_{direction}"].sel(lens=lens, drop=True).isel(layer=list(layers[name]))
                return paired(curve.mean("layer"))

            table = interval_table(results, measure)
            parts[name] = pd.Series(written(table), index=table["family"])
        found[lens] = pd.DataFrame(parts)
    return pd.concat(found).rename_axis([None, None])


def delay_summary(results, lens="raw", rules=RULES) -> pd.DataFrame:
    """Return the commitment delays IT − PT, layers, as text: a column for each rule (key → heading)."""
    columns = {}
    for rule, heading in rules.items():
        table = interval_table(results, lambda dataset, rule=rule: delay_by_prompt(dataset, rule, lens))
        columns[heading] = pd.Series(written(table), index=table["family"])
    return pd.DataFrame(columns).rename_axis(None)


def cosine_summary(results, component="block") -> pd.DataFrame:
    """Return the δ-cosine shifts IT − PT as text, by family, by depth and for the final fifth."""
    columns = {}
    for heading, (start, stop) in (SLICES | {"final fifth": (8, 10)}).items():

        def measure(dataset, start=start, stop=stop):
            n_layers = dataset.sizes["layer"]
            return cosine_by_prompt(dataset, component, range(start * n_layers // 10, stop * n_layers // 10))

        table = interval_table(results, measure)
        columns[heading] = pd.Series(written(table), index=table["family"])
    return pd.DataFrame(columns).rename_axis(None)


def matched_gap(dataset: xr.Dataset, history="it", lens="raw", basis="own") -> xr.DataArray:
    """Return the convergence gap of each prompt on one history that both models read, nats [prompt]."""
    curve = dataset["kl_final_layer_matched"].sel(history=history, lens=lens, basis=basis, drop=True)
    return paired(curve.isel(layer=list(depths.late_half(dataset.sizes["layer"]))).mean("layer"))


def verdict(results, rule="kl_stays_0.1") -> str:
    """Return what this run says to the question of exp09, as Markdown, from the results alone."""
    total, larger = len(results), ("larger in IT", "smaller in IT")
    gap = signs(results, gap_by_prompt)

    def sign(measure, above, below):
        return compared(signs(results, measure), total, above, below)

    def delay(lens):
        return sign(lambda d: delay_by_prompt(d, rule, lens), "later in IT", "earlier in IT")

    answer = "Yes" if len(gap["above"]) == total else "In part" if gap["above"] else "Not in this run"
    sentences = [
        f"**{answer}.** Over the late half of the layers, free running and through the raw lens, KL(final ‖ layer) is "
        + compared(gap, total, "larger in IT than in PT", "smaller in IT"),
        f"Through the tuned lens it is {sign(lambda d: gap_by_prompt(d, lens='tuned'), *larger)}",
        f"In the other direction, KL(layer ‖ final), it is {sign(lambda d: gap_by_prompt(d, 'layer_final'), *larger)}",
        f"With both models on IT's text, KL(final ‖ layer) is {sign(matched_gap, *larger)}",
        f"Commitment by the rule “{rule_title(rule)}” is, raw lens, {delay('raw')}",
        f"Tuned lens, it is {delay('tuned')}",
        "In the final fifth of the layers the block update's opposition to the residual stream is "
        + sign(lambda d: -cosine_by_prompt(d), "stronger in IT", "weaker in IT"),
    ]
    return (
        ". ".join(sentences) + ".\n\n"
        f"The final distribution itself has a lower mean entropy in IT in {counted(sharper(results), total)}; a gap "
        f"to one’s own end point has to be read beside that. {ONE if total == 1 else SEVERAL}"
    )


def sharper(results) -> list[str]:
    """Return the families in which IT's mean final entropy is below PT's."""
    entropy = {title: final_entropy(dataset) for title, dataset in results.items()}
    return [title for title, mean in entropy.items() if mean["it"] < mean["pt"]]
