"""A batch on a real Slurm of two nodes: a job is requeued, one killed, a node drained, the controller restarted."""

import os
import shutil
import subprocess
import sys
import time

import pytest
import xarray as xr
import yaml

from tests.slurm import cluster
from tests.stubs import REPOSITORY

MODELS = ["llama_pocket", "qwen_pocket"]
SIZES = {
    "exp07_0g": {
        "corpus": {"path": "pocket/corpus.jsonl"}, "steps": 2, "tokens_per_step": 64, "batch_size": 2, "validate_every": 2,
        "max_text_tokens": 32, "n_validation_tokens": 64, "n_test_tokens": 64, "pool": 1,
    },
    "exp00": {"n_prompts": 12, "max_new_tokens": 8, "batch_size": 6, "n_cloud_prompts": 48},
    "exp01": {"n_prompts": 6, "batch_size": 6, "n_neurons": 20},
    "exp09": {},
}  # fmt: skip
# Two jobs at once, one a node; a job that fails is tried twice; ask Slurm often, since jobs are short.
# This Slurm keeps no accounts, so sacct knows nothing.
OPTIONS = [
    "--jobs", "2", "--retries", "2", "--slurm-requeue", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "2",
]  # fmt: skip
OWN = {"created", "wall_time_s"}  # attributes of a run, not of what it measured


def made(root):
    """Return the root of a project with four experiments at small sizes on two pocket pairs."""
    for name in ("params", "notebooks"):
        shutil.copytree(REPOSITORY / name, root / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, root)
    (root / "pocket").symlink_to(REPOSITORY / "pocket")
    for path in (root / "params/experiments").iterdir():
        if path.stem not in SIZES:
            path.unlink()
            continue
        values = yaml.safe_load(path.read_text())
        values.setdefault("profiles", {}).setdefault("pocket", {}).update(SIZES[path.stem])
        path.write_text(yaml.safe_dump(values, sort_keys=False))
    path = root / "params/profiles/pocket.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"models": MODELS}))
    return root


def start_batch(root, environment, *options):
    """Return a running `nbh batch` that measures a project; what it prints goes to said.txt."""
    words = [sys.executable, "-m", "nbhelpers", "batch", "--target", "measured", *options]
    variables = environment | {"NBHELPERS_ROOT": str(root), "PYTHONPATH": str(REPOSITORY)}
    with open(root / "said.txt", "w") as said:
        return subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, env=variables, cwd=root)


def results(root):
    """Return {file: its dataset without what is of the run alone}."""
    found = {}
    for path in sorted((root / "_build/results").rglob("*.nc")):
        with xr.open_dataset(path) as opened:
            found[str(path.relative_to(root))] = opened.load().drop_attrs(deep=False).assign_attrs(
                {name: value for name, value in opened.attrs.items() if name not in OWN}
            )  # fmt: skip
    return found


@pytest.fixture
def slurm(tmp_path_factory):
    """Return a running cluster of two nodes of one core; skip with a sentence where there can be none."""
    try:
        cluster.require(install=os.environ.get("NBH_INSTALL_SLURM") == "1")
        with cluster.running(tmp_path_factory.mktemp("slurm"), cores=1, memory=16000) as found:
            yield found
    except cluster.Unavailable as reason:
        pytest.skip(str(reason))


def one_running(slurm, batch, besides=()):
    """Return the id of a running job, once there is one."""

    def running():
        assert batch.poll() is None, "the batch ended early"
        return [job for job in slurm.jobs("RUNNING") if job not in besides]

    slurm.wait_for(running, "no job runs", 90)
    return running()[0]


@pytest.mark.slow
def test_a_batch_survives_what_happens_on_a_cluster(slurm, tmp_path):
    local, remote = made(tmp_path / "local"), made(tmp_path / "remote")
    assert start_batch(local, dict(os.environ)).wait(240) == 0, (local / "said.txt").read_text()

    batch = start_batch(remote, slurm.environment, "--executor", "slurm", "--", *OPTIONS)
    try:
        requeued = one_running(slurm, batch)
        slurm.say("scontrol", "requeue", requeued)
        slurm.wait_for(lambda: requeued not in slurm.jobs("RUNNING"), "a job is not requeued")

        slurm.say("scontrol", "update", "nodename=nbh2", "state=drain", "reason=test")
        slurm.wait_for(lambda: slurm.state("nbh2") == "drained", "a node is not drained", 60)
        killed = one_running(slurm, batch, {requeued})
        assert {node for node, _ in slurm.jobs("RUNNING").values()} == {"nbh1"}
        slurm.say("scancel", "--signal=KILL", "--full", killed)
        slurm.wait_for(lambda: killed in slurm.jobs("FAILED,CANCELLED"), "a job is not killed")
        slurm.say("scontrol", "update", "nodename=nbh2", "state=resume")

        one_running(slurm, batch)
        slurm.stop("slurmctld")
        time.sleep(3)
        slurm.start_controller()
        assert batch.wait(240) == 0, (remote / "said.txt").read_text()
        assert "Restarts=1" in slurm.say("scontrol", "show", "job", requeued)
    finally:
        batch.terminate()
        batch.wait(60)
    assert not slurm.jobs("RUNNING,PENDING") and slurm.say(
        "squeue", "--noheader", "--states=all", "--node=nbh2"
    )

    said = (remote / "said.txt").read_text()
    assert "exp09 · llama_pocket" in said and "exp01 · qwen_pocket" in said
    expected, found = results(local), results(remote)
    assert len(found) == len(MODELS) * len(SIZES) and found.keys() == expected.keys()
    for name, dataset in expected.items():
        xr.testing.assert_identical(found[name], dataset)
