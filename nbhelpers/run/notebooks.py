"""Run one notebook headlessly. Parameters are checked, an unfinished output is named partial, errors name the cell.

Papermill executes the notebook. This module knows neither the graph of experiments and models (`graph` does) nor
what a notebook computes.
"""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.core.mistakes import one_line
from nbhelpers.run import drawing, results
from nbhelpers.run.kernels import QUIET_KERNEL, kernel_environment, socket_kernel
from nbhelpers.run.locks import alone
from nbhelpers.run.results import executed_path

MARK = "nbh:"  # begins the lines that the graph's progress display picks out of a job's output
WIDGET = "application/vnd.jupyter.widget-view+json"


class BatchError(RuntimeError):
    """A notebook that could not be run to its end; its message is one sentence for the user."""


def notebook_path(name: str) -> Path:
    """Return the path of the source notebook with that file name; BatchError if it is missing."""
    path = params.ROOT / "notebooks" / name
    if not path.exists():
        raise BatchError(f"the notebook notebooks/{name} is missing.")
    return path


def read(path: Path) -> dict:
    """Return a notebook as a dict; BatchError names the line at which it is not JSON, or says that it is no notebook."""
    shown = store.shown(path)
    try:
        text = path.read_text(encoding="utf-8")
        book = json.loads(text)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BatchError(f"{shown} line {line} is not UTF-8: save the notebook anew or restore it.") from None
    except json.JSONDecodeError as error:
        lines = enumerate(text.split("\n"), 1)
        marked = next((number for number, line in lines if line.lstrip().startswith("<<<<<<< ")), None)
        remedy = "resolve the conflict that a merge left there" if marked else f"{error.msg}; restore it"
        raise BatchError(f"{shown} line {marked or error.lineno} is not JSON: {remedy}.") from None
    except (ValueError, RecursionError):  # Python's limits on digits and depth
        raise BatchError(f"{shown} holds a number or a nesting that cannot be read; restore it.") from None
    cells = book.get("cells") if isinstance(book, dict) and book.get("nbformat") == 4 else None
    if not isinstance(cells, list) or not all({"cell_type", "source"} <= set(cell) for cell in cells):
        raise BatchError(f"{shown} is no notebook of format 4: save it anew from JupyterLab.")
    # What other tools strip, execution needs.
    empty = {"code": {"metadata": {}, "outputs": [], "execution_count": None}}
    cells = [empty.get(cell["cell_type"], {"metadata": {}}) | cell for cell in cells]
    return {"nbformat_minor": 5, "metadata": {}} | book | {"cells": cells}


