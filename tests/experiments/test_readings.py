"""What a run is said to show: on results built so that the answer is known, in sentences that one can read."""

import re

import numpy as np
import pytest
import xarray as xr

from nbhelpers import experiments
from nbhelpers.book import pages
from nbhelpers.core import params
from tests import synthetic

ALL, NONE, FIVE = (
    "in all six families",
    "in none of the six families",
    "five of six families (Gemma, Llama, Mistral, ",
)
OBSERVED = ("exp00", "exp01", "exp02", "exp03", "exp04", "exp07_0g", "exp07_0j")
PROMPTS = {"exp04": "cloud_prompt", "exp07_0g": "text"}  # what intervals are over, where it is not prompts


def made(key, **options):
    return synthetic.results(key, n_prompts=24, **options)


def exchanged(d):
    """PT and IT in each other's place."""
    return d.assign_coords(variant=["it", "pt"])


def reversed_layers(d):
    """The stack upside down, and attribution falling with breadth."""
    turned = d.isel(layer=slice(None, None, -1)).assign_coords(layer=d.layer.values)
    fits = {"fit": -d.fit, "fit_low": -d.fit_high, "fit_high": -d.fit_low}
    return turned.assign(fits)


def negated(d):
    """Every cosine the other way round, and kinds of prompts alike."""
    return d.assign(
        delta_cosine=-d.delta_cosine, template_shift=-d.template_shift, p_layers=d.p_layers * 0 + 0.5
    )


def worse_lenses(d):
    """Raw and tuned lens in each other's place, the gate missed."""
    return d.assign_coords(lens=["tuned", "raw"]).assign(gate=~d.gate)


def no_onset(d):
    """No rule that finds an onset."""
    return d.assign(onset=d.onset * 0 - 1, found_exchanged=d.found_exchanged * 0)


OPPOSITE = {
    "exp00": exchanged, "exp01": reversed_layers, "exp02": negated, "exp03": exchanged, "exp04": exchanged,
    "exp07_0g": worse_lenses, "exp07_0j": no_onset,
}  # fmt: skip


def level(d, dim, *likes):
    """The same values for every entry of `likes`, each moved along by a row of `dim`: differences of mean zero."""
    for like in likes:
        for name, values in d.data_vars.items():
            if {like, dim} <= set(values.dims):
                first = values.isel({like: 0}, drop=True)
                moved = [first.roll({dim: i}) for i in range(values.sizes[like])]
                d = d.assign({name: xr.concat(moved, like).assign_coords({like: d[like]})})
    return d


def undecided(key, d):
    """The dataset with every difference that a sentence is about of mean zero."""
    sign = xr.DataArray(np.where(np.arange(24) % 2, 1.0, -1.0), dims="prompt")
    if key == "exp01":
        either = d.assign(fit_low=d.fit * 0 - 1, fit_high=d.fit * 0 + 1)
        return level(either, "prompt", "layer").assign(update_n90=d.update_n90.isel(layer=0) + d.layer * sign)
    if key == "exp02":
        return level(d, "prompt", "condition").assign(template_shift=0 * d.template_shift + sign)
    likes = {"exp03": ("variant", "history"), "exp04": ("variant", "template"), "exp07_0g": ("lens",)}
    return level(d, PROMPTS.get(key, "prompt"), *likes[key])


def said(key, results):
    """Return what is said of results, after seeing to what any sentence must be."""
    text = experiments.part(key, "report").verdict(results)
    assert text.endswith(".") and text[0].isupper() and "  " not in text and "nan" not in text
    assert text.count("(") == text.count(")")
    assert not re.search(r"-\d|\d%|\bis is\b|[,;:.]{2}", text)
    if len(results) == 1:
        assert "famil" not in text.replace("Holm over families", "") and "jointly" not in text
    return text


@pytest.mark.parametrize(
    ("key", "phrases"),
    [
        ("exp00", {"longer texts in all six families": 1, "entropy in all six families": 1}),
        ("exp01", {f"narrower {ALL}": 2, f"broader {ALL}": 1, f"above zero {ALL}": 2}),
        ("exp02", {f"conditions {ALL}": 1, f"entropy {NONE}": 1, f"stronger in IT than in PT {ALL}": 2,
                   f"stronger {ALL}": 1}),
        ("exp03", {f"larger in IT than in PT {ALL}": 4, f"later in IT than in PT {ALL}": 3}),
        ("exp04", {"6 by TwoNN, 6 by maximum likelihood": 3, f"narrower in IT {ALL}": 2, "in 0 of 48 profiles": 1}),
        ("exp07_0g", {f"closer to the final prediction than the raw lens {ALL}": 2, f"gate {ALL}": 1}),
        ("exp07_0j", {f"All nine rules find an onset within 15 % of the depth of each other {ALL}": 1, "Llama 7–8": 1}),
    ],
)  # fmt: skip
def test_all_families_as_made(key, phrases):
    text = said(key, made(key))
    assert {phrase: text.count(phrase) for phrase in phrases} == phrases


@pytest.mark.parametrize(
    ("key", "phrases"),
    [
        ("exp00", {"longer texts in none of the six families": 1, "entropy in none of the six families": 1}),
        ("exp01", {f"narrower {NONE}, wider {ALL}": 2, f"broader {NONE}, narrower {ALL}": 1,
                   f"above zero {NONE}, below it {ALL}": 2}),
        ("exp02", {f"conditions {NONE}": 1, f"stronger in IT than in PT {NONE}, weaker in IT {ALL}": 2,
                   f"stronger {NONE}, weaker {ALL}": 1}),
        ("exp03", {f"larger in IT than in PT {NONE}, smaller in IT {ALL}": 4,
                   f"later in IT than in PT {NONE}, earlier in IT {ALL}": 3}),
        ("exp04", {"0 by TwoNN, 0 by maximum likelihood": 3, f"wider in IT than in PT {ALL}": 2}),
        ("exp07_0g", {f"raw lens {NONE}, farther from it {ALL}": 2, f"gate {NONE}": 1}),
        ("exp07_0j", {f"finds one {NONE}. If": 1, "up to 0 % of the draws": 1}),
    ],
)  # fmt: skip
def test_all_families_the_other_way_round(key, phrases):
    text = said(key, {title: OPPOSITE[key](d) for title, d in made(key).items()})
    assert {phrase: text.count(phrase) for phrase in phrases} == phrases


