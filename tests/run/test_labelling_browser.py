"""The labelling notebook in JupyterLab: keys become labels, a reload takes up where it was, no reply is saved."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from nbhelpers.core import params
from nbhelpers.measures import gold
from tests import labelled
from tests.stubs import REPOSITORY

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        not shutil.which("chromium"), reason="needs Debian's chromium (apt-get install chromium)"
    ),
]
SECONDS = 120
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
OWN = (
    "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"
)  # fmt: skip
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(tmp_path / "jupyter" / name) for name in OWN}
    own |= {"NBHELPERS_ROOT": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "JUPYTER_PREFER_ENV_PATH": "1"}
    options = ["--no-browser", "--allow-root", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    options += [f"--port={port}", f"--ServerApp.root_dir={tmp_path}"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/lab/tree/label.ipynb"
    try:
        answers(address, server, tmp_path / "lab.log")
        yield address
    finally:
        server.terminate()
        server.wait(30)


def answers(address, server, log):
    """Wait until a server answers; fail with its log if it does not."""
    end = time.time() + SECONDS
    while time.time() < end and server.poll() is None:
        try:
            return urllib.request.urlopen(address, timeout=5)
        except OSError:
            time.sleep(0.5)
    pytest.fail(log.read_text()[-2000:])


def opened(page):
    """Return the field for keys, after all cells were run."""
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.get_by_text("| Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    field = page.locator(".widget-text input")
    field.wait_for()
    return field


def test_three_labels_by_keys_then_a_reload_and_the_fourth(lab, tmp_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as run:
        chromium = run.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = chromium.new_page()
        page.set_default_timeout(SECONDS * 1000)
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
        chromium.close()
    labels = gold.read_labels(gold.label_path("pocket", "exp90", "ada"))
    assert list(labels["value"]) == [3, 4] and set(labels["task"]) == {"g1"}
    saved = (tmp_path / "label.ipynb").read_text()
    assert "2 of 48" not in saved and "says pocket_" not in saved
