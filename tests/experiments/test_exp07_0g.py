"""Tuned lenses of a pair: how texts are split and read, what training is told, and the check against a slow loop."""

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.core.params import FAMILIES, VARIANTS
from nbhelpers.experiments.exp07_0g_tuned_lens import measure as exp07_0g_measure
from nbhelpers.measures import tuned_lens
from nbhelpers.models import corpora
from nbhelpers.models.loading import load_pair
from tests.experiments.test_exp00 import lens_row, log_probabilities, states
from tests.measures.test_tuned_lens import perturbed
from tests.specs import complete

KEY = "llama_pocket"
SMALL = dict(steps=2, tokens_per_step=100, n_validation_tokens=90, n_test_tokens=70, max_text_tokens=32,
             validate_every=1, batch_size=4)  # fmt: skip


def run(model=KEY, **options):
    """A small run; nothing of it is on disk."""
    return experiments.resolve("exp07_0g", model=model, **SMALL | options)


def corpus(tmp_path, n):
    """The first n texts of the pocket corpus as a source of their own."""
    path = tmp_path / "few.jsonl"
    texts = corpora.texts(run().experiment.corpus)
    path.write_text("".join(json.dumps({"text": next(texts)}) + "\n" for _ in range(n)))
    return {"path": str(path)}


@cache
def pair(model=KEY):
    return load_pair(model)


def counted(rows):
    """Tokens that a lens sees of rows: all but each row's first."""
    return sum(len(row) - 1 for row in rows)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_split_is_disjoint_whole_and_of_the_size_asked(variant):
    decoder, e = getattr(pair(), variant), run().experiment
    rows = exp07_0g_measure.split_rows(decoder, run())
    texts = corpora.texts(e.corpus)
    expected = [exp07_0g_measure.read_as(decoder, next(texts), 32) for _ in sum(rows.values(), [])]
    assert [*rows["test"], *rows["validation"], *rows["training"]] == expected
    for name, wanted in zip(exp07_0g_measure.PARTS, (70, 90, 200)):
        assert counted(rows[name]) >= wanted > counted(rows[name][:-1])
    assert exp07_0g_measure.split_rows(decoder, run(), ("test",)) == {"test": rows["test"]}


def test_no_lens_is_judged_on_what_either_was_trained_on():
    """IT's rows are longer by their template, so its test texts are among PT's, which no training row can be."""
    tests, learns = [], []
    for decoder in pair():
        rows = exp07_0g_measure.split_rows(decoder, run())
        tests.append(len(rows["test"]))
        learns.append(len(rows["test"]) + len(rows["validation"]))
    assert max(tests) <= min(learns) and tests[1] <= tests[0]


@pytest.mark.parametrize("model", [f"{family}_pocket" for family in FAMILIES])
def test_pt_reads_text_and_it_a_users_turn_with_one_bos(model):
    text = "The baker of Arden bakes bread for the whole town before dawn."
    tokenizer = pair(model).it.tokenizer
    pt, it = (exp07_0g_measure.read_as(decoder, text, 200) for decoder in pair(model))
    assert tokenizer.decode(pt, skip_special_tokens=True) == text
    options = pair(model).it.template_options
    turn = [{"role": "user", "content": text}]
    whole = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **options)
    assert it == tokenizer(whole, add_special_tokens=False)["input_ids"]
    begins = bool(tokenizer.bos_token) and whole.startswith(tokenizer.bos_token)
    assert it.count(tokenizer.bos_token_id) == begins
    assert exp07_0g_measure.read_as(pair(model).it, text, 9) == it[:9]


@pytest.mark.parametrize(
    "family, expected", [("llama", 0.1), ("gemma", 0.025), ("qwen", 0.05), ("deepseek", 0.05), ("olmo", 0.1)]
)
def test_the_rate_is_scaled_by_family(family, expected):
    assert exp07_0g_measure.rate(run(f"{family}_pocket")) == pytest.approx(expected)
    assert exp07_0g_measure.rate(run(f"{family}_pocket", learning_rate=0.4)) == pytest.approx(4 * expected)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_short_a_corpus_is_one_sentence(tmp_path, n):
    with pytest.raises(params.ParameterError) as error:
        exp07_0g_measure.split_rows(pair().pt, run(corpus=corpus(tmp_path, n)))
    assert str(error.value) == (
        "the corpus of exp07_0g ends before there is a text to train on: name a longer one, or lower n_test_tokens "
        "and n_validation_tokens."
    )


