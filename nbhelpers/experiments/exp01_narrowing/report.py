"""The figures, table and verdict of exp01: how many neurons and tokens an answer rests on, by layer."""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.experiments.exp01_narrowing.quantities import depth_trend
from nbhelpers.report import charts
from nbhelpers.report.charts import IT, PT, by_variant, hint, panels, tidy
from nbhelpers.report.sentences import compared, grounds, sentence
from nbhelpers.report.text import number


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


def fit_table(results) -> pd.DataFrame:
    """Return exp01's slope and correlation of log attribution on log N90, by family, selection and variant."""
    rows = {}
    for title, d in results.items():
        for selection in d.selection.values:
            one = d.sel(selection=selection, quantity="attribution")
            rows[title, str(selection)] = {
                f"{statistic}, {v.upper()}": _interval(one.sel(statistic=statistic, variant=v))
                for statistic in ("slope", "pearson")
                for v in params.VARIANTS
            }
    return pd.DataFrame(rows).T.rename_axis([None, "chosen by"])


def _interval(one: xr.Dataset) -> str:
    """Return a fitted value with its interval as text."""
    fit, low, high = (number(float(one[name])) for name in ("fit", "fit_low", "fit_high"))
    return f"{fit} [{low}, {high}]"


def fit_signs(results, selection: str, variant: str) -> dict[str, list[str]]:
    """Return the families whose correlation of log attribution with log N90 is above, below or open at zero, at 95 %."""
    groups = {"above": [], "below": [], "open": []}
    for title, d in results.items():
        one = d.sel(selection=selection, variant=variant, statistic="pearson", quantity="attribution")
        low, high = float(one.fit_low), float(one.fit_high)
        groups["above" if low > 0 else "below" if high < 0 else "open"].append(title)
    return groups


def support_fall(dataset: xr.Dataset, variant: str) -> xr.DataArray:
    """Return ln of the effective support of the middle layer over that of the last, [prompt]; above zero it narrows."""
    support = np.log(dataset.support.sel(variant=variant, drop=True))
    middle = support.isel(layer=support.sizes["layer"] // 2, drop=True)
    return (middle - support.isel(layer=-1, drop=True)).dropna("prompt")


def verdict(results) -> str:
    """Return what this run says of narrowing with depth and of attribution and breadth."""
    falls = {
        v: sentence(results, lambda d, v=v: support_fall(d, v), "narrower", "wider") for v in params.VARIANTS
    }
    trend = sentence(results, lambda d: depth_trend(d).dropna("prompt"), "broader", "narrower")
    fits = {
        s: compared(fit_signs(results, s, "it"), len(results), "above zero", "below it")
        for s in ("attribution", "random")
    }
    return (
        f"At the end of the stack the lens distribution at the answer is, compared with the middle, for PT {falls['pt']}; "
        f"for IT it is {falls['it']}. With depth, IT's MLP updates are {trend}. In IT the correlation of log attribution "
        f"with log breadth among neurons chosen by attribution is {fits['attribution']}; among random ones it is "
        f"{fits['random']} (95 % intervals over prompts). {grounds(results)}"
    )
