"""exp07_0d: intervals, effect sizes, trends and rank correlations, each against SciPy, a plain loop or a case worked by hand.

`made_up` and `opposite` make the results that verdicts and pages are tested on.
"""

from functools import cache, partial

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import stats
from nbhelpers.experiments.exp07_0d_scores import measure, report
from nbhelpers.experiments.exp07_0d_scores.experiment import CLASSES, DEFINITIONS, OUTCOMES
from nbhelpers.experiments.exp07_0d_scores.quantities import quantities
from nbhelpers.measures import scoring
from nbhelpers.report.quantities import value
from tests import synthetic
from tests.specs import complete

OPTIONS = experiments.experiment_params("exp07_0d", n_boot=100, n_resamples=200)
DOSES = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as the constructed effects are far from zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
        yield


def steered(rng, names, lift=1.0):
    """A steering run in which compliance falls on both sides of dose 1 and the structural ratio with it; random directions
    lose sense.
    """
    n, metrics = len(names), [*scoring.METRICS, "nll_unedited"]
    arms = [(f"dose_{d:g}", "dose", d, abs(1 - d)) for d in DOSES]
    arms += [(f"matched_0_{i:02d}", "matched", 0.0, 0.1) for i in range(3)]
    arms += [(f"skip_{k}", "skip", float(k), 1 + k) for k in (1, 2)]
    score = np.full((len(metrics), len(arms), n), np.nan)
    rank = (np.arange(n) + 0.5) / n
    for a, (_, group, _, harm) in enumerate(arms):
        at = dict(zip(metrics, score[:, a]))
        at["format"][:] = rank >= 0.25 * lift * harm
        at["structure"][:] = 0.3 - 0.05 * lift * harm + 0.01 * rng.random(n)
        at["structure_lines"][:] = 0.4 - 0.05 * lift * harm + 0.01 * rng.random(n)
        at["structure_bold"][:] = 0.3 - 0.05 * lift * harm + 0.01 * rng.random(n)
        at["incoherent"][:] = (group == "matched") & (rank < 0.6)
        at["structure"][:] += 0.2 * at["incoherent"]
        at["nll_unedited"][:] = 0.3 + 0.2 * harm + 0.1 * rng.random(n)
        for name in ("choice", "arithmetic", "refusal_harmful"):
            at[name][:] = 1.0
        at["refusal_harmless"][:] = 0.0
    return xr.Dataset(
        {
            "score": (("metric", "arm", "prompt"), score),
            "text": (("shown_arm", "prompt"), np.full((len(DOSES), n), "- Mara bakes bread, of course.")),
        },
        {
            "metric": metrics, "arm": [a[0] for a in arms], "prompt": names, "group": ("arm", [a[1] for a in arms]),
            "dose": ("arm", [a[2] for a in arms]), "shown_arm": [a[0] for a in arms if a[1] == "dose"],
        },
        {"n_layers": 12},
    )  # fmt: skip


def made_up(rng, lift, coords):
    """Results of a run in which the ratio sees what compliance sees, and rises in incoherent replies."""
    found = measure.summarise(steered(rng, coords["prompt"], lift), OPTIONS)
    coords |= {name: found[name].values for name in found.coords if name != "prompt"}
    return {name: (v.dims, v.values) for name, v in found.data_vars.items()}


def opposite(d):
    """The ratio ranks conditions the other way round, compliance rises where the direction is removed, trends turn."""
    score = d.score.copy(deep=True)
    score.loc[{"outcome": "format"}] = 1 - score.sel(outcome="format")
    return d.assign(
        rank_agreement=-d.rank_agreement.sel(end=["mean", "high", "low"]).assign_coords(end=d["end"].values),
        score=score, rho=-d.rho.sel(end=["mean", "high", "low"]).assign_coords(end=d["end"].values),
        by_state=d.by_state.sel(state=["incoherent", "coherent"]).assign_coords(state=d["state"].values),
    )  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def run(rng, n=16):
    return steered(rng, [f"p{i}" for i in range(n)])


def test_doses_are_in_order_and_other_arms_left_out(rng):
    score = measure.by_dose(run(rng).isel(arm=slice(None, None, -1)))
    assert score["dose"].values.tolist() == list(DOSES) and score.sizes == {
        "outcome": len(OUTCOMES),
        "dose": 6,
        "prompt": 16,
    }
    wanted = run(np.random.default_rng(5))["score"].sel(metric="format", arm="dose_0.5")
    np.testing.assert_array_equal(score.sel(outcome="format", dose=0.5), wanted)