def test_a_corpus_shorter_than_all_steps_is_gone_through_again(tmp_path):
    few = run(corpus=corpus(tmp_path, 12), steps=50)
    rows = exp07_0g_measure.split_rows(pair().pt, few)
    assert 0 < counted(rows["training"]) < 50 * 100
    batches = exp07_0g_measure.epochs(pair().pt, rows["training"], 4, seed=0)
    n = len(rows["training"])
    sizes = [len(next(batches)[0]) for _ in range(3 * -(-n // 4))]
    per_epoch = -(-n // 4)
    assert all(sum(sizes[i * per_epoch : (i + 1) * per_epoch]) == counted(rows["training"]) for i in range(3))


def test_each_epoch_has_an_order_of_its_own_that_the_seed_fixes():
    rows = exp07_0g_measure.split_rows(pair().pt, run())["training"]
    firsts = []
    for seed in (0, 0, 1):
        batches = exp07_0g_measure.epochs(pair().pt, rows, 1, seed=seed)
        firsts.append([[float(next(batches)[3].sum()) for _ in rows] for _ in range(2)])
    assert firsts[0] == firsts[1] != firsts[2]
    assert firsts[0][0] != firsts[0][1] and sorted(firsts[0][0]) == pytest.approx(sorted(firsts[0][1]))


def test_a_pool_of_passes_gives_each_token_once_mixed_where_a_step_is_smaller():
    rows = exp07_0g_measure.split_rows(pair().pt, run())["training"]
    assert len(rows) > 3
    widest, n_layers, n = 4 * len(rows), len(pair().pt.layers), counted(rows)

    def batches(pool, tokens, seed=0, n_batches=1):
        made = exp07_0g_measure.epochs(pair().pt, rows, 2, seed, pool=pool, tokens_per_step=tokens)
        return [next(made) for _ in range(n_batches)]

    whole = list(batches(1, 1, n_batches=-(-len(rows) // 2)))
    plain = [torch.cat(layer) for layer in zip(*whole)]
    (mixed,) = batches(widest, n - 1)
    assert [len(layer) for layer in mixed] == [n] * n_layers
    sums, plain_sums = (layers[-1].sum(-1) for layers in (mixed, plain))
    torch.testing.assert_close(sums.sort().values, plain_sums.sort().values, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(sums, plain_sums, atol=1.0)
    # Which token of the plain order each mixed one is, by its last layer: all layers moved together.
    origin = torch.cdist(mixed[-1], plain[-1]).argmin(1)
    for layer, other in zip(mixed, plain):
        torch.testing.assert_close(layer, other[origin], atol=1e-3, rtol=1e-3)
    assert torch.equal(mixed[-1], batches(widest, n - 1)[0][-1])
    assert not torch.equal(mixed[-1], batches(widest, n - 1, seed=1)[0][-1])
    # A step that takes the whole pool takes pass by pass, longest rows first.
    passes = batches(widest, n, n_batches=-(-len(rows) // 2))
    lengths = sorted((len(row) - 1 for row in rows), reverse=True)
    assert [len(batch[0]) for batch in passes] == [sum(lengths[i : i + 2]) for i in range(0, len(rows), 2)]


def test_validation_residuals_are_those_of_every_token_but_the_first():
    rows = exp07_0g_measure.split_rows(pair().pt, run())["validation"]
    found = exp07_0g_measure.joined_residuals(pair().pt, rows, 2)
    # Rows of like length share a batch, longest first.
    order = np.argsort([-len(row) for row in rows], kind="stable")
    slow = [states(pair().pt, rows[i])["residual"] for i in order]
    for layer, values in enumerate(found):
        expected = torch.cat([seen[layer][1:] for seen in slow])
        assert len(values) == counted(rows)
        np.testing.assert_allclose(np.sort(values.sum(-1)), np.sort(expected.sum(-1)), rtol=1e-3, atol=1e-3)


def test_training_is_told_what_the_parameters_say(monkeypatch):
    told = {}
    monkeypatch.setattr(tuned_lens, "train", lambda batches, unembedding, **options: told.update(options))
    exp07_0g_measure.train(
        pair().it, run("llama_pocket", form="residual", momentum=0.5, clip=2.0, lens_rows=99)
    )
    validation = told.pop("validation")
    assert told.pop("metadata") == {
        "model": KEY, "variant": "it",
        "parameter_hash": run(form="residual", momentum=0.5, clip=2.0, lens_rows=99).hash,
    }  # fmt: skip
    assert told == dict(
        learning_rate=0.1,
        form="residual",
        steps=2,
        tokens_per_step=100,
        momentum=0.5,
        clip=2.0,
        validate_every=1,
        rows=99,
    )
    assert len(validation) == 12 and 90 <= len(validation[0]) < 90 + 32


def slow_check(decoder, tuned, rows):
    """{metric: [lens, text, layer]} of rows, each alone on the bare model."""
    real = np.flatnonzero(decoder.real_tokens)
    texts = []
    for row in rows:
        seen = states(decoder, row)
        steps = []
        for at in range(1, len(row)):
            residual = [h[at] for h in seen["residual"]]
            both = [
                lens_row(log_probabilities(decoder, residual, t), real, int(real[0])) for t in (None, tuned)
            ]
            steps.append({name: np.stack([one[name] for one in both]) for name in both[0]})
        texts.append({name: np.mean([step[name] for step in steps], axis=0) for name in steps[0]})
    return {name: np.stack([text[name] for text in texts], axis=1) for name in texts[0]}


@cache
def judged():
    """Lenses away from the identity, and what `evaluate` says of them."""
    lenses = {d.variant: perturbed(12, d.unembedding, seed=i) for i, d in enumerate(pair())}
    logs = {v: xr.Dataset({
        "train_loss": (("step", "layer"), np.full((2, 12), float(i))),
        "validation_loss": (("check", "layer"), np.full((3, 12), 10.0 + i)),
        "chosen_step": ("layer", np.arange(12) + i),
    }) for i, v in enumerate(VARIANTS)}  # fmt: skip
    return lenses, exp07_0g_measure.evaluate(pair(), {v: (lenses[v], logs[v]) for v in VARIANTS}, run())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_check_equals_a_slow_loop_over_held_out_texts(variant):
    lenses, found = judged()
    decoder = getattr(pair(), variant)
    rows = exp07_0g_measure.split_rows(decoder, run())["test"][: found.sizes["text"]]
    slow, one = slow_check(decoder, lenses[variant], rows), found.sel(variant=variant)
    for name in ("kl_final_layer", "kl_layer_final", "top1_agreement"):
        values = one[name].transpose("lens", "text", "layer")
        np.testing.assert_allclose(values, slow[name], rtol=1e-4, atol=3e-5, err_msg=name)


def test_transfer_is_it_read_with_pts_translators():
    lenses, found = judged()
    rows = exp07_0g_measure.split_rows(pair().it, run())["test"][: found.sizes["text"]]
    slow = slow_check(pair().it, lenses["pt"], rows)["kl_final_layer"][1]
    np.testing.assert_allclose(found.kl_transfer.transpose("text", "layer"), slow, rtol=1e-4, atol=3e-5)


def test_the_last_layers_translator_is_judged_though_it_is_never_applied():
    lenses, found = judged()
    decoder, tuned = pair().it, lenses["it"]
    rows = exp07_0g_measure.split_rows(decoder, run())["test"]
    slow = []
    for row in rows:
        h = states(decoder, row)["residual"][-1][1:]
        moved = h @ tuned.weight[-1].T + tuned.bias[-1]
        final, read = (log_probabilities(decoder, list(x)) for x in (h, moved))
        slow += (final.exp() * (final - read)).sum(-1).tolist()
    assert float(found.last_layer_kl.sel(variant="it")) == pytest.approx(np.mean(slow), rel=1e-3)
    assert np.mean(slow) > 1e-3
    untrained = tuned_lens.untrained(12, decoder.unembedding, form="residual")
    assert exp07_0g_measure.last_layer_kl(untrained, h, decoder.unembedding) < 1e-6


def test_the_dataset_is_whole_and_keeps_each_variants_log():
    _, found = judged()
    assert complete(found, "exp07_0g") is found
    assert (found.train_loss.sel(variant="it") == 1).all() and (
        found.validation_loss.sel(variant="pt") == 10
    ).all()
    assert found.chosen_step.sel(variant="it").values.tolist() == list(range(1, 13))
    assert not found.gate.any()  # random translators help nowhere


def checked(better, last=0.0, n_layers=12):
    """A check in which the tuned lens is closer in some layers only."""
    raw = np.full((2, n_layers), 1.0)
    tuned = np.where(np.isin(np.arange(n_layers), list(better)), 0.5, 1.5) * np.ones((2, 1))
    kl = xr.DataArray(
        np.stack([raw, tuned]), dims=("lens", "text", "layer"), coords={"lens": ["raw", "tuned"]}
    )
    return xr.Dataset({"kl_final_layer": kl, "last_layer_kl": last})


@pytest.mark.parametrize(
    "better, last, passes",
    [(range(11), 0.0, True), (set(range(11)) - {0}, 0.0, True), (set(range(11)) - {7}, 0.0, False),
     (set(range(11)) - {0, 1}, 0.0, False), (range(11), 0.06, False), ((), 0.0, False)],
)  # fmt: skip
def test_the_gate(better, last, passes):
    """Of eleven layers ten may be nine tenths; layer 7, 0.6 of twelve, must be among them."""
    assert exp07_0g_measure.gate(checked(better, last)) is passes


def test_a_short_training_lowers_its_own_loss():
    lens, log = exp07_0g_measure.train(pair().pt, run(steps=12, tokens_per_step=256))
    assert lens.metadata["variant"] == "pt" and lens.weight.shape == (12, 96, 96)
    early, late = log.validation_loss.isel(check=0), log.validation_loss.isel(check=-1)
    assert float(late.isel(layer=slice(2, 8)).mean()) < float(early.isel(layer=slice(2, 8)).mean())
    other = exp07_0g_measure.train(pair().pt, run(steps=12, tokens_per_step=256))[0]
    assert torch.equal(lens.weight, other.weight)


def test_exactly_nine_tenths_of_the_layers_pass_the_gate_and_the_limit_of_the_last_translator_does_not():
    """Of eleven layers ten can be closer; nine of them are nine tenths."""
    assert exp07_0g_measure.gate(checked(set(range(10)) - {0}, n_layers=11))
    assert not exp07_0g_measure.gate(checked(set(range(10)) - {0, 1}, n_layers=11))
    assert not exp07_0g_measure.gate(checked(range(11), exp07_0g_measure.LAST_LAYER_KL))


def test_a_rows_first_position_is_no_token_of_its_part(monkeypatch):
    """Rows of five ids have four tokens: three rows for nine, and two for eight."""
    monkeypatch.setattr(exp07_0g_measure.corpora, "texts", lambda corpus: iter("abcdefghij"))
    monkeypatch.setattr(exp07_0g_measure, "read_as", lambda decoder, text, longest: [ord(text)] * 5)
    sizes = dict(
        n_test_tokens=9, n_validation_tokens=8, steps=1, tokens_per_step=3, corpus=None, max_text_tokens=9
    )
    made = SimpleNamespace(key="made up", experiment=SimpleNamespace(**sizes))
    rows = exp07_0g_measure.split_rows(None, made)
    assert {name: "".join(chr(row[0]) for row in part) for name, part in rows.items()} == {
        "test": "abc", "validation": "de", "training": "f",
    }  # fmt: skip
