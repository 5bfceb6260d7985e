"""Commands of the book and its supplement: book, import."""

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
    from nbhelpers.book import build, pages
    from nbhelpers.run import graph

    start = time.time()
    locks.require_writable()
    try:
        index = build.build(profile)
    except (build.BookError, pages.PageError) as error:
        raise notebooks.BatchError(str(error)) from None
    results.shows(profile)
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
