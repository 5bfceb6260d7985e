"""A dose as a LoRA adapter: applied by hand it is the fold, and what cannot be exported is refused in a sentence."""

import copy
import json

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors import safe_open

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.core.params import ParameterError
from nbhelpers.measures import directions as measured_directions
from nbhelpers.models.folding import folded
from nbhelpers.models.loading import load_decoder
from nbhelpers.run import add, export, results

LATE = [7, 8, 9, 10, 11]
MODEL = "llama_pocket"


def directions(seed=0):
    """Directions of a pocket model that are not unit vectors, [layer, d]."""
    return 3 * np.random.default_rng(seed).standard_normal((12, 96))


@pytest.fixture
def given(monkeypatch):
    """Directions as if they had been measured."""
    monkeypatch.setattr(export, "measured", lambda model, profile, kind: directions())


def read(folder):
    """The configuration, the tensors and the notes of an adapter."""
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = file.metadata()
    return json.loads((folder / "adapter_config.json").read_text()), tensors, about


def merged(module, folder):
    """A copy of a model with an adapter added by hand: W + scale · B A at the modules that it targets, and nowhere else."""
    config, tensors, _ = read(folder)
    whole = copy.deepcopy(module)
    for path in config["target_modules"]:
        a, b = (tensors.pop(f"base_model.model.{path}.lora_{side}.weight") for side in "AB")
        with torch.no_grad():
            whole.get_submodule(path).weight += config["lora_alpha"] / config["r"] * (b @ a)
    assert not tensors, "a tensor of no module"
    return whole


def logits(module):
    with torch.no_grad():
        return module(torch.arange(20, 60)[None]).logits


@pytest.mark.parametrize("model", [MODEL, "gemma_pocket", "qwen_pocket", "mistral_pocket", "olmo_pocket"])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 2.5])
def test_the_adapter_applied_by_hand_is_the_fold(given, tmp_path, model, alpha):
    lines = list(export.export(model, tmp_path / "lora", alpha=alpha))
    assert f"α = {alpha:g} of the direction mean at layers 7,8,9,10,11 of {model} (IT)" in lines[0]
    decoder = load_decoder(params.model_params(model), "it")
    with folded(decoder, LATE, torch.as_tensor(directions()), alpha):
        expected = logits(decoder.module)
    got = logits(merged(decoder.module, tmp_path / "lora"))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert (got - logits(decoder.module)).abs().max() > 1e-2


