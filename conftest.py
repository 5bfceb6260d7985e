"""nbval compares words exactly and numbers with a tolerance (`tests.outputs`). The slowest test files come first."""

pytest_plugins = ["tests.outputs"]
# Files of minutes: begun first, in this order, they do not end alone. The browser reads what test_book has built.
SLOWEST = ["test_book", "test_batch", "test_corruption", "test_planted_errors", "test_browser"]


def pytest_collection_modifyitems(items):
    """Put the slowest files first; under pytest-xdist a free worker takes the next file."""
    order = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
