"""Narrowing with depth: means by layer, the wiring of fits, and one pair against the bare models."""

from collections import Counter
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from nbhelpers import experiments
from nbhelpers.core.params import VARIANTS, ParameterError
from nbhelpers.experiments.exp01_narrowing import measure as exp01_measure
from nbhelpers.experiments.exp01_narrowing import quantities as exp01_quantities
from nbhelpers.measures import logit_attribution
from nbhelpers.models import stubs as stubs_of
from tests.experiments.test_exp00 import KEYS, case, log_probabilities, states
from tests.specs import complete

OPTIONS = experiments.experiment_params("exp01", n_resamples=100).model_copy(
    update=dict(n_neurons=30, batch_size=4)
)


def features(seed=0, n_prompts=5, n_features=40, n_layers=6):
    """Made-up neurons of three selections, some of which hold nothing (n90 of −1)."""
    rng, shape = np.random.default_rng(seed), (3, n_prompts, n_features)
    dims = ("selection", "prompt", "feature")
    n90 = np.where(rng.uniform(size=shape) < 0.1, -1, rng.integers(1, 900, shape))
    return xr.Dataset(
        {
            "n90": (dims, n90),
            "neuron_layer": (dims, rng.integers(0, n_layers - 1, shape)),  # none in the last layer
            "attribution": (dims, rng.lognormal(size=shape) * np.abs(n90) ** 0.5),
            "target_efficiency": (dims, rng.lognormal(size=shape)),
        },
        {"selection": list(logit_attribution.SELECTIONS), "layer": np.arange(n_layers)},
    )


def test_layer_means_equal_a_slow_loop():
    found = features()
    means = exp01_measure.layer_means(found)
    assert means.dims == ("selection", "prompt", "layer")
    for at in np.ndindex(means.shape):
        selection, prompt, layer = at
        one = found.isel(selection=selection, prompt=prompt)
        logs = [
            np.log(n) for n, where in zip(one.n90.values, one.neuron_layer.values) if where == layer and n > 0
        ]
        np.testing.assert_allclose(means.values[at], np.mean(logs) if logs else np.nan)
    assert means.isel(layer=-1).isnull().all()


def test_each_fit_is_of_its_own_selection_and_quantity():
    found = features()
    fits = exp01_measure.fits(found, OPTIONS)
    for selection in logit_attribution.SELECTIONS:
        for name, title in exp01_measure.FITS.items():
            one = found.sel(selection=selection)
            kept = (one.n90 > 0).values
            x, y = np.log(one.n90.values[kept]), np.log(one[name].values[kept])
            line = stats.linregress(x, y)
            expected = [line.slope, line.intercept, line.rvalue, stats.spearmanr(x, y).statistic]
            chosen = fits.sel(selection=selection, quantity=title)
            np.testing.assert_allclose(chosen.estimate, expected)
            assert ((chosen.low <= chosen.estimate) & (chosen.estimate <= chosen.high)).all()
    assert fits.sizes["resample"] == 100  # and never more than 400


def test_as_many_resamples_are_drawn_as_the_parameters_say():
    assert experiments.experiment_params("exp01").n_resamples == 400
    for n in (100, 700):
        some = OPTIONS.model_copy(update={"n_resamples": n})
        assert exp01_measure.fits(features(n_features=5), some).sizes["resample"] == n


def test_a_shift_is_between_the_same_resamples_of_both_models():
    rng = np.random.default_rng(0)
    pt = xr.DataArray(rng.normal(size=(2, 400)), dims=("statistic", "resample"))
    low, high = exp01_measure.shift(pt, pt + 1.5, 0.95)
    np.testing.assert_allclose([low, high], 1.5)
    it = pt + xr.DataArray(rng.normal(size=(2, 400)), dims=("statistic", "resample"))
    low, high = exp01_measure.shift(pt, it, 0.9)
    np.testing.assert_allclose([low, high], np.quantile((it - pt).values, [0.05, 0.95], axis=-1))


def test_the_sample_keeps_a_neurons_numbers_together():
    found = features(n_prompts=20)
    some = exp01_measure.sample(found, seed=0)
    assert some.sizes["sample"] == exp01_measure.N_SAMPLE
    one = found.sel(selection="attribution")
    names = ("n90", "attribution", "neuron_layer")
    known = set(zip(*(one[name].values.ravel().tolist() for name in names)))
    drawn = list(zip(*(some[f"sample_{name.removeprefix('neuron_')}"].values.tolist() for name in names)))
    assert set(drawn) <= known and len(set(drawn)) == len(drawn)
    assert some.identical(exp01_measure.sample(found, seed=0))


