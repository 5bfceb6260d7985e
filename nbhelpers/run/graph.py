"""The graph of experiments and models: the version of each step, and the Snakemake run of all steps.

The Snakefile asks this module for the version of each step, a digest of the content that the step's result depends
on. A fresh clone, a touched file or an edited comment does not change it. How a notebook runs is not known here.
"""

import contextlib
import functools
import math
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from nbhelpers import experiments
from nbhelpers.core import digests, params, store
from nbhelpers.run import estimate, kernels, notebooks, results, warm
from nbhelpers.run.locks import require_writable, taken
from nbhelpers.run.versions import compare_version, measure_version, step_version

LOCAL = "local"  # the executor that runs steps on this machine
TARGETS = ("all", "compared", "measured")
TOTAL = re.compile(r"^total +(\d+)$")
JOB = re.compile(r"^(?:(?:local)?rule (?P<rule>\w+):|    jobid: (?P<job>\d+)|    wildcards: model=(?P<model>.+)"
                 r"|Finished jobid: (?P<done>\d+).*)$")  # fmt: skip
STEP = re.compile(r"^(\d+) of (\d+) steps")
LEAST = {"mem_mb": 2000, "runtime": 240}  # of every job of a cluster: MB and minutes
SLACK = 8  # times the estimated time that a job may take: decoding is far slower than its products
TOKEN = "NBHELPERS_BATCH_TOKEN"  # in the environment of all processes that a batch starts
WATCH = "import sys; sys.stdin.read(); from nbhelpers.run import graph; graph.end_group(int(sys.argv[1]), sys.argv[2])"


def measure_inputs(key: str, model: str, profile: str) -> list[str]:
    """Return the files that one experiment on one model reads, as paths from the repository's root where they lie in it.

    Without those with braces in their paths, which Snakemake would read as wildcards and cannot escape: a step's version
    is a digest of their content all the same.
    """
    pair = params.model_params(model)
    run = experiments.resolve(key, model=model, profile=profile)
    files = [notebooks.notebook_path(params.experiment(key).notebook), *pair.pt.files, *pair.it.files]
    files += [path for path in run.files if path.exists()]  # the notebook itself reports a missing file
    named = (("models", model), ("profiles", profile), ("experiments", key))
    files += [params.ROOT / "params" / kind / f"{name}.yml" for kind, name in named]
    return [path for path in map(store.shown, files) if not {"{", "}"} & set(path)]


@functools.cache
def asked(key: str, model: str, profile: str) -> dict[str, int]:
    """Return what a scheduler is asked for one step: mem_mb and runtime, minutes.

    Memory is the estimate of what the host holds and a quarter of it more, with the memory of Python and its libraries on
    top; runtime is `SLACK` times what `estimate.seconds` counts, which is not all. `LEAST` is the least of both,
    and all on this machine or where no estimate can be made.
    """
    if not os.environ.get(kernels.SCHEDULER):
        return LEAST
    try:
        run = experiments.resolve(key, model=model, profile=profile)
        cost, seconds = estimate.cost(run), estimate.seconds(run)
    except params.ParameterError:
        return LEAST
    held = cost.host + (0 if run.profile.gpus else cost.memory)  # with a GPU, the model lies there
    return {
        "mem_mb": LEAST["mem_mb"] + math.ceil(1.25 * held / 2**20),
        "runtime": max(LEAST["runtime"], math.ceil(SLACK * seconds / 60)),
    }


def steps(profile: str) -> list[tuple[str, str]]:
    """Return the (experiment, model) pairs of a profile."""
    chosen = params.profile_params(profile)
    return [(key, model) for key in params.ordered() for model in chosen.models]


def bring_up(run: params.Run) -> None:
    """Measure the missing or outdated results that a run needs, each after those that it needs itself."""
    for key in params.ordered(list(run.upstream)):
        needed = experiments.resolve(key, model=run.model.key, profile=run.profile.name)
        if results.fault(needed):
            print(f"{run.key} needs {key} on {run.model.key}: running it first", flush=True)
            notebooks.measure(needed, version=measure_version(needed), again=False)


def read_weights(models: list[str], least: int = 10**8) -> None:
    """Read the local weights of models whose digests are not kept yet, and say so where they hold `least` bytes or more."""
    pairs = [params.model_params(model) for model in models]
    folder = params.ROOT / "_build" / "digests"
    files = {each: each.stat().st_size for pair in pairs for each in [*pair.pt.files, *pair.it.files]
             if not digests.kept(each, folder)}  # fmt: skip
    large = [path for path, size in files.items() if size >= least / 10]
    for path in files if sum(files.values()) >= least else []:
        if path in large:
            place, size = f"{large.index(path) + 1} of {len(large)}", files[path] / 1e9
            print(f"reading weights {place}, {size:.1f} GB: {store.shown(path)}", flush=True)
        digests.sha256(path, folder)


