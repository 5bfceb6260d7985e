"""Weight change against hand-made checkpoints, whole models in memory, and the parameter names of every family."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nbhelpers.core.params import FAMILIES, Checkpoint, ParameterError, model_params
from nbhelpers.measures import weight_change
from tests.models.test_models import PAPER

KEYS = [f"{family}_pocket" for family in FAMILIES]


def folders(key):
    params = model_params(key)
    return [weight_change.checkpoint_folder(getattr(params, variant), key) for variant in ("pt", "it")]


def write(folder, tensors, shards=1):
    """Write tensors to a folder as one file, or as shards with an index."""
    folder.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    where = {
        name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors"
        for i, name in enumerate(sorted(tensors))
    }
    for shard in sorted(set(where.values())):
        save_file({name: tensors[name] for name in where if where[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


# Constant tensors of two layers: name -> (shape, PT's value, IT's value).
MADE = {
    "embed_tokens.weight": ((5, 2), 2.0, 2.5),
    "norm.weight": ((2,), 1.0, 1.25),
    "lm_head.weight": ((5, 2), 1.0, 3.0),
    "layers.0.self_attn.q_proj.weight": ((3, 2), 1.0, 2.0),
    "layers.0.self_attn.q_proj.bias": ((3,), 1.0, 2.0),
    "layers.0.self_attn.o_proj.weight": ((2, 3), 2.0, 5.0),
    "layers.0.self_attn.q_norm.weight": ((3,), 1.0, 101.0),
    "layers.0.post_attention_layernorm.weight": ((1,), 1.0, 101.0),
    "layers.0.mlp.gate_proj.weight": ((4, 2), 4.0, 3.0),
    "layers.1.self_attn.kv_a_proj_with_mqa.weight": ((3, 2), 1.0, 1.5),
    "layers.1.self_attn.kv_a_layernorm.weight": ((2,), 1.0, 41.0),
    "layers.1.mlp.gate.weight": ((2, 2), 1.0, 8.0),
    "layers.1.mlp.experts.0.gate_proj.weight": ((2, 2), 1.0, 3.0),
    "layers.1.mlp.experts.1.down_proj.weight": ((2, 2), 1.0, 5.0),
    "layers.1.mlp.shared_experts.gate_proj.weight": ((2, 4), 2.0, 2.0),
}


def made(side, prefix="model.", dtype=torch.bfloat16, head="lm_head.weight"):
    """Return the tensors of `MADE`, stored as a checkpoint would."""
    named = {name: torch.full(row[0], row[1 + side], dtype=dtype) for name, row in MADE.items()}
    return {head if name == "lm_head.weight" else prefix + name: tensor for name, tensor in named.items()}


@pytest.fixture
def pair(tmp_path):
    return write(tmp_path / "pt", made(0)), write(tmp_path / "it", made(1))


def test_hand_made_checkpoints(pair):
    got = weight_change.weight_change(*pair)
    assert dict(got.sizes) == {"group": 6, "layer": 2, "outside": 3}
    np.testing.assert_array_equal(got.depth, [0.5, 1.0])
    expected = {  # (group, layer): Σ delta², Σ PT², numel
        ("attention", 0): (9 * 1 + 6 * 9, 9 * 1 + 6 * 4, 15),
        ("mlp", 0): (8 * 1, 8 * 16, 8),
        ("norm", 0): (4 * 100**2, 4, 4),
        ("attention", 1): (6 * 0.25, 6, 6),
        ("mlp", 1): (4 * 4 + 4 * 16, 4 + 4 + 8 * 4, 16),
        ("routed", 1): (4 * 4 + 4 * 16, 8, 8),
        ("shared", 1): (0, 32, 8),
        ("router", 1): (4 * 49, 4, 4),
        ("norm", 1): (2 * 40**2, 2, 2),
    }
    for group in weight_change.GROUPS:
        for layer in range(2):
            cell = got.sel(group=group, layer=layer)
            if (group, layer) in expected:
                delta, before, n = expected[group, layer]
                assert float(cell.rms) == pytest.approx(np.sqrt(delta / n))
                assert float(cell.relative) == pytest.approx(np.sqrt(delta / before))
                assert int(cell.n_parameters) == n
            else:
                assert np.isnan(cell.rms) and np.isnan(cell.relative) and cell.n_parameters == 0
    assert got.outside.values.tolist() == ["embedding", "final_norm", "unembedding"]
    np.testing.assert_allclose(got.outside_rms, [0.5, 0.25, 2.0])
    np.testing.assert_allclose(got.outside_relative, [0.25, 0.25, 2.0])
    np.testing.assert_array_equal(got.outside_n_parameters, [10, 2, 10])
    assert all({"units", "long_name"} <= variable.attrs.keys() for variable in got.data_vars.values())


def test_a_tensor_read_in_many_pieces_is_the_same(pair, monkeypatch):
    whole = weight_change.weight_change(*pair)
    monkeypatch.setattr(weight_change, "_CHUNK", 3)
    assert weight_change.weight_change(*pair).identical(whole)


def test_shards_with_an_index(pair, tmp_path):
    sharded = write(tmp_path / "pt3", made(0), 3), write(tmp_path / "it2", made(1), 2)
    (sharded[0] / "consolidated.safetensors").write_text("another layout of the same weights")
    assert weight_change.weight_change(*sharded).identical(weight_change.weight_change(*pair))
    (sharded[0] / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ParameterError, match="lacks model-00002-of-00003.safetensors"):
        weight_change.weight_change(*sharded)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_bin_files_give_the_same(pair, tmp_path, zipped):
    binned = []
    for side in (0, 1):
        folder = tmp_path / f"bin{side}"
        folder.mkdir()
        names = sorted(made(side))
        files = {name: f"pytorch_model-{i % 2 + 1}.bin" for i, name in enumerate(names)}
        for file in set(files.values()):
            held = {name: made(side)[name] for name in names if files[name] == file}
            torch.save(held, folder / file, _use_new_zipfile_serialization=zipped)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
        binned.append(folder)
    assert weight_change.weight_change(*binned).identical(weight_change.weight_change(*pair))
    (binned[0] / "pytorch_model-1.bin").write_bytes(b"half a file")
    with pytest.raises(ParameterError, match="pytorch_model-1.bin is damaged"):
        weight_change.weight_change(*binned)


def test_code_in_a_bin_file_is_not_run(pair, tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    torch.save({"w": Path}, folder / "pytorch_model.bin")
    with pytest.raises(ParameterError, match="holds more than weights"):
        weight_change.stored_tensors(folder)


@pytest.mark.parametrize(
    ("prefix", "head", "tower"),
    [
        ("language_model.model.", "language_model.lm_head.weight", ""),
        ("model.language_model.", "lm_head.weight", "model."),
    ],
)
def test_vision_tower_and_projector_stay_out(pair, tmp_path, prefix, head, tower):
    """Either order of a multimodal checkpoint's names, on one side only, and a tower whose layers count from 0 too."""
    other = made(1, prefix, head=head)
    layers = f"{tower}vision_tower.vision_model.encoder.layers"
    for layer in range(4):
        other[f"{layers}.{layer}.self_attn.q_proj.weight"] = torch.full((3, 2), 1e3)
        other[f"{layers}.{layer}.mlp.fc1.weight"] = torch.full((3, 2), 1e3)
    other[f"{tower}multi_modal_projector.mm_input_projection_weight"] = torch.ones(2, 2)
    got = weight_change.weight_change(pair[0], write(tmp_path / "multimodal", other))
    assert got.identical(weight_change.weight_change(*pair))


