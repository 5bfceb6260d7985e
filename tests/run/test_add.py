"""A pair of the user's own: what is written for it, what refuses it, LoRA adapters, and doctor's agreement."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from nbhelpers.core import params, store
from nbhelpers.run import add, capabilities, checkpoints, doctor
from tests import shapes
from tests.stubs import REPOSITORY

POCKET = REPOSITORY / "pocket/checkpoints"


@pytest.fixture
def own(tmp_path):
    """Return a folder outside any project with a copy of pocket Llama's checkpoints."""
    shutil.copytree(POCKET / "llama", tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def works(monkeypatch):
    """Say, without loading a pair, that everything works on it."""
    monkeypatch.setattr(capabilities, "capabilities", lambda model: dict.fromkeys(capabilities.NEEDED, ""))


def refusal(folder, key="mine", **given):
    """Return the sentence with which a pair is refused; nothing was written."""
    given = {"pt": str(folder / "pt"), "it": str(folder / "it"), "profile": "pocket"} | given
    with pytest.raises(params.ParameterError) as error:
        list(add.add(key, given.pop("pt"), given.pop("it"), **given))
    assert not list((params.ROOT / "params").rglob(f"{key}.yml")) and "\n" not in str(error.value)
    return str(error.value)


def test_a_pair_from_elsewhere_is_added_and_well(project, own):
    result = list(add.add("mine", str(own / "pt"), str(own / "it"), title="Mine: own", profile="pocket"))
    assert result[-1] == "next: nbh batch --profile mine"
    assert any(line.split() == ["lens", "works"] for line in result)
    model, profile = params.model_params("mine"), params.profile_params("mine")
    assert (model.pt.folder, model.it.folder) == (own / "pt", own / "it")
    assert (model.family, model.title, model.attention, model.published_as) == (
        "llama",
        "Mine: own",
        "sdpa",
        None,
    )
    assert (profile.models, profile.title, profile.sizes_of, profile.prompts) == (
        ["mine"],
        "Mine: own",
        "pocket",
        "stub",
    )
    assert all(check.well for check in doctor.check_checkpoints("mine"))
    assert all(check.well for check in doctor.check_params())
    assert params.profile_of("mine") == "mine"


def test_paths_in_the_repository_are_named_from_its_root(project, own, monkeypatch):
    shutil.move(own, project / "weights/own")
    monkeypatch.chdir(project / "weights")
    assert add.located("own/pt", "--pt") == params.Checkpoint(path="weights/own/pt")
    assert add.located(str(project / "weights/own/it"), "--it").path == "weights/own/it"


NAMES = {
    "1e5": "1e5", "null": "2026-01-31", "007": "true", "0x1f": "~", "no": "0.5", "inf": "{a: 1}", "1_000": "a\tb: '\"#",
}  # fmt: skip


@pytest.mark.parametrize("key, title", NAMES.items(), ids=NAMES)
def test_names_that_look_like_numbers_stay_names(project, own, works, key, title):
    list(add.add(key, str(own / "pt"), str(own / "it"), title=title, family=key, profile="pocket"))
    model, profile = params.model_params(key), params.profile_params(key)
    assert (model.key, model.family, model.title, profile.title, profile.models) == (
        key,
        key,
        title,
        title,
        [key],
    )


def test_what_would_not_be_read_back_is_refused(project, own, works):
    for text in ("half \ud800", "two\nlines", "\udcff", " "):
        assert "it must be one line of text" in refusal(own, title=text)
    shutil.move(own / "it", own / "it\x85")
    assert "would not be read back as it is written" in refusal(own, it=str(own / "it\x85"))


@pytest.mark.parametrize("error", [store.ResultError("no room"), KeyboardInterrupt()])
def test_two_files_are_written_or_none(project, own, works, monkeypatch, error):
    write = store.write_whole

    def first(path, data):
        if "profiles" in path.parts:
            raise error
        write(path, data)

    monkeypatch.setattr(store, "write_whole", first)
    with pytest.raises(type(error)):
        list(add.add("mine", str(own / "pt"), str(own / "it"), profile="pocket"))
    assert not list(project.rglob("mine.yml"))


def test_one_checkpoint_is_no_pair(project, own, monkeypatch):
    (own / "link").symlink_to(own / "pt")
    for it in (own / "pt", own / "link", own / "it/../pt/"):
        assert "--pt and --it are the same checkpoint" in refusal(own, it=str(it))
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *_, **__: "/cache/snapshots/abc/config.json"
    )
    assert "--pt and --it are the same checkpoint, a/b" in refusal(own, pt="a/b", it="A/b@main")


