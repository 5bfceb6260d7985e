"""What every command shares: the program, its options, and how it speaks."""

import contextlib
import os
from collections.abc import Iterator
from typing import Annotated

import typer

from nbhelpers.run import notebooks

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    help="Run the notebooks, build the book, check the set-up.",
    pretty_exceptions_enable=False,
)  # fmt: skip
Profile = Annotated[str, typer.Option(help="A profile of params/profiles: pocket, laptop or paper.")]


@app.callback()
def _options(traceback: Annotated[bool, typer.Option(help="Show the Python traceback of an error.")] = False):
    os.environ["NBHELPERS_TRACEBACK"] = "1" if traceback else ""


class Asked(KeyboardInterrupt):
    """The interrupt of a SIGTERM, by which a machine that is taken away, such as a spot instance, asks a process to end."""


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """End with status 0 what a SIGTERM stops: nothing failed, and the same command goes on.

    A job of a batch keeps the status of an interrupt, lest the batch take it for done.
    """
    try:
        yield
    except Asked:
        if os.environ.get("NBHELPERS_BATCH") == "1":
            raise
        raise typer.Exit from None


def say(text: str) -> None:
    """Print a line; in a batch, mark it for the progress display."""
    typer.echo(f"{notebooks.MARK} {text}" if os.environ.get("NBHELPERS_BATCH") == "1" else text)
