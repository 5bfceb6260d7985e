"""Peak memory of each step beside what the dry run says, by experiment and pair; the estimate is to be within 25 %.

    python tests/bench/bench_memory.py                                    # the six pocket pairs
    python tests/bench/bench_memory.py --pairs llama_pocket --where       # and the lines that ran at each peak
    python tests/bench/bench_memory.py --pairs random_135m random_1b      # random weights at public shapes, few prompts

All steps run once at tiny sizes, which loads every library and the code of every kernel, and the heap is given back. Then
each step's measuring cells run in a fork of that process, in a scratch project. What it holds is the most that its anonymous
memory (RssAnon of Linux, read every 5 ms) grows by, arrays and Python's objects, and the files of weights that it maps.
Without a GPU this is to be the sum of the estimate's two columns. The last column is the growth of the peak of all resident
memory (VmHWM), to which files of libraries count too, some 50 MiB that the tiny sizes do not read.
The dry run takes every reply to reach its cap. Pocket models end most of theirs, so the estimate that is compared takes caps
as long as replies were; random weights never end one.
The C library maps arrays of 1 MiB or more on their own here, so that a freed one is gone; runs keep up to 256 MiB of freed
memory to be faster, which is no array's. `--as-run` leaves it to do so.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from nbhelpers import experiments  # noqa: E402
from nbhelpers.core import params  # noqa: E402
from nbhelpers.run import estimate, kernels, notebooks  # noqa: E402
from tests.bench import random_pairs  # noqa: E402

# Arrays of this size or more are mapped on their own, and gone when they are freed; no more than this is kept of a heap.
EXACT = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
BOUND, SLACK = 0.25, 64 * 2**20  # of the peak; bytes within which a small one may miss
POCKET = ["gemma_pocket", "llama_pocket", "qwen_pocket", "mistral_pocket", "deepseek_pocket", "olmo_pocket"]


@dataclass(frozen=True)
class Peak:
    """What one step held at most beside libraries, what the dry run says of it, and the peak with mapped files, in bytes.

    All are NaN of a step that failed; `where` then says why.
    """

    pair: str
    key: str
    held: float
    said: float
    whole: float
    where: str

    @property
    def close(self) -> bool:
        """Whether the estimate lies within the bound of the peak, or within the slack."""
        return abs(self.said - self.held) <= max(BOUND * self.held, SLACK)


def status(field: str) -> int:
    """Return a size that Linux states of this process, bytes."""
    (line,) = (
        each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(f"{field}:")
    )
    return 1024 * int(line.split()[1])


def mapped_weights() -> int:
    """Return how much of files of weights lies in this process's memory, bytes."""
    found, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[0] in "0123456789abcdef":
            counts = line.endswith((".safetensors", ".bin"))
        elif counts and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


def measuring_cells(key: str) -> list[str]:
    """Return the source of a notebook's cells up to the one that saves its result; the parameters cell is the first."""
    found = []
    for cell in notebooks.read(notebooks.notebook_path(params.experiment(key).notebook))["cells"]:
        if cell["cell_type"] == "code":
            found.append("".join(cell["source"]))
            if 'print(f"saved' in found[-1]:
                return found
    raise ValueError(f"no cell of {key}'s notebook saves its result")


def run_cells(key: str, model: str, profile: str) -> None:
    """Run a notebook's measuring cells on a pair in this process, with the sizes of a profile."""
    first, *rest = measuring_cells(key)
    names = {"__name__": "__main__"}
    exec(first, names)
    known = experiments.resolve(key, model=model, profile=profile).experiment.model_dump()
    names |= {name: known[name] for name in names.keys() & known.keys()} | {
        "model": model,
        "profile": profile,
    }
    for number, source in enumerate(rest, 2):
        exec(compile(source, f"{key} cell {number}", "exec"), names)


class Watch(threading.Thread):
    """Keeps the most anonymous memory that this process had, and the lines that ran then, looking every few milliseconds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.where, self.weights = status("RssAnon"), "", 0
        self.over, self.main = threading.Event(), threading.get_ident()

    def run(self) -> None:
        while not self.over.wait(0.005):
            now = status("RssAnon")
            if now > self.most + 2**20:
                frames = traceback.extract_stack(sys._current_frames()[self.main])
                own = [f for f in frames if "nbhelpers" in f.filename or " cell " in f.filename]
                self.where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(own[-6:]))
                self.weights = max(self.weights, mapped_weights())
            self.most = max(self.most, now)


def warm_up(keys: list[str]) -> None:
    """Run steps once at tiny sizes in this process, so that libraries and their code are in memory; then free the rest."""
    for key in params.ordered(keys):
        run_cells(key, random_pairs.WARM, random_pairs.TINY)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def measured(key: str, model: str, profile: str) -> dict:
    """Return the peaks of one step in this process, bytes beside what is resident, and the lines that ran at the first."""
    arrays, whole, watch = status("RssAnon"), status("VmRSS"), Watch()
    Path("/proc/self/clear_refs").write_text("5")
    watch.start()
    run_cells(key, model, profile)
    watch.over.set()
    return {
        "held": watch.most - arrays + watch.weights,
        "whole": status("VmHWM") - whole,
        "where": watch.where,
    }


def forked(work, *given):
    """Return what `work` returns in a fork of this process, which ends with it; RuntimeError if it failed."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            found = {"found": work(*given)}
        except BaseException:
            found = {"failed": traceback.format_exc()}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    answer = json.loads(said) if said else {"failed": "it was killed"}
    if "failed" in answer:
        raise RuntimeError(answer["failed"])
    return answer["found"]


