"""Commands that are about pairs of models: doctor, add, models, direction, judge."""

from pathlib import Path
from typing import Annotated

import typer

from nbhelpers.cli.app import Profile, app, resumable
from nbhelpers.core import params

direction = typer.Typer(no_args_is_help=True, help="Directions that were measured: export one.")
app.add_typer(direction, name="direction")


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
@resumable()
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
