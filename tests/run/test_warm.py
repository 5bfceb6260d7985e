"""Warm starts: a forked process is the one that `python -m` would have been, and lives and dies with its client."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

from nbhelpers.run import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="warm starts are for Linux")
CLIENT = [sys.executable, "-I", "-S", warm.__file__]
# Says what it finds, then does what its first argument names.
PROBE = """
import json, os, signal, sys, time
signal.signal(signal.SIGINT, lambda number, frame: sys.exit(9))
mine = sorted(name for name in sys.modules if name.startswith("nbhelpers."))
print(json.dumps({
    "arguments": sys.argv[1:], "folder": os.getcwd(), "warm": "nnsight" in sys.modules, "mine": mine, "pid": os.getpid(),
    "name": __name__, "threads": os.environ.get("OMP_NUM_THREADS"), "given": os.environ.get("GIVEN"),
    "quiet": os.environ["TQDM_DISABLE"] if "nbhelpers" in sys.modules else None, "path": sys.path[0],
}), flush=True)
match sys.argv[1]:
    case "echo":
        print(sys.stdin.read().upper(), end="")
        print("to stderr", file=sys.stderr)
    case "exit":
        sys.exit(int(sys.argv[2]))
    case "fail":
        raise ValueError("a reason")
    case "draw":
        import random
        print(random.random())
    case "thread":
        import torch
        print(float((torch.ones(300, 300) @ torch.ones(300, 300)).sum()))
    case "wait":
        time.sleep(600)
