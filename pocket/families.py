"""Six pocket architectures: the real `transformers` classes at a size that trains on a laptop.

Each family keeps what tells it apart from the others (norm placement, attention kind, experts, vocabulary padding, chat
format). Knows nothing about the world the models are trained on.
"""

from dataclasses import dataclass, field

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DeepseekV2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

N_LAYERS, WIDTH, CONTEXT = 12, 96, 256
# The usual 0.02 is meant for widths of thousands; at this one it starts attention nearly uniform and learning slow.
INITIAL_STD = 0.05


@dataclass(frozen=True)
class Family:
    """What one family needs: configuration, vocabulary and chat format.

    `rows` is the number of embedding rows; `vocabulary` the number of tokens that the tokenizer holds. `bos` is None
    where the family has no beginning-of-sequence token; `adds_bos` says whether the tokenizer itself prepends it.
    """

    key: str
    title: str
    config: type
    options: dict
    vocabulary: int
    rows: int
    bos: str | None
    eos: str
    pad: str
    turn_end: str
    adds_bos: bool
    chat_template: str
    special: tuple = ()
    sentencepiece: bool = False
    template_options: dict = field(default_factory=dict)


LOOP = "{% for message in messages %}"
GEMMA_CHAT = (
    "{{ bos_token }}"
    + LOOP
    + "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
LLAMA_CHAT = (
    "{{ bos_token }}" + LOOP + "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
QWEN_CHAT = (
    LOOP + "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
MISTRAL_CHAT = (
    "{{ bos_token }}"
    + LOOP
    + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK_CHAT = (
    "{{ bos_token }}"
    + LOOP
    + "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
OLMO_CHAT = (
    "{{ bos_token }}"
    + LOOP
    + "{% if message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}"
    "{% else %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

FAMILIES = {
    family.key: family
    for family in (
        Family(
            "gemma",
            "Gemma 3",
            Gemma3TextConfig,
            dict(
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=24,
                query_pre_attn_scalar=24,
                intermediate_size=256,
                sliding_window=32,
                tie_word_embeddings=True,
                hidden_activation="gelu_pytorch_tanh",
                layer_types=[
                    "full_attention" if i % 6 == 5 else "sliding_attention" for i in range(N_LAYERS)
                ],
            ),
            1024,
            1024,
            "<bos>",
            "<eos>",
            "<pad>",
            "<end_of_turn>",
            True,
            GEMMA_CHAT,
            ("<start_of_turn>", "<end_of_turn>", *(f"<unused{i}>" for i in range(8))),
            sentencepiece=True,
        ),
        Family(
            "llama",
            "Llama 3",
            LlamaConfig,
            dict(
                num_attention_heads=6,
                num_key_value_heads=2,
                intermediate_size=256,
                tie_word_embeddings=False,
                rms_norm_eps=1e-5,
            ),
            1000,
            1000,
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|finetune_right_pad_id|>",
            "<|eot_id|>",
            True,
            LLAMA_CHAT,
            (
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eot_id|>",
                *(f"<|reserved_special_token_{i}|>" for i in range(8)),
            ),
        ),
        Family(
            "qwen",
            "Qwen 3",
            Qwen3Config,
            dict(
                num_attention_heads=6,
                num_key_value_heads=2,
                head_dim=16,
                intermediate_size=256,
                tie_word_embeddings=False,
            ),
            1000,
            1024,
            None,
            "<|endoftext|>",
            "<|endoftext|>",
            "<|im_end|>",
            False,
            QWEN_CHAT,
            ("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
            template_options={"enable_thinking": False},
        ),
        Family(
            "mistral",
            "Mistral",
            MistralConfig,
            dict(
                num_attention_heads=6,
                num_key_value_heads=2,
                head_dim=16,
                intermediate_size=256,
                sliding_window=48,
                tie_word_embeddings=False,
            ),
            1000,
            1000,
            "<s>",
            "</s>",
            "<pad>",
            "</s>",
            True,
            MISTRAL_CHAT,
            ("[INST]", "[/INST]", *(f"[control_{i}]" for i in range(4))),
            sentencepiece=True,
        ),
        Family(
            "deepseek",
            "DeepSeek-V2",
            DeepseekV2Config,
            dict(
                num_attention_heads=4,
                num_key_value_heads=4,
                intermediate_size=256,
                q_lora_rank=None,
                kv_lora_rank=32,
                qk_nope_head_dim=16,
                qk_rope_head_dim=8,
                v_head_dim=16,
                n_routed_experts=8,
                n_shared_experts=2,
                num_experts_per_tok=2,
                moe_intermediate_size=32,
                first_k_dense_replace=1,
                topk_method="greedy",
                n_group=1,
                topk_group=1,
                norm_topk_prob=False,
                routed_scaling_factor=1.0,
                tie_word_embeddings=False,
            ),
            1000,
            1000,
            "<｜begin▁of▁sentence｜>",
            "<｜end▁of▁sentence｜>",
            "<｜▁pad▁｜>",
            "<｜end▁of▁sentence｜>",
            True,
            DEEPSEEK_CHAT,
            ("<|EOT|>",),
        ),
        Family(
            "olmo",
            "OLMo 2",
            Olmo2Config,
            dict(
                num_attention_heads=6,
                num_key_value_heads=6,
                intermediate_size=256,
                tie_word_embeddings=False,
                rms_norm_eps=1e-6,
            ),
            1000,
            1024,
            "<|endoftext|>",
            "<|endoftext|>",
            "<|pad|>",
            "<|endoftext|>",
            False,
            OLMO_CHAT,
            tuple(f"<|extra_id_{i}|>" for i in range(4)),
        ),
    )
}


def pre_tokenizer(family: Family):
    """Return how text splits before merges: byte level, or pieces marked with ▁ as SentencePiece writes them."""
    if not family.sentencepiece:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Split(Regex(r"[^\w\s'▁]"), "isolated"),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never"),
        ]
    )


def train_tokenizer(family: Family, texts) -> PreTrainedTokenizerFast:
    """Return the family's BPE tokenizer of exactly `family.vocabulary` tokens, trained on an iterable of texts."""
    first = [t for t in (family.pad, family.bos, family.eos) if t]
    special = list(dict.fromkeys([*first, *family.special]))
    tokenizer = Tokenizer(models.BPE(byte_fallback=family.sentencepiece))
    tokenizer.pre_tokenizer = pre_tokenizer(family)
    if family.sentencepiece:
        alphabet, extra = [chr(i) for i in range(33, 127)], [f"<0x{i:02X}>" for i in range(256)]
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        alphabet, extra = pre_tokenizers.ByteLevel.alphabet(), []
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=family.vocabulary,
            special_tokens=special + extra,
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        ),
    )
    if tokenizer.get_vocab_size() != family.vocabulary:
        raise RuntimeError(
            f"{family.key}: the corpus gave {tokenizer.get_vocab_size()} tokens, not {family.vocabulary}"
        )
    if family.adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, tokenizer.token_to_id(family.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.pad,
        additional_special_tokens=list(family.special),
        chat_template=family.chat_template,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=CONTEXT,
    )


def configuration(family: Family, tokenizer) -> AutoConfig:
    """Return the family's `transformers` configuration with the tokenizer's ids in it."""
    return family.config(
        vocab_size=family.rows,
        initializer_range=INITIAL_STD,
        hidden_size=WIDTH,
        num_hidden_layers=N_LAYERS,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **family.options,
    )


def fresh_model(family: Family, tokenizer):
    """Return a randomly initialised fp32 model; seed torch first."""
    return AutoModelForCausalLM.from_config(configuration(family, tokenizer))