def declared(notebook: Path) -> dict[str, str]:
    """Return the parameters that a notebook's one `parameters` cell declares, with their defaults."""
    from papermill.translators import PythonTranslator

    tagged = [cell for cell in read(notebook)["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise BatchError(
            f"{notebook.name} has {len(tagged)} cells tagged `parameters`; it needs exactly one."
        )
    cell = {"source": "".join(tagged[0]["source"])}
    return {each.name: each.default for each in PythonTranslator.inspect(cell)}


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
    cells = read(partial)["cells"]
    # Papermill adds cells with a banner: one above the failing cell and one at the top.
    cells = [c for c in cells if "papermill-error-cell-tag" not in c["metadata"].get("tags", [])]
    for index, cell in enumerate(cells):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                error = f"{output['ename']}: {one_line(output['evalue'])}".rstrip(": ")
                return f"cell {index + 1} ({_heading(cells, index)}): {error}"
    started = [cell["metadata"].get("papermill", {}).get("start_time") for cell in cells]
    index = max((i for i, time in enumerate(started) if time), default=0)
    return f"cell {index + 1} ({_heading(cells, index)}): the kernel died, often for want of memory"


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
    """Return `output`, the path of the executed notebook, which is replaced only after a complete run.

    Until then, and after a failure, the file is `<name>.partial.ipynb`. Raises BatchError that names the failing
    cell, ResultError if a file cannot be written.
    """
    import nbformat
    import papermill

    refuse_undeclared(notebook, parameters)
    # The package turns the progress bars of libraries off, so this one is turned on explicitly.
    shown = {"desc": label, "unit": "cell", "leave": False, "disable": False}
    partial = output.with_suffix(".partial.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial.unlink(missing_ok=True)
    try:
        with socket_kernel() as manager:
            papermill.execute_notebook(
                nbformat.from_dict(read(notebook)), str(partial), parameters, kernel_name="python3", language="python",
                progress_bar=bar and shown, kernel_manager_class=manager, extra_arguments=QUIET_KERNEL,
                engine_name=_sparing_engine(),
            )  # fmt: skip
    except KeyboardInterrupt:
        kept = store.shown(partial) if partial.exists() else "none yet"
        print(f"{label} was stopped. The notebook so far: {kept}", flush=True)
        raise
    except OSError as error:
        raise store.unwritable(Path(error.filename or partial), error) from None
    except (papermill.PapermillExecutionError, RuntimeError) as error:
        reached = failing_cell(partial) if partial.exists() else one_line(str(error))
        kept = store.shown(partial)
        raise BatchError(f"{label} stopped in {reached.rstrip('.')}. The notebook so far: {kept}") from None
    store.write_whole(output, results.signed(read(partial), version))
    partial.unlink()
    return output


def require_prompts(run: params.Run) -> None:
    """Raise ParameterError if a run asks for more prompts than its file has lines; data sets of the hub are not counted."""
    wanted, source = getattr(run.experiment, "n_prompts", 0), run.prompts
    file, most = (source, wanted) if isinstance(source, str | None) else (source.path, source.first)
    if not file or not (path := params.ROOT / file).is_file():
        return
    with open(path, "rb") as lines:
        held = min(sum(1 for line in lines if line.strip()), most)
    if wanted > held:
        raise params.ParameterError(
            f"{run.key}: n_prompts is {wanted}, but {file} holds {held} prompts; choose at most {held}."
        )


def measure(run: params.Run, *, version: str, own=(), bar: bool = False, again: bool = True) -> Path:
    """Return the path of the dataset that one experiment's notebook writes for one model.

    own: names of the parameters that the user set, which the notebook must declare. again: whether to measure also what
    another process has just measured. Raises ParameterError before anything starts, BatchError if a cell fails or the
    dataset is of another run, ResultError if there is none.
    """
    for variant in params.VARIANTS:
        params.require(getattr(run.model, variant), run.model.key)
    require_prompts(run)
    source = notebook_path(params.experiment(run.key).notebook)
    known = run.experiment.model_dump() | {"model": run.model.key, "profile": run.profile.name}
    refuse_undeclared(source, own)
    given = {name: list(known[name]) if isinstance(known[name], tuple) else known[name]
             for name in declared(source) if name in known}  # fmt: skip
    label, place = f"{run.key} · {run.model.key}", (run.profile.name, run.model.key, run.key)
    path = store.result_path(*place)
    with alone(label, *place) as waited:
        if waited and not again and not results.fault(run):
            return path
        with kernel_environment(run.profile, local=not (run.model.pt.hub or run.model.it.hub)):
            output = executed_path(run.profile.name, source.name, run.model.key)
            try:
                execute(source, output, given, label=label, version=version, bar=bar)
            except KeyboardInterrupt:
                _say_what_is_kept(run, label)
                raise
        expects = experiments.variables(run.key)
        if store.attributes(path, experiment=run.key, expects=expects)["parameter_hash"] != run.hash:
            raise BatchError(
                f"{label}: {store.shown(path)} is not of this run; the notebook must call experiments.save."
            )
        results.measured(run, now=True)
    return path


def _say_what_is_kept(run: params.Run, label: str) -> None:
    """Print how many blocks of a stopped run the next one finds, if it writes blocks."""
    from nbhelpers.run import unfinished  # which needs this module

    if blocks := unfinished.kept(run):
        print(
            f"{label}: blocks of prompts that are kept: {blocks}; the same command goes on after them.",
            flush=True,
        )


def upstream(run: params.Run, key: str):
    """Return the dataset of `key` that a run builds on; it is measured first if it is missing or outdated.

    In a batch, which has its own order, nothing is measured here; ResultError names the missing result.
    """
    path = store.result_path(run.profile.name, run.model.key, key)
    ordered = os.environ.get("NBHELPERS_BATCH") == "1"
    needed = experiments.resolve(key, model=run.model.key, profile=run.profile.name)
    if not ordered and results.fault(needed):
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
    label, settings = f"{key} · all models", chosen.model_copy(update={"gpus": 0})
    with alone(label, profile, key), kernel_environment(settings, local=True):
        execute(source, output, {"profile": profile}, label=label, version=version, bar=bar)
        results.compared(key, profile)
    return output


def refresh(notebook: Path) -> Path:
    """Return the path of a source notebook after running it with its own defaults and saving the new outputs in it."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    book = nbformat.reads(json.dumps(read(notebook)), as_version=4)
    with kernel_environment(params.profile_params("pocket"), local=True), socket_kernel() as manager:
        client = NotebookClient(
            book, kernel_name="python3", kernel_manager_class=manager, record_timing=False
        )
        try:
            client.execute()
        except (CellExecutionError, RuntimeError) as error:
            told = error.ename + ": " if isinstance(error, CellExecutionError) else ""
            why = f"{told}{one_line(error.evalue if told else str(error))}".rstrip(".: ")
            raise BatchError(f"{store.shown(notebook)} is as it was, since a cell stopped: {why}.") from None
    book.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                     "language_info": {"name": "python"}}  # fmt: skip
    draw_main_figure(book.cells)
    drop_widgets(book.cells)
    store.write_whole(notebook, f"{nbformat.writes(book).rstrip()}\n".encode())
    return notebook


def drop_widgets(cells: list[dict]) -> None:
    """Take widgets out of the outputs of cells: a widget is nothing without its kernel."""
    for cell in cells:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if WIDGET not in output.get("data", {})]


def draw_main_figure(cells: list[dict]) -> None:
    """Add to the chart of the cell named `main_figure` its drawing, for a code host, which draws no Vega-Lite."""
    from nbhelpers.report.charts import VEGALITE

    for cell in cells:
        for output in cell.get("outputs", []) if cell["metadata"].get("name") == "main_figure" else ():
            if VEGALITE in output.get("data", {}):
                output["data"]["image/svg+xml"] = drawing.svg(output["data"][VEGALITE])
