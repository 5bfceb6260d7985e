"""Attention at the last position equals plain transformers on every row alone, on all six architectures."""

import weakref
from contextlib import nullcontext

import nnsight
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3TextConfig, LlamaConfig, MistralConfig

from nbhelpers.core.params import FAMILIES, ParameterError
from nbhelpers.measures import attention_entropy
from nbhelpers.models import forward, generation
from nbhelpers.models.decoder import wrap
from nbhelpers.models.loading import load_pair

KEYS = [f"{family}_pocket" for family in FAMILIES]
# Longer than the pocket windows of Gemma (32) and Mistral (48), shorter, and a single token.
LENGTHS = (60, 3, 41, 1, 17)


@pytest.fixture(scope="module", params=KEYS)
def decoder(request):
    return load_pair(request.param).it


@pytest.fixture(scope="module")
def llama():
    return load_pair("llama_pocket").it


def rows_of(decoder):
    rng = np.random.default_rng(0)
    return [rng.integers(10, 900, n).tolist() for n in LENGTHS]


def plain(decoder, ids):
    """Return the last query's weights [layer, head, key] and the residuals [layer, d] of one row, without nnsight."""
    seen, blocks = [], decoder.module.get_submodule(decoder.stack_path).layers
    handles = [block.register_forward_hook(lambda m, i, out: seen.append(out[0, -1])) for block in blocks]
    decoder.module.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = decoder.module(torch.tensor([ids]), output_attentions=True)
    finally:
        decoder.module.set_attn_implementation("sdpa")
        for handle in handles:
            handle.remove()
    return torch.stack(out.attentions)[:, 0, :, -1].double(), torch.stack(seen)


def slow_entropy(p):
    """Return −Σ p log p of one distribution, by a loop."""
    return -sum(float(q) * np.log(float(q)) for q in p if q > 0)


def test_equals_plain_transformers_on_rows_alone(decoder):
    rows = rows_of(decoder)
    got = attention_entropy.last_position_attention(decoder, rows, batch_size=3)
    for i, ids in enumerate(rows):
        weights, residual = plain(decoder, ids)
        np.testing.assert_array_equal((weights > 0).any(1).sum(-1), got.visible_keys[i])
        np.testing.assert_allclose(got.sink[i], weights[..., 0], atol=2e-5)
        np.testing.assert_allclose(got.residual[i], residual, rtol=1e-4, atol=2e-4)
        for layer in range(decoder.n_layers):
            for head, p in enumerate(weights[layer]):
                at = i, layer, head
                assert got.entropy[at] == pytest.approx(slow_entropy(p), abs=1e-4)
                rest = p[1:].sum()
                if rest > 0:
                    expected = slow_entropy(p[1:] / rest)
                    assert got.entropy_without_sink[at] == pytest.approx(expected, abs=2e-4)
                else:
                    assert np.isnan(got.entropy_without_sink[at])
    assert all(getattr(got, name).dtype == np.float32 for name in ("entropy", "sink", "residual"))


def test_a_batch_equals_its_rows_alone(decoder):
    rows = rows_of(decoder)
    together = attention_entropy.last_position_attention(decoder, rows, batch_size=5)
    alone = attention_entropy.last_position_attention(decoder, rows, batch_size=1)
    for name in ("entropy", "entropy_without_sink", "sink", "residual"):
        np.testing.assert_allclose(getattr(together, name), getattr(alone, name), rtol=1e-3, atol=2e-4)
    np.testing.assert_array_equal(together.visible_keys, alone.visible_keys)


def test_residuals_are_those_that_capture_reads(decoder):
    rows = rows_of(decoder)
    got = attention_entropy.last_position_attention(decoder, rows)
    made = [generation.Continuation((5,), False)] * len(rows)
    for batch, stream in forward.replay(decoder, rows, made):
        expected = torch.stack(stream.residual, dim=1).numpy()
        np.testing.assert_allclose(got.residual[batch.rows], expected, rtol=1e-4, atol=2e-4)


