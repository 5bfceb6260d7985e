"""Quantities of the slices on results set by hand: which layers, which lens, whose text, over what they divide."""

from functools import cache

import numpy as np
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import stats
from nbhelpers.report import quantities as shared
from nbhelpers.report.quantities import value
from tests import synthetic

N, ONSET, FIFTH = 12, 7, 9  # layers, the first late one, the first of the final fifth


@cache
def kept(key):
    return synthetic.dataset("llama", key, n_prompts=24)


def made(key):
    """A result whose variables may be changed."""
    return kept(key).copy(deep=True)


def of(key, result, name, part="quantities", *arguments):
    """The value of a quantity, from all of a slice or from one part; of a copy: quantities are kept with their dataset."""
    source = getattr(experiments.part(key, "quantities"), part)
    return value(lambda dataset: source(dataset, *arguments), result.copy(), name)


def across(key, **gains):
    """The quantities over families of values by family, each one prompt's."""
    name = {"exp07_0g": "lens_improvement.pt", "exp11": "kl_shift.final_fifth.late"}[key]
    found = {
        family: {name: shared.Quantity(xr.DataArray([gain], dims="prompt"), "1", "level")}
        for family, gain in gains.items()
    }
    return {name: one.values for name, one in experiments.part(key, "quantities").across(found).items()}


def by_layer(values):
    return xr.DataArray(np.asarray(values, dtype=float), dims="layer")


def test_the_end_point_of_exp00_is_the_last_layer():
    d = made("exp00")
    d["entropy"] = d.entropy * 0 + by_layer([*[9.0] * (N - 1), 2.0])
    assert of("exp00", d, "final_entropy.it") == 2.0


def test_the_fall_of_the_support_is_from_the_middle_layer_to_the_last():
    d = made("exp01")
    d["support"] = d.support * 0 + by_layer(np.exp([9, 9, 9, 9, 9, 9, 3, 9, 9, 9, 9, 1]))
    assert of("exp01", d, "support_fall.it") == pytest.approx(2.0)


def test_a_fit_is_of_attribution_and_of_its_own_statistic():
    d = made("exp01")
    d["fit"] = d.fit * 0
    d["fit"].loc[
        {"quantity": "attribution", "statistic": "slope", "selection": "random", "variant": "it"}
    ] = 3.0
    assert of("exp01", d, "attribution_slope.random.it") == 3.0
    assert (
        of("exp01", d, "attribution_pearson.random.it") == of("exp01", d, "attribution_slope.random.pt") == 0
    )


def test_the_templates_effect_elsewhere_leaves_out_the_first_and_the_last_layer():
    d = made("exp02")
    d["template_shift"] = d.template_shift * 0 + by_layer([70.0, *[0.3] * (N - 2), 50.0])
    assert of("exp02", d, "template_effect.other") == pytest.approx(0.3)
    assert of("exp02", d, "template_effect.last") == 50.0


def test_kinds_differ_only_if_they_do_under_every_condition():
    d = made("exp02")
    d["p_layers"] = d.p_layers * 0 + xr.DataArray([0.001, 0.4, 0.01], dims="condition")
    assert of("exp02", d, "kinds_p.entropy") == 0.4


def test_the_template_is_added_to_it_and_the_late_shift_is_over_the_final_fifth():
    d = made("exp02")
    late = by_layer(np.arange(N) >= FIFTH)
    level = xr.DataArray([1.0, 5.0, 3.0], dims="condition")  # PT, IT, IT without template
    d["delta_cosine"] = d.delta_cosine * 0 + level * late
    assert of("exp02", d, "template_shift.last_layer.IC") == 2.0
    assert (
        of("exp02", d, "late_cosine_shift.it") == 4.0 and of("exp02", d, "late_cosine_shift.it_plain") == 2.0
    )
    d["delta_cosine"] = d.delta_cosine * 0 + by_layer(np.arange(N))
    assert of("exp02", d, "delta_cosine_onset.R.pt") == ONSET


