"""The tables and the verdict across families agree with the datasets and follow their signs."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers import params, store, synthesis
from tests import synthetic


@pytest.fixture(scope="module")
def results():
    """Return six small made-up results by family."""
    return synthetic.results(n_prompts=32)


def swapped(results, *families):
    """Return results in which PT and IT have changed places in some families."""
    return {
        title: data.assign_coords(variant=["it", "pt"]) if title in families else data
        for title, data in results.items()
    }


def test_gap_is_the_datasets_own(results):
    table = synthesis.gap_table(results).set_index("family")
    for title, dataset in results.items():
        stored = dataset["convergence_gap"].sel(lens="raw", direction="final_layer").item()
        assert table.loc[title, "mean"] == pytest.approx(stored, rel=1e-5)
        assert table.loc[title, "low"] < stored < table.loc[title, "high"]


def test_the_pool_leaves_deepseek_out(results):
    table = synthesis.gap_table(results).set_index("family")["mean"]
    dense = [title for title in results if title != "DeepSeek"]
    assert table[synthesis.POOL] == pytest.approx(table[dense].mean(), rel=1e-6)


def test_the_pool_needs_shared_prompts(results):
    other = {**results, "Gemma": results["Gemma"].isel(prompt=slice(16, None))}
    assert synthesis.pooled(other, synthesis.gap_by_prompt).sizes["prompt"] == 16


def test_a_prompt_without_steps_drops_out(results):
    made = results["Llama"].copy(deep=True)
    made["kl_final_layer"][1, :, 3] = np.nan
    gaps = synthesis.gap_by_prompt(made)
    assert gaps.sizes["prompt"] == 31 and not gaps.isnull().any()


def test_swapping_the_variants_flips_every_sign(results):
    one = synthesis.gap_table(results)
    other = synthesis.gap_table(swapped(results, *results))
    np.testing.assert_allclose(one["mean"], -other["mean"], rtol=1e-6)


def test_cosine_slices(results):
    table = synthesis.cosine_summary({"Gemma": results["Gemma"]})
    both = results["Gemma"]["delta_cosine"].sel(component="block").mean("prompt")
    shift = (both.sel(variant="it") - both.sel(variant="pt")).values
    for heading, layers in {"depth 0.5–0.7": slice(6, 8), "depth 0.9–1": slice(10, 12)}.items():
        assert table.loc["Gemma", heading].startswith(synthesis.number(shift[layers].mean()))


def test_verdict_when_all_agree(results):
    text = synthesis.verdict(synthetic.results())
    assert text.startswith("**Yes.**")
    assert "larger in IT than in PT in all six families" in text
    assert "later in IT in all six families" in text


def test_verdict_names_what_disagrees(results):
    text = synthesis.verdict(swapped(results, "Qwen"))
    assert text.startswith("**In part.**")
    assert "five of six families (Gemma, Llama, Mistral, DeepSeek, OLMo)" in text
    assert "smaller in one of six families (Qwen)" in text


def test_verdict_when_none_holds(results):
    text = synthesis.verdict(swapped(results, *results))
    assert text.startswith("**Not in this run.**")
    assert "larger in IT than in PT in none of the six families" in text


def test_an_undecided_family_is_said_to_be(results):
    same = results["OLMo"]
    noise = np.random.default_rng(0).normal(0, 1, same["kl_final_layer"].shape)
    flat = same.assign(kl_final_layer=same["kl_final_layer"] * 0 + 5 + noise)
    assert "undecided in one of six families (OLMo)" in synthesis.verdict({**results, "OLMo": flat})


def test_late_layers_above():
    curve = np.zeros((2, 1, 3, 12))
    curve[1, ..., 6:8] = 1
    dataset = xr.Dataset(
        {"kl_final_layer": (("variant", "lens", "prompt", "layer"), curve)},
        {"variant": ["pt", "it"], "lens": ["raw"]},
    )
    assert synthesis.late_layers_above(dataset) == "2 of 5"


@pytest.mark.parametrize(
    ("names", "total", "words"),
    [
        ([], 6, "none of the six families"),
        (["Qwen"], 6, "one of six families (Qwen)"),
        (["Qwen", "OLMo"], 2, "both families"),
        (["Qwen"], 1, "this pair"),
        (list("abcdefghijkl"), 12, "all 12 families"),
    ],
)
def test_counts_in_words(names, total, words):
    assert synthesis.counted(names, total) == words


@pytest.mark.parametrize(("value", "text"), [(-0.004, "0.00"), (-0.126, "−0.13"), (1.0, "1.00")])
def test_numbers(value, text):
    assert synthesis.number(value) == text


def test_titles_of_the_profiles():
    assert list(synthesis.family_titles("pocket").values()) == list(synthesis.TITLES.values())
    assert list(synthesis.family_titles("paper").values()) == list(synthesis.TITLES.values())
    laptop = synthesis.family_titles("laptop")
    assert len(set(laptop.values())) == len(laptop)


def test_a_missing_result_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(params, "ROOT", tmp_path)
    (tmp_path / "params").symlink_to(synthetic.REPOSITORY / "params")
    with pytest.raises(store.ResultError, match="gemma_pocket/exp09.nc.*nbh run exp09"):
        synthesis.open_results("pocket")
