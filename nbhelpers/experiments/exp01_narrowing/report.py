"""The figures, table and verdict of exp01: effective support of predictions, breadth of updates and neurons."""

from functools import partial

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import params, stats
from nbhelpers.experiments.exp01_narrowing.quantities import STATISTICS, quantities
from nbhelpers.report import charts
from nbhelpers.report.captions import VARIANTS, ZERO, caption
from nbhelpers.report.charts import IT, PT, panels, tidy
from nbhelpers.report.forest import forest
from nbhelpers.report.quantities import kept, named
from nbhelpers.report.sentences import by_interval, compared, grounds, sentence
from nbhelpers.report.text import interval, level
from nbhelpers.report.unmeasured import missing, needs, sentences

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
    """Return a table of slope and correlation of log attribution on log N90, by family, selection and variant."""
    rows = {}
    for title, d in results.items():
        for selection in map(str, d.selection.values):
            rows[title, selection] = {
                f"{statistic}, {v.upper()}": interval(fit_of(d, statistic, selection, v))
                for statistic in STATISTICS
                for v in params.VARIANTS
            }
    return pd.DataFrame(rows).T.rename_axis([None, "chosen by"])


def fit_signs(results, selection: str) -> str:
    """Return a clause, to follow "is", on the sign of IT's correlation of log attribution with log N90."""
    without = missing(results, "neurons")
    measured = {title: dataset for title, dataset in results.items() if title not in without}
    if not measured:
        return "not measured"
    found = by_interval(measured, lambda d: fit_of(d, "pearson", selection, "it"))
    return compared(found, len(measured), "above zero", "below it")


def verdict(results) -> str:
    """Return the verdict on narrowing with depth and on attribution and breadth."""
    of = partial(named, quantities)
    falls = {v: sentence(results, of(f"support_fall.{v}"), "narrower", "wider") for v in params.VARIANTS}
    trend = sentence(results, of("update_breadth_trend.it"), "broader", "narrower")
    fits = {s: fit_signs(results, s) for s in ("attribution", "random")}
    return (
        f"At the end of the stack the lens distribution at the answer is, compared with the middle, for PT {falls['pt']}; "
        f"for IT it is {falls['it']}. With depth, IT's MLP updates are {trend}. In IT the correlation of log attribution "
        f"with log breadth among neurons chosen by attribution is {fits['attribution']}; among random ones it is "
        f"{fits['random']} ({level(results)} intervals over prompts). {grounds(results)}{sentences(results, 'neurons')}"
    )
