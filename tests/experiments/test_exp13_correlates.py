"""Correlations of late updates with late KL: plain, partial, within prompts and of shifts, against NumPy and SciPy."""

import itertools

import numpy as np
import pytest
import xarray as xr
from scipy import stats as scipy_stats

from nbhelpers.core.depths import final_fifth
from nbhelpers.core.stats import StatisticsError
from nbhelpers.experiments.exp13_token_support import correlates as exp13_correlates
from nbhelpers.measures import graft_shifts
from tests.grafted import PROJECTED, made_up

LENGTHS = (9, 1, 7, 12, 5, 8)
FEW = {"n_resamples": 20}


def residual(y, z):
    """y less its least-squares fit on z."""
    design = np.stack([np.ones_like(z), z], axis=1)
    return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]


def partial(x, y, z):
    return np.corrcoef(residual(x, z), residual(y, z))[0, 1]


def late(steps, name, **chosen):
    """One value a step: the mean over layers 8 and 9, through the host's lens."""
    basis = {"basis": "host"} if "basis" in steps[name].dims else {}
    return steps[name].sel(layer=[8, 9], **basis, **chosen).mean("layer")


def columns(steps, feature, condition, lens, scale="cosine"):
    """x, KL and both entropies of every step of one condition."""
    if feature == "delta_cosine":
        x = late(steps, "delta_cosine", condition=condition, component="mlp")
    elif feature == "rank_gain":
        base = {"B_late": "A'", "D_late": "C"}.get(condition, condition)
        rank = [late(steps, "target_rank", condition=name, lens="raw") for name in (base, condition)]
        x = rank[0] - rank[1]
    elif feature == "remainder":
        x = remainder(steps, condition, scale)
    else:
        x = late(steps, scale, condition=condition, axis=feature)
    kl = late(steps, "kl_layer_final", condition=condition, lens=lens)
    entropy = late(steps, "entropy", condition=condition, lens=lens)
    final = steps.entropy.sel(basis="host", condition=condition, lens=lens, layer=9)
    return [each.values.astype(float) for each in (x, kl, entropy, final)]


def remainder(steps, condition, scale):
    """What Pythagoras leaves of an update (of length 1 where cosines are read) beside its part along `anti_kl`."""
    part = [steps[scale].sel(condition=condition, axis="anti_kl", layer=layer).values for layer in (8, 9)]
    size = [
        steps.update_norm.sel(condition=condition, component="mlp", layer=layer).values for layer in (8, 9)
    ]
    legs = [np.sqrt((1 if scale == "cosine" else s) ** 2 - p**2) for s, p in zip(size, part)]
    return xr.DataArray(sum(legs) / 2, dims="step")


def expected(x, kl, entropy, final, given):
    if np.ptp(x) < 1e-12:  # the rank gain of a baseline
        return np.nan
    if given == "nothing":
        return np.corrcoef(x, kl)[0, 1]
    return partial(x, kl, entropy if given == "late_entropy" else final)


def without_means(values, prompt):
    return values - np.array([values[prompt == each].mean() for each in prompt])


def each_cell():
    return itertools.product(exp13_correlates.FEATURES, ("raw", "tuned"), exp13_correlates.GIVEN)


@pytest.mark.parametrize("scale", ["cosine", "projection"])
def test_every_correlation_equals_numpys(scale):
    steps = made_up(LENGTHS)
    found = exp13_correlates.correlations(steps, scale=scale, **FEW)
    prompt = steps.prompt_index.values
    assert found.condition.values.tolist() == ["C", "A'", "B_late", "D_late", "pooled"]
    for feature, lens, given in each_cell():
        chosen = found.value.sel(feature=feature, lens=lens, given=given)
        data = {name: columns(steps, feature, name, lens, scale) for name in PROJECTED}
        for name in PROJECTED:
            ours = chosen.sel(condition=name)
            assert float(ours.sel(kind="level")) == pytest.approx(expected(*data[name], given), nan_ok=True)
            inner = [without_means(each, prompt) for each in data[name]]
            assert float(ours.sel(kind="within_prompt")) == pytest.approx(
                expected(*inner, given), nan_ok=True
            )
        for name, base in (("B_late", "A'"), ("D_late", "C")):
            moved = [here - before for here, before in zip(data[name], data[base])]
            assert float(chosen.sel(condition=name, kind="shift")) == pytest.approx(
                expected(*moved, given), nan_ok=True
            )
        whole = [np.concatenate(each) for each in zip(*data.values())]
        assert float(chosen.sel(condition="pooled", kind="level")) == pytest.approx(
            expected(*whole, given), nan_ok=True
        )
    assert found.value.sel(kind="shift", condition=["C", "A'"]).isnull().all()


def from_features(found, prompt):
    """The correlations of made-up features."""
    values = exp13_correlates.stacked(found)
    values = exp13_correlates.standardised(values, exp13_correlates.scaling(values))
    return exp13_correlates.correlated(exp13_correlates.moments(values, prompt), found, **FEW).value


def test_partial_correlation_by_hand():
    """Given z, x and y that are z plus opposite noise correlate at −1, though each goes with the other through z."""
    z, noise = np.repeat([0.0, 3.0, 6.0, 9.0], 2), np.tile([1.0, -1.0], 4)
    assert np.corrcoef(z + noise, z - noise)[0, 1] > 0.8
    dims = {"value": ("feature", "condition", "step"), "kl": ("condition", "lens", "step")}
    found = xr.Dataset(
        {"value": (dims["value"], (z + noise)[None, None]), "kl": (dims["kl"], (z - noise)[None, None]),
         "late_entropy": (dims["kl"], z[None, None]), "final_entropy": (dims["kl"], np.zeros((1, 1, 8)))},
        {"feature": ["x"], "condition": ["C"], "lens": ["raw"]},
    )  # fmt: skip
    r = from_features(found, np.repeat([0, 1, 2, 3], 2)).sel(condition="C").squeeze()
    assert float(r.sel(given="nothing")) == pytest.approx(np.corrcoef(z + noise, z - noise)[0, 1])
    assert float(r.sel(given="late_entropy")) == pytest.approx(-1)
    assert np.isnan(r.sel(given="final_entropy"))  # what does not vary holds nothing fixed


