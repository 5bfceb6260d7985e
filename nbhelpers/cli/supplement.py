"""Commands of the book and its supplement: book."""

import os
import time

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