def test_a_tied_head_counts_once_or_against_the_embedding(tmp_path):
    untied = made(0), made(1)
    tied = [{n: t for n, t in side.items() if n != "lm_head.weight"} for side in untied]
    both = [write(tmp_path / f"tied{i}", side) for i, side in enumerate(tied)]
    got = weight_change.weight_change(*both)
    assert np.isnan(got.outside_rms[2]) and got.outside_n_parameters[2] == 0
    one = weight_change.weight_change(both[0], write(tmp_path / "untied", untied[1]))
    assert float(one.outside_rms[2]) == pytest.approx(1.0) and one.outside_n_parameters[2] == 10


def test_a_missing_or_misshapen_tensor_is_named(pair, tmp_path):
    lacking = made(1)
    del lacking["model.layers.1.mlp.gate.weight"]
    lacking = write(tmp_path / "lacking", lacking)
    with pytest.raises(ParameterError, match=r"lacking holds no layers\.1\.mlp\.gate\.weight"):
        weight_change.weight_change(pair[0], lacking)
    with pytest.raises(ParameterError, match=r"lacking holds no layers\.1\.mlp\.gate\.weight"):
        weight_change.weight_change(lacking, pair[1])
    larger = write(tmp_path / "larger", made(1) | {"model.embed_tokens.weight": torch.ones(5, 3)})
    with pytest.raises(ParameterError, match=r"embed_tokens\.weight is \[5, 2\] in PT and \[5, 3\] in IT"):
        weight_change.weight_change(pair[0], larger)


