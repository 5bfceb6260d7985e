"""The figures of narrowing (exp01): how many neurons and tokens an answer rests on, by layer.

Each takes results, panel title → dataset of one experiment, and returns a chart made with `charts`.
"""

import altair as alt
import xarray as xr

from nbhelpers import charts
from nbhelpers.charts import (
    IT,
    PT,
    by_variant,
    hint,
    layers_axis,
    onset_rule,
    panels,
    tidy,
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
