"""The tables beside the figures hold the datasets' own numbers, as one reads them."""

import re

import numpy as np
import pytest

from nbhelpers.experiments.exp00_observations import quantities as exp00_quantities
from nbhelpers.experiments.exp00_observations import report as exp00_report
from nbhelpers.experiments.exp01_narrowing import report as exp01_report
from nbhelpers.experiments.exp02_prompt_kinds import report as exp02_report
from nbhelpers.experiments.exp03_corrective_stage import report as exp03_report
from nbhelpers.experiments.exp04_phase_transition import report as exp04_report
from nbhelpers.experiments.exp07_0g_tuned_lens import report as exp07_0g_report
from nbhelpers.experiments.exp07_0j_onset import report as exp07_0j_report
from nbhelpers.report.quantities import value as quantity
from nbhelpers.report.text import p_value, percent
from tests import synthetic

TABLES = {
    "volume": ("exp00", exp00_report.volume), "fit_table": ("exp01", exp01_report.fit_table),
    "kinds_table": ("exp02", exp02_report.kinds_table), "template_table": ("exp02", exp02_report.template_table),
    "phase_table": ("exp03", exp03_report.phase_table), "agreement_table": ("exp03", exp03_report.agreement_table),
    "gini_table": ("exp03", exp03_report.gini_table), "transition_table": ("exp04", exp04_report.transition_table),
    "window_table": ("exp04", exp04_report.window_table), "dimension_table": ("exp04", exp04_report.dimension_table),
    "lens_table": ("exp07_0g", exp07_0g_report.lens_table), "onset_table": ("exp07_0j", exp07_0j_report.onset_table),
}  # fmt: skip
INTERVAL = r"(−?[\d.]+) \[(−?[\d.]+), (−?[\d.]+)\]"


def made(key):
    return synthetic.results(key, n_prompts=24)


def numbers(text):
    """Return the numbers of a mean with its interval."""
    return [float(part.replace("−", "-")) for part in re.fullmatch(INTERVAL, text).groups()]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_whole_text_of_every_family(name):
    key, build = TABLES[name]
    for results in (made(key), {"Pocket Llama": made(key)["Llama"]}):
        table = build(results)
        heads = {str(part) for axis in table.axes for label in axis for part in np.atleast_1d(label)}
        named = [any(head.startswith(title) for head in heads) for title in results]
        assert all(named) if len(results) > 1 else not any(named)
        cells = [str(cell) for cell in table.to_numpy().ravel()]
        assert not table.isna().any(axis=None) and not any("nan" in cell for cell in cells)
        assert not any(re.search(r"-\d|e-|\d%|−0\.0+\b", cell) for cell in cells)


def test_volume_and_the_share_of_steps_with_the_same_token():
    d = made("exp00")["Qwen"]
    row = exp00_report.volume({"Qwen": d})["this pair"]
    pt, it = (float(d.n_tokens.sel(variant=v).mean()) for v in ("pt", "it"))
    assert row["tokens PT → IT"] == f"{pt:.1f} → {it:.1f}"
    counted = ((d.history == "pt") & (d.token >= 1)).values
    on_pt = d.top1.sel(lens="raw").isel(layer=-1, step=counted)
    share = float((on_pt.sel(variant="pt") == on_pt.sel(variant="it")).mean())
    assert row["same top-1 token on PT's text"] == percent(share)


def test_the_end_point_is_that_of_a_model_s_own_steps_but_the_first():
    d, found = made("exp00")["Llama"], {}
    last = d.entropy.sel(lens="raw").isel(layer=-1)
    for variant in ("pt", "it"):
        kept = (d.history == variant) & (d.token >= 1)
        by_prompt = {}
        for value, prompt, keep in zip(last.sel(variant=variant).values, d.prompt_index.values, kept.values):
            if keep:
                by_prompt.setdefault(int(prompt), []).append(float(value))
        found[variant] = np.mean([np.mean(values) for values in by_prompt.values()])
        assert quantity(exp00_quantities.quantities, d, f"final_entropy.{variant}") == pytest.approx(
            found[variant]
        )
    row = exp00_report.volume({"Llama": d})["this pair"]
    assert (
        row["final entropy, nats"] == f"{found['pt']:.2f} → {found['it']:.2f}" and found["it"] < found["pt"]
    )


def test_lens_quality():
    d = made("exp07_0g")["OLMo"]
    d = d.assign(gate=("variant", [True, False], d.gate.attrs))
    table = exp07_0g_report.lens_table({"OLMo": d})
    raw, tuned = (
        float(d.kl_final_layer.sel(variant="pt", lens=lens).isel(layer=7).mean()) for lens in d.lens.values
    )
    share = round(100 * (tuned - raw) / raw)
    assert table.loc["PT", "KL at 0.6 L, nats, raw → tuned"] == f"{raw:.2f} → {tuned:.2f} (−{-share} %)"
    assert table["layers closer"].tolist() == ["11 of 11"] * 2
    assert table["gate"].tolist() == ["pass", "FAIL"]
    assert table["change by the last translator, nats"].tolist() == ["< 0.0001"] * 2


def test_an_onset_that_no_rule_sees_is_none():
    d = made("exp07_0j")["Llama"].copy(deep=True)
    chosen = {"component": "block", "rule": "1 σ"}
    d["onset"].loc[chosen], d["onset_low"].loc[chosen], d["onset_high"].loc[chosen] = -1, np.nan, np.nan
    d["found_exchanged"].loc[chosen] = 0.125
    column = exp07_0j_report.onset_table({"Llama": d})["this pair"]
    assert column["1 σ below"] == "none; chance 12 %"
    assert re.fullmatch(r"layer [78] \([67]–[89]\); chance \d+ %", column["fall of 0.1"])