def settle(profile: str) -> list[str]:
    """Return one sentence for each damaged or outdated file, after removing the stamps of all steps that must run.

    Steps that are done get their stamps, whoever ran them: Snakemake, `nbh run` or an open notebook.
    """
    said, known = [], {}
    for key, model in steps(profile):
        run = experiments.resolve(key, model=model, profile=profile)
        notebooks.require_prompts(run)
        fault, path = results.fault(run), store.result_path(profile, model, key)
        executed = results.executed_path(profile, params.experiment(key).notebook, model)
        ran = results.version_of(executed) == step_version(key, model, profile, known)
        if fault and os.path.lexists(path):
            said.append(f"{key} · {model}: {fault} Measuring anew.")
        elif _damaged(executed):
            said.append(f"{key} · {model}: {store.shown(executed)} is damaged. Measuring anew.")
        if ran and not fault:
            results.measured(run)
        else:
            names = (f"{key}.data", f"{key}.page")
            results.drop(*(results.stamp_path(profile, name, model) for name in names))
    for key in filter(lambda key: params.experiment(key).across, params.ordered()):
        executed = results.executed_path(profile, params.experiment(key).across)
        if results.version_of(executed) == compare_version(key):
            results.compared(key, profile)
        else:
            said += (
                [f"{key}: {store.shown(executed)} is damaged. Running it anew."] if _damaged(executed) else []
            )
            results.drop(results.stamp_path(profile, f"{key}.page"))
    if not (
        (params.ROOT / "_build/html/index.html").is_file() and results.holds(results.book_stamp(), profile)
    ):
        results.drop(results.book_stamp())
    return said


def outdated(profile: str) -> list[Path]:
    """Return the executed notebooks of a profile that are damaged or of other parameters, weights, sources or code."""
    wanted, known = {}, {}
    for key, model in steps(profile):
        executed = results.executed_path(profile, params.experiment(key).notebook, model)
        wanted[executed] = step_version(key, model, profile, known)
    for key in params.ordered():
        if across := params.experiment(key).across:
            wanted[results.executed_path(profile, across)] = compare_version(key)
    return [path for path, version in wanted.items() if results.version_of(path) != version]


def _damaged(executed: Path) -> bool:
    """Return whether an executed notebook is there but records no version of what it holds."""
    return os.path.lexists(executed) and results.version_of(executed) is None


@contextlib.contextmanager
def sole_batch() -> Iterator[Path]:
    """Yield the lock file of this repository's batch, after ending the processes that a killed batch left running."""
    path = params.ROOT / "_build" / "batch.lock"
    file = taken(path)
    if file is None:
        raise notebooks.BatchError("another batch runs in this repository; wait for it or stop it.")
    with file:
        # A number alone may be that of any process by now; the token is in the environment of the batch's own.
        if found := re.fullmatch(
            r"(\d{1,9}) ([0-9a-f]{32})", path.read_text(encoding="utf-8", errors="replace")
        ):
            end_group(int(found[1]), found[2])
        yield path
        path.write_text("")


def _members(kind: Callable[[int], int], leader: int, token: str) -> list[psutil.Process]:
    """Return the processes of a process group (kind os.getpgid) or session (os.getsid) that were started with a token."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if kind(process.pid) == leader and process.environ().get(TOKEN) == token:
                found.append(process)
    return found


def end_group(group: int, token: str, patience: float = 10) -> None:
    """End a batch's own processes: interrupt its group, then kill what is left of its session.

    Processes that were started warm have groups of their own; their clients (`warm`) pass the interrupt on to them.
    """
    asked = _members(os.getpgid, group, token)
    for process in asked:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGINT)
    psutil.wait_procs(asked, timeout=patience)
    for process in _members(os.getsid, group, token):
        with contextlib.suppress(psutil.Error):
            process.kill()


@contextlib.contextmanager
def outlived_by_none(group: int, token: str) -> Iterator[None]:
    """End a batch's processes if this one is killed inside the block: its end of a pipe closes, which a watcher waits for."""
    command = [sys.executable, "-c", WATCH, str(group), token]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=params.ROOT, start_new_session=True)
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()


def command(
    profile: str, cores: int, gpus: int, target: str, executor: str = LOCAL, options: Sequence[str] = ()
) -> list[str]:
    """Return the Snakemake command.

    cores: on this machine, or, with another executor, how many jobs are with the scheduler at once. options: Snakemake's own,
    which win over those given here but for the profile.
    """
    call = [sys.executable, "-m", "snakemake", "--snakefile", "Snakefile", "--keep-going"]
    call += ["--cores", str(cores)] if executor == LOCAL else ["--executor", executor, "--jobs", str(cores)]
    call += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "params", "input", "code"]
    call += ["--resources", f"gpu={gpus}"] if gpus else []
    # The plugin forgets its jobs, and waits for ever, once this many questions in a row had no answer: five by default.
    call += ["--slurm-status-attempts", "600"] if executor == "slurm" else []
    call += options
    call += ["--config", f"profile=!!str {profile}"]  # else Snakemake would take 1e5 for a number
    return [*call, "--", target]


