"""nbval compares what a reader reads: text and tables, never drawings or progress. A file stays on one worker."""

import pytest

UNCOMPARED = ("stderr", "text/html", "application/vnd.vegalite.v5+json")


def pytest_collectstart(collector):
    """Leave out the outputs whose bytes are not the same on every run."""
    if collector.__class__.__name__ == "IPyNbFile":
        collector.skip_compare += UNCOMPARED


# Files that build the same book, which takes a minute; under pytest-xdist one worker has them both.
BOOK = {"test_book", "test_browser"}


def pytest_collection_modifyitems(items):
    """Keep a file's tests on one worker, where they share what is slow to make, and a notebook's cells in one kernel."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("book" if item.path.stem in BOOK else item.path.stem))
