"""What the validations of the tuned lens and of the onset are said to show, on results built so that the answer is known."""

from functools import cache, partial

import numpy as np
import pytest

from nbhelpers.core import stats
from nbhelpers.experiments.exp07_0g_tuned_lens import quantities as lens_quantities
from nbhelpers.experiments.exp07_0g_tuned_lens import report as lens_report
from nbhelpers.experiments.exp07_0j_onset import quantities as onset_quantities
from nbhelpers.experiments.exp07_0j_onset import report as onset_report
from nbhelpers.report import verdicts
from nbhelpers.report.quantities import value
from tests import synthetic

N_LAYERS = 12


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as the constructed effects are far from zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=500))
        yield


@cache
def made(key):
    return {f"Pocket {t}": d for t, d in synthetic.results(key, n_prompts=12).items()}


def lenses(pt=0.5, it=0.4, gate=True):
    """Six results in which the tuned lens leaves these shares of the raw lens's KL; one number, or one a pair."""
    found = {}
    sizes = zip(*(np.broadcast_to(each, 6) for each in (pt, it, gate)))
    for (title, d), (keeps_pt, keeps_it, passes) in zip(made("exp07_0g").items(), sizes):
        kl = d.kl_final_layer.copy(deep=True)
        for variant, keeps in (("pt", keeps_pt), ("it", keeps_it)):
            raw = kl.sel(variant=variant, lens="raw", drop=True)
            kl.loc[{"variant": variant, "lens": "tuned"}] = (keeps * raw).transpose(*kl[0, 0].dims)
        found[title] = d.assign(kl_final_layer=kl, gate=("variant", [passes, passes]))
    return found


def test_a_better_lens_is_said_by_how_much():
    verdict = lens_report.verdict(lenses([0.5, 0.4, 0.45, 0.5, 0.5, 0.5], 0.3))
    assert str(verdict) == (
        "**Yes.** On held-out text, at 0.6 of the depth, PT's tuned lens is 50–60 % closer to the final prediction than its "
        "raw lens in all six pocket pairs; IT's is 70 % closer in all six. Both lenses pass the gate (closer at nine tenths "
        "of the layers) in all six. IT's lens was trained on users' turns but reads replies."
    )


def test_a_worse_lens_and_a_missed_gate():
    verdict = lens_report.verdict(lenses(1.5, 1.2, gate=False))
    assert (
        verdict.answer == "No"
        and "50 % farther from the final prediction than its raw lens in all six" in verdict.size
    )
    assert (
        verdict.exception
        == "One lens or both fail the gate (closer at nine tenths of the layers) in all six."
    )
    some = lens_report.verdict(lenses([1.5, *[0.5] * 5], [1.2, *[0.4] * 5], gate=[False, *[True] * 5]))
    assert (
        some.answer == "Mostly"
        and "closer to the final prediction than its raw lens in five of six" in some.size
    )
    assert "gate (closer at nine tenths of the layers) in five of six" in some.exception


def test_lenses_that_differ_between_the_models():
    verdict = lens_report.verdict(lenses(0.5, 1.2))
    assert verdict.answer == "In part" and verdict.size.endswith("; IT's is 20 % farther in all six.")
    one = lens_report.verdict({"Ann": lenses(0.5, 1.2)["Pocket Qwen"]})
    assert one.answer == "In part" and one.size.endswith("than its raw lens; IT's is 20 % farther.")


def test_the_gain_of_agreement_is_tuned_less_raw():
    d = made("exp07_0g")["Pocket Qwen"]
    for v in ("pt", "it"):
        each = d.top1_agreement.sel(variant=v).mean(["layer", "text"])
        wanted = float(each.sel(lens="tuned") - each.sel(lens="raw"))
        assert value(lens_quantities.quantities, d, f"top1_gain.{v}") == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("kl", "text"),
    [(0.0, "0"), (1e-6, "< 0.0001"), (4.9e-5, "< 0.0001"), (6e-5, "0.0001"), (0.0523, "0.0523")],
)
def test_a_divergence_near_zero_is_never_in_powers_of_ten(kl, text):
    assert lens_report.small(kl) == text


def test_a_layer_that_loses_is_below_zero():
    d = lenses()["Pocket Qwen"].copy(deep=True)
    d["kl_final_layer"].loc[{"variant": "pt", "lens": "tuned", "layer": 3}] += 9
    table = lens_report.lens_table({"Ann": d})
    assert table.index.tolist() == ["PT", "IT"]
    gain = table["smallest gain of a layer, nats"]
    assert gain["PT"].startswith("−") and float(gain["IT"]) > 0
    assert table.loc["PT", "layers closer"] == "10 of 11"


