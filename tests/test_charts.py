"""Charts are valid, the same bytes every time, in the families' order and colours, of the right numbers."""

import hashlib
import json
import os
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import vl_convert
from nbformat import v4

from nbhelpers import charts, figures, synthesis
from tests import synthetic

FAMILIES = ["Gemma", "Llama", "Qwen", "Mistral", "DeepSeek", "OLMo"]


@pytest.fixture(scope="module")
def results():
    """Return six small made-up results by family."""
    return synthetic.results(n_prompts=24)


FIGURES = {
    "kl_curves": charts.kl_curves,
    "kl_layer_final": lambda results: charts.kl_curves(results, "layer_final"),
    "entropy_profile": charts.entropy_profile,
    "delta_cosine": charts.delta_cosine,
    "delta_cosine_mlp": lambda results: charts.delta_cosine(results, "mlp"),
    "delta_cosine_shift": charts.delta_cosine_shift,
    "residual_norms": charts.norms,
    "update_norms": lambda results: charts.norms(results, "update_norm", "attention"),
    "commitment_histograms": charts.commitment_histograms,
    "commitment_cdf": charts.commitment_cdf,
    "threshold_sensitivity": charts.threshold_sensitivity,
}


def rows(chart):
    """Return the data of a chart."""
    (data,) = chart.to_dict()["datasets"].values()
    return pd.DataFrame(data)


