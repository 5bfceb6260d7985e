"""The text of a chart: what a reader of a code host reads, and what tests compare."""

import altair as alt
import numpy as np
import pandas as pd
import pytest

from nbhelpers.report import chart_text, charts
from tests.outputs import differences


@pytest.fixture
def rows():
    return pd.DataFrame(
        [
            {
                "panel": "Ann",
                "variant": variant,
                "layer": layer,
                "mean": layer + offset,
                "low": layer + offset - 0.5,
            }
            for variant, offset in (("PT", 0), ("IT", 10))
            for layer in range(12)
        ]
    )


def text_of(rows, **properties):
    chart = (
        alt.Chart(rows, title="Distance").mark_line().encode(x="layer:Q", y="mean:Q").properties(**properties)
    )
    return charts.spec_renderer(chart.to_dict())["text/plain"]


def test_a_text_holds_title_description_and_means_by_series(rows):
    lines = text_of(rows, description="Distance over layers.").splitlines()
    assert lines[0] == "<chart: Distance>" and lines[1] == "Distance over layers."
    assert lines[2] == "24 rows; layer 0 to 11; mean ± standard deviation:"
    shown = {line.split("  ")[0]: line.split() for line in lines[4:]}
    assert list(shown) == ["all", "PT", "IT", "first third", "middle third", "last third"]
    assert shown["PT"][1:] == ["5.5", "±", "3.5", "5.0", "±", "3.5"]
    assert shown["IT"][1:4] == ["15.5", "±", "3.5"]
    assert shown["first third"][2:5] == ["6.5", "±", "5.1"]


@pytest.mark.parametrize(
    "fault",
    [
        lambda t: t.assign(variant=t["variant"].map({"PT": "IT", "IT": "PT"})),
        lambda t: t.assign(mean=t["mean"] * 1.3),
        lambda t: t.assign(mean=t["mean"].to_numpy()[::-1]),
        lambda t: t.assign(layer=11 - t["layer"]),
        lambda t: t.assign(layer=t["layer"] + 1),
        lambda t: t.assign(low=t["low"] - 0.5),
        lambda t: t[t["layer"] < 11],
        lambda t: t.assign(mean=t["mean"].mean()),
    ],
)
def test_a_gross_error_in_the_data_changes_the_text(rows, fault):
    assert differences(text_of(rows), text_of(fault(rows)))


def test_a_title_of_two_lines_is_one_and_a_label_of_a_series_is_none(rows):
    labelled = rows.assign(label=rows["variant"] + " ends at 0.4")
    text = text_of(labelled, title=["Distance of both", "models"])
    assert text.startswith("<chart: Distance of both models>\n") and len(text.splitlines()) == 9
    assert sum(line.startswith(("PT", "IT")) for line in text.splitlines()) == 2


def test_rounding_does_not(rows):
    moved = rows.assign(mean=rows["mean"] * (1 + 1e-4), low=rows["low"] + 1e-4)
    assert not differences(text_of(rows), text_of(moved))


def test_packed_lists_count_as_rows(rows):
    whole = text_of(rows[["variant", "mean", "low"]])
    packed = charts.packed(rows[["variant", "mean", "low"]], ["mean", "low"])
    chart = (
        alt.Chart(packed, title="Distance").mark_line().encode(y="mean:Q").transform_flatten(["mean", "low"])
    )
    assert charts.spec_renderer(chart.to_dict())["text/plain"] == whole


def test_numbers_near_zero_have_the_decimals_of_their_column_and_gaps_a_dash():
    table = pd.DataFrame({"kind": ["a", "a", "b", "b"], "mean": [1.0, -1.0 + 1e-9, 3.0, 5.0]})
    assert "0.00 ± 1.00" in chart_text.summary(table)
    assert chart_text.summary(table.assign(mean=[1.0, 2.0, np.nan, np.nan])).splitlines()[-1].split() == [
        "b",
        "–",
    ]


def test_a_notebook_shows_tables_whole():
    """IPython has a width of its own, 80 characters, at which pandas breaks lines."""
    from IPython.core.interactiveshell import InteractiveShell

    wide = pd.DataFrame({f"a long heading {i}": ["x" * 80] * 100 for i in range(12)})
    shell = InteractiveShell.instance()
    try:
        text = shell.display_formatter.format(wide)[0]["text/plain"]
    finally:
        InteractiveShell.clear_instance()
    assert not [mark for mark in ("...", "…", "\\") if mark in text]
    assert len(text.splitlines()) == 101