def test_phases_are_paired_and_free_running():
    d = made("exp03")["Gemma"]
    values = d.phase_kl_adjacent.sel(phase="format", lens="raw")
    wanted = values.sel(variant="it", history="it").values - values.sel(variant="pt", history="pt").values
    mean, low, high = numbers(exp03_report.phase_table({"Gemma": d}).loc["format phase", "this pair"])
    assert mean == pytest.approx(wanted.mean(), abs=0.006) and low < mean < high


def test_too_few_prompts_leave_a_dash():
    results = made("exp03")
    few = results["Qwen"].copy(deep=True)
    few["kl_by_agreement"].loc[{"agreement_of": "another token", "prompt": few.prompt[4:]}] = np.nan
    table = exp03_report.agreement_table(results | {"Qwen": few})
    assert table.loc["Qwen", "another token"] == "–" and table.loc["Qwen", "same token"] != "–"
    assert table.index.tolist() == synthetic.TITLES and (table.loc["Llama"] != "–").all()
    empty = exp03_report.agreement_table({"Qwen": few.isel(prompt=slice(4))})
    assert empty.loc[["same token", "another token"], "this pair"].tolist() == ["–", "–"]


def test_what_the_template_changes():
    d = made("exp02")["Llama"]
    row = exp02_report.template_table({"Llama": d})["this pair"]
    assert numbers(row["IT with template − without, last layer"])[0] == pytest.approx(
        float(d.template_shift[:, -1].mean()), abs=0.006
    )
    late = d.delta_cosine.sel(component="block").isel(layer=slice(9, None)).mean("layer")
    wanted = float((late.sel(condition="IT without template") - late.sel(condition="PT")).mean())
    assert numbers(row["IT − PT, final fifth, without"])[0] == pytest.approx(wanted, abs=0.006)


def test_fits_are_those_of_attribution():
    d = made("exp01")["Mistral"]
    cell = exp01_report.fit_table({"Mistral": d}).loc["random", "r, IT"]
    one = d.sel(selection="random", statistic="pearson", variant="it", quantity="attribution")
    assert numbers(cell) == [round(float(one[name]), 2) for name in ("fit", "fit_low", "fit_high")]


def test_gini_is_that_of_late_layers():
    d = made("exp03")["Llama"]
    row = exp03_report.gini_table({"Llama": d})["this pair"]
    assert row["Gini, IT"] == f"{float(d.gini.sel(variant='it')[7:].mean()):.3f}"
    assert row["top 20 shared"] == f"{float(d.neuron_overlap.sel(k=20).mean()):.2f}"


def test_tests_of_kinds_are_named_in_words_and_marked_after_holm_over_the_pairs():
    """Of six p-values, 0.008 stays below 0.05 after Holm's correction and 0.03 does not."""
    results = {title: d.copy(deep=True) for title, d in made("exp02").items()}
    for d, p in zip(results.values(), [0.008, 0.03, 0.5, 0.5, 0.5, 0.5]):
        d["p_layers"].loc[{"condition": "IT", "measure": "kl_final_layer"}] = p
    table = exp02_report.kinds_table(results)
    row = table.loc[("KL(final ‖ layer), raw lens", "IT")]
    assert row.tolist() == ["0.008 *", "0.030", "0.500", "0.500", "0.500", "0.500"]
    assert not any("_" in str(name) for name in table.index.get_level_values("measure"))
    assert exp02_report.kinds_table({"Gemma": results["Gemma"]}).columns.tolist() == ["p"]


def test_windows_are_shares_and_the_largest_is_named():
    d = made("exp04")["Llama"].copy(deep=True)
    d["p_window"][:4] = [1 / 10, 1 / 9, 2 / 10, np.nan]  # ten windows, nine where layer 0 has no value
    shares = exp04_report.window_table({"Llama": d})["share of windows"]
    assert shares.tolist()[:4] == ["largest", "largest", "20 %", "–"]


def test_contrasts_have_a_row_a_profile_and_a_column_a_number():
    d = made("exp04")["Llama"].copy(deep=True)
    d["statistic"][0], d["p_permuted"][0], d["p_window"][0] = -0.1234, 0.004, 0.3
    row = exp04_report.transition_table({"Llama": d}).loc["dimension, PT"]
    assert row.to_dict() == {
        "contrast": "−0.123",
        "p, layers in random order": "< 0.01",
        "share of windows": "0.30",
    }
    several = exp04_report.transition_table({"Llama": d, "Qwen": made("exp04")["Qwen"]})
    assert several.loc[("dimension, PT", "contrast"), "Llama"] == "−0.123"


def test_late_dimensions_are_differences_in_the_final_fifth():
    d = made("exp04")["Gemma"]
    late = d.dimension.sel(estimator="mle").isel(layer=slice(9, None)).mean("layer")
    wanted = float(late.sel(variant="it", template="chat") - late.sel(variant="pt", template="raw"))
    shown = exp04_report.dimension_table({"Gemma": d}).loc[
        ("each model's own prompts", "maximum likelihood"), "this pair"
    ]
    assert float(shown.replace("−", "-")) == pytest.approx(wanted, abs=0.006)


@pytest.mark.parametrize(
    ("p", "digits", "text"),
    [(0.0001, 2, "< 0.01"), (0.012, 2, "0.01"), (0.0005, 3, "< 0.001"), (1.0, 2, "1.00"), (np.nan, 2, "–")],
)
def test_a_p_value_is_never_zero(p, digits, text):
    assert p_value(p, digits) == text
