"""Commands that run notebooks: run, batch, refresh."""

import os
import sys
import time
from typing import Annotated

import typer

from nbhelpers import experiments
from nbhelpers.cli.app import Profile, app, resumable, say
from nbhelpers.core import params, store
from nbhelpers.run import locks, notebooks, results


def parameters(pairs) -> dict:
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


@app.command()
@resumable()
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
        return dry_run_of(experiment, model, profile, parameter, rate)
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
        written = compare(key, profile or "pocket")
    else:
        written = measure(key, model, profile, parameters(parameter), in_batch)
    say(f"{key} · {'all models' if across else model} {time.time() - start:.0f} s")
    if not in_batch:
        typer.echo(f"wrote {store.shown(written)}")


def compare(key, profile):
    """Return the executed across-model notebook of an experiment, all of whose results must be current."""
    from nbhelpers.run import versions

    for model in params.profile_params(profile).models:
        if fault := results.fault(experiments.resolve(key, model=model, profile=profile)):
            again = f"`nbh run {key} --model {model} --profile {profile}`"
            hint = "" if again in fault else f" Make it anew with {again}."
            raise store.ResultError(f"{key} · {model}: {fault}{hint}")
    return notebooks.compare(key, profile, version=versions.compare_version(key), bar=sys.stderr.isatty())


def measure(key, model, profile, own, in_batch):
    """Return the path that one run wrote; outside a batch, missing results that it needs are measured first."""
    from nbhelpers.run import graph, versions

    resolved = experiments.resolve(key, model=model, profile=profile or None, **own)
    notebooks.require_prompts(resolved)
    if not in_batch:
        graph.read_weights([model])
        graph.bring_up(resolved)
    version = versions.measure_version(resolved)
    return notebooks.measure(resolved, version=version, own=own, bar=sys.stderr.isatty())


def dry_run_of(experiment: str, model: str, profile: str, parameter, rate: float) -> None:
    """Print the cost of one or all experiments on one or all models of a profile."""
    from nbhelpers.run import estimate

    chosen, own = profile or (params.profile_of(model) if model else "pocket"), parameters(parameter)
    if own and not experiment:
        known = ", ".join(params.ordered())
        raise params.ParameterError(f"name the experiment that the parameters are of; allowed: {known}.")
    keys = params.ordered([experiment] if experiment else None)
    models = [model] if model else params.profile_params(chosen).models
    for line in estimate.table(chosen, keys, models, {experiment: own}, rate):
        typer.echo(line)
    typer.echo("Tokens are upper bounds, memory is what must be held at once; nothing was loaded or run.")


@app.command("batch")
@resumable()
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