def lengths(key: str, model: str, profile: str) -> tuple[int, int] | None:
    """Return the mean length of a step's replies, and that of the model whose are longer; None if it wrote none.

    Where a result does not keep the length of its replies, they are taken to be as long as IT's of exp00.
    """
    found, options = experiments.load(profile, model, key), experiments.schema(key).model_fields
    if "max_new_tokens" not in options:
        return None
    own = "n_tokens" in found
    whole = (
        found["n_tokens"] if own else experiments.load(profile, model, "exp00")["n_tokens"].sel(variant="it")
    )
    longer = whole.mean("prompt").max() if "variant" in whole.dims else whole.mean()
    return math.ceil(whole.mean()), math.ceil(longer)


def compared(keys: list[str], model: str, profile: str) -> Iterator[Peak]:
    """Yield the peak of each step of one pair, in an order in which each finds what it needs; a failed step ends nothing.

    Replies of a pocket pair are taken to be as long as they were (`lengths`), which other experiments read.
    """
    for key in params.ordered(keys):
        try:
            found, pocket = forked(measured, key, model, profile), random_pairs.shipped(model)
        except RuntimeError as error:
            yield Peak(model, key, math.nan, math.nan, math.nan, str(error).strip().splitlines()[-1])
            continue
        caps = lengths(key, model, profile) if pocket else None
        if caps:
            random_pairs.resize(params.ROOT, key, random_pairs.WRITTEN, {"max_new_tokens": caps[0]})
        counted = random_pairs.WRITTEN if pocket else profile
        cost = estimate.cost(experiments.resolve(key, model=model, profile=counted))
        if caps:
            random_pairs.resize(params.ROOT, key, random_pairs.WRITTEN, {"max_new_tokens": caps[1]})
        yield Peak(model, key, said=cost.memory + cost.host, **found)


def inside(root: Path, pairs: list[str], memory: dict[str, str]) -> int:
    """Return the exit status of this program, run on a scratch project with the settings of runs, but for `memory`."""
    random_pairs.project(root, pairs)
    settings = memory | dict.fromkeys(kernels.THREADS, "1")
    settings |= {"HF_HUB_OFFLINE": "1", "NBHELPERS_ROOT": str(root)}
    return subprocess.run([sys.executable, *sys.argv, "--inside"], env=os.environ | settings).returncode


def shown(peak: Peak, where: bool) -> str:
    """Return a line of the table; of a step that failed, why."""
    if math.isnan(peak.held):
        return f"{peak.pair:16}{peak.key:10}FAILED  {peak.where}"
    sizes = f"{peak.said / 2**20:9.1f}{peak.held / 2**20:9.1f}{peak.said / max(peak.held, 1):7.2f}{peak.whole / 2**20:9.1f}"
    return f"{peak.pair:16}{peak.key:10}{sizes}  {'' if peak.close else 'MISSED'}  {peak.where if where else ''}".rstrip()


def processor() -> str:
    """Return the name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=POCKET)
    parser.add_argument("--keys", nargs="+", help="experiments, with what they need; by default all")
    parser.add_argument("--where", action="store_true", help="say which lines ran at each peak")
    parser.add_argument("--as-run", action="store_true", help="keep freed memory as runs do")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.inside:
        with tempfile.TemporaryDirectory() as place:
            sys.exit(inside(Path(place), given.pairs, kernels.MEMORY if given.as_run else EXACT))
    print(
        f"estimate, peak beside libraries, their ratio, peak with mapped files (MiB); {processor()}, one thread",
        flush=True,
    )
    keys, found, said = params.ordered(given.keys), [], sys.stdout
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warm_up(keys)
        for pair in given.pairs:
            for peak in compared(keys, pair, random_pairs.profile(pair)):
                print(shown(peak, given.where), file=said, flush=True)
                found.append(peak)
    missed = sum(not peak.close for peak in found)
    print(f"{len(found) - missed} of {len(found)} within {BOUND:.0%} or {SLACK / 2**20:.0f} MiB")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