@pytest.mark.parametrize("key", [key for key in OBSERVED if key != "exp04"])
def test_a_family_that_differs_is_named(key):
    results = made(key)
    text = said(key, results | {"Qwen": OPPOSITE[key](results["Qwen"])})
    assert f"in {FIVE}DeepSeek, OLMo)" in text
    assert key in ("exp00", "exp07_0j") or "one of six families (Qwen)" in text


def test_counts_of_dimension_without_one_family():
    results = made("exp04")
    text = said("exp04", results | {"Qwen": exchanged(results["Qwen"])})
    assert text.count("5 by TwoNN, 5 by maximum likelihood") == 3
    assert text.count("wider in IT than in PT in one of six families (Qwen)") == 2


@pytest.mark.parametrize(
    ("key", "times"), [("exp01", 5), ("exp02", 3), ("exp03", 7), ("exp04", 2), ("exp07_0g", 2)]
)
def test_differences_around_zero_are_undecided(key, times):
    level_results = {title: undecided(key, d) for title, d in made(key).items()}
    assert said(key, level_results).count("undecided in all six families") == times
    assert said(key, {"Pocket Llama": level_results["Llama"]}).count("undecided") == times


ALONE = {
    "exp00": ("On average PT writes the longer texts. IT's own predictions end with the lower mean entropy.",
              "On average PT does not write the longer texts. IT's own predictions do not end with the lower mean entropy."),
    "exp02": ("prompts differ under all three conditions in the δ-cosine of some layer; in lens entropy they do not (",
              "prompts do not differ under all three conditions in the δ-cosine of some layer;"),
    "exp07_0g": ("Both lenses pass the gate: closer", "Not both lenses pass the gate: closer"),
    "exp07_0j": ("All nine rules find an onset within 15 % of the depth of each other; at least one rule finds one (layers:",
                 "The nine rules do not all find an onset within 15 % of the depth of each other; no rule finds one. If"),
}  # fmt: skip


@pytest.mark.parametrize("key", OBSERVED)
def test_sentences_on_one_model_count_nothing(key):
    results = {"Pocket Llama": made(key)["Llama"]}
    for change, words in zip((lambda d: d, OPPOSITE[key]), ALONE.get(key, ("", ""))):
        text = said(key, {title: change(d) for title, d in results.items()})
        assert words in text and "pair" not in text.replace("pairs", "")


def test_dimension_of_one_pair_is_yes_or_no():
    result = made("exp04")["Llama"]
    assert "native prompts: yes by TwoNN, yes by maximum likelihood" in said("exp04", {"One": result})
    assert "native prompts: no by TwoNN, no by maximum likelihood" in said(
        "exp04", {"One": exchanged(result)}
    )


def without(d, measure, keep=4, **chosen):
    """Return a dataset in which only the first prompts have a measure."""
    d = d.copy(deep=True)
    d[measure].loc[{"prompt": d.prompt[keep:], **chosen}] = np.nan
    return d


def test_too_few_prompts_are_said_to_be():
    few = {
        title: without(d, "late_mind_change", token_class="structural") for title, d in made("exp03").items()
    }
    assert "only from the onset on is undecided (too few prompts); that of" in said("exp03", few)


def test_the_only_family_with_enough_prompts_is_named():
    results = made("exp03")
    few = {t: without(d, "late_mind_change", token_class="structural") for t, d in results.items()}
    text = said("exp03", few | {"DeepSeek": results["DeepSeek"]})
    assert "is larger in IT than in PT in DeepSeek, the only family with enough prompts; that" in text


def test_families_with_enough_prompts_are_counted():
    results = made("exp03")
    few = {t: without(d, "late_mind_change", token_class="structural") for t, d in results.items()}
    text = said("exp03", few | {t: results[t] for t in ("Gemma", "Llama")})
    assert "larger in IT than in PT in both families with enough prompts; that" in text


def test_the_largest_contrast_of_all_windows_is_counted():
    results = made("exp04")
    first = results["Llama"].copy(deep=True)
    first["p_window"][:3] = [1 / 10, 1 / 9, 2 / 10]  # ten windows, nine where layer 0 has no value
    assert "in 2 of 48 profiles over layers, where chance alone would give about 5" in said(
        "exp04", results | {"Llama": first}
    )


def test_onsets_far_apart_do_not_agree():
    results = made("exp07_0j")
    apart = results["OLMo"].copy(deep=True)
    apart["onset"].loc[{"component": "block", "rule": "2 σ"}] = 2
    text = said("exp07_0j", results | {"OLMo": apart})
    assert "in five of six families (Gemma, Llama, Qwen, Mistral, DeepSeek); at least one rule" in text
    assert "OLMo 2–" in text


def test_every_experiment_has_its_verdict():
    for key in params.ordered():
        assert callable(experiments.part(key, "report").verdict)


@pytest.mark.parametrize("key", params.ordered())
def test_a_page_quotes_the_verdict_of_its_experiment(key, monkeypatch):
    results = made(key)
    monkeypatch.setattr(experiments, "open_results", lambda profile, experiment: results)
    assert pages.verdict("pocket", key) == experiments.part(key, "report").verdict(results)
