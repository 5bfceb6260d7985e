"""exp11, exp13 and exp14 put together: replies taken from exp00, the dataset of all conditions, and what is made of it."""

from functools import cache

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core import schemas
from nbhelpers.experiments.exp11_matched_prefix import experiment as exp11_experiment
from nbhelpers.experiments.exp11_matched_prefix import measure as exp11_measure
from nbhelpers.experiments.exp13_token_support import measure as exp13_measure
from nbhelpers.experiments.exp14_symmetric_causality import measure as exp14_measure
from nbhelpers.measures import graft_shifts, matched_prefix
from nbhelpers.models.conditions import BASELINES, swaps, symmetric_conditions
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt
from tests import synthetic
from tests.grafted import case
from tests.specs import complete

OPTIONS = exp11_experiment.Params(n_prompts=3, batch_size=2, sliding_width=5, sliding_step=4, widths=[2])


@cache
def whole():
    """exp11 of one pair on three prompts; PT's replies are IT's, cut by a token."""
    given = case("llama")
    shorter = [Continuation(text.ids[: max(1, len(text.ids) - 1)], False) for text in given.made]
    written = {"it": given.made, "pt": shorter}
    return exp11_measure.measure(given.pair, given.chosen, written, given.lenses, OPTIONS)


def observed():
    """Four steps of IT's and three of PT's replies to two prompts, as exp00 keeps them."""
    steps = [("pt", 0, 7), ("pt", 0, 8), ("pt", 1, 9), ("it", 0, 1), ("it", 1, 2), ("it", 1, 3), ("it", 1, 4)]
    history, prompt, ids = zip(*steps)
    return xr.Dataset(
        {"token_id": ("step", list(ids)), "stopped": (("variant", "prompt"), [[True, False], [False, True]])},
        {
            "history": ("step", list(history)),
            "prompt_index": ("step", list(prompt)),
            "variant": ["pt", "it"],
            "prompt": ["a", "b"],
        },
    )


def test_replies_are_what_each_model_wrote():
    assert exp11_measure.replies(observed(), "it", ["b", "a"]) == [
        Continuation((2, 3, 4), True),
        Continuation((1,), False),
    ]
    assert exp11_measure.replies(observed(), "pt", ["a"]) == [Continuation((7, 8), True)]
    with pytest.raises(KeyError):
        exp11_measure.replies(observed(), "it", ["c"])


def test_only_prompts_with_replies_are_read_again():
    known = [Prompt(name, "all", "text", "message") for name in "cbad"]
    options = OPTIONS.model_copy(update={"n_prompts": 5})
    assert [prompt.id for prompt in exp11_measure.measured_prompts(observed(), known, options)] == ["b", "a"]
    assert (
        len(exp11_measure.measured_prompts(observed(), known, options.model_copy(update={"n_prompts": 1})))
        == 1
    )


@pytest.mark.parametrize("n_layers", [12, 32])
def test_conditions_are_each_there_once(n_layers):
    names = [condition.name for condition in exp11_measure.main_conditions(n_layers)]
    assert len(names) == len(set(names)) == 18
    assert {"C", "A'", "B2", "D_mid", "B_late_scrambled", "D_late_self"} <= set(names)


def test_swept_windows_slide_and_widen():
    windows = exp11_measure.swept_windows(12, OPTIONS)
    assert windows == {
        "0-4": range(5), "4-8": range(4, 9), "early_2": range(2), "mid_2": range(5, 7), "late_2": range(10, 12)
    }  # fmt: skip


