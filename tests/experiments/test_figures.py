"""Every chart of the book draws, in the families' order and colours, with what a reader chooses from, the numbers right."""

import json
from functools import cache, partial

import numpy as np
import pytest
import vl_convert

from nbhelpers.core import stats
from nbhelpers.experiments.exp00_observations import report as exp00_report
from nbhelpers.experiments.exp01_narrowing import report as exp01_report
from nbhelpers.experiments.exp02_prompt_kinds import report as exp02_report
from nbhelpers.experiments.exp03_corrective_stage import report as exp03_report
from nbhelpers.experiments.exp04_phase_transition import report as exp04_report
from nbhelpers.experiments.exp07_0g_tuned_lens import report as exp07_0g_report
from nbhelpers.experiments.exp07_0j_onset import report as exp07_0j_report
from nbhelpers.experiments.exp09_convergence_gap import figures as exp09_figures
from nbhelpers.experiments.exp09_convergence_gap import quantities as exp09_quantities
from nbhelpers.report import charts, geometry_charts
from nbhelpers.report.families import POOL
from nbhelpers.report.quantities import value
from tests import looks, synthetic
from tests.specs import chart_makers, controls, encodings, filters, pairs_of, rows

LARGEST = 400_000  # bytes of a chart on a page
TEXTS = exp09_quantities.TEXTS
LENS = {"lens": ["raw", "tuned"]}
TEMPLATES = {"template": ["plain text", "chat turn"]}
ESTIMATORS = {"estimator": ["TwoNN", "maximum likelihood"]}
RULES = {"rule": ["first top-1 match", "KL stays below 0.1 nats"]}  # two of all
# name → (experiment, function of results, what the reader chooses from)
FIGURES = {
    "kl_curves": ("exp09", exp09_figures.kl_curves, LENS),
    "kl_layer_final": ("exp09", lambda r: exp09_figures.kl_curves(r, "layer_final"), LENS),
    "kl_tuned": ("exp09", lambda r: exp09_figures.kl_curves(r, lens="tuned"), {}),
    "entropy_profile": ("exp09", exp09_figures.entropy_profile, LENS),
    "confidence_profile": ("exp09", exp09_figures.confidence_profile, LENS),
    "adjacent_profile": ("exp09", exp09_figures.adjacent_profile, LENS),
    "cosine_to_final": ("exp09", exp09_figures.cosine_to_final, {}),
    "delta_cosine": ("exp09", exp09_figures.delta_cosine, {}),
    "delta_cosine_shift": ("exp09", lambda r: exp09_figures.delta_cosine_shift(r, "mlp"), {}),
    "commitment_histograms": ("exp09", exp09_figures.commitment_histograms, LENS | RULES),
    "commitment_cdf": ("exp09", exp09_figures.commitment_cdf, LENS | RULES),
    "threshold_sensitivity": ("exp09", exp09_figures.threshold_sensitivity, LENS),
    "matched_curves": ("exp09", exp09_figures.matched_curves, LENS | {"basis": ["own", "the other model's"]}),
    "gap_intervals": ("exp09", exp09_figures.gap_intervals, {"direction": list(charts.KL.values())}),
    "confidence_gap": ("exp09", exp09_figures.confidence_gap, LENS),
    "category_gap": ("exp09", exp09_figures.category_gap, LENS),
    "delay_intervals": ("exp09", exp09_figures.delay_intervals, RULES),
    "update_levels": ("exp09", exp09_figures.update_levels, {}),
    "cosine_heat": ("exp09", exp09_figures.cosine_heat, {"variant": ["IT", "PT"]}),
    "weight_change": ("exp09", geometry_charts.weight_change, {}),
    "weight_rms": ("exp09", lambda r: geometry_charts.weight_change(r, "rms"), {}),
    "lengths": ("exp00", exp00_report.lengths, {}),
    "support_profile": ("exp01", exp01_report.support_profile, {}),
    "update_breadth": (
        "exp01",
        exp01_report.update_breadth,
        {"component": ["MLP", "attention", "whole block"]},
    ),
    "neuron_breadth": (
        "exp01",
        exp01_report.neuron_breadth,
        {"selection": ["attribution", "random", "impact"]},
    ),
    "breadth_scatter": ("exp01", exp01_report.breadth_scatter, {}),
    "breadth_fits": ("exp01", exp01_report.breadth_fits, {}),
    "kinds_profile": (
        "exp02",
        exp02_report.kinds_profile,
        {"condition": ["PT", "IT", "IT without template"]},
    ),
    "kinds_entropy": (
        "exp02",
        lambda r: exp02_report.kinds_profile(r, "entropy"),
        {"condition": ["PT", "IT", "IT without template"]},
    ),
    "template_overlay": ("exp02", exp02_report.template_overlay, {}),
    "phases_of_revision": ("exp03", exp03_report.phases_of_revision, LENS),
    "turnover": ("exp03", exp03_report.turnover, LENS),
    "emergence": ("exp03", exp03_report.emergence, LENS),
    "minds_by_class": ("exp03", exp03_report.minds_by_class, {}),
    "minds_matched": ("exp03", lambda r: exp03_report.minds_by_class(r, "late_flips", text="it"), {}),
    "commitment_by_confidence": ("exp03", exp03_report.commitment_by_confidence, {}),
    "commitment_matched": ("exp03", lambda r: exp03_report.commitment_by_confidence(r, text="it"), {}),
    "neuron_gini": ("exp03", exp03_report.neuron_gini, {}),
    "dimension_profile": ("exp04", geometry_charts.dimension_profile, ESTIMATORS | TEMPLATES),
    "spectrum_profile": ("exp04", exp04_report.spectrum_profile, TEMPLATES),
    "effective_rank": ("exp04", lambda r: exp04_report.spectrum_profile(r, "effective_rank"), TEMPLATES),
    "attention_shift": (
        "exp04",
        geometry_charts.attention_shift,
        {"template": ["native", "plain text", "chat turn"]},
    ),
    "change_between_layers": ("exp04", exp04_report.change_between_layers, TEMPLATES),
    "tuned_against_raw": ("exp07_0g", exp07_0g_report.tuned_against_raw, {}),
    "agreement_of_lenses": ("exp07_0g", exp07_0g_report.agreement_of_lenses, {}),
    "learning": ("exp07_0g", exp07_0g_report.learning, {}),
    "transfer": ("exp07_0g", exp07_0g_report.transfer, {}),
    "onset_matrix": ("exp07_0j", exp07_0j_report.onset_matrix, {}),
}
# What takes no results, or is a part of a chart.
PARTS = {"entropy_note", "onset_rule", "panels", "chosen", "layer_profile", "shift_profile", "training_loss"}
FORESTS = {
    "gap_intervals", "confidence_gap", "category_gap", "delay_intervals", "breadth_fits", "minds_by_class",
    "minds_matched", "commitment_by_confidence", "commitment_matched", "update_levels",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as no test here is about the ends of an interval."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
        yield


@cache
def made(key):
    return synthetic.results(key, n_prompts=24)


@pytest.fixture(scope="module", params=FIGURES)
def drawn(request):
    """Return each figure's name and specification for six families, in turn."""
    key, draw, _ = FIGURES[request.param]
    return request.param, draw(made(key)).to_dict()


def test_no_chart_is_left_out():
    assert (
        chart_makers(
            charts,
            geometry_charts,
            exp00_report,
            exp01_report,
            exp02_report,
            exp03_report,
            exp04_report,
            exp07_0g_report,
            exp07_0j_report,
            exp09_figures,
        )
        - PARTS
        <= FIGURES.keys()
    )


def test_a_figure_draws_the_families_in_their_order(drawn):
    name, spec = drawn
    svg = vl_convert.vegalite_to_svg(json.dumps(spec, allow_nan=False))
    assert "NaN" not in svg and "undefined" not in svg and "null<" not in svg
    assert all(f">{title}<" in svg for title in synthetic.TITLES)
    assert [title for title in pairs_of(spec) if title != POOL] == synthetic.TITLES
    assert name in FORESTS or (
        spec["columns"] == 3 and list(rows(spec)["panel"].unique()) == synthetic.TITLES
    )


def test_a_difference_has_a_row_a_pair_and_one_axis(drawn):
    name, spec = drawn
    assert (name in FORESTS) == any(e.get("y", {}).get("field") == "panel" for e in encodings(spec))
    if name in FORESTS:
        assert "x" not in spec.get("resolve", {}).get("scale", {})


def test_pt_is_blue_and_dashed_and_it_orange_and_solid(drawn):
    looks.has_the_models_colours(drawn[1])


def test_a_figure_has_a_caption(drawn):
    looks.has_a_caption(drawn[1])


def test_a_figure_speaks_in_words(drawn):
    looks.has_words(drawn[1])
    looks.fits_a_phone(drawn[1])


def test_a_page_opens_on_the_raw_lens(drawn):
    looks.opens_on(drawn[1], "raw")


@pytest.mark.slow
def test_one_model_is_one_larger_panel(drawn):
    key, draw, choices = FIGURES[drawn[0]]
    spec = draw({"Pocket Llama": made(key)["Llama"]}).to_dict()
    assert "facet" not in spec and spec["width"] > charts.PANEL["width"]
    assert controls(spec).keys() == choices.keys()
    svg = vl_convert.vegalite_to_svg(json.dumps(spec))
    assert "NaN" not in svg and "undefined" not in svg


@pytest.mark.slow
def test_a_figure_is_small_and_the_same_bytes_again(drawn):
    key, draw, _ = FIGURES[drawn[0]]
    text = json.dumps(drawn[1], ensure_ascii=False)
    assert len(text.encode()) < LARGEST
    assert json.dumps(draw(made(key)).to_dict(), ensure_ascii=False) == text
    assert '"param_' not in text and '"view_' not in text


def test_axes_are_named(drawn):
    for encoding in encodings(drawn[1]):
        for axis in ("x", "y"):
            if "field" in encoding.get(axis, {}) or "aggregate" in encoding.get(axis, {}):
                assert encoding[axis]["title"] or encoding[axis]["type"] == "nominal"


def test_a_reader_chooses_from_what_the_data_have(drawn):
    _, _, choices = FIGURES[drawn[0]]
    offered, data = controls(drawn[1]), rows(drawn[1])
    assert offered.keys() == choices.keys()
    for field, values in choices.items():
        assert offered[field] == values if field != "rule" else set(values) < set(offered[field])
        assert set(data[field]) == set(offered[field])
        assert f"datum['{field}'] === shown_{field}" in filters(drawn[1])


def at(d, variant, name, **chosen):
    """Return one variant's values of a dataset."""
    return d[name].sel(variant=variant, **chosen)


def shift(d, name, **chosen):
    """Return the mean of IT − PT."""
    return float((at(d, "it", name, **chosen) - at(d, "pt", name, **chosen)).mean())


def late(d, values):
    """Return the mean of IT − PT over the late half of the layers."""
    return float((values.sel(variant="it") - values.sel(variant="pt")).isel(layer=slice(6, None)).mean())


CASES = [
    ("tuned_against_raw", {"lens": "tuned", "variant": "IT", "layer": 4},
     lambda d: at(d, "it", "kl_final_layer", lens="tuned", layer=4).mean()),
    ("agreement_of_lenses", {"lens": "raw", "variant": "PT", "layer": 0},
     lambda d: at(d, "pt", "top1_agreement", lens="raw", layer=0).mean()),
    ("learning", {"variant": "PT", "check": 20}, lambda d: at(d, "pt", "validation_loss", check=20).mean()),
    ("neuron_gini", {"variant": "IT", "layer": 11}, lambda d: at(d, "it", "gini", layer=11)),
    ("matched_curves", {"variant": "IT", "lens": "raw", "basis": "the other model's", "layer": 3},
     lambda d: at(d, "it", "kl_final_layer_matched", lens="raw", basis="other", history="it", layer=3).mean()),
    ("gap_intervals", {"lens": "raw lens", "text": TEXTS["own"], "direction": charts.KL["final_layer"]},
     lambda d: value(exp09_quantities.quantities, d, "kl_excess_late_half.raw")),
    ("gap_intervals", {"lens": "raw lens", "text": TEXTS["pt"], "direction": charts.KL["final_layer"]},
     lambda d: value(exp09_quantities.quantities, d, "matched_gap_late_half.pt.raw")),
    ("gap_intervals", {"lens": "tuned lens", "text": TEXTS["own"], "direction": charts.KL["final_layer"]},
     lambda d: d.convergence_gap.sel(lens="tuned", direction="final_layer")),
    ("delay_intervals", {"lens": "raw lens", "rule": "KL stays below 0.1 nats"},
     lambda d: value(exp09_quantities.quantities, d, "commitment_delay.raw.kl_stays_0.1")),
    ("update_levels", {"variant": "IT"},
     lambda d: at(d, "it", "delta_cosine", component="block").isel(layer=slice(9, None)).mean()),
    ("confidence_gap", {"confidence": "high", "text": TEXTS["own"], "lens": "raw"},
     lambda d: late(d, d.kl_by_confidence.sel(stratum="high", lens="raw"))),
    ("category_gap", {"category": "story", "lens": "raw"},
     lambda d: late(d, d.kl_final_layer.sel(lens="raw").isel(prompt=d.category.values == "story"))),
    ("weight_change", {"group": "MLP", "layer": 2}, lambda d: d.weight_relative.sel(group="mlp", layer=2)),
    ("weight_rms", {"group": "norms", "layer": 2}, lambda d: d.weight_rms.sel(group="norm", layer=2)),
    ("support_profile", {"variant": "IT", "layer": 6}, lambda d: at(d, "it", "support", layer=6).mean()),
    ("update_breadth", {"variant": "PT", "component": "MLP", "layer": 6},
     lambda d: at(d, "pt", "update_n90", component="mlp", layer=6).mean()),
    ("neuron_breadth", {"variant": "PT", "selection": "random", "layer": 6},
     lambda d: at(d, "pt", "neuron_n90", selection="random", layer=6).mean()),
    ("breadth_fits", {"variant": "IT", "selection": "at random"},
     lambda d: at(d, "it", "fit", selection="random", quantity="attribution", statistic="pearson")),
    ("kinds_profile", {"kind": "reasoning", "condition": "IT", "layer": 5},
     lambda d: d.delta_cosine.sel(component="block", condition="IT", layer=5)[2::3].mean()),
    ("template_overlay", {"condition": "PT", "layer": 5},
     lambda d: d.delta_cosine.sel(component="block", condition="PT", layer=5).mean()),
    ("phases_of_revision", {"variant": "IT", "lens": "tuned", "layer": 3},
     lambda d: at(d, "it", "kl_adjacent", history="it", lens="tuned", layer=3).mean()),
    ("turnover", {"variant": "PT", "lens": "raw", "layer": 3},
     lambda d: at(d, "pt", "turnover", history="pt", lens="raw", layer=3).mean()),
    ("emergence", {"variant": "IT", "lens": "raw", "layer": 3},
     lambda d: at(d, "it", "target_probability", history="it", lens="raw", layer=3).mean()),
    ("minds_by_class", {"variant": "IT", "token_class": "content"},
     lambda d: at(d, "it", "late_mind_change", history="it", token_class="content", lens="raw").mean()),
    ("minds_matched", {"variant": "PT", "token_class": "content"},
     lambda d: at(d, "pt", "late_flips", history="it", token_class="content", lens="raw").mean()),
    ("commitment_matched", {"confidence": "low confidence"},
     lambda d: shift(d, "commitment_by_confidence", history="it", stratum="low", rule="kl_continuous", lens="raw")),
    ("dimension_profile", {"variant": "IT", "estimator": "TwoNN", "template": "chat turn", "layer": 1},
     lambda d: at(d, "it", "dimension", estimator="two_nn", template="chat", layer=1)),
    ("spectrum_profile", {"variant": "PT", "template": "plain text", "layer": 1},
     lambda d: at(d, "pt", "participation_ratio", template="raw", layer=1)),
    ("attention_shift", {"template": "chat turn", "layer": 1},
     lambda d: shift(d, "attention_normalised", template="chat", layer=1)),
    ("attention_shift", {"template": "native", "layer": 1},
     lambda d: at(d, "it", "attention_normalised", template="chat", layer=1).mean()
     - at(d, "pt", "attention_normalised", template="raw", layer=1).mean()),
    ("change_between_layers", {"variant": "PT", "template": "plain text", "layer": 1},
     lambda d: at(d, "pt", "adjacent_change", template="raw", layer=1).mean()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "chosen", "expected"), CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)]
)
def test_a_value_is_that_of_the_dataset(name, chosen, expected):
    key, draw, _ = FIGURES[name]
    data = rows(draw({"Llama": made(key)["Llama"], "OLMo": made(key)["OLMo"]}))
    for title in ("Llama", "OLMo"):
        found = data[(data[["panel", *chosen]] == [title, *chosen.values()]).all(axis=1)]
        assert found["mean"].item() == pytest.approx(float(expected(made(key)[title])), abs=2e-4)