def test_an_unknown_tensor_or_no_weights_are_named(tmp_path):
    name = "model.layers.0.mlp.gate_proj_extra.weight"
    strange = [write(tmp_path / side, made(0) | {name: torch.ones(2)}) for side in ("a", "b")]
    with pytest.raises(ParameterError, match="gate_proj_extra"):
        weight_change.weight_change(*strange)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParameterError, match="no model.safetensors"):
        weight_change.weight_change(tmp_path / "empty", strange[0])


def test_float32_files_are_left_as_they_are(tmp_path):
    """Reading maps the file, so a difference taken in place would change what is read next: a tied head, say."""
    one = write(tmp_path / "one", made(0, dtype=torch.float32))
    for _ in range(2):
        changes = list(weight_change.tensor_changes(one, one))
        assert all(change.delta == 0 < change.before for change in changes)
    two = write(tmp_path / "two", {n: t for n, t in made(1).items() if n != "lm_head.weight"})
    head = next(c for c in weight_change.tensor_changes(one, two) if c.name == "lm_head.weight")
    assert (head.before, head.delta) == (10 * 1.0, 10 * 1.5**2)


def test_tables_beside_the_parameters_are_left_out():
    assert weight_change.text_name("model.layers.0.self_attn.rotary_emb.inv_freq") is None


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("post_attention_layernorm", "norm"),
        ("self_attn.q_norm", "norm"),
        ("self_attn.kv_a_layernorm", "norm"),
        ("self_attn.kv_b_proj", "attention"),
        ("self_attn.q_a_proj", "attention"),
        ("mlp.gate", "router"),
        ("mlp.gate_proj", "dense"),
        ("mlp.experts.17.gate_proj", "routed"),
        ("mlp.shared_experts.gate_proj", "shared"),
    ],
)
def test_kinds_follow_whole_module_names(module, kind):
    assert weight_change.kind_of(f"layers.21.{module}.weight") == (21, kind)


def test_fused_experts_and_router_bias():
    assert weight_change.kind_of("layers.2.mlp.experts.gate_up_proj") == (2, "routed")
    assert weight_change.kind_of("layers.2.mlp.experts.down_proj") == (2, "routed")
    assert weight_change.kind_of("layers.2.mlp.gate.e_score_correction_bias") == (2, "router")


@pytest.mark.parametrize("key", list(PAPER))
def test_every_parameter_of_a_paper_configuration_has_a_kind(key):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(PAPER[key][0](), dtype=torch.bfloat16)
    counts, left_out = dict.fromkeys((*weight_change._MODULES, *weight_change.OUTSIDE), 0), 0
    for name, parameter in model.named_parameters():
        text = weight_change.text_name(name)
        if text is None:
            left_out += parameter.numel()
        else:
            counts[weight_change.kind_of(text)[1]] += parameter.numel()
    tower = sum(p.numel() for n, p in model.named_parameters() if ".vision_tower." in n or "projector" in n)
    assert left_out == tower and (tower > 0) == (key == "gemma3_4b")
    moe = key == "deepseek_v2_lite"
    assert all((counts[kind] > 0) == moe for kind in ("routed", "shared", "router"))
    assert counts["attention"] > 0 < counts["norm"] and counts["dense"] > 0


