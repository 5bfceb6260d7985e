"""The figures, table and verdict of exp01: effective support of predictions, breadth of updates and neurons."""

import math
from functools import partial

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import params, stats
from nbhelpers.experiments.exp01_narrowing.quantities import BAR, STATISTICS, quantities
from nbhelpers.report import charts
from nbhelpers.report.captions import VARIANTS, ZERO, caption
from nbhelpers.report.charts import IT, PT, panels, tidy
from nbhelpers.report.directions import caveat, claim, fitting, most, sentence
from nbhelpers.report.forest import forest
from nbhelpers.report.quantities import kept
from nbhelpers.report.text import interval, level
from nbhelpers.report.unmeasured import missing, needs, sentences
from nbhelpers.report.verdicts import Verdict, span

UPDATES = {"mlp": "MLP", "attention": "attention", "block": "whole block"}
SELECTIONS = {"attribution": "by attribution", "random": "at random", "impact": "by impact"}


def log_axis() -> dict:
    """Return the options of a logarithmic y axis."""
    return {"scale": alt.Scale(type="log", nice=False), "axis": alt.Axis(format="~s", tickCount=4)}


def support_profile(results) -> alt.Chart:
    """Return a chart of the effective support, exp H, of each layer's lens distribution at the answer's position."""
    return charts.layer_profile(
        results, lambda dataset: dataset.support, y="tokens", unit="tokens",
        description="Effective support of each layer's prediction at the answer, tokens, on a logarithmic scale",
        title="Effective support of each layer's prediction (log scale)", **log_axis(),
    )  # fmt: skip


def update_breadth(results) -> alt.Chart:
    """Return a chart of N90 of each layer's whole update at the answer's position; the reader chooses the component."""

    def values(dataset):
        one = dataset.update_n90.sel(component=list(UPDATES)).astype(float)
        return one.assign_coords(component=list(UPDATES.values()))

    return charts.layer_profile(
        results, values, y="N90, tokens", unit="tokens", title="Breadth of each layer's update",
        description="Breadth of the chosen part of each layer's update, N90 in tokens",
        toggles={"component": "update"}, resolve="independent",
    )  # fmt: skip


@needs("neurons")
def neuron_breadth(results) -> alt.Chart:
    """Return a chart of the mean ln N90 of the chosen neurons of each layer; the reader chooses the selection."""
    return charts.layer_profile(
        results, lambda dataset: enough(dataset.neuron_n90), y="mean ln N90",
        description="Breadth of the chosen neurons, mean of ln N90 with N90 in tokens",
        title="Breadth of the chosen neurons", toggles={"selection": "chosen by"}, resolve="independent",
    )  # fmt: skip


def enough(values: xr.DataArray, fewest: int = 2) -> xr.DataArray:
    """Return values, with NaN for all prompts in every entry that fewer than `fewest` prompts measure."""
    return values.where(values.notnull().sum("prompt") >= fewest)


@needs("neurons")
def breadth_scatter(results) -> alt.Chart:
    """Return a chart of attribution against N90 for a sample of the neurons chosen by attribution, logarithmic axes."""
    rows = tidy(results, lambda dataset: dataset[["sample_n90", "sample_attribution", "sample_layer"]])
    rows = rows[(rows["sample_n90"] > 0) & (rows["sample_attribution"] > 0)]
    x = alt.X("sample_n90:Q", title="N90, tokens", scale=alt.Scale(type="log", nice=False))
    y = alt.Y("sample_attribution:Q", title="attribution, logits", scale=alt.Scale(type="log", nice=False))
    tips = ["variant:N", "sample_layer:Q", "sample_n90:Q", alt.Tooltip("sample_attribution:Q", format=".3f")]
    dots = alt.Chart().mark_point(filled=True, size=18, opacity=0.5)
    marks = charts.by_category("variant", ["PT", "IT"], colours=[PT, IT])
    return panels(
        rows, "Attribution against breadth, neurons chosen by attribution", dots.encode(x=x, y=y, tooltip=tips, **marks),
        description="Attribution in logits against N90 in tokens of single neurons, both on logarithmic scales, for PT (blue "
        "circles) and IT (orange diamonds)",
    )  # fmt: skip


