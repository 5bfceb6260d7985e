"""The tuned lens: gradients against autograd, training against torch.optim, files against hand-written ones."""

import errno
import itertools
import json
import os
import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import safetensors.torch
import torch

from nbhelpers.core import store
from nbhelpers.core.params import FAMILIES, ROOT
from nbhelpers.measures import lens, tuned_lens, tuned_lens_files
from nbhelpers.measures.tuned_lens import TunedLensError
from nbhelpers.models.loading import load_pair
from tests.measures.test_lens import Largest, case


@cache
def pocket(family):
    """A pocket PT model's unembedding and the residuals [layer][token, d] of some held-out texts, twice."""
    decoder = load_pair(f"{family}_pocket").pt
    lines = (ROOT / "pocket/prompts.jsonl").read_text().splitlines()
    texts = " ".join(json.loads(line)["text"] for line in lines[::3])
    ids = torch.as_tensor(decoder.tokenizer(texts)["input_ids"][: 32 * 64]).view(32, 64)
    found, stack = [], decoder.module.get_decoder()
    handles = [block.register_forward_hook(lambda m, a, out: found.append(out)) for block in stack.layers]
    with torch.no_grad():
        decoder.module(ids)
    for handle in handles:
        handle.remove()
    # Position 0 has no context; the last rows are held out.
    return (
        decoder.unembedding,
        [h[:24, 1:].flatten(0, 1) for h in found],
        [h[24:, 1:].flatten(0, 1) for h in found],
    )


def perturbed(n_layers, unembedding, form="full", size=0.02, seed=0):
    """A lens away from its start, in every layer."""
    g, tuned = torch.Generator().manual_seed(seed), tuned_lens.untrained(n_layers, unembedding, form=form)
    tuned.weight.add_(size * torch.randn(tuned.weight.shape, generator=g))
    tuned.bias.add_(size * torch.randn(tuned.bias.shape, generator=g))
    return tuned


def layer_loss(weight, bias, form, h, h_final, unembedding):
    """KL(final ‖ layer), summed over tokens, of one translator, by plain autograd over the whole vocabulary."""
    x = h.float() @ weight.T + bias + (h.float() if form == "residual" else 0)
    z, final = (
        unembedding.norm(state).float() @ unembedding.weight.float().T for state in (x.to(h.dtype), h_final)
    )
    log_p, log_q = z.log_softmax(-1), final.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum()


def autograd(tuned, residuals, unembedding):
    """Loss and gradients of `kl_gradients`, one layer at a time; the last layer has none."""
    loss, weights, biases = [], [], []
    for weight, bias, h in zip(tuned.weight[:-1], tuned.bias[:-1], residuals):
        weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        loss.append(layer_loss(weight, bias, tuned.form, h, residuals[-1], unembedding))
        for kept, gradient in zip((weights, biases), torch.autograd.grad(loss[-1], (weight, bias))):
            kept.append(gradient)
    return torch.stack(loss).detach(), torch.stack(weights), torch.stack(biases)


