"""The tables of exp09 agree with the datasets."""

import numpy as np
import pytest

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.experiments.exp09_convergence_gap import quantities as exp09_quantities
from nbhelpers.experiments.exp09_convergence_gap import report as exp09_report
from nbhelpers.report import families
from nbhelpers.report.quantities import named, value
from nbhelpers.report.text import number, percent
from tests import synthetic
from tests.synthetic import swapped

GAP = named(exp09_quantities.quantities, "kl_excess_late_half.raw")


@pytest.fixture(scope="module")
def results():
    """Return six small made-up results by family."""
    return synthetic.results(n_prompts=32)


def test_gap_is_the_datasets_own(results):
    table = exp09_report.gap_table(results).set_index("family")
    for title, dataset in results.items():
        stored = dataset["convergence_gap"].sel(lens="raw", direction="final_layer").item()
        assert table.loc[title, "mean"] == pytest.approx(stored, rel=1e-5)
        assert table.loc[title, "low"] < stored < table.loc[title, "high"]


def test_the_pool_leaves_deepseek_out(results):
    table = exp09_report.gap_table(results).set_index("family")["mean"]
    dense = [title for title in results if title != "DeepSeek"]
    assert table[families.POOL] == pytest.approx(table[dense].mean(), rel=1e-6)


def test_the_pool_needs_shared_prompts(results):
    other = {**results, "Gemma": results["Gemma"].isel(prompt=slice(16, None))}
    assert families.pooled(other, GAP).sizes["prompt"] == 16


def test_a_prompt_without_steps_drops_out(results):
    made = results["Llama"].copy(deep=True)
    made["kl_final_layer"][1, :, 3] = np.nan
    gaps = GAP(made)
    assert gaps.sizes["prompt"] == 31 and not gaps.isnull().any()


def test_swapping_the_variants_flips_every_sign(results):
    one = exp09_report.gap_table(results)
    other = exp09_report.gap_table(swapped(results))
    np.testing.assert_allclose(one["mean"], -other["mean"], rtol=1e-6)


def test_cosine_slices(results):
    table = exp09_report.cosine_summary({"Gemma": results["Gemma"], "Llama": results["Llama"]})
    both = results["Gemma"]["delta_cosine"].sel(component="block").mean("prompt")
    shift = (both.sel(variant="it") - both.sel(variant="pt")).values
    for heading, layers in {"depth 0.5–0.7": slice(6, 8), "depth 0.9–1": slice(10, 12)}.items():
        assert table.loc["Gemma", heading].startswith(number(shift[layers].mean()))


def test_late_layers_above(results):
    made = results["Llama"].copy(deep=True)
    made["kl_final_layer"][:] = 0
    made["kl_final_layer"].loc[{"variant": "it", "layer": [6, 7]}] = 1
    table = exp09_report.gap_summary({"Llama": made, "Gemma": results["Gemma"]})
    assert table.loc[("raw lens", "Llama"), "layers above"] == "2 of 5"


def test_free_running_is_each_model_on_its_own_text(results):
    values = results["Llama"][["kl_final_layer_matched"]]
    free = families.free(values).kl_final_layer_matched
    for variant in ("pt", "it"):
        wanted = values.kl_final_layer_matched.sel(variant=variant, history=variant)
        np.testing.assert_array_equal(free.sel(variant=variant), wanted)


def test_the_matched_gap_is_of_one_history_and_basis(results):
    made = results["Llama"].copy(deep=True)
    cell = {"history": "pt", "variant": "it", "lens": "raw"}
    made["kl_final_layer_matched"].loc[cell | {"basis": "own"}] += 2.0
    made["kl_final_layer_matched"].loc[cell | {"basis": "other"}] += 9.0
    gaps = {
        h: value(exp09_quantities.quantities, made, f"matched_gap_late_half.{h}.raw") for h in ("pt", "it")
    }
    assert gaps["pt"] == pytest.approx(gaps["it"] + 2.0)


