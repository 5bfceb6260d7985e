"""What the graft experiments are said to show, on results built so that the answer is known."""

from functools import cache, partial

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp11_matched_prefix import quantities as exp11_quantities
from nbhelpers.experiments.exp11_matched_prefix import report as exp11_report
from nbhelpers.experiments.exp13_token_support import quantities as exp13_quantities
from nbhelpers.experiments.exp13_token_support import report as exp13_report
from nbhelpers.experiments.exp13_token_support import support
from nbhelpers.experiments.exp14_symmetric_causality import report as exp14_report
from nbhelpers.report.quantities import named, value
from tests import synthetic

pytestmark = pytest.mark.slow
N = 12
NOISE = np.random.default_rng(4).normal(0, 0.01, N)
NOISE -= NOISE.mean()


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as the constructed effects are far from zero, or at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=500))
        yield


@cache
def made(key):
    return {f"Pocket {t}": d for t, d in synthetic.results(key, n_prompts=N).items()}


def by_prompt(mean, d):
    """Values over prompts with exactly this mean, and little spread."""
    return xr.DataArray(mean + NOISE, dims="prompt", coords={"prompt": d.prompt})


def grafted(d, **effects):
    """exp11's dataset in which conditions of PT differ from PT by the given nats, in every layer and lens."""
    kl = d.kl_layer_final.copy(deep=True)
    base = kl.sel(condition="A'", drop=True)
    for condition, nats in effects.items():
        kl.loc[{"condition": condition}] = (base + by_prompt(nats, d)).transpose(*kl.isel(condition=0).dims)
    return d.assign(kl_layer_final=kl)


def exp11(graft, scrambled, shuffled):
    """Six results with these effects in PT; each argument is one number or one a pair."""
    sizes = zip(*(np.broadcast_to(each, 6) for each in (graft, scrambled, shuffled)))
    return {
        title: grafted(d, B_late=g, B_late_scrambled=s, B_late_permuted=p)
        for (title, d), (g, s, p) in zip(made("exp11").items(), sizes)
    }


def test_a_passed_control_is_said_with_its_sizes():
    verdict = exp11_report.verdict(
        exp11([0.1, 0.12, 0.14, 0.16, 0.18, 0], [0.01, 0.03, 0.02, 0.02, 0.01, 0.09], 0.09)
    )
    assert verdict.answer == "Mostly, and not through just any change"
    assert verdict.size.endswith(
        "IT's late MLPs put PT's late layers 0.10–0.18 nats farther from its final prediction in five of six pocket pairs "
        "(undecided in OLMo)."
    )
    assert (
        verdict.exception == "A scrambled change of equal size gives 0.01–0.03 nats, clearly less in those."
    )
    assert verdict.caveat == "With IT's layers in shuffled order, 50 % (DeepSeek) to 90 % (Gemma) is left."


def test_a_failed_control_is_said_too():
    failed = exp11_report.verdict(exp11(0.1, 0.1, 0.126))
    assert failed.answer == "Yes" and failed.exception.endswith("gives 0.10 nats, not clearly less.")
    assert failed.caveat == "With IT's layers in shuffled order, 126 % is left."
    some = exp11_report.verdict(exp11(0.1, [0.1, 0.1, 0.02, 0.02, 0.02, 0.02], 0.05))
    assert some.answer == "Yes" and some.exception.endswith(
        "clearly less in four of six (not in Gemma or Llama)."
    )
    one = exp11_report.verdict({"Ann": exp11(0.1, 0.02, 0.05)["Pocket Qwen"]})
    assert str(one).endswith(
        "gives 0.02 nats, clearly less. With IT's layers in shuffled order, 50 % is left."
    )


def test_a_graft_that_brings_pt_nearer_is_no_delay():
    verdict = exp11_report.verdict(exp11(-0.1, 0.02, -0.05))
    assert (
        verdict.answer == "No"
        and "0.10 nats nearer to its final prediction in all six pocket pairs" in verdict.size
    )
    assert "Shuffled" not in str(verdict) and verdict.exception.endswith("not clearly less.")


