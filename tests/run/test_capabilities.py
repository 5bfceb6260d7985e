"""What works on a pair is found by trying it: on pocket pairs, on other architectures, on pairs that are spoilt."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from nbhelpers.core import params
from nbhelpers.models.loading import load_pair
from nbhelpers.run import capabilities, checkpoints
from tests import shapes
from tests.stubs import REPOSITORY

PARTS = {"loads", "chat template", "lens", "updates", "grafts", "neurons", "attention", "weights"}


def of(name, folder):
    """Return the capabilities of a random pair that is saved to a folder first."""
    for variant in params.VARIANTS:
        shapes.save(name, variant, folder / variant)
    return capabilities.capabilities(shapes.params(name, folder))


@pytest.mark.slow
@pytest.mark.parametrize("family", params.FAMILIES)
def test_everything_works_on_pocket_pairs(family):
    found = capabilities.capabilities(params.model_params(f"{family}_pocket"))
    assert set(found) == PARTS and capabilities.lacking(found) == [] and not any(found.values())


@pytest.mark.parametrize("name", shapes.SUPPORTED)
def test_everything_works_on_what_is_supported(name, tmp_path):
    assert not any(of(name, tmp_path).values())


@pytest.mark.parametrize("name", shapes.REFUSED)
def test_what_is_no_decoder_of_ours_is_lacking_in_sentences(name, tmp_path):
    found = of(name, tmp_path)
    assert capabilities.lacking(found)
    assert all("\n" not in why and "Traceback" not in why for why in found.values())


@pytest.fixture
def pocket():
    """Return pocket Llama, loaded anew, to spoil."""
    return load_pair("llama_pocket")


def tried(part, pair):
    return capabilities._fault(capabilities.TRIES[part], pair)


def test_a_lens_that_misses_the_models_logits_is_found(pocket):
    assert tried("lens", pocket) == ""
    head = pocket.it.module.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: torch.tanh(output))
    assert "model's own logits" in tried("lens", pocket)


def test_updates_that_do_not_add_up_are_found(pocket):
    assert tried("updates", pocket) == ""
    block = pocket.it.module.get_submodule(pocket.it.stack_path).layers[3]
    block.register_forward_hook(lambda module, inputs, output: output * 1.01)
    assert "do not add up to the residual stream" in tried("updates", pocket)


def test_a_template_that_fails_is_found(pocket):
    assert tried("chat template", pocket) == ""
    pocket.it.tokenizer.chat_template = "{{ raise_exception('not this') }}"
    assert "not this" in tried("chat template", pocket)


def test_weights_of_other_names_are_found(pocket, tmp_path):
    shutil.copytree(REPOSITORY / "pocket/checkpoints/llama/pt", tmp_path / "pt")
    tensors = load_file(tmp_path / "pt/model.safetensors") | {"model.odd.weight": torch.zeros(2)}
    save_file(tensors, tmp_path / "pt/model.safetensors")
    paths = {variant: params.Checkpoint(path=str(tmp_path / "pt")) for variant in params.VARIANTS}
    assert "'odd.weight'" in tried("weights", replace(pocket, params=pocket.params.model_copy(update=paths)))


def test_a_pair_that_does_not_load_says_why_once(tmp_path):
    lost = params.Checkpoint(path=str(tmp_path / "lost"))
    model = params.model_params("llama_pocket").model_copy(update={"pt": lost})
    found = capabilities.capabilities(model)
    assert set(found) == {"loads"} and "lost of llama_pocket is missing" in found["loads"]
    assert capabilities.lacking(found) == ["loads"]


def test_the_command_shows_the_table_and_fails_where_no_experiment_runs(run_cli, monkeypatch):
    good = dict.fromkeys(capabilities.TRIES, "") | {"loads": ""}
    monkeypatch.setattr(capabilities, "capabilities", lambda model: good | {"neurons": "no neurons."})
    status, said, _ = run_cli("models", "--check", "llama_pocket")
    assert status == 0 and "lens           works" in said and "no neurons." in said
    for part in ("loads", "chat template", "lens", "updates", "grafts"):
        monkeypatch.setattr(capabilities, "capabilities", lambda model, part=part: good | {part: "why."})
        assert run_cli("models", "--check", "llama_pocket")[0] == 1


def test_errors_of_other_libraries_are_one_line():
    assert checkpoints.sentence(ValueError("")) == "ValueError"
    assert checkpoints.sentence(KeyError("Traceback\n  x\nKeyError: 'a'\n")).endswith("KeyError: 'a'\\n\"")
    assert checkpoints.sentence(RuntimeError("Traceback\n  x\nAttributeError: no 'a'\n")).endswith("no 'a'")
    assert checkpoints.sentence(params.ParameterError("one.\ntwo.")) == "one."
