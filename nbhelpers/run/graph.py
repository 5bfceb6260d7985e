"""The graph of experiments and models: the version of each step, and the Snakemake run of all steps.

The Snakefile asks this module for the version of each step, a digest of the content that the step's result depends
on. A fresh clone, a touched file or an edited comment does not change it. How a notebook runs is not known here.
"""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.run import notebooks, warm
from nbhelpers.run.versions import compare_version, measure_version

TARGETS = ("all", "compared", "measured")
TOTAL = re.compile(r"^total +(\d+)$")
STEP = re.compile(r"^(\d+) of (\d+) steps")


def measure_inputs(key: str, model: str, profile: str) -> list[str]:
    """Return the files that one experiment on one model reads, as paths from the repository's root where they lie in it."""
    pair = params.model_params(model)
    run = experiments.resolve(key, model=model, profile=profile)
    files = [notebooks.notebook_path(params.experiment(key).notebook), *pair.pt.files, *pair.it.files]
    files += [path for path in run.files if path.exists()]  # the notebook itself reports a missing file
    named = (("models", model), ("profiles", profile), ("experiments", key))
    files += [params.ROOT / "params" / kind / f"{name}.yml" for kind, name in named]
    return [store.shown(path) for path in files]


def steps(profile: str) -> list[tuple[str, str]]:
    """Return the (experiment, model) pairs of a profile."""
    chosen = params.profile_params(profile)
    return [(key, model) for key in params.ordered() for model in chosen.models]


def bring_up(run: params.Run) -> None:
    """Measure the missing or outdated results that a run needs, each after those that it needs itself."""
    for key in params.ordered(list(run.upstream)):
        needed = experiments.resolve(key, model=run.model.key, profile=run.profile.name)
        path = store.result_path(run.profile.name, run.model.key, key)
        if not path.exists() or _fault(path, needed):
            print(f"{run.key} needs {key} on {run.model.key}: running it first", flush=True)
            notebooks.measure(needed, version=measure_version(needed))


def discard_stale(profile: str) -> list[str]:
    """Return one sentence for each damaged or outdated result, after removing it and outdated executed notebooks.

    Snakemake knows only the versions of what it ran itself; this also checks what `nbh run` or an open notebook
    wrote.
    """
    said = []
    for key, model in steps(profile):
        run = experiments.resolve(key, model=model, profile=profile)
        path = store.result_path(profile, model, key)
        if path.exists() and (fault := _fault(path, run)):
            said.append(f"{key} · {model}: {fault}")
            path.unlink()
        executed = notebooks.executed_path(profile, params.experiment(key).notebook, model)
        _discard(executed, measure_version(run))
    for key in params.ordered():
        if across := params.experiment(key).across:
            _discard(notebooks.executed_path(profile, across), compare_version(key))
    return said


def _fault(path: Path, run: params.Run) -> str:
    """Return the fault of a result; "" if there is none."""
    for name in params.experiment(run.key).artifacts:
        if not path.with_name(name).exists():
            return f"its {name} is missing; measuring anew."
    try:
        found = store.attributes(path, experiment=run.key, expects=experiments.variables(run.key))
        found = found["parameter_hash"]
    except store.ResultError as error:
        return f"{error} Measuring anew."
    return "" if found == run.hash else "made with other parameters or weights; measuring anew."


def _discard(executed: Path, version: str) -> None:
    """Remove an executed notebook that has another version, so that its step runs again."""
    if executed.exists() and notebooks.version_of(executed) != version:
        executed.unlink()


@contextlib.contextmanager
def sole_batch() -> Iterator[Path]:
    """Yield the lock file of this repository's batch, after ending the processes that a killed batch left running."""
    path = params.ROOT / "_build" / "batch.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise notebooks.BatchError(
                "another batch runs in this repository; wait for it or stop it."
            ) from None
        end_group(int(path.read_text() or 0))
        yield path
        path.write_text("")


