"""What is wrong with checkpoints on this machine, from their files alone: no weights are read, no forward is run.

Models are built without memory, on PyTorch's "meta" device, by the same functions that load them for a run.
"""

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from nbhelpers.core import checkpoint_files, params
from nbhelpers.core.mistakes import one_line


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


def checkpoint_fault(model: params.ModelParams, variant: str) -> str:
    """Return why a local PT or IT cannot be loaded, as a clause; "" if it can."""
    from nbhelpers.models.loading import load_decoder

    if fault := file_fault(getattr(model, variant).folder):
        return fault
    fault = _fault(lambda: load_decoder(_empty(model), variant))
    return fault and f"cannot be used: {fault}"


def pair_fault(model: params.ModelParams) -> str:
    """Return why two local checkpoints, each of which can be loaded, are no pair, as a sentence; "" if they are one."""
    from nbhelpers.models.loading import paired

    return _fault(lambda: paired(_empty(model)))


def _empty(model: params.ModelParams) -> params.ModelParams:
    """Return a model's parameters with which it is built without memory."""
    return model.model_copy(update={"device_map": "meta"})


def _fault(load: Callable) -> str:
    """Return the message of the error that a load raises, as one line; "" if it raises none."""
    try:
        with _quiet():
            load()
    except Exception as error:  # what a file makes a library raise
        return sentence(error)
    return ""


def sentence(error: Exception) -> str:
    """Return an error's message as one line; the error's own words if they are the package's, else with its kind."""
    ours = type(error).__module__.startswith("nbhelpers.")
    text = one_line(str(error))  # nnsight shows a whole traceback
    kind = type(error).__name__
    return text if ours or text.startswith(f"{kind}:") else f"{kind}: {text}".rstrip(": ")


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
