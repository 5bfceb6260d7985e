"""Where a quantity of the ledger is shown and defined: the anchor of its figure, and the line of its source in the book."""

import inspect
from collections.abc import Callable
from functools import cache


def address(place: tuple[str, Callable]) -> tuple[str, str]:
    """Return the anchor of a named cell on its page, and where the source of a function stands below `source/` in the book.

    place: the name of the cell that shows a quantity and the function that defines it, as `ledger.shown` returns them.
    """
    cell_name, function = place
    return cell_name.replace("_", "-"), f"{function.__module__.replace('.', '/')}.html#L{_line(function)}"


@cache
def _line(function: Callable) -> int:
    """Return the first line of a function in its module."""
    return inspect.getsourcelines(function)[1]