def test_doubled_rows_shorten_an_interval_by_about_the_root_of_two(rng):
    score = measure.by_dose(run(rng, 40))
    found = measure.half_widths(score, OPTIONS.model_copy(update={"n_resamples": 4000}))
    ratio = (found.sel(counted="doubled") / found.sel(counted="prompt")).sel(outcome="nll_unedited")
    np.testing.assert_allclose(ratio, 1 / np.sqrt(2), rtol=0.08)
    ends = stats.bca_mean(score.sel(outcome="nll_unedited", dose=0.0).values, n_resamples=4000)
    wanted = (ends.high - ends.low) / 2
    assert float(found.sel(outcome="nll_unedited", counted="prompt")[1]) == pytest.approx(wanted, rel=0.1)
    assert (found.sel(outcome="choice") == 0).all()


def test_effect_sizes_are_those_of_the_definitions(rng):
    score = measure.by_dose(run(rng))
    found = measure.effect_sizes(score)
    o, k = OUTCOMES.index("nll_unedited"), 0
    a, b = score.values[o, k], score.sel(dose=1.0).values[o]
    assert found["d_paired"][o, k] == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    pooled = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    assert found["d_pooled"][o, k] == pytest.approx((a - b).mean() / pooled)
    assert np.isnan(found["d_pooled"][OUTCOMES.index("choice"), 0])
    assert measure.pooled_d(np.array([1.0, 3.0]), np.array([np.nan, 1.0, 1.0])) == pytest.approx(1.0)


def test_a_curve_with_its_top_at_one_has_a_trend_on_each_side_and_none_over_all(rng):
    found = measure.trends(measure.by_dose(run(rng)), OPTIONS)
    rho = found.rho.sel(outcome="nll_unedited", end="mean")
    assert rho.sel(branch="below") == -1 and rho.sel(branch="above") == 1
    assert abs(rho.sel(branch="whole")) < 0.9
    assert (found.page_p.sel(outcome="nll_unedited", branch=["below", "above"]) < 0.01).all()
    assert np.isnan(found.rho.sel(outcome="choice")).all() and (found.page_p.sel(outcome="choice") == 1).all()


def test_rank_correlations_are_scipy_s(rng):
    a, b = rng.random((4, 9)), np.round(rng.random((4, 9)), 1)
    wanted = [scipy.stats.spearmanr(x, y).statistic for x, y in zip(a, b)]
    np.testing.assert_allclose(measure.spearman(a, b), wanted)
    a[1, 3] = np.nan
    b[2] = 1.0
    assert np.isnan(measure.spearman(a, b)[[1, 2]]).all()


def test_means_count_each_prompt_as_often_as_it_was_drawn(rng):
    values = rng.random((5, 3))
    values[2, 1] = np.nan
    counts = np.array([[1.0, 1, 1, 1, 1], [0, 2, 3, 0, 0]])
    found = measure.weighted_means(values, counts)
    np.testing.assert_allclose(found[0], np.nanmean(values, 0))
    np.testing.assert_allclose(
        found[1], [values[[1, 1, 2, 2, 2], 0].mean(), values[1, 1], values[[1, 1, 2, 2, 2], 2].mean()]
    )


def test_conditions_average_random_directions_of_one_dose(rng):
    dataset = run(rng)
    found = measure.conditions(dataset)
    assert found["condition"].values.tolist() == sorted(
        [f"dose_{d:g}" for d in DOSES] + ["matched_0", "skip_1", "skip_2"]
    )
    mean = dataset["score"].sel(metric="structure").isel(arm=slice(6, 9)).mean("arm")
    np.testing.assert_allclose(found.sel(metric="structure", condition="matched_0"), mean)


def test_sane_conditions_leave_out_incoherent_ones_and_ranks_agree_as_in_scipy(rng):
    score = measure.conditions(run(rng))
    found = measure.agreements(score, OPTIONS)
    means = score.mean("prompt")
    lost = means.sel(metric="incoherent").values
    assert lost[6] == pytest.approx(10 / 16) and np.delete(lost, 6).max() == 0
    for kind, kept in {"every": slice(None), "sane": lost <= 0.2, "doses": slice(0, 6)}.items():
        wanted = scipy.stats.spearmanr(
            means.sel(metric="structure")[kept], means.sel(metric="format")[kept]
        ).statistic
        at = {"definition": "structure", "other": "format", "kind": kind, "end": "mean"}
        assert float(found.rank_agreement.sel(at)) == pytest.approx(wanted), kind
    np.testing.assert_allclose(found.rank_agreement.sel(definition="format", other="format", end="mean"), 1)


