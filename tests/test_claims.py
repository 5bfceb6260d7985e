"""The ledger: figures typed in right, and a run's values of them against plain NumPy."""

import numpy as np
import pytest

from nbhelpers import claims, params
from tests import synthetic
from tests.stubs import REPOSITORY


@pytest.fixture(scope="module")
def results():
    """Return made-up results of the six families."""
    return {family: synthetic.dataset(family, n_prompts=24) for family in params.FAMILIES}


def test_the_published_figures_are_well_formed():
    table = claims.published("exp09")
    assert 100 <= len(table) <= 300
    assert set(table["verdict"]) == set(claims.VERDICTS)
    assert (table["reason"].str.len() > 0).all() and (table["source_section"].str.len() > 0).all()
    numbers = table[~table["metric"].str.startswith("definition")]
    assert numbers["value"].notna().all()
    assert (table["id"].str.split(".", n=2).str[2] == table["metric"] + "." + table["family"]).all()


def value(table, metric, family):
    """Return one published value."""
    row = table[(table["metric"] == metric) & (table["family"] == family)]
    return row["value"].iloc[0]


def test_published_means_are_those_of_their_families():
    table = claims.published("exp09")
    for name in (
        "late_half.raw",
        "late_half.tuned",
        "early_third.raw",
        "early_third.tuned",
        "late_third.raw",
    ):
        metric = f"kl_excess_{name}"
        mean = np.mean([value(table, metric, family) for family in params.FAMILIES])
        assert value(table, metric, "mean") == pytest.approx(mean, abs=6e-3)
    shift = "delta_cosine_shift.final_fifth"
    mean = np.mean([value(table, shift, family) for family in params.FAMILIES])
    assert value(table, shift, "mean") == pytest.approx(mean, abs=6e-4)


def test_published_delays_are_differences_of_published_layers():
    table = claims.published("exp09")
    for rule in ("top1_strict", "kl_stays_0.1"):
        for family in params.FAMILIES:
            pt, it = (value(table, f"commitment.raw.{rule}.{v}", family) for v in params.VARIANTS)
            assert value(table, f"commitment_delay.raw.{rule}", family) == pytest.approx(it - pt)


def test_reversed_cells_are_marked_as_contradicting():
    table = claims.published("exp09")
    later = table[table["metric"].str.startswith("commitment_delay") & (table["value"] < 0)]
    assert set(later["verdict"]) == {"contradicted"} and set(later["family"]) == {"deepseek"}


def test_a_runs_values_are_those_of_a_plain_loop(results):
    result = results["llama"]
    found = claims.measured(result)
    kl = result["kl_final_layer"].sel(lens="raw").values  # variant, prompt, layer
    cosine = result["delta_cosine"].sel(component="block").values
    gap, shift = kl[1] - kl[0], cosine[1] - cosine[0]
    expected = {
        "kl_excess_late_half.raw": gap[:, 6:].mean(),
        "kl_excess_early_third.raw": gap[:, :4].mean(),
        "kl_excess_middle_third.raw": gap[:, 4:8].mean(),
        "kl_excess_final_fifth.raw": gap[:, 9:].mean(),
        "delta_cosine_shift.depth_0.5_0.7": shift[:, 6:8].mean(),
        "delta_cosine_shift.depth_0.7_0.9": shift[:, 8:10].mean(),
        "delta_cosine_shift.depth_0.9_1.0": shift[:, 10:].mean(),
        "delta_cosine_shift.early_third": shift[:, 1:4].mean(),
        "delta_cosine_shift.last_layer": shift[:, 11].mean(),
        "layers_above.raw": np.mean(kl[1].mean(0)[6:] > kl[0].mean(0)[6:]),
        "kl_first_layer.raw.it": kl[1, :, 0].mean(),
        "steps.pt": (result["n_tokens"].values[0] - 1).sum(),
    }
    for metric, wanted in expected.items():
        assert found.loc[metric, "value"] == pytest.approx(wanted, rel=1e-6), metric
    paired = found[found["low"].notna()]
    assert len(paired) > 10
    assert (paired["low"] <= paired["value"]).all() and (paired["value"] <= paired["high"]).all()


