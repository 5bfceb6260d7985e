"""Tiny random models of many architectures, by name: what the package measures beyond the six families, and what it refuses.

All read the tokens of pocket Llama's tokenizer. IT is PT with noise added to every weight. Gains, biases and routers are
random too, so that a formula that leaves one out gives another number.
"""

from functools import cache

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nbhelpers.core.params import ROOT, Checkpoint, ModelParams
from nbhelpers.models.decoder import Decoder, Pair, wrap
from nbhelpers.models.loading import load_tokenizer

TOKENIZER = ROOT / "pocket/checkpoints/llama/it"
SMALL = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
ROUTED = {"num_experts_per_tok": 2, "num_hidden_layers": 3}
# name: (model type, what its configuration says beside SMALL)
SUPPORTED = {
    "qwen2": ("qwen2", {}),
    "olmo3": ("olmo3", {"sliding_window": 8}),
    "smollm3": ("smollm3", {}),
    "stablelm": ("stablelm", {"use_qkv_bias": True, "qk_layernorm": True}),
    "phi3": ("phi3", {}),
    "qwen3_moe": (
        "qwen3_moe",
        ROUTED
        | {"num_experts": 4, "moe_intermediate_size": 32, "head_dim": 16, "mlp_only_layers": [1], "norm_topk_prob": True},
    ),
    "mixtral": ("mixtral", ROUTED | {"num_local_experts": 4, "sliding_window": None}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 8, "final_logit_softcapping": 5.0}),
    "granite": (
        "granite",
        {"residual_multiplier": 0.22, "logits_scaling": 8.0, "embedding_multiplier": 12.0, "attention_multiplier": 0.1},
    ),
    "starcoder2": ("starcoder2", {"use_bias": True, "sliding_window": None}),
    "glm4": ("glm4", {"head_dim": 16}),
    "llama_mlp_bias": ("llama", {"mlp_bias": True, "attention_bias": True}),
}  # fmt: skip
REFUSED = {
    "gpt2": ("gpt2", {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 256}),
    "gpt_neox": ("gpt_neox", {}),
    "falcon": ("falcon", {"ffn_hidden_size": 96}),
    "cohere": ("cohere", {}),
}
SHAPES = SUPPORTED | REFUSED


def config(name: str):
    """The configuration of a shape; eager attention, which all of them have."""
    kind, own = SHAPES[name]
    found = AutoConfig.for_model(kind, **SMALL | own)
    found._attn_implementation = "eager"
    return found


def model(name: str, variant: str = "pt", *, seed: int = 0, **own) -> torch.nn.Module:
    """A random model of a shape, float32, the same at every call; own: changes of its configuration."""
    found = config(name)
    for key, value in own.items():
        setattr(found, key, value)
    made = AutoModelForCausalLM.from_config(found, attn_implementation="eager")
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        noise = {key: torch.randn(p.shape) for key, p in sorted(made.named_parameters())}
        for key, p in made.named_parameters():
            if p.dim() > 1:
                p.copy_(0.15 * noise[key])
            else:
                p.add_(0.2 * noise[key])
        if variant == "it":
            for _, p in sorted(made.named_parameters()):
                p.add_(0.03 * torch.randn(p.shape))
    return made.eval()


def save(name: str, variant: str, folder, *, seed: int = 0, **own):
    """The folder, with a checkpoint of a shape and the tokenizer in it, as `from_pretrained` reads them."""
    model(name, variant, seed=seed, **own).save_pretrained(folder)
    load_tokenizer(str(TOKENIZER)).save_pretrained(folder)
    return folder


def params(name: str, folder=TOKENIZER, **own) -> ModelParams:
    """The parameters of a shape's pair, whose checkpoints lie in `folder`/pt and `folder`/it."""
    paths = {variant: Checkpoint(path=str(folder / variant)) for variant in ("pt", "it")}
    values = (
        {
            "key": name,
            "family": name,
            "title": f"Random {name}",
            "attention": "eager",
            "mixture": "experts" in str(SHAPES[name]),
        }
        | paths
        | own
    )
    return ModelParams.model_validate(values)


def decoder(name: str, variant: str = "pt", *, seed: int = 0, **own) -> Decoder:
    """A shape's model in the package's view."""
    made = model(name, variant, seed=seed, **own)
    return wrap(made, load_tokenizer(str(TOKENIZER)), key=name, variant=variant)


@cache
def pair(name: str) -> Pair:
    """A shape's PT and IT in the package's view, the same object at every call: change nothing in it."""
    return Pair(name, params(name), decoder(name), decoder(name, "it"))
