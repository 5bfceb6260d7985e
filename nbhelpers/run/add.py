"""A pair of the user's own: two checkpoints are looked at and tried, then the files of `params/` are written for them.

Nothing is written unless every part that experiments need works on the pair (`capabilities`). A LoRA adapter given as IT is
merged into PT by PEFT first, since a weight change is measured between two whole checkpoints.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from nbhelpers import experiments
from nbhelpers.core import checkpoint_files, params, store
from nbhelpers.core.params import Checkpoint, ParameterError
from nbhelpers.core.yaml_loader import Dumper
from nbhelpers.run import capabilities, checkpoints, estimate

HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def add(key: str, pt: str, it: str, *, family: str = "", title: str = "", profile: str) -> Iterator[str]:
    """Yield what is done to add a pair as `params/models/<key>.yml` with a profile of its own, line by line.

    pt, it: a folder or a hub id, `owner/name` or `owner/name@revision`. family, title: of its pages; by default the
    architecture and the key. profile: whose prompts and sizes the new profile takes. ParameterError, with nothing written,
    for a key that is taken, checkpoints that cannot be used or are no pair, and parts without which no experiment runs.
    """
    files = _free(key)
    base = _checked_profile(profile)
    sides = {"pt": located(pt, "--pt"), "it": located(it, "--it")}
    _refuse_same(sides, key)
    if _is_adapter(sides["it"]):
        _refuse_faulty({"pt": sides["pt"]})
        yield f"merging the LoRA adapter {it} into PT"
        sides["it"] = located(str(merged(sides["it"].folder, sides["pt"])), "--it")
    model = model_values(key, sides, family=family, title=title)
    record = params.checked(params.ModelParams, model, f"nbh add {key}")
    if fault := _fault(record):
        raise ParameterError(f"nbh add {key}: {fault}")
    yield "trying what works on this pair"
    found = capabilities.capabilities(record)
    yield from capabilities.table(found)
    if lacking := capabilities.lacking(found):
        raise ParameterError(
            f"nbh add {key}: nothing was written, since no experiment runs unless these work: {', '.join(lacking)}."
        )
    own = {
        "name": key,
        "title": model["title"],
        "models": [key],
        "prompts": base["prompts"],
        "sizes_of": profile,
    }
    own |= {"gpus": 1} if model.get("device_map") else {}
    _write(dict(zip(files, (model, own))))
    yield f"wrote {' and '.join(map(store.shown, files))}"
    yield f"next: nbh batch --profile {key}"


def _free(key: str) -> tuple[Path, Path]:
    """Return the files of a new model and its profile; ParameterError for a key that is none or taken."""
    if not re.fullmatch("[a-z0-9_]+", key):
        raise ParameterError(f"{key!r} is no key: write one in a–z, 0–9 and _, such as my_pair.")
    files = tuple(params.ROOT / "params" / kind / f"{key}.yml" for kind in ("models", "profiles"))
    for file in files:
        if file.exists():
            raise ParameterError(f"{store.shown(file)} exists already: remove it or choose another key.")
    return files


def _refuse_same(sides: dict[str, Checkpoint], key: str) -> None:
    """Raise ParameterError if PT and IT are one checkpoint, by whatever names."""
    one, other = (
        os.path.realpath(side.folder) if side.folder else (side.hub.lower(), side.revision)
        for side in sides.values()
    )
    if one == other:
        raise ParameterError(
            f"nbh add {key}: --pt and --it are the same checkpoint, {sides['pt'].source}: give the pretrained model and what "
            "was tuned from it."
        )


def _write(files: dict[Path, dict]) -> None:
    """Write each file's values as YAML, all or none; ParameterError, with nothing written, if they would read as others."""
    texts = {}
    for file, values in files.items():
        text = yaml.dump(
            values, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120
        )
        texts[file] = text.encode()
        if params.parse_yaml(texts[file], store.shown(file)) != values:
            raise ParameterError(
                f"{store.shown(file)} would not be read back as it is written: give a plainer title, family or path."
            )
    written = []
    try:
        for file, text in texts.items():
            store.write_whole(file, text)
            written.append(file)
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        raise


