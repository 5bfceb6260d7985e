"""The charts' parts and the numbers of exp09's curves; `test_figures` draws every chart."""

import hashlib
import json
import os
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import vl_convert
import xarray as xr
from nbformat import v4

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.experiments.exp09_convergence_gap import figures as exp09_figures
from nbhelpers.report import charts
from tests import looks, synthetic
from tests.specs import controls, rows, shown_first


@pytest.fixture(scope="module")
def results():
    """Return six small made-up results by family."""
    return synthetic.results(n_prompts=24)


def test_the_title_names_the_direction(results):
    for direction, name in (("final_layer", "KL(final ‖ layer)"), ("layer_final", "KL(layer ‖ final)")):
        text = exp09_figures.kl_curves(results, direction).to_json(ensure_ascii=False)
        assert f"{name}, nats" in text and f"{name} by layer" in text


@pytest.mark.slow
def test_same_bytes_in_another_process():
    command = (
        "import hashlib; from nbhelpers.experiments.exp09_convergence_gap import figures as gap_figures; "
        "from tests import synthetic; "
        "made = synthetic.results(n_prompts=8); "
        "text = gap_figures.kl_curves(made).to_json() + gap_figures.commitment_cdf(made).to_json(); "
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(synthetic.REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    made = synthetic.results(n_prompts=8)
    here = exp09_figures.kl_curves(made).to_json() + exp09_figures.commitment_cdf(made).to_json()
    assert done.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


def test_renderer_emits_the_specification_alone(results):
    bundle = exp09_figures.kl_curves(results, lens="raw")._repr_mimebundle_()
    assert set(bundle) == {charts.VEGALITE, "text/plain"}
    assert bundle["text/plain"].startswith("<chart: KL(final ‖ layer) by layer, raw lens (√ scale)>\n")
    cell = v4.new_code_cell(outputs=[v4.new_output("execute_result", bundle, execution_count=1)])
    nbformat.validate(v4.new_notebook(cells=[cell]))
    json.dumps(bundle, allow_nan=False)


def test_curve_is_the_mean_over_prompts(results):
    plotted = rows(exp09_figures.kl_curves(results, lens="raw")).set_index(["panel", "variant"]).sort_index()
    for family, dataset in results.items():
        for variant in ("pt", "it"):
            mean = dataset["kl_final_layer"].sel(variant=variant, lens="raw").values.mean(axis=0)
            drawn = plotted.loc[family, variant.upper()]
            np.testing.assert_allclose(drawn["mean"], mean, atol=2e-4)
            assert (drawn["low"] <= drawn["mean"]).all() and (drawn["mean"] <= drawn["high"]).all()
            entropy = dataset["entropy"].sel(variant=variant, lens="raw").values[:, -1].mean()
            assert drawn["entropy"].iloc[0] == f"{variant.upper()}: entropy {entropy:.2f}"


def test_either_lens_is_there_to_choose(results):
    chart = exp09_figures.kl_curves(results)
    assert controls(chart) == {"lens": ["raw", "tuned"]}
    mean = rows(chart).groupby(["panel", "lens"])["mean"].mean()
    assert (mean[:, "tuned"] < mean[:, "raw"]).all()
    assert not controls(exp09_figures.kl_curves(results, lens="tuned"))


def test_one_value_is_no_choice(results):
    raw = {title: data.sel(lens=["raw"]) for title, data in results.items()}
    assert not controls(exp09_figures.kl_curves(raw))
    assert controls(exp09_figures.commitment_cdf(raw)).keys() == {"rule"}


def test_a_few_values_are_buttons_and_many_a_list(results):
    inputs = {
        p["name"]: p["bind"]["input"]
        for p in exp09_figures.commitment_histograms(results).to_dict()["params"]
    }
    assert inputs == {"shown_lens": "radio", "shown_rule": "select"}


def test_swapping_the_variants_flips_the_shift(results):
    made = results["Gemma"]
    swapped = made.assign_coords(variant=["it", "pt"])
    one, other = (rows(exp09_figures.delta_cosine_shift({"Gemma": data})) for data in (made, swapped))
    np.testing.assert_allclose(one["mean"], -other["mean"], atol=2e-4)
    np.testing.assert_allclose(one["low"], -other["high"], atol=2e-2)


def test_shares_and_centres(results):
    drawn = exp09_figures.shares(results, "kl_stays_0.1")
    assert set(drawn["lens"]) == {"raw", "tuned"}
    grouped = drawn.groupby(["panel", "variant", "lens"])
    np.testing.assert_allclose(grouped["share"].sum(), 1, atol=1e-3)
    np.testing.assert_allclose(grouped["sum"].max(), 1, atol=1e-3)
    count = results["OLMo"]["commitment_count"].sel(variant="it", lens="tuned", rule="kl_stays_0.1").values
    centre = np.repeat(np.arange(12), count).mean()
    chosen = drawn[(drawn["panel"] == "OLMo") & (drawn["variant"] == "IT") & (drawn["lens"] == "tuned")]
    np.testing.assert_allclose(chosen["centre"], centre, atol=1e-4)


def test_packed_rows_are_drawn_like_the_rows(results):
    drawn = rows(exp09_figures.commitment_histograms(results, "top1_first"))
    wanted = exp09_figures.shares(results, "top1_first")
    keys = ["panel", "variant", "lens", "layer"]
    found, wanted = (table.set_index(keys)["share"].sort_index() for table in (drawn, wanted))
    assert found.to_dict() == wanted.to_dict()
    svg = vl_convert.vegalite_to_svg(exp09_figures.commitment_histograms(results, "top1_first").to_json())
    assert svg.count('aria-roledescription="rect mark"') == 6 * 2 * 12


def test_thresholds_are_read_from_the_rules(results):
    drawn = rows(exp09_figures.threshold_sensitivity(results))
    assert sorted(drawn["threshold"].unique()) == [0.05, 0.1, 0.2, 0.5, 1.0]
    mean = results["Qwen"]["commitment"].sel(variant="pt", lens="raw", rule="kl_stays_0.5").values.mean() / 12
    chosen = drawn.query("panel == 'Qwen' and variant == 'PT' and threshold == 0.5 and lens == 'raw'")
    assert chosen["mean"].item() == pytest.approx(mean, abs=1e-4)


def test_families_of_other_depths_share_a_figure():
    made = {"Gemma": synthetic.dataset("gemma", n_prompts=8, n_layers=34)}
    made["DeepSeek"] = synthetic.dataset("deepseek", n_prompts=8, n_layers=27)
    drawn = rows(exp09_figures.kl_curves(made))
    assert drawn.groupby("panel")["layer"].max().to_dict() == {"Gemma": 33, "DeepSeek": 26}
    assert drawn.groupby("panel")["onset"].first().to_dict() == {"Gemma": 20, "DeepSeek": 16}


def test_a_dataset_alone_is_titled_by_its_model(results):
    assert set(rows(exp09_figures.kl_curves(results["Llama"]))["panel"]) == {"llama_pocket"}


def test_training_loss_has_a_panel_for_each_card():
    chart = charts.training_loss({family: synthetic.card(family) for family in synthetic.FAMILIES})
    drawn = rows(chart)
    assert chart.to_dict()["facet"]["sort"] == [family.title() for family in synthetic.FAMILIES]
    chosen = drawn[(drawn["panel"] == "Qwen") & (drawn["variant"] == "PT")]
    assert chosen["tokens"].tolist() == [1, 3, 5.1] and chosen["loss"].tolist() == [1.9, 1.0, 0.7]
    vl_convert.vegalite_to_svg(chart.to_json())
    looks.has_a_caption(chart.to_dict())
    looks.has_the_models_colours(chart.to_dict())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("kl_stays_0.1", "KL stays below 0.1 nats"),
        ("kl_first_0.1", "first KL below 0.1 nats"),
        ("majority_below_0.1", "KL below 0.1 nats, as most later layers"),
        ("majority_0.1", "most later layers below 0.1 nats"),
        ("top1_stable3", "top-1 match over 3 layers"),
        ("top1_strict", "top-1 match that stays"),
        ("another", "another"),
    ],
)
def test_rules_in_words(rule, words):
    assert charts.rule_title(rule) == words


