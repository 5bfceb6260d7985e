"""Kinds of prompts: the F test and its permutations, and profiles of each condition against the bare models."""

import json
from functools import cache

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.experiments.exp02_prompt_kinds import measure as exp02_measure
from nbhelpers.experiments.exp02_prompt_kinds import report
from nbhelpers.models import generation, prompts
from nbhelpers.models.prompts import Prompt
from tests import synthetic
from tests.experiments.test_exp00 import KEYS, case, geometry_row, lens_row, log_probabilities, states
from tests.specs import complete

OPTIONS = experiments.experiment_params("exp02", n_permutations=200).model_copy(
    update=dict(max_new_tokens=7, batch_size=5, n_prompts=6, lens_rows=8)
)
KINDS = np.repeat(["IC", "OOC", "R"], 12)
FORMS = np.tile(np.repeat(["stub", "question"], 6), 3)


def noise(seed=0, n_layers=5):
    return np.random.default_rng(seed).normal(size=(len(KINDS), n_layers))


def test_f_is_scipys_at_every_layer():
    values = noise() + np.where(KINDS == "R", 0.8, 0)[:, None]
    found, _ = exp02_measure.kinds_test(values, KINDS, FORMS, n=100, seed=0)
    expected = stats.f_oneway(*(values[KINDS == kind] for kind in exp02_measure.KINDS)).statistic
    np.testing.assert_allclose(found, expected)


def test_f_of_every_draw_is_scipys_with_unequal_groups():
    values, rng = noise(1)[:10], np.random.default_rng(0)
    draws = np.array([rng.permutation([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]) for _ in range(4)])
    expected = [stats.f_oneway(*(values[draw == k] for k in range(3))).statistic for draw in draws]
    np.testing.assert_allclose(exp02_measure.f_statistics(values, draws), expected)


def test_f_is_infinite_where_nothing_varies_within():
    values = np.array([[1.0], [1.0], [2.0], [2.0]])
    assert exp02_measure.f_statistics(values, np.array([[0, 0, 1, 1]])) == np.inf


def test_a_permutation_keeps_every_form_its_kinds():
    drawn = exp02_measure.permuted(KINDS, FORMS, 50, seed=0)
    for form in ("stub", "question"):
        at = FORMS == form
        assert all(sorted(row) == sorted(KINDS[at]) for row in drawn[:, at])
    assert (drawn != KINDS).any(0).all() and len(np.unique(drawn, axis=0)) == 50
    assert (exp02_measure.permuted(KINDS, KINDS, 5, seed=0) == KINDS).all()


def test_p_is_small_where_kinds_differ():
    values = noise() + np.where(KINDS == "OOC", 2.5, 0)[:, None] * (np.arange(5) == 3)
    assert exp02_measure.kinds_test(values, KINDS, FORMS, n=200, seed=0)[1] == 1 / 201


def test_p_is_not_small_where_only_forms_differ():
    """Most reasoning prompts are questions: forms differ, so kinds seem to; a permutation within forms sees why."""
    forms = np.where(np.arange(36) % 12 < np.repeat([2, 2, 10], 12), "question", "stub")
    values = 0.3 * noise() + np.where(forms == "question", 3.0, 0)[:, None]
    within = exp02_measure.kinds_test(values, KINDS, forms, n=200, seed=0)
    freely = exp02_measure.kinds_test(values, KINDS, np.full(36, "any"), n=200, seed=0)
    assert np.isfinite(within[0]).all() and within[1] > 0.05 and freely[1] < 0.01