def test_the_gap_by_agreement_is_over_the_late_half_on_its_text():
    d = made("exp03")
    on = {"it": {"it": 4.0, "pt": 1.0}, "pt": {"it": 90.0, "pt": 0.0}}  # by history
    levels = [[on[h][v] for h in ("pt", "it")] for v in ("pt", "it")]
    level = xr.DataArray(levels, {"variant": ["pt", "it"], "history": ["pt", "it"]}, ("variant", "history"))
    d["kl_by_agreement"] = d.kl_by_agreement * 0 + level * by_layer(np.arange(N) == N // 2)
    assert of("exp03", d, "gap_by_agreement.same token") == pytest.approx(3 / (N - N // 2))


def test_the_share_of_late_changes_weighs_classes_by_their_frequency():
    d = made("exp03")
    d["late_mind_change"] = d.late_mind_change * 0
    d["class_share"] = d.class_share * 0
    for kind, rate, share in (("structural", 0.5, 0.1), ("content", 0.1, 0.9)):
        d["late_mind_change"].loc[{"token_class": kind}] = rate
        d["class_share"].loc[{"token_class": kind}] = share
    assert of("exp03", d, "late_change_structural_share.it") == pytest.approx(0.05 / (0.05 + 0.09))


def test_turnover_is_over_all_layers_of_a_phase_but_layer_0():
    d = made("exp03")
    d["turnover"] = d.turnover * 0 + by_layer([np.nan, 1, 2, 3, 9, 0, 4, 0, 0, 0, 0, 0])
    assert of("exp03", d, "turnover.content.it") == pytest.approx((1 + 2 + 3 + 9) / 4)
    assert of("exp03", d, "turnover.format.it") == pytest.approx(2.0)


def test_a_delay_is_of_the_first_crossing_and_the_matched_one_on_its_text():
    d = made("exp03")
    d["commitment_by_confidence"] = d.commitment_by_confidence * 0
    at = {"rule": "kl_continuous", "lens": "raw", "stratum": "high", "variant": "it"}
    d["commitment_by_confidence"].loc[at | {"history": "it"}] = 3.0
    d["commitment_by_confidence"].loc[{"variant": "pt", "history": "pt", "stratum": "high"}] = 1.0
    assert of("exp03", d, "delay_by_confidence.high") == 2.0
    assert of("exp03", d, "matched_delay_by_confidence.high") == 3.0


def test_only_the_largest_window_of_all_counts():
    """Ten windows of three layers among twelve, nine among the eleven changes: rank two has a share of 2/10 or 2/9."""
    d = made("exp04")
    d["p_window"][:] = [1 / 10, 2 / 10, 1 / 9, 2 / 9, 1, 1, np.nan, np.nan]
    found = {name: of("exp04", d, name) for name in ("third_is_largest", "profiles", "third_by_chance")}
    assert found == {"third_is_largest": 2, "profiles": 6, "third_by_chance": pytest.approx(6 / 10)}


def test_the_dip_is_that_of_plain_text_and_the_ratio_its_over_pts():
    d = made("exp04")
    d["sharpness"] = d.sharpness * 0 + xr.DataArray(
        [[0.1, 0.4], [9.0, 9.0]],
        {"template": ["raw", "chat"], "variant": ["pt", "it"]},
        ("template", "variant"),
    )
    assert of("exp04", d, "sharpness.it") == 0.4 and of("exp04", d, "sharpness_ratio") == pytest.approx(4)
    d["dimension"] = d.dimension * 0 + by_layer([9.0, 8, 7, 3, 6, 5, 4, 2, 1, 2, 3, 4])
    assert of("exp04", d, "dimension_minimum_layer.it") == 8 and of("exp04", d, "dimension_last.it") == 4


def test_the_lenss_gain_is_a_ratio_of_means_at_six_tenths_of_the_depth():
    d = synthetic.dataset("llama", "exp07_0g", n_prompts=24, n_layers=11)
    raw, tuned = np.linspace(1, 9, d.sizes["text"]), np.linspace(1, 2, d.sizes["text"])
    both = xr.DataArray([raw, tuned], {"lens": ["raw", "tuned"]}, ("lens", "text"))
    d["kl_final_layer"] = d.kl_final_layer * 0 + both * by_layer(np.arange(11) == 6)  # ⌊6.6⌋
    assert of("exp07_0g", d, "lens_improvement.pt") == pytest.approx((5 - 1.5) / 5)
    assert of("exp07_0g", d, "lens_gain.pt") == pytest.approx(3.5)


def test_the_range_of_the_lenss_gain_leaves_gemma_out():
    assert across("exp07_0g", gemma=0.1, llama=0.6, qwen=0.4, olmo=0.5) == {
        "lens_improvement_range.least": 0.4, "lens_improvement_range.most": 0.6,
    }  # fmt: skip


def test_the_range_of_the_grafts_shift_leaves_the_mixture_of_experts_out():
    assert across("exp11", gemma=0.3, llama=0.6, deepseek=0.1, olmo=0.5) == {
        "kl_shift_range.least": 0.3, "kl_shift_range.most": 0.6,
    }  # fmt: skip


def test_an_onset_at_layer_0_is_one_and_no_onset_is_none():
    d = made("exp07_0j")
    d["onset"] = d.onset * 0 + xr.DataArray([5, 3, 0, 7, -1, 6, -1, -1, 11], dims="rule")
    d["found_exchanged"] = d.found_exchanged * 0 + xr.DataArray([0.1, 0.4, *[0.0] * 7], dims="rule")
    assert of("exp07_0j", d, "onset_span.sigma") == 7 and of("exp07_0j", d, "onset_span.all") == 11
    assert of("exp07_0j", d, "onset_by_chance.most") == 0.4
    assert of("exp07_0j", d, "onset.sigma_2") == -1


@pytest.mark.parametrize(
    ("counts", "layer"), [([1, 1], 0), ([1, 2], 1), ([0, 3, 1], 1), ([2, 1, 1], 0), ([0, 0, 5], 2)]
)
def test_half_have_committed_from_the_median_layer_on(counts, layer):
    """Also where exactly half have."""
    found = experiments.part("exp09", "quantities").quantile_layer(xr.DataArray(counts, dims="layer"))
    assert found == layer


def test_means_and_medians_of_commitment_are_over_steps():
    d, rule = made("exp09"), "kl_stays_0.1"
    pt, it = [3, 1, *[0] * (N - 2)], [*[0] * 4, 1, 0, 2, *[0] * (N - 7)]
    counts = xr.DataArray([pt, it], {"variant": ["pt", "it"]}, ("variant", "layer"))
    d["commitment_count"] = d.commitment_count * 0 + counts
    assert of("exp09", d, f"commitment.raw.{rule}.pt", "commitments", "raw") == 0.25
    assert of("exp09", d, f"commitment.raw.{rule}.it", "commitments", "raw") == pytest.approx((4 + 6 + 6) / 3)
    assert of("exp09", d, f"commitment_delay_median.raw.{rule}", "commitments", "raw") == 6


@pytest.mark.parametrize(
    ("above", "crossover", "late"),
    [(range(5, 11), 1, 5), (range(5, 12), 0, 5), ([], N, 0), ([0], 11, 0), ([6, 8], 3, 2)],
)
def test_layers_above_and_where_the_curves_cross(above, crossover, late):
    """Layers of the late half in which IT is above PT, the last apart; layers below it at the end of the stack."""
    d = made("exp09")
    moved = np.where(np.isin(np.arange(N), list(above)), 1.0, -1.0)
    it = xr.DataArray([0.0, 1.0], {"variant": ["pt", "it"]}, ("variant",))
    d["kl_final_layer"] = d.kl_final_layer * 0 + it * by_layer(moved)
    assert (
        of("exp09", d, "crossover.raw", "gaps", "raw") == crossover
        and of("exp09", d, "late_layers_above.raw", "gaps", "raw") == late
    )
    assert of("exp09", d, "layers_above.raw", "gaps", "raw") == np.mean(moved[N // 2 : -1] > 0)


def test_the_extreme_shift_of_the_cosine_is_the_farthest_from_zero_with_its_sign():
    d = made("exp09")
    it = xr.DataArray([0.0, 1.0], {"variant": ["pt", "it"]}, ("variant",))
    d["cosine_to_final"] = d.cosine_to_final * 0 + it * by_layer([0.2, -0.5, 0.3, *[0.0] * (N - 3)])
    assert of("exp09", d, "cosine_to_final_shift.extreme", "updates") == -0.5


def test_layers_and_steps_that_a_shift_of_the_cosine_is_over():
    d = made("exp09")
    it = xr.DataArray([0.0, 1.0], {"variant": ["pt", "it"]}, ("variant",))
    d["delta_cosine"] = d.delta_cosine * 0 + it * by_layer([80, 1, 2, 3, 0, 0, 4, 6, 8, -1, 0, -3])
    found = {
        name: of("exp09", d, f"delta_cosine_shift.{name}", "updates")
        for name in ("early_third", "depth_0.5_0.7", "final_fifth", "last_layer")
    }
    assert found == pytest.approx(
        {"early_third": 2, "depth_0.5_0.7": 5, "final_fifth": -4 / 3, "last_layer": -3}
    )
    assert of("exp09", d, "delta_cosine_layers_below.final_fifth", "updates") == pytest.approx(2 / 3)


def test_a_text_of_n_tokens_has_n_less_one_steps_and_an_empty_one_none():
    d = made("exp09")
    d["n_tokens"] = d.n_tokens * 0 + xr.DataArray([0, 1, 5, *[2] * 21], dims="prompt")
    assert of("exp09", d, "steps.it", "end_point") == 0 + 0 + 4 + 21


def test_matched_gaps_are_through_each_models_own_lens():
    d = made("exp09")
    it = xr.DataArray([0.0, 1.0], {"variant": ["pt", "it"]}, ("variant",))
    own = xr.DataArray([2.0, 70.0], {"basis": ["own", "other"]}, ("basis",))
    history = xr.DataArray([5.0, 1.0], {"history": ["pt", "it"]}, ("history",))
    d["kl_final_layer_matched"] = d.kl_final_layer_matched * 0 + it * own * history
    assert of("exp09", d, "matched_gap_late_half.it.raw", "matched", "raw") == 2.0
    assert of("exp09", d, "matched_gap_late_half.pt.raw", "matched", "raw") == 10.0


def test_a_reversal_is_a_delay_below_zero():
    source = experiments.part("exp09", "quantities")
    cells = [f"commitment_delay.{lens}.{rule}" for lens in ("raw", "tuned") for rule in source.STUDY_RULES]
    delays = [-1.0, 0.0, 0.5, -0.1, *[2.0] * (len(cells) - 4)]
    found = {
        name: shared.Quantity(xr.DataArray([delay], dims="prompt"), "layers", "shift")
        for name, delay in zip(cells, delays)
    }
    assert source.across({"a": found, "b": found})["reversals"].values == 4


def test_a_grafts_mean_over_tokens_weighs_replies_by_their_length():
    d = made("exp11")
    d["n_tokens"] = d.n_tokens * 0 + xr.DataArray([9, *[1] * 23], dims="prompt")
    first = xr.DataArray([32.0, *[0.0] * 23], dims="prompt")
    d["kl_layer_final"] = d.kl_layer_final * 0 + first * (d.condition == "B_late")
    name = "shift.kl_layer_final.sufficiency.graft.tuned"
    assert of("exp11", d, name) == pytest.approx(32 / 24)
    assert of("exp11", d, f"{name}.by_token") == pytest.approx(32 * 9 / 32)


def test_the_template_branch_and_the_commitment_layer_have_their_own_condition_and_lens():
    d = made("exp11")
    d["kl_layer_final"] = d.kl_layer_final * 0 + 3.0 * (d.condition == "B2")
    assert of("exp11", d, "shift.kl_layer_final.template.raw") == 3.0
    d["commitment"] = d.commitment * 0 + 4.0 * (d.basis == "pt")
    assert of("exp11", d, "commitment_layer.c") == 4.0


def test_shares_of_replaced_cells_are_of_layers_times_steps():
    d = made("exp13")
    d["n_steps"] = d.n_steps * 0
    d["n_steps"].loc[{"part": "later", "token_class": "content"}] = 10
    d["cells_per_step"] = (), 3
    d["replaced"] = d.replaced * 0
    d["replaced"].loc[{"displaced": "content", "supported": "function"}] = 6
    assert of("exp13", d, "replaced_share", "replacements") == pytest.approx(6 / 30)


def test_every_step_has_the_same_weight_whatever_its_part_and_class():
    d = made("exp13")
    d["n_steps"] = d.n_steps * 0
    d["n_steps"].loc[{"part": "first", "token_class": "content"}] = 1
    d["n_steps"].loc[{"part": "later", "token_class": "content"}] = 9
    d["n_steps"].loc[{"part": "later", "token_class": "function"}] = 10
    d["late_win"] = d.late_win * 0
    late = {"reader": "B_late", "lens": "tuned"}
    d["late_win"].loc[late | {"part": "first", "token_class": "content"}] = 1.0
    d["late_win"].loc[late | {"part": "later", "token_class": "function"}] = 0.5
    assert of("exp13", d, "late_win.b_late", "late_wins") == pytest.approx((1 + 5) / 20)
    assert of("exp13", d, "late_win_shift.b_late", "late_wins") == pytest.approx(0.3)
    d["rank_gain"] = d.rank_gain * 0 + 1.0 * (d.part == "first")
    assert of("exp13", d, "rank_gain.late.content", "gains") == pytest.approx(0.1)


def test_the_late_win_shift_is_from_pt_with_nothing_replaced():
    d = made("exp13")
    level = {"A'": 0.25, "B_late": 0.75, "C": 0.875}
    d["late_win"] = d.late_win * 0
    for reader, share in level.items():
        d["late_win"].loc[{"reader": reader}] = share
    assert of("exp13", d, "late_win_shift.b_late", "late_wins") == pytest.approx(0.5)


def test_the_largest_correlation_is_that_of_an_update_of_either_sign():
    d = made("exp13")
    d["r"] = d.r * 0
    at = {"scale": "cosine", "kind": "shift", "given": "nothing", "lens": "tuned", "measured": "B_late"}
    d["r"].loc[at | {"feature": "anti_kl"}] = -0.6
    d["r"].loc[at | {"feature": "remainder"}] = 0.5
    d["r"].loc[at | {"feature": "rank_gain"}] = 0.9
    assert of("exp13", d, "shift_r.largest", "correlations") == 0.6


@pytest.mark.parametrize(("side", "sign"), [("sufficiency", 1), ("necessity", -1)])
def test_the_lead_is_in_the_direction_that_the_side_claims(side, sign):
    """The late window moves KL by 3, the mid one by 2, the early one by −1; necessity is claimed to lower it."""
    d = made("exp14")
    size = xr.DataArray([-1.0, 2.0, 3.0], {"window": ["early", "mid", "late"]}, ("window",))
    d["shift"] = d["shift"] * 0 + sign * size * (d.lens == "tuned")
    assert of("exp14", d, f"late_lead.{side}") == pytest.approx(1.0)
    assert of("exp14", d, f"kl_shift.{side}.mid") == sign * 2


def test_the_strongest_window_is_the_late_one_by_read_out_and_lens():
    d = made("exp14")
    d["strongest"] = d.strongest * 0
    d["strongest"].loc[{"window": "late", "readout": "entropy", "region": "window", "lens": "raw"}] = 0.7
    assert of("exp14", d, "strongest_late.entropy.necessity.window.raw", "strongest") == 0.7
    assert of("exp14", d, "strongest_late.entropy.necessity.window.tuned", "strongest") == 0


def test_an_intervals_value_is_its_point_and_not_its_middle():
    found = {"one": shared.Quantity(stats.Interval(*map(np.float64, (1.0, 0.0, 5.0))), "1", "level")}
    assert value(lambda _: found, kept("exp14"), "one") == 1.0