def require_target(target: str, options: Sequence[str]) -> None:
    """Raise ParameterError for a target that there is not, or for words that cannot be Snakemake's options."""
    if target not in TARGETS:
        raise params.ParameterError(f"there is no target {target!r}; {params.suggestion(target, TARGETS)}.")
    if options and not options[0].startswith("-"):
        raise params.ParameterError(
            f"{options[0]!r} is no option; Snakemake's own stand after `--`, such as `-- --jobs 12`."
        )


def _environment(profile: str, executor: str = LOCAL) -> dict[str, str]:
    """Return the environment of the graph's jobs: the settings of their runs, with this interpreter as `python`.

    A scheduler chooses the GPUs of its jobs, and their processes must be its own, not forks of a server beside the batch.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    chosen = params.profile_params(profile)
    pairs = [params.model_params(model) for model in chosen.models]
    settings = kernels.settings(chosen, local=not any(pair.pt.hub or pair.it.hub for pair in pairs))
    settings |= {} if executor == LOCAL else {kernels.SCHEDULER: executor, warm.ADDRESS: "0"}
    return os.environ | settings | {"PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def run(
    profile: str, *, cores: int, gpus: int = 0, target: str = "all", executor: str = LOCAL,
    options: Sequence[str] = (),
) -> bool:  # fmt: skip
    """Return whether every step of a profile's graph is done; a line is printed for each finished step.

    `target` is "measured" (the datasets), "compared" (also the across-model notebooks) or "all" (also the book). A
    step that fails leaves its partial notebook and does not stop the others. After a kill at any moment, the next call
    runs what is missing. The whole log is `_build/batch.log`. Of `executor` and `options`, see `command`.
    """
    require_target(target, options)
    require_writable()
    if executor == LOCAL and not gpus and params.profile_params(profile).gpus:
        gpus = len(kernels.gpus())
    with sole_batch() as lock:
        models, token = params.profile_params(profile).models, uuid.uuid4().hex
        print(f"profile {profile}: looking for what is missing or out of date", flush=True)
        read_weights(models)
        for sentence in settle(profile):
            print(sentence, flush=True)
        call = command(profile, cores, gpus, target, executor, options)
        before = signal.getsignal(signal.SIGTERM)
        if before == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        job = subprocess.Popen(
            # A process that has used a GPU must not be forked; besides, GPU runs take much longer than the imports.
            call if gpus or executor != LOCAL else warm.with_server(call),
            env=_environment(profile, executor) | {TOKEN: token}, cwd=params.ROOT, start_new_session=True,
            encoding="utf-8", errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            lock.write_text(f"{job.pid} {token}")
            with outlived_by_none(job.pid, token):
                return follow(job)
        except KeyboardInterrupt:
            print("stopped; the same command takes up what is missing.", flush=True)
            raise
        finally:
            end_group(job.pid, token)
            signal.signal(signal.SIGTERM, before)


def note_job(line: str, jobs: dict[str, str]) -> None:
    """Keep in `jobs` what Snakemake's log says: what the job of each number runs, and under "done" the last that ended."""
    for kind, text in (found.groupdict() if (found := JOB.match(line)) else {}).items():
        if text and kind == "done":
            jobs["done"] = jobs.get(text, "")
        elif text:
            jobs[kind] = text
            what, _, task = jobs.get("rule", "").rpartition("_")
            who = jobs["model"] if kind == "model" else "all models"
            if kind != "rule":
                jobs[jobs["job"]] = f"{what} · {who}" if task in ("measure", "across") else ""


def follow(job: subprocess.Popen) -> bool:
    """Return whether a Snakemake process succeeded, after printing its steps as they finished."""
    start, waiting, failures, tail, jobs = time.time(), [], [], [], {}
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
            elif step and (waiting or jobs.get("done")):
                # Snakemake counts the target itself as its last step; we do not. What jobs of a cluster print is not here.
                print(
                    f"[{step[1]}/{int(step[2]) - 1}] {waiting.pop(0) if waiting else jobs['done']}",
                    flush=True,
                )
            note_job(line, jobs)
    done = job.wait() == 0
    if not done and not failures:
        print("\n".join(tail))
    if not done:
        print(f"{len(failures) or 'some'} failed after {time.time() - start:.0f} s; log: _build/batch.log.")
    return done