@needs("neurons")
def breadth_fits(results, statistic="pearson") -> alt.Chart:
    """Return a chart of the correlation of log attribution with log N90, with intervals, by selection, PT and IT."""
    rows = pd.DataFrame(
        [
            {"panel": title, "selection": shown, "variant": charts.NAMES[v]}
            | dict(zip(("mean", "low", "high"), fit_of(dataset, statistic, selection, v)))
            for title, dataset in results.items()
            for selection, shown in SELECTIONS.items()
            for v in params.VARIANTS
        ]
    )
    what = f"Correlation of log attribution with log breadth, by how the neurons were chosen, for {VARIANTS}"
    return forest(
        rows, column="selection", by="variant", encodings=charts.by_variant(), x="Pearson's r",
        title="Correlation of log attribution with log breadth",
        description=caption(what, rows, ["bars are 95 % intervals over prompts", ZERO], each="row"),
    )  # fmt: skip


def fit_of(dataset: xr.Dataset, statistic: str, selection: str, variant: str) -> stats.Interval:
    """Return the slope or Pearson's r of log attribution on log N90, with its interval."""
    return kept(quantities, dataset)[f"attribution_{statistic}.{selection}.{variant}"].values


def fit_table(results) -> pd.DataFrame:
    """Return a table of slope and correlation of log attribution on log N90, by pair, selection and variant."""
    rows = {}
    for title, d in results.items():
        for selection in map(str, d.selection.values):
            rows[(title, selection) if len(results) > 1 else selection] = {
                f"{NAMES[statistic]}, {v.upper()}": interval(fit_of(d, statistic, selection, v))
                for statistic in STATISTICS
                for v in params.VARIANTS
            }
    table = pd.DataFrame(rows).T
    table.columns.name = f"{level(results)} intervals over prompts"
    return table.rename_axis(index=[None, "chosen by"] if len(results) > 1 else "chosen by")


NAMES = {"slope": "slope", "pearson": "r"}
CHOSEN = "attribution_pearson.attribution.it"
BREADTH = "attribution_over_bar.attribution.it"
MATRIX = {
    "prediction narrows, PT": "support_fall.pt",
    "prediction narrows, IT": "support_fall.it",
    "MLP updates broaden, PT": "update_breadth_trend.pt",
    "MLP updates broaden, IT": "update_breadth_trend.it",
    f"r − {BAR:g}, most attributed, IT": BREADTH,
    f"r − {BAR:g}, random, IT": "attribution_over_bar.random.it",
}


def verdict(results) -> Verdict:
    """Return the verdict: whether predictions and updates narrow with depth, and whether breadth earns attribution."""
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict with more or less detail on the pairs that differ."""
    support = claim(
        results, quantities, "support_fall.it",
        "IT's final prediction spans {size} times {word} tokens than its middle layer's",
        "Whether IT's final prediction spans fewer tokens than its middle layer's is undecided",
        ("fewer", "more"), shown=lambda fall: f"{math.exp(fall):.2g}", detail=detail,
    )  # fmt: skip
    spread = claim(
        results, quantities, "update_breadth_trend.it", "Its MLP updates reach {word} with depth",
        "Whether its MLP updates reach more with depth is undecided", ("more", "fewer"), again=True, detail=detail,
    )  # fmt: skip
    without, lacking = missing(results, "neurons"), sentences(results, "neurons")
    measured = {title: dataset for title, dataset in results.items() if title not in without}
    pays = sentence(breadth(measured, detail)) if measured else ""
    return Verdict(
        answer(results, measured), sentence(support), sentence(spread), caveat(pays, lacking, detail)
    )


def answer(results, measured) -> str:
    """Return the answer: whether predictions and updates narrow, and, if neurons were measured, whether breadth pays."""
    said = [
        most(results, quantities, "support_fall.it", "Predictions narrow", "Predictions widen", "Predictions may narrow"),
        most(results, quantities, "update_breadth_trend.it", "updates broaden", "updates narrow", "updates may not"),
    ]  # fmt: skip
    if measured:
        small = "gain little" if most(measured, quantities, CHOSEN, "yes", "", "") else "gain nothing"
        said.append(f"broad neurons {most(measured, quantities, BREADTH, 'gain', small, 'may gain')}")
    return ", ".join(said)


def breadth(measured, detail: int) -> str:
    """Return the clause with r of attribution and breadth among the most attributed neurons, beside the study's bar."""
    r = span(measured, quantities, CHOSEN)
    found = f"Breadth and attribution correlate at {r} (most attributed neurons)"
    return claim(
        measured, quantities, BREADTH, f"{found}, {{word}} the study's bar ({BAR:g})",
        f"{found}; passing the study's bar ({BAR:g}) is undecided", ("above", "below"), again=True, detail=detail,
    )  # fmt: skip