def test_more_than_a_control_is_the_difference_by_prompt():
    d = exp11(0.1, 0.03, 0.06)["Pocket Qwen"]
    source = exp11_quantities.quantities
    for control, wanted in (("scrambled", 0.07), ("permuted", 0.04)):
        for lens in ("raw", "tuned"):
            assert value(source, d, f"beyond.{control}.{lens}") == pytest.approx(wanted, abs=1e-6)
            graft, other = (
                named(source, f"shift.kl_layer_final.sufficiency.{name}.{lens}")(d)
                for name in ("graft", control)
            )
            np.testing.assert_allclose(named(source, f"beyond.{control}.{lens}")(d), graft - other)


def caused(sufficiency, necessity, through_pt, strongest=1.0):
    """Six results of exp14 with these late shifts of KL(layer ‖ own final); the first two through each host's own lens.

    Other windows move it by a tenth of a nat in PT. strongest: the probability that late is the strongest.
    """
    found, at = {}, {"readout": "kl_layer_final", "region": "final_fifth", "lens": "tuned"}
    sizes = zip(*(np.broadcast_to(each, 6) for each in (sufficiency, necessity, through_pt, strongest)))
    for (title, d), (put, taken, by_pt, likely) in zip(made("exp14").items(), sizes):
        shift, chance = d["shift"].astype(float).copy(deep=True), d.strongest.copy(deep=True)
        shift.loc[at | {"side": "sufficiency"}] = (
            0.1 + 0 * shift.sel(at | {"side": "sufficiency"}) + by_prompt(0, d)
        )
        for side, basis, nats in (
            ("sufficiency", "host", put), ("necessity", "host", taken), ("necessity", "pt", by_pt),
        ):  # fmt: skip
            shift.loc[at | {"side": side, "basis": basis, "window": "late"}] = by_prompt(nats, d).values
        chance.loc[at | {"side": "sufficiency", "basis": "host", "window": "late"}] = likely
        found[title] = d.assign(shift=shift, strongest=chance)
    return found


def test_necessity_that_turns_with_the_lens_is_said_to():
    verdict = exp14_report.verdict(caused(0.2, [0, 0, 0.05, 0, -0.09, 0.09], -0.3))
    assert verdict.answer == "Sufficient: yes; necessary: by PT's lens only"
    assert verdict.exception == (
        "PT's late MLPs put IT's farther in Qwen and OLMo, nearer in DeepSeek; by PT's lens, nearer in all six."
    )
    alone = exp14_report.verdict({"Ann": caused(0.2, 0, -0.3)["Pocket Qwen"]})
    assert (
        alone.exception == "PT's late MLPs put IT's neither surely nearer nor farther; by PT's lens, nearer."
    )


@pytest.mark.parametrize(
    ("taken", "by_pt", "answer", "said"),
    [
        (-0.2, -0.3, "yes", "nearer in all six."), (0.2, 0.3, "no", "farther in all six."),
        (-0.2, 0.3, "yes", "nearer in all six; by PT's lens, farther in all six."),
        (0, 0, "undecided", "neither surely nearer nor farther."),
        ([-0.2] * 4 + [0.2] * 2, -0.3, "mostly",
         "nearer in four of six, farther in DeepSeek and OLMo; by PT's lens, nearer in all six."),
    ],
)  # fmt: skip
def test_necessity_by_the_host_s_lens_and_by_pt_s(taken, by_pt, answer, said):
    verdict = exp14_report.verdict(caused(0.2, taken, by_pt))
    assert verdict.answer == f"Sufficient: yes; necessary: {answer}"
    assert verdict.exception == f"PT's late MLPs put IT's {said}"


@pytest.mark.parametrize(
    ("sufficiency", "likely", "said"),
    [
        ([0.02, *[0.2] * 5], [0.0, 0.5, *[1.0] * 4], "Late MLPs outdo earlier ones in five, surely in four."),
        (0.2, 1.0, "Late MLPs surely outdo earlier ones in all six."),
        (0.2, 0.94, "Late MLPs outdo earlier ones in all six, surely in none."),
        (0.2, [0.95, *[0.9] * 5], "Late MLPs outdo earlier ones in all six, surely in Gemma."),
        (0.05, 1.0, "Other MLPs move PT more than late ones in every pair."),
        (-0.2, 1.0, "Other MLPs move PT more than late ones in every pair."),
    ],
)
def test_the_strongest_window_is_counted_by_its_mean_and_by_its_probability(sufficiency, likely, said):
    assert exp14_report.verdict(caused(sufficiency, 0, 0, likely)).caveat == said


