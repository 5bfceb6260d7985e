"""The onset of the late turn: known profiles, both nulls, and the same answer for the same seed."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers import experiments
from nbhelpers.core.params import VARIANTS
from nbhelpers.experiments.exp07_0j_onset import measure as exp07_0j_measure
from nbhelpers.experiments.exp09_convergence_gap import measure as exp09_measure
from tests.experiments.test_exp00 import KEYS, case
from tests.specs import complete

OPTIONS = experiments.experiment_params("exp07_0j", n_permutations=300)
RULES = exp07_0j_measure.rule_names(OPTIONS)


def onset_by_rule(cosine, options):
    """Return what a pair's δ-cosines by variant say."""
    return exp07_0j_measure.onset_by_rule((cosine["it"] - cosine["pt"]).dropna("prompt"), options)


def stepped(n_layers=12, at=8, size=0.3, n_prompts=30, noise=0.01, seed=0):
    """IT − PT by prompt: nothing, then a fall of `size` from layer `at` on, and noise."""
    falls = -size * (np.arange(n_layers) >= at)
    return falls + noise * np.random.default_rng(seed).normal(size=(n_prompts, n_layers))


def curves(differences):
    """PT's and IT's δ-cosines whose difference is given, one component."""
    values = xr.DataArray(differences[None], dims=("component", "prompt", "layer"))
    values = values.assign_coords(component=["block"], layer=np.arange(differences.shape[-1]))
    return {"pt": values * 0 + 0.4, "it": values + 0.4}


