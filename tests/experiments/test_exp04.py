"""The transition near a third of the depth: tests by hand and under the null, the dip by hand."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from nbhelpers import experiments
from nbhelpers.core import depths
from nbhelpers.experiments.exp04_phase_transition import measure as exp04_measure

OPTIONS = experiments.experiment_params("exp04", n_permutations=400)
L = 12


def inside(*layers, n=L):
    return np.isin(np.arange(n), layers)


@pytest.mark.parametrize(
    "n_layers, window", [(12, (3, 6)), (34, (9, 14)), (32, (9, 14)), (27, (7, 12)), (6, (1, 4)), (3, (0, 3))]
)
def test_the_window_lies_around_a_third(n_layers, window):
    assert depths.around_third(n_layers) == range(*window)


def test_contrast_by_hand():
    profile = np.array([1.0, 2, 3, 10, 20, 30])
    assert exp04_measure.contrast(profile, inside(3, 4, n=6)) == pytest.approx(15 - 9)


def test_permutation_p_equals_all_orders():
    """Of six layers two are inside: 15 choices, equally likely; so many of the contrasts are as large."""
    from itertools import combinations

    profile, chosen = np.array([1.0, 5, 2, 7, 7.5, 0]), inside(1, 3, n=6)
    all_of_them = [exp04_measure.contrast(profile, inside(*pair, n=6)) for pair in combinations(range(6), 2)]
    exact = np.mean(np.abs(all_of_them) >= abs(exp04_measure.contrast(profile, chosen)) - 1e-12)
    for either in (profile, -profile):  # two-sided
        assert exp04_measure.permutation_p(either, chosen, n=20_000, seed=1) == pytest.approx(exact, abs=0.01)


def test_permutation_p_is_uniform_under_the_null():
    rng = np.random.default_rng(2)
    p = [
        exp04_measure.permutation_p(profile, inside(3, 4, 5), n=200, seed=i)
        for i, profile in enumerate(rng.normal(size=(300, L)))
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) < 0.1


def test_a_window_that_stands_out_has_a_small_p_and_the_least_possible_is_not_zero():
    profile = np.where(inside(3, 4, 5), 9.0, np.arange(L) / 100)
    assert exp04_measure.permutation_p(profile, inside(3, 4, 5), n=999, seed=0) < 0.02
    assert exp04_measure.permutation_p(np.arange(200.0) ** 4, inside(199, n=200), n=99, seed=0) >= 1 / 100


@pytest.mark.parametrize("layers", [(), range(L)])
def test_no_window_has_no_p(layers):
    assert np.isnan(exp04_measure.permutation_p(np.arange(12.0), inside(*layers), n=100, seed=0))


def test_window_p_by_hand():
    """Five windows of two of six layers; this one contrasts most, the last as much as two others or more."""
    profile = np.array([0.0, 9, 6, 1, 0.5, 3.5])
    contrasts = [exp04_measure.contrast(profile, inside(i, i + 1, n=6)) for i in range(5)]
    assert contrasts == [1.75, 6.25, 0.25, -3.875, -2]
    assert exp04_measure.window_p(profile, inside(1, 2, n=6)) == 1 / 5
    assert exp04_measure.window_p(profile, inside(4, 5, n=6)) == 3 / 5


def test_neighbouring_layers_that_resemble_each_other_fool_only_the_permutation():
    profile = np.sin(np.arange(L) / 2)  # smooth: many windows contrast as much
    chosen = inside(2, 3, 4)
    shuffled = exp04_measure.permutation_p(profile, chosen, n=2000, seed=0)
    assert shuffled < 0.1 < exp04_measure.window_p(profile, chosen)


def test_a_profile_without_a_value_at_layer_zero_is_tested_on_the_others():
    profile = np.array([np.nan, 1, 2, 8, 9, 8, 1, 2, 1, 2, 1, 2])
    attends = inside(5, 11)
    found = exp04_measure.standing_out({"change": profile}, attends, OPTIONS).squeeze("profile")
    kept = profile[1:]
    assert float(found.statistic) == pytest.approx(kept[2:5].mean() - np.delete(kept, [2, 3, 4]).mean())
    assert float(found.p_window) == exp04_measure.window_p(kept, inside(2, 3, 4, n=11))
    assert float(found.global_statistic) == pytest.approx(
        kept[[4, 10]].mean() - np.delete(kept, [4, 10]).mean()
    )
    assert 0 < float(found.p_global) <= 1


def test_a_model_whose_layers_all_attend_to_everything_has_no_contrast_of_them():
    found = exp04_measure.standing_out({"x": np.arange(12.0)}, np.ones(12, bool), OPTIONS)
    assert np.isnan(found.global_statistic).all() and np.isnan(found.p_global).all()


def test_the_dip_by_hand():
    """Searched are the layers 2 to 6; the lowest of all, layer 9, is not."""
    values = np.array([[5, 5, 6, 4, 3, 8, 6, 5, 4, 1, 4, 4.0], [5, 2, 3, 4, 4, 5, 6, 5, 4, 1, 4, 4.0]])
    dimension = xr.DataArray(values, dims=("variant", "layer"), coords={"layer": np.arange(L)})
    found = exp04_measure.dip(dimension)
    assert found.lowest_layer.values.tolist() == [4, 2]
    np.testing.assert_allclose(found.sharpness, [abs(4 - 8) / 8, abs(2 - 4) / 4])
    assert found.lowest_layer.dtype.kind == "i" and "layer" not in found.sharpness.coords


@pytest.mark.parametrize("n_layers, first, last", [(12, 2, 6), (10, 2, 5), (34, 7, 17)])
def test_the_dip_is_searched_from_a_fifth_to_half_of_the_depth_both_ends_included(n_layers, first, last):
    for at, found in {first: first, last: last, first - 1: first + 1, last + 1: first + 1}.items():
        values = np.where(np.arange(n_layers) == first + 1, 5.0, 6.0)
        values[at] = 1.0
        dimension = xr.DataArray(values, dims="layer", coords={"layer": np.arange(n_layers)})
        assert int(exp04_measure.dip(dimension).lowest_layer) == found


def test_the_entropys_shift_is_tested_by_its_size():
    """Where IT attends more narrowly at a third of the depth and more widely elsewhere, sizes are alike."""
    two = {"variant": ["pt", "it"], "template": ["raw", "chat"]}
    of_variant = xr.DataArray([0.0, 1.0], {"variant": two["variant"]}, ("variant",))
    moved = xr.DataArray(np.where(np.arange(L) < 6, -1.0, 1.0), {"layer": np.arange(L)}, ("layer",))
    one = xr.ones_like(
        xr.DataArray(np.ones((2, 1)), {"template": two["template"]}, ("template", "cloud_prompt"))
    )
    found = xr.Dataset({
        "dimension": (one.isel(cloud_prompt=0) * of_variant * moved).expand_dims(estimator=["two_nn"]),
        "adjacent_cka": one.isel(cloud_prompt=0) * of_variant * moved,
        "attention_normalised": one * of_variant * moved, "adjacent_change": one * of_variant * moved,
    })  # fmt: skip
    profiles = exp04_measure.tested(found)
    assert profiles["|attention entropy, IT − PT|"].tolist() == [1.0] * L
    assert profiles["dimension, IT − PT"].tolist() == moved.values.tolist()


def test_the_least_p_value_of_a_permutation_counts_the_observed_order():
    """Twenty of two hundred layers stand out: no random order brings them together again."""
    profile = np.where(np.arange(200) < 20, 9.0, np.arange(200) / 1000)
    assert exp04_measure.permutation_p(profile, inside(*range(20), n=200), n=49, seed=0) == 1 / 50
