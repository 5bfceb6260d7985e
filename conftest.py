"""nbval compares what a reader reads: text and tables, never drawings or progress. The slowest test files come first."""


UNCOMPARED = ("stderr", "text/html", "application/vnd.vegalite.v5+json")


def pytest_collectstart(collector):
    """Leave out the outputs whose bytes are not the same on every run."""
    if collector.__class__.__name__ == "IPyNbFile":
        collector.skip_compare += UNCOMPARED


# Files of minutes: begun first, in this order, they do not end alone. The browser reads what test_book has built.
SLOWEST = ["test_book", "test_batch", "test_corruption", "test_browser"]


def pytest_collection_modifyitems(items):
    """Put the slowest files first; under pytest-xdist a free worker takes the next file."""
    order = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
