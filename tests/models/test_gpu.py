"""What runs on a GPU beside the same on the CPU: generation in bfloat16, float32 and compiled lens, capture, grafts."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from nbhelpers.core import depths
from nbhelpers.core.params import model_params
from nbhelpers.measures import forced_tokens, lens, steering
from nbhelpers.measures.arms import GRAFTS, Arm
from nbhelpers.models import conditions, forward, generation, prompts
from nbhelpers.models.loading import load_pair
from nbhelpers.models.unembedding import Unembedding
from tests.stubs import REPOSITORY

DEVICE = "cuda"


def on_gpu(test):
    """Mark a test that runs where a GPU is, and is skipped elsewhere."""
    here = torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(not here, reason="there is no GPU that PyTorch can use")(test))


def pair(**changes):
    """Pocket Llama, where and as its parameters say."""
    return load_pair(model_params("llama_pocket").model_copy(update=changes))


def written(decoder, n=6, tokens=12):
    """Prompts as the decoder reads them, and what it writes."""
    ids = prompts.render(decoder, prompts.load_prompts("pocket/prompts.jsonl", n))
    return ids, generation.generate(decoder, ids, max_new_tokens=tokens, batch_size=4)


def streams_of(decoder, ids, made):
    """The only batch of a forced pass."""
    ((batch, stream),) = forward.replay(decoder, ids, made, batch_size=len(ids))
    return batch, stream


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@on_gpu
def test_a_gpu_writes_what_its_forced_pass_expects(dtype):
    """Each token is the forced pass's best up to rounding; in float32 the text is the CPU's."""
    there = pair(device_map="auto", dtype=dtype).it
    assert there.module.device.type == DEVICE
    ids, made = written(there)
    if dtype == "float32":
        assert made == written(pair().it)[1]
    batch, stream = streams_of(there, ids, made)
    lens.check_identity(stream.last_residual, stream.last_logits, there.unembedding)
    found = lens.lens_metrics(
        stream.residual, there.unembedding, metrics=("top1", "top1_probability", "target_log_probability"),
        targets=batch.targets.to(there.module.device),
    )  # fmt: skip
    gap = found["top1_probability"][-1].log() - found["target_log_probability"][-1]
    of = (found["top1"][-1].cpu().numpy(), batch.targets.numpy(), gap.cpu().numpy())
    lens.greedy_ties(*of, there.module.dtype, "the GPU")  # raises where rounding cannot be the reason


@pytest.mark.parametrize("compile", [False, True])
@on_gpu
def test_the_lens_of_a_gpu_is_that_of_the_cpu(compile):
    draw = torch.Generator().manual_seed(0)
    residual = list(torch.randn(4, 70, 32, generator=draw).cumsum(0))
    weight, targets = torch.randn(5000, 32, generator=draw), torch.randint(5000, (70,), generator=draw)
    metrics = (*lens.METRICS, "target_log_probability", "target_rank")

    def read(device, **how):
        unembedding = Unembedding(
            torch.nn.RMSNorm(32).to(device), weight.to(device), torch.arange(5000, device=device)
        )
        given = [h.to(device) for h in residual]
        return lens.lens_metrics(given, unembedding, metrics=metrics, targets=targets.to(device), **how)

    here, there = read("cpu"), read(DEVICE, compile=compile, rows=32)
    for name, values in here.items():
        np.testing.assert_allclose(there[name].cpu(), values, rtol=2e-4, atol=2e-4, err_msg=name)


def grafted(both):
    """The last residual under grafts, whole forwards; what all hosts write under grafts, decoded together."""
    raw, _ = written(both.pt)
    chat, made = written(both.it)
    batch = forced_tokens.matched_batch(range(len(made)), {"raw": raw, "chat": chat}, made, both.pt.pad_id)
    streams = forced_tokens.streams(both, batch, conditions.control_conditions(both.n_layers), 0)
    found = {condition.name: stream.residual[-1].cpu() for condition, stream in streams}
    late = tuple(depths.windows(both.n_layers)["late"])
    arms = [Arm(f"{host} {c}", host=host, change=c, layers=late) for host in ("pt", "it") for c in GRAFTS]
    wrote = steering.written(
        both, arms, prompts.load_prompts("pocket/prompts.jsonl", 4), {}, max_new_tokens=8
    )
    return found, wrote["ids"].values.tolist()


@pytest.mark.parametrize("placement", ["together", "it_on_host", "apart"])
@on_gpu
def test_grafts_of_a_gpu_are_those_of_the_cpu(placement):
    """Also with PT on the GPU and IT in the host's memory, and on two GPUs where there are two."""
    if placement == "apart" and torch.cuda.device_count() < 2:
        pytest.skip("there are no two GPUs")
    (here, own), (there, wrote) = grafted(pair()), grafted(pair(device_map="auto", placement=placement))
    assert here.keys() == there.keys() and wrote == own
    for name, values in here.items():
        np.testing.assert_allclose(there[name], values, rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.slow
def test_the_script_for_a_gpu_runs(tmp_path):
    """Its figures mean nothing at this size; all of them are there."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, "tests/bench/gpu.py", "--small", "--shapes", "llama31_8b", "--out", str(out)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for what in (
        "generation, tokens a second",
        "capture",
        "lens, compiled",
        "tuned lens, step",
        "grafts, forwards",
    ):
        assert what in out.read_text() and what in done.stdout