def test_p_is_about_uniform_where_nothing_differs():
    p = [exp02_measure.kinds_test(noise(i), KINDS, FORMS, n=100, seed=i)[1] for i in range(150)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_p_of_the_largest_f_holds_for_all_layers_at_once():
    values, size = noise(), dict(n=100, seed=3)
    found, p = exp02_measure.kinds_test(values, KINDS, FORMS, **size)
    codes = np.unique(KINDS, return_inverse=True)[1]
    null = [
        max(stats.f_oneway(*(values[row == k] for k in range(3))).statistic)
        for row in exp02_measure.permuted(codes, FORMS, **size)
    ]
    assert p == (1 + sum(f >= max(found) - 1e-12 for f in null)) / 101


def test_layers_without_a_value_or_without_variation_are_left_out():
    values = noise()
    values[4, 0], values[:, 2] = np.nan, 0.0
    found, p = exp02_measure.kinds_test(values, KINDS, FORMS, n=100, seed=0)
    assert np.isnan(found[[0, 2]]).all() and np.isfinite(found[[1, 3, 4]]).all()
    assert p == exp02_measure.kinds_test(values[:, [1, 3, 4]], KINDS, FORMS, n=100, seed=0)[1]


@pytest.mark.parametrize(
    "text, form",
    [("Question: Who bakes?\nAnswer:", "question"), ("Who bakes? Answer: ", "question"), ("The baker of", "stub"),
     ("Answer: the baker of", "stub")],
)  # fmt: skip
def test_a_question_leaves_its_answer_open(text, form):
    assert exp02_measure.form_of(Prompt("a", "IC", text, text)) == form


def test_the_shipped_prompts_have_both_forms_in_every_kind():
    records = prompts.read_prompts("pocket/exp02.jsonl")
    forms = [exp02_measure.form_of(p) for p in records]
    lines = (params.ROOT / "pocket/exp02.jsonl").read_text().splitlines()
    assert forms == [json.loads(line)["form"] for line in lines]
    pairs = {(p.category, form) for p, form in zip(records, forms)}
    assert pairs == {(kind, form) for kind in exp02_measure.KINDS for form in ("stub", "question")}


@cache
def result():
    """exp02's dataset of a few prompts of one pair, and those prompts."""
    chosen = prompts.load_prompts("pocket/exp02.jsonl", 6, seed=0)
    return exp02_measure.summarise(case(KEYS[1]).pair, chosen, OPTIONS), chosen


def slow(decoder, ids, made):
    """Means over one text's steps, and of the δ-cosine over its thirds, from the bare model."""
    seen, rows = states(decoder, [*ids, *made.ids[:-1]]), []
    real = np.flatnonzero(decoder.real_tokens)
    for at, token in zip(range(len(ids) - 1, len(ids) - 1 + len(made.ids)), made.ids):
        logp = log_probabilities(decoder, [h[at] for h in seen["residual"]])
        rows.append(lens_row(logp, real, token) | geometry_row(seen, at))
    n = len(rows)
    thirds = [
        [row["delta_cosine"][0] for t, row in enumerate(rows) if t * 3 // n == part] for part in range(3)
    ]
    parts = [np.mean(third, axis=0) if third else np.full(12, np.nan) for third in thirds]
    return {name: np.mean([row[name] for row in rows], axis=0) for name in rows[0]} | {
        "parts": np.array(parts)
    }


@pytest.mark.parametrize("condition", exp02_measure.CONDITIONS)
def test_profiles_of_each_condition_equal_a_slow_loop(condition):
    found, chosen = result()
    variant, template = exp02_measure.CONDITIONS[condition]
    decoder = getattr(case(KEYS[1]).pair, variant)
    for prompt in chosen:
        ids = (
            prompts.text_ids(decoder, prompt.text)
            if template == "raw"
            else prompts.chat_ids(decoder, prompt.message)
        )
        made = generation.generate(decoder, [ids], max_new_tokens=7)[0]
        one, expected = found.sel(condition=condition, prompt=prompt.id), slow(decoder, ids, made)
        assert int(one.n_tokens) == len(made.ids)
        assert str(one.text.values) == decoder.tokenizer.decode(made.ids, skip_special_tokens=True)
        for name in (*exp02_measure.MEASURES, "residual_norm"):
            values = one[name].transpose("component", "layer", missing_dims="ignore")
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=3e-5, err_msg=name)
        parts = one.delta_cosine_by_part.transpose("part", "layer")
        np.testing.assert_allclose(parts, expected["parts"], rtol=1e-4, atol=3e-5)


def test_the_dataset_tests_each_condition_and_measure():
    found, chosen = result()
    for condition in exp02_measure.CONDITIONS:
        for measure in exp02_measure.MEASURES:
            curve = found[measure].sel(condition=condition)
            curve = curve.sel(component="block") if "component" in curve.dims else curve
            forms = [exp02_measure.form_of(p) for p in chosen]
            values = curve.transpose("prompt", "layer").values
            f, p = exp02_measure.kinds_test(values, [p.category for p in chosen], forms, n=200, seed=0)
            one = found.sel(condition=condition, measure=measure)
            np.testing.assert_array_equal(one.f_statistic, f)
            assert float(one.p_layers) == p
    block = found.delta_cosine.sel(component="block")
    shift = block.sel(condition="IT") - block.sel(condition="IT without template")
    np.testing.assert_array_equal(found.template_shift, shift.transpose(*found.template_shift.dims))
    with pytest.raises(store.ResultError, match="not complete: no weight_rms; no weight_relative.$"):
        complete(found, "exp02")


def test_a_kind_of_which_there_are_too_few_prompts_is_refused(tmp_path):
    """No test of kinds can be made of one prompt of a kind, and nothing has been generated yet."""
    records = [{"id": str(i), "category": kind, "text": f"{i}", "message": f"{i}"}
               for i, kind in enumerate(["IC"] * 4 + ["OOC"] * 4 + ["R"])]  # fmt: skip
    path = tmp_path / "kinds.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    options = experiments.experiment_params("exp02", "pocket", prompts=str(path), n_prompts=9)
    with pytest.raises(
        params.ParameterError,
        match="n_prompts = 9: 1 of the prompts are of the category 'R'; exp02 needs two",
    ):
        exp02_measure.chosen_prompts(options)


def test_a_permutation_that_changes_nothing_counts_as_being_as_large():
    """Kinds that each have a form of their own cannot be permuted: every draw equals the observation."""
    values = noise() + np.where(KINDS == "R", 0.8, 0)[:, None]
    assert exp02_measure.kinds_test(values, KINDS, KINDS, n=50, seed=0)[1] == 1


def test_the_templates_shift_is_with_it_less_without():
    level = {"PT": 1.0, "IT": 5.0, "IT without template": 2.0}
    dims, shape = ("component", "prompt", "layer"), (3, 2, 4)
    parts = {
        name: xr.Dataset(
            {"delta_cosine": (dims, np.full(shape, value))}, {"component": ["block", "attention", "mlp"]}
        )
        for name, value in level.items()
    }
    read = [
        Prompt(id=str(i), category=kind, text=f"{kind}?", message="") for i, kind in enumerate(("IC", "R"))
    ]
    found = exp02_measure.assembled(parts, read)
    assert (found.template_shift == 3).all() and found.template_shift.dims == ("prompt", "layer")
    assert found.category.values.tolist() == ["IC", "R"] and found.condition.values.tolist() == list(level)


def test_kinds_are_counted_over_families_by_holms_correction():
    """Twice below 0.05 alone; with six families, neither is."""
    kept = synthetic.dataset("llama", "exp02", n_prompts=24)

    def differ(*p):
        results = {str(i): kept.assign(p_layers=kept.p_layers * 0 + each) for i, each in enumerate(p)}
        return report.kinds_differ(results, "entropy", "it")

    assert differ(0.03, 0.04, 0.5, 0.6, 0.7, 0.8) == []
    assert differ(0.008, 0.04, 0.5, 0.6, 0.7, 0.8) == ["0"]
    assert differ(0.03) == ["0"]
