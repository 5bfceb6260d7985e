"""Checkpoints become decoders and pairs; what is bound to fail later is refused here, in one sentence.

A pair is usable if both models are decoders of one shape that the package can take apart, if their tokenizers agree, and if
the lens of the last layer gives the logits that each model returns. All of it is checked with one short forward a model.
"""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import cached_file

from nbhelpers.core.params import Checkpoint, ModelParams, ParameterError, model_params, require
from nbhelpers.models import tokens
from nbhelpers.models.decoder import STREAM, Decoder, Pair, block_layout, wrap
from nbhelpers.models.forward import check_stream, forced_batch, forward
from nbhelpers.models.generation import Continuation
from nbhelpers.models.placement import device_map
from nbhelpers.models.unembedding import rounding

SHARED_ROWS = ("embed_tokens.weight",)  # tensors of which IT may have more rows than PT


def load_tokenizer(source: str, revision: str | None = None):
    """Return a checkpoint's tokenizer, with padding on the left and, if it names an EOS, a pad token."""
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_decoder(params: ModelParams, variant: str) -> Decoder:
    """Return one variant of a pair, loaded with the dtype, placement and attention of its parameters.

    Remote code is never run. ParameterError for a checkpoint that is missing, that `transformers` cannot load, that lacks
    tensors or holds others, or whose weights are not finite, and for a model that is no decoder of a known kind.
    """
    checkpoint = require(getattr(params, variant), params.key)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            checkpoint.source,
            revision=checkpoint.revision,
            dtype=getattr(torch, params.dtype),
            attn_implementation=params.attention,
            device_map=device_map(params, variant),
            generation_config=own_ends(checkpoint),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
        tokenizer = load_tokenizer(checkpoint.source, checkpoint.revision)
    # A checkpoint's files, a missing package and the network make libraries raise all kinds of errors.
    except Exception as error:
        raise ParameterError(_unloaded(error, params, checkpoint.source)) from None
    check_tensors(model, found, f"{params.key} ({variant.upper()}, {checkpoint.source})")
    decoder = wrap(model, tokenizer, key=params.key, variant=variant, template_options=params.chat)
    check_parts(decoder)
    return decoder