def test_the_dataset_is_whole_and_is_what_single_passes_give():
    found, steps = whole()
    given = case("llama")
    complete(found, "exp11")
    complete(steps, "exp11_steps")
    assert found.sizes["condition"] == 18 and list(found.teacher.values) == ["it", "pt"]
    assert list(found.prompt.values) == [prompt.id for prompt in given.chosen]
    one = matched_prefix.matched_prefix(
        given.pair,
        given.chosen,
        given.made,
        symmetric_conditions(12),
        lenses=given.lenses,
        batch_size=3,
    )
    for name in ("kl_layer_final", "js_teacher", "nll", "commitment", "delta_cosine"):
        wanted = one[name]
        of_it = found[name].sel(teacher="it", condition=wanted.condition.values)
        if "rule" in wanted.dims:
            of_it = of_it.sel(rule=wanted.rule.values)
        np.testing.assert_allclose(of_it.transpose(*wanted.dims), wanted, rtol=1e-4, atol=1e-4)
    of_pt = found.kl_layer_final.sel(teacher="pt")
    eight = [condition.name for condition in symmetric_conditions(12)]
    assert not of_pt.sel(condition=eight).isnull().any()
    assert of_pt.drop_sel(condition=eight).isnull().all()


def test_a_sweep_reads_what_a_pass_over_its_window_reads():
    given, (found, _) = case("llama"), whole()
    conditions = [*BASELINES, *swaps({"4-8": range(4, 9)})]
    one = matched_prefix.matched_prefix(given.pair, given.chosen, given.made, conditions, lenses=given.lenses)
    late = one.kl_layer_final.sel(basis="host").isel(layer=slice(9, None)).mean("layer")
    for side, name, base in (("sufficiency", "B_4-8", "A'"), ("necessity", "D_4-8", "C")):
        wanted = late.sel(condition=name) - late.sel(condition=base)
        got = found.sweep_kl_layer_final.sel(side=side, sweep="4-8")
        np.testing.assert_allclose(
            got.transpose("prompt", "lens"), wanted.transpose("prompt", "lens"), rtol=1e-3, atol=1e-4
        )
    assert (
        int(found.sweep_first.sel(sweep="late_2")) == 10 and int(found.sweep_width.sel(sweep="late_2")) == 2
    )


# exp14


@cache
def caused():
    grafted = synthetic.dataset("olmo", "exp11", n_prompts=12)
    return grafted, exp14_measure.summarise(grafted, schemas.ExperimentParams(n_resamples=300))


def test_causal_shifts_are_those_of_the_conditions():
    grafted, found = caused()
    complete(found.drop_attrs(deep=False), "exp14")
    of_it = grafted.sel(teacher="it")
    for side, letter, base in (("sufficiency", "B", "A'"), ("necessity", "D", "C")):
        one = of_it.kl_final_layer.sel(basis="pt", lens="raw")
        for region, layers in (("final_fifth", slice(9, 12)), ("window", slice(7, 12))):
            wanted = (
                (one.sel(condition=f"{letter}_late") - one.sel(condition=base))
                .isel(layer=layers)
                .mean("layer")
            )
            got = found["shift"].sel(
                readout="kl_final_layer", region=region, side=side, window="late", lens="raw", basis="pt"
            )
            np.testing.assert_allclose(got, wanted, atol=1e-5)
    commitment = of_it.commitment.sel(rule="kl_layer_final_0.1", lens="raw", basis="host")
    wanted = commitment.sel(condition="D_mid") - commitment.sel(condition="C")
    got = found["shift"].sel(
        readout="commitment", region="window", side="necessity", window="mid", lens="raw", basis="host"
    )
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    cosine = of_it.delta_cosine.sel(component="mlp").isel(layer=slice(9, 12)).mean("layer")
    wanted = cosine.sel(condition="B_early") - cosine.sel(condition="A'")
    got = found["shift"].sel(
        readout="delta_cosine_mlp", region="final_fifth", side="sufficiency", window="early"
    )
    np.testing.assert_allclose(got.sel(lens="tuned", basis="host"), wanted, atol=1e-5)


