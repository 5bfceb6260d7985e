"""Per-prompt means, commitments, shifts and windows, by hand and against loops over made-up steps."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats as scipy_stats

from nbhelpers.core.depths import final_fifth
from nbhelpers.core.stats import StatisticsError
from nbhelpers.measures import graft_shifts
from nbhelpers.models.conditions import BASELINES, control_conditions, study_conditions
from tests.grafted import made_up

LENGTHS = (4, 2, 3)


def by_step(values, prompt, lengths=LENGTHS):
    """The steps of one prompt of an array whose last axis is steps."""
    start = sum(lengths[:prompt])
    return values[..., start : start + lengths[prompt]]


def test_means_of_each_prompts_steps():
    steps = made_up(LENGTHS)
    found = graft_shifts.by_prompt(steps)
    assert found.n_tokens.values.tolist() == list(LENGTHS) and found.prompt.values.tolist() == [0, 1, 2]
    for name in ("kl_layer_final", "js_teacher", "delta_cosine", "nll", "target_log_probability"):
        dims = [dim for dim in steps[name].dims if dim != "step"]
        values = steps[name].transpose(*dims, "step").values
        for prompt in range(3):
            expected = by_step(values, prompt).mean(-1)
            np.testing.assert_allclose(found[name].isel(prompt=prompt).transpose(*dims), expected, rtol=1e-6)
    rank = steps.target_rank.transpose(..., "step").values
    np.testing.assert_allclose(
        found.target_log_rank.isel(prompt=1).transpose(*steps.target_rank.dims[:-1]),
        np.log(by_step(rank, 1)).mean(-1),
        rtol=1e-6,
    )
    assert not {"top1", "target_rank", "free_top1", "token_id", "token_class"} & set(found)
    assert (
        found.attrs == steps.attrs and found.cosine.isnull().any() and not found.kl_layer_final.isnull().any()
    )


def test_prompts_of_one_batch_keep_their_own_indices():
    steps = made_up(LENGTHS)
    part = steps.isel(step=np.flatnonzero(steps.prompt_index != 1))
    found, whole = graft_shifts.by_prompt(part), graft_shifts.by_prompt(steps)
    assert found.prompt.values.tolist() == [0, 2]
    xr.testing.assert_allclose(found, whole.sel(prompt=[0, 2]))


def test_agreements_and_divergences_by_hand():
    steps = made_up((3, 2), conditions=study_conditions(10)[:5])
    steps["token_id"] = "step", [1, 2, 3, 4, 5]
    written = {"C": [1, 2, 3, 4, 5], "A'": [9, 2, 3, 4, 9], "B_early": [9, 2, 3, 4, 5],
               "B_mid": [9, 2, 7, 9, 9], "B_late": [1, 9, 3, 8, 9]}  # fmt: skip
    steps["free_top1"] = ("condition", "step"), [written[name] for name in steps.condition.values]
    found = graft_shifts.by_prompt(steps)
    first = found.first_divergence_teacher.to_series().unstack("prompt")
    assert {name: row.tolist() for name, row in first.iterrows()} == {
        "C": [3, 2], "A'": [0, 1], "B_early": [0, 2], "B_mid": [0, 0], "B_late": [1, 0]
    }  # fmt: skip
    first = found.first_divergence_baseline.to_series().unstack("prompt")
    assert {name: row.tolist() for name, row in first.iterrows()} == {
        "C": [3, 2], "A'": [3, 2], "B_early": [3, 1], "B_mid": [2, 0], "B_late": [0, 0]
    }  # fmt: skip
    agrees = found.agreement_teacher.sel(condition="B_late").values
    np.testing.assert_allclose(agrees, [2 / 3, 0.0])
    agrees = found.agreement_baseline.sel(condition="B_mid").values
    np.testing.assert_allclose(agrees, [2 / 3, 0.5])


def test_first_miss_by_hand():
    agrees = np.array([[1, 1, 0, 0, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]])
    found = graft_shifts.first_miss(agrees, np.array([0, 0, 0, 1, 1]), np.array([3, 2]))
    assert found.tolist() == [[2, 0], [3, 2], [0, 1]]


def one_step(kl, top1, layers):
    """Steps of one condition through one lens at one step."""
    condition = BASELINES[:1]
    steps = made_up((1,), n_layers=len(kl), conditions=condition).isel(lens=[0], basis=[0])
    dims = ("lens", "basis", "condition", "layer", "step")
    shape = (1, 1, 1, len(kl), 1)
    for name in ("kl_layer_final", "kl_final_layer"):
        steps[name] = dims, np.reshape(kl, shape)
    steps["top1"] = dims, np.reshape(top1, shape)
    return steps.assign_coords(layer=layers)


def test_commitments_by_hand():
    steps = one_step([2.0, 0.04, 0.3, 0.05, 0.0], [4, 7, 7, 9, 9], [0, 2, 4, 6, 8])
    steps["kl_final_layer"] = steps.kl_layer_final * 10
    found = graft_shifts.commitments(steps, (0.05, 0.1, 0.5)).squeeze()
    layers = dict(zip(found.rule.values.tolist(), found.values.tolist()))
    assert layers == {
        "kl_layer_final_0.05": 8, "kl_layer_final_0.1": 6, "kl_layer_final_0.5": 2,
        "kl_final_layer_0.05": 8, "kl_final_layer_0.1": 8, "kl_final_layer_0.5": 8, "top1": 6,
    }  # fmt: skip


def test_share_of_steps_that_rank_the_final_token_first():
    steps = one_step([1.0, 1.0, 1.0, 0.0], [9, 3, 9, 9], range(4))
    assert graft_shifts.by_prompt(steps).top1_final.squeeze().values.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_shifts_are_means_over_the_fifth_and_over_the_conditions_own_window():
    steps = made_up(LENGTHS)
    found = graft_shifts.by_prompt(steps)
    shift = graft_shifts.shifts(found)
    conditions = {c.name: c for c in study_conditions(10)}
    assert shift.condition.values.tolist() == [name for name, c in conditions.items() if c.layers]
    for name, condition in conditions.items():
        if not condition.layers:
            continue
        for variable in ("kl_layer_final", "delta_cosine"):
            here, base = (found[variable].sel(condition=each) for each in (name, condition.baseline))
            regions = {"final_fifth": final_fifth(10), "window": condition.layers}
            for region, layers in regions.items():
                expected = (here.sel(layer=list(layers)) - base.sel(layer=list(layers))).mean("layer")
                ours = shift[variable].sel(condition=name, region=region)
                np.testing.assert_allclose(ours.transpose(*expected.dims), expected, rtol=1e-5, atol=1e-6)
        ours = shift.nll.sel(condition=name)
        np.testing.assert_allclose(
            ours, found.nll.sel(condition=name) - found.nll.sel(condition=condition.baseline), rtol=1e-6
        )
    assert shift.host.sel(condition="D_mid") == "it" and shift.window.sel(condition="B2") == "late"
    assert "layer" not in shift.dims


def test_layers_that_were_not_read_leave_their_region_without_a_value():
    steps = made_up(LENGTHS).sel(layer=[4, 5, 6, 7, 8, 9])
    shift = graft_shifts.shifts(graft_shifts.by_prompt(steps)).kl_layer_final
    assert shift.sel(region="final_fifth").notnull().all()
    window = shift.sel(region="window")
    assert window.sel(condition=["B_early", "B_mid", "D_early"]).isnull().all()
    assert window.sel(condition=["B_late", "D_late", "B2"]).notnull().all()


def test_windows_by_side():
    conditions = dict.fromkeys(study_conditions(10) + control_conditions(10))
    shift = graft_shifts.shifts(graft_shifts.by_prompt(made_up(LENGTHS, conditions=list(conditions))))
    found = graft_shifts.by_window(shift)
    assert found.window.values.tolist() == ["early", "mid", "late"]
    for side, letter in (("sufficiency", "B"), ("necessity", "D")):
        for window in ("early", "mid", "late"):
            one, two = found.sel(side=side, window=window), shift.sel(condition=f"{letter}_{window}")
            np.testing.assert_array_equal(one.kl_layer_final.values, two.kl_layer_final.values)
    control = graft_shifts.by_window(shift, "permuted")
    assert control.window.values.tolist() == ["late"]
    np.testing.assert_array_equal(
        control.nll.sel(side="necessity", window="late"), shift.nll.sel(condition="D_late_permuted")
    )


def windowed(rows):
    return xr.DataArray(rows, {"window": ["early", "mid", "late"]}, ("prompt", "window"))


def test_strongest_window_by_hand():
    """Two prompts, three outcomes: both of the first (1/4), both of the second (1/4), one of each (1/2)."""
    found = graft_shifts.strongest_window(windowed([[0.0, 4.0, 1.0], [0.0, 0.0, 5.0]]), n_resamples=40_000)
    np.testing.assert_allclose(found, [0.0, 0.25, 0.75], atol=0.01)
    tied = graft_shifts.strongest_window(windowed([[1.0, 2.0, 2.0], [3.0, 4.0, 4.0], [9.0, np.nan, 9.0]]))
    assert tied.values.tolist() == [0.0, 0.5, 0.5] and tied.sum() == 1
    with pytest.raises(StatisticsError, match="needs two measured prompts: 1 are"):
        graft_shifts.strongest_window(windowed([[1.0, 2.0, 3.0], [np.nan, 1.0, 1.0]]))


def test_no_window_is_the_strongest_where_none_is_above_zero():
    assert graft_shifts.strongest_window(
        windowed([[-1.0, -2.0, -3.0], [-1.0, -2.0, -9.0]])
    ).values.tolist() == [
        0,
        0,
        0,
    ]
    half = graft_shifts.strongest_window(
        windowed([[-1.0, -2.0, -3.0], [0.9, -2.0, -9.0]]), n_resamples=40_000
    )
    np.testing.assert_allclose(half, [0.25, 0, 0], atol=0.01)


def test_strongest_window_keeps_other_dims_and_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    values = xr.DataArray(rng.normal(size=(2, 12, 3)), {"window": ["early", "mid", "late"], "family": ["a", "b"]},
                          ("family", "prompt", "window"))  # fmt: skip
    found = graft_shifts.strongest_window(values, n_resamples=20_000)
    assert found.dims == ("family", "window")
    for family in ("a", "b"):
        x, wins = values.sel(family=family).values, np.zeros(3)
        for _ in range(4000):
            means = x[rng.integers(0, 12, 12)].mean(0)
            wins[means.argmax()] += means.max() > 0
        np.testing.assert_allclose(found.sel(family=family), wins / 4000, atol=0.03)


def test_tested_differences_against_scipy():
    rng = np.random.default_rng(1)
    values = xr.DataArray(
        rng.normal(0.3, 1, (20, 2, 3)), {"family": ["a", "b"]}, ("prompt", "family", "window")
    )
    values[0, 0, 0] = np.nan
    values[1:, 1, 2] = np.nan
    found = graft_shifts.tested(values, n_resamples=4000)
    x = values[:, 1, 0].values
    expected = scipy_stats.bootstrap(
        (x,), np.mean, n_resamples=4000, method="BCa", rng=np.random.default_rng(5)
    )
    np.testing.assert_allclose(found["mean"][1, 0], x.mean())
    ends = [float(found.low[1, 0]), float(found.high[1, 0])]
    np.testing.assert_allclose(ends, expected.confidence_interval, atol=0.05)
    # Flipping signs of twenty prompts is close to a t-test.
    assert abs(float(found.p[1, 0]) - scipy_stats.ttest_1samp(x, 0).pvalue) < 0.03
    assert found.isel(family=1, window=2).to_array().isnull().all()
    p = found.p.values.ravel()
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    adjusted = np.maximum.accumulate([p[i] * (len(order) - at) for at, i in enumerate(order)]).clip(max=1)
    np.testing.assert_allclose(found.p_holm.values.ravel()[order], adjusted)
    assert len(order) == 5 and found["mean"].dims == ("family", "window")


def test_holms_correction_can_stay_within_a_dimension():
    rng = np.random.default_rng(2)
    values = xr.DataArray(rng.normal(0.5, 1, (15, 2, 3)), dims=("prompt", "lens", "window"))
    values[:, 1, 0] = np.nan
    found = graft_shifts.tested(values, within=("lens",), n_resamples=500)
    for lens in range(2):
        alone = graft_shifts.tested(values.isel(lens=lens), n_resamples=500)
        for name in ("p", "p_holm"):
            np.testing.assert_allclose(found[name].isel(lens=lens), alone[name])


def test_shifts_of_what_has_no_layers():
    steps = graft_shifts.by_prompt(made_up(LENGTHS))
    alone = graft_shifts.shifts(steps[["nll"]])
    np.testing.assert_allclose(alone.nll, graft_shifts.shifts(steps).nll)
    assert "region" not in alone.dims and "window" in alone.coords


def test_baselines_under_the_names_of_what_they_are_compared_with():
    steps = made_up(LENGTHS)
    after, before = graft_shifts.against_baseline(steps.kl_layer_final, steps)
    assert after.condition.values.tolist() == before.condition.values.tolist()
    assert (before.sel(condition="D_late") == steps.kl_layer_final.sel(condition="C").values).all()
    assert (before.sel(condition="B2") == steps.kl_layer_final.sel(condition="A'_tmpl").values).all()
    again = graft_shifts.with_conditions(after, steps)
    assert again.host.values.tolist() == steps.host.sel(condition=after.condition).values.tolist()


def test_two_prompts_are_enough_for_a_test_and_one_is_not():
    values = xr.DataArray([[1.0, 1.0], [3.0, np.nan]], dims=("prompt", "window"))
    found = graft_shifts.tested(values, n_resamples=200)
    assert found["mean"].values[0] == 2 and found.low.values[0] == 1 and found.p.values[0] == 0.5
    assert np.isnan([found[name].values[1] for name in graft_shifts.TESTED]).all()