def own_ends(checkpoint: Checkpoint) -> GenerationConfig | None:
    """Return generation settings with the stop ids of a checkpoint's generation_config.json alone; None without that file.

    It may hold settings that `transformers` refuses to load, or that would make greedy text another.
    """
    file = cached_file(
        checkpoint.source, "generation_config.json", revision=checkpoint.revision,
        _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    if file is None:
        return None
    return GenerationConfig(
        eos_token_id=json.loads(Path(file).read_text(encoding="utf-8")).get("eos_token_id")
    )


def _unloaded(error: Exception, params: ModelParams, source: str) -> str:
    """Return the sentence for an error of `from_pretrained`."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
    file = f"params/models/{params.key}.yml"
    if "attention implementation" in str(error):
        return f"{params.key}: {source} does not run with attention {params.attention}; set `attention: eager` in {file}."
    return f"{params.key}: {source} could not be loaded ({reason}); check its files and {file}."


def check_tensors(model, found: dict, what: str) -> None:
    """Raise ParameterError for tensors that a checkpoint lacks or has too many of, and for weights that are not finite.

    found: what `from_pretrained` reports with `output_loading_info`. A tensor that is missing would be random numbers.
    """
    for kind, names in (("lacks", "missing_keys"), ("holds the wrong shape of", "mismatched_keys"),
                        ("holds the unknown tensor", "unexpected_keys")):  # fmt: skip
        listed = sorted(key if isinstance(key, str) else key[0] for key in found.get(names) or ())
        if listed:
            more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
            raise ParameterError(
                f"{what}: the checkpoint {kind} {listed[0]}{more}; download or convert it again."
            )
    for name, weight in model.named_parameters():
        # The sum is finite where all terms are, and needs no copy of the weight.
        if not weight.is_meta and not weight.sum(dtype=torch.float32).isfinite():
            dtype = str(weight.dtype).removeprefix("torch.")
            raise ParameterError(
                f"{what}: the weights {name} are not finite in {dtype}; use another dtype, or download the checkpoint again."
            )


def check_parts(decoder: Decoder) -> None:
    """Raise ParameterError, which names the part that is missing, unless a model is a stack of known blocks."""
    kind = type(decoder.module).__name__
    try:
        stack = decoder.module.get_submodule(decoder.stack_path)
        blocks = stack.layers
    except AttributeError:
        raise ParameterError(_unknown(decoder, kind, "layers")) from None
    for name in ("norm", "embed_tokens"):
        if getattr(stack, name, None) is None:
            raise ParameterError(_unknown(decoder, kind, name))
    for block in blocks:
        needed = {module for module, _ in STREAM[block_layout(block)].values()} | {"self_attn", "mlp"}
        for name in sorted(needed):
            if getattr(block, name, None) is None:
                raise ParameterError(_unknown(decoder, kind, f"{name} in {type(block).__name__}"))


def _unknown(decoder: Decoder, kind: str, part: str) -> str:
    return (
        f"{decoder.name}: {kind} has no {part}, so this package cannot take it apart; use a decoder built like Llama, Gemma, "
        "Qwen, OLMo or DeepSeek."
    )


def load_pair(key: str | ModelParams) -> Pair:
    """Return the PT/IT pair of a model key, after checking that it can be measured.

    Each model keeps its own tokenizer; the chat template is IT's for both. ParameterError for an unknown key, a missing or
    damaged checkpoint, models of different shape or an unknown kind of block; TokenizerError for tokenizers that differ or
    a chat template that cannot be used; StreamError as in `forward.check_stream`.
    """
    pair = paired(key if isinstance(key, ModelParams) else model_params(key))
    for decoder in pair:
        probe(decoder)
    return pair


def paired(params: ModelParams) -> Pair:
    """Return a pair after all checks of `load_pair` that need no forward; with `device_map: meta` no weights are read."""
    pt, it = load_decoder(params, "pt"), load_decoder(params, "it")
    tokens.check_same_tokenizer(pt.tokenizer, it.tokenizer, params.key)
    check_same_shape(pt, it)
    check_mixture(pt, params.mixture)
    for decoder in (pt, it):
        tokens.check_start(decoder.tokenizer, decoder.name)
    tokens.check_template(it.tokenizer, it.name, params.chat)
    for decoder in (pt, it):
        decoder.stop_ids  # noqa: B018 - looked up here, since it may raise
    pt, it = with_one_vocabulary(replace(pt, chat_from=it.tokenizer), it)
    return Pair(params.key, params, pt, it)


def check_same_shape(pt: Decoder, it: Decoder) -> None:
    """Raise ParameterError, which names the first tensor, unless all tensors of both stacks have the same names and shapes.

    Only the embedding and the unembedding may have another number of rows.
    """
    ours, theirs = (
        {
            name: tuple(p.shape[1:] if name in SHARED_ROWS else p.shape)
            for name, p in each.module.get_submodule(each.stack_path).named_parameters()
        }
        for each in (pt, it)
    )
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            shapes = (f"{list(side[name])}" if name in side else "missing" for side in (ours, theirs))
            raise ParameterError(
                f"{pt.key}: {name} is {next(shapes)} in PT and {next(shapes)} in IT, so they are no pair; check the "
                f"checkpoints in params/models/{pt.key}.yml."
            )


def check_mixture(decoder: Decoder, stated: bool) -> None:
    """Raise ParameterError unless `mixture` in the model's file says what its MLPs are, mixtures of experts or dense."""
    routed = any(
        hasattr(block.mlp, "experts") for block in decoder.module.get_submodule(decoder.stack_path).layers
    )
    if routed != stated:
        raise ParameterError(
            f"params/models/{decoder.key}.yml: the MLPs are {'' if routed else 'no '}mixtures of experts: "
            f"{'add `mixture: true`' if routed else 'remove `mixture`'}, which keeps it out of means over dense models."
        )


def with_one_vocabulary(pt: Decoder, it: Decoder) -> tuple[Decoder, Decoder]:
    """Return both models with one real vocabulary: the tokens real in both, and those that IT adds for its chat format.

    Special tokens that only one model knows, or has a row for, are left out of both; a warning names them.
    ParameterError for a word of one model that the other does not know, which would split texts in two ways, and for a
    token of IT's chat format for which PT has no row.
    """
    ours, theirs = (set(np.flatnonzero(each.real_tokens).tolist()) for each in (pt, it))
    needed = _only_in_chat(pt, it, ours)
    shared = (ours | {*needed}) & theirs
    _refuse_other_words(pt, it, shared)
    known = {index for each in (pt, it) for index in each.tokenizer.get_vocab().values()}
    left, kept = (
        [
            name
            for name in it.tokenizer.convert_ids_to_tokens(sorted(ids))
            if name and not tokens.PLACEHOLDER.fullmatch(name)
        ]
        for ids in (known - shared, needed)
    )
    listed = ", ".join(map(repr, left[:5])) + (", …" if len(left) > 5 else "")
    said = [f"left out of both vocabularies: {listed}"] if left else []
    said += [f"{', '.join(map(repr, kept))}, which PT never saw, is part of IT's chat format"] if kept else []
    if said:
        warnings.warn(f"{pt.key}: {'; '.join(said)}.", stacklevel=3)
    vocabulary = np.array(sorted(shared))
    return replace(pt, vocabulary=vocabulary), replace(it, vocabulary=vocabulary)


def _only_in_chat(pt: Decoder, it: Decoder, known: set[int]) -> list[int]:
    """Return the ids that IT's chat format needs beyond those that PT knows; ParameterError if PT has no row for one."""
    read = tokens.user_turn(it.tokenizer, tokens.MARK, it.name, it.template_options)
    needed = sorted({*read, *it.stop_ids} - known)
    for index in needed:
        if index >= pt.n_rows:
            token = it.tokenizer.convert_ids_to_tokens(index)
            raise ParameterError(
                f"{pt.key}: IT's chat format needs {token!r} (id {index}), for which PT's embedding of {pt.n_rows} rows has "
                "none, so PT cannot read IT's texts; use an IT that was tuned without new tokens."
            )
    return needed


def _refuse_other_words(pt: Decoder, it: Decoder, shared: set[int]) -> None:
    """Raise ParameterError for a word that one tokenizer splits off and the other model cannot read."""
    for each, other in ((it, pt), (pt, it)):
        for index, word in sorted(tokens.words(each.tokenizer).items()):
            if index not in shared and not tokens.PLACEHOLDER.fullmatch(word):
                raise ParameterError(
                    f"{pt.key}: {each.variant.upper()}'s tokenizer reads {word!r} as a word (id {index}) that "
                    f"{other.variant.upper()} has no token or no row for, so the two read texts differently; use a pair that "
                    "shares one tokenizer."
                )


@torch.no_grad()
def probe(decoder: Decoder) -> None:
    """Raise ParameterError or StreamError unless lens and updates are right on two short texts: one forward."""
    texts = ("Question: what is measured here?\nAnswer: every layer.", "The sea.")
    rows = [decoder.tokenizer(text)["input_ids"] for text in texts]
    replies = [Continuation(tuple(ids[1:]), False) for ids in rows]
    batch = forced_batch([0, 1], [ids[:1] for ids in rows], replies, decoder.pad_id)
    stream = forward(decoder, batch)
    check_stream(stream, decoder.name)
    error = decoder.unembedding.error(stream.last_residual, stream.last_logits)
    if not error <= rounding(stream.last_logits.dtype):
        raise ParameterError(
            f"{decoder.name}: the final norm and the unembedding do not give the logits that {type(decoder.module).__name__} "
            f"returns (error {error:.2g} of their range): it changes its logits in a way that is not known here."
        )