def test_intervals_hold_their_mean(drawn):
    data = rows(drawn[1])
    if {"low", "high"} <= set(data):
        data = data.dropna(subset=["mean"])
        assert (data["low"] <= data["mean"]).all() and (data["mean"] <= data["high"]).all()


def test_the_ratio_of_a_transferred_lens():
    data = rows(exp07_0g_report.transfer(made("exp07_0g")))
    np.testing.assert_allclose(data["ratio"], 1.5, atol=1e-3)
    assert data["layer"].max() == 10  # at the last layer both are zero


def test_the_share_of_texts_that_are_so_long():
    d = made("exp00")["Llama"]
    data = rows(exp00_report.lengths({"Llama": d})).set_index(["variant", "token"])["share"]
    assert data["PT", 1] == 1 and data["IT", int(d.n_tokens.max())] == 0
    assert data["PT", 8] == pytest.approx(float((d.n_tokens.sel(variant="pt") >= 8).mean()), abs=1e-4)


def test_the_heat_map_holds_every_generated_token_and_layer():
    d = made("exp09")["Llama"]
    data = rows(exp09_figures.cosine_heat({"Llama": d})).set_index(["variant", "token", "layer"])["cosine"]
    assert len(data) == 2 * 47 * 12 and data.index.get_level_values("token").min() == 1
    assert data["IT", 5, 7] == pytest.approx(
        float(at(d, "it", "delta_cosine_by_step", token=5, layer=7)), abs=1e-4
    )


