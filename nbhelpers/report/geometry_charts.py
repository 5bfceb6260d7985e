"""Figures of geometry that several experiments share: weight change, intrinsic dimension, attention entropy.

Each function takes results, {panel title: dataset of one experiment}, and returns a chart made with `charts`.
"""

import altair as alt
import xarray as xr

from nbhelpers.report import charts
from nbhelpers.report.captions import ONSET, VARIANTS
from nbhelpers.report.charts import bands, by_category, layers_axis, of_mark, onset_rule, panels, tidy
from nbhelpers.report.unmeasured import needs

TEMPLATES = {"raw": "plain text", "chat": "chat turn", "native": "each its own"}
ESTIMATORS = {"two_nn": "TwoNN", "mle": "maximum likelihood", "two_nn_stored": "TwoNN, as first stored"}
GROUPS = {"attention": "attention", "mlp": "MLP", "norm": "norms", "router": "router"}


@needs("weights")
def weight_change(results, measure="relative") -> alt.Chart:
    """Return a chart of each layer's weight change by group of parameters: relative Frobenius norm, or RMS."""
    rows = tidy(results, lambda dataset: dataset[f"weight_{measure}"].rename("mean").to_dataset()).dropna(
        subset=["mean"]
    )
    rows = rows[rows["group"].isin(GROUPS)].assign(group=rows["group"].map(GROUPS))
    name = "‖ΔW‖ / ‖W‖" if measure == "relative" else "RMS of ΔW"
    tips = [alt.Tooltip("panel:N", title="model"), "group:N", "layer:Q", alt.Tooltip("mean:Q", format=".3g")]
    place = {"x": layers_axis(), "y": alt.Y("mean:Q", title=name)}
    marks = by_category("group", [shown for shown in GROUPS.values() if shown in set(rows["group"])])
    line = alt.Chart().mark_line(strokeWidth=2).encode(**place, **of_mark(marks, "shape"))
    point = alt.Chart().mark_point(size=36, filled=True, opacity=1).encode(**place, tooltip=tips, **marks)
    return panels(
        rows, f"Weight change by layer, {name}", onset_rule(), line, point, y="independent", marks=[ONSET],
        description=f"Change of the weights from PT to IT, {name}, against the layer, by group of parameters",
    )  # fmt: skip


def dimension_profile(results) -> alt.Chart:
    """Return a chart of the intrinsic dimension of the states at the last prompt position, by layer.

    The reader chooses estimator and template. Bands are the middle 90 % over subsamples of four fifths of the prompts,
    drawn without replacement.
    """

    def measure(dataset):
        names = {"dimension": "mean", "dimension_low": "low", "dimension_high": "high"}
        return dataset[list(names)].rename(names)

    rows = tidy(results, measure)
    rows["template"] = rows["template"].map(TEMPLATES)
    rows["estimator"] = rows["estimator"].map(ESTIMATORS)
    curve = bands(layers_axis(), "intrinsic dimension")
    toggles = {"estimator": "estimator", "template": "prompts read as"}
    return panels(
        rows, "Intrinsic dimension of the states at the prompt's end", *curve, toggles=toggles,
        description=f"Intrinsic dimension of the states at the prompt's end against the layer, for {VARIANTS}",
        marks=["bands are the middle 90 % over subsamples of four fifths of the prompts"],
    )  # fmt: skip


@needs("attention")
def attention_shift(results, measure="attention_normalised") -> alt.Chart:
    """Return a chart of IT − PT of the attention entropy at the last prompt position, mean over heads, by layer.

    The reader chooses the template. With `attention_normalised` the entropy is divided by its ceiling, the
    logarithm of the number of visible keys.
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
        description=f"Attention entropy at the last prompt position ({name}), mean over heads",
        toggles={"template": "prompts read as"},
    )  # fmt: skip