"""


def ordinary(**changes):
    """Return this environment as a batch's would be: one thread, warm starts not switched off."""
    kept = {name: value for name, value in os.environ.items() if name != warm.ADDRESS}
    return kept | {"OMP_NUM_THREADS": "1"} | changes


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Yield the environment of a running server's command."""
    say = "import json, os, sys; print(json.dumps(dict(os.environ)), flush=True); sys.stdin.read()"
    server = subprocess.Popen(
        [sys.executable, "-m", "nbhelpers.run.warm", sys.executable, "-c", say], env=ordinary(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield json.loads(server.stdout.readline())
    server.stdin.close()
    assert server.wait(30) == 0


@pytest.fixture
def probe(tmp_path, served):
    """Return a function that starts the probe through the client, in a folder of its own."""
    (tmp_path / "probe.py").write_text(PROBE)

    def start(*arguments, client=CLIENT, **environment):
        return subprocess.Popen(
            [*client, "probe", *arguments], env=served | environment, cwd=tmp_path, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def said(process):
    """Return what the probe found when it started."""
    return json.loads(process.stdout.readline())


def gone(pid, seconds=30):
    """Return whether a process ends in time; one that nobody waits for may stay as a zombie."""
    end = time.time() + seconds
    while time.time() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_fork_is_the_process_that_was_asked_for(probe, tmp_path):
    process = probe("echo", "two words", GIVEN="ä")
    out, errors = process.communicate("some text\n", timeout=120)
    first, rest = out.split("\n", 1)
    found = json.loads(first)
    assert found["arguments"] == ["echo", "two words"] and found["name"] == "__main__"
    assert found["folder"] == found["path"] == str(tmp_path)
    assert found["given"] == "ä" and found["threads"] == "1" and found["quiet"] == "1"
    assert rest == "SOME TEXT\n" and errors == "to stderr\n" and process.returncode == 0


def test_a_fork_has_the_libraries_and_not_this_package(probe):
    found = said(probe("exit", "0"))
    assert found["warm"] and set(found["mine"]) <= {"nbhelpers.run"}  # the empty package around the server


def test_the_status_is_the_processs_own(probe):
    assert probe("exit", "7").wait(120) == 7
    process = probe("fail")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and errors.endswith("ValueError: a reason\n")


def test_forks_draw_numbers_of_their_own(probe):
    draws = {probe("draw").communicate(timeout=120)[0].splitlines()[-1] for _ in range(2)}
    assert len(draws) == 2


def test_a_fork_multiplies(probe):
    assert probe("thread").communicate(timeout=120)[0].splitlines()[-1] == str(300.0**3)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 9), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_signals_reach_the_process(probe, number, status):
    process = probe("wait")
    said(process)
    process.send_signal(number)
    assert process.wait(30) == status


def test_a_killed_client_takes_its_process_along(probe):
    process = probe("wait")
    pid = said(process)["pid"]
    process.kill()
    assert pid != process.pid and gone(pid)


def test_a_client_left_alone_takes_its_process_along(probe):
    process = probe("wait", client=["sh", "-c", '"$@"; true', "sh", *CLIENT])
    pid = said(process)["pid"]
    process.kill()
    assert gone(pid)


def test_another_number_of_threads_starts_cold(probe):
    found = said(probe("exit", "0", OMP_NUM_THREADS="2"))
    assert not found["warm"] and found["threads"] == "2"


@pytest.mark.parametrize("address", ["0", "/nowhere/socket", ""])
def test_without_a_server_the_client_becomes_the_process(probe, address):
    process = probe("exit", "7", **{warm.ADDRESS: address})
    assert not said(process)["warm"] and process.wait(120) == 7


def test_kernels_start_warm_and_can_be_interrupted(served, short_folder, monkeypatch):
    for name in ("JUPYTER_PATH", warm.ADDRESS, "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, served[name])
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(short_folder / "k"))
    manager.start_kernel(env=served)
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        reply = client.execute_interactive("import sys; assert 'nnsight' in sys.modules", timeout=60)
        assert reply["content"]["status"] == "ok"
        asked = client.execute("import time\nprint('now', flush=True)\ntime.sleep(600)")
        while client.get_iopub_msg(timeout=60)["content"].get("text") != "now\n":
            pass
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)
        assert reply["parent_header"]["msg_id"] == asked and reply["content"]["ename"] == "KeyboardInterrupt"
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    assert not manager.is_alive()


def test_a_signal_that_comes_early_is_the_processs(served, tmp_path):
    """While the server imports its libraries the client waits; a signal then ends the process and nothing else."""
    (tmp_path / "probe.py").write_text(PROBE)
    script = f"{shlex.join(CLIENT)} probe wait & sleep 1; kill -TERM $!; wait $!; echo $?"
    server = serve(tmp_path, script)
    out, _ = server.communicate(timeout=120)
    assert server.returncode == 0 and out.split()[-1] == "143"


def test_what_is_no_wish_does_the_server_no_harm(served, probe):
    for message in (b"", b"notanumb", b"00000005", b"00000002{}", b"00000003{a}"):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(served[warm.ADDRESS])
            stream.sendall(message)
    found = said(probe("exit", "0"))
    assert found["warm"]


def serve(tmp_path, script, new_session=False, **environment):
    """Return a running server whose command is a shell script, and which keeps its files in tmp_path."""
    return subprocess.Popen(
        [sys.executable, "-m", "nbhelpers.run.warm", "sh", "-c", script],
        env=ordinary(TMPDIR=str(tmp_path)) | environment,
        stdout=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=new_session,
    )  # fmt: skip


def test_the_server_ends_as_its_command_does_and_leaves_nothing(short_folder):
    server = serve(short_folder, "ls; exit 5")
    out, _ = server.communicate(timeout=60)
    assert server.returncode == 5 and out.startswith("nbh-warm-") and not list(short_folder.iterdir())


@pytest.mark.parametrize("setting", [{"OMP_NUM_THREADS": "2"}, {warm.ADDRESS: "0"}])
def test_without_warm_starts_the_command_runs_alone(short_folder, setting):
    server = serve(short_folder, f"ls; echo ${warm.ADDRESS}; exit 5", **setting)
    out, _ = server.communicate(timeout=60)
    assert server.returncode == 5 and out.strip() == setting.get(warm.ADDRESS, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_its_server(short_folder, number):
    (short_folder / "probe.py").write_text(PROBE)
    call = shlex.join(CLIENT)
    server = serve(short_folder, f"{call} probe wait & wait", new_session=True)
    pid = said(server)["pid"]
    os.killpg(server.pid, number)
    assert gone(pid) and server.wait(30) != 0


@pytest.fixture
def short_folder(tmp_path_factory):
    """Yield an empty folder whose path is short enough for a socket's."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)
