"""What params/models say of public checkpoints, and where their texts end, by their published configurations."""

import copy
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from nbhelpers.core import params
from nbhelpers.models import tokens
from nbhelpers.models.loading import load_pair

FIELDS = ("kind", "layers", "width", "inner", "heads", "kv", "head", "vocabulary", "tied")
# What each checkpoint's config.json says that decides its size; `kv`: key/value heads, `head`: their width.
PUBLISHED = {
    "gemma3_270m": ("gemma3_text", 18, 640, 2048, 4, 1, 256, 262144, True),
    "llama32_1b": ("llama", 16, 2048, 8192, 32, 8, 64, 128256, True),
    "smollm2_135m": ("llama", 30, 576, 1536, 9, 3, 64, 49152, True),
    "qwen3_600m": ("qwen3", 28, 1024, 3072, 16, 8, 128, 151936, True),
    "olmo2_1b": ("olmo2", 16, 2048, 8192, 16, 16, 128, 100352, False),
    "llama31_8b": ("llama", 32, 4096, 14336, 32, 8, 128, 128256, False),
    "qwen3_4b": ("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, True),
    "mistral_7b": ("mistral", 32, 4096, 14336, 32, 8, 128, 32768, False),
    "olmo2_7b": ("olmo2", 32, 4096, 11008, 32, 32, 128, 100352, False),
}

# Ids by which texts of the laptop profile's checkpoints end, as public code and discussions quote them: eos_token of
# tokenizer_config.json, eos_token_id of generation_config.json, and the end of a turn in IT's template.
# Qwen's base has the chat's end in its tokenizer alone (github.com/QwenLM/Qwen3/issues/1422), Gemma's IT the end of a turn in
# generation_config alone (github.com/mlc-ai/mlc-llm/pull/3191).
ENDS = {
    "gemma3_270m": ((1, 1, ()), (1, [1, 106], (106,)), {1, 106}),
    "llama32_1b": ((128001, 128001, ()), (128009, [128001, 128008, 128009], (128009,)), {128001, 128008, 128009}),
    "smollm2_135m": ((0, 0, ()), (2, 2, (2,)), {2}),
    "qwen3_600m": ((151645, 151643, ()), (151645, [151645, 151643], (151645,)), {151643, 151645}),
    "olmo2_1b": ((100257, 100257, ()), (100257, 100257, (100257,)), {100257}),
}  # fmt: skip


@pytest.mark.parametrize("key", ENDS)
def test_texts_end_where_the_published_configurations_say(key):
    assert key in params.profile_params("laptop").models
    *variants, ends = ENDS[key]
    pt, it = (
        set(tokens.stop_ids(SimpleNamespace(eos_token_id=eos), named, end)) for eos, named, end in variants
    )
    assert it == ends
    assert pt == set(variants[0][:2])  # of Qwen's base both: whichever it writes ends a text


@pytest.mark.parametrize("key", PUBLISHED)
def test_sizes_are_those_of_the_published_configuration(key):
    of = dict(zip(FIELDS, PUBLISHED[key], strict=True))
    config = CONFIG_MAPPING[of["kind"]](
        num_hidden_layers=of["layers"], hidden_size=of["width"], intermediate_size=of["inner"],
        num_attention_heads=of["heads"], num_key_value_heads=of["kv"], head_dim=of["head"],
        vocab_size=of["vocabulary"], tie_word_embeddings=of["tied"],
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    size = params.model_params(key).size
    assert size.parameters == sum(each.numel() for each in model.parameters())
    assert (size.layers, size.width, size.heads, size.vocabulary) == tuple(
        of[name] for name in ("layers", "width", "heads", "vocabulary")
    )


def test_llamas_day_is_fixed():
    """Llama 3.2's template writes the day of the run into every prompt unless it is given one."""
    dated = (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "Today Date: {{ date_string }}{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|>"
    )
    tokenizer = copy.deepcopy(load_pair("llama_pocket").it.tokenizer)
    tokenizer.chat_template = dated
    turns = [
        tokens.user_turn(tokenizer, "Hello!", "test", chat)
        for chat in (params.model_params("llama32_1b").chat, {"date_string": "1 May 2025"})
    ]
    assert ["26 Jul 2024" in tokenizer.decode(turn) for turn in turns] == [True, False]
