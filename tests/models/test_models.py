"""The uniform view of a decoder: six pocket pairs for real, six paper configurations on the meta device."""

import nnsight
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    Gemma3Config,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Qwen3Config,
)

from nbhelpers.core.params import FAMILIES, ParameterError, model_params
from nbhelpers.models import tokens
from nbhelpers.models.decoder import block_layout, stream_tensor, wrap
from nbhelpers.models.loading import load_pair, load_tokenizer

POCKET = [f"{family}_pocket" for family in FAMILIES]

# Sizes as published with each checkpoint; (configuration, class, stack path, layout, layers, width, rows).
PAPER = {
    "gemma3_4b": (
        lambda: Gemma3Config(
            text_config=dict(
                hidden_size=2560,
                intermediate_size=10240,
                num_hidden_layers=34,
                num_attention_heads=8,
                num_key_value_heads=4,
                head_dim=256,
                vocab_size=262208,
                sliding_window=1024,
            ),
            vision_config=dict(
                model_type="siglip_vision_model",
                hidden_size=1152,
                intermediate_size=4304,
                num_hidden_layers=27,
                num_attention_heads=16,
                image_size=896,
                patch_size=14,
            ),
        ),
        "Gemma3ForConditionalGeneration",
        "model.language_model",
        "sandwich",
        34,
        2560,
        262208,
    ),
    "llama31_8b": (
        lambda: LlamaConfig(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=128256,
        ),
        "LlamaForCausalLM",
        "model",
        "pre",
        32,
        4096,
        128256,
    ),
    "qwen3_4b": (
        lambda: Qwen3Config(
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151936,
            tie_word_embeddings=True,
        ),
        "Qwen3ForCausalLM",
        "model",
        "pre",
        36,
        2560,
        151936,
    ),
    "mistral_7b": (
        lambda: MistralConfig(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=32768,
            sliding_window=None,
        ),
        "MistralForCausalLM",
        "model",
        "pre",
        32,
        4096,
        32768,
    ),
    "deepseek_v2_lite": (
        lambda: DeepseekV2Config(
            hidden_size=2048,
            intermediate_size=10944,
            moe_intermediate_size=1408,
            num_hidden_layers=27,
            num_attention_heads=16,
            num_key_value_heads=16,
            kv_lora_rank=512,
            q_lora_rank=None,
            qk_nope_head_dim=128,
            qk_rope_head_dim=64,
            v_head_dim=128,
            n_routed_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            first_k_dense_replace=1,
            vocab_size=102400,
            topk_method="greedy",
            n_group=1,
            topk_group=1,
        ),
        "DeepseekV2ForCausalLM",
        "model",
        "pre",
        27,
        2048,
        102400,
    ),
    "olmo2_7b": (
        lambda: Olmo2Config(
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            vocab_size=100352,
        ),
        "Olmo2ForCausalLM",
        "model",
        "post",
        32,
        4096,
        100352,
    ),
}


@pytest.fixture(scope="module", params=list(PAPER))
def paper_decoder(request, tmp_path_factory):
    """A paper-size model without weights, wrapped like a loaded one, with a pocket tokenizer beside it."""
    build, *expected = PAPER[request.param]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build(), dtype=torch.bfloat16)
    family = model_params(request.param).family
    tokenizer = load_tokenizer(model_params(f"{family}_pocket").it.source)
    return wrap(model, tokenizer, key=request.param, variant="it"), expected


def test_paper_configuration_resolves_every_module(paper_decoder):
    decoder, (class_name, path, layout, n_layers, width, rows) = paper_decoder
    assert type(decoder.module).__name__ == class_name
    assert decoder.stack_path == path
    assert decoder.n_layers == n_layers == len(decoder.layers)
    assert {block_layout(block) for block in decoder.layers} == {layout}
    unembedding = decoder.unembedding
    assert decoder.real_tokens.shape == (rows,)
    assert unembedding.weight.shape == (int(decoder.real_tokens.sum()), width)
    assert unembedding.softcap is None
    assert unembedding.norm is decoder.module.get_submodule(path).norm