def test_the_depth_trend_is_scipys_rank_correlation():
    rng = np.random.default_rng(0)
    breadth = rng.integers(1, 9, (2, 3, 12, 7))  # many ties
    breadth[1, 2, :, 0] = np.arange(12, 0, -1)
    breadth[1, 2, :, 1] = 4
    dims = ("variant", "component", "layer", "prompt")
    coords = {
        "variant": list(VARIANTS),
        "component": ["block", "attention", "mlp"],
        "prompt": list("abcdefg"),
    }
    made = xr.Dataset({"update_n90": (dims, breadth)}, coords)
    found = exp01_quantities.depth_trend(made)
    assert found.values[0] == pytest.approx(-1) and np.isnan(found.values[1])
    for component, variant in (("mlp", "it"), ("attention", "pt")):
        chosen = made.update_n90.sel(component=component, variant=variant).values.T
        with np.testing.suppress_warnings() as quiet:
            quiet.filter(stats.ConstantInputWarning)
            expected = [stats.spearmanr(np.arange(12), curve).statistic for curve in chosen]
        trend = exp01_quantities.depth_trend(made, component, variant)
        np.testing.assert_allclose(trend, expected)
        assert trend.prompt.values.tolist() == list("abcdefg")


@cache
def result():
    """exp01's dataset of some stubs of one pair, and what was kept of them."""
    pair, stubs = case(KEYS[0]).pair, stubs_of.read_stubs("pocket/exp01.jsonl")[::14]
    return exp01_measure.summarise(pair, stubs, OPTIONS), exp01_measure.chosen_stubs(
        pair, stubs, OPTIONS.n_prompts
    )


def test_the_dataset_is_whole_and_of_the_stubs_that_one_token_answers():
    found, kept = result()
    assert complete(found, "exp01") is found
    assert found.prompt.values.tolist() == [stub.id for stub, *_ in kept]
    assert found.target.values.tolist() == [stub.target for stub, *_ in kept]
    assert set(found.group.values) == {"memorisation", "reasoning"}
    assert found.sizes["quantity"] == 2 and found.sizes["statistic"] == 4


def test_fewer_stubs_are_balanced_over_categories():
    pair, stubs = case(KEYS[0]).pair, stubs_of.read_stubs("pocket/exp01.jsonl")
    every = exp01_measure.chosen_stubs(pair, stubs, 1000)
    assert every == stubs_of.single_token(pair.pt, stubs)
    few = exp01_measure.chosen_stubs(pair, stubs, 10)
    assert Counter(stub.category for stub, *_ in few) == {"memorisation": 5, "reasoning": 5}
    assert all(one in every for one in few)


@pytest.mark.parametrize("variant", VARIANTS)
def test_support_and_rank_equal_the_bare_models(variant):
    found, kept = result()
    decoder = getattr(case(KEYS[0]).pair, variant)
    real = np.flatnonzero(decoder.real_tokens).tolist()
    for stub, ids, target in kept:
        seen = states(decoder, ids)
        logp = log_probabilities(decoder, [h[-1] for h in seen["residual"]])
        one = found.sel(variant=variant, prompt=stub.id)
        np.testing.assert_allclose(one.support, np.exp(-(logp.exp() * logp).sum(-1)), rtol=1e-3)
        final = logp[-1]
        assert int(one.target_rank) == 1 + int((final > final[real.index(target)]).sum())


def test_shifts_are_it_less_pt():
    found, _ = result()
    difference = found.fit.sel(variant="it") - found.fit.sel(variant="pt")
    np.testing.assert_allclose(found.fit_shift, difference.transpose(*found.fit_shift.dims))
    assert (found.fit_shift_low <= found.fit_shift_high).all()


def test_a_layers_support_is_the_exponential_of_its_entropy():
    entropy = np.log(np.arange(1.0, 31).reshape(6, 5))
    nothing = dict.fromkeys(
        ("target_rank", "update_n90", "update_n50", "update_target_contribution"), ((), 0)
    )
    found = features().assign(nothing).assign(lens_entropy=(("layer", "prompt"), entropy))
    made = exp01_measure.by_layer(found, OPTIONS)
    np.testing.assert_allclose(made.support.transpose("layer", "prompt"), np.arange(1, 31).reshape(6, 5))


@pytest.mark.parametrize("n", [0, 1])
def test_two_stubs_are_the_fewest(monkeypatch, n):
    monkeypatch.setattr(
        exp01_measure, "single_token", lambda decoder, stubs: [(each, [1], 2) for each in stubs[:n]]
    )
    with pytest.raises(ParameterError, match=f"made up: {n} of 3 stubs"):
        exp01_measure.chosen_stubs(SimpleNamespace(key="made up", pt=None), ["a", "b", "c"], 3)