@pytest.mark.parametrize("key", KEYS)
def test_pocket_pair_equals_whole_models_in_memory(key):
    """Counts add up to the model's, and a second grouping (by module object) gives the same change."""
    pt, it = folders(key)
    got = weight_change.weight_change(pt, it)
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
        for folder in (pt, it)
    ]
    n_parameters = sum(parameter.numel() for parameter in models[0].parameters())
    apart = got.n_parameters.sel(group=["attention", "mlp", "router", "norm"])
    assert int(apart.sum()) + int(got.outside_n_parameters.sum()) == n_parameters
    for layer in (0, 5, 11):
        blocks = [model.model.layers[layer] for model in models]
        for group, module in (("attention", "self_attn"), ("mlp", "mlp")):
            named = [dict(getattr(block, module).named_parameters()) for block in blocks]
            names = [name for name in named[0] if "norm" not in name and name != "gate.weight"]
            delta = sum((named[1][n] - named[0][n]).double().square().sum() for n in names)
            before = sum(named[0][n].double().square().sum() for n in names)
            n = sum(named[0][n].numel() for n in names)
            cell = got.sel(group=group, layer=layer)
            assert int(cell.n_parameters) == n
            assert float(cell.rms) == pytest.approx(float((delta / n).sqrt()), rel=1e-5)
            assert float(cell.relative) == pytest.approx(float((delta / before).sqrt()), rel=1e-5)


def test_a_model_has_not_moved_from_itself():
    pt, _ = folders("deepseek_pocket")
    got = weight_change.weight_change(pt, pt)
    assert (got.rms.fillna(0) == 0).all() and (got.outside_relative == 0).all()


def test_deepseek_groups():
    got = weight_change.weight_change(*folders("deepseek_pocket"))
    counts = got.n_parameters.to_pandas()
    assert counts.loc["mlp", 0] == 3 * 256 * 96 and (counts.loc[["routed", "shared", "router"], 0] == 0).all()
    assert counts.loc["routed", 4] == 8 * 3 * 32 * 96 and counts.loc["router", 4] == 8 * 96
    assert counts.loc["shared", 4] == 3 * 64 * 96
    assert counts.loc["mlp", 4] == counts.loc["routed", 4] + counts.loc["shared", 4]
    assert counts.loc["norm", 4] == 2 * 96 + 32


def test_changes_of_single_tensors_add_up():
    pt, it = folders("gemma_pocket")
    changes = list(weight_change.tensor_changes(pt, it))
    before, after = (load_file(folder / "model.safetensors") for folder in (pt, it))
    assert len(changes) == len(before)
    for change in changes[::15]:
        a, b = before[f"model.{change.name}"].double(), after[f"model.{change.name}"].double()
        assert change.delta == pytest.approx(float((b - a).square().sum()), rel=1e-5)
        assert change.before == pytest.approx(float(a.square().sum()), rel=1e-5) and change.n == a.numel()


def test_hub_checkpoints_fetch_safetensors_at_the_revision(monkeypatch, tmp_path):
    asked = {}

    def fake(repo_id, *, revision, allow_patterns):
        asked.update(repo_id=repo_id, revision=revision, allow_patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(weight_change, "snapshot_download", fake)
    folder = weight_change.checkpoint_folder(Checkpoint(hub="org/name", revision="abc"), "some_model")
    assert folder == tmp_path and asked["repo_id"] == "org/name" and asked["revision"] == "abc"
    assert asked["allow_patterns"] == ["model*.safetensors", "model.safetensors.index.json"]


def test_a_missing_local_checkpoint_says_how_to_get_it_back():
    with pytest.raises(ParameterError, match="make pocket"):
        weight_change.checkpoint_folder(Checkpoint(path="pocket/checkpoints/llama/lost"), "llama_pocket")
