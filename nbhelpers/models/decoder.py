"""One interface to decoder architectures: layers, norms, updates, unembedding, tokenizer, stop ids.

A `Decoder` wraps a `transformers` model in nnsight and finds its parts from the modules, not from the model's name. The
only table is `STREAM`: where each kind of block adds its attention and MLP updates to the residual stream. How a
checkpoint becomes a decoder, and a pair, is in `models/loading`.
"""

import operator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from nnsight import TransformersModel
from torch import Tensor, nn

from nbhelpers.core.params import ModelParams, ParameterError
from nbhelpers.models import tokens
from nbhelpers.models.placement import beside
from nbhelpers.models.unembedding import Unembedding

# For each block layout, the (submodule, side) at which a tensor of the residual stream is found. "pre": norms before the
# modules (Llama, Mistral, Qwen, DeepSeek-V2); "sandwich" and "glm": before and after (Gemma 2 and 3, GLM-4, which differ
# in names); "post": only after (OLMo 2 and 3).
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
    "glm": {
        "attention_update": ("post_self_attn_layernorm", "output"),
        "residual_mid": ("post_attention_layernorm", "input"),
        "mlp_output": ("mlp", "output"),
        "mlp_update": ("post_mlp_layernorm", "output"),
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
    if hasattr(block, "post_mlp_layernorm"):
        return "glm"
    return "post" if hasattr(block, "post_feedforward_layernorm") else "pre"


def mlp_norms(block) -> tuple[Any, Any]:
    """Return the norms before and after a block's MLP (modules or envoys), None for one that its layout lacks."""
    row = STREAM[block_layout(block)]
    names = (row[name][0] for name in ("residual_mid", "mlp_update"))
    return tuple(None if name == "mlp" else getattr(block, name) for name in names)


def residual_multiplier(block) -> float:
    """Return what a block (module or envoy) multiplies its updates by before it adds them to the stream; 1 but in Granite."""
    return float(getattr(getattr(block, "_module", block), "residual_multiplier", 1.0))


def stream_tensor(block, name: str):
    """Return the tensor of the residual stream that has this name in `STREAM`, [batch, token, d], inside a trace.

    Take them in forward order: attention_update, residual_mid, mlp_output, mlp_update, then the block's own output. The
    updates are what is added to the stream, so they include Granite's multiplier.
    """
    submodule, side = STREAM[block_layout(block)][name]
    value = getattr(getattr(block, submodule), side)
    value = value[0] if isinstance(value, tuple) else value
    factor = residual_multiplier(block) if name.endswith("update") else 1.0
    return value if factor == 1.0 else value * factor


class Scaled(nn.Module):
    """A norm whose output is multiplied by a constant, which scales the logits of a linear unembedding."""

    def __init__(self, norm: nn.Module, factor: float):
        super().__init__()
        self.norm = norm
        self.register_buffer(
            "factor", torch.tensor(factor)
        )  # a part of the state, which identifies an unembedding
        self.variance_epsilon = getattr(norm, "variance_epsilon", 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return factor · norm(x), [token, d]."""
        return self.norm(x) * self.factor


@dataclass(frozen=True)
class Decoder:
    """A causal language model in nnsight, with its tokenizer and access to its parts.

    tokenizer: the model's own, for text, BOS and stops. chat_from: the tokenizer whose template renders chat turns, IT's for
    both models of a pair; None if it is the own one. vocabulary: the ids that count as real, the same for both models of a
    pair (`loading.with_one_vocabulary`); None for all that the own tokenizer knows.
    """

    key: str
    variant: str
    lm: Any
    tokenizer: Any
    template_options: dict
    chat_from: Any = None
    vocabulary: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The model's name in messages, such as "llama_pocket (IT)"."""
        return f"{self.key} ({self.variant.upper()})"

    @property
    def chat_tokenizer(self):
        """The tokenizer whose template renders chat turns."""
        return self.chat_from or self.tokenizer

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

    @property
    def n_rows(self) -> int:
        """Number of rows of the unembedding, some of which may belong to no token."""
        return self.module.get_output_embeddings().weight.shape[0]

    @cached_property
    def real_tokens(self) -> np.ndarray:
        """Which unembedding rows are real tokens, bool [rows]."""
        if self.vocabulary is None:
            return tokens.real_token_mask(self.tokenizer, self.n_rows)
        mask = np.zeros(self.n_rows, dtype=bool)
        mask[self.vocabulary] = True
        return mask

    @property
    def pad_id(self) -> int:
        """The id that fills rows of a batch; the mask hides it, so any id that the model can read will do."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None and pad < self.module.get_input_embeddings().weight.shape[0] else 0

    @property
    def context(self) -> int | None:
        """The most positions that the model can read, None if its configuration names no limit."""
        return getattr(self.config, "max_position_embeddings", None)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end this model's texts: its tokenizer's and its generation_config's, for IT also its template's."""
        tokenizer, end = self.tokenizer, []
        if self.variant == "it" and tokenizer.chat_template:
            end = tokens.turn_end(tokenizer, self.name, **self.template_options)
        return tokens.stop_ids(tokenizer, self.module.generation_config.eos_token_id, end)

    @property
    def home(self) -> torch.device:
        """The device of the unembedding, on which a stream and all read-outs lie."""
        return self.module.get_output_embeddings().weight.device

    @cached_property
    def unembedding(self) -> Unembedding:
        """The final norm and the real rows of the unembedding matrix, as input of the lens."""
        norm = beside(operator.attrgetter(self.stack_path)(self.module).norm, self.home)
        weight = self.module.get_output_embeddings().weight.detach()
        rows = torch.as_tensor(self.real_tokens.nonzero()[0], device=weight.device)
        kept = weight if len(rows) == len(weight) else weight[rows]
        if (scaling := getattr(self.config, "logits_scaling", 1.0)) != 1.0:  # Granite
            norm = Scaled(norm, 1 / scaling)
        softcap = getattr(self.config, "final_logit_softcapping", None)
        return Unembedding(norm=norm, weight=kept, token_ids=rows, softcap=softcap)


@dataclass(frozen=True)
class Pair:
    """A pretrained model and the model instruction-tuned from it: one shape, one real vocabulary, a tokenizer each."""

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


def contiguous(module: nn.Module, inputs: tuple) -> tuple:
    """Return the inputs of a module as contiguous tensors; `wrap` makes it a forward pre-hook of the unembedding.

    The last positions of a batch, h[:, -1:], are not contiguous, and for these `linear` may copy the weight once a row: on
    one core in bfloat16, 8 rows of 2,048 and a vocabulary of 128,256 then take 4 GiB and 37 s instead of 0.06 s.
    """
    return tuple(each.contiguous() if isinstance(each, Tensor) else each for each in inputs)


def wrap(
    model, tokenizer, *, key: str = "model", variant: str = "pt", template_options: dict | None = None
) -> Decoder:
    """Return a `Decoder` over a loaded `transformers` model (in evaluation mode, gradients off)."""
    model.eval().requires_grad_(False)
    if (head := model.get_output_embeddings()) is not None:
        head.register_forward_pre_hook(contiguous)
    # Without a device, the wrapper would move an undispatched model to the first accelerator.
    place = {} if hasattr(model, "hf_device_map") else {"device": model.device}
    lm = TransformersModel(model, tokenizer=tokenizer, task="text-generation", **place)
    return Decoder(key, variant, lm, tokenizer, dict(template_options or {}))


def device_name(decoder: Decoder) -> str:
    """Return the name of the device that a model runs on, for provenance."""
    device = decoder.module.device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
