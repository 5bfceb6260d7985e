"""The labelling notebook in JupyterLab: keys become labels, a reload takes up where it was, no reply is saved."""

import json

import pytest

from nbhelpers.core import params
from nbhelpers.measures import gold
from tests import labelled, labs
from tests.stubs import REPOSITORY

pytestmark = [pytest.mark.browser, pytest.mark.slow, labs.needs_chromium]
# The made-up result is of a stub experiment, which is no slice of the package.
STUB = """
from nbhelpers import experiments
from nbhelpers.core.variables import Variable
experiments.slices = lambda: {"exp90": "exp90_stub"}
experiments.variables = lambda key: {"text": Variable(("condition", "prompt"), "1", "reply")}
rater, models = "ada", ["ann"]
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Return the address of a JupyterLab whose folder holds the labelling notebook, set up for a made-up result."""
    pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    labelled.write()
    book = json.loads((REPOSITORY / "notebooks/label.ipynb").read_text())
    (cell,) = [cell for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    cell["source"] = "".join(cell["source"]) + STUB
    (tmp_path / "label.ipynb").write_text(json.dumps(book))
    with labs.serving(tmp_path, "label.ipynb", NBHELPERS_ROOT=str(tmp_path)) as address:
        yield address


def opened(page):
    """Return the field for keys, after all cells were run."""
    labs.run_all(page)
    field = page.locator(".widget-text input")
    field.wait_for()
    return field


def test_three_labels_by_keys_then_a_reload_and_the_fourth(browser, lab, tmp_path):
    page = browser.new_page()
    page.set_default_timeout(labs.SECONDS * 1000)
    page.goto(lab)
    opened(page).click()
    page.keyboard.type("34")  # the second key comes before the first is dealt with
    page.get_by_text("2 of 48 labels").wait_for()
    page.keyboard.press("5")
    page.get_by_text("3 of 48 labels").wait_for()
    fourth = page.locator(".reply").inner_text()
    page.keyboard.press("Control+s")
    page.wait_for_function("() => !document.querySelector('.jp-mod-dirty')")

    page.reload()
    field = opened(page)
    page.get_by_text("3 of 48 labels").wait_for()
    assert page.locator(".reply").inner_text() == fourth
    field.click()
    page.keyboard.press("u")
    page.get_by_text("2 of 48 labels").wait_for()
    page.close()
    labels = gold.read_labels(gold.label_path("pocket", "exp90", "ada"))
    assert list(labels["value"]) == [3, 4] and set(labels["task"]) == {"g1"}
    saved = (tmp_path / "label.ipynb").read_text()
    assert "2 of 48" not in saved and "says pocket_" not in saved
