"""Run one notebook headlessly. Parameters are checked, an unfinished output is named partial, errors name the cell.

Papermill executes the notebook. This module knows neither the graph of experiments and models (`graph` does) nor
what a notebook computes.
"""

import contextlib
import fcntl
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jupyter_client.manager import AsyncKernelManager
from traitlets import default

from nbhelpers import experiments
from nbhelpers.core import params, store

# Every kernel is ended by an interrupt, which must not be shown as an error.
QUIET_KERNEL = ["--IPKernelApp.log_level=CRITICAL"]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MARK = "nbh:"  # begins the lines that the graph's progress display picks out of a job's output


class BatchError(RuntimeError):
    """A notebook that could not be run to its end; its message is one sentence for the user."""


def notebook_path(name: str) -> Path:
    """Return the path of the source notebook with that file name; BatchError if it is missing."""
    path = params.ROOT / "notebooks" / name
    if not path.exists():
        raise BatchError(f"the notebook notebooks/{name} is missing.")
    return path


def executed_path(profile: str, notebook: str, model: str | None = None) -> Path:
    """Return the path of the executed notebook: `_build/runs/<profile>/[<model>/]<notebook>`."""
    return params.ROOT.joinpath("_build", "runs", profile, *([model] if model else []), notebook)


@contextlib.contextmanager
def socket_kernel() -> Iterator[type[AsyncKernelManager]]:
    """Yield a class of kernel managers that use their own Unix sockets, because parallel runs compete for TCP ports."""
    # A socket's path holds about 100 characters, so a deep TMPDIR must not be part of it.
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="nbh-", dir=short, ignore_cleanup_errors=True) as folder:

        class SocketKernel(AsyncKernelManager):
            @default("transport")
            def _own_transport(self):
                return "ipc"

            @default("ip")
            def _own_folder(self):
                return f"{folder}/k"

        yield SocketKernel


def gpus() -> list[str]:
    """Return the indices of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [index for index in visible.split(",") if index]
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []


@contextlib.contextmanager
def gpu_slots(count: int) -> Iterator[dict[str, str]]:
    """Yield the environment that gives a run `count` GPUs that no other run of this repository holds."""
    indices = gpus()
    if not count or len(indices) < count:
        yield {}
        return
    folder = params.ROOT / "_build" / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        taken = []
        while len(taken) < count:
            for index in indices:
                if len(taken) < count and index not in taken and _locked(held, folder / index):
                    taken.append(index)
            if len(taken) < count:
                time.sleep(1)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(taken)}


def _locked(held: contextlib.ExitStack, path: Path) -> bool:
    """Return whether the file could be locked; `held` releases the lock when it closes."""
    file = open(path, "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    held.enter_context(file)
    return True


def settings(profile: params.ProfileParams, local: bool) -> dict[str, str]:
    """Return the environment variables of a profile's runs: root, batch mode, threads; local: never contact the hub."""
    wanted = {"NBHELPERS_BATCH": "1", "NBHELPERS_ROOT": str(params.ROOT)}
    if profile.threads:
        wanted |= dict.fromkeys(THREADS, str(profile.threads))
    return wanted | ({"HF_HUB_OFFLINE": "1"} if local else {})


@contextlib.contextmanager
def kernel_environment(profile: params.ProfileParams, local: bool) -> Iterator[None]:
    """Give kernels that are started inside this block their profile's settings and GPUs of their own."""
    before = dict(os.environ)
    with gpu_slots(profile.gpus) as slots:
        os.environ.update(settings(profile, local) | slots)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def declared(notebook: Path) -> dict[str, str]:
    """Return the parameters that a notebook's one `parameters` cell declares, with their defaults."""
    import papermill

    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = sum("parameters" in cell["metadata"].get("tags", []) for cell in cells)
    if tagged != 1:
        raise BatchError(f"{notebook.name} has {tagged} cells tagged `parameters`; it needs exactly one.")
    return {name: entry["default"] for name, entry in papermill.inspect_notebook(str(notebook)).items()}


def _heading(cells: list[dict], index: int) -> str:
    """Return the last Markdown heading above a cell."""
    for cell in reversed(cells[:index]):
        lines = "".join(cell["source"]).splitlines()
        headings = [line.lstrip("# ") for line in lines if line.startswith("#")]
        if cell["cell_type"] == "markdown" and headings:
            return headings[-1]
    return "before the first heading"


