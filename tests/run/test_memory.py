"""The dry run's memory beside the peaks of real steps: a pocket pair, one of another architecture, one of many words."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stubs import REPOSITORY

PAIRS, KEYS = ["random_words", "gemma2", "llama_pocket"], ["exp12", "exp01"]
LINE = re.compile(r"(\w+) +(exp\w+) +([\d.]+) +([\d.]+) +([\d.]+)")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read as Linux gives them")
def test_the_dry_run_says_what_steps_hold():
    """Within 25 % of the peak beside libraries, or 64 MiB of a small one; `bench_memory` says which lines missed."""
    command = [sys.executable, "tests/bench/bench_memory.py", "--pairs", *PAIRS, "--keys", *KEYS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    found = LINE.findall(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert [(pair, key) for pair, key, *_ in found] == [(pair, key) for pair in PAIRS for key in KEYS]
    assert max(float(held) for *_, held, _ in found) > 300  # MiB: not all are too small to tell
