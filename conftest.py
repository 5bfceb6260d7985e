"""nbval compares what a reader reads: text and tables, never drawings or progress. A file stays on one worker."""

import pytest

UNCOMPARED = ("stderr", "text/html", "application/vnd.vegalite.v5+json")


def pytest_collectstart(collector):
    """Leave out the outputs whose bytes are not the same on every run."""
    if collector.__class__.__name__ == "IPyNbFile":
        collector.skip_compare += UNCOMPARED


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items):
    """Keep a file's tests on one worker, where they share what is slow to make, and a notebook's cells in one kernel.

    Browser tests are many, slow, and share the book, which all workers do.
    """
    for item in items:
        if item.path.stem != "test_browser":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
