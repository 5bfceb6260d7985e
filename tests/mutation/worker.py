"""A worker: a process with a copy of the tree, in which it plants one mutant after another."""

import multiprocessing
import queue
import tempfile
import time
from pathlib import Path

from tests.mutation import reach, runner
from tests.mutation.mutant import Mutant, Stale

ROOT = Path(__file__).resolve().parents[2]
# How many test files are tried, nearest first; and how many if slow tests and those that load a pocket pair are, too.
NEAREST, FARTHEST = 5, 8
# Outcome of the tests → status of the mutant. What cannot be run is never counted as killed.
STATUS = {"failed": "killed", "passed": "survived", "broken": "error", "timeout": "timeout"}


def try_mutant(mutant: Mutant, tree: Path, red: set[str], limit: float, whole: bool) -> dict:
    """Return the record of one mutant, planted in the tree and taken out again.

    red: test files that fail unharmed. whole: whether more files are run, and the slow tests in them.
    """
    path, start = tree / "nbhelpers" / mutant.file, time.monotonic()
    source = path.read_text(encoding="utf-8")
    try:
        path.write_text(mutant.planted(source), encoding="utf-8")
    except Stale as stale:
        return {"status": "stale", "said": str(stale), "seconds": 0}
    status, said = "error", "no test file reaches it"
    try:
        reached = reach.tests_of(ROOT, mutant.file, FARTHEST if whole else NEAREST)
        chosen = [name for name in (p.relative_to(ROOT).as_posix() for p in reached) if name not in red]
        if chosen:
            outcome, said = runner.run_tests(tree, chosen, quick=not whole, limit=(1 + 3 * whole) * limit)
            status = STATUS[outcome]
    finally:
        path.write_text(source, encoding="utf-8")
    return {"status": status, "said": said, "seconds": round(time.monotonic() - start, 1)}


def baseline(test: str, tree: Path, limit: float) -> dict:
    """Return the record of a test file on the unharmed tree."""
    start = time.monotonic()
    outcome, said = runner.run_tests(tree, [test], quick=True, limit=limit)
    return {"status": outcome, "said": said, "seconds": round(time.monotonic() - start, 1)}


def next_job(jobs):
    """Return the next job, None at the end; also None once the command that started this worker has gone."""
    while multiprocessing.parent_process().is_alive():
        try:
            return jobs.get(timeout=2)
        except queue.Empty:
            continue


def work(jobs, done, limit: float, whole: bool) -> None:
    """Do jobs until there are none: ("baseline", test) or ("mutant", mutant, red)."""
    runner.preload()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = runner.copied(ROOT, Path(folder).resolve())
        while (job := next_job(jobs)) is not None:
            kind, what, *more = job
            try:
                record = (
                    baseline(what, tree, limit)
                    if kind == "baseline"
                    else try_mutant(what, tree, *more, limit, whole)
                )
            except Exception as error:  # a fault of the harness is reported, never taken for a kill
                record = {"status": "error", "said": repr(error), "seconds": 0}
            done.put((what, record))
