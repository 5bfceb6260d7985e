"""Architectures beyond the six: the package sees what plain `transformers` computes, or refuses the model by name."""

import pytest
import torch

from nbhelpers.core.params import ParameterError
from nbhelpers.measures import lens, tuned_lens
from nbhelpers.models import loading
from nbhelpers.models.edits import graft
from nbhelpers.models.forward import StreamError, check_stream, forced_batch, forward, replay
from nbhelpers.models.generation import Continuation, generate
from tests import shapes

ROW = [1, 78, 234, 330, 81, 76, 92, 83, 101, 97]
EVERY = pytest.mark.parametrize("name", list(shapes.SUPPORTED))


def forced(decoder, row=ROW):
    """One row's stream, measured at each position but the last."""
    return forced_batch([0], [row[:1]], [Continuation(tuple(row[1:]), False)], decoder.pad_id)


def plain(module, row=ROW):
    """Logits [position, row] and what each block returns [layer, position, d], by hooks."""
    seen = []
    stack = module.get_decoder()
    hooks = [
        block.register_forward_hook(lambda m, i, o: seen.append((o[0] if isinstance(o, tuple) else o)[0]))
        for block in stack.layers
    ]
    with torch.no_grad():
        logits = module(torch.tensor([row])).logits[0]
    for hook in hooks:
        hook.remove()
    return logits, torch.stack(seen)


@EVERY
def test_lens_and_stream_are_those_of_the_model(name):
    decoder = shapes.pair(name).it
    stream = forward(decoder, forced(decoder))
    logits, residual = plain(decoder.module, ROW[:-1])
    torch.testing.assert_close(torch.stack(stream.residual), residual, rtol=1e-4, atol=1e-4)
    own = logits[:, decoder.unembedding.token_ids]
    torch.testing.assert_close(lens.lens_logits(residual[-1], decoder.unembedding), own, rtol=1e-4, atol=1e-4)
    assert lens.check_identity(stream.last_residual, stream.last_logits, decoder.unembedding) < 1e-4
    check_stream(stream, name)


@EVERY
def test_a_graft_equals_a_module_swap(name):
    pair = shapes.pair(name)
    host, donor = pair.pt, pair.it
    layers = [host.n_layers - 2, host.n_layers - 1]
    ours = forward(host, forced(host), graft(donor, layers))
    swapped = shapes.model(name)
    for layer in layers:
        swapped.get_decoder().layers[layer].mlp = donor.module.get_decoder().layers[layer].mlp
    logits, residual = plain(swapped, ROW[:-1])
    torch.testing.assert_close(torch.stack(ours.residual), residual, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.last_logits[0], logits[-1], rtol=1e-4, atol=1e-4)


@EVERY
def test_greedy_text_is_the_arg_max_of_the_forced_pass(name):
    decoder = shapes.pair(name).it
    rows = [ROW, ROW[:6]]
    made = generate(decoder, rows, max_new_tokens=6)
    for batch, stream in replay(decoder, rows, made):
        top = lens.lens_metrics(stream.residual[-1:], decoder.unembedding, metrics=("top1",))["top1"][0]
        assert torch.equal(top, batch.targets)


@EVERY
def test_a_pair_of_this_shape_loads(name, tmp_path):
    for variant in ("pt", "it"):
        shapes.save(name, variant, tmp_path / variant)
    pair = loading.load_pair(shapes.params(name, tmp_path))
    assert pair.n_layers == shapes.pair(name).n_layers


@pytest.mark.parametrize("name", list(shapes.REFUSED))
def test_what_cannot_be_taken_apart_is_refused_at_load(name, tmp_path):
    for variant in ("pt", "it"):
        shapes.save(name, variant, tmp_path / variant)
    with pytest.raises(ParameterError) as error:
        loading.load_pair(shapes.params(name, tmp_path))
    said = str(error.value)
    assert f"{name} (PT): " in said and "cannot take it apart" in said and "\n" not in said


def test_attention_that_a_model_lacks_names_the_other(tmp_path):
    for variant in ("pt", "it"):
        shapes.save("gemma2", variant, tmp_path / variant)
    with pytest.raises(ParameterError, match="does not run with attention sdpa; set `attention: eager` in"):
        loading.load_pair(shapes.params("gemma2", tmp_path, attention="sdpa"))


def test_updates_that_do_not_add_up_are_named():
    """Granite read without its multiplier, as if it were a Llama."""
    decoder = shapes.decoder("granite")
    for block in decoder.module.get_decoder().layers:
        multiplier, block.residual_multiplier = block.residual_multiplier, 1.0
        block.register_forward_hook(lambda m, i, o, f=multiplier: i[0] + f * (o - i[0]))
    with pytest.raises(
        StreamError, match=r"granite: at layer \d the attention and MLP updates do not add up"
    ):
        check_stream(forward(decoder, forced(decoder)), "granite")


def test_logits_that_are_changed_in_an_unknown_way_are_refused_at_load(monkeypatch, tmp_path):
    for variant in ("pt", "it"):
        shapes.save("granite", variant, tmp_path / variant)
    whole = loading.load_decoder

    def rescaled(params, variant):
        decoder = whole(params, variant)
        decoder.module.lm_head.register_forward_hook(lambda module, inputs, output: 2 * output)
        return decoder

    monkeypatch.setattr(loading, "load_decoder", rescaled)
    with pytest.raises(ParameterError, match="do not give the logits that GraniteForCausalLM returns"):
        loading.load_pair(shapes.params("granite", tmp_path))


@pytest.mark.parametrize(("name", "mixture", "sentence"), [
    ("mixtral", False, "mixtral.yml: the MLPs are mixtures of experts: add `mixture: true`"),
    ("qwen2", True, "qwen2.yml: the MLPs are no mixtures of experts: remove `mixture`"),
])  # fmt: skip
def test_a_file_that_is_wrong_about_experts_is_refused(name, mixture, sentence):
    decoder = shapes.pair(name).pt
    loading.check_mixture(decoder, not mixture)
    with pytest.raises(ParameterError, match=sentence):
        loading.check_mixture(decoder, mixture)


def test_a_factor_of_the_logits_is_part_of_what_a_tuned_lens_is_tied_to():
    one, two = (shapes.decoder("granite", logits_scaling=scale).unembedding for scale in (8.0, 2.0))
    assert tuned_lens.unembedding_digest(one) != tuned_lens.unembedding_digest(two)