@settings(max_examples=40)
@given(st.integers(6, 40), st.data())
def test_a_step_is_found_where_it_is_under_every_rule(n_layers, data):
    at = data.draw(st.integers(n_layers // 2, n_layers - 1))  # the last layer alone among them
    difference = np.where(np.arange(n_layers) >= at, -0.3, 0.0)
    assert (exp07_0j_measure.onsets(difference, OPTIONS) == at).all()


def test_the_study_could_not_have_found_the_last_layer_alone():
    difference = np.where(np.arange(12) == 11, -0.3, 0.0)
    assert (exp07_0j_measure.onsets(difference, OPTIONS) == 11).all()
    assert exp07_0j_measure.first_run(difference < -0.1, 1) == 11


def test_one_layer_within_is_no_run_of_two():
    difference = np.where(np.arange(12) == 8, -0.3, 0.0)
    assert (exp07_0j_measure.onsets(difference, OPTIONS) == exp07_0j_measure.NONE).all()
    one = OPTIONS.model_copy(update={"run_length": 1})
    assert (exp07_0j_measure.onsets(difference, one) == 8).all()


@pytest.mark.parametrize("level, found", [(0.0, []), (0.3, []), (-0.07, ["drop 0.02", "drop 0.05"])])
def test_a_constant_difference_has_no_onset_but_below_an_absolute_drop(level, found):
    onsets = dict(zip(RULES, exp07_0j_measure.onsets(np.full(12, level), OPTIONS)))
    assert onsets == {rule: 0 if rule in found else exp07_0j_measure.NONE for rule in RULES}


def test_rules_by_hand():
    """Baseline layers 1 to 5: mean 0.02, deviation 0.02."""
    difference = np.array([9.0, 0.0, 0.04, 0.0, 0.04, 0.02, 0.02, 0.0, -0.01, -0.03, -0.06, -0.2])
    base = difference[1:6]
    assert list(exp07_0j_measure.baseline(12)) == [1, 2, 3, 4, 5]
    expected = [difference < base.mean() - k * (base.std() + 1e-6) for k in OPTIONS.sigmas]
    expected += [difference < -tau for tau in OPTIONS.drops]
    np.testing.assert_array_equal(exp07_0j_measure.below(difference, OPTIONS), expected)
    found = dict(zip(RULES, exp07_0j_measure.onsets(difference, OPTIONS)))
    assert [found[rule] for rule in ("0.5 σ", "1 σ", "1.5 σ", "2 σ")] == [7, 7, 8, 9]
    assert [found[rule] for rule in ("drop 0.02", "drop 0.05", "drop 0.1", "drop 0.15")] == [9, 10, 11, 11]


@settings(max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 4))
def test_the_first_run_equals_a_slow_loop(flags, length):
    runs = [i for i in range(len(flags)) if all((flags + flags[-1:] * length)[i : i + length])]
    assert exp07_0j_measure.first_run(np.array(flags), length) == (runs[0] if runs else exp07_0j_measure.NONE)


def test_exchanging_pt_and_it_is_symmetric():
    """The null does not know which of the two is IT: its curves are as often mirrored."""
    differences = stepped(noise=0.05)
    signs = np.random.default_rng(OPTIONS.seed).choice(
        [-1.0, 1.0], (OPTIONS.n_permutations, len(differences))
    )
    expected = np.array([exp07_0j_measure.onsets(s @ differences / len(s), OPTIONS) for s in signs])
    np.testing.assert_array_equal(exp07_0j_measure.exchanged(differences, OPTIONS), expected)
    many = OPTIONS.model_copy(update={"n_permutations": 4000})
    found, mirrored = (
        exp07_0j_measure.share_found(exp07_0j_measure.exchanged(sign * differences, many)) for sign in (1, -1)
    )
    np.testing.assert_allclose(found, mirrored, atol=0.04)


def test_a_real_fall_stands_out_of_the_exchange_null_and_noise_does_not():
    found = onset_by_rule(curves(stepped()), OPTIONS).squeeze("component")
    strict = found.sel(rule=["drop 0.05", "drop 0.1", "drop 0.15"])
    assert (strict.onset == 8).all() and (strict.found_resampled == 1).all()
    assert (strict.sel(rule=["drop 0.1", "drop 0.15"]).found_exchanged < 0.06).all()
    noise = onset_by_rule(curves(stepped(size=0.0, noise=0.02)), OPTIONS).squeeze("component")
    assert (noise.sel(rule=["drop 0.05", "drop 0.1", "drop 0.15"]).onset == exp07_0j_measure.NONE).all()
    assert float(noise.found_exchanged.sel(rule="0.5 σ")) > 0.5  # a lenient rule finds an onset in anything


def test_intervals_are_of_the_draws_that_found_one():
    drawn = np.array([[3, -1], [4, -1], [5, -1], [9, -1], [-1, -1]])
    np.testing.assert_array_equal(exp07_0j_measure.interval(drawn, 0.9), [[3, np.nan], [9, np.nan]])
    np.testing.assert_allclose(exp07_0j_measure.share_found(drawn), [0.8, 0.0])


def test_bootstrap_draws_prompts_with_replacement():
    differences = stepped(n_prompts=7)
    drawn = np.random.default_rng(OPTIONS.seed).multinomial(7, np.full(7, 1 / 7), OPTIONS.n_permutations)
    means = np.array([np.repeat(differences, times, axis=0).mean(0) for times in drawn])
    np.testing.assert_array_equal(
        exp07_0j_measure.resampled(differences, OPTIONS), exp07_0j_measure.onsets(means, OPTIONS)
    )


def test_the_same_seed_gives_the_same_dataset_and_another_one_other_draws():
    one, again = (onset_by_rule(curves(stepped(noise=0.2)), OPTIONS) for _ in range(2))
    other = onset_by_rule(curves(stepped(noise=0.2)), OPTIONS.model_copy(update={"seed": 1}))
    assert one.identical(again)
    assert not one.found_exchanged.equals(other.found_exchanged) and one.onset.equals(other.onset)


def test_a_prompt_that_either_model_lacks_is_left_out():
    differences = stepped(n_prompts=8)
    holes = curves(differences)
    holes["pt"] = holes["pt"].where(holes["pt"].prompt != 3)
    found = onset_by_rule(holes, OPTIONS)
    assert found.identical(onset_by_rule(curves(np.delete(differences, 3, axis=0)), OPTIONS))


def test_the_dataset_of_a_real_pair_is_whole():
    free = {v: exp09_measure.free_profile(case(KEYS[0]).observed, v).delta_cosine for v in VARIANTS}
    found = onset_by_rule(free, OPTIONS)
    assert complete(found, "exp07_0j") is found
    mean = (free["it"] - free["pt"]).dropna("prompt").mean("prompt").sel(component="mlp")
    np.testing.assert_array_equal(
        found.onset.sel(component="mlp"), exp07_0j_measure.onsets(mean.values, OPTIONS)
    )


def test_a_difference_on_a_limit_is_not_below_it():
    difference = np.zeros(12)
    difference[6:] = -0.1
    meets = dict(zip(RULES, exp07_0j_measure.below(difference, OPTIONS).tolist()))
    assert not any(meets["drop 0.1"]) and meets["drop 0.05"][6:] == [True] * 6


def test_the_baseline_leaves_out_layer_0_and_the_later_half():
    """Layer 0 and the later half vary much: were they in the baseline, 2 σ would hide the fall."""
    difference = np.array([9.0, 0.01, -0.01, 0.01, -0.01, 0.01, -0.1, -0.1, 5.0, -5.0, 5.0, 5.0])
    meets = dict(zip(RULES, exp07_0j_measure.below(difference, OPTIONS).tolist()))
    assert np.flatnonzero(meets["2 σ"]).tolist() == [6, 7, 9]


def test_an_onset_at_layer_0_is_found():
    null = np.array([[0, -1], [3, -1], [-1, -1], [0, -1]])
    assert exp07_0j_measure.share_found(null).tolist() == [0.75, 0.0]
