"""The command that a batch gives to Snakemake, and what it reads from the log of a cluster, whose jobs print elsewhere."""

import pytest

from nbhelpers.core.params import ParameterError
from nbhelpers.run import graph

LOG = """
rule exp09_measure:
    jobid: 3
    wildcards: model=llama_pocket
rule exp09_across:
    jobid: 7
localrule all:
    jobid: 0
""".splitlines()


def pair_after(call, name):
    """The word that follows another in a command."""
    return call[call.index(name) + 1]


def test_a_local_batch_takes_cores_and_a_cluster_jobs():
    here, there = (graph.command("pocket", 4, 0, "all", name) for name in ("local", "slurm"))
    assert pair_after(here, "--cores") == "4" and "--jobs" not in here and "--executor" not in here
    assert pair_after(there, "--jobs") == "4" and pair_after(there, "--executor") == "slurm"
    assert "--cores" not in there and "--slurm-status-attempts" in there
    assert "--slurm-status-attempts" not in graph.command("pocket", 4, 0, "all", "dryrun")
    assert pair_after(graph.command("paper", 4, 2, "all"), "--resources") == "gpu=2"


def test_snakemakes_own_options_win_but_for_the_profile():
    call = graph.command("pocket", 4, 0, "all", "slurm", ["--jobs", "12", "--config", "profile=other"])
    assert [call[i + 1] for i, word in enumerate(call) if word == "--jobs"] == [
        "4",
        "12",
    ]  # the last one counts
    assert [call[i + 1] for i, word in enumerate(call) if word == "--config"][-1] == "profile=!!str pocket"
    assert call[-2:] == ["--", "all"]


def test_words_that_are_no_options_are_refused():
    graph.require_target("measured", ["--jobs", "12"])
    with pytest.raises(ParameterError, match="'jobs' is no option; Snakemake's own stand after `--`"):
        graph.require_target("all", ["jobs", "12"])
    with pytest.raises(ParameterError, match="no target 'everything'"):
        graph.require_target("everything", [])


@pytest.mark.parametrize(
    ("number", "said"), [("3", "exp09 · llama_pocket"), ("7", "exp09 · all models"), ("0", ""), ("5", "")]
)
def test_the_log_says_which_job_ended(number, said):
    jobs = {}
    for line in [*LOG, f"Finished jobid: {number} (Rule: whatever)"]:
        graph.note_job(line, jobs)
    assert jobs["done"] == said
