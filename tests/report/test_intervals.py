"""What tables and charts draw of values by prompt: means, intervals, differences, peaks, by hand."""

import math

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.report import charts, families, graft_charts, quantities
from nbhelpers.report.quantities import Quantity

VALUES = np.array([0.0, 1.0, 4.0, 9.0, 16.0, 25.0])


def by_prompt(*columns, dims=("prompt",), **coords):
    return xr.DataArray(np.array(columns, dtype=float).T, coords, dims)


def test_a_table_of_intervals_has_the_confidence_asked_for():
    wide = families.ends(xr.DataArray(VALUES, dims="prompt"), confidence=0.99)
    assert wide == pytest.approx([float(end) for end in stats.bca_mean(VALUES, confidence=0.99)])
    assert wide[1] < families.ends(xr.DataArray(VALUES, dims="prompt"))[1]


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_prompts_have_no_interval(n):
    few = xr.DataArray([7.0, *[np.nan] * 5], dims="prompt").isel(prompt=slice(1 - n, None))
    assert all(map(math.isnan, families.ends(few)))
    row = charts.interval_row(few, label="x")
    assert row["prompts"] == n and math.isnan(row["mean"]) and row["label"] == "x"


def test_two_prompts_have_an_interval():
    two = xr.DataArray([1.0, 2.0, np.nan], dims="prompt")
    assert families.ends(two) == [1.5, 1.0, 2.0]
    row = charts.interval_row(two)
    assert (row["mean"], row["low"], row["high"], row["prompts"]) == (1.5, 1.0, 2.0, 2)
    band = charts.banded(by_prompt([1.0, 2.0, np.nan], [3.0, np.nan, np.nan], dims=("prompt", "layer")))
    np.testing.assert_array_equal(
        [band["mean"], band["low"], band["high"]], [[1.5, np.nan], [1, np.nan], [2, np.nan]]
    )


def test_five_prompts_are_enough_and_four_are_not():
    results = {str(n): xr.DataArray(VALUES[:n], dims="prompt") for n in (4, 5)}
    assert list(families.usable(results, lambda values: values)) == ["5"]
    cells = families.cells(results, {"h": lambda values: values})["h"]
    assert cells["4"] == "–" and cells["5"].startswith("6.00 [")


def test_rows_of_intervals_have_their_own_labels():
    values = np.stack([VALUES, 10 * VALUES, 100 * VALUES, np.where(VALUES > 0, np.nan, 1)], axis=1).reshape(
        6, 2, 2
    )
    array = xr.DataArray(
        values, {"side": ["s", "n"], "window": ["early", "late"]}, ("prompt", "side", "window")
    )
    rows = charts.interval_rows(array.transpose("window", "prompt", "side")).set_index(["side", "window"])
    expected = stats.bca_mean(VALUES)
    for (side, window), scale in {("s", "early"): 1, ("s", "late"): 10, ("n", "early"): 100}.items():
        row = rows.loc[(side, window)]
        assert [row["mean"], row["low"], row["high"]] == pytest.approx(
            [scale * float(end) for end in expected]
        )
        assert row["prompts"] == 6
    assert math.isnan(rows.loc[("n", "late"), "mean"]) and rows.loc[("n", "late"), "prompts"] == 1


def test_differences_are_it_less_pt():
    both = xr.DataArray([[1.0], [5.0]], {"variant": ["pt", "it"]}, ("variant", "prompt"))
    assert charts.difference(both).item() == quantities.difference(both).item() == 4.0
    made = quantities.with_shift("x", both, "nats")
    assert made["x_shift"].values.item() == 4.0 and made["x.pt"].values.item() == 1.0


def test_a_pool_is_over_the_prompts_that_all_have():
    a = xr.DataArray([1.0, 2.0], {"prompt": ["p", "q"]}, ("prompt",))
    b = xr.DataArray([5.0, 9.0], {"prompt": ["q", "r"]}, ("prompt",))
    found = families.mean_of([a, b])
    assert found.prompt.values.tolist() == ["q"] and found.values.tolist() == [3.5]


def test_a_peak_is_the_largest_and_unknown_where_a_layer_is():
    assert quantities.peak(np.array([0.1, 0.9, 0.3])) == 1
    assert math.isnan(quantities.peak(np.array([0.1, np.nan, 0.3])))


def test_a_value_is_the_mean_over_measured_prompts():
    source = {"q": Quantity(xr.DataArray([1.0, np.nan, 4.0], dims="prompt"), "1", "level")}
    assert quantities.value(lambda _: source, xr.Dataset(), "q") == 2.5


def test_another_dataset_at_the_same_address_has_its_own_quantities():
    """Python gives a dead dataset's address to the next one."""

    def source(dataset):
        return {"q": Quantity(dataset.attrs["q"], "1", "level")}

    assert [quantities.value(source, xr.Dataset(attrs={"q": float(q)}), "q") for q in range(50)] == list(
        range(50)
    )


