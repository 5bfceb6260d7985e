"""Parameters: windows for any depth, merge order, and one clear sentence for every mistake."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbhelpers import experiments
from nbhelpers.core import depths, params
from nbhelpers.run import graph
from tests.stubs import SIZES, resize

DEPTHS = st.integers(min_value=2, max_value=200)


@given(DEPTHS)
def test_windows_are_as_wide_as_the_late_one(n_layers):
    windows = depths.windows(n_layers)
    assert windows["late"] == range(round(0.6 * n_layers), n_layers)
    assert {len(window) for window in windows.values()} == {n_layers - depths.onset(n_layers)}
    assert windows["early"].start == 0
    assert windows["mid"].start == (n_layers - len(windows["late"])) // 2


@given(DEPTHS)
def test_parts_of_the_stack_end_where_it_ends(n_layers):
    thirds = depths.thirds(n_layers)
    assert [*thirds["early"], *thirds["middle"], *thirds["late"]] == list(range(n_layers))
    assert depths.final_fifth(n_layers).stop == depths.late_half(n_layers).stop == n_layers
    assert depths.depth(n_layers)[-1] == 1 and depths.depth(n_layers)[0] == pytest.approx(1 / n_layers)


@pytest.mark.parametrize(
    "n_layers, onset, late_half, fifth",
    [(34, 20, 17, 7), (32, 19, 16, 7), (36, 22, 18, 8), (27, 16, 14, 6), (12, 7, 6, 3)],
)
def test_windows_of_the_studied_models(n_layers, onset, late_half, fifth):
    assert depths.onset(n_layers) == onset
    assert len(depths.late_half(n_layers)) == late_half
    assert len(depths.final_fifth(n_layers)) == fifth


def test_every_file_in_the_repository_is_valid():
    for key in params.keys("models"):
        assert params.model_params(key).family in params.FAMILIES
    for name in params.keys("profiles"):
        for key in params.keys("experiments"):
            assert experiments.experiment_params(key, name).n_resamples > 0


@pytest.mark.parametrize("name", ["pocket", "paper"])
def test_six_families_in_the_fixed_order(name):
    models = params.profile_params(name).models
    assert tuple(params.model_params(key).family for key in models) == params.FAMILIES


def test_later_layers_of_parameters_win(project):
    (project / "params/experiments/exp90.yml").write_text(
        "key: exp90\ntitle: t\nnotebook: n.ipynb\nparameters: {seed: 3, n_prompts: 9, confidence: 0.9}\n"
        + SIZES
    )
    found = experiments.resolve("exp90", model="ann", profile="pocket", seed=7).experiment
    assert (found.confidence, found.n_prompts, found.seed) == (0.9, 4, 7)


def test_a_models_cap_on_tokens_wins():
    found = experiments.resolve("exp00", model="deepseek_v2_lite", max_new_tokens=100).experiment
    assert found.max_new_tokens == 64
    assert experiments.resolve("exp00", model="llama31_8b").experiment.max_new_tokens == 512


def test_the_profile_is_found_by_the_model():
    assert experiments.resolve("exp09", model="qwen_pocket").profile.name == "pocket"
    assert experiments.resolve("exp09", model="qwen3_4b").profile.name == "paper"


def test_the_hash_changes_with_what_changes_the_result(project):
    def hashed(**options):
        return experiments.resolve("exp90", model="ann", **options).hash

    first = hashed()
    assert hashed() == first and len(first) == 12
    assert hashed(batch_size=3) == first
    assert hashed(n_prompts=3) != first
    assert experiments.resolve("exp90", model="bob").hash != first
    (project / "weights/ann/model.safetensors").write_bytes(b"trained again")
    assert hashed() != first


def chain():
    """The hash of exp90 that exp91 builds on, and that of exp91 itself."""
    run = experiments.resolve("exp91", model="ann")
    return run.upstream["exp90"], run.hash


def test_a_runs_hash_changes_with_an_upstream_parameter_and_not_the_other_way(chained):
    exp90, exp91 = chain()
    assert exp90 == experiments.resolve("exp90", model="ann").hash
    resize(chained, "exp91", 4, 5)
    assert (
        experiments.resolve("exp90", model="ann").hash
        == exp90
        != experiments.resolve("exp91", model="ann").hash
    )
    resize(chained, "exp91", 5, 4)
    assert chain() == (exp90, exp91)
    resize(chained, "exp90", 4, 3)
    assert all(new != old for new, old in zip(chain(), (exp90, exp91)))


def needing(root, **needs):
    """Write experiments that need others, under the schema that any experiment has."""
    for key, others in needs.items():
        text = f"key: {key}\ntitle: t\nnotebook: n.ipynb\nneeds: [{', '.join(others)}]\n"
        (root / f"params/experiments/{key}.yml").write_text(text)


def test_experiments_come_after_what_they_need_and_once(project):
    needing(project, a=["d", "c"], b=["a"], c=["d"], d=["exp90"])
    assert params.ordered() == ["exp90", "d", "c", "a", "b"]
    assert params.ordered(["c"]) == ["exp90", "d", "c"]
    assert params.ordered(["b", "d"]) == ["exp90", "d", "c", "a", "b"]
    assert params.ordered([]) == []


def test_experiments_that_need_each_other_are_refused_before_anything_is_resolved(project):
    needing(project, a=["b"], b=["c"], c=["a"])
    for refused in (lambda: params.ordered(["a"]), lambda: experiments.resolve("a", model="ann")):
        with pytest.raises(params.ParameterError, match="^the experiments a → b → c → a need each other.$"):
            refused()


def test_an_unknown_need_is_named(project):
    needing(project, a=["exp9"])
    with pytest.raises(params.ParameterError, match="there is no experiment 'exp9'; did you mean 'exp90'"):
        experiments.resolve("a", model="ann")


def test_every_experiment_of_the_repository_can_be_run_in_order():
    order = params.ordered()
    assert set(order) == set(params.keys("experiments"))
    for key in order:
        assert all(order.index(need) < order.index(key) for need in params.experiment(key).needs)
        run = experiments.resolve(key, model="llama_pocket")
        assert set(run.upstream) == set(params.experiment(key).needs)
        assert all(path.is_file() for path in run.files), key


def test_the_text_that_a_run_reads_counts_in_its_hash(tmp_path):
    path = tmp_path / "texts.jsonl"
    hashes = []
    for text in ("{}", "{} "):
        path.write_text(text)
        run = experiments.resolve("exp07_0g", model="llama_pocket", corpus={"path": str(path)})
        assert run.files == [path]
        hashes.append(run.hash)
    assert hashes[0] != hashes[1]


def test_prompts_of_its_own_win_over_the_profiles():
    own = experiments.resolve("exp01", model="llama_pocket")
    assert [path.name for path in own.files] == ["exp01.jsonl"]
    assert [path.name for path in experiments.resolve("exp00", model="llama_pocket").files] == [
        "prompts.jsonl"
    ]
    assert experiments.resolve("exp09", model="llama_pocket").files == []


@given(DEPTHS)
def test_phases_follow_each_other(n_layers):
    phases = depths.phases(n_layers)
    if n_layers >= 4:
        assert [*phases["content"], *phases["format"], *phases["corrective"]] == list(range(n_layers))
    assert phases["corrective"] == depths.windows(n_layers)["late"]


def test_phases_are_the_studys():
    assert depths.phases(34) == {"content": range(12), "format": range(12, 20), "corrective": range(20, 34)}


WRONG = {
    "unknown model": ("'lama_pocket'", "did you mean 'llama_pocket'?", dict(model="lama_pocket")),
    "unknown profile": ("'papr'", "did you mean 'paper'?", dict(model="llama31_8b", profile="papr")),
    "model of another profile": ("not in the profile", "allowed", dict(model="llama31_8b", profile="pocket")),
    "unknown parameter": ("'n_promts'", "did you mean 'n_prompts'?", dict(model="olmo_pocket", n_promts=4)),
    "too small": ("'n_prompts' is 0", "greater than or equal to 2", dict(model="olmo_pocket", n_prompts=0)),
    "too few states": ("'n_neighbours' is 10", "32", dict(model="olmo_pocket", n_neighbours=10)),
    "wrong type": ("'seed' is '3'", "integer", dict(model="olmo_pocket", seed="3")),
    "text for a number": ("'confidence' is 'low'", "number", dict(model="olmo_pocket", confidence="low")),
}


@pytest.mark.parametrize("text, remedy, options", WRONG.values(), ids=WRONG)
def test_a_mistake_is_named_with_what_is_allowed(text, remedy, options):
    with pytest.raises(params.ParameterError) as error:
        experiments.resolve("exp00", **options)
    assert text in str(error.value) and remedy in str(error.value)
    assert "\n" not in str(error.value)


FILES = {
    "unknown key": ("family: llama", "family: llama\nlayrs: 3", "unknown key 'layrs'"),
    "family of the study": ("family: llama", "family: llama\npublished_as: lama", "'published_as' is 'lama'"),
    "family without a name": ("family: llama", 'family: " "', "must be one line of text"),
    "family of two lines": ("family: llama", 'family: "a\\nb"', "must be one line of text"),
    "key of another file": ("key: ann", "key: anne", "rename one of them"),
    "missing key": ("title: ann", "", "'title' is missing"),
    "two sources": ("pt: {path:", "pt: {hub: a/b, path:", "not both or neither"),
    "no YAML": ("key: ann", "key: [ann", "not valid YAML"),
}


def test_how_a_pair_is_shown_changes_no_result(project):
    path, hashes = project / "params/models/ann.yml", set()
    size = "size: {layers: 2, width: 3, vocabulary: 4, heads: 1, parameters: 5}\n"
    for more in ("", "published_as: llama\nmixture: true\n", size):
        path.write_text(path.read_text() + more)
        hashes.add(experiments.resolve("exp90", model="ann").hash)
    assert len(hashes) == 1


@pytest.mark.parametrize("before, after, sentence", FILES.values(), ids=FILES)
def test_a_wrong_file_is_named(project, before, after, sentence):
    path = project / "params/models/ann.yml"
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(params.ParameterError, match="params/models/ann.yml") as error:
        params.model_params("ann")
    assert sentence in str(error.value)


def test_a_profile_with_an_unknown_model_is_refused(project):
    path = project / "params/profiles/pocket.yml"
    path.write_text(path.read_text().replace("ann", "anne"))
    with pytest.raises(params.ParameterError, match="did you mean 'ann'"):
        params.profile_params("pocket")


def test_sizes_of_an_unknown_profile_are_refused(project):
    path = project / "params/experiments/exp90.yml"
    path.write_text(path.read_text().replace("pocket:", "pockets:"))
    with pytest.raises(
        params.ParameterError, match="exp90.yml: there is no profile 'pockets'; did you mean 'pocket'"
    ):
        params.experiment("exp90")


def test_a_profile_without_sizes_is_told_where_they_go(project):
    (project / "params/profiles/mine.yml").write_text(
        "name: mine\ntitle: Mine\nmodels: [ann]\nprompts: stub\n"
    )
    with pytest.raises(
        params.ParameterError, match="exp90.yml, profiles: mine: the key 'batch_size' is missing"
    ):
        experiments.resolve("exp90", model="ann", profile="mine")


def test_a_chapter_needs_a_page_across_models(project):
    path = project / "params/experiments/exp90.yml"
    path.write_text(path.read_text().replace("across: exp90_stub_across.ipynb\n", "chapter: Observation\n"))
    with pytest.raises(params.ParameterError, match="exp90.yml: must name its page `across` models"):
        params.experiment("exp90")


@pytest.mark.parametrize("name", ["exp05", "exp05_"])
def test_a_folder_without_a_word_is_named(name):
    with pytest.raises(params.ParameterError, match=f"{name} must be named by a key and a word"):
        experiments.key_of(name)


def test_datasets_that_nobody_declares_are_named():
    assert set(experiments.variables("exp11_steps")) and experiments.variables("exp99") == {}
    for name in ("exp11_more_steps", "exp07_0g_steps"):
        with pytest.raises(params.ParameterError, match=f"declares no dataset '{name}'"):
            experiments.variables(name)


SHAPES = {
    "missing": ("", [], "weights/x of ann is missing; put a whole checkpoint there or correct its path"),
    "a file": ("file", [], "is a file: give the folder"),
    "nothing in it": ("folder", [], "holds no weights: no model.safetensors"),
    "another format": ("folder", ["config.json", "x.gguf"], "holds x.gguf, but no model.safetensors"),
    "LoRA": ("folder", ["adapter_config.json", "adapter_model.safetensors"], "LoRA adapter.*`nbh add`"),
    "LoRA beside a model": (
        "folder",
        ["config.json", "model.safetensors", "adapter_config.json"],
        "holds both model.safetensors and adapter_config.json: move away the files of the one that is not meant",
    ),
    "no configuration": ("folder", ["pytorch_model.bin"], "lacks config.json"),
    "a shard lost": ("index", ["config.json", "model-1.safetensors"], "lacks model-2.safetensors"),
    "a broken index": ("folder", ["config.json", "model.safetensors.index.json"], "no whole index"),
}


def lay(folder, kind, names):
    """Make a path what a user may give as a checkpoint."""
    if kind == "file":
        folder.write_text("")
    elif kind:
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text("")
    if kind == "index":
        files = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


@pytest.mark.parametrize("kind, names, sentence", SHAPES.values(), ids=SHAPES)
def test_what_a_checkpoint_lacks_is_said_as_it_is(project, kind, names, sentence):
    lay(project / "weights/x", kind, names)
    with pytest.raises(params.ParameterError, match=sentence) as error:
        params.require(params.Checkpoint(path="weights/x"), "ann")
    assert "make pocket" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("names", [["pytorch_model.bin"], ["model.safetensors"]])
def test_whole_checkpoints_are_accepted(project, names):
    lay(project / "weights/x", "folder", [*names, "config.json"])
    checkpoint = params.Checkpoint(path="weights/x")
    assert params.require(checkpoint, "ann") is checkpoint


def test_only_shipped_checkpoints_are_restored_with_git(project):
    with pytest.raises(
        params.ParameterError, match="is missing; restore it with `git checkout .*make pocket"
    ):
        params.require(params.Checkpoint(path="pocket/checkpoints/ann/pt"), "ann")


def test_a_checkpoint_may_lie_anywhere(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lay(tmp_path / "elsewhere", "folder", ["config.json", "model.safetensors"])
    for path in (str(tmp_path / "elsewhere"), "~/elsewhere", "../elsewhere"):
        checkpoint = params.Checkpoint(path=path)
        assert checkpoint.folder.samefile(tmp_path / "elsewhere")
        assert params.require(checkpoint, "ann") is checkpoint and len(checkpoint.files) == 2
        text = (project / "params/models/ann.yml").read_text().replace("weights/ann", path)
        (project / "params/models/bob.yml").write_text(text.replace("key: ann", "key: bob"))
        read = graph.measure_inputs("exp90", "bob", "pocket")
        assert all((project / name).exists() for name in read)
        assert sum("elsewhere" in name for name in read) == 4


def test_what_decides_what_a_model_computes_counts_in_its_version(project):
    folder = project / "weights/x"
    names = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "vocab.json"]
    lay(folder, "folder", [*names, "merges.txt", "chat_template.jinja", "pytorch_model.bin"])
    checkpoint = params.Checkpoint(path="weights/x")
    for path in sorted(folder.iterdir()):
        before = checkpoint.version
        path.write_text("changed")
        assert checkpoint.version != before, path.name
    for name in ("README.md", "optimizer.bin", "training_args.bin"):
        before = checkpoint.version
        (folder / name).write_text("new")
        assert checkpoint.version == before
    (folder / "model.safetensors").write_text("new")
    assert folder / "pytorch_model.bin" not in checkpoint.files  # not what `transformers` would read


def test_a_profile_takes_its_sizes_from_another(project):
    path = project / "params/profiles/own.yml"
    path.write_text("name: own\ntitle: t\nmodels: [ann]\nprompts: p\nsizes_of: pocket\n")
    assert experiments.experiment_params("exp90", "own").n_prompts == 4
    file = project / "params/experiments/exp90.yml"
    file.write_text(file.read_text() + "  own: {n_prompts: 3}\n")
    found = experiments.experiment_params("exp90", "own")
    assert (found.n_prompts, found.max_new_tokens) == (3, 4)
    path.write_text(path.read_text().replace("pocket", "poket"))
    with pytest.raises(params.ParameterError, match="own.yml: there is no profile 'poket'; did you mean"):
        experiments.experiment_params("exp90", "own")
