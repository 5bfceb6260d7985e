"""Estimates of cost: hand-worked counts, and a dry run that lists everything, loads nothing and asks no network."""

import json
import math
import re
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from nbhelpers import experiments
from nbhelpers.core import cost as memory
from nbhelpers.core import params
from nbhelpers.core.cost import PROMPT_TOKENS, Cost
from nbhelpers.core.schemas import Size, Texts
from nbhelpers.experiments.exp00_observations import experiment as exp00_experiment
from nbhelpers.run import estimate, graph, kernels
from tests.stubs import REPOSITORY


def cost(key, model="llama_pocket", **own):
    """What one run takes."""
    return estimate.cost(experiments.resolve(key, model=model, **own))


def test_exp00_by_hand():
    """Both models write 10 × 8 tokens in 3 batches of 4 prompts; each reads both texts, and 20 cloud prompts in two forms."""
    found = cost("exp00", n_prompts=10, max_new_tokens=8, batch_size=4, n_cloud_prompts=20, lens_rows=64)
    assert (found.prompts, found.generated, found.forced) == (10, 2 * 10 * 8, 2 * 2 * 10 * 8)
    assert found.forwards == 2 * 2 * 3 + 2 * 2 * 5
    # 12 numbers a lens and 8 without one, of 12 layers in either model, 4 bytes each, for each step of both texts.
    steps = 160 * 12 * 2 * (2 * 12 + 8) * 4
    assert (
        found.result == steps * 25 / 32
    )  # 23 bits of mantissa are kept, and two more are left of sign and exponent
    assert found.read == 4 * 2 * 160 * 12
    weights, lenses = 2 * (1_374_048 + 1000 * 96) * 4, 2 * 12 * 96 * 96 * 4
    # The longest prompt of the pocket set has 90 characters. Two batches' streams and a forward outweigh a stream, its
    # translation and the lens, and decoding.
    tensor, read_out, length = 12 * 4 * 8 * 96 * 4, 2 * 90 * 12 * 4 * 8, 90 / 4 + 24 + 8
    buffers = 4 * 1000 * (6 * 32 + 96)
    decoding = 4 * 13 * 4 * length * 64 + 4 * 4 * (3 * 256 + 3 * 96) + 3 * 4 * 4 * 1000
    batch = 2 * 4 * tensor + 4 * 4 * length * (3 * 256 + 3 * 96)
    assert max(decoding, 5 * tensor + read_out + buffers) < batch
    assert found.memory == pytest.approx(weights + lenses + batch)
    # On a processor the steps are joined, four copies at most, in memory that the last batch has left; clouds are smaller.
    tokenizers = 1000 * memory.TOKENS
    assert found.host == pytest.approx(tokenizers + max(steps, 4 * steps - batch))


def test_a_steps_numbers_are_those_of_the_schema():
    sizes = {"variant": 2, "lens": 2, "component": 3, "layer": 1, "step": 1}
    per_step = [
        [sizes[dim] for dim in dims]
        for dims in (variable.dims for variable in experiments.variables("exp00").values())
        if {"layer", "step"} <= set(dims)
    ]
    counted = 0
    for dims in per_step:
        product = 1
        for size in dims:
            product *= size
        counted += product
    assert counted == 2 * (2 * exp00_experiment.PER_LENS + exp00_experiment.PER_STEP)