def test_what_the_given_says_all_of_has_no_partial_correlation():
    steps = made_up(LENGTHS)
    found = exp13_correlates.features(steps).sel(feature=["anti_kl"])
    found["value"] = (found.late_entropy.sel(lens="raw", drop=True) * 3 + 1e3).expand_dims(
        feature=["anti_kl"]
    )
    r = from_features(found, steps.prompt_index.values).sel(lens="raw")
    assert r.sel(given="late_entropy", condition=list(PROJECTED)).isnull().all()
    assert r.sel(given=["nothing", "final_entropy"]).notnull().all()


def test_the_remainder_of_effects_is_that_of_lengths():
    lengths, effects = (
        exp13_correlates.features(made_up(LENGTHS), scale=scale) for scale in ("projection", "effect")
    )
    xr.testing.assert_equal(*(each.value.sel(feature="remainder") for each in (lengths, effects)))
    assert not lengths.value.sel(feature="anti_kl").equals(effects.value.sel(feature="anti_kl"))


def test_interval_resamples_prompts_as_scipy_does():
    """BCa over prompts of one correlation, against SciPy's with whole prompts drawn."""
    steps = made_up((5, 7, 4, 8, 6, 9, 5, 7, 6, 8), seed=4)
    x, kl, *_ = columns(steps, "anti_kl", "B_late", "raw")
    found = exp13_correlates.correlations(steps, n_resamples=4000)
    found = found.sel(kind="level", given="nothing", feature="anti_kl", condition="B_late", lens="raw")
    prompt = steps.prompt_index.values

    def r(drawn):
        rows = np.concatenate([np.flatnonzero(prompt == i) for i in np.asarray(drawn, int)])
        return np.corrcoef(x[rows], kl[rows])[0, 1]

    wanted = scipy_stats.bootstrap((np.arange(10),), r, vectorized=False, n_resamples=4000, method="BCa",
                                   rng=np.random.default_rng(2)).confidence_interval  # fmt: skip
    np.testing.assert_allclose([found.low, found.high], wanted, atol=0.03)
    assert found.low < found.value < found.high


def test_features_are_means_over_the_final_fifth_of_what_was_projected():
    steps = made_up(LENGTHS)
    found = exp13_correlates.features(steps)
    assert found.condition.values.tolist() == ["C", "A'", "B_late", "D_late"]
    assert found.feature.values.tolist() == list(exp13_correlates.FEATURES)
    for feature in exp13_correlates.FEATURES:
        for lens in ("raw", "tuned"):
            x, kl, entropy, final = columns(steps, feature, "D_late", lens)
            here = found.sel(condition="D_late")
            np.testing.assert_allclose(here.value.sel(feature=feature), x)
            np.testing.assert_allclose(here.kl.sel(lens=lens), kl)
            np.testing.assert_allclose(here.late_entropy.sel(lens=lens), entropy)
            np.testing.assert_allclose(here.final_entropy.sel(lens=lens), final)
    assert list(final_fifth(10)) == [8, 9]


def test_steps_without_a_value_are_left_out():
    steps = made_up(LENGTHS)
    steps.delta_cosine[2, :, 8:, 4] = np.nan
    keep = np.arange(sum(LENGTHS)) != 4
    x, kl, *_ = (each[keep] for each in columns(steps, "support_teacher", "C", "raw"))
    found = exp13_correlates.correlations(steps, **FEW).value.sel(
        kind="level", given="nothing", condition="C", lens="raw"
    )
    assert float(found.sel(feature="support_teacher")) == pytest.approx(np.corrcoef(x, kl)[0, 1])


def test_centred_values_by_hand():
    values = xr.DataArray([[1.0, 3.0, 10.0]], dims=("condition", "step"))
    assert exp13_correlates.centred(values, np.array([4, 4, 9])).values.tolist() == [[-1.0, 1.0, 0.0]]


def test_a_scale_that_there_is_not():
    with pytest.raises(ValueError, match="'angle'; choose from effect, projection, cosine"):
        exp13_correlates.features(made_up(), scale="angle")


def test_one_prompt_has_no_interval():
    with pytest.raises(StatisticsError, match="two measured prompts"):
        exp13_correlates.correlations(made_up((9,)), **FEW)


def test_shifts_of_all_conditions_are_those_of_grafts_and_not_of_baselines():
    """A baseline's shift from itself is 0; among the others it would move every pooled correlation."""
    steps = made_up((4, 2, 3, 5), seed=4)
    found = exp13_correlates.correlations(steps, n_resamples=20).value.sel(kind="shift", given="nothing")
    levels, base = exp13_correlates.features(steps), graft_shifts.baselines(steps)
    grafted = [name for name in levels.condition.values if base[name] != name]
    before = levels.sel(condition=[base[name] for name in grafted]).assign_coords(condition=grafted)
    moved = levels.sel(condition=grafted) - before
    for feature in ("anti_kl", "rank_gain"):
        x = moved.value.sel(feature=feature).transpose("condition", "step").values.ravel()
        y = moved.kl.sel(lens="raw").transpose("condition", "step").values.ravel()
        one = found.sel(feature=feature, condition="pooled", lens="raw").item()
        assert one == pytest.approx(np.corrcoef(x, y)[0, 1])