def test_tests_are_corrected_within_a_read_out():
    _, found = caused()
    one = found.sel(readout="kl_layer_final", region="window", lens="raw", basis="pt")
    tested = graft_shifts.tested(one["shift"].astype(float).transpose("prompt", ...), n_resamples=300)
    for name in ("mean", "low", "high", "p", "p_holm"):
        np.testing.assert_allclose(one[name], tested[name].transpose(*one[name].dims), atol=1e-9)
    assert ((found.p_holm >= found.p - 1e-12) | found.p.isnull()).all()
    alike = found.sel(side="necessity", readout="kl_layer_teacher_final")
    assert alike["mean"].isnull().all() and alike.p_holm.isnull().all()


def test_towards_turns_the_sign_of_the_other_side_and_of_distances_from_the_teacher():
    dims = {
        "readout": ["kl_layer_final", "js_teacher"],
        "side": ["sufficiency", "necessity"],
        "window": ["late"],
    }
    turned = exp14_measure.towards(xr.DataArray(np.ones((2, 2, 1)), dims, list(dims))).squeeze("window")
    assert turned.values.tolist() == [[1, -1], [-1, 1]]


def test_the_strongest_window_is_asked_of_every_read_out():
    _, found = caused()
    one = found.strongest.sel(region="final_fifth", lens="tuned", basis="host", window="late")
    assert (one.sel(readout="kl_layer_final") > 0.99).all()
    assert (one.sel(readout="kl_layer_teacher") < 0.01).all()
    whole = found.strongest.sum("window", skipna=False)
    assert (whole <= 1 + 1e-9).sum() + whole.isnull().sum() == whole.size
    own = whole.sel(readout="kl_layer_final", region="final_fifth", basis="host")
    np.testing.assert_allclose(own, 1)


def test_a_window_that_was_not_read_has_no_probability():
    values = xr.DataArray(
        np.random.default_rng(0).normal(size=(2, 3, 8)), dims=("readout", "window", "prompt")
    )
    values[0, 1] = np.nan
    share = exp14_measure.strongest_of(values, n_resamples=100)
    assert share.sel(readout=0).isnull().all() and share.sel(readout=1).sum() == pytest.approx(1)


# exp13


def test_token_support_of_real_steps():
    found, steps = whole()
    given = case("llama")
    made = exp13_measure.summarise(steps, given.pair.it.tokenizer, schemas.ExperimentParams(n_resamples=100))
    complete(made, "exp13")
    assert int(made.n_steps.sum()) == steps.sizes["step"] == sum(len(text.ids) for text in given.made)
    assert list(made.measured.values) == ["A'", "B_late", "C", "D_late", "pooled"]
    top = steps.top1.sel(basis="host", lens="raw").isel(layer=slice(9, None))
    changed = int((top.sel(condition="B_late") != top.sel(condition="A'")).sum())
    assert (
        int(made.replaced.sel(condition="B_late", lens="raw").sum()) == changed
        and int(made.cells_per_step) == 3
    )


def test_overlap_means_are_means_over_each_prompts_steps():
    _, steps = whole()
    made = exp13_measure.overlap_means(steps)
    assert list(made.condition.values) == ["C", "A'", "B_late", "D_late"]
    assert (made.sel(condition=["C", "A'"]) == 1).all() and (made.sel(condition="B_late") < 1).any()
    for prompt in range(3):
        here = steps.candidate_overlap.isel(step=(steps.prompt_index == prompt).values)
        cells = here.sel(condition="D_late", lens="tuned", basis="host", layer=[9, 10, 11]).values.ravel()
        got = made.sel(condition="D_late", lens="tuned", prompt=prompt)
        assert float(got) == pytest.approx(sum(cells.tolist()) / cells.size, rel=1e-5)


def test_update_means_are_means_over_each_prompts_steps():
    _, steps = whole()
    made = exp13_measure.update_means(steps)
    for prompt in range(3):
        here = steps.cosine.isel(step=(steps.prompt_index == prompt).values).sel(
            condition="B_late", axis="anti_kl", layer=10
        )
        got = made.cosine.sel(condition="B_late", axis="anti_kl", layer=10, prompt=prompt)
        assert float(got) == pytest.approx(float(here.mean()), rel=1e-5)
    assert list(made.layer.values) == [9, 10, 11]