def failing_cell(partial: Path) -> str:
    """Return the cell that stopped a partly executed notebook, as "cell 7 (Measure): ValueError: …"."""
    cells = json.loads(partial.read_text(encoding="utf-8"))["cells"]
    # Papermill adds cells with a banner: one above the failing cell and one at the top.
    cells = [c for c in cells if "papermill-error-cell-tag" not in c["metadata"].get("tags", [])]
    for index, cell in enumerate(cells):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                error = f"{output['ename']}: {output['evalue']}".strip()
                return f"cell {index + 1} ({_heading(cells, index)}): {error}"
    started = [cell["metadata"].get("papermill", {}).get("start_time") for cell in cells]
    index = max((i for i, time in enumerate(started) if time), default=0)
    return f"cell {index + 1} ({_heading(cells, index)}): the kernel died, often for want of memory"


def version_of(executed: Path) -> str | None:
    """Return the version that is recorded in an executed notebook, None if there is none."""
    try:
        metadata = json.loads(executed.read_text(encoding="utf-8"))["metadata"]
    except (OSError, ValueError, KeyError):
        return None
    return metadata.get("nbhelpers", {}).get("version")


def _finish(partial: Path, output: Path, version: str) -> None:
    """Write its version into a fully executed notebook, then rename it to `output`."""
    book = json.loads(partial.read_text(encoding="utf-8"))
    book["metadata"]["nbhelpers"] = {"version": version}
    partial.write_text(json.dumps(book, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.rename(output)


def refuse_undeclared(notebook: Path, parameters) -> None:
    """Raise ParameterError for a parameter that a notebook does not declare; papermill would only warn."""
    declares = declared(notebook)
    for name in parameters:
        if name not in declares:
            known = params.suggestion(name, declares)
            raise params.ParameterError(f"{notebook.name} declares no parameter {name!r}; {known}.")


@functools.cache
def _sparing_engine() -> str:
    """Return the name of a papermill engine that spends about a tenth of the time on saving, and saves at the end.

    Papermill's own engine saves twice for every cell; a notebook of large charts took 1.5 times as long to save as to run.
    """
    from papermill.engines import NBClientEngine, papermill_engines

    class Sparing(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man, *args, **options):
            def save(**_):
                nonlocal next_at
                if time.monotonic() >= next_at:
                    start = time.monotonic()
                    always()
                    next_at = time.monotonic() + 10 * (time.monotonic() - start)

            next_at, always, nb_man.save = 0.0, nb_man.save, save
            try:
                return super().execute_managed_notebook(nb_man, *args, **options)
            finally:
                nb_man.save = always  # papermill saves once more in any case

    papermill_engines.register("sparing", Sparing)
    return "sparing"


def execute(
    notebook: Path, output: Path, parameters: dict, *, label: str, version: str, bar: bool = False
) -> Path:
    """Return `output`, the path of the executed notebook, which exists only after a complete run.

    Until then, and after a failure, the file is `<name>.partial.ipynb`. Raises BatchError that names the failing
    cell.
    """
    import papermill

    refuse_undeclared(notebook, parameters)
    # The package turns the progress bars of libraries off, so this one is turned on explicitly.
    shown = {"desc": label, "unit": "cell", "leave": False, "disable": False}
    partial = output.with_suffix(".partial.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    try:
        with socket_kernel() as manager:
            papermill.execute_notebook(
                str(notebook), str(partial), parameters, kernel_name="python3", progress_bar=bar and shown,
                kernel_manager_class=manager, extra_arguments=QUIET_KERNEL, engine_name=_sparing_engine(),
            )  # fmt: skip
    except (papermill.PapermillExecutionError, RuntimeError) as error:
        reached = failing_cell(partial) if partial.exists() else str(error)
        kept = store.shown(partial)
        raise BatchError(f"{label} stopped in {reached.rstrip('.')}. The notebook so far: {kept}") from None
    _finish(partial, output, version)
    return output


def measure(run: params.Run, *, version: str, own=(), bar: bool = False) -> Path:
    """Return the path of the dataset that one experiment's notebook writes for one model.

    own: names of the parameters that the user set, which the notebook must declare. Raises ParameterError before
    anything starts, BatchError if a cell fails or the dataset is of another run, ResultError if there is none.
    """
    for variant in params.VARIANTS:
        params.require(getattr(run.model, variant), run.model.key)
    source = notebook_path(params.experiment(run.key).notebook)
    known = run.experiment.model_dump() | {"model": run.model.key, "profile": run.profile.name}
    refuse_undeclared(source, own)
    given = {name: list(known[name]) if isinstance(known[name], tuple) else known[name]
             for name in declared(source) if name in known}  # fmt: skip
    label = f"{run.key} · {run.model.key}"
    local = not (run.model.pt.hub or run.model.it.hub)
    with kernel_environment(run.profile, local):
        output = executed_path(run.profile.name, source.name, run.model.key)
        execute(source, output, given, label=label, version=version, bar=bar)
    path = store.result_path(run.profile.name, run.model.key, run.key)
    _as_new(path, [store.result_path(run.profile.name, run.model.key, key) for key in run.upstream])
    expects = experiments.variables(run.key)
    if store.attributes(path, experiment=run.key, expects=expects)["parameter_hash"] != run.hash:
        raise BatchError(
            f"{label}: {store.shown(path)} is not of this run; the notebook must call experiments.save."
        )
    return path


def _as_new(path: Path, inputs: list[Path]) -> None:
    """Touch a result that is older than its inputs: `store.save` keeps the old file if its values are the same."""
    newest = max((each.stat().st_mtime for each in inputs if each.exists()), default=0.0)
    if path.exists() and path.stat().st_mtime < newest:
        os.utime(path)


def upstream(run: params.Run, key: str):
    """Return the dataset of `key` that a run builds on; it is measured first if it is missing or outdated.

    In a batch, which has its own order, nothing is measured here; ResultError names the missing result.
    """
    path = store.result_path(run.profile.name, run.model.key, key)
    whole = all(path.with_name(name).exists() for name in params.experiment(key).artifacts)
    ordered = os.environ.get("NBHELPERS_BATCH") == "1"
    if not ordered and not (whole and store.is_current(path, run.upstream[key])):
        print(f"{key} of {run.model.key} comes first; measuring it once.")
        command = [sys.executable, "-m", "nbhelpers", "run", key, "--model", run.model.key]
        done = subprocess.run([*command, "--profile", run.profile.name], capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or f"{key} of {run.model.key} failed.").splitlines()[-1]
            raise BatchError(last.removeprefix("nbh: "))
    dataset = experiments.load(run.profile.name, run.model.key, key)
    if dataset.attrs["parameter_hash"] != run.upstream[key]:
        raise store.ResultError(
            f"{store.shown(path)} was made with other parameters than those of {run.key}; make it anew with "
            f"`nbh run {key} --model {run.model.key} --profile {run.profile.name}`."
        )
    return dataset


def compare(key: str, profile: str, *, version: str, bar: bool = False) -> Path:
    """Return the path of an experiment's executed across-model notebook, which reads the datasets of a whole profile."""
    experiment, chosen = params.experiment(key), params.profile_params(profile)
    if not experiment.across:
        raise params.ParameterError(f"{key} has no across-model notebook (params/experiments/{key}.yml).")
    for model in chosen.models:
        path = store.result_path(profile, model, key)
        store.attributes(path, experiment=key, expects=experiments.variables(key))
    source, output = notebook_path(experiment.across), executed_path(profile, experiment.across)
    with kernel_environment(chosen.model_copy(update={"gpus": 0}), local=True):
        label = f"{key} · all models"
        return execute(source, output, {"profile": profile}, label=label, version=version, bar=bar)


def refresh(notebook: Path) -> Path:
    """Return the path of a source notebook after running it with its own defaults and saving the new outputs in it."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(notebook, as_version=4)
    pocket = params.profile_params("pocket")
    with kernel_environment(pocket, local=True), socket_kernel() as manager:
        client = NotebookClient(
            book, kernel_name="python3", kernel_manager_class=manager, record_timing=False
        )
        client.execute()
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                     "language_info": {"name": "python"}}  # fmt: skip
    nbformat.write(book, notebook)
    return notebook