def test_summaries_have_a_row_for_each_lens_and_pair(results):
    rows = [*synthetic.TITLES, families.POOL]
    tables = [
        f(results) for f in (exp09_report.gap_summary, exp09_report.delay_summary, exp09_report.third_summary)
    ]
    for table in tables:
        assert table.index.tolist() == [(f"{lens} lens", row) for lens in ("raw", "tuned") for row in rows]
        assert not table.isna().any(axis=None)
    assert exp09_report.cosine_summary(results).index.tolist() == rows
    thirds = tables[-1]
    curve = results["OLMo"].kl_final_layer.sel(lens="tuned").isel(layer=slice(4)).mean("layer")
    early = float((curve.sel(variant="it") - curve.sel(variant="pt")).mean())
    assert thirds.loc[("tuned lens", "OLMo"), "early third"].startswith(f"{number(early)} [")


def test_the_table_of_delays_has_the_medians_that_the_study_quotes(results):
    table = exp09_report.delay_summary(results)
    median = value(exp09_quantities.quantities, results["OLMo"], "commitment_delay_median.tuned.top1_first")
    assert table.loc[("tuned lens", "OLMo"), "first top-1"].endswith(f"], median {number(median, 0)}")
    assert "median" not in table.loc[("tuned lens", families.POOL), "first top-1"]
    assert exp09_quantities.SHOWN["commitment*"][0] == "delay_table"


def test_a_run_with_another_threshold_has_a_summary_without_the_rules_of_the_first(results):
    named = {"kl_first_0.1": "kl_first_0.2", "majority_0.1": "majority_0.2"}
    other = results["Llama"].assign_coords(
        rule=[named.get(rule, rule) for rule in results["Llama"].rule.values]
    )
    table = exp09_report.delay_summary({"Pocket Llama": other})
    assert "top-1 stays" in table.index and "first KL < 0.1" not in table.index


def test_a_table_of_one_pair_has_its_measures_as_rows_and_no_pool(results):
    one, two = ({t: results[t] for t in titles} for titles in (["Llama"], ["Llama", "Gemma"]))
    for table in (exp09_report.gap_summary, exp09_report.delay_summary, exp09_report.third_summary):
        assert table(one).columns.tolist() == ["raw lens", "tuned lens"]
        for lens in table(one):
            assert table(one)[lens].to_dict() == table(two).loc[(lens, "Llama")].to_dict()
    assert (
        exp09_report.cosine_summary(one)[""].to_dict()
        == exp09_report.cosine_summary(two).loc["Llama"].to_dict()
    )


def test_numbers_in_tables_have_true_minus_signs(results):
    cells = [str(cell) for cell in exp09_report.cosine_summary(results).to_numpy().ravel()]
    assert any("−0." in cell for cell in cells) and not any("-" in cell for cell in cells)


@pytest.mark.parametrize(
    ("value", "text"), [(-0.004, "0.00"), (-0.126, "−0.13"), (1.0, "1.00"), (float("nan"), "–")]
)
def test_numbers(value, text):
    assert number(value) == text


def test_shares_in_per_cent():
    assert percent(0.126) == "13 %"


def test_titles_of_the_profiles():
    named = [f"Pocket {title}" for title in families.TITLES.values()]
    assert list(families.family_titles("pocket").values()) == named
    sizes = ["Gemma 3 4B", "Llama 3.1 8B", "Qwen 3 4B", "Mistral 7B v0.3", "DeepSeek-V2-Lite", "OLMo 2 7B"]
    assert list(families.family_titles("paper").values()) == sizes
    laptop = families.family_titles("laptop")
    assert len(set(laptop.values())) == len(laptop)


def test_a_missing_result_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(params, "ROOT", tmp_path)
    (tmp_path / "params").symlink_to(synthetic.REPOSITORY / "params")
    with pytest.raises(store.ResultError, match="gemma_pocket/exp09.nc.*nbh run exp09"):
        experiments.open_results("pocket", "exp09")
