"""One interface to six decoder architectures: layers, norms, updates, unembedding, tokenizer, stop ids.

A `Decoder` wraps a `transformers` model in nnsight and finds its parts from the modules, not from the model's name. The
only table is `STREAM`: where each kind of block adds its attention and MLP updates to the residual stream.
"""

import operator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from nnsight import TransformersModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from nbhelpers.core.params import ModelParams, ParameterError, model_params, require
from nbhelpers.models.tokens import check_same_tokenizer, real_token_mask, stop_ids
from nbhelpers.models.unembedding import Unembedding

# For each block layout, the (submodule, side) at which a tensor of the residual stream is found. "pre": norms before the
# modules (Llama, Mistral, Qwen 3, DeepSeek-V2); "sandwich": before and after (Gemma 3); "post": only after (OLMo 2).
STREAM = {
    "pre": {
        "attention_update": ("self_attn", "output"),
        "residual_mid": ("post_attention_layernorm", "input"),
        "mlp_output": ("mlp", "output"),
        "mlp_update": ("mlp", "output"),
    },
    "sandwich": {
        "attention_update": ("post_attention_layernorm", "output"),
        "residual_mid": ("pre_feedforward_layernorm", "input"),
        "mlp_output": ("mlp", "output"),
        "mlp_update": ("post_feedforward_layernorm", "output"),
    },
    "post": {
        "attention_update": ("post_attention_layernorm", "output"),
        "residual_mid": ("mlp", "input"),
        "mlp_output": ("mlp", "output"),
        "mlp_update": ("post_feedforward_layernorm", "output"),
    },
}


def block_layout(block) -> str:
    """Return which row of `STREAM` a decoder block (module or envoy) follows."""
    if hasattr(block, "pre_feedforward_layernorm"):
        return "sandwich"
    return "post" if hasattr(block, "post_feedforward_layernorm") else "pre"


def stream_tensor(block, name: str):
    """Return the tensor of the residual stream that has this name in `STREAM`, [batch, token, d], inside a trace.

    Take them in forward order: attention_update, residual_mid, mlp_output, mlp_update, then the block's own output.
    """
    submodule, side = STREAM[block_layout(block)][name]
    value = getattr(getattr(block, submodule), side)
    return value[0] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Decoder:
    """A causal language model in nnsight, with its tokenizer and access to its parts."""

    key: str
    variant: str
    lm: Any
    tokenizer: Any
    template_options: dict

    @property
    def module(self):
        """The bare `transformers` model; never call it inside its own trace."""
        return self.lm._module

    @property
    def config(self):
        """The text configuration (that of the language model, if the model is multimodal)."""
        return self.module.config.get_text_config()

    @cached_property
    def stack_path(self) -> str:
        """The dotted path of the module that holds the blocks and the final norm."""
        stack = self.module.get_decoder()
        stack = getattr(stack, "language_model", stack)
        return module_path(self.module, stack)

    @property
    def stack(self):
        """The envoy that holds `layers`, `norm` and `embed_tokens`."""
        return operator.attrgetter(self.stack_path)(self.lm)

    @property
    def layers(self):
        """The envoys of the decoder blocks, in order."""
        return self.stack.layers

    @property
    def head(self):
        """The envoy of the unembedding module."""
        return operator.attrgetter(module_path(self.module, self.module.get_output_embeddings()))(self.lm)

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(operator.attrgetter(self.stack_path)(self.module).layers)

    @cached_property
    def real_tokens(self):
        """Which unembedding rows are real tokens, bool [rows]."""
        return real_token_mask(self.tokenizer, self.module.get_output_embeddings().weight.shape[0])

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end a reply."""
        return stop_ids(self.tokenizer, self.template_options)

    @cached_property
    def unembedding(self) -> Unembedding:
        """The final norm and the real rows of the unembedding matrix, as input of the lens."""
        stack = operator.attrgetter(self.stack_path)(self.module)
        weight = self.module.get_output_embeddings().weight.detach()
        rows = torch.as_tensor(self.real_tokens.nonzero()[0], device=weight.device)
        kept = weight if len(rows) == len(weight) else weight[rows]
        softcap = getattr(self.config, "final_logit_softcapping", None)
        return Unembedding(norm=stack.norm, weight=kept, token_ids=rows, softcap=softcap)


@dataclass(frozen=True)
class Pair:
    """A pretrained model and the model instruction-tuned from it; both have the same tokenizer and shape."""

    key: str
    params: ModelParams
    pt: Decoder
    it: Decoder

    def __iter__(self):
        """Yield PT, then IT."""
        return iter((self.pt, self.it))

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks, the same in both."""
        return self.pt.n_layers


def module_path(model, target) -> str:
    """Return the dotted path of a submodule, found by identity."""
    for path, module in model.named_modules():
        if module is target:
            return path
    raise ParameterError(
        f"{type(model).__name__} holds no {type(target).__name__} under any name: it is not a decoder"
    )


def wrap(
    model, tokenizer, *, key: str = "model", variant: str = "pt", template_options: dict | None = None
) -> Decoder:
    """Return a `Decoder` over a loaded `transformers` model (in evaluation mode, gradients off)."""
    model.eval().requires_grad_(False)
    # Without a device, the wrapper would move an undispatched model to the first accelerator.
    place = {} if hasattr(model, "hf_device_map") else {"device": model.device}
    lm = TransformersModel(model, tokenizer=tokenizer, task="text-generation", **place)
    return Decoder(key, variant, lm, tokenizer, dict(template_options or {}))


def load_tokenizer(source: str, revision: str | None = None):
    """Return a checkpoint's tokenizer, with padding on the left and a pad token."""
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_decoder(params: ModelParams, variant: str) -> Decoder:
    """Return one variant of a pair, loaded with the dtype, device map and attention of its parameters.

    Remote code is never run: all six families, including DeepSeek-V2, have a native `transformers` class.
    """
    checkpoint = require(getattr(params, variant), params.key)
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint.source,
        revision=checkpoint.revision,
        dtype=getattr(torch, params.dtype),
        attn_implementation=params.attention,
        device_map=params.device_map,
    )
    tokenizer = load_tokenizer(checkpoint.source, checkpoint.revision)
    return wrap(model, tokenizer, key=params.key, variant=variant, template_options=params.chat)


def load_pair(key: str | ModelParams) -> Pair:
    """Return the PT/IT pair of a model key, after checking that tokenizers and shapes agree.

    The chat template and its stop ids come from the IT tokenizer. ParameterError for an unknown key, a missing checkpoint
    or models of different shape; TokenizerError for tokenizers that differ.
    """
    params = key if isinstance(key, ModelParams) else model_params(key)
    pt, it = load_decoder(params, "pt"), load_decoder(params, "it")
    check_same_tokenizer(pt.tokenizer, it.tokenizer, params.key)
    check_same_shape(pt, it)
    return Pair(params.key, params, replace(pt, tokenizer=it.tokenizer), it)


def check_same_shape(pt: Decoder, it: Decoder) -> None:
    """Raise ParameterError unless both models have the same number of layers and the same width."""
    for field in ("num_hidden_layers", "hidden_size"):
        ours, theirs = getattr(pt.config, field), getattr(it.config, field)
        if ours != theirs:
            raise ParameterError(
                f"{pt.key}: PT has {field} {ours} and IT {theirs}, so they are no pair: check {pt.key}.yml"
            )


def device_name(decoder: Decoder) -> str:
    """Return the name of the device that a model runs on, for provenance."""
    device = decoder.module.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