def test_incoherent_replies_stand_beside_the_same_prompt_s_coherent_ones(rng):
    dataset = run(rng)
    found = measure.by_state(dataset)
    score, lost = dataset["score"].sel(metric="structure"), dataset["score"].sel(metric="incoherent") == 1
    assert float(found.sel(definition="structure", state="incoherent").isel(prompt=0)) == pytest.approx(
        float(score.isel(prompt=0).values[lost.isel(prompt=0).values].mean())
    )
    assert found.sel(definition="structure", state="incoherent").isel(prompt=15).isnull()


def test_shares_of_classes_add_up_to_one_and_an_empty_reply_has_none(rng):
    dataset = run(rng)
    text = dataset["text"].copy(deep=True).astype(object)
    text[0, 0] = ""
    found = measure.class_shares(dataset.assign(text=text), np.array(DOSES))
    assert found.dims == ("token_class", "dose", "prompt") and found["token_class"].values.tolist() == list(
        CLASSES
    )
    assert found[:, 0, 0].isnull().all()
    np.testing.assert_allclose(found.sum("token_class", skipna=False)[1:], 1)
    # "-" is structural, "of course." discourse, of six units.
    np.testing.assert_allclose(found.sel(token_class="STRUCTURAL")[1:], 1 / 6)
    np.testing.assert_allclose(found.sel(token_class="DISCOURSE")[1:], 2 / 6)


@cache
def results():
    return {f"Pocket {t}": d for t, d in synthetic.results("exp07_0d", n_prompts=12).items()}


def test_quantities_are_those_of_the_dataset():
    d = results()["Pocket Llama"]
    complete(d, "exp07_0d")
    assert value(quantities, d, "change.format.dose_0") == pytest.approx(
        float((d.score.sel(outcome="format", dose=0) - d.score.sel(outcome="format", dose=1)).mean())
    )
    assert value(quantities, d, "doubled_ratio.mean") == pytest.approx(1 / np.sqrt(2), rel=0.15)
    assert value(quantities, d, "structure_lost.structure") > 0
    assert value(quantities, d, "enrichment.STRUCTURAL.dose_2") == pytest.approx(1)
    assert value(quantities, d, "rho_turn.format") > 0
    assert {f"agreement.structure.{name}.every" for name in DEFINITIONS[1:]} <= set(quantities(d))


def test_a_turn_needs_both_branches():
    d = results()["Pocket Llama"]
    page = d.page_p.copy(deep=True)
    page.loc[{"outcome": "format", "branch": "below"}], page.loc[{"outcome": "format", "branch": "above"}] = (
        0.01,
        0.2,
    )
    assert value(quantities, d.assign(page_p=page), "turn_p.format") == pytest.approx(0.2)
    assert value(quantities, opposite(d), "turn_p.format") == 1


def test_one_score_stands_for_another_from_eight_tenths_on():
    d = results()["Pocket Llama"]
    rho = d.rank_agreement.copy(deep=True)
    for other, size in (("structure_lines", 0.8), ("format", 0.79)):
        rho.loc[{"definition": "structure", "other": other, "kind": "every", "end": "mean"}] = size
    found = d.assign(rank_agreement=rho)
    assert value(quantities, found, "stands_for.structure_lines") == 1
    assert value(quantities, found, "stands_for.format") == 0
    assert report.stands_for({"a": found}, "structure_lines") and not report.stands_for(
        {"a": found}, "format"
    )


def test_a_score_that_never_varies_has_an_exact_interval():
    told = report.counted({"a": results()["Pocket Llama"]})["a"]
    assert told["right choice"] == "all alike, 1.00 [0.74, 1.00]" and told[
        "structural token ratio"
    ].startswith("±")


@pytest.mark.slow
def test_each_validation_has_a_verdict_of_its_own():
    turned = {t: opposite(d) for t, d in results().items()}
    for say in (report.verdict_0d, report.verdict_0e):
        made = say(results())
        assert made.words <= 60 and str(made) != str(say(turned)) and "nan" not in str(made)
    assert "in all six" in report.verdict_0e(results()).answer and "none" in report.verdict_0e(turned).answer


def test_what_no_prompt_supports_is_nan_and_no_error(rng):
    dataset = run(rng)
    score = dataset["score"].copy(deep=True)
    score.loc[{"metric": ["choice", "arithmetic", "refusal_harmful", "refusal_harmless", "format"]}] = np.nan
    found = measure.summarise(dataset.assign(score=score), OPTIONS)
    assert found.half_width.sel(outcome="format").isnull().all()
    assert found.rank_agreement.sel(definition="structure", other="format").isnull().all()
    one = {"A pair": found.assign_attrs(n_layers=12, model="llama_pocket", profile="pocket")}
    assert "nan" not in str(report.verdict(one)).lower()