def test_a_heat_map_leaves_out_steps_that_no_text_has():
    d = made("exp09")["Llama"].copy(deep=True)
    d["delta_cosine_by_step"].loc[{"variant": "it", "token": slice(30, None)}] = np.nan
    data = rows(exp09_figures.cosine_heat({"Llama": d}))
    assert data[data["variant"] == "IT"]["token"].max() == 29 and data["token"].max() == 47


def test_an_onset_is_marked_at_the_layer_where_a_rule_sees_it():
    d = made("exp07_0j")["Llama"]
    data = rows(exp07_0j_report.onset_matrix({"Llama": d}, "mlp"))
    marked = data[data["is_onset"] == 1].set_index("rule")["layer"]
    assert marked.to_dict() == dict(zip(d["rule"].values, d.onset.sel(component="mlp").values))
    assert (data[data["is_onset"] == 1]["meets"] == 1).all()


def test_classes_that_few_prompts_have_are_left_out():
    d = made("exp03")["Llama"].copy(deep=True)
    d["late_mind_change"].loc[{"token_class": "discourse", "prompt": d.prompt[4:]}] = np.nan
    data = rows(exp03_report.minds_by_class({"Llama": d, "OLMo": made("exp03")["OLMo"]}))
    assert "special" not in set(data["token_class"])
    assert "discourse" not in set(data[data["panel"] == "Llama"]["token_class"])
    assert "discourse" in set(data[data["panel"] == "OLMo"]["token_class"])


def test_neurons_that_one_prompt_measures_have_no_point():
    d = made("exp01")["Llama"].copy(deep=True)
    d["neuron_n90"].loc[{"selection": "random", "layer": 3, "prompt": d.prompt[1:]}] = np.nan
    data = rows(exp01_report.neuron_breadth({"Llama": d}))
    assert data[(data["selection"] == "random") & (data["layer"] == 3)]["mean"].isna().all()


def test_a_scatter_on_logarithms_has_positive_values_alone():
    d = made("exp01")["Llama"].copy(deep=True)
    d["sample_attribution"][0, :7] = 0
    assert len(rows(exp01_report.breadth_scatter({"Llama": d}))) == d.sample_n90.size - 7


@pytest.mark.parametrize("draw", [exp03_report.minds_by_class, exp03_report.commitment_by_confidence])
def test_a_chart_without_a_value_is_empty(draw):
    none = made("exp03")["Llama"].isel(prompt=slice(1))
    vl_convert.vegalite_to_svg(draw({"Llama": none}).to_json())