def _checked_profile(name: str) -> dict:
    """Return a profile as plain values, after checking that it has sizes for every experiment."""
    base = params.profile_params(name)
    for key in params.ordered():
        experiments.experiment_params(key, name)
    return base.model_dump(exclude_none=True)


def located(text: str, option: str) -> Checkpoint:
    """Return the checkpoint that a folder or a hub id names, a hub id with its commit; ParameterError if there is none.

    A folder in the repository is named from the root, any other by its absolute path.
    """
    folder = Path(os.path.abspath(os.path.expanduser(text)))
    if folder.exists() or text.startswith((".", "/", "~")):
        return Checkpoint(path=store.shown(folder))
    if not (hub := HUB.fullmatch(text)):
        raise ParameterError(
            f"{option} {text}: there is no folder {folder}, and a hub id is owner/name or owner/name@revision."
        )
    return Checkpoint(hub=hub[1], revision=_commit(hub[1], hub[2], option, folder))


def _commit(hub: str, revision: str | None, option: str, folder: Path) -> str:
    """Return the commit of a hub checkpoint, from the network or else the cache; ParameterError if neither has it."""
    from huggingface_hub import hf_hub_download

    try:
        config = hf_hub_download(hub, "config.json", revision=revision)
    except Exception as error:  # the network, the account, the name: the message says which
        raise ParameterError(
            f"{option} {hub}: there is no folder {folder}, and the hub gives no config.json "
            f"({checkpoints.sentence(error)})"
        ) from None
    return Path(config).parent.name  # the cache keeps a snapshot under its commit


def model_values(key: str, sides: dict[str, Checkpoint], *, family: str, title: str) -> dict:
    """Return what the model's parameter file holds, as its checkpoints' configurations say it."""
    import torch

    _refuse_faulty(sides)
    config, model = _empty_model(sides["pt"])
    text = config.get_text_config()
    kind = text.model_type
    known = next((name for name in params.FAMILIES if kind.startswith(name)), kind)
    values = {"key": key, "family": family or known, "title": title or key}
    values |= {variant: side.model_dump(exclude_none=True) for variant, side in sides.items()}
    values["dtype"] = _dtype(str(text.dtype or config.dtype).removeprefix("torch."))
    values["attention"] = "sdpa" if model._supports_sdpa else "eager"
    if any(name.endswith(".experts") for name, _ in model.named_modules()):
        values["mixture"] = True
    if torch.cuda.is_available():
        values["device_map"] = "auto"
    if sides["it"].hub:
        values["size"] = {
            "layers": text.num_hidden_layers, "width": text.hidden_size, "vocabulary": text.vocab_size,
            "heads": text.num_attention_heads, "parameters": sum(p.numel() for p in model.parameters()),
            "inner": estimate.neurons(text.to_dict()), "cached": estimate.cached(text.to_dict()),
        }  # fmt: skip
    return values


def _refuse_faulty(sides: dict[str, Checkpoint]) -> None:
    """Raise ParameterError if the files of a local checkpoint are not whole."""
    for variant, side in sides.items():
        if side.folder and (fault := checkpoints.file_fault(side.folder)):
            raise ParameterError(f"the checkpoint {side.path} ({variant.upper()}) {fault}.")


def _dtype(stored: str) -> str:
    """Return the dtype in which a model is run: bfloat16 as stored, float16 on a GPU alone, since it is no CPU's own."""
    import torch

    return (
        stored if stored == "bfloat16" or (stored == "float16" and torch.cuda.is_available()) else "float32"
    )


