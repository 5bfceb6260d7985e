"""What a run is said to show: on results built so that the answer is known, in sentences that one can read."""

import re

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
OBSERVED = ("exp07_0g", "exp07_0j")
PROMPTS = {"exp07_0g": "text"}  # what intervals are over, where it is not prompts


def made(key, **options):
    return synthetic.results(key, n_prompts=24, **options)


def worse_lenses(d):
    """Raw and tuned lens in each other's place, the gate missed."""
    return d.assign_coords(lens=["tuned", "raw"]).assign(gate=~d.gate)


def no_onset(d):
    """No rule that finds an onset."""
    return d.assign(onset=d.onset * 0 - 1, found_exchanged=d.found_exchanged * 0)


OPPOSITE = {"exp07_0g": worse_lenses, "exp07_0j": no_onset}


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
    return level(d, PROMPTS.get(key, "prompt"), "lens")


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
        ("exp07_0g", {f"raw lens {NONE}, farther from it {ALL}": 2, f"gate {NONE}": 1}),
        ("exp07_0j", {f"finds one {NONE}. If": 1, "up to 0 % of the draws": 1}),
    ],
)  # fmt: skip
def test_all_families_the_other_way_round(key, phrases):
    text = said(key, {title: OPPOSITE[key](d) for title, d in made(key).items()})
    assert {phrase: text.count(phrase) for phrase in phrases} == phrases


@pytest.mark.parametrize("key", OBSERVED)
def test_a_family_that_differs_is_named(key):
    results = made(key)
    text = said(key, results | {"Qwen": OPPOSITE[key](results["Qwen"])})
    assert f"in {FIVE}DeepSeek, OLMo)" in text
    assert key == "exp07_0j" or "one of six families (Qwen)" in text


@pytest.mark.parametrize(("key", "times"), [("exp07_0g", 2)])
def test_differences_around_zero_are_undecided(key, times):
    level_results = {title: undecided(key, d) for title, d in made(key).items()}
    assert said(key, level_results).count("undecided in all six families") == times
    assert said(key, {"Pocket Llama": level_results["Llama"]}).count("undecided") == times


ALONE = {
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
