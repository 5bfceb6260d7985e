"""The command line, `nbh` or `python -m nbhelpers`: run notebooks, build the book, check the set-up."""

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from nbhelpers import experiments
from nbhelpers.core import params, store
from nbhelpers.run import locks, notebooks, results

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="Run the notebooks, build the book, check the set-up.",
    pretty_exceptions_enable=False,
)  # fmt: skip
direction = typer.Typer(no_args_is_help=True, help="Directions that were measured: export one.")
app.add_typer(direction, name="direction")
USER_ERRORS = (params.ParameterError, store.ResultError, notebooks.BatchError)
Profile = Annotated[str, typer.Option(help="A profile of params/profiles: pocket, laptop or paper.")]


@app.callback()
def _options(traceback: Annotated[bool, typer.Option(help="Show the Python traceback of an error.")] = False):
    os.environ["NBHELPERS_TRACEBACK"] = "1" if traceback else ""


def _parameters(pairs) -> dict:
    """Return `name=value` pairs as a dict, with values parsed as YAML, so that 3, 0.1 and [1, 2] have types."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise params.ParameterError(f"-p {pair}: write a parameter as name=value, such as n_prompts=12.")
        if name in found:
            raise params.ParameterError(f"-p {name} is given twice; give it once.")
        found[name] = params.parse_yaml(value, f"-p {name}")
    return found


def _say(text: str) -> None:
    """Print a line; in a batch, mark it for the progress display."""
    typer.echo(f"{notebooks.MARK} {text}" if os.environ.get("NBHELPERS_BATCH") == "1" else text)


@app.command()
def run(
    experiment: Annotated[
        str, typer.Argument(help="exp09, or exp09_across for the across-model notebook.")
    ] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="A model of params/models.")] = "",
    profile: Annotated[
        str, typer.Option(help="The profile; by default the first that lists the model.")
    ] = "",
    parameter: Annotated[list[str], typer.Option("--parameter", "-p", help="name=value, repeatable.")] = (),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be run and what it takes.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0, help="TFLOPS of a dry run; 0 takes a default.")] = 0,
):
    """Run one experiment's notebook on one model and write its dataset.

    Example: nbh run exp09 --model mistral_pocket -p n_prompts=12

    The executed notebook goes to _build/runs, the dataset to _build/results. A notebook that fails is kept as
    *.partial.ipynb. The across-model notebook reads the datasets of a profile: nbh run exp09_across --profile
    pocket

    With --dry-run no weights are loaded: parameters are checked, and prompts, tokens, forward passes, memory, disk
    and time are printed, for all experiments or models if none is named: nbh run --dry-run --profile paper
    """
    if dry_run:
        return _dry_run(experiment, model, profile, parameter, rate)
    if not experiment:
        raise params.ParameterError(f"name the experiment; allowed: {', '.join(params.ordered())}.")

    start, in_batch = time.time(), os.environ.get("NBHELPERS_BATCH") == "1"
    key, across = experiment.removesuffix("_across"), experiment.endswith("_across")
    params.experiment(key)
    locks.require_writable()
    if across and (model or parameter):
        raise params.ParameterError(f"{experiment} takes neither a model nor parameters, only a profile.")
    if not across and not model:
        models = params.profile_params(profile or "pocket").models
        raise params.ParameterError(f"name the model with --model; allowed: {', '.join(models)}.")
    if across:
        written = _compare(key, profile or "pocket")
    else:
        written = _measure(key, model, profile, _parameters(parameter), in_batch)
    _say(f"{key} · {'all models' if across else model} {time.time() - start:.0f} s")
    if not in_batch:
        typer.echo(f"wrote {store.shown(written)}")


def _compare(key, profile):
    """Return the executed across-model notebook of an experiment, all of whose results must be current."""
    from nbhelpers.run import versions

    for model in params.profile_params(profile).models:
        if fault := results.fault(experiments.resolve(key, model=model, profile=profile)):
            again = f"`nbh run {key} --model {model} --profile {profile}`"
            hint = "" if again in fault else f" Make it anew with {again}."
            raise store.ResultError(f"{key} · {model}: {fault}{hint}")
    return notebooks.compare(key, profile, version=versions.compare_version(key), bar=sys.stderr.isatty())


def _measure(key, model, profile, own, in_batch):
    """Return the path that one run wrote; outside a batch, missing results that it needs are measured first."""
    from nbhelpers.run import graph, versions

    resolved = experiments.resolve(key, model=model, profile=profile or None, **own)
    notebooks.require_prompts(resolved)
    if not in_batch:
        graph.read_weights([model])
        graph.bring_up(resolved)
    version = versions.measure_version(resolved)
    return notebooks.measure(resolved, version=version, own=own, bar=sys.stderr.isatty())


def _dry_run(experiment: str, model: str, profile: str, parameter, rate: float) -> None:
    """Print the cost of one or all experiments on one or all models of a profile."""
    from nbhelpers.run import estimate

    chosen, own = profile or (params.profile_of(model) if model else "pocket"), _parameters(parameter)
    if own and not experiment:
        known = ", ".join(params.ordered())
        raise params.ParameterError(f"name the experiment that the parameters are of; allowed: {known}.")
    keys = params.ordered([experiment] if experiment else None)
    models = [model] if model else params.profile_params(chosen).models
    for line in estimate.table(chosen, keys, models, {experiment: own}, rate):
        typer.echo(line)
    typer.echo("Tokens are upper bounds, memory is what must be held at once; nothing was loaded or run.")


@app.command("batch")
def batch_(
    options: Annotated[list[str], typer.Argument(help="Snakemake's own options, after --.")] = (),
    profile: Profile = "pocket",
    cores: Annotated[int, typer.Option(min=1, help="CPU cores; of a cluster, jobs.")] = os.cpu_count() or 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs to use; 0 takes those that are seen.")] = 0,
    target: Annotated[str, typer.Option(help="all (with the book), compared or measured.")] = "all",
    executor: Annotated[str, typer.Option(help="local, slurm or another of Snakemake's.")] = "local",
):
    """Run everything of a profile that is missing or out of date, with Snakemake.

    Example: nbh batch --profile paper --executor slurm -- --jobs 12 --retries 1

    After a kill or a failure, the same command runs what is missing. The log is _build/batch.log.
    """
    from nbhelpers.run import graph

    own = {"target": target, "executor": executor, "options": options}
    if not graph.run(profile, cores=cores, gpus=gpus, **own):
        raise typer.Exit(1)


@app.command()
def book(profile: Profile = "pocket"):
    """Build the HTML book from the executed notebooks of a profile.

    Example: nbh book --profile pocket

    Run `nbh batch` first, which runs the notebooks; `make book` does both.
    """
    from nbhelpers.book import build, pages
    from nbhelpers.run import graph

    start = time.time()
    locks.require_writable()
    try:
        index = build.build(profile)
    except (build.BookError, pages.PageError) as error:
        raise notebooks.BatchError(str(error)) from None
    results.shows(profile)
    _say(f"book {time.time() - start:.0f} s")
    if os.environ.get("NBHELPERS_BATCH") != "1":
        if old := graph.outdated(profile):
            run = f"`nbh batch --profile {profile}`"
            typer.echo(
                f"{len(old)} of its notebooks are out of date, such as {store.shown(old[0])}; {run} renews them"
            )
        typer.echo(f"open {index}")


@app.command()
def doctor(profile: Profile = "pocket"):
    """Check versions, kernel, checkpoints, parameters, notebooks, disk, memory and GPU; one line each.

    Example: nbh doctor --profile paper
    """
    from nbhelpers.run import doctor as checks

    if not checks.report(profile):
        raise typer.Exit(1)


@app.command()
def add(
    key: Annotated[str, typer.Argument(help="The new pair's key, such as my_pair.")],
    pt: Annotated[
        str, typer.Option(help="The pretrained model: a folder or a hub id, owner/name[@revision].")
    ],
    it: Annotated[str, typer.Option(help="The tuned model, or a folder with a LoRA adapter of --pt.")],
    family: Annotated[str, typer.Option(help="By default the architecture's name.")] = "",
    title: Annotated[str, typer.Option(help="What pages call the pair; by default its key.")] = "",
    profile: Annotated[str, typer.Option(help="Whose prompts and sizes the new profile takes.")] = "laptop",
):
    """Add a pair of your own: try what works on it, then write its model and profile files.

    Example: nbh add my_pair --pt ~/models/base --it ~/models/base-sft --title "My pair"

    Nothing is written if no experiment could run. Afterwards run: nbh batch --profile my_pair
    """
    from nbhelpers.run import add as adding

    for line in adding.add(key, pt, it, family=family, title=title, profile=profile):
        typer.echo(line)


@app.command()
def models(
    profile: Annotated[str, typer.Option(help="Only this profile.")] = "",
    check: Annotated[str, typer.Option(help="Load this model's pair and try what works on it.")] = "",
):
    """List the models of every profile: family, layers, width, and whether the checkpoint is on this machine.

    Example: nbh models --profile pocket

    With --check, one pair is loaded and each part of the package is tried on it: nbh models --check llama_pocket
    """
    if check:
        from nbhelpers.run import capabilities

        found = capabilities.capabilities(params.model_params(check))
        typer.echo("\n".join(capabilities.table(found)))
        raise typer.Exit(1 if capabilities.lacking(found) else 0)
    from nbhelpers.run import doctor as checks

    for line in checks.model_table([profile] if profile else params.keys("profiles")):
        typer.echo(line)


@direction.command()
def export(
    model: Annotated[str, typer.Option("--model", "-m", help="A model of params/models, of dense MLPs.")],
    alpha: Annotated[float, typer.Option(help="0 removes the direction, -1 reverses it, 2 doubles it.")],
    out: Annotated[Path, typer.Option(help="A new folder for the adapter.")],
    profile: Annotated[str, typer.Option(help="By default the first that lists the model.")] = "",
    kind: Annotated[str, typer.Option(help="Which of the directions that exp05 measures.")] = "mean",
    layers: Annotated[str, typer.Option(help="early, mid, late, or numbers such as 7,8,9.")] = "late",
):
    """Write a dose of a measured direction as a LoRA adapter of the tuned model, of rank 1, in PEFT's format.

    Example: nbh direction export --model llama_pocket --alpha 0 --out llama_removed

    With it, each chosen MLP returns h + (alpha - 1)(d.h)d in place of h. vLLM and PEFT read it. The weights of a mixture of
    experts cannot be reached so, and are refused.
    """
    from nbhelpers.run import export as exporting

    for line in exporting.export(model, out, alpha=alpha, kind=kind, layers=layers, profile=profile):
        typer.echo(line)


@app.command()
def judge(
    experiment: Annotated[str, typer.Argument(help="An experiment that holds replies, such as exp12.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model whose replies are judged.")],
    profile: Annotated[str, typer.Option(help="By default the first that lists the model.")] = "",
    judge_model: Annotated[
        list[str], typer.Option(help="A judge at the endpoint, repeatable; by default NBH_JUDGE_MODEL.")
    ] = (),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take.")] = False,
    price_in: Annotated[float, typer.Option(min=0, help="Money for a million tokens read.")] = 0,
    price_out: Annotated[float, typer.Option(min=0, help="Money for a million tokens written.")] = 0,
    retry_missing: Annotated[bool, typer.Option(help="Ask again what could not be read before.")] = False,
):
    """Let language models judge the replies of a finished result, at an OpenAI-compatible endpoint that you name.

    Example: nbh judge exp12 --model llama_pocket --judge-model some-model --dry-run

    OPENAI_BASE_URL names the endpoint, OPENAI_API_KEY holds its key; without them nothing is sent. Answers are kept as they
    come: after a stop the same command goes on and pays for nothing again.
    """
    from nbhelpers.run import judging

    own = {"dry_run": dry_run, "retry_missing": retry_missing, "prices": (price_in, price_out)}
    for line in judging.judge(experiment, model, profile=profile, judge_models=judge_model, **own):
        typer.echo(line)


@app.command()
def refresh(notebook: Annotated[str, typer.Argument(help="A file name in notebooks/, or all.")] = "all"):
    """Run notebooks with their own defaults and save what is committed: their outputs, and the references of their results.

    Example: nbh refresh exp09_convergence_gap.ipynb
    """
    from nbhelpers.run import references

    folder = params.ROOT / "notebooks"
    # The across-model notebooks come last: they read what the others write.
    names = sorted((path.name for path in folder.glob("*.ipynb")), key=lambda name: ("across" in name, name))
    for name in names if notebook == "all" else [notebook]:
        source = notebooks.refresh(notebooks.notebook_path(name))
        typer.echo(f"refreshed notebooks/{name}")
        if written := references.write_of(source):
            typer.echo(f"wrote {store.shown(written)}")


def main() -> None:
    """Run the command line; a user's error prints one sentence on stderr and gives status 2, a failed notebook status 1."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a scheduler's SIGTERM is an interrupt too
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    try:
        app()
    except USER_ERRORS as error:
        _fail(str(error), 1 if isinstance(error, notebooks.BatchError) else 2, error)
    except OSError as error:  # a disk that is full or read-only, a file that may not be read
        place = store.shown(Path(os.fsdecode(error.filename))) if error.filename else "a file"
        _fail(
            f"{place} cannot be read or written: {error.strerror or error}; `nbh doctor` checks `_build`.",
            1,
            error,
        )
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(number, frame):
    """Raise KeyboardInterrupt; what libraries would log of kernels that are ended with this process tells nothing."""
    logging.disable(logging.CRITICAL)
    raise KeyboardInterrupt


def _fail(sentence: str, status: int, error: Exception) -> None:
    """Print a sentence on stderr and end with a status; with --traceback, raise the error instead."""
    if os.environ.get("NBHELPERS_TRACEBACK"):
        raise error
    in_batch = os.environ.get("NBHELPERS_BATCH") == "1"
    print(f"{notebooks.MARK} ✘ {sentence}" if in_batch else f"nbh: {sentence}", file=sys.stderr)
    sys.exit(status)