def test_weights_by_hand():
    """Of twelve layers the late ones begin at 7, the last third at 8."""
    rms = [1.0, 1, 1, 1, 1, 1, 1, 3, 3, 3, 9, 3]
    weights = xr.DataArray([rms, rms], {"group": ["mlp", "attention"]}, ("group", "layer"))
    found = quantities.weights(xr.Dataset({"weight_rms": weights}))
    assert found["weight_late_ratio.mlp"].values == pytest.approx((3 * 4 + 9) / 5)
    assert found["weight_last_third_ratio.mlp"].values == pytest.approx((18 / 4) / (10 / 8))
    assert found["weight_peak_layer.mlp"].values == 10 and found["weight_mean.mlp"].values == pytest.approx(
        28 / 12
    )
    assert found["weight_variation.mlp"].values == pytest.approx(np.std(rms) / np.mean(rms))


def clouds(shift):
    """Attention of two models under both templates, (…, cloud_prompt, layer); shift: IT − PT by template and layer."""
    values = np.zeros((2, 2, 3, 20))
    values[:, 1] = np.asarray(shift, dtype=float)[:, None]
    coords = {"template": ["raw", "chat"], "variant": ["pt", "it"]}
    array = xr.DataArray(values, coords, ("template", "variant", "cloud_prompt", "layer"))
    return xr.Dataset({"attention_entropy": array, "attention_normalised": array / 2})


def test_shifts_of_attention_at_a_third_of_the_depth_and_where_they_are_largest():
    """Of twenty layers a third is layer 7, with two on either side; the largest shift may be a fall."""
    raw = np.zeros(20)
    raw[[4, 5, 7, 9, 10]], raw[15] = [50.0, 1, 2, 4, 70], -200.0
    found = quantities.attention(clouds([raw, raw * 0]), "raw")
    assert found["attention_entropy_shift_third.raw"].values.mean() == pytest.approx(7 / 5)
    assert found["attention_entropy_shift_third_layer.raw"].values.mean() == 2.0
    assert found["attention_entropy_peak_layer.raw"].values == 15
    assert found["attention_share_shift.raw"].values.mean() == pytest.approx(raw.mean() / 2)


def test_native_is_plain_text_for_pt_and_a_chat_turn_for_it():
    d = clouds([np.full(20, 3.0), np.full(20, 8.0)])
    d["attention_entropy"] = d.attention_entropy + xr.DataArray(
        [1.0, 100.0], {"template": ["raw", "chat"]}, ("template",)
    )
    found = quantities.attention(d, "native")["attention_entropy_shift.native"].values
    assert found.mean() == pytest.approx((100 + 8) - (1 + 0))


def dense(**values):
    """Results of pocket pairs by family, each with one value at every prompt but for a trend."""
    results = {f: xr.Dataset(attrs={"model": f"{f}_pocket"}) for f in values}
    return results, lambda d: xr.DataArray(values[d.attrs["model"].split("_")[0]] + VALUES, dims="prompt")


def test_the_dense_pool_leaves_out_the_mixture_of_experts_and_is_of_several_families():
    results, measure = dense(llama=1.0, qwen=3.0, deepseek=100.0)
    table = families.interval_table(results, measure).set_index("family")["mean"]
    assert (
        table[families.POOL]
        == pytest.approx(2 + VALUES.mean())
        == families.pooled(results, measure).mean().item()
    )
    assert table["deepseek"] == pytest.approx(100 + VALUES.mean())
    for one in (dense(llama=1.0), dense(llama=1.0, deepseek=3.0)):
        assert families.POOL not in families.interval_table(*one)["family"].tolist()


def test_free_running_is_each_model_on_its_own_text():
    level = xr.DataArray(
        [[1.0, 2.0], [3.0, 4.0]], {"variant": ["pt", "it"], "history": ["pt", "it"]}, ("variant", "history")
    )
    found = families.free(xr.Dataset({"x": level}))
    assert found.x.sel(variant="pt") == 1 and found.x.sel(variant="it") == 4


def test_late_dimensions_are_over_the_final_fifth_and_the_last_layer():
    """Of ten layers 8 and 9 are the final fifth."""
    values = np.zeros((1, 2, 2, 10))
    values[0, :, 1, 8:] = [3.0, 7.0]
    coords = {"estimator": ["two_nn"], "template": ["raw", "chat"], "variant": ["pt", "it"]}
    found = quantities.clouds(xr.Dataset({"dimension": ((*coords, "layer"), values)}, coords))
    assert found["last_dimension_shift.two_nn.native"].values == 7
    assert found["late_dimension_shift.two_nn.raw"].values == 5


@pytest.mark.parametrize(
    ("early", "mid", "late", "lead", "margin"),
    [(1.0, 2.0, 5.0, 3.0, 3.0), (-1.0, -2.0, 5.0, 5.0, 6.0), (-9.0, -8.0, -3.0, -3.0, 5.0)],
)
def test_the_late_window_leads_over_the_larger_of_the_others_or_over_nothing(early, mid, late, lead, margin):
    changed = {
        name: xr.DataArray(value + VALUES - VALUES.mean(), dims="prompt")
        for name, value in zip(("early", "mid", "late"), (early, mid, late))
    }
    assert float(graft_charts.lead(changed).mean()) == pytest.approx(lead)
    assert float(graft_charts.margin(changed).mean()) == pytest.approx(margin)


def test_an_intervals_value_is_its_point_and_not_the_mean_of_its_ends():
    found = {"one": Quantity(stats.Interval(*map(np.float64, (1.0, 0.0, 5.0))), "1", "level")}
    assert quantities.value(lambda _: found, xr.Dataset(), "one") == 1.0