def test_facts_come_from_the_checkpoint(tmp_path):
    def values(name, **own):
        folder = shapes.save(name, "pt", tmp_path / name, **own)
        side = params.Checkpoint(path=str(folder))
        return add.model_values("k", {"pt": side, "it": side}, family="", title="")

    gemma, routed = values("gemma2"), values("qwen3_moe")
    assert (gemma["attention"], gemma["family"], gemma["dtype"]) == ("eager", "gemma", "float32")
    assert routed["mixture"] and (routed["attention"], routed["family"]) == ("sdpa", "qwen")
    assert values("phi3")["family"] == "phi3"
    config = tmp_path / "phi3/config.json"
    for stored, used in (("bfloat16", "bfloat16"), ("float64", "float32")):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": stored}))
        side = params.Checkpoint(path=str(config.parent))
        assert add.model_values("k", {"pt": side, "it": side}, family="", title="")["dtype"] == used


def test_a_key_that_is_taken_or_none_is_refused(project, own):
    before = sorted(path.read_bytes() for path in (project / "params").rglob("*.yml"))
    with pytest.raises(params.ParameterError, match="params/models/ann.yml exists already"):
        list(add.add("ann", str(own / "pt"), str(own / "it"), profile="pocket"))
    with pytest.raises(params.ParameterError, match="params/profiles/pocket.yml exists already"):
        list(add.add("pocket", str(own / "pt"), str(own / "it"), profile="pocket"))
    for key in ("My pair", "../x", "", "a;b", "é"):
        with pytest.raises(params.ParameterError, match="is no key"):
            list(add.add(key, str(own / "pt"), str(own / "it"), profile="pocket"))
    assert sorted(path.read_bytes() for path in (project / "params").rglob("*.yml")) == before


