"""Replies taken from the capture, the dataset of all conditions beside single passes, and the windows of the sweep."""

from functools import cache

import numpy as np
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp11_matched_prefix import experiment as exp11_experiment
from nbhelpers.experiments.exp11_matched_prefix import measure as exp11_measure
from nbhelpers.measures import matched_prefix, replies
from nbhelpers.models.conditions import BASELINES, swaps, symmetric_conditions
from nbhelpers.models.generation import Continuation
from nbhelpers.models.prompts import Prompt
from tests.grafted import case
from tests.specs import complete

OPTIONS = exp11_experiment.Params(n_prompts=3, batch_size=2, sliding_width=5, sliding_step=4, widths=[2])


def block(part):
    """exp11 of some of three prompts of one pair; PT's replies are IT's, cut by a token."""
    given = case("llama")
    shorter = [Continuation(text.ids[: max(1, len(text.ids) - 1)], False) for text in given.made]
    written = {"it": given.made, "pt": shorter}
    return exp11_measure.block(given.pair, given.chosen, written, given.lenses, part, OPTIONS)


@cache
def whole():
    """exp11 of all three prompts in one block: its dataset, and the steps that later experiments read."""
    found, steps = block(range(3))
    return exp11_measure.with_windows(found, OPTIONS), steps


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
    assert replies.replies(observed(), "it", ["b", "a"]) == [
        Continuation((2, 3, 4), True),
        Continuation((1,), False),
    ]
    assert replies.replies(observed(), "pt", ["a"]) == [Continuation((7, 8), True)]
    with pytest.raises(KeyError):
        replies.replies(observed(), "it", ["c"])


def test_only_prompts_with_replies_are_read_again():
    known = [Prompt(name, "all", "text", "message") for name in "cbad"]
    options = OPTIONS.model_copy(update={"n_prompts": 5})
    chosen = replies.measured_prompts(observed(), known, options.n_prompts, options.seed)
    assert [prompt.id for prompt in chosen] == ["b", "a"]
    assert len(replies.measured_prompts(observed(), known, 1, options.seed)) == 1


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


def test_a_window_may_be_as_wide_as_the_stack_and_no_wider():
    options = experiments.experiment_params("exp11", sliding_width=5, widths=[1, 5])
    assert exp11_measure.swept_windows(5, options)["0-4"] == range(5)
    with pytest.raises(
        ParameterError, match="sliding_width asks for a window of 5 layers, and this model has 4"
    ):
        exp11_measure.swept_windows(4, options)


def test_the_studys_threshold_is_always_in_the_grid():
    options = experiments.experiment_params("exp11", kl_grid=[0.5])
    assert exp11_measure.shared_options({}, options)["grid"] == [0.1, 0.5]