def test_the_tuned_lens_by_hand():
    own = dict(
        steps=5,
        tokens_per_step=100,
        n_validation_tokens=64,
        n_test_tokens=128,
        batch_size=4,
        max_text_tokens=32,
    )
    found = cost("exp07_0g", **own)
    tokens = 2 * (5 * 100 + 64 + 128)
    assert (found.prompts, found.generated, found.forced) == (0, 0, tokens)
    assert found.forwards == -(-tokens // (4 * 32))
    assert found.result == 2 * 12 * 96 * 96 * 4
    # Four passes pooled, and the same mixed, unless a step takes them all.
    large = own | {"batch_size": 64}
    mixed, alone = cost("exp07_0g", **large), cost("exp07_0g", **large, pool=1)
    whole_step = cost("exp07_0g", **large | {"tokens_per_step": 8192}, lens_rows=100)
    one_pass = cost("exp07_0g", **large | {"tokens_per_step": 8192}, lens_rows=100, pool=1)
    assert mixed.memory - alone.memory == pytest.approx(12 * 96 * 4 * (8 - 1) * 64 * 32)
    assert whole_step.memory == one_pass.memory


@pytest.mark.parametrize("key, conditions, prompts", [("exp02", 3, 144)])
def test_an_experiment_that_generates_counts_its_conditions(key, conditions, prompts):
    found = cost(key, max_new_tokens=10, batch_size=16)
    assert found.prompts == prompts and found.generated == found.forced == conditions * prompts * 10
    assert found.forwards == conditions * 9


def test_exp01_forces_each_prompt_once_a_model():
    found = cost("exp01", n_prompts=30, batch_size=8)
    assert (found.generated, found.forwards) == (0, 2 * 4)
    assert found.forced == 2 * 30 * PROMPT_TOKENS


@pytest.mark.parametrize("key", ["exp03", "exp04", "exp07_0j", "exp09"])
def test_an_experiment_that_only_reads_holds_what_it_reads(key):
    assert cost(key) == estimate.Cost(host=2 * cost("exp00").result)


def test_a_models_cap_on_tokens_is_counted():
    run = experiments.resolve("exp00", model="deepseek_v2_lite")
    assert estimate.cost(run).generated == 2 * 2936 * 64


def test_sizes_of_a_local_checkpoint_are_read_from_its_headers():
    assert estimate.size_of(params.model_params("llama_pocket")) == Size(
        layers=12, width=96, vocabulary=1000, heads=6, parameters=1_374_048, inner=256, cached=2 * 2 * 16
    )


def test_the_cache_of_latent_attention_and_the_neurons_of_experts_are_counted():
    """DeepSeek's cache holds keys of 16 + 8 and values of 16 numbers a head; 2 + 2 experts act at once."""
    found = estimate.size_of(params.model_params("deepseek_pocket"))
    assert (found.cached, found.inner) == (4 * (16 + 8 + 16), 256)
    routed = {
        "moe_intermediate_size": 80,
        "num_experts_per_tok": 2,
        "n_shared_experts": 2,
        "intermediate_size": 256,
    }
    assert estimate.neurons(routed) == 4 * 80 and estimate.neurons({"intermediate_size": 9}) == 9
    assert estimate.neurons({}) is None


def test_prompts_that_are_here_are_measured_and_others_assumed(tmp_path, monkeypatch):
    monkeypatch.setattr(params, "ROOT", tmp_path)
    assert memory.prompt_tokens("few.jsonl") == PROMPT_TOKENS
    (tmp_path / "few.jsonl").write_text('{"text": "abcd"}\n{"text": "", "message": "12345678"}\n')
    assert memory.prompt_tokens("few.jsonl") == 8 / memory.CHARACTERS + memory.TEMPLATE
    assert memory.text_tokens(Texts(path="few.jsonl"), 100) == (4 + 0) / 2 / memory.CHARACTERS
    assert memory.text_tokens(Texts(hub="a/b"), 100) == 100
    (tmp_path / "bad.jsonl").write_text("[1]\n")
    assert memory.prompt_tokens("bad.jsonl") == PROMPT_TOKENS


@pytest.mark.parametrize("dtype, width", [("F32", 4), ("BF16", 2)])
def test_parameters_are_counted_whatever_their_precision(tmp_path, dtype, width):
    entry = {"dtype": dtype, "shape": [3, 5], "data_offsets": [0, 15 * width]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": entry}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(15 * width))
    assert estimate.n_parameters(path) == 15


WHOLE = {"num_hidden_layers": 2, "hidden_size": 4, "vocab_size": 9, "num_attention_heads": 2}


@pytest.mark.parametrize(
    "config", [None, "{}", "[]", "{", json.dumps(WHOLE | {"vocab_size": "nine"}), json.dumps(WHOLE)]
)
def test_sizes_that_nobody_tells_are_asked_for(project, config):
    file = project / "weights/ann/config.json"
    file.unlink() if config is None else file.write_text(config)
    lacking = "weights/ann is no checkpoint that states one" if config else "its checkpoint is not here"
    with pytest.raises(
        params.ParameterError, match=f"^params/models/ann.yml gives no size and {lacking}: add size"
    ):
        estimate.size_of(params.model_params("ann"))


@pytest.mark.parametrize(
    "n, said", [(0, "–"), (7, "7"), (9216, "9,216"), (56_700, "56.7 k"), (3.04e6, "3.0 M"), (2e9, "2.0 G")]
)
def test_amounts_are_short(n, said):
    assert estimate.amount(n) == said


@pytest.fixture
def offline(monkeypatch):
    """No socket can be opened."""

    def refuse(*_, **__):
        raise AssertionError("a dry run asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def cells(said):
    """The rows of a printed table as lists of words, the header and the last two sentences left out."""
    return [line.split() for line in said.splitlines()[1:-2]]


@pytest.mark.parametrize("profile", ["paper", "laptop", "pocket"])
def test_a_dry_run_lists_every_model_and_experiment(run_cli, offline, profile):
    status, said, _ = run_cli("run", "--dry-run", "--profile", profile)
    assert status == 0 and "nothing was loaded or run" in said.splitlines()[-1]
    expected = [[model, key] for model in params.profile_params(profile).models for key in params.ordered()]
    assert [row[:2] for row in cells(said)] == expected
    for model, key, hashed, *_ in cells(said):
        assert hashed == experiments.resolve(key, model=model, profile=profile).hash


def test_a_dry_run_loads_no_model_library():
    code = (
        "import sys; from nbhelpers import cli; sys.argv = ['nbh', 'run', '--dry-run', '--profile', 'paper']\n"
        "try: cli.main()\nexcept SystemExit: print({'torch', 'nnsight', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "set()" and "gemma3_4b" in done.stdout


def test_a_dry_run_of_one_experiment_lists_what_it_needs_too(run_cli):
    _, said, _ = run_cli("run", "exp09", "--dry-run", "--model", "olmo_pocket")
    assert [row[:2] for row in cells(said)] == [
        ["olmo_pocket", key] for key in ("exp07_0g", "exp00", "exp09")
    ]


def test_a_dry_run_counts_the_parameters_given(run_cli):
    _, said, _ = run_cli(
        "run", "exp00", "--dry-run", "-m", "llama_pocket", "-p", "n_prompts=10", "-p", "max_new_tokens=8"
    )
    model, key, hashed, prompts, generated, forced, *_ = cells(said)[-1]
    run = experiments.resolve("exp00", model="llama_pocket", n_prompts=10, max_new_tokens=8)
    assert (key, hashed, prompts, generated, forced) == ("exp00", run.hash, "10", "160", "320")


def test_the_columns_of_a_dry_run_stand_apart(run_cli):
    header, *rows = run_cli("run", "--dry-run", "--profile", "paper")[1].splitlines()[:-2]
    assert header.split()[:4] == ["model", "experiment", "parameters", "prompts"]
    assert all(len(row.split()) >= 11 for row in rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_of_bin_files_are_counted(tmp_path, dtype):
    folder = shutil.copytree(REPOSITORY / "pocket/checkpoints/llama/it", tmp_path / "it")
    whole = params.model_params("llama_pocket")
    own = whole.model_copy(update={"it": params.Checkpoint(path=str(folder))})
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}))
    found, counted = estimate.size_of(own).parameters, estimate.size_of(whole).parameters
    assert found == pytest.approx(counted, rel=0.05)


def test_operations_by_hand():
    size = Size(layers=2, width=10, vocabulary=50, heads=2, parameters=1000)
    assert estimate.flops(Cost(generated=3, forced=4, read=5.0), size) == 2 * 1000 * 7 + 2 * 50 * 10 * 5


def test_decoding_takes_as_long_as_its_weights_are_read():
    """By hand: 32 rows share one reading of two bytes a parameter."""
    run = experiments.resolve("exp00", model="llama31_8b")
    cost, size = estimate.cost(run), estimate.size_of(run.model)
    assert run.experiment.batch_size == 32 < cost.prompts and run.model.dtype == "bfloat16"
    read = cost.generated / 32 * 2 * size.parameters / 1e12  # seconds at 1 TB/s
    decoded = 2e-12 * size.parameters * cost.generated  # seconds at 1 TFLOPS
    others = 1e-12 * estimate.flops(cost, size) - decoded
    assert estimate.seconds(run, 1, 1) == pytest.approx(others + decoded)  # products take longer
    assert estimate.seconds(run, 300, 1) == pytest.approx(others / 300 + read)
    assert estimate.seconds(run, 300, 2) == pytest.approx(others / 300 + read / 2)
    assert read / 2 > decoded / 300


@pytest.mark.parametrize("placement", ["apart", "it_on_host"])
def test_a_pair_that_is_parted_leaves_its_gpu_one_models_weights(placement):
    run = experiments.resolve("exp11", model="llama31_8b")
    together, size = estimate.cost(run), estimate.size_of(run.model)
    model = run.model.model_copy(update={"placement": placement})
    parted = estimate.placed(run.model_copy(update={"model": model}), size, together)
    it = 2 * (size.parameters + size.vocabulary * size.width)
    assert together.memory - parted.memory == it
    assert parted.host - together.host == (it if placement == "it_on_host" else 0)


@pytest.mark.parametrize("seconds, said", [(40, "40 s"), (700, "12 min"), (12240, "3.4 h")])
def test_times_are_short(seconds, said):
    assert estimate.duration(seconds) == said


def test_the_sums_of_a_dry_run_follow_the_rate(run_cli):
    """Half the rate takes twice the time; weights of pairs that are here are not downloaded."""
    slow, fast = (
        run_cli("run", "exp00", "--dry-run", "-m", "llama31_8b", "--rate", rate)[1].splitlines()
        for rate in ("100", "200")
    )
    assert "at 100 TFLOPS" in slow[-2] and "at 200 TFLOPS" in fast[-2]
    run = experiments.resolve("exp11", model="llama31_8b")  # which decodes nothing
    assert estimate.seconds(run, 100) == pytest.approx(2 * estimate.seconds(run, 200))
    _, said, _ = run_cli("run", "exp00", "--dry-run", "-m", "llama_pocket")
    assert "0.0 GiB of weights" in said.splitlines()[-2]


def test_a_gpu_profile_parts_its_memory_and_a_cpu_profile_has_none(run_cli):
    paper, pocket = (
        cells(run_cli("run", "exp00", "--dry-run", "-m", model)[1])[-1]
        for model in ("llama31_8b", "llama_pocket")
    )
    assert paper[-6:][0::2][0] and paper.count("GiB") == 3 and pocket.count("GiB") == 2 and "–" in pocket


@pytest.mark.parametrize(
    "model", ["gemma3_4b", "llama31_8b", "qwen3_4b", "mistral_7b", "deepseek_v2_lite", "olmo2_7b"]
)
def test_grafts_fit_a_card_of_75_gib(model):
    found = estimate.cost(experiments.resolve("exp11", model=model))
    assert found.memory < 75 * 2**30 and found.host < 5 * 2**30


def test_the_readme_says_what_the_dry_run_says(run_cli):
    said = run_cli("run", "--dry-run", "--profile", "paper")[1].splitlines()
    memory = [re.findall(r"([\d.]+) GiB", line) for line in said[1:-2] if line.count("GiB") == 3]
    gpu, host = (math.ceil(max(float(row[k]) for row in memory)) for k in (0, 1))
    disk, weights, hours = map(math.ceil, map(float, re.findall(r"([\d.]+) (?:GiB|h )", said[-2])[:3]))
    section = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("## The paper's six models")[1]
    for words in (f"{weights} GiB of disk for weights and {disk} GiB for results", f"at most {gpu} GiB are held",
                  f"{host} GiB of host memory", f"{hours} hours of matrix products at 300 TFLOPS"):  # fmt: skip
        assert words in " ".join(section.split()), words


def test_a_scheduler_is_asked_for_the_estimate_and_more(monkeypatch):
    """On a GPU the host holds blocks alone; without one it holds the models too. Long runs get eight times their products."""
    graph.asked.cache_clear()
    assert graph.asked("exp11", "llama31_8b", "paper") == graph.LEAST  # on this machine nobody is asked
    monkeypatch.setenv(kernels.SCHEDULER, "slurm")
    graph.asked.cache_clear()
    run = experiments.resolve("exp11", model="llama31_8b")
    found, cost = graph.asked("exp11", "llama31_8b", "paper"), estimate.cost(run)
    assert found["mem_mb"] == 2000 + math.ceil(1.25 * cost.host / 2**20) < 9000
    assert found["runtime"] == math.ceil(8 * estimate.seconds(run) / 60) > 240
    small = graph.asked("exp11", "llama_pocket", "pocket")
    whole = estimate.cost(experiments.resolve("exp11", model="llama_pocket"))
    assert small == {"mem_mb": 2000 + math.ceil(1.25 * (whole.host + whole.memory) / 2**20), "runtime": 240}
    assert graph.asked("exp11", "nothing_here", "pocket") == graph.LEAST
    graph.asked.cache_clear()
