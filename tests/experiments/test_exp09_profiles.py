"""Profiles from steps of our own choosing: which steps count, which rule is which, what is left open."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.core.params import VARIANTS
from nbhelpers.experiments.exp09_convergence_gap import measure as exp09_measure
from nbhelpers.measures import steps
from tests import handmade

OPTIONS = experiments.experiment_params("exp09", n_resamples=200)


def with_kl(curve, n_layers=6):
    """Steps that all have one KL trajectory, and whose top-1 token is the final one from layer 4 on."""
    made = handmade.observed(n_layers=n_layers)
    made["kl_final_layer"][:] = xr.DataArray(curve, dims="layer")
    made["top1"][:] = xr.DataArray([7, 3, 7, 8, 7, 7], dims="layer")
    return made


def test_commitment_uses_the_rules_as_convergence_defines_them():
    """Below 0.1 nats at layer 1, above it at layer 2, below from layer 3 on."""
    found = exp09_measure.commitment(with_kl([2.0, 0.08, 0.3, 0.09, 0.04, 0.0]), "it", OPTIONS)
    expected = {
        "top1_first": 0, "top1_strict": 4, "top1_stable3": 4, "kl_first_0.1": 1, "kl_stays_0.05": 4,
        "kl_stays_0.1": 3, "kl_stays_0.2": 3, "kl_stays_0.5": 1, "kl_stays_1.0": 1, "majority_0.1": 3,
        "majority_below_0.1": 3, "kl_qualified_0.5_3x": 1,
    }  # fmt: skip
    for rule, layer in expected.items():
        one = found.sel(rule=rule)
        assert (one.commitment == layer).all(), rule
        assert one.commitment_count.sel(lens="raw").values.tolist() == [9 * (i == layer) for i in range(6)]
    assert set(found.rule.values) == {*expected, "entropy_0.2", "cosine_0.95"}


def test_commitment_takes_its_thresholds_from_the_parameters():
    options = OPTIONS.model_copy(
        update=dict(kl_threshold=0.35, kl_grid=(0.06,), majority_share=0.6, stable_window=2)
    )
    found = exp09_measure.commitment(with_kl([2.0, 0.08, 0.3, 0.4, 0.04, 0.0]), "pt", options).commitment
    of_kl = [rule for rule in found.rule.values if rule not in ("entropy_0.2", "cosine_0.95")]
    by_rule = {rule: int(found.sel(rule=rule, lens="raw", prompt=0)) for rule in of_kl}
    assert by_rule == {
        "top1_first": 0, "top1_strict": 4, "top1_stable2": 4, "kl_first_0.35": 1, "kl_stays_0.06": 4,
        "kl_stays_0.35": 4, "majority_0.35": 0, "majority_below_0.35": 1, "kl_qualified_0.5_3x": 1,
    }  # fmt: skip


def test_means_are_over_a_prompts_own_steps_and_open_where_it_has_none():
    made = handmade.observed({"pt": (1, 3, 2), "it": (2, 1, 4)})
    for variant, empty in (("pt", 0), ("it", 1)):
        profile = exp09_measure.free_profile(made, variant)
        for prompt in range(3):
            at = (made.history == variant) & (made.prompt_index == prompt) & (made.token > 0)
            slow = made.entropy.sel(variant=variant).isel(step=np.flatnonzero(at.values))
            expected = (
                np.full((2, 6), np.nan) if prompt == empty else slow.mean("step").transpose("lens", "layer")
            )
            np.testing.assert_allclose(
                profile.entropy.sel(prompt=prompt).transpose("lens", "layer"), expected
            )
        assert profile.entropy_first.notnull().all()


def test_a_prompt_without_steps_is_left_out_of_paired_differences_only():
    made = handmade.observed({"pt": (1, 3, 2, 4), "it": (2, 3, 4, 3)})
    result = exp09_measure.summarise(made, OPTIONS)
    kept = exp09_measure.summarise(
        made.isel(step=np.flatnonzero((made.prompt_index > 0).values)).assign_coords(
            prompt_index=("step", made.prompt_index.values[made.prompt_index.values > 0] - 1)
        ).isel(prompt=slice(1, None)),
        OPTIONS,
    )  # fmt: skip
    for name in ("convergence_gap", "convergence_gap_low", "commitment_delay", "commitment_delay_high"):
        np.testing.assert_allclose(result[name], kept[name], err_msg=name)
    assert np.isfinite(result.convergence_gap_tokens).all()


def test_an_edge_belongs_to_the_higher_stratum():
    edges = OPTIONS.confidence_edges
    assert steps.strata(np.array([0.0, 0.49, 0.5, 0.89, 0.9, 1.0]), edges).tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(params.ParameterError, match="the lower one first"):
        experiments.experiment_params("exp09", confidence_edges=[0.9, 0.5])


def test_confidence_is_of_the_last_layer_and_the_writer():
    made = handmade.observed()
    made["top1_probability"][:] = 0.0
    made["top1_probability"].loc[dict(variant="pt", lens="raw", layer=5)] = 0.95
    found = exp09_measure.by_confidence(made, OPTIONS.confidence_edges)
    assert found.steps_by_confidence.sel(variant="pt").values.tolist() == [0, 0, 9]
    assert found.steps_by_confidence.sel(variant="it").values.tolist() == [9, 0, 0]
    for history, stratum in (("pt", "high"), ("it", "low")):
        for variant in VARIANTS:
            curve = found.kl_by_confidence_matched.sel(history=history, variant=variant)
            assert curve.sel(stratum=stratum).notnull().all()
            assert curve.drop_sel(stratum=stratum).isnull().all()


def test_strata_weighted_by_their_steps_make_the_whole_curve():
    made = handmade.observed((9, 6, 12), seed=4)
    found, whole = (
        exp09_measure.by_confidence(made, OPTIONS.confidence_edges),
        exp09_measure.free_profile(made, "it"),
    )
    own = steps.free_steps(made, "it")
    stratum = steps.strata(steps.confidence(own), OPTIONS.confidence_edges)
    weights = np.array(
        [[((stratum == s) & (own.prompt_index.values == p)).sum() for p in range(3)] for s in range(3)]
    )
    curve = found.kl_by_confidence.sel(variant="it").transpose("stratum", "prompt", "lens", "layer")
    total = (weights[..., None, None] * curve.fillna(0)).sum("stratum") / weights.sum(0)[:, None, None]
    np.testing.assert_allclose(total, whole.kl_final_layer.transpose("prompt", "lens", "layer"))


def test_steps_that_few_prompts_reach_are_left_open():
    made = handmade.observed((4, 3, 4, 2))
    found = exp09_measure.cosine_by_step(exp09_measure.cosine_sums(made), fewest=3)
    reached = [n for n in range(4) if np.isfinite(found.sel(token=n)).all()]
    assert reached == [1, 2] and np.isnan(found.sel(token=[0, 3])).all()
    pt = made.delta_cosine.sel(variant="pt", component="block")
    at = np.flatnonzero(((made.history == "pt") & (made.token == 2)).values)
    np.testing.assert_allclose(found.sel(variant="pt", token=2), pt.isel(step=at).mean("step"))
