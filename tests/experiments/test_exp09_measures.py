"""exp09's measures on numbers set by hand: whose text, whose lens, whose length."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.experiments.exp09_convergence_gap import measure as exp09_measure
from tests import handmade

OPTIONS = experiments.experiment_params("exp09", n_resamples=100)


def profile():
    """Two prompts: IT's KL is 4 and 0 nats over the late half, PT's 2 and 7; PT writes 1 and 3 steps, IT 3 and 1."""
    kl = np.zeros((2, 1, 2, 4))
    kl[:, 0, :, 2:] = np.array([[2.0, 7.0], [4.0, 0.0]])[..., None]
    curves = {
        name: (("variant", "lens", "prompt", "layer"), kl * by)
        for name, by in (("kl_final_layer", 1), ("kl_layer_final", 2))
    }
    commitment = np.array([[[[1.0, 2.0]]], [[[4.0, 3.0]]]])
    return xr.Dataset(
        curves | {"commitment": (("variant", "rule", "lens", "prompt"), commitment),
                  "n_tokens": (("variant", "prompt"), [[2, 4], [4, 2]])},
        {"variant": ["pt", "it"], "lens": ["raw"], "rule": ["r"]},
    )  # fmt: skip


def test_gaps_and_delays_are_it_less_pt_and_tokens_weigh_by_each_models_steps():
    found = exp09_measure.gaps_and_delays(profile(), OPTIONS).sel(lens="raw")
    assert found.convergence_gap.values.tolist() == [-2.5, -5.0] and found.commitment_delay.item() == 2.0
    assert found.convergence_gap_tokens.values.tolist() == [(12 - 23) / 4, 2 * (12 - 23) / 4]
    assert found.convergence_gap_low[0] <= -2.5 <= found.convergence_gap_high[0]


def test_agreement_is_with_the_last_layers_token():
    made = handmade.observed()
    made["top1"][:] = xr.DataArray([7, 3, 3, 8, 3, 3], dims="layer")
    agrees = exp09_measure.with_agreement(made).top1_agreement
    assert (agrees == xr.DataArray([0, 1, 1, 0, 1, 1], dims="layer")).all()


def test_matched_curves_are_through_the_own_lens_and_through_the_others():
    found = exp09_measure.matched_curves(handmade.observed())  # the other's lens has three times the KL
    own, other = (found.kl_final_layer_matched.sel(basis=name, drop=True) for name in ("own", "other"))
    np.testing.assert_allclose(other, 3 * own)
    assert float(own.sum()) > 0


@pytest.mark.parametrize("owner, reader", [("pt", "it"), ("it", "pt"), ("it", "it")])
def test_strata_are_the_owners_and_the_curves_the_readers(owner, reader):
    made, edges = handmade.observed((6, 5, 7)), (0.4, 0.7)
    found = exp09_measure.by_confidence(made, edges)
    curves = found.kl_by_confidence_matched.sel(history=owner, variant=reader, lens="tuned")
    kept = np.flatnonzero(((made.history == owner) & (made.token > 0)).values)
    sure = made.top1_probability.sel(variant=owner, lens="raw").isel(layer=-1, step=kept).values
    kl = (
        made.kl_final_layer.sel(variant=reader, lens="tuned")
        .isel(step=kept)
        .transpose("step", "layer")
        .values
    )
    for stratum, inside in {"low": sure < 0.4, "high": sure >= 0.7}.items():
        assert found.steps_by_confidence.sel(variant=owner, stratum=stratum) == inside.sum()
        for prompt in range(3):
            here = inside & (made.prompt_index.values[kept] == prompt)
            expected = kl[here].mean(0) if here.any() else np.full(6, np.nan)
            np.testing.assert_allclose(curves.sel(stratum=stratum, prompt=prompt), expected)
