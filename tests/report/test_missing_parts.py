"""A figure of a part that some models lack draws the others, and says whom it leaves out."""

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core.unmeasured import noted
from nbhelpers.report import unmeasured


@unmeasured.needs("neurons")
def figure(results):
    data = pd.DataFrame({"panel": list(results)})
    return alt.Chart(data).mark_point().properties(title="Neurons")


def drawn(chart):
    """What a chart's data and its title say."""
    spec = chart.to_dict()
    (rows,) = spec["datasets"].values()
    return [row.get("panel") for row in rows], spec["title"]


WHOLE, LACKING = xr.Dataset(), noted(xr.Dataset(), "neurons", "an MLP of another kind")


def test_a_result_without_the_part_is_named_and_not_drawn():
    panels, title = drawn(figure({"a": WHOLE, "b": LACKING}))
    assert (
        panels == ["a"]
        and title["text"] == "Neurons"
        and "b: an MLP of another kind" in " ".join(title["subtitle"])
    )


def test_all_are_drawn_where_none_lacks_it_and_none_where_all_do():
    assert drawn(figure({"a": WHOLE, "b": WHOLE}))[0] == ["a", "b"]
    panels, title = drawn(figure({"a": LACKING, "b": LACKING}))
    assert panels == [None] and "not measured: neurons" in str(title)
