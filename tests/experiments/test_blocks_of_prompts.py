"""Experiments on steps that lie in several blocks of prompts, beside the same steps in one block."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import blocks, schemas
from nbhelpers.core.params import VARIANTS
from nbhelpers.experiments.exp00_observations import measure as exp00_measure
from nbhelpers.experiments.exp00_observations import quantities as exp00_quantities
from nbhelpers.experiments.exp00_observations.experiment import Params, step_bytes
from nbhelpers.experiments.exp03_corrective_stage import measure as exp03_measure
from nbhelpers.experiments.exp07_0j_onset import measure as exp07_0j_measure
from nbhelpers.experiments.exp09_convergence_gap import measure as exp09_measure
from nbhelpers.experiments.exp11_matched_prefix import measure as exp11_measure
from nbhelpers.experiments.exp13_token_support import measure as exp13_measure
from nbhelpers.report.quantities import value
from tests.experiments.test_exp00 import KEYS, case
from tests.experiments.test_exp11 import OPTIONS as EXP11
from tests.experiments.test_exp11 import block as grafts_of
from tests.experiments.test_exp11 import whole as grafted
from tests.grafted import case as grafted_case


def in_blocks(steps, size):
    """Return a dataset with its steps in the order in which blocks of `size` prompts are written."""
    order = np.argsort(steps.prompt_index.values // size, kind="stable")
    return steps.isel(step=order).assign_attrs(block_prompts=size)


def same(found, expected, **how):
    """Assert that two datasets hold the same."""
    assert set(found.data_vars) == set(expected.data_vars) and found.attrs == expected.attrs
    for name, values in expected.data_vars.items():
        if values.dtype.kind in "fiub":
            ours = found[name].transpose(*values.dims).values
            np.testing.assert_allclose(
                ours, values.values, err_msg=name, **({"rtol": 1e-6, "atol": 1e-9} | how)
            )
        else:
            assert (found[name].values == values.values).all(), name


@pytest.mark.parametrize("size", [3, 5])
def test_readers_of_the_capture_do_not_depend_on_its_blocks(size):
    observed = case(KEYS[0]).observed
    apart, commitment = in_blocks(observed, size), experiments.experiment_params("exp09", n_resamples=200)
    assert len(list(blocks.each(apart))) == -(-8 // size)
    same(exp03_measure.summarise(apart, commitment), exp03_measure.summarise(observed, commitment))
    same(exp09_measure.summarise(apart, commitment), exp09_measure.summarise(observed, commitment))
    same(blocks.over(apart, exp07_0j_measure.differences), exp07_0j_measure.differences(observed))
    expected = exp00_quantities.quantities(observed)
    assert expected
    for name in expected:
        ours, theirs = (value(exp00_quantities.quantities, each, name) for each in (apart, observed))
        assert ours == pytest.approx(theirs, rel=1e-6, nan_ok=True), name


def test_readers_of_grafted_steps_do_not_depend_on_their_blocks():
    _, steps = grafted()
    options = schemas.ExperimentParams(n_resamples=100)
    tokenizer = grafted_case("llama").pair.it.tokenizer
    one = exp13_measure.summarise(steps, tokenizer, options)
    same(exp13_measure.summarise(in_blocks(steps, 2), tokenizer, options), one, rtol=1e-5, atol=1e-6)


def test_grafts_in_blocks_are_the_grafts():
    """The first batch of two prompts and the third prompt are blocks of their own."""
    apart, (whole, all_steps) = [grafts_of(range(2)), grafts_of(range(2, 3))], grafted()
    found = exp11_measure.with_windows(blocks.combined([found for found, _ in apart]), EXP11)
    same(found[list(whole.data_vars)], whole, rtol=2e-3, atol=2e-4)
    how = dict(data_vars="minimal", coords="minimal", compat="override")
    steps = xr.concat([steps for _, steps in apart], "step", **how)
    same(steps, all_steps, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(steps.prompt_index, all_steps.prompt_index)


def test_a_capture_in_blocks_is_the_capture(monkeypatch):
    """Two batches of three and two prompts are blocks of their own; texts are the same, numbers up to rounding."""
    c = case(KEYS[1])
    options = Params(n_prompts=5, max_new_tokens=6, batch_size=3, lens_rows=16, n_cloud_prompts=16)
    chosen, ids = c.chosen[:5], {v: c.ids[v][:5] for v in VARIANTS}

    def captured(parts):
        return [exp00_measure.block(c.pair, chosen, ids, c.lenses, part, options) for part in parts]

    monkeypatch.setattr(blocks, "LARGEST", 4 * 2 * 6 * step_bytes(c.pair.n_layers))
    parts = exp00_measure.block_spans(c.pair.n_layers, 5, options)
    assert parts == [range(3), range(3, 5)]
    apart = captured(parts)
    joined = xr.concat(
        [each.drop_dims("prompt") for each in apart],
        "step",
        data_vars="minimal",
        coords="minimal",
        compat="override",
    )
    whole = in_blocks(captured([range(5)])[0], 3)
    texts = blocks.combined([each.drop_dims("step") for each in apart])
    assert (texts.text == whole.text).all() and (texts.near_ties == whole.near_ties).all()
    np.testing.assert_allclose(texts.neuron_mass, whole.neuron_mass, rtol=1e-4)
    np.testing.assert_array_equal(joined.prompt_index, whole.prompt_index)
    for name in ("kl_final_layer", "entropy", "delta_cosine", "token_id", "target_log_probability"):
        np.testing.assert_allclose(joined[name], whole[name], rtol=2e-3, atol=2e-5, err_msg=name)


def test_rounded_steps_give_the_same_gap():
    """Eight bits fewer in every number by step leave means over steps as they are."""
    observed = case(KEYS[0]).observed
    options = experiments.experiment_params("exp09", n_resamples=200)
    exact = exp09_measure.summarise(observed, options)
    found = exp09_measure.summarise(blocks.rounded(observed, 6), options)
    for name in ("kl_final_layer", "entropy", "delta_cosine"):
        scale = float(np.abs(exact[name]).mean())
        assert float(np.abs(found[name] - exact[name]).mean()) < 4e-3 * scale, name
    gap = exact.convergence_gap
    np.testing.assert_allclose(found.convergence_gap, gap, atol=4e-3 * float(np.abs(gap).max()))
