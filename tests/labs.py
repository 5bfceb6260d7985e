"""A running JupyterLab of a test's own, and a notebook opened in it by a headless Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest

from tests.stubs import REPOSITORY

SECONDS = 120
OWN = (
    "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"
)  # fmt: skip
needs_chromium = pytest.mark.skipif(
    not shutil.which("chromium"), reason="needs Debian's chromium (apt-get install chromium)"
)


@contextmanager
def serving(folder, notebook, **environment):
    """Yield the address of a notebook in a JupyterLab that serves `folder`, on a free port and without a token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(folder / "jupyter" / name) for name in OWN}
    own |= {"PYTHONPATH": str(REPOSITORY), "JUPYTER_PREFER_ENV_PATH": "1"} | environment
    options = ["--no-browser", "--allow-root", "--ServerApp.port_retries=0", "--IdentityProvider.token="]
    options += [f"--port={port}", f"--ServerApp.root_dir={folder}"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=os.environ | own, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/lab/tree/{notebook}"
    try:
        answers(address, server, folder / "lab.log")
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


def run_all(page):
    """Run all cells of the notebook that a page shows, once its kernel is idle."""
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.get_by_text("| Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