def test_rows_of_intervals_are_those_of_each_entry():
    """Entry by entry, with unmeasured prompts, an entry of one prompt and one of none."""
    values = np.random.default_rng(3).normal(size=(9, 2, 3))
    values[0, 0, 1] = values[2:4, 1, 0] = values[1:, 1, 1] = values[:, 1, 2] = np.nan
    values = xr.DataArray(values, {"side": ["a", "b"], "window": [3, 4, 5]}, ("prompt", "side", "window"))
    found = charts.interval_rows(values.transpose("side", "prompt", "window"))
    assert found[["side", "window"]].values.tolist() == [[s, w] for s in "ab" for w in (3, 4, 5)]
    assert found.prompts.tolist() == [9, 8, 9, 7, 1, 0]
    for _, row in found.iterrows():
        one = charts.interval_row(values.sel(side=row.side, window=row.window, drop=True))
        for name in ("mean", "low", "high"):
            np.testing.assert_allclose(row[name], one[name], rtol=1e-12)
    assert found["mean"].isna().tolist() == [False] * 4 + [True] * 2


def test_a_tooltip_and_a_long_name_claim_no_confidence_of_their_own():
    """A run may set `confidence`."""
    assert [tip.to_dict()["title"] for tip in charts.hint(unit="nats")] == [
        "model",
        "mean, nats",
        "interval from",
        "to",
    ]
    for key in params.ordered():
        assert not [name for name, about in experiments.variables(key).items() if "95 %" in about.long_name]


def test_a_choice_opens_on_the_value_that_its_page_reads(results):
    frame = charts.tidy(results, lambda dataset: charts.banded(dataset["entropy"]))
    marks = charts.bands(charts.layers_axis(), "nats")
    for defaults, first in ((None, "raw"), ({"lens": "tuned"}, "tuned")):
        chart = charts.panels(
            frame, "Entropy", *marks, description="Entropy", toggles={"lens": "lens"}, defaults=defaults
        )
        assert controls(chart) == {"lens": ["raw", "tuned"]} and shown_first(chart) == {"lens": first}


def test_a_long_title_is_broken_and_a_short_one_is_not():
    title = "KL(layer ‖ the teacher's same layer), change in the final fifth by teacher"
    lines = charts.in_lines(title)
    assert " ".join(lines) == title and all(len(line) <= 48 for line in lines)
    assert charts.in_lines("Commitment delay") == "Commitment delay"