def onsets(layers, chance=0.2):
    """Six results whose nine rules find the onset at these layers, −1 for none; one list, or one a pair."""
    layers = np.broadcast_to(layers, (6, 9))
    found = {}
    for (title, d), each in zip(made("exp07_0j").items(), layers):
        d = d.copy(deep=True)
        d["onset"].loc[{"component": "block"}] = each
        d["found_exchanged"].loc[{"component": "block"}] = np.linspace(0, chance, 9)
        found[title] = d
    return found


def test_rules_that_agree():
    verdict = onset_report.verdict(onsets([7, 7, 7, 8, 8, 8, 9, 9, 9], chance=0.31))
    assert str(verdict) == (
        "**It does not depend on the threshold.** The nine rules put the onset at layer 7–9 of 12 in all six pocket pairs, "
        "within the study's 15 %. With PT and IT exchanged at random, the loosest rule fires in 31 % of draws."
    )


def test_rules_that_part_and_onsets_inside_their_baseline():
    near, far, none = [7] * 9, [3, 7, 7, 7, 7, 7, 7, 7, 10], [6, 7, 9, -1, -1, 7, 7, 7, 7]
    verdict = onset_report.verdict(onsets([near, near, near, near, far, none]))
    assert verdict.answer == "It hardly depends on the threshold"
    assert verdict.size == (
        "The nine rules put the onset 3–7 of 12 layers apart in two of six pocket pairs, more than the study's 15 %."
    )
    assert (
        verdict.exception
        == "Some rules find none in OLMo. Some onsets lie inside their own baseline in DeepSeek."
    )
    alone = onset_report.verdict({"Ann": onsets([far] * 6)["Pocket Qwen"]})
    assert str(alone).startswith(
        "**It depends on the threshold.** The nine rules put the onset 7 of 12 layers apart, more than the study's 15 %. "
        "Some onsets lie inside their own baseline. With"
    )


@pytest.mark.parametrize(("last", "apart"), [(9, False), (10, True)])
def test_onsets_may_lie_15_per_cent_of_the_depth_apart(last, apart):
    """Of twelve layers that is two."""
    d = onsets([7] * 8 + [last])["Pocket Qwen"]
    assert onset_report.far_apart(d) is apart
    quantity = onset_quantities.quantities(d)["onset_spread"]
    assert (verdicts.mark(quantity, 0.95) == "▲") is apart and quantity.centre == 2


def test_only_rules_with_a_baseline_can_lie_inside_it():
    """The σ rules come first; layers 0 to 5 are the first half of twelve."""
    source = onset_quantities.quantities
    for layers, inside, without in (
        ([5, 6, 6, 6, 6, 0, 0, 0, 0], 1, 0),
        ([6] * 5 + [-1] * 4, 0, 4),
        ([0, 5, -1, -1, 6] + [7] * 4, 2, 2),
    ):
        d = onsets(layers)["Pocket Qwen"]
        assert value(source, d, "onsets_in_first_half") == inside
        assert value(source, d, "rules_without_onset") == without


def test_no_onset_at_all():
    verdict = onset_report.verdict(onsets([-1] * 9, chance=0))
    assert verdict.answer == "No onset"
    assert verdict.size == "No rule finds an onset in any of the six pocket pairs." and not verdict.exception
    assert np.isnan(value(onset_quantities.quantities, onsets([-1] * 9)["Pocket Qwen"], "onset_spread"))


def test_one_rule_cannot_tell():
    results = {title: d.isel(rule=[3]) for title, d in onsets([7] * 9).items()}
    verdict = onset_report.verdict(results)
    assert verdict.answer == "One threshold cannot tell"
    assert verdict.size == "The one rule puts the onset at layer 7 of 12 in all six pocket pairs."


def test_a_cell_names_the_layer_its_interval_and_chance():
    d = onsets([7] * 9)["Pocket Qwen"].copy(deep=True)
    for rule, layer, low, high, chance in (
        ("0.5 σ", 8, 3, 11, 0.73),
        ("2 σ", 8, 8, 8, 0.3),
        ("drop 0.1", -1, 6, 8, 0.125),
    ):
        at = {"component": "block", "rule": rule}
        d["onset"].loc[at], d["onset_low"].loc[at], d["onset_high"].loc[at] = layer, low, high
        d["found_exchanged"].loc[at] = chance
    column = onset_report.onset_table({"Ann": d})["this pair"]
    assert column["0.5 σ below"] == "layer 8 (3–11); chance 73 %"
    assert column["2 σ below"] == "layer 8; chance 30 %" and column["fall of 0.1"] == "none; chance 12 %"
