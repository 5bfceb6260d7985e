"""Commands of the book and its supplement: book, zip, verify, pdf, import."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from nbhelpers.cli.app import Profile, app, say
from nbhelpers.core import store
from nbhelpers.run import locks, notebooks, results


@app.command()
def book(profile: Profile = "pocket"):
    """Build the HTML book from the executed notebooks of a profile.

    Example: nbh book --profile pocket

    Run `nbh batch` first, which runs the notebooks; `make book` does both.
    """
    from nbhelpers.book import archive, build, pages
    from nbhelpers.run import graph

    start = time.time()
    locks.require_writable()
    try:
        index = build.build(profile)
    except (build.BookError, pages.PageError) as error:
        raise notebooks.BatchError(str(error)) from None
    results.shows(profile)
    archive.note_inputs(profile)
    say(f"book {time.time() - start:.0f} s")
    if os.environ.get("NBHELPERS_BATCH") != "1":
        if old := graph.outdated(profile):
            run = f"`nbh batch --profile {profile}`"
            typer.echo(
                f"{len(old)} of its notebooks are out of date, such as {store.shown(old[0])}; {run} renews them"
            )
        typer.echo(f"open {index}")


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="A checkout of the study's repository.")],
    ship: Annotated[
        bool, typer.Option(help="Also write params/published, the tables that the book draws.")
    ] = False,
):
    """Read the study's own results, its compact JSON files, into datasets of the profile published.

    Example: nbh import ~/PT-IT-Model-Differences

    They lie in _build/results/published and are the authors' values; no other result changes. Files are found by
    name below PATH. One that is damaged or unknown is named and left out; the status is then 1 if none could be read.
    """
    from nbhelpers.run import importing

    locks.require_writable()
    found = importing.gathered(folder)
    made = importing.tables(found)
    paths = importing.save(made)
    shipped = importing.ship(made, found) if ship else []
    for line in importing.report(found, made):
        typer.echo(line)
    if not paths:
        raise notebooks.BatchError(f"{folder} holds no result of the study; give the path of its checkout.")
    typer.echo(f"wrote {len(paths)} datasets" + (f" and {len(shipped)} tables" if shipped else ""))


@app.command("zip")
def zip_(profile: Profile = "pocket"):
    """Write the supplement of a profile, `_build/supplement-<profile>.zip`: book, results, notebooks, sources, checksums.

    Example: nbh zip --profile pocket

    It holds less than 100 MB; what finds no room is named, here and in it. `nbh verify` checks it.
    """
    from nbhelpers.book import archive

    locks.require_writable()
    path, left_out = archive.write(profile)
    for name in sorted(left_out):
        typer.echo(f"left out, since the archive would pass {archive.LIMIT // 10**6} MB: {name}")
    typer.echo(f"wrote {store.shown(path)}, {path.stat().st_size / 1e6:.1f} MB")


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A supplement: the zip, or the folder it was unpacked into.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the tokens measured again; 0: none.")] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Which tokens are drawn.")] = 0,
):
    """Check a supplement: every checksum, every dataset, and a random 1 % of tokens measured again from the checkpoints.

    Example: nbh verify _build/supplement-pocket.zip --seed 7

    Each damaged, missing or extra file is named in one sentence; the status is then 1. What cannot be measured again here,
    such as models whose weights are not on this machine, is named and skipped.
    """
    from nbhelpers.book import verify as checks

    report = checks.verify(path, share=share, seed=seed)
    for line in [*report.checked, *(f"skipped: {line}" for line in report.skipped)]:
        typer.echo(line)
    for line in report.problems:
        typer.echo(f"✘ {line}")
    typer.echo(f"{len(report.problems)} problems" if report.problems else "the supplement is whole")
    raise typer.Exit(1 if report.problems else 0)


@app.command()
def pdf(
    every: Annotated[bool, typer.Option("--all", help="With the pages of each pair, some 120 more.")] = False,
):
    """Print the built book into one PDF, `_build/book.pdf`: tabs and closed parts open, charts as vectors, with an outline.

    Example: nbh pdf

    It needs Chromium or Chrome. The pages of each pair are left out unless --all is given.
    """
    from nbhelpers.book import pdf as printing

    locks.require_writable()
    path, sheets = printing.write(every)
    typer.echo(f"wrote {store.shown(path)}, {sheets} sheets, {path.stat().st_size / 1e6:.1f} MB")