def test_the_files_are_peft_s(given, tmp_path):
    """Names, shapes and settings as PEFT writes and reads them; only modules of the chosen layers; what it is, in notes."""
    list(export.export(MODEL, tmp_path / "lora", alpha=0.0, layers="9,2", kind="matched"))
    config, tensors, about = read(tmp_path / "lora")
    base, it = "base_model.model.model.layers", params.model_params(MODEL).it
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        f"{base}.{layer}.mlp.down_proj.lora_{side}.weight": shape
        for layer in (2, 9)
        for side, shape in (("A", (1, 256)), ("B", (96, 1)))
    }
    assert config["target_modules"] == ["model.layers.2.mlp.down_proj", "model.layers.9.mlp.down_proj"]
    assert {config[name] for name in ("r", "lora_alpha")} == {1} and config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == it.source and config["revision"] == it.revision
    assert not (config["use_rslora"] or config["use_dora"] or config["fan_in_fan_out"])
    assert about == {"format": "pt", "model": MODEL, "kind": "matched", "layers": "2,9", "alpha": "0"}
    assert all(t.dtype == torch.float32 for t in tensors.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora"]


def test_it_names_its_base_for_nbh_add(given, tmp_path):
    list(export.export(MODEL, tmp_path / "lora", alpha=0.0))
    record = params.model_params(MODEL)
    add._check_base(tmp_path / "lora", record.it)
    with pytest.raises(ParameterError, match="was trained on"):
        add._check_base(tmp_path / "lora", record.pt)


def test_peft_reads_it(given, tmp_path):
    """Where PEFT is installed: its model with the adapter is the fold."""
    peft = pytest.importorskip("peft")
    list(export.export(MODEL, tmp_path / "lora", alpha=-1.0))
    decoder = load_decoder(params.model_params(MODEL), "it")
    whole = peft.PeftModel.from_pretrained(copy.deepcopy(decoder.module), str(tmp_path / "lora"))
    with folded(decoder, LATE, torch.as_tensor(directions()), -1.0):
        torch.testing.assert_close(logits(whole), logits(decoder.module), rtol=0, atol=1e-4)


def test_the_command_prints_what_it_wrote(given, tmp_path, run_cli):
    command = ("direction", "export", "--model", MODEL, "--alpha", "-1", "--out", tmp_path / "lora")
    status, out, _ = run_cli(*command)
    assert status == 0 and "wrote" in out and (tmp_path / "lora/adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"alpha": 1.0}, r"--alpha 1 is no dose to export: give a number other than 1"),
        ({"alpha": float("nan")}, r"--alpha nan is no dose"),
        (
            {"layers": "last"},
            r"--layers last names no layers: write early, mid, late, or numbers from 0 to 11",
        ),
        ({"layers": "7,12"}, r"--layers 7,12 names no layers"),
        ({"layers": ""}, r"--layers  names no layers"),
        ({"model": "deepseek_pocket"}, r"deepseek_pocket: The MLP of layer 7 is a mixture of experts"),
        ({"model": "llama_poket"}, r"llama_pocket"),
    ],
)
def test_what_cannot_be_exported(given, tmp_path, changes, sentence):
    values = {"model": MODEL, "out": tmp_path / "lora", "alpha": 0.0} | changes
    with pytest.raises(ParameterError, match=sentence) as error:
        list(export.export(values.pop("model"), values.pop("out"), **values))
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_left_as_it_is(given, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ParameterError, match="exists already: remove it or name another folder with --out"):
        list(export.export(MODEL, tmp_path, alpha=0.0))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_adapter_is_whole_or_not_there(given, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path))

    with monkeypatch.context() as patched:
        patched.setattr(export.os, "replace", full)
        with pytest.raises(OSError):
            list(export.export(MODEL, tmp_path / "lora", alpha=0.0))
    assert not (tmp_path / "lora").exists()
    list(export.export(MODEL, tmp_path / "lora", alpha=0.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora"]


@pytest.fixture
def artifact(monkeypatch):
    """An artifact of directions of pocket Llama, as an experiment would have written it."""
    dataset = xr.Dataset(
        {"direction": (("kind", "layer", "feature"), np.stack([directions(0), directions(1)]))},
        {"kind": ["mean", "matched"]},
        {"model": MODEL, "checkpoints": measured_directions.checkpoints(params.model_params(MODEL))},
    )
    monkeypatch.setattr(export, "source", lambda: ("exp00", "exp00_directions"))
    monkeypatch.setattr(experiments, "load", lambda profile, model, name: dataset)
    monkeypatch.setattr(results, "fault", lambda run: "")
    return dataset


def test_a_direction_is_read_by_its_kind(artifact):
    assert np.array_equal(export.measured(MODEL, "pocket", "matched"), directions(1))
    with pytest.raises(ParameterError, match="no direction 'match'; did you mean 'matched'"):
        export.measured(MODEL, "pocket", "match")


def test_a_direction_of_another_pair_is_refused(artifact):
    with pytest.raises(store.ResultError, match="belong to llama_pocket .* not to qwen_pocket"):
        export.measured("qwen_pocket", "pocket", "mean")


def test_a_direction_that_is_out_of_date_is_refused(artifact, monkeypatch):
    monkeypatch.setattr(results, "fault", lambda run: "made with other parameters or weights (x.nc).")
    with pytest.raises(
        store.ResultError, match=r"made with other .*; measure them with `nbh run exp00 --model"
    ):
        export.measured(MODEL, "pocket", "mean")


def test_the_experiment_with_directions_is_found_by_its_artifact(project):
    with pytest.raises(
        ParameterError, match="no experiment .* writes an artifact that ends in _directions.nc"
    ):
        export.source()
    path = project / "params/experiments/exp90.yml"
    path.write_text(path.read_text() + "artifacts: [other.nc, exp90_directions.nc]\n")
    assert export.source() == ("exp90", "exp90_directions")


def test_windows_and_numbers_of_layers():
    assert export.chosen_layers("late", 12) == LATE and export.chosen_layers("early", 12) == [0, 1, 2, 3, 4]
    assert export.chosen_layers(" 9, 2,9", 12) == [2, 9]
