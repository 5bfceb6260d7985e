"""The figure that defines the sets of layers of which pages speak: windows, halves, thirds, the final fifth."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from nbhelpers.core import depths
from nbhelpers.report.theme import INK, STEPS

BAR = 14  # pixels


def layer_sets(n_layers: int) -> dict[str, range]:
    """Return {name: layers} of every set of layers that pages name, for a model of `n_layers` layers."""
    windows = depths.windows(n_layers)
    return {
        "early window": windows["early"],
        "mid window": windows["mid"],
        "late window": windows["late"],
        "corrective phase": depths.phases(n_layers)["corrective"],
        "late half": depths.late_half(n_layers),
        "late third": depths.thirds(n_layers)["late"],
        "final fifth": depths.final_fifth(n_layers),
    }


def windows_figure(sizes: Sequence[int] = (12, 32)) -> alt.Chart:
    """Return a chart of the sets of layers as bars over the layers, one panel for each number of layers in `sizes`."""
    rows = pd.DataFrame(
        [
            {"panel": f"{size} layers", "set": name, "left": layers[0] - 0.5, "right": layers[-1] + 0.5}
            | {"shown": f"{layers[0]}–{layers[-1]}", "first": layers[0], "last": layers[-1]}
            for size in sizes
            for name, layers in layer_sets(size).items()
        ]
    )
    names = list(layer_sets(sizes[0]))
    colours = [*STEPS, *[INK] * (len(names) - len(STEPS))]
    y = alt.Y("set:N", sort=names, title=None, axis=alt.Axis(ticks=False, domain=False))
    x = alt.X("left:Q", title="layer", scale=alt.Scale(nice=False), axis=alt.Axis(tickMinStep=1))
    colour = alt.Color("set:N", scale=alt.Scale(domain=names, range=colours), legend=None)
    tips = [alt.Tooltip(f"{name}:N", title=name) for name in ("set", "first", "last")]
    bar = alt.Chart().mark_bar(size=BAR).encode(x=x, x2="right:Q", y=y, color=colour, tooltip=tips)
    text = alt.Chart().mark_text(align="left", dx=5).encode(x=alt.value("width"), y=y, text="shown:N")
    facet = alt.Facet("panel:N", sort=[f"{size} layers" for size in sizes], title=None)
    chart = alt.layer(bar, text).properties(width=200, height=alt.Step(BAR + 8))
    several = " and ".join(map(str, sizes))
    return (
        chart.facet(facet=facet, data=rows, columns=len(sizes))
        .resolve_scale(x="independent")
        .properties(
            title="Sets of layers, by their definitions",
            description=f"Layers, counted from 0, of each window, phase, half, third and fifth, in models of {several} "
            "layers; the late window and the corrective phase are the same layers.",
        )
    )