def test_equals_a_softmax_of_queries_and_keys(llama):
    """Rotary embedding, grouped heads and causal mask by hand, for every layer of one row."""
    ids, config = rows_of(llama)[0], llama.config
    seen, blocks = {}, llama.module.get_submodule(llama.stack_path).layers
    handles = [
        getattr(block.self_attn, f"{name}_proj").register_forward_hook(
            lambda m, i, out, at=(layer, name): seen.__setitem__(at, out[0].double())
        )
        for layer, block in enumerate(blocks)
        for name in "qk"
    ]
    with torch.no_grad():
        llama.module(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    half = config.head_dim // 2
    angle = torch.arange(len(ids))[:, None] * 10000.0 ** (-torch.arange(half) / half)

    def rotated(x):
        x = x.view(len(ids), -1, 2, half)
        a, b = x[:, :, 0], x[:, :, 1]
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    got = attention_entropy.last_position_attention(llama, [ids])
    for layer in range(llama.n_layers):
        q, k = rotated(seen[layer, "q"])[-1], rotated(seen[layer, "k"])
        for head in range(config.num_attention_heads):
            scores = k[:, head * config.num_key_value_heads // config.num_attention_heads] @ q[head]
            p = (scores / config.head_dim**0.5).softmax(0)
            assert got.entropy[0, layer, head] == pytest.approx(slow_entropy(p), abs=1e-4)
            assert got.sink[0, layer, head] == pytest.approx(float(p[0]), abs=1e-5)


def test_left_padded_rows_through_transformers_agree(llama):
    """Padding on the other side, with its position ids, gives the same last row of weights."""
    rows = rows_of(llama)
    inputs = generation.left_pad(rows, llama.tokenizer.pad_token_id)
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with attention_entropy.eager_attention(llama), torch.no_grad():
        weights = llama.module(**inputs, position_ids=positions, output_attentions=True).attentions
    expected = torch.stack([torch.special.entr(w[:, :, -1]).sum(-1) for w in weights], dim=1)
    got = attention_entropy.last_position_attention(llama, rows)
    np.testing.assert_allclose(got.entropy, expected, atol=1e-4)


def test_entropies_by_hand():
    got = attention_entropy.attention_entropy(torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(got["entropy"], [1.5 * np.log(2), 0.0], rtol=1e-6)
    np.testing.assert_allclose(got["entropy_without_sink"], [np.log(2), 0.0], rtol=1e-6)
    np.testing.assert_array_equal(got["sink"], [0.5, 0.0])
    assert got["entropy"][1] == 0
    alone = attention_entropy.attention_entropy(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert (alone["entropy"] == 0).all() and alone["entropy_without_sink"].isnan().all()
    single = attention_entropy.attention_entropy(torch.ones(2, 3, 1))
    assert single["entropy_without_sink"].isnan().all() and single["sink"].shape == (2, 3)


@pytest.mark.parametrize("length", [2, 7, 300])
def test_uniform_attention_is_log_length(length):
    got = attention_entropy.attention_entropy(torch.full((2, 3, length), 1 / length))
    np.testing.assert_allclose(got["entropy"], np.log(length), rtol=1e-5)
    np.testing.assert_allclose(got["entropy_without_sink"], np.log(length - 1), rtol=1e-5)


def test_bfloat16_weights_are_summed_in_single_precision():
    exact = torch.rand(50, 200, generator=torch.Generator().manual_seed(0)).softmax(-1)
    got = attention_entropy.attention_entropy(exact.bfloat16())["entropy"]
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got, attention_entropy.attention_entropy(exact)["entropy"], atol=1e-3)


def test_a_model_in_bfloat16(llama):
    module = AutoModelForCausalLM.from_config(llama.module.config, dtype=torch.bfloat16)
    small = wrap(module, llama.tokenizer)
    got = attention_entropy.last_position_attention(small, rows_of(llama))
    assert got.residual.dtype == got.entropy.dtype == np.float32
    assert (got.entropy <= np.log(np.array(LENGTHS))[:, None, None] + 1e-5).all()


def test_visible_keys_by_configuration():
    length = np.array([1, 500, 2000])
    gemma = attention_entropy.visible_keys(
        Gemma3TextConfig(num_hidden_layers=34, sliding_window=1024), length
    )
    full = [layer for layer in range(34) if gemma[2, layer] == 2000]
    assert full == [5, 11, 17, 23, 29] and (np.delete(gemma[2], full) == 1024).all()
    assert (gemma[0] == 1).all() and (gemma[1] == 500).all() and gemma.dtype == np.int64
    window = attention_entropy.visible_keys(MistralConfig(num_hidden_layers=2, sliding_window=64), length)
    assert window.tolist() == [[1, 1], [64, 64], [64, 64]]
    for config in (
        MistralConfig(num_hidden_layers=2, sliding_window=None),
        LlamaConfig(num_hidden_layers=2),
        load_pair("qwen_pocket").it.config,
    ):
        assert (attention_entropy.visible_keys(config, length) == length[:, None]).all()
    strange = LlamaConfig(num_hidden_layers=2)
    strange.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ParameterError, match="linear_attention"):
        attention_entropy.visible_keys(strange, length)


def test_sliding_layers_without_a_window_are_named():
    config = Gemma3TextConfig(num_hidden_layers=6, sliding_window=16)
    config.sliding_window = None
    with pytest.raises(ParameterError, match="gives no sliding_window"):
        attention_entropy.visible_keys(config, np.array([4]))


def test_a_full_window_no_longer_sees_the_sink():
    decoder = load_pair("gemma_pocket").it
    rows = [[10 + i for i in range(n)] for n in (32, 33)]
    got = attention_entropy.last_position_attention(decoder, rows)
    assert got.visible_keys[:, 0].tolist() == [32, 32] and got.visible_keys[1, 5] == 33
    assert (got.sink[0, 0] > 0).all() and (got.sink[1, 0] == 0).all() and (got.sink[1, 5] > 0).all()
    np.testing.assert_allclose(got.entropy_without_sink[1, 0], got.entropy[1, 0], rtol=1e-6)


def test_weights_of_a_layer_die_with_it(llama):
    """When a layer begins, no earlier layer's [row, head, query, key] is left."""
    weights, alive, handles = [], [], []
    for block in llama.module.get_submodule(llama.stack_path).layers:
        handles.append(
            block.register_forward_pre_hook(lambda m, i: alive.append(sum(w() is not None for w in weights)))
        )
        handles.append(
            block.self_attn.register_forward_hook(lambda m, i, out: weights.append(weakref.ref(out[1])))
        )
    try:
        attention_entropy.last_position_attention(llama, rows_of(llama))
    finally:
        for handle in handles:
            handle.remove()
    assert len(weights) == 12 and alive == [0] * 12


def test_attention_comes_back_after_an_error(llama, monkeypatch):
    assert llama.config._attn_implementation == "sdpa"
    monkeypatch.setattr(attention_entropy, "attention_entropy", lambda weights: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attention_entropy.last_position_attention(llama, rows_of(llama))
    assert llama.config._attn_implementation == "sdpa"


def test_a_model_without_weights_is_named(llama, monkeypatch):
    monkeypatch.setattr(attention_entropy, "eager_attention", nullcontext)
    with pytest.raises(ParameterError, match="LlamaForCausalLM gives no attention weights"):
        attention_entropy.last_position_attention(llama, rows_of(llama))


def test_an_empty_row_is_refused(llama):
    with pytest.raises(ParameterError, match="without tokens"):
        attention_entropy.last_position_attention(llama, [[1, 2], []])


def multimodal(**sizes):
    return Gemma3Config(
        text_config=dict(num_key_value_heads=2, head_dim=8, vocab_size=1024, sliding_window=8, **sizes),
        vision_config=dict(
            model_type="siglip_vision_model", hidden_size=16, intermediate_size=24, num_hidden_layers=1,
            num_attention_heads=2, image_size=28, patch_size=14,
        ),
    )  # fmt: skip


def test_a_multimodal_wrapper_is_read_in_its_text_stack():
    torch.manual_seed(0)
    config = multimodal(hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4)
    module = AutoModelForCausalLM.from_config(config)
    module.set_attn_implementation({"": "sdpa", "text_config": "sdpa", "vision_config": "eager"})
    decoder = wrap(module, load_pair("gemma_pocket").it.tokenizer)
    ids = list(range(3, 17))
    got = attention_entropy.last_position_attention(decoder, [ids])
    assert module.config._attn_implementation == "sdpa" and decoder.config._attn_implementation == "sdpa"
    assert module.config.vision_config._attn_implementation == "eager"
    assert got.visible_keys.tolist() == [[8] * 5 + [14]]
    weights, residual = plain(decoder, ids)
    np.testing.assert_allclose(got.entropy[0], torch.special.entr(weights).sum(-1), atol=1e-4)
    np.testing.assert_allclose(got.residual[0], residual, atol=1e-4)


@pytest.mark.parametrize("key", ["gemma3_4b", "deepseek_v2_lite"])
@pytest.mark.slow
def test_paper_configuration_gives_weights_at_every_layer(key):
    """One forward under fake tensors; the multimodal wrapper and multi-head latent attention at full size."""
    from tests.models.test_models import PAPER

    build, *_, n_layers, width, _ = PAPER[key]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build(), dtype=torch.bfloat16)
    decoder = wrap(model, load_pair("llama_pocket").it.tokenizer)
    ids = torch.ones(2, 5, dtype=torch.long)
    with torch.no_grad(), attention_entropy.eager_attention(decoder):
        with decoder.lm.scan({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, use_cache=False):
            shapes = nnsight.save([])
            for block in decoder.layers:
                kept = attention_entropy.attention_entropy(block.self_attn.output[1][:, :, -1])
                shapes.append((*(tuple(value.shape) for value in kept.values()), tuple(block.output.shape)))
    heads = decoder.config.num_attention_heads
    assert shapes == [((2, heads),) * 3 + ((2, 5, width),)] * n_layers