def _empty_model(checkpoint: Checkpoint):
    """Return the configuration of a checkpoint and its model without weights; ParameterError if there is no such model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(checkpoint.source, revision=checkpoint.revision)
        with torch.device("meta"):
            return config, AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except Exception as error:  # what a configuration makes a library raise
        name = checkpoint.path or checkpoint.hub
        raise ParameterError(
            f"{name} is no decoder that `transformers` has a class for ({checkpoints.sentence(error)})"
        ) from None


def _fault(model: params.ModelParams) -> str:
    """Return what is wrong with the local checkpoints of a model, as a sentence; "" if nothing is."""
    for variant in params.VARIANTS:
        side = getattr(model, variant)
        if side.folder and (fault := checkpoints.checkpoint_fault(model, variant)):
            return f"the checkpoint {side.path} ({variant.upper()}) {fault}".rstrip(".") + "."
    return checkpoints.pair_fault(model) if model.pt.folder and model.it.folder else ""


def _is_adapter(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is a folder with a LoRA adapter and no whole model."""
    folder = checkpoint.folder
    return bool(
        folder and (folder / "adapter_config.json").is_file() and not checkpoint_files.weights(folder)
    )


def merged(adapter: Path, base: Checkpoint) -> Path:
    """Return the folder `<adapter>-merged`, with the whole model that a LoRA adapter makes of its base, and a tokenizer.

    The tokenizer is the adapter's own, or else the base's. ParameterError if PEFT is not installed, the adapter was trained
    on another model or does not fit, or the folder exists.
    """
    into = adapter.with_name(f"{adapter.name}-merged")
    if into.exists():
        raise ParameterError(f"{into} exists already: give it as --it, or remove it to merge anew.")
    _check_base(adapter, base)
    partial = adapter.with_name(f".{into.name}.partial")
    _merge(adapter, base).save_pretrained(partial)
    from nbhelpers.models.loading import load_tokenizer

    own = (adapter / "tokenizer_config.json").is_file()
    load_tokenizer(*((str(adapter), None) if own else (base.source, base.revision))).save_pretrained(partial)
    os.replace(partial, into)
    return into


def _check_base(adapter: Path, base: Checkpoint) -> None:
    """Raise ParameterError unless an adapter is a LoRA and names this base, if it names one."""
    try:
        stated = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        kind, named = stated.get("peft_type"), stated.get("base_model_name_or_path") or ""
    except (ValueError, AttributeError, RecursionError):
        raise ParameterError(
            f"{adapter}/adapter_config.json is no JSON record: copy the adapter again."
        ) from None
    if not isinstance(named, str) or "\0" in named:
        raise ParameterError(
            f"{adapter}/adapter_config.json: base_model_name_or_path is no name of a model ({named!r:.60}); correct it."
        )
    if kind != "LORA":
        raise ParameterError(f"{adapter} is an adapter of the kind {kind}, and only LoRA can be merged.")
    given = base.path or base.hub
    same = Path(named).name.lower() == Path(given).name.lower()
    if named and not same and not (base.folder and os.path.realpath(named) == os.path.realpath(base.folder)):
        raise ParameterError(
            f"{adapter} was trained on {named}, not on {given}: give that as --pt, or correct "
            "base_model_name_or_path in its adapter_config.json."
        )


def _merge(adapter: Path, base: Checkpoint):
    """Return the model of a base with an adapter merged into its weights, in the base's dtype."""
    try:
        import peft
    except ImportError:
        raise ParameterError(
            f"{adapter} is a LoRA adapter: install PEFT to merge it (pip install --editable '.[lora]'), or give a "
            "merged checkpoint."
        ) from None
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.source, revision=base.revision, dtype="auto")
    try:
        whole = peft.PeftModel.from_pretrained(model, str(adapter))
    except (RuntimeError, ValueError) as error:
        raise ParameterError(f"{adapter} does not fit PT ({checkpoints.sentence(error)})") from None
    stored, wanted = peft.load_peft_weights(str(adapter)), peft.get_peft_model_state_dict(whole)
    if lone := sorted(stored.keys() ^ wanted.keys()):
        raise ParameterError(f"{adapter} does not fit PT: {lone[0]} is in only one of them.")
    return whole.merge_and_unload()
