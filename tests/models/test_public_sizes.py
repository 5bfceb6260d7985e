"""The sizes in params/models of public checkpoints, counted from their published configurations on the meta device."""

import copy

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
