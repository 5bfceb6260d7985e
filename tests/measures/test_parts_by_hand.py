"""Parts of measures by hand, without a model: rescaled weights, templates, tensors that fit, ids, checks of training."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers.core.params import ParameterError
from nbhelpers.measures import (
    attention_entropy,
    forced_tokens,
    lens,
    matched_prefix,
    prompt_end,
    tuned_lens,
    weight_change,
)
from nbhelpers.models.edits import InterventionError
from nbhelpers.models.generation import Continuation
from nbhelpers.models.tokens import TokenizerError
from nbhelpers.models.unembedding import Unembedding


def test_attention_is_rescaled_before_its_entropy_is_taken():
    """Weights that rounding left at half their sum, of 1/2, 1/4 and 1/4; without the first, two alike."""
    found = attention_entropy.attention_entropy(torch.tensor([0.25, 0.125, 0.125]))
    assert found["entropy"].item() == pytest.approx(1.5 * np.log(2)) and found["sink"].item() == 0.5
    assert found["entropy_without_sink"].item() == pytest.approx(np.log(2))
    assert attention_entropy.attention_entropy(torch.tensor([1.0, 0.0]))["entropy_without_sink"].isnan()


def test_native_is_plain_text_for_pt_and_a_chat_turn_for_it():
    level = [[[1.0], [2.0]], [[3.0], [4.0]]]
    coords = {"template": ["raw", "chat"], "variant": ["pt", "it"]}
    found = prompt_end.native(xr.Dataset({"x": (("template", "variant", "layer"), level)}, coords))
    assert found.x.values.tolist() == [[1.0], [4.0]] and found.variant.values.tolist() == ["pt", "it"]


def test_attentions_share_of_its_ceiling_has_none_where_one_key_is_visible():
    shape = ("template", "variant", "cloud_prompt", "layer", "head")
    names = ("attention_entropy", "attention_entropy_no_sink", "attention_sink")
    observed = xr.Dataset({name: (shape, np.full((1, 1, 3, 1, 2), 0.5)) for name in names})
    observed["visible_keys"] = shape[:-1], np.array([1, 0, 4]).reshape(1, 1, 3, 1)
    found = prompt_end.head_means(observed).attention_normalised.values.ravel()
    np.testing.assert_allclose(found, [np.nan, np.nan, 0.5 / np.log(4)])


def test_a_cloud_is_compared_with_the_layer_before():
    """Three layers: the second the first turned round, the third its own."""
    first = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    states = np.stack([first, -first, np.roll(first, 1, axis=0)], axis=1)
    found = prompt_end.cloud(states, 3)
    np.testing.assert_allclose(found.adjacent_cosine.values[:, 1], -1, rtol=1e-5)
    assert np.isnan(found.adjacent_cosine.values[:, 0]).all() and np.isnan(found.adjacent_cka.values[0])
    assert found.adjacent_cka.values[1] == pytest.approx(1) and found.adjacent_cka.values[2] < 0.9
    np.testing.assert_allclose(
        found.adjacent_cosine.values[:, 2], [-(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in
                                             zip(first, np.roll(first, 1, axis=0))], rtol=1e-4)  # fmt: skip


def test_only_rows_of_tokens_may_be_more_in_one_model():
    pt, it = torch.ones(2, 3), torch.full((4, 3), 3.0)
    assert weight_change._squares("x", pt, it, shared=True) == (24, 6, 6)
    with pytest.raises(ParameterError, match=r"x is \[2, 3\] in PT and \[4, 3\] in IT"):
        weight_change._squares("x", pt, it, shared=False)
    with pytest.raises(ParameterError, match="so they are no pair"):
        weight_change._squares("x", pt, torch.ones(2, 4), shared=True)


def test_logits_that_are_no_numbers_are_not_the_models():
    of = Unembedding(lambda h: h, torch.eye(2), torch.arange(2))
    assert lens.check_identity(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]), of) == 0
    with pytest.raises(lens.LensError, match="differs from the model's own logits"):
        lens.check_identity(torch.tensor([[1.0, float("nan")]]), torch.tensor([[1.0, 2.0]]), of)


def test_a_text_may_lie_behind_its_best_token_by_little_and_by_more_in_half_precision():
    ids, text = np.array([1, 2]), np.array([1, 3])
    assert lens.greedy_ties(ids, text, np.array([0.0, 0.01]), torch.float32, "m").tolist() == [False, True]
    with pytest.raises(lens.LensError, match="less likely"):
        lens.greedy_ties(ids, text, np.array([0.0, 0.02]), torch.float32, "m")
    assert lens.greedy_ties(ids, text, np.array([0.0, 1.9]), torch.bfloat16, "m")[1]
    with pytest.raises(lens.LensError, match="less likely"):
        lens.greedy_ties(ids, text, np.array([0.0, 2.1]), torch.bfloat16, "m")


def tokenizer(*tokens):
    """A tokenizer that knows so many ids."""
    return SimpleNamespace(
        convert_ids_to_tokens=lambda ids: [tokens[i] if i < len(tokens) else None for i in ids]
    )


def test_ids_of_two_meanings_are_refused_and_those_that_only_it_knows_are_not():
    ours, theirs = tokenizer("a", "b", "c"), tokenizer("a", "b", "d", "<end>")
    forced_tokens.check_same_ids(ours, theirs, [[0, 1], [3]])
    with pytest.raises(TokenizerError, match="id 2 is 'c' to the PT tokenizer and 'd' to IT's"):
        forced_tokens.check_same_ids(ours, theirs, [[0], [1, 2]])
    with pytest.raises(TokenizerError, match="id 3 is '<end>' to the PT tokenizer and None to IT's"):
        forced_tokens.check_same_ids(theirs, ours, [[3]])


def test_the_translators_kept_are_those_of_the_lowest_of_all_checks(monkeypatch):
    """One layer's losses are 3, 1, 2, 1.5; the other's 5, 6, 4, 4.5."""
    losses = iter([[3.0, 5.0], [1.0, 6.0], [2.0, 4.0], [1.5, 4.5]])
    monkeypatch.setattr(
        tuned_lens, "metrics", lambda *_, **__: {"kl_final_layer": torch.tensor([next(losses)]).mT}
    )
    of = Unembedding(lambda h: h, torch.eye(2), torch.arange(2))
    best, checks = tuned_lens.untrained(2, of), {}
    for step in range(4):
        now = replace(best, weight=torch.full((2, 2, 2), float(step)), bias=torch.full((2, 2), float(step)))
        checks[step] = tuned_lens._validate(now, best, checks, None, of, {})
    assert best.bias[:, 0].tolist() == [1.0, 2.0] and best.weight[:, 0, 0].tolist() == [1.0, 2.0]


def test_a_distance_is_relative_to_the_teachers_length():
    h, teacher = torch.tensor([[6.0, 8.0]]), torch.tensor([[3.0, 4.0]])
    assert (
        matched_prefix._distance(h, teacher).item() == 1.0
        and matched_prefix._distance(teacher, h).item() == 0.5
    )


def test_a_prompt_that_a_model_reads_in_the_others_template_is_checked_for_its_ids():
    """The reply's ids are alike; id 2 of the chat turn is not, and matters only where PT reads it."""
    decoders = (
        SimpleNamespace(tokenizer=tokenizer("a", "b", "c")),
        SimpleNamespace(tokenizer=tokenizer("a", "b", "d")),
    )
    pair = SimpleNamespace(**dict(zip(("pt", "it"), decoders)))
    prompts = {"raw": [[0]], "chat": [[2, 0]]}
    native = [condition("A'", "pt", "raw"), condition("C", "it", "chat")]
    matched_prefix._check(pair, prompts, [Continuation((1,), False)], native, ["C"])
    crossed = [*native, condition("A'_tmpl", "pt", "chat")]
    with pytest.raises(TokenizerError, match="id 2 is 'c'"):
        matched_prefix._check(pair, prompts, [Continuation((1,), False)], crossed, ["C"])
    with pytest.raises(InterventionError, match="'B2' is missing"):
        matched_prefix._check(pair, prompts, [], native, ["B2"])


def condition(name, host, prompt_format):
    """A baseline of that name."""
    return SimpleNamespace(name=name, baseline=name, host=host, prompt_format=prompt_format)
