"""What is wrong with checkpoints on this machine, from their files alone: no weights are read, no forward is run.

A model is built without memory (on PyTorch's "meta" device) and `transformers` says which tensors of it the files lack, so
a checkpoint that passes here loads.
"""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from nbhelpers.core import checkpoint_files, params


def damage(path: Path) -> str:
    """Return the fault of a file of weights, judged by its header and size; "" if there is none."""
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".bin":  # the old format has no header to judge by
        with open(path, "rb") as file:
            whole = zipfile.is_zipfile(file) or (file.seek(0) == 0 and file.read(1) == b"\x80")
        return "" if whole else "torch.save wrote no such file"
    try:
        with safe_open(path, framework="numpy") as file:
            return "" if file.keys() else "holds no tensors"
    except (SafetensorError, OSError) as error:
        return str(error)


def file_fault(folder: Path) -> str:
    """Return what is wrong with the files of a checkpoint's folder, as a clause; "" if nothing is."""
    if fault := checkpoint_files.fault(folder, "config.json"):
        return fault
    damaged = ((path.name, damage(path)) for path in checkpoint_files.weights(folder))
    return next((f"is damaged ({name}: {fault})" for name, fault in damaged if fault), "")


def checkpoint_fault(checkpoint: params.Checkpoint, model: params.ModelParams, variant: str) -> str:
    """Return why a local checkpoint would not load or serve as a pair's PT or IT, as a clause; "" if it would."""
    return (
        file_fault(checkpoint.folder)
        or _tensor_fault(checkpoint.source)
        or _tokenizer_fault(checkpoint.source, model.chat if variant == "it" else None)
    )


def pair_fault(model: params.ModelParams) -> str:
    """Return why the local checkpoints of a model are no pair, as a sentence; "" if they are, or one is on the hub.

    Judge each by `checkpoint_fault` first.
    """
    from nbhelpers.models.decoder import load_tokenizer
    from nbhelpers.models.tokens import TokenizerError, check_same_tokenizer

    if not (model.pt.folder and model.it.folder):
        return ""
    pt, it = (_config(side.source) for side in (model.pt, model.it))
    for field in ("num_hidden_layers", "hidden_size"):
        if getattr(pt, field) != getattr(it, field):
            return f"PT has {field} {getattr(pt, field)} and IT {getattr(it, field)}, so they are no pair."
    try:
        check_same_tokenizer(load_tokenizer(model.pt.source), load_tokenizer(model.it.source), model.key)
    except TokenizerError as error:
        return str(error)
    return ""


def _config(source: str):
    """Return the text configuration of a checkpoint."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source).get_text_config()


def _tensor_fault(source: str) -> str:
    """Return which tensor a checkpoint lacks, has too many or in another shape than its configuration says; "" if none."""
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            _, found = AutoModelForCausalLM.from_pretrained(
                source, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True
            )
    except Exception as error:  # what a configuration makes a library raise
        return f"cannot be loaded ({_line(error)})"
    for name in sorted(found["missing_keys"]):
        return f"lacks the tensor {name}"
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        return f"holds {name} as {list(stored)} where its config.json says {list(wanted)}"
    for name in sorted(found["unexpected_keys"]):
        return f"holds the tensor {name}, for which its config.json has no place"
    return ""


def _tokenizer_fault(source: str, chat: dict | None) -> str:
    """Return why a tokenizer does not load or, given `chat` options, renders no chat turn; "" if it does."""
    from jinja2 import TemplateError

    from nbhelpers.models.decoder import load_tokenizer

    try:
        tokenizer = load_tokenizer(source)
    except Exception as error:  # what a tokenizer's file makes a library raise
        return f"has a tokenizer that cannot be loaded ({_line(error)})"
    if chat is None:
        return ""
    if not tokenizer.chat_template:
        return "has no chat template: put IT's chat_template.jinja beside its tokenizer.json"
    try:
        turn = [{"role": "user", "content": "Hi"}]
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True, **chat)
    except (TemplateError, TypeError, ValueError) as error:
        return f"has a chat template that refuses a user's turn ({_line(error)})"
    return ""


def _line(error: Exception) -> str:
    """Return the first line of an error's message, without a full stop; its kind if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".: ")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep `transformers` from drawing bars and reports inside the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
