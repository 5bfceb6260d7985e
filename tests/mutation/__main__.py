"""The command: plants every mutant in a copy of the tree, runs the tests that reach it, and reports what survives."""

import argparse
import hashlib
import json
import multiprocessing
import sys
import time
from collections import Counter

from tests.mutation import reach
from tests.mutation.mutant import Mutant
from tests.mutation.planted import MUTANTS
from tests.mutation.worker import FARTHEST, NEAREST, ROOT, work

RESULTS = ROOT / "_build/mutation/results.json"


def sha(*parts: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def digest(mutant: Mutant) -> tuple[str, str]:
    """Return digests of the mutant with its file, and of the tests: a kill stands with the first, a survivor with both."""
    tests = reach.tests_of(ROOT, mutant.file, FARTHEST)
    made = json.dumps(mutant.record).encode(), (ROOT / "nbhelpers" / mutant.file).read_bytes()
    return sha(*made), sha(*(path.read_bytes() for path in tests))


def unplanted_digest(test: str) -> str:
    """Return a digest of a test file, of the tests' helpers and of the package."""
    helpers = sorted([*(ROOT / "nbhelpers").rglob("*.py"), *(ROOT / "tests").glob("*.py")])
    return sha((ROOT / test).read_bytes(), *(path.read_bytes() for path in helpers))


def known(records: dict, mutant: Mutant, whole: bool) -> bool:
    """Return whether an earlier record of a mutant still stands."""
    record = records["mutants"].get(mutant.name)
    if record is None or record["status"] not in ("killed", "survived"):
        return False
    made, of_tests = digest(mutant)
    alike = record["tests"] == of_tests and (record["whole"] or not whole)
    return record["made"] == made and (record["status"] == "killed" or alike)


def through(workers, queues, jobs: list, report) -> None:
    """Give jobs to the workers, and each record, as it comes, to `report(what, record)`; RuntimeError if a worker dies."""
    todo, done = queues
    for job in jobs:
        todo.put(job)
    left = len(jobs)
    while left:
        if not done.empty():
            report(*done.get())
            left -= 1
        elif not all(process.is_alive() for process in workers):
            raise RuntimeError("a worker ended before its work was done; see its message above")
        else:
            time.sleep(0.1)


def write(records: dict) -> None:
    """Write the records, so that the next call takes up where this one was."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(records, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def run(chosen: list[Mutant], records: dict, options) -> None:
    """Try the chosen mutants and keep their records."""
    context = multiprocessing.get_context("spawn")
    # A queue with a thread of its own in the workers would not be safe: they fork.
    todo, done = queues = context.Queue(), context.SimpleQueue()
    arguments = (*queues, options.limit, options.whole)
    workers = [context.Process(target=work, args=arguments) for _ in range(options.workers)]
    for process in workers:
        process.start()
    near = {path for each in chosen for path in reach.tests_of(ROOT, each.file, NEAREST)}
    tests = {path.relative_to(ROOT).as_posix() for path in near}
    earlier = records["unharmed"]
    new = [t for t in sorted(tests) if earlier.get(t, {}).get("made") != unplanted_digest(t)]
    red = {t for t in tests.difference(new) if earlier[t]["status"] != "passed"}

    def unplanted(test, record):
        earlier[test] = record | {"made": unplanted_digest(test)}
        write(records)
        red.update([test] if record["status"] != "passed" else [])
        left_out = f", so left out: {record['said']}" if test in red else ""
        print(f"{record['status']:9}{record['seconds']:6.1f} s  unharmed: {test}{left_out}", flush=True)

    def tried(mutant, record):
        made, of_tests = digest(mutant)
        records["mutants"][mutant.name] = record | {"made": made, "tests": of_tests, "whole": options.whole}
        write(records)
        print(
            f"{record['status']:9}{record['seconds']:6.1f} s  {mutant.name}  | {record['said']}", flush=True
        )

    try:
        through(workers, queues, [("baseline", test) for test in new], unplanted)
        through(workers, queues, [("mutant", mutant, red) for mutant in chosen], tried)
    except BaseException:
        for process in workers:
            process.terminate()
        raise
    for _ in workers:
        todo.put(None)
    for process in workers:
        process.join()


def main() -> int:
    """Return 0 if every chosen mutant was killed, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutants whose file or fault has one of these words")
    parser.add_argument("--fresh", action="store_true", help="try again what an earlier call has tried")
    parser.add_argument(
        "--whole",
        action="store_true",
        help="run more files, and the slow tests in them: for what survives the quick ones",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes, each with a copy of the tree")
    parser.add_argument("--limit", type=float, default=120, help="seconds that the nearest tests may take")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.words or any(word in m.name for word in options.words)]
    records = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    records = {"unharmed": {}, "mutants": {}} | records
    new = [m for m in chosen if options.fresh or not known(records, m, options.whole)]
    print(f"{len(chosen)} mutants, {len(chosen) - len(new)} of them tried before.", flush=True)
    if new:
        run(new, records, options)
    return summary(chosen, records)


def summary(chosen: list[Mutant], records: dict) -> int:
    """Print how many mutants were killed, and every other one; return 0 if there is none."""
    of = {mutant.name: records["mutants"][mutant.name] for mutant in chosen}
    counts = Counter(record["status"] for record in of.values())
    left = {name: record for name, record in of.items() if record["status"] != "killed"}
    for name, record in left.items():
        print(f"{record['status']}: {name} ({record['said']})")
    print(
        f"{counts['killed']} of {len(of)} killed; " + ", ".join(f"{n} {s}" for s, n in sorted(counts.items()))
    )
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
