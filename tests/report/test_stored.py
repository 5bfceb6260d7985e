"""Stored means: drawn as they are, without an interval; values by prompt are as ever."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core.variables import declared
from nbhelpers.report import charts, published, stored

MEANS = xr.DataArray([[1.0, np.nan]], {"prompt": [stored.STORED], "layer": [0, 1]}, ("prompt", "layer"))
VARIABLES = declared(
    {
        ("variant", "prompt"): {"a": ("nats", "a")},
        ("variant", "layer", "prompt"): {"b": ("1", "b")},
        ("rule",): {"c": ("1", "c")},
    }
)


def test_a_stored_mean_is_its_own_mean_and_has_no_interval():
    found = charts.banded(MEANS)
    assert found["mean"].values.tolist()[0] == 1.0 and np.isnan(found["mean"][1])
    assert np.isnan([found["low"], found["high"]]).all()
    (row,) = charts.interval_rows(MEANS.isel(layer=[0])).to_dict("records")
    assert row["mean"] == 1.0 and np.isnan([row["low"], row["high"], row["prompts"]]).all()
    assert charts.interval_row(MEANS.isel(layer=0, drop=True))["mean"] == 1.0


def test_a_single_measured_prompt_still_has_no_mean():
    one = MEANS.assign_coords(prompt=["p1"])
    assert not stored.is_stored(one) and np.isnan(charts.banded(one)["mean"]).all()


def test_differences_of_stored_means_are_stored_means():
    assert stored.is_stored(MEANS - MEANS) and stored.is_stored(MEANS.mean("layer"))


def rows():
    """Return a table of one model with both variants, PT after IT."""
    made = [
        published.point("qwen3_4b", "a", value, variant=variant)
        for variant, value in (("it", 2.0), ("pt", 1.0))
    ]
    made += [published.point("qwen3_4b", "b", 5.0, variant="pt", layer=35, low=4, high=6, n=3, over="steps")]
    return published.table(made)


def test_rows_become_variables_with_declared_dimensions():
    data = published.dataset(rows(), "qwen3_4b", VARIABLES)
    assert data.a.dims == ("variant", "prompt") and data.variant.values.tolist() == ["pt", "it"]
    assert data.a.values.ravel().tolist() == [1.0, 2.0] and data.sizes["layer"] == 36
    assert [data[f"b{end}"].sel(variant="pt", layer=35).item() for end in ("_low", "_high", "_n")] == [
        4,
        6,
        3,
    ]
    assert np.isnan(data.b.sel(variant="it")).all() and data.b.attrs == {"units": "1", "long_name": "b"}


def test_a_value_that_stands_twice_or_has_no_place_is_refused():
    twice = published.table([published.point("qwen3_4b", "a", 1.0, variant="pt")] * 2)
    with pytest.raises(published.FormatError, match="stands twice"):
        published.dataset(twice, "qwen3_4b", VARIABLES)
    with pytest.raises(published.FormatError, match="a lacks a label for variant"):
        published.dataset(published.table([published.point("qwen3_4b", "a", 1.0)]), "qwen3_4b", VARIABLES)
    with pytest.raises(published.FormatError, match="z is no variable"):
        published.dataset(published.table([published.point("qwen3_4b", "z", 1.0)]), "qwen3_4b", VARIABLES)


def test_what_is_not_stored_is_nan():
    data = published.dataset(rows(), "qwen3_4b", VARIABLES)
    whole = published.completed(data, VARIABLES, {"rule": ["r"]})
    assert np.isnan(whole.c.sel(rule="r")) and whole.a.equals(data.a)