def encodings(node):
    """Yield every encoding of a specification."""
    if isinstance(node, dict):
        if "encoding" in node:
            yield node["encoding"]
        for inner in node.values():
            yield from encodings(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from encodings(inner)


@pytest.fixture(scope="module", params=FIGURES)
def figure(request, results):
    """Return each figure in turn."""
    return FIGURES[request.param](results)


def test_panels_in_order(figure):
    spec = figure.to_dict()
    assert spec["facet"]["sort"] == FAMILIES
    assert list(rows(figure)["panel"].unique()) == FAMILIES
    assert spec["columns"] == 3


def test_draws(figure):
    svg = vl_convert.vegalite_to_svg(figure.to_json())
    assert all(f">{family}<" in svg for family in FAMILIES)
    assert "NaN" not in svg and "undefined" not in svg


def test_variants_have_their_colour_and_dash(figure):
    for encoding in encodings(figure.to_dict()):
        if encoding.get("color", {}).get("field") == "variant":
            scale = encoding["color"]["scale"]
            assert dict(zip(scale["domain"], scale["range"], strict=True)) == {
                "PT": charts.PT,
                "IT": charts.IT,
            }
        if "strokeDash" in encoding:
            scale = encoding["strokeDash"]["scale"]
            assert dict(zip(scale["domain"], scale["range"], strict=True)) == {"PT": [5, 3], "IT": [1, 0]}


def test_no_name_depends_on_what_ran_before(figure):
    text = figure.to_json()
    assert '"param_' not in text and '"view_' not in text


def test_axes_are_named(figure):
    for encoding in encodings(figure.to_dict()):
        for axis in ("x", "y"):
            if "field" in encoding.get(axis, {}) or "aggregate" in encoding.get(axis, {}):
                assert encoding[axis]["title"]


def test_the_title_names_the_direction(results):
    for direction, name in (("final_layer", "KL(final ‖ layer)"), ("layer_final", "KL(layer ‖ final)")):
        text = charts.kl_curves(results, direction).to_json(ensure_ascii=False)
        assert f"{name}, nats" in text and f"{name} by layer" in text


def test_same_bytes_in_another_process():
    command = (
        "import hashlib; from nbhelpers import charts; from tests import synthetic; "
        "made = synthetic.results(n_prompts=8); "
        "print(hashlib.sha256(charts.kl_curves(made).to_json().encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(synthetic.REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    here = charts.kl_curves(synthetic.results(n_prompts=8)).to_json()
    assert done.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


def test_renderer_emits_the_specification_alone(results):
    bundle = charts.kl_curves(results, lens="raw")._repr_mimebundle_()
    assert set(bundle) == {charts.VEGALITE, "text/plain"}
    assert bundle["text/plain"] == "<chart: KL(final ‖ layer) by layer, raw lens (√ scale)>"
    cell = v4.new_code_cell(outputs=[v4.new_output("execute_result", bundle, execution_count=1)])
    nbformat.validate(v4.new_notebook(cells=[cell]))
    json.dumps(bundle, allow_nan=False)


def test_curve_is_the_mean_over_prompts(results):
    plotted = rows(charts.kl_curves(results, lens="raw")).set_index(["panel", "variant"]).sort_index()
    for family, dataset in results.items():
        for variant in ("pt", "it"):
            mean = dataset["kl_final_layer"].sel(variant=variant, lens="raw").values.mean(axis=0)
            drawn = plotted.loc[family, variant.upper()]
            np.testing.assert_allclose(drawn["mean"], mean, atol=2e-4)
            assert (drawn["low"] <= drawn["mean"]).all() and (drawn["mean"] <= drawn["high"]).all()
            entropy = dataset["entropy"].sel(variant=variant, lens="raw").values[:, -1].mean()
            assert drawn["entropy"].iloc[0] == f"entropy {entropy:.2f}"


def test_swapping_the_variants_flips_the_shift(results):
    made = results["Gemma"]
    swapped = made.assign_coords(variant=["it", "pt"])
    one, other = (rows(charts.delta_cosine_shift({"Gemma": data})) for data in (made, swapped))
    np.testing.assert_allclose(one["mean"], -other["mean"], atol=2e-4)
    np.testing.assert_allclose(one["low"], -other["high"], atol=2e-2)


def test_shares_and_centres(results):
    drawn = charts.shares(results, "kl_stays_0.1")
    assert set(drawn["lens"]) == {"raw", "tuned"}
    drawn = drawn[drawn["lens"] == "raw"]
    grouped = drawn.groupby(["panel", "variant"])
    np.testing.assert_allclose(grouped["share"].sum(), 1, atol=1e-3)
    np.testing.assert_allclose(grouped["sum"].max(), 1, atol=1e-3)
    count = results["OLMo"]["commitment_count"].sel(variant="it", lens="raw", rule="kl_stays_0.1").values
    centre = np.repeat(np.arange(12), count).mean()
    chosen = drawn[(drawn["panel"] == "OLMo") & (drawn["variant"] == "IT")]
    np.testing.assert_allclose(chosen["centre"], centre, atol=1e-4)


def test_thresholds_are_read_from_the_rules(results):
    drawn = rows(charts.threshold_sensitivity(results))
    assert sorted(drawn["threshold"].unique()) == [0.05, 0.1, 0.2, 0.5, 1.0]
    mean = results["Qwen"]["commitment"].sel(variant="pt", lens="raw", rule="kl_stays_0.5").values.mean() / 12
    chosen = drawn.query("panel == 'Qwen' and variant == 'PT' and threshold == 0.5 and lens == 'raw'")
    assert chosen["mean"].item() == pytest.approx(mean, abs=1e-4)


def test_families_of_other_depths_share_a_figure():
    made = {"Gemma": synthetic.dataset("gemma", n_prompts=8, n_layers=34)}
    made["DeepSeek"] = synthetic.dataset("deepseek", n_prompts=8, n_layers=27)
    drawn = rows(charts.kl_curves(made))
    assert drawn.groupby("panel")["layer"].max().to_dict() == {"Gemma": 33, "DeepSeek": 26}
    assert drawn.groupby("panel")["onset"].first().to_dict() == {"Gemma": 20, "DeepSeek": 16}


def test_a_reader_chooses_the_lens(results):
    spec = charts.kl_curves(results).to_dict()
    (control,) = spec["params"]
    assert control["bind"]["options"] == ["raw", "tuned"] and control["value"] == "raw"
    assert set(rows(charts.kl_curves(results))["lens"]) == {"raw", "tuned"}
    assert "params" not in charts.kl_curves(results, lens="tuned").to_dict()


OBSERVATION = {
    "matched": figures.matched_curves,
    "history": figures.history_gap,
    "strata": figures.confidence_gap,
    "strata_matched": lambda results: figures.confidence_gap(results, matched=True),
    "categories": figures.category_gap,
    "heat": figures.cosine_heat,
    "weights": figures.weight_change,
    "dimension": figures.dimension_profile,
    "attention": figures.attention_shift,
    "gap": figures.gap_intervals,
    "confidence": charts.confidence_profile,
    "adjacent": charts.adjacent_profile,
    "to_final": charts.cosine_to_final,
}


@pytest.mark.parametrize("name", OBSERVATION)
def test_figures_of_the_observation_chapter_draw(name, results):
    spec = OBSERVATION[name](results).to_dict()
    assert spec["facet"]["sort"] == FAMILIES
    svg = vl_convert.vegalite_to_svg(json.dumps(spec))
    assert all(f">{family}<" in svg for family in FAMILIES) and "undefined" not in svg


def test_one_model_is_one_larger_panel(results):
    spec = charts.kl_curves(results["Llama"]).to_dict()
    assert "facet" not in spec and spec["width"] > charts.PANEL["width"]
    vl_convert.vegalite_to_svg(json.dumps(spec))


def test_intervals_keep_the_rows_order(results):
    table = synthesis.gap_table(results)
    chart = charts.intervals(table, x="IT − PT, nats", title="Convergence gap")
    orders = [encoding["y"]["sort"] for encoding in encodings(chart.to_dict()) if "y" in encoding]
    assert orders and all(order == [*FAMILIES, synthesis.POOL] for order in orders)
    assert ">dense pool<" in vl_convert.vegalite_to_svg(chart.to_json())


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
