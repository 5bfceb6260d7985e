"""Symmetric causality, from the dataset of real grafts: shifts, tests, and which window is the strongest."""

from functools import cache

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core import schemas
from nbhelpers.experiments.exp14_symmetric_causality import measure as exp14_measure
from nbhelpers.measures import graft_shifts
from tests import synthetic
from tests.specs import complete


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