@pytest.mark.slow
def test_paper_configuration_gives_every_tensor_of_the_stream(paper_decoder):
    """One forward under fake tensors reads, in order and at every layer, all that `capture` reads."""
    decoder, (_, _, _, n_layers, width, rows) = paper_decoder
    ids = torch.ones(2, 5, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad(), decoder.lm.scan(inputs, use_cache=False, logits_to_keep=1):
        shapes = nnsight.save([])
        for block in decoder.layers:
            for name in ("attention_update", "residual_mid", "mlp_output", "mlp_update"):
                shapes.append(tuple(stream_tensor(block, name).shape))
            shapes.append(tuple(block.output.shape))
        logits = nnsight.save(tuple(decoder.head.output.shape))
    assert shapes == [(2, 5, width)] * (5 * n_layers)
    assert logits == (2, 1, rows)


@pytest.mark.parametrize("key", POCKET)
def test_pocket_pair_loads_in_single_precision(key):
    pair = load_pair(key)
    assert pair.n_layers == 12
    for decoder in pair:
        assert next(decoder.module.parameters()).dtype == torch.float32
        assert not decoder.module.training
        assert decoder.real_tokens.sum() <= len(decoder.tokenizer) <= len(decoder.real_tokens)


@pytest.mark.parametrize("key", POCKET)
def test_stream_adds_up(key):
    """embedding + every attention and MLP update is the residual after each block, in plain PyTorch too."""
    decoder = load_pair(key).it
    ids = torch.arange(20, 60).reshape(2, 20)
    with torch.no_grad(), decoder.lm.trace(ids, use_cache=False):
        before = nnsight.save(decoder.layers[0].input)
        parts = nnsight.save([])
        for block in decoder.layers:
            update = stream_tensor(block, "attention_update")
            mid = stream_tensor(block, "residual_mid")
            parts.append((update, mid, stream_tensor(block, "mlp_update"), block.output))
    for attention, mid, mlp, after in parts:
        torch.testing.assert_close(before + attention, mid, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mid + mlp, after, rtol=1e-4, atol=1e-4)
        before = after


def test_real_tokens_leave_out_padding_rows_and_placeholders():
    qwen = load_pair("qwen_pocket").it
    assert not qwen.real_tokens[len(qwen.tokenizer) :].any() and qwen.real_tokens[: len(qwen.tokenizer)].all()
    assert len(qwen.real_tokens) > len(qwen.tokenizer)
    gemma = load_pair("gemma_pocket").it
    unreal = {gemma.tokenizer.convert_ids_to_tokens(int(i)) for i in np.flatnonzero(~gemma.real_tokens)}
    assert unreal == {f"<unused{i}>" for i in range(8)}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("gemma_pocket", ["<end_of_turn>", "<eos>"]),
        ("llama_pocket", ["<|eot_id|>", "<|end_of_text|>"]),
        ("qwen_pocket", ["<|im_end|>", "<|endoftext|>"]),
        ("mistral_pocket", ["</s>"]),
        ("deepseek_pocket", ["<｜end▁of▁sentence｜>"]),
        ("olmo_pocket", ["<|endoftext|>"]),
    ],
)
def test_stop_ids_are_looked_up(key, expected):
    decoder = load_pair(key).it
    assert decoder.tokenizer.convert_ids_to_tokens(list(decoder.stop_ids)) == expected


def test_unknown_key_suggests_a_close_one():
    with pytest.raises(ParameterError, match="mistral_pocket"):
        load_pair("mistral_poket")


def test_missing_checkpoint_says_how_to_get_it_back():
    params = model_params("llama_pocket")
    lost = params.model_copy(
        update={"it": params.it.model_copy(update={"path": "pocket/checkpoints/llama/lost"})}
    )
    with pytest.raises(ParameterError, match="make pocket"):
        load_pair(lost)


def test_pair_with_two_tokenizers_is_refused():
    params, other = model_params("llama_pocket"), model_params("qwen_pocket")
    with pytest.raises(tokens.TokenizerError, match="tokenizers differ"):
        load_pair(params.model_copy(update={"it": other.it}))
