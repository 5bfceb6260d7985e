"""Dose–response figures on rows of which every number is known."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers.report import dose_charts
from tests.specs import rows as rows_of
from tests.specs import spec_of

DOSES = [-1.0, 0.0, 1.0, 2.0]


def pair(shift=0.0):
    """A pair whose score is the dose plus a prompt's own level, with five controls around 1."""
    prompt = np.linspace(-0.5, 0.5, 9)
    score = xr.DataArray(prompt[:, None] + np.array(DOSES) + shift, {"dose": DOSES}, ("prompt", "dose"))
    controls = xr.DataArray(np.arange(5.0)[:, None] + np.zeros(4), {"dose": DOSES}, ("control", "dose"))
    share = xr.DataArray([0.5, 0.0, 0.0, 0.21], {"dose": DOSES}, ("dose",))
    ends = xr.DataArray([0.1, 0.9], {"variant": ["pt", "it"]}, ("variant",))
    return xr.Dataset({"score": score, "controls": controls, "share": share, "ends": ends})


RESULTS = {"Pocket Ann": pair(), "Pocket Bob": pair(0.5)}


def rows():
    return dose_charts.parts(
        dose_charts.curve_rows(RESULTS, lambda d: d.score),
        dose_charts.random_rows(RESULTS, lambda d: d.controls),
        dose_charts.end_rows(RESULTS, lambda d: d.ends),
        dose_charts.broken_rows(RESULTS, lambda d: d.share, 0.2),
    )


def test_every_part_has_its_numbers():
    table = rows().set_index(["panel", "part"]).sort_index()
    curve = table.loc[("Pocket Bob", dose_charts.CURVE)]
    assert curve["dose"].tolist() == DOSES and curve["mean"].tolist() == pytest.approx([-0.5, 0.5, 1.5, 2.5])
    assert (curve["low"] < curve["mean"]).all() and (curve["high"] > curve["mean"]).all()
    band = table.loc[("Pocket Ann", dose_charts.RANDOM)]
    assert band["low"].tolist() == [0.0] * 4 and band["high"].tolist() == [4.0] * 4
    ends = table.loc[("Pocket Ann", dose_charts.END)]
    assert dict(zip(ends["variant"], ends["mean"])) == {"PT": 0.1, "IT": 0.9}


def test_only_doses_above_the_limit_are_shaded_half_way_to_their_neighbours():
    broken = dose_charts.broken_rows(RESULTS, lambda d: d.share, 0.2)
    assert broken[broken["panel"] == "Pocket Ann"][["low", "high"]].values.tolist() == [
        [-1.0, -0.5],
        [1.5, 2.0],
    ]
    assert dose_charts.broken_doses(pair().share, 0.2).tolist() == [True, False, False, True]
    assert not len(dose_charts.broken_rows(RESULTS, lambda d: d.share, 0.9))


def test_the_chart_draws_and_says_what_is_in_the_rows():
    chart = dose_charts.dose_response(rows(), y="share", title="T", description="score against the dose")
    spec = spec_of(chart)
    assert len(rows_of(chart)) == len(rows())
    said = spec["description"]
    assert "grey band" in said and "20 %" in said and "PT (blue, dashed)" in said and "marks 1" in said
    assert spec["facet"]["sort"] == list(RESULTS)


def test_a_figure_without_controls_does_not_speak_of_them():
    table = dose_charts.parts(dose_charts.curve_rows(RESULTS, lambda d: d.score))
    chart = dose_charts.dose_response(table, y="share", title="T", description="score against the dose")
    said = spec_of(chart)["description"]
    assert "grey band" not in said and "incoherent" not in said and "horizontal" not in said
    filters = str(spec_of(chart))
    assert "'random'" not in filters and "'incoherent'" not in filters


def test_a_choice_repeats_what_has_none():
    shade = dose_charts.broken_rows(RESULTS, lambda d: d.share, 0.2)
    twice = dose_charts.repeated(shade, "metric", ["a", "b"])
    assert len(twice) == 2 * len(shade) and set(twice["metric"]) == {"a", "b"}
