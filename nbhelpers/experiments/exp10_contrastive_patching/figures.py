"""The charts of exp10."""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers.experiments.exp10_contrastive_patching.quantities import quantities
from nbhelpers.report import charts
from nbhelpers.report.captions import BANDS, BARS, ONSET, ZERO, caption
from nbhelpers.report.charts import banded, bands, by_category, layers_axis, onset_rule, panels, tidy
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.quantities import kept

SPACES = {"residual": "residual stream", "mlp_output": "MLP output"}
READ = {
    "own": "KL to the own final, layers above",
    "same": "KL to the own final, same layer",
    "unedited": "KL to the unpatched final, layers above",
}
ADDED = {
    "conv": "probe's direction",
    "mean": "mean difference",
    "random": "random directions",
    "full": "whole difference",
}
SIZES = {"": "as much of it as IT − PT has", "_full": "with the length of IT − PT"}
OUTCOMES = {
    "gap": "KL of late layers to the own final, nats",
    "kl": "KL from unsteered IT, nats",
    "format": "form as asked",
    "choice": "right choice",
    "structure": "markup",
    "length": "length, tokens",
    "incoherent": "incoherent",
}


def patch_forest(results) -> alt.Chart:
    """Return a forest plot of what patches into PT change, by what is added and with which length; the reader chooses the
    read-out.
    """
    names = {
        f"patch.{part}{size}.{readout}": {"added": said, "length": SIZES[size], "readout": READ[readout]}
        for readout in READ
        for size in SIZES
        for part, said in ADDED.items()
        if not (size and part == "full")
    }
    rows = forest_rows(results, quantities, names, pool=False)
    encodings = by_category("added", list(ADDED.values()))
    toggles = {"readout": "read-out"}
    what = "Change of PT's distance, nats, by what of IT − PT is added at one layer and position, for the chosen read-out"
    return forest(
        rows, column="length", by="added", encodings=encodings, x="change of PT's KL, nats", toggles=toggles,
        title="What a patch into PT moves",
        description=caption(what, rows, [BARS, ZERO], toggles, each="row"),
    )  # fmt: skip


def prediction(results) -> alt.Chart:
    """Return a chart of R² over layers on unseen prompts: of probes, of the step of the reply alone, of a permuted gap."""
    series = {
        **{key: f"probe, {said}" for key, said in SPACES.items()},
        "position": "step of the reply alone", "permuted": "permuted gap, largest of all",
    }  # fmt: skip

    def measure(dataset):
        by_space = {space: dataset["r2"].sel(space=space, drop=True) for space in SPACES}
        null = dataset["r2_permuted"].sel(space="residual", drop=True).max("permutation")
        # The permuted gap is the tuned lens's.
        null = null.expand_dims(lens=dataset["lens"].values)
        parts = [*by_space.values(), dataset["r2_position"], null.transpose(*dataset["r2_position"].dims)]
        whole = xr.concat(parts, pd.Index(series.values(), name="from"), coords="minimal", compat="override")
        return whole.rename("r2").to_dataset()

    rows = tidy(results, measure)
    colours = by_category("from", series.values())
    y = alt.Y("r2:Q", title="R², unseen prompts")
    line = (
        alt.Chart().mark_line(strokeWidth=2).encode(x=layers_axis(), y=y, **charts.of_mark(colours, "shape"))
    )
    tips = [alt.Tooltip("panel:N", title="model"), "from:N", "layer:Q", alt.Tooltip("r2:Q", format=".3f")]
    dots = (
        alt.Chart()
        .mark_point(size=28, filled=True, opacity=1)
        .encode(x=layers_axis(), y=y, tooltip=tips, **colours)
    )
    return panels(
        rows, "How much of the gap a linear probe predicts", onset_rule(), line, dots, toggles={"lens": "lens"},
        defaults={"lens": "tuned"}, marks=(ONSET,),
        description="R² of the gap KL(layer ‖ own final), IT − PT, against the layer, by what it is predicted from",
    )  # fmt: skip


def cosines(results) -> alt.Chart:
    """Return a chart over layers of the cosine of the probe's direction with three others; the reader chooses the space."""
    others = {
        "mean": "mean IT − PT difference",
        "pattern": "what varies with the prediction",
        "gradient": "gradient of IT's KL(layer ‖ final)",
    }

    def measure(dataset):
        parts = [dataset[f"cosine_{name}"] for name in others]
        whole = xr.concat(parts, pd.Index(others.values(), name="other"), coords="minimal", compat="override")
        return whole.rename("cosine").to_dataset()

    rows = tidy(results, measure)
    rows["space"] = rows["space"].map(SPACES)
    colours = by_category("other", others.values())
    y = alt.Y("cosine:Q", title="cosine")
    line = (
        alt.Chart().mark_line(strokeWidth=2).encode(x=layers_axis(), y=y, **charts.of_mark(colours, "shape"))
    )
    tips = [
        alt.Tooltip("panel:N", title="model"),
        "other:N",
        "layer:Q",
        alt.Tooltip("cosine:Q", format=".3f"),
    ]
    dots = (
        alt.Chart()
        .mark_point(size=28, filled=True, opacity=1)
        .encode(x=layers_axis(), y=y, tooltip=tips, **colours)
    )
    return panels(
        rows, "What the probe's direction is, and is not", onset_rule(), line, dots, toggles={"space": "space"},
        marks=(ONSET,), description="Cosine of the probe's direction with three others, against the layer",
    )  # fmt: skip


def dose_values(dataset: xr.Dataset, outcome: str) -> xr.DataArray:
    """Return the change of an outcome from unsteered IT, (prompt, along, dose)."""
    found, doses = (
        kept(quantities, dataset),
        sorted({float(d) for d in dataset["dose"].values if np.isfinite(d)}),
    )
    prefix = {"gap": "steer_gap.{}", "kl": "steer_kl.{}"}.get(outcome, "shift.{}." + outcome)
    by_direction = [
        xr.concat(
            [found[prefix.format(f"{name}.{dose:g}")].values for dose in doses], pd.Index(doses, name="dose")
        )
        for name in ("conv", "mean")
    ]
    names = pd.Index([ADDED["conv"], ADDED["mean"]], name="along")
    return xr.concat(by_direction, names).transpose("prompt", ...)


def steering(results) -> alt.Chart:
    """Return the change from unsteered IT against the dose along both directions; the reader chooses the outcome."""

    def measure(dataset):
        parts = [banded(dose_values(dataset, outcome)) for outcome in OUTCOMES]
        return xr.concat(parts, pd.Index(OUTCOMES.values(), name="outcome"))

    rows = pd.concat(
        [measure(d).to_dataframe().reset_index().assign(panel=t) for t, d in results.items()],
        ignore_index=True,
    ).dropna(subset=["mean"])
    return steering_curves(rows.round({name: charts.DIGITS for name in ("mean", "low", "high")}))


def steering_curves(rows: pd.DataFrame) -> alt.Chart:
    """Return the chart of a table of changes from unsteered IT, by panel, `outcome`, `along` and `dose`."""
    x = alt.X("dose:Q", title="dose α", axis=alt.Axis(tickMinStep=1))
    colours = by_category("along", [ADDED["conv"], ADDED["mean"]])
    curve = bands(x, "change from unsteered IT", fields=("along", "dose"), colours=colours)
    return panels(
        rows, "Steering along either direction", *curve, toggles={"outcome": "outcome"}, marks=(BANDS,), y="shared",
        description="Change from unsteered IT against the dose α, 1 changing nothing, for the chosen outcome",
    )  # fmt: skip
