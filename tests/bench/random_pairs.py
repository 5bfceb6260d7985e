"""Scratch projects of one pair: a pocket pair as it is, or random weights at the shape of a public model.

A random pair reads pocket Llama's tokens, to which words of its own are added until the vocabulary has the model's size.
What a step costs depends on shapes, not on the values of weights.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from nbhelpers.core import params
from tests import shapes
from tests.realmodel.project import SIZES
from tests.stubs import REPOSITORY

# Profiles of a scratch project, beside one a random pair: of the warm-up, and pocket's with caps as long as replies were.
TINY, WRITTEN = "tiny", "written"
WARM = "llama_pocket"  # the pair of the warm-up
LLAMA = dict(attention_bias=False, rms_norm_eps=1e-5, tie_word_embeddings=True, max_position_embeddings=4096)
# name: (model type, configuration, dtype)
PUBLIC = {
    "random_1b": ("llama", LLAMA | dict(num_hidden_layers=16, hidden_size=2048, intermediate_size=8192,
                                        num_attention_heads=32, num_key_value_heads=8, vocab_size=128256), "bfloat16"),
    "random_135m": ("llama", LLAMA | dict(num_hidden_layers=30, hidden_size=576, intermediate_size=1536,
                                           num_attention_heads=9, num_key_value_heads=3, vocab_size=49152), "float32"),
    "random_words": ("llama", LLAMA | dict(num_hidden_layers=8, hidden_size=128, intermediate_size=256, num_attention_heads=4,
                                           num_key_value_heads=2, vocab_size=128256), "float32"),
}  # fmt: skip


# A billion parameters take minutes a step on a processor: fewer prompts still.
FEW = {
    "random_1b": {
        "exp00": {"n_prompts": 8, "max_new_tokens": 8, "batch_size": 2, "n_cloud_prompts": 16},
        "exp12": {"n_prompts": 2, "max_new_tokens": 8, "batch_size": 8},
    }
}


def project(root: Path, pairs: Sequence[str]) -> None:
    """Write a project of some pairs into an empty folder: pocket pairs, those of `PUBLIC`, and those of `shapes`."""
    for name in ("params", "notebooks"):
        shutil.copytree(REPOSITORY / name, root / name)
    (root / "pocket").symlink_to(REPOSITORY / "pocket")
    _profile(root, TINY, WARM)
    pocket = yaml.safe_load((root / "params/profiles/pocket.yml").read_text(encoding="utf-8"))
    pocket |= {"name": WRITTEN, "sizes_of": "pocket"}
    (root / f"params/profiles/{WRITTEN}.yml").write_text(yaml.safe_dump(pocket))
    for pair in pairs:
        if not shipped(pair):
            _write_pair(root, pair)
            _profile(root, pair, pair)


def shipped(pair: str) -> bool:
    """Return whether a pair comes with the repository."""
    return (REPOSITORY / f"params/models/{pair}.yml").exists()


def profile(pair: str) -> str:
    """Return the profile that has a pair's sizes."""
    return "pocket" if shipped(pair) else pair


def _profile(root: Path, name: str, pair: str) -> None:
    """Write a profile of one pair with the small sizes of the test on a public model."""
    values = dict(
        name=name,
        title=name,
        models=[pair],
        prompts="params/prompts/general.jsonl",
        sizes_of="laptop",
        threads=1,
    )
    (root / f"params/profiles/{name}.yml").write_text(yaml.safe_dump(values))
    for key, sizes in (SIZES | FEW.get(name, {})).items():
        resize(root, key, name, sizes)


def resize(root: Path, key: str, profile: str, sizes: dict) -> None:
    """Give an experiment of a project sizes of its own in a profile."""
    file = root / f"params/experiments/{key}.yml"
    known = yaml.safe_load(file.read_text(encoding="utf-8"))
    known["profiles"][profile] = sizes
    file.write_text(yaml.safe_dump(known, allow_unicode=True, sort_keys=False), encoding="utf-8")


def _write_pair(root: Path, pair: str) -> None:
    """Write the checkpoints and the model file of a random pair."""
    dtype = PUBLIC[pair][2] if pair in PUBLIC else "float32"
    for seed, variant in enumerate(params.VARIANTS):
        folder = root / "weights" / pair / variant
        if pair in PUBLIC:
            _save(pair, seed, folder)
        else:
            shapes.save(pair, variant, folder)
    paths = {variant: {"path": f"weights/{pair}/{variant}"} for variant in params.VARIANTS}
    about: dict = dict(key=pair, family=pair, title=f"Random {pair}", dtype=dtype) | paths
    about |= (
        {} if pair in PUBLIC else {"attention": "eager", "mixture": "experts" in str(shapes.SHAPES[pair])}
    )
    (root / f"params/models/{pair}.yml").write_text(yaml.safe_dump(about))


def _save(pair: str, seed: int, folder: Path) -> None:
    """Write one checkpoint of random weights, and a tokenizer whose vocabulary has as many words as the model has rows."""
    kind, shape, dtype = PUBLIC[pair]
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        ends = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
        AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**shape, **ends)).save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)
    for file in ("tokenizer_config.json", "chat_template.jinja", "tokenizer.json"):
        shutil.copy(shapes.TOKENIZER / file, folder)
    known = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = known["model"]["vocab"]
    words |= {f"Ġw{index}": index for index in range(len(words), shape["vocab_size"])}
    (folder / "tokenizer.json").write_text(json.dumps(known), encoding="utf-8")