def drop(folder, name="model.layers.5.mlp.down_proj.weight"):
    """Take a tensor out of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in tensors.items() if key != name}, folder / "model.safetensors")


def widen(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(3, 96)
    save_file(tensors, folder / "model.safetensors")


def other_tokens(folder):
    path = folder / "tokenizer.json"
    text = json.loads(path.read_text())
    vocabulary = text["model"]["vocab"]
    first, second = list(vocabulary)[300:302]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(text))


SPOILT = {
    "no folder": (shutil.rmtree, "is missing"),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes(b"12345678"),
        "is damaged (model.safetensors",
    ),
    "a tensor lost": (drop, "lacks model.layers.5.mlp.down_proj.weight"),
    "a tensor of another shape": (widen, "holds the wrong shape of model.layers.2.mlp.up_proj.weight"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "lacks config.json"),
    "an adapter beside the weights": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        "holds both model.safetensors and adapter_config.json",
    ),
    "no template": (lambda f: (f / "chat_template.jinja").unlink(), "has no chat template"),
    "a template that refuses": (
        lambda f: (f / "chat_template.jinja").write_text("{{ raise_exception('a system turn first') }}"),
        "cannot render a user's turn (a system turn first)",
    ),
    "a template that is none": (
        lambda f: (f / "chat_template.jinja").write_text("{% for"),
        "the chat template of",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    "other tokens": (other_tokens, "tokenizers differ"),
}


@pytest.mark.parametrize("spoil, words", SPOILT.values(), ids=SPOILT)
def test_add_and_doctor_refuse_the_same(project, own, spoil, words):
    spoil(own / "it")
    assert words in refusal(own)
    text = f"key: mine\nfamily: llama\ntitle: t\npt: {{path: {own}/pt}}\nit: {{path: {own}/it}}\n"
    (project / "params/models/mine.yml").write_text(text)
    (project / "params/profiles/mine.yml").write_text("name: mine\ntitle: t\nmodels: [mine]\nprompts: p\n")
    (found,) = [check for check in doctor.check_checkpoints("mine") if not check.well]
    assert words in found.text and found.remedy and "make pocket" not in found.remedy


def test_a_pair_of_two_shapes_is_refused(project, own):
    config, tensors = own / "it/config.json", load_file(own / "it/model.safetensors")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 11}))
    assert "holds the unknown tensor model.layers.11" in refusal(own)
    save_file({k: v for k, v in tensors.items() if ".layers.11." not in k}, own / "it/model.safetensors")
    assert "layers.11.self_attn.q_proj.weight is [96, 96] in PT and missing in IT" in refusal(own)


def test_a_configuration_that_is_no_decoders_is_refused(project, own):
    config = own / "pt/config.json"
    stated = json.loads(config.read_text())
    for spoilt in (stated | {"model_type": "no_such_type"}, stated | {"num_attention_heads": "many"}, {}):
        config.write_text(json.dumps(spoilt))
        assert "is no decoder that `transformers` has a class for" in refusal(own)


def test_the_command_prints_what_is_done(project, own, run_cli):
    status, said, _ = run_cli("add", "mine", "--pt", own / "pt", "--it", own / "it", "--profile", "pocket")
    assert status == 0 and said.splitlines()[-1] == "next: nbh batch --profile mine"
    assert "wrote params/models/mine.yml and params/profiles/mine.yml" in said


def test_what_no_experiment_runs_on_is_refused_after_trying(project, own, monkeypatch):
    found = dict.fromkeys(capabilities.NEEDED, "") | {"lens": "why."}
    monkeypatch.setattr(capabilities, "capabilities", lambda model: found)
    assert "no experiment runs unless these work: lens" in refusal(own)


def test_names_that_are_neither_folder_nor_hub_are_refused(project, own, monkeypatch):
    def download(*_, **__):
        raise OSError("no network\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert "hub id is owner/name" in refusal(own, pt="no-such-folder")
    assert "/nowhere/pt (PT) is missing" in refusal(own, pt="/nowhere/pt")
    said = refusal(own, pt="no-such/model-of-anyone")
    assert "there is no folder" in said and "the hub gives no config.json" in said
    assert "there is no profile 'poket'; did you mean 'pocket'" in refusal(own, profile="poket")


def test_hub_checkpoints_are_pinned(monkeypatch):
    commit = "0123456789abcdef" * 2 + "01234567"
    asked = []

    def download(hub, name, revision=None):
        asked.append((hub, name, revision))
        return f"/cache/models--a--b/snapshots/{commit}/config.json"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert add.located("a/b", "--pt") == params.Checkpoint(hub="a/b", revision=commit)
    assert add.located("a/b-1.5_c@v2/x", "--pt").revision == commit
    assert asked == [("a/b", "config.json", None), ("a/b-1.5_c", "config.json", "v2/x")]


def test_bin_shards_and_bf16_are_read_as_they_are(project, own):
    for variant in params.VARIANTS:
        folder = own / variant
        tensors = {k: v.bfloat16() for k, v in load_file(folder / "model.safetensors").items()}
        names = sorted(tensors)
        files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
        for file in set(files.values()):
            torch.save({name: tensors[name] for name in names if files[name] == file}, folder / file)
        (folder / "pytorch_model.bin.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": files})
        )
        (folder / "model.safetensors").unlink()
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))
    said = list(add.add("mine", str(own / "pt"), str(own / "it"), profile="pocket"))
    assert any(line.split() == ["weights", "works"] for line in said)
    assert params.model_params("mine").dtype == "bfloat16"
    assert all(check.well for check in doctor.check_checkpoints("mine"))
    (own / "pt/pytorch_model-00001-of-00002.bin").write_bytes(b"half")
    assert "is damaged" in checkpoints.file_fault(own / "pt")


@pytest.fixture
def adapter(own):
    """Return a folder with a LoRA adapter of pocket Llama's PT, as PEFT saves it, with IT's tokenizer in it."""
    peft = pytest.importorskip("peft", reason="LoRA adapters need PEFT: pip install --editable '.[lora]'")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(own / "pt", dtype=torch.float32)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(own / "lora")
    for path in (own / "it").iterdir():
        if path.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(path, own / "lora")
    shutil.rmtree(own / "it")
    return own / "lora"


def test_a_lora_adapter_is_merged_into_pt(project, own, adapter):
    said = list(add.add("mine", str(own / "pt"), str(adapter), profile="pocket"))
    model = params.model_params("mine")
    assert model.it.folder == own / "lora-merged" and any("merging" in line for line in said)
    base, whole, low = (load_file(path) for path in (
        own / "pt/model.safetensors", own / "lora-merged/model.safetensors", adapter / "adapter_model.safetensors"
    ))  # fmt: skip
    changed = {name for name in base if not torch.equal(base[name].float(), whole[name].float())}
    assert changed == {name for name in base if name.endswith(("q_proj.weight", "down_proj.weight"))}
    for name in sorted(changed):
        a, b = (low[f"base_model.model.{name.removesuffix('weight')}lora_{side}.weight"] for side in "AB")
        torch.testing.assert_close(whole[name].float(), base[name].float() + 3 * b @ a, atol=2e-3, rtol=2e-3)
    assert all(check.well for check in doctor.check_checkpoints("mine"))
    assert "exists already" in refusal(own, key="again", it=str(adapter))


def test_an_adapter_of_another_base_is_refused(project, own, adapter):
    config = adapter / "adapter_config.json"
    stated = json.loads(config.read_text())
    config.write_text(json.dumps(stated | {"base_model_name_or_path": "someone/Other-7B-Instruct"}))
    assert "was trained on someone/Other-7B-Instruct" in refusal(own, it=str(adapter))
    config.write_text(json.dumps(stated | {"peft_type": "IA3"}))
    assert "only LoRA" in refusal(own, it=str(adapter))
    config.write_text(json.dumps(stated))
    low = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: value[..., :3].contiguous() for name, value in low.items()},
        adapter / "adapter_model.safetensors",
    )
    assert "does not fit PT" in refusal(own, it=str(adapter))
    save_file(dict(list(low.items())[2:]), adapter / "adapter_model.safetensors")
    assert "does not fit PT" in refusal(own, it=str(adapter))
    assert not (own / "lora-merged").exists()


STATED = {
    "a list": ({"base_model_name_or_path": ["a"]}, "base_model_name_or_path is no name of a model (['a'])"),
    "a number": ({"base_model_name_or_path": 5}, "base_model_name_or_path is no name of a model (5)"),
    "a NUL": ({"base_model_name_or_path": "a\0"}, "base_model_name_or_path is no name of a model"),
    "another kind": ({"peft_type": ["LORA"]}, "only LoRA can be merged"),
    "no record": (["LORA"], "adapter_config.json is no JSON record"),
    "no JSON": ("{", "adapter_config.json is no JSON record"),
    "deep nesting": ("[" * 100_000, "adapter_config.json is no JSON record"),
}


@pytest.mark.parametrize("stated, sentence", STATED.values(), ids=STATED)
def test_an_adapters_configuration_may_hold_anything(project, own, stated, sentence):
    (own / "lora").mkdir()
    stated = {"peft_type": "LORA"} | stated if isinstance(stated, dict) else stated
    text = stated if isinstance(stated, str) else json.dumps(stated)
    (own / "lora/adapter_config.json").write_text(text)
    assert sentence in refusal(own, it=str(own / "lora"))


def test_a_damaged_base_of_an_adapter_is_refused_first(project, own):
    (own / "lora").mkdir()
    (own / "lora/adapter_config.json").write_text('{"peft_type": "LORA"}')
    (own / "pt/model.safetensors").write_bytes(b"12345678")
    assert "(PT) is damaged (model.safetensors" in refusal(own, it=str(own / "lora"))


def test_without_peft_an_adapter_is_refused_in_a_sentence(project, own, monkeypatch):
    (own / "lora").mkdir()
    (own / "lora/adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    shutil.copy(own / "pt/config.json", own / "lora")  # as some trainers leave it
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "install PEFT to merge it" in refusal(own, it=str(own / "lora"))


@pytest.mark.slow
def test_a_batch_runs_on_checkpoints_from_elsewhere(project, own, run_cli):
    list(add.add("mine", str(own / "pt"), str(own / "it"), profile="pocket"))
    sizes = project / "params/experiments/exp90.yml"
    sizes.write_text(sizes.read_text() + "  mine: {n_prompts: 3}\n")
    for ran in (["mine"], ["mine"]):  # the second batch has nothing to do
        status, said, errors = run_cli("batch", "--profile", "mine", "--cores", 1, "--target", "measured")
        assert status == 0, said + errors
        assert (project / "trace.txt").read_text().split() == ran
    path = project / "_build/results/mine/mine/exp90.nc"
    assert str(own / "it") in path.read_bytes().decode("latin-1")
