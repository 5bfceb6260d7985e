"""The figures, tables and verdict of exp03."""

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import depths, params
from nbhelpers.models.token_classes import CLASSES
from nbhelpers.report import charts
from nbhelpers.report.charts import (
    NAMES,
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
from nbhelpers.report.families import cells, free, shift
from nbhelpers.report.sentences import grounds, sentence
from nbhelpers.report.text import percent

MINDS = {
    "late_mind_change": ("First correct at the onset or later", "share of tokens"),
    "late_flips": ("Changes of the first token in late layers", "changes a step"),
    "kl_adjacent_at_change": ("Divergence at the change of mind", "nats"),
}


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


def phase(dataset: xr.Dataset, name: str, lens: str = "raw") -> xr.DataArray:
    """Return IT − PT of exp03's adjacent KL averaged over a phase, free running, nats [prompt]."""
    values = free(dataset[["phase_kl_adjacent"]]).phase_kl_adjacent
    return shift(values.sel(phase=name, lens=lens, drop=True))


def phase_table(results) -> pd.DataFrame:
    """Return IT − PT of the adjacent KL by phase, nats, by family."""
    return cells(
        results, {name: lambda d, n=name: phase(d, n) for name in ("content", "format", "corrective")}
    )


def agreement_gap(dataset: xr.Dataset, which: str, history: str = "it") -> xr.DataArray:
    """Return the late-half KL gap IT − PT on one history, [prompt], where both end on the same token, or not."""
    curve = dataset.kl_by_agreement.sel(history=history, agreement_of=which, lens="raw", drop=True)
    return shift(curve.isel(layer=list(depths.late_half(dataset.sizes["layer"]))).mean("layer"))


def agreement_table(results) -> pd.DataFrame:
    """Return the gap on IT's text where both models end on the same token and where they do not, by family."""
    kinds = [str(kind) for kind in next(iter(results.values())).agreement_of.values]
    table = cells(results, {kind: lambda d, k=kind: agreement_gap(d, k) for kind in kinds})
    share = {t: percent(d.agreement.sel(variant="pt", history="it")) for t, d in results.items()}
    return table.assign(**{"share of steps with the same token": pd.Series(share)})


def gini_table(results) -> pd.DataFrame:
    """Return the mean Gini coefficient of neuron use in late layers and the overlap of the most used neurons."""
    rows = {}
    for title, d in results.items():
        late = d.gini.isel(layer=slice(depths.onset(d.sizes["layer"]), None)).mean("layer")
        overlap = d.neuron_overlap.mean("layer")
        rows[title] = {f"Gini, {v.upper()}": f"{float(late.sel(variant=v)):.3f}" for v in params.VARIANTS}
        rows[title] |= {f"top {int(k)} shared": f"{float(overlap.sel(k=k)):.2f}" for k in overlap.k.values}
    return pd.DataFrame(rows).T.rename_axis(None)


def late_minds(dataset: xr.Dataset, kind: str, lens: str = "raw") -> xr.DataArray:
    """Return IT − PT of the share of a class's tokens that are first ranked first late, free running, [prompt]."""
    values = free(dataset[["late_mind_change"]]).late_mind_change
    return shift(values.sel(token_class=kind, lens=lens, drop=True))


def delay(dataset: xr.Dataset, stratum: str, history="free", rule="kl_continuous") -> xr.DataArray:
    """Return IT − PT of the commitment layer within a stratum of confidence, layers [prompt]."""
    one = dataset[["commitment_by_confidence"]]
    one = free(one) if history == "free" else one.sel(history=history, drop=True)
    return shift(one.commitment_by_confidence.sel(stratum=stratum, rule=rule, lens="raw", drop=True))


def verdict(results) -> str:
    """Return what this run says of a corrective stage."""
    larger, later = ("larger in IT than in PT", "smaller in IT"), ("later in IT than in PT", "earlier in IT")
    corrective = sentence(results, lambda d: phase(d, "corrective"), *larger)
    content = sentence(results, lambda d: phase(d, "content"), *larger)
    structural = sentence(results, lambda d: late_minds(d, "structural"), *larger)
    contents = sentence(results, lambda d: late_minds(d, "content"), *larger)
    high, low = (sentence(results, lambda d, s=s: delay(d, s), *later) for s in ("high", "low"))
    matched = sentence(results, lambda d: delay(d, "high", "it"), *later)
    return (
        f"Free running, the divergence from layer to layer in the corrective phase is {corrective}; in the content phase it "
        f"is {content}. The share of structural tokens that come first only from the onset on is {structural}; that of "
        f"content tokens is {contents}. At high confidence commitment is {high}; at low confidence it is {low}. With both "
        f"models on IT's text, commitment at high confidence is {matched}. {grounds(results)}"
    )