def test_the_strongest_window_of_one_pair():
    def said(put, likely):
        return exp14_report.verdict({"Ann": caused(put, 0, 0, likely)["Pocket Qwen"]}).caveat

    assert said(0.2, 1.0) == "Late MLPs surely outdo earlier ones."
    assert said(0.2, 0.9) == "Late MLPs outdo earlier ones, but not surely."
    assert said(0.02, 0.0) == "Other MLPs move PT more than late ones."


def test_the_shift_of_a_class_is_that_of_all_cells_with_the_interval_of_a_ratio():
    d = made("exp13")["Pocket Llama"]
    counts = d.replaced.sel(condition=["B_late"], lens=["tuned"])
    whole = support.shares(counts, n_resamples=4000).squeeze().sel(role="change")
    for kind in ("content", "function", "punctuation"):
        values = named(exp13_quantities.quantities, f"class_shift.{kind}")(d)
        want = whole.sel(token_class=kind)
        assert float(values.mean()) == pytest.approx(float(want.value), abs=1e-12)
        ends = stats.bca_mean(values.values, n_resamples=4000)
        np.testing.assert_allclose([ends.low, ends.high], [want.low, want.high], atol=0.006)
        assert float(want.high - want.low) > 0.02


def tokens(brought=0.0, content=0.0, function=0.0, r=0.1):
    """Six results of exp13: cells won by content words beyond those lost, as a share, and gains of ln rank."""
    found = {}
    for title, d in made("exp13").items():
        counts = 0 * d.replaced
        counts.loc[{"displaced": "content", "supported": "function"}] = 500
        counts.loc[{"displaced": "function", "supported": "content"}] = 500 + 1000 * brought
        gains = d.log_rank_gain.copy(deep=True)
        for kind, gain in (("content", content), ("function", function)):
            gains.loc[{"token_class": kind}] = 0 * gains.sel(token_class=kind, drop=True) + by_prompt(gain, d)
        counts = counts + xr.DataArray(np.arange(N) % 2, dims="prompt") * (counts > 0)
        found[title] = d.assign(replaced=counts, log_rank_gain=gains, r=0 * d.r + r)
    return found


def test_no_shift_towards_content_words_and_ranks_that_improve():
    verdict = exp13_report.verdict(tokens(0, content=0.2, function=0.7))
    assert str(verdict) == (
        "**No clear shift towards content words.** What IT's late MLPs put first in PT is a content word about as often as "
        "what they displace (0 points in six pocket pairs). The reply's next token moves up in all six (ranks 18 % lower for "
        "content, 50 % for function words). Late updates and late distance correlate by |r| ≤ 0.10."
    )


@pytest.mark.parametrize(
    ("brought", "answer", "often"),
    [(0.2, "Towards", "more often in all six than what they displace (+17 points"),
     (-0.2, "Away from", "less often in all six than what they displace (−25 points")],
)  # fmt: skip
def test_a_shift_of_content_words_has_a_direction(brought, answer, often):
    verdict = exp13_report.verdict(tokens(brought, content=-0.1, function=-0.1))
    assert verdict.answer == f"{answer} content words" and often in verdict.size
    assert (
        "moves down in all six (ranks 11 % higher for content, 11 % for function words)" in verdict.exception
    )


def test_classes_that_part_have_a_clause_each():
    verdict = exp13_report.verdict(tokens(content=0.2, function=0))
    assert verdict.exception == (
        "A content word that comes next moves up in all six (18 % lower); a function word moves neither surely up nor down "
        "in all six."
    )


def test_function_words_are_compared_with_content_words():
    d = tokens(content=0.2, function=0.7)["Pocket Llama"]
    assert value(exp13_quantities.quantities, d, "function_before_content") == pytest.approx(0.5)


def test_a_class_that_no_reply_has_is_said_to_be_missing():
    d = tokens(content=0.2)["Pocket Llama"].copy(deep=True)
    d["log_rank_gain"].loc[{"token_class": "function"}] = np.nan
    said = str(exp13_report.verdict({"Ann": d.assign(r=d.r * np.nan)}))
    assert "a function word stands in too few prompts." in said and "correlate" not in said