def _members(kind: Callable[[int], int], leader: int) -> list[psutil.Process]:
    """Return the processes of a process group (kind os.getpgid) or session (os.getsid) that work in this repository."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if kind(process.pid) == leader and process.cwd() == str(params.ROOT):
                found.append(process)
    return found


def end_group(group: int, patience: float = 10) -> None:
    """End a batch's processes that work in this repository: interrupt its group, then kill what is left of its session.

    Processes that were started warm have groups of their own; their clients (`warm`) pass the interrupt on to them.
    """
    if group <= 0:
        return
    asked = _members(os.getpgid, group)
    for process in asked:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGINT)
    psutil.wait_procs(asked, timeout=patience)
    for process in _members(os.getsid, group):
        with contextlib.suppress(psutil.Error):
            process.kill()


def command(profile: str, cores: int, gpus: int, target: str) -> list[str]:
    """Return the Snakemake command."""
    call = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        "Snakefile",
        "--cores",
        str(cores),
        "--keep-going",
    ]
    call += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "params", "input", "code"]
    call += ["--max-checksum-file-size", "1GB", "--config", f"profile={profile}"]
    call += ["--resources", f"gpu={gpus}"] if gpus else []
    return [*call, "--", target]


def _environment(profile: str) -> dict[str, str]:
    """Return the environment of the graph's jobs: the settings of their runs, with this interpreter as `python`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    chosen = params.profile_params(profile)
    pairs = [params.model_params(model) for model in chosen.models]
    settings = notebooks.settings(chosen, local=not any(pair.pt.hub or pair.it.hub for pair in pairs))
    return os.environ | settings | {"PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def run(profile: str, *, cores: int, gpus: int = 0, target: str = "all") -> bool:
    """Return whether every step of a profile's graph is done; a line is printed for each finished step.

    `target` is "measured" (the datasets), "compared" (also the across-model notebooks) or "all" (also the book). A
    step that fails leaves its partial notebook and does not stop the others. After a kill at any moment, the next call
    runs what is missing. The whole log is `_build/batch.log`.
    """
    with sole_batch() as lock:
        for sentence in discard_stale(profile):
            print(sentence, flush=True)
        call = command(profile, cores, gpus, target)
        job = subprocess.Popen(
            # A process that has used a GPU must not be forked; besides, GPU runs take much longer than the imports.
            call if gpus else warm.with_server(call), cwd=params.ROOT, env=_environment(profile),
            encoding="utf-8", errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        lock.write_text(str(job.pid))
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return follow(job)
        except KeyboardInterrupt:
            print("stopped; the same command takes up what is missing.", flush=True)
            raise
        finally:
            end_group(job.pid)
            signal.signal(signal.SIGTERM, before)


def follow(job: subprocess.Popen) -> bool:
    """Return whether a Snakemake process succeeded, after printing its steps as they finished."""
    start, waiting, failures, tail = time.time(), [], [], []
    with open(params.ROOT / "_build" / "batch.log", "w", encoding="utf-8") as log:
        for line in job.stdout:
            log.write(line)
            log.flush()
            tail = (tail + [line.rstrip()])[-15:]
            text, step = line.removeprefix(notebooks.MARK).strip(), STEP.match(line)
            if line.startswith(f"{notebooks.MARK} ✘"):
                failures.append(text)
                print(text, flush=True)
            elif line.startswith(notebooks.MARK):
                waiting.append(text)
            elif total := TOTAL.match(line):
                print(f"to run: {int(total[1]) - 1}", flush=True)
            elif line.startswith("Nothing to be done"):
                print("nothing to run: every result is up to date", flush=True)
            elif step and waiting:
                # Snakemake counts the target itself as its last step; we do not.
                print(f"[{step[1]}/{int(step[2]) - 1}] {waiting.pop(0)}", flush=True)
    done = job.wait() == 0
    if not done and not failures:
        print("\n".join(tail))
    if not done:
        print(f"{len(failures) or 'some'} failed after {time.time() - start:.0f} s; log: _build/batch.log.")
    return done