def assert_close_by_layer(got, expected, relative):
    """Every layer's tensor is off by at most `relative` of its norm."""
    error = (got - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.max() < relative, error


@pytest.mark.parametrize("form", tuned_lens.FORMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_autograds(family, form):
    unembedding, residuals, _ = pocket(family)
    residuals = [h[:100] for h in residuals]
    tuned = perturbed(len(residuals), unembedding, form)
    loss, *gradients = tuned_lens.kl_gradients(tuned, residuals, unembedding, rows=37, columns=300)
    expected_loss, *expected = autograd(tuned, residuals, unembedding)
    torch.testing.assert_close(loss[:-1], expected_loss, rtol=1e-4, atol=1e-3)
    for got, reference in zip(gradients, expected):
        assert_close_by_layer(got[:-1], reference, 1e-3)
    # The last layer is its own reference, whatever its translator says.
    assert loss[-1] == 0 and all((gradient[-1] == 0).all() for gradient in gradients)


@pytest.mark.parametrize(("rows", "columns"), [(512, None), (1, 64), (5, 1), (16, 299), (3, 128)])
def test_gradients_do_not_depend_on_the_tile(rows, columns):
    residuals, unembedding = case(4, 16, 12, 300, scale=6.0)
    tuned = perturbed(4, unembedding)
    expected = tuned_lens.kl_gradients(tuned, residuals, unembedding, rows=16, columns=300)
    got = tuned_lens.kl_gradients(tuned, residuals, unembedding, rows=rows, columns=columns)
    for one, other in zip(got, expected):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_gradients_of_far_apart_predictions_are_finite():
    residuals, unembedding = case(3, 6, 8, 200, scale=300.0)
    tuned = perturbed(3, unembedding)
    loss, *gradients = tuned_lens.kl_gradients(tuned, residuals, unembedding, columns=64)
    expected_loss, *expected = autograd(tuned, residuals, unembedding)
    assert expected_loss.max() > 1000
    torch.testing.assert_close(loss[:-1], expected_loss, rtol=1e-4, atol=1e-2)
    for got, reference in zip(gradients, expected):
        assert_close_by_layer(got[:-1], reference, 1e-3)


def test_gradients_of_a_bfloat16_model_have_float32_logits():
    residuals, unembedding = case(4, 50, 32, 500, dtype=torch.bfloat16)
    tuned = perturbed(4, unembedding)
    loss, *gradients = tuned_lens.kl_gradients(tuned, residuals, unembedding, rows=20)
    expected_loss, *expected = autograd(tuned, residuals, unembedding)
    torch.testing.assert_close(loss[:-1], expected_loss, rtol=1e-4, atol=1e-3)
    for got, reference in zip(gradients, expected):
        assert got.dtype == torch.float32
        assert_close_by_layer(got[:-1], reference, 0.01)


@pytest.mark.parametrize("layers", [3, 9])
def test_no_tensor_holds_the_vocabulary_of_all_tokens(layers):
    residuals, unembedding = case(layers, 64, 8, 1000)
    tuned = tuned_lens.untrained(layers, unembedding)
    with Largest() as largest:
        tuned_lens.kl_gradients(tuned, residuals, unembedding, rows=32, columns=256)
    assert largest.numel == 32 * 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", tuned_lens.FORMS)
def test_the_start_is_exactly_the_raw_lens(form, dtype):
    residuals, unembedding = case(4, 9, 16, 300, dtype=dtype)
    tuned = tuned_lens.untrained(4, unembedding, form=form)
    for got, expected in zip(tuned_lens.translate(tuned, residuals), residuals):
        assert got.dtype == dtype and torch.equal(got, expected)
    options = dict(metrics=lens.METRICS + lens.MORE_METRICS, targets=unembedding.token_ids[:9], columns=128)
    raw = lens.lens_metrics(residuals, unembedding, **options)
    got = tuned_lens.metrics(residuals, unembedding, tuned, **options)
    assert list(got) == list(raw)
    for name, values in raw.items():
        torch.testing.assert_close(got[name], values, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("form", tuned_lens.FORMS)
def test_every_layer_is_translated_and_the_reference_is_raw(form):
    residuals, unembedding = case(4, 9, 16, 300)
    tuned = perturbed(4, unembedding, form, size=0.3)
    got = tuned_lens.metrics(residuals, unembedding, tuned)
    for layer in range(3):
        expected = layer_loss(
            tuned.weight[layer], tuned.bias[layer], form, residuals[layer], residuals[3], unembedding
        )
        assert got["kl_final_layer"][layer].sum().item() == pytest.approx(expected.item(), rel=1e-4)
    raw = lens.lens_metrics(residuals, unembedding)
    for name in ("entropy", "top1", "kl_final_layer"):
        assert torch.equal(got[name][-1], raw[name][-1])


def batches_of(residuals, size):
    """The same tokens, `size` at a time, without end."""
    while True:
        for start in range(0, len(residuals[0]) - size + 1, size):
            yield [h[start : start + size] for h in residuals]


@pytest.mark.parametrize(("family", "form"), [("llama", "full"), ("gemma", "residual")])
def test_training_lowers_the_loss_on_held_out_text(family, form):
    unembedding, residuals, held_out = pocket(family)
    validation, test = ([h[part] for h in held_out] for part in (slice(0, 200), slice(200, None)))
    tuned, log = tuned_lens.train(
        batches_of(residuals, 300), unembedding, validation=validation, form=form, steps=40, tokens_per_step=600,
        learning_rate=0.1 if family == "llama" else 0.025, validate_every=10, metadata={"model": family},
    )  # fmt: skip
    raw = lens.lens_metrics(test, unembedding)["kl_final_layer"].mean(1)
    kl = tuned_lens.metrics(test, unembedding, tuned)["kl_final_layer"].mean(1)
    assert (kl[:-1] < raw[:-1]).all() and kl[:-1].sum() < 0.7 * raw[:-1].sum()
    assert log.train_loss.dims == ("step", "layer") and log.train_loss.shape == (40, len(residuals))
    assert log.check.values.tolist() == [1, 10, 20, 30, 40] and (log.tokens == 600).all()
    # The last layer needs no translator: training leaves it where it starts.
    start = tuned_lens.untrained(len(residuals), unembedding, form=form)
    assert torch.equal(tuned.weight[-1], start.weight[-1]) and torch.equal(tuned.bias[-1], start.bias[-1])
    assert tuned.metadata == {"model": family} and tuned.digest == start.digest


class Translator(torch.nn.Module):
    def __init__(self, width, form):
        super().__init__()
        self.form = form
        self.weight = torch.nn.Parameter(torch.eye(width) if form == "full" else torch.zeros(width, width))
        self.bias = torch.nn.Parameter(torch.zeros(width))


@pytest.mark.parametrize(
    ("form", "momentum", "clip"), [("full", 0.9, 0.2), ("residual", 0.9, 0.1), ("full", 0.0, 1e9)]
)
def test_training_is_torchs_sgd_one_layer_at_a_time(form, momentum, clip):
    """Autograd, clip_grad_norm_ of each translator, SGD, LambdaLR: seven steps of two micro-batches each."""
    residuals, unembedding = case(4, 40, 10, 120, scale=2.0)
    steps, layers = 7, [Translator(10, form) for _ in range(3)]
    for h, translator in zip(residuals, layers):
        optimiser = torch.optim.SGD(translator.parameters(), lr=0.3, momentum=momentum, nesterov=momentum > 0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
        clipped = 0
        for step in range(steps):
            here = slice(0, 20) if step % 2 else slice(20, 40)
            optimiser.zero_grad()
            loss = (
                layer_loss(
                    translator.weight, translator.bias, form, h[here], residuals[-1][here], unembedding
                )
                / 20
            )
            loss.backward()
            clipped += torch.nn.utils.clip_grad_norm_(translator.parameters(), clip) > clip
            optimiser.step()
            schedule.step()
        assert clipped == 0 if clip > 1 else clipped > 2
    order = [
        [slice(0, 10), slice(10, 20)] if step % 2 else [slice(20, 30), slice(30, 40)] for step in range(steps)
    ]
    tuned, log = tuned_lens.train(
        ([h[here] for h in residuals] for pair in order for here in pair), unembedding, validation=list(residuals),
        form=form, steps=steps, tokens_per_step=20, learning_rate=0.3, momentum=momentum, clip=clip, validate_every=100,
    )  # fmt: skip
    # Compare where the last state is the kept one, which it is where it is the better of the two that were checked.
    assert log.check.values.tolist() == [1, 7] and (log.chosen_step[:-1] == 7).all()
    for layer, translator in enumerate(layers):
        torch.testing.assert_close(tuned.weight[layer], translator.weight.data, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(tuned.bias[layer], translator.bias.data, atol=2e-5, rtol=1e-4)


def test_each_layer_keeps_its_best_state():
    """At a rate far too high, validation gets worse in some layers: what is returned is the best that was seen."""
    residuals, unembedding = case(5, 60, 12, 200)
    validation = [h[40:] for h in residuals]
    tuned, log = tuned_lens.train(
        batches_of([h[:40] for h in residuals], 40), unembedding, validation=validation, steps=30, tokens_per_step=40,
        learning_rate=3.0, validate_every=3,
    )  # fmt: skip
    best = log.validation_loss.min("check")
    kl = tuned_lens.metrics(validation, unembedding, tuned)["kl_final_layer"].double().mean(1)
    np.testing.assert_allclose(kl, best, rtol=1e-6, atol=1e-9)
    assert log.check.values.tolist() == [1, *range(3, 31, 3)]
    chosen = log.validation_loss.sel(check=log.chosen_step)
    np.testing.assert_array_equal(chosen, best)
    assert len(np.unique(log.chosen_step[:-1])) > 1 and (best < log.validation_loss[-1])[:-1].any()
    assert log.chosen_step[-1] == 1 and best[-1] == 0


def test_the_same_batches_give_the_same_lens():
    residuals, unembedding = case(3, 40, 8, 100)

    def run(size):
        return tuned_lens.train(
            batches_of(residuals, size), unembedding, validation=list(residuals), steps=5, tokens_per_step=20,
            learning_rate=0.1,
        )  # fmt: skip

    (one, log), (two, _), (halves, _) = run(20), run(20), run(10)
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)
    torch.testing.assert_close(halves.weight, one.weight, atol=1e-6, rtol=1e-5)
    assert (log.tokens == 20).all()


@pytest.mark.parametrize("size", [3, 7, 20, 35, 60])
def test_a_step_has_exactly_its_tokens_whatever_the_batches(size):
    """Batches are cut where a step is full, and what is left of them is not lost."""
    residuals, unembedding = case(3, 60, 8, 100)

    def run(batches):
        return tuned_lens.train(
            batches, unembedding, validation=list(residuals), steps=6, tokens_per_step=20, learning_rate=0.1
        )

    def endless(size):
        return itertools.chain.from_iterable(
            ([h[start : start + size] for h in residuals] for start in range(0, 60, size)) for _ in range(9)
        )

    (cut, log), (even, _) = run(endless(size)), run(endless(20))
    assert (log.tokens == 20).all()
    torch.testing.assert_close(cut.weight, even.weight, atol=1e-6, rtol=1e-5)


def test_training_refuses_what_it_cannot_do():
    residuals, unembedding = case(3, 10, 8, 100)
    options = dict(validation=list(residuals), steps=3, tokens_per_step=20, learning_rate=0.1)
    with pytest.raises(TunedLensError, match="ended 10 tokens before a step was full"):
        tuned_lens.train([list(residuals)] * 3, unembedding, **options)
    with pytest.raises(TunedLensError, match="'affine': choose from full, residual"):
        tuned_lens.train([], unembedding, form="affine", **options)
    with pytest.raises(TunedLensError, match="3 layers, .token, 8. each and of one shape, not 2 layers"):
        tuned_lens.train(batches_of(residuals[:2], 10), unembedding, **options)
    broken = residuals.clone()
    broken[1, 3] = torch.nan
    with pytest.raises(TunedLensError, match=r"layers \[1\] is not finite: lower learning_rate"):
        tuned_lens.train(batches_of(broken, 10), unembedding, **options)


@pytest.mark.parametrize("form", tuned_lens.FORMS)
def test_gradients_under_a_soft_cap_are_autograds(form):
    residuals, unembedding = case(3, 10, 8, 100)
    capped = replace(unembedding, softcap=1.5)
    tuned = tuned_lens.untrained(3, capped, form=form)
    g = torch.Generator().manual_seed(1)
    tuned.weight.add_(0.1 * torch.randn(tuned.weight.shape, generator=g))
    tuned.bias.add_(0.1 * torch.randn(tuned.bias.shape, generator=g))
    loss, d_weight, d_bias = tuned_lens.kl_gradients(tuned, residuals, capped, rows=4)
    weight, bias = tuned.weight.clone().requires_grad_(), tuned.bias.clone().requires_grad_()

    def log_p(x):
        return (1.5 * torch.tanh(capped.norm(x) @ capped.weight.T / 1.5)).log_softmax(-1)

    final, total = log_p(residuals[-1]), 0
    for layer in range(2):
        h = residuals[layer]
        x = h @ weight[layer].T + bias[layer] + (h if form == "residual" else 0)
        kl = (final.exp() * (final - log_p(x))).sum()
        assert loss[layer].item() == pytest.approx(kl.item(), rel=1e-4)
        total = total + kl
    wanted = torch.autograd.grad(total, (weight, bias))
    torch.testing.assert_close(d_weight, wanted[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(d_bias, wanted[1], rtol=1e-3, atol=1e-4)
    assert loss[2] == 0


def test_a_soft_capped_model_can_still_be_read():
    residuals, unembedding = case(3, 10, 8, 100)
    capped = replace(unembedding, softcap=5.0)
    got = tuned_lens.metrics(residuals, capped, tuned_lens.untrained(3, capped))
    assert torch.equal(got["entropy"], lens.lens_metrics(residuals, capped)["entropy"])


@pytest.mark.parametrize("form", tuned_lens.FORMS)
def test_a_saved_lens_comes_back_whole(form, tmp_path):
    _, unembedding = case(d=16)
    tuned = replace(perturbed(3, unembedding, form), metadata={"model": "llama_pocket", "steps": 40})
    path = tuned_lens_files.save(tuned, tmp_path / "deep" / "lens.safetensors")
    back = tuned_lens_files.load(path, unembedding)
    assert torch.equal(back.weight, tuned.weight) and torch.equal(back.bias, tuned.bias)
    assert (back.form, back.digest, back.metadata) == (form, tuned.digest, tuned.metadata)
    assert [file.name for file in path.parent.iterdir()] == ["lens.safetensors"]


def test_the_digest_knows_the_model_but_not_its_precision():
    _, unembedding = case(d=16, dtype=torch.bfloat16)
    digest = tuned_lens.unembedding_digest(unembedding)
    wider = replace(unembedding, norm=torch.nn.RMSNorm(16), weight=unembedding.weight.float())
    wider.norm.weight.data.copy_(unembedding.norm.weight.data)
    assert tuned_lens.unembedding_digest(wider) == digest
    wider.norm.weight.data[3] += 1
    others = [wider, replace(unembedding, softcap=30.0), replace(unembedding, weight=unembedding.weight.flip(0)),
              replace(unembedding, token_ids=unembedding.token_ids.flip(0))]  # fmt: skip
    assert len({digest, *map(tuned_lens.unembedding_digest, others)}) == 5


def test_a_lens_of_another_model_is_refused(tmp_path):
    _, ours = case(d=16, seed=0)
    _, theirs = case(d=16, seed=1)
    path = tuned_lens_files.save(perturbed(3, theirs), tmp_path / "lens.safetensors")
    with pytest.raises(TunedLensError) as error:
        tuned_lens_files.load(path, ours)
    digests = [tuned_lens.unembedding_digest(unembedding) for unembedding in (ours, theirs)]
    assert all(part in str(error.value) for part in (str(path), *digests, "train a lens for this model"))


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    _, unembedding = case(d=16)
    path = tmp_path / "lens.safetensors"
    with pytest.raises(TunedLensError, match="There is no tuned lens .*lens.safetensors: train it"):
        tuned_lens_files.load(path, unembedding)
    whole = tuned_lens_files.save(perturbed(3, unembedding), path).read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(TunedLensError, match="lens.safetensors is damaged"):
            tuned_lens_files.load(path, unembedding)
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(TunedLensError, match="damaged .its values changed"):
        tuned_lens_files.load(path, unembedding)
    path.write_text("not a lens at all, only a text of some length")
    with pytest.raises(TunedLensError, match="lens.safetensors is damaged"):
        tuned_lens_files.load(path, unembedding)
    safetensors.torch.save_file({"weight": torch.zeros(3, 16, 16)}, path)
    with pytest.raises(TunedLensError, match="no tuned lens of this project"):
        tuned_lens_files.load(path, unembedding)


def test_a_full_disk_leaves_the_earlier_lens(tmp_path, monkeypatch):
    _, unembedding = case(d=16)
    path = tuned_lens_files.save(perturbed(3, unembedding), tmp_path / "lens.safetensors")
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(store.ResultError, match="could not be written .No space left on device.*untouched"):
        tuned_lens_files.save(perturbed(3, unembedding, seed=1), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_equal_lenses_are_equal_files_that_the_library_reads(tmp_path):
    _, unembedding = case(d=16)
    lens = perturbed(3, unembedding)
    path = tmp_path / "lens.safetensors"
    files = {tuned_lens_files.save(lens, path).read_bytes() for _ in range(8)}
    assert len(files) == 1
    found = safetensors.torch.load_file(path)
    torch.testing.assert_close(found["weight"], lens.weight, rtol=0, atol=0)


def test_other_shapes_are_refused():
    residuals, unembedding = case(4, 9, 16, 300)
    tuned = tuned_lens.untrained(3, unembedding)
    with pytest.raises(TunedLensError, match="3 layers, .token, 16. each and of one shape, not 4 layers"):
        tuned_lens.translate(tuned, residuals)
    with pytest.raises(TunedLensError, match=r"not 3 layers of \[\(5, 16\), \(9, 16\)\]"):
        tuned_lens.translate(tuned, [residuals[0], residuals[1], residuals[2, :5]])


def library_folder(folder, head, n_layers, *, bias=True, **changes):
    """A lens as the tuned-lens library 0.2.0 lays it out, written by hand; returns its translators."""
    width, g = head.shape[1], torch.Generator().manual_seed(5)
    state = {}
    for i in range(n_layers):
        state[f"{i}.weight"] = 0.1 * torch.randn(width, width, generator=g)
        if bias:
            state[f"{i}.bias"] = torch.randn(width, generator=g)
    config = {"base_model_name_or_path": "some/model", "d_model": width, "num_hidden_layers": n_layers, "bias": bias,
              "base_model_revision": "main", "unembed_hash": tuned_lens_files.library_hash(head),
              "lens_type": "linear_tuned_lens"}  # fmt: skip
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "params.pt")
    (folder / "config.json").write_text(json.dumps(config | changes))
    return state


@pytest.mark.parametrize("bias", [True, False])
def test_a_library_lens_reads_the_hidden_states_that_it_was_trained_on(bias, tmp_path):
    """Its translator i reads hidden state i, and block l puts out hidden state l + 1."""
    residuals, unembedding = case(4, 9, 16, 300)
    state = library_folder(tmp_path / "lens", unembedding.weight, 4, bias=bias)
    tuned = tuned_lens_files.read_library(tmp_path / "lens", unembedding)
    assert tuned.form == "residual" and tuned.metadata["library"]["base_model_name_or_path"] == "some/model"
    hidden_states = [torch.randn(9, 16), *residuals]
    got = tuned_lens.translate(tuned, residuals)
    for i in (1, 2, 3):
        added = torch.nn.functional.linear(hidden_states[i], state[f"{i}.weight"], state.get(f"{i}.bias"))
        torch.testing.assert_close(got[i - 1], hidden_states[i] + added)
    assert torch.equal(got[3], residuals[3]) and not tuned.weight[3].any() and not tuned.bias[3].any()


def test_the_librarys_hash():
    """Digests that tuned_lens.utils.tensor_hash of the library's wheel 0.2.0 gave for these matrices."""
    large = torch.linspace(-3, 3, 70 * 64).reshape(70, 64)
    small = torch.linspace(-1e-3, 5e5, 8 * 4).reshape(8, 4)
    assert (
        tuned_lens_files.library_hash(large)
        == "fdfa5ce017f98c5f649454ab0773d6aae117529af50eb7a09867d74bfd7c9e3d"
    )
    assert (
        tuned_lens_files.library_hash(small)
        == "d9825b8e5a3103fc2bada5b666e77e7e8ebe1b3d28301f465d97255e2c7cb839"
    )
    with np.printoptions(precision=3, edgeitems=1, threshold=5, suppress=True):
        assert (
            tuned_lens_files.library_hash(small)
            == "d9825b8e5a3103fc2bada5b666e77e7e8ebe1b3d28301f465d97255e2c7cb839"
        )


def test_a_library_lens_of_another_model_is_refused(tmp_path):
    _, unembedding = case(d=16)
    whole = torch.cat([unembedding.weight, torch.zeros(5, 16)])
    library_folder(tmp_path / "lens", whole, 3)
    with pytest.raises(TunedLensError) as error:
        tuned_lens_files.read_library(tmp_path / "lens", unembedding)
    parts = (str(tmp_path / "lens"), tuned_lens_files.library_hash(whole), "some/model", "head_weight")
    assert all(part in str(error.value) for part in parts)
    assert tuned_lens_files.read_library(tmp_path / "lens", unembedding, head_weight=whole).digest
    library_folder(tmp_path / "lens", whole, 3, unembed_hash=None)
    assert tuned_lens_files.read_library(tmp_path / "lens", unembedding).digest


def test_a_damaged_or_foreign_library_folder_is_named(tmp_path):
    _, unembedding = case(d=16)
    folder = tmp_path / "lens"

    def refused(match):
        with pytest.raises(TunedLensError, match=match):
            tuned_lens_files.read_library(folder, unembedding)

    refused("config.json is no configuration of a tuned lens")
    library_folder(folder, unembedding.weight, 3, lens_type="other")
    refused("describes a other of width 16, not a linear_tuned_lens of width 16")
    library_folder(folder, unembedding.weight, 3, d_model=8)
    refused("of width 8, not")
    library_folder(folder, unembedding.weight, 3, num_hidden_layers=4)
    refused("does not hold 4 translators of width 16")
    library_folder(folder, unembedding.weight, 3)
    params = folder / "params.pt"
    whole = params.read_bytes()
    for length in (0, 10, len(whole) // 2):
        params.write_bytes(whole[:length])
        refused("params.pt is missing or damaged")
    params.unlink()
    refused("params.pt is missing or damaged")


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trap-was-sprung",)


def test_a_library_file_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, unembedding = case(d=16)
    library_folder(tmp_path / "lens", unembedding.weight, 3)
    torch.save({"0.weight": Trap()}, tmp_path / "lens/params.pt", pickle_module=pickle)
    with pytest.raises(TunedLensError, match="missing or damaged"):
        tuned_lens_files.read_library(tmp_path / "lens", unembedding)
    assert not (tmp_path / "trap-was-sprung").exists()