def test_commitment_levels_are_those_of_the_pooled_steps(results):
    result = results["qwen"]
    found = claims.measured(result)
    pooled = {}
    for variant in params.VARIANTS:
        counts = result["commitment_count"].sel(lens="raw", rule="kl_stays_0.1", variant=variant).values
        pooled[variant] = np.repeat(np.arange(counts.size), counts)
        mean = found.loc[f"commitment.raw.kl_stays_0.1.{variant}", "value"]
        assert mean == pytest.approx(pooled[variant].mean())
    median = np.quantile(pooled["it"], 0.5, method="inverted_cdf")
    median -= np.quantile(pooled["pt"], 0.5, method="inverted_cdf")
    assert found.loc["commitment_delay_median.raw.kl_stays_0.1", "value"] == median


def test_every_figure_stands_in_the_ledger_once_a_family(results):
    table = claims.ledger("exp09", results)
    assert len(table) == len(claims.published("exp09"))
    tuned = table[table["metric"].str.contains("tuned")]
    assert set(tuned["note"]) == {claims.UNMEASURED} and tuned["run"].isna().all()
    raw = table[table["metric"].str.startswith("kl_excess_late_half.raw")]
    assert raw["run"].notna().all() and set(raw["title"]) == {*params.FAMILIES, "mean"}
    own = raw[raw["family"] != "mean"]
    assert raw[raw["family"] == "mean"]["run"].iloc[0] == pytest.approx(own["run"].mean())


def test_a_profile_without_some_families_still_has_a_ledger(results):
    two = {"One": results["llama"], "Another": results["llama"]}
    table = claims.ledger("exp09", two)
    rows = table[table["metric"] == "kl_excess_late_half.raw"]
    assert rows[rows["family"] == "llama"]["title"].tolist() == ["One", "Another"]
    assert rows[rows["family"].isin(["gemma", "mean"])]["run"].isna().all()


@pytest.mark.parametrize(
    "metric, published, run, low, high, expected",
    [
        ("kl_excess_late_half.raw", 1.0, 0.3, 0.1, 0.5, "same sign"),
        ("kl_excess_late_half.raw", 1.0, -0.3, -0.5, -0.1, "other sign"),
        ("kl_excess_late_half.raw", 1.0, 0.3, -0.1, 0.5, "undecided"),
        ("kl_excess_late_half.raw", 0.0, 0.3, 0.1, 0.5, ""),
        ("layers_above.raw", 0.9, 0.2, np.nan, np.nan, "other sign"),
        ("layers_above.raw", 0.9, 0.8, np.nan, np.nan, "same sign"),
        ("final_entropy.pt", 0.9, 0.8, np.nan, np.nan, ""),
        ("kl_excess_late_half.tuned", 0.9, np.nan, np.nan, np.nan, ""),
    ],
)
def test_agreement_is_of_signs_and_knows_its_doubt(metric, published, run, low, high, expected):
    assert claims.agreement(metric, published, run, low, high) == expected


def test_the_table_to_read_has_a_cell_for_each_family(results):
    table = claims.beside("exp09", results)
    assert list(table.columns) == ["unit", *params.FAMILIES, "mean", "audit"]
    first = table.iloc[0]
    assert first["gemma"].startswith("1.01 → ") and first["audit"] == "supported"
    assert not table.index.str.contains("tuned").any()


WRONG = {
    "unknown verdict": ("supported", "suported", "unknown verdict 'suported'; did you mean 'supported'"),
    "unknown family": (",gemma,", ",gema,", "unknown family 'gema'; did you mean 'gemma'"),
}


@pytest.mark.parametrize("before, after, sentence", WRONG.values(), ids=WRONG)
def test_a_wrong_ledger_file_is_named(project, before, after, sentence):
    text = (REPOSITORY / "params/published.csv").read_text()
    (project / "params/published.csv").write_text(text.replace(before, after, 1))
    with pytest.raises(claims.ClaimError, match=sentence):
        claims.published("exp09")


def test_a_double_id_is_refused(project):
    lines = (REPOSITORY / "params/published.csv").read_text().splitlines()
    (project / "params/published.csv").write_text("\n".join([*lines[:2], lines[1]]))
    with pytest.raises(claims.ClaimError, match="occurs twice"):
        claims.published("exp09")
