"""Warm starts: a batch imports PyTorch, transformers and the rest once, and forks its runs and kernels from there.

    python -m nbhelpers.warm COMMAND …         run COMMAND with a server of warm processes beside it
    python -I -S nbhelpers/warm.py MODULE …    like `python -m MODULE …`, forked from that server

Those imports are most of the time of a small notebook. The second form, the client, stands for the forked process:
it lends it its streams, folder and environment, passes signals on, ends with its status, and takes it along when it
is killed. Where no server would give the same process (none runs, or a variable that imports read differs) the
client becomes `python -m MODULE …`.

Under the server JUPYTER_PATH leads to a kernel `python3` that starts through the client, so that whatever starts
kernels (papermill, nbval) starts them warm. Linux only; NBHELPERS_WARM=0 switches it off.

This file also runs as a script outside its package, so it imports little, and only from Python's own library.
"""

import contextlib
import json
import os
import signal
import socket
import sys

ADDRESS = "NBHELPERS_WARM"  # holds the server's socket
# Libraries only, never this package: its code may be edited while a batch runs.
LIBRARIES = (
    "torch", "transformers.modeling_utils", "transformers.generation", "transformers.models.auto.modeling_auto",
    "tokenizers", "nnsight.modeling.language", "scipy.stats", "pandas", "xarray", "h5netcdf.legacyapi", "altair",
    "typer", "papermill", "IPython", "ipykernel.kernelapp",
)  # fmt: skip
# What libraries read while they are imported; a fork cannot be given another value.
AT_IMPORT = ("OMP_", "MKL_", "OPENBLAS_", "HF_", "TRANSFORMERS_", "TORCH_", "PYTHON", "LD_")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STARTED = b"s"


def available() -> bool:
    """Return whether processes can be started warm here: on Linux, where it is not switched off."""
    return sys.platform == "linux" and os.environ.get(ADDRESS) != "0"


def with_server(command: list[str]) -> list[str]:
    """Return the command that runs `command` with a server beside it."""
    return [sys.executable, "-m", "nbhelpers.warm", *command]


def python_m() -> str:
    """Return the shell words that stand for `python -m` and start warm where they can."""
    return f"python -I -S {os.path.abspath(__file__)}" if available() else "python -m"


# ── the client: no imports beyond those above ───────────────────────────────────────────────────────────────


def client(arguments: list[str]) -> int:
    """Stand for a process that is forked as `python -m arguments`; return its exit status."""
    parent = os.getppid()
    stream = _asked(arguments)
    if stream is None:
        os.execv(sys.executable, [sys.executable, "-m", *arguments])
    stream.settimeout(1.0)
    while True:
        try:
            status = stream.recv(1)
            return status[0] if status else 1
        except TimeoutError:
            if os.getppid() != parent:  # Nobody waits for us any more; our end is the process's too.
                return 1


def _asked(arguments: list[str]) -> socket.socket | None:
    """Return a stream to the process that the server started, None where it started none."""
    wish = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    body, stream = json.dumps(wish).encode(), socket.socket(socket.AF_UNIX)
    try:
        stream.connect(os.environ.get(ADDRESS, ""))
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: stream.send(bytes([number])))
        socket.send_fds(stream, [b"%08d" % len(body)], [0, 1, 2])
        stream.sendall(body)
        return stream if stream.recv(1) == STARTED else None
    except OSError:
        return None


# ── the server: one thread, so that its forks are whole ─────────────────────────────────────────────────────


def serve(command: list[str]) -> int:
    """Run a command with a server of warm processes beside it, if it can be; return the command's exit status."""
    import shutil
    import subprocess
    import tempfile

    if not available():
        return subprocess.run(command).returncode
    # A socket's path holds about 100 characters.
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp"
    folder = tempfile.mkdtemp(prefix="nbh-warm-", dir=short)
    _write_kernel(folder)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{folder}/socket")
    listening.listen(128)
    woken = _wake_at_signals()
    found = os.environ.get("JUPYTER_PATH")
    settings = {ADDRESS: f"{folder}/socket", "JUPYTER_PATH": f"{folder}:{found}" if found else folder}
    main = subprocess.Popen(command, env=os.environ | settings)
    # Ctrl-C reaches the command too; a SIGTERM may be meant for this process alone. (Popen's own way to pass it
    # on might take the command's status, which is waited for below.)
    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(main.pid, number))
    status = _attend(listening, woken, main.pid)
    shutil.rmtree(folder, ignore_errors=True)
    return status


def _write_kernel(folder: str) -> None:
    """Write the specification of a kernel `python3` that starts through the client."""
    kernel = os.path.join(folder, "kernels", "python3")
    os.makedirs(kernel)
    argv = [sys.executable, "-I", "-S", os.path.abspath(__file__), "ipykernel_launcher"]
    specification = {
        "argv": [*argv, "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
    }
    with open(os.path.join(kernel, "kernel.json"), "w") as file:
        json.dump(specification, file)


def _wake_at_signals() -> int:
    """Return a pipe's end that can be read after every signal."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return woken


def _attend(listening: socket.socket, woken: int, main: int) -> int:
    """Start what is asked for, pass signals on and report ends, until the main process has ended with this status."""
    import selectors

    selector, streams = selectors.DefaultSelector(), {}
    selector.register(listening, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    while True:
        for pid, status in _ended():
            if pid == main:
                for left in streams:
                    _kill(left)
                return status
            _report(streams.pop(pid), status, selector)
        for key, _ in selector.select():
            if key.fileobj is listening:
                stream, _ = listening.accept()
                if pid := _start(stream, [listening, *streams.values()]):
                    streams[pid] = stream
                    selector.register(stream, selectors.EVENT_READ, data=pid)
                else:
                    stream.close()
            elif key.fileobj == woken:
                os.read(woken, 4096)
            elif not _pass_on(key.fileobj, key.data):
                selector.unregister(key.fileobj)


def _ended() -> list[tuple[int, int]]:
    """Return the child processes that have ended since, with their status as a shell gives it."""
    found = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        code = os.waitstatus_to_exitcode(status)
        found.append((pid, code if code >= 0 else 128 - code))


def _report(stream: socket.socket, status: int, selector) -> None:
    """Tell a client how its process ended."""
    if stream in selector.get_map():
        selector.unregister(stream)
    with contextlib.suppress(OSError):  # The client may have gone first.
        stream.sendall(bytes([status]))
    stream.close()


def _pass_on(stream: socket.socket, pid: int) -> bool:
    """Give a process the signals that came for it; kill it and return False if its client is gone."""
    try:
        numbers = stream.recv(64)
    except OSError:
        numbers = b""
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    if not numbers:
        _kill(pid)
    return bool(numbers)


def _kill(pid: int) -> None:
    """Kill a forked process and the group that it leads."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _start(stream: socket.socket, inherited: list[socket.socket]) -> int:
    """Return the number of the process forked for a client, 0 where it must start cold."""
    try:
        stream.settimeout(10)
        length, lent, _, _ = socket.recv_fds(stream, 8, 3)
        body = b""
        while len(body) < int(length):
            body += stream.recv(int(length) - len(body)) or int("the client hung up")
        stream.settimeout(None)
    except (OSError, ValueError):
        return 0
    wish = json.loads(body)
    if _at_import(os.environ) == _at_import(_defaults() | wish["environment"]):
        _import_libraries()
        pid = os.fork()
        if pid == 0:
            for left in [stream, *inherited]:
                left.close()
            _become(wish, lent)
        with contextlib.suppress(OSError):  # A client that is gone is noticed when its stream is read.
            stream.sendall(STARTED)
    else:
        pid = 0
    for descriptor in lent:
        os.close(descriptor)
    return pid


def _at_import(environment) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(AT_IMPORT)}


def _defaults() -> dict[str, str]:
    from nbhelpers import ENVIRONMENT

    return ENVIRONMENT


def _import_libraries() -> None:
    """Import, once, what the forked processes shall find; a missing library is theirs to name."""
    import gc
    import importlib

    if LIBRARIES[-1] in sys.modules:
        return
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection of every fork copies all its memory


def _become(wish: dict, lent: list[int]) -> None:
    """Run the wished module in this process, new from the fork, with the streams lent; never return."""
    import ctypes
    import runpy

    signal.set_wakeup_fd(-1)
    for number in (*FORWARDED, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2): without a server nobody could end this process
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    for own, descriptor in enumerate(lent):
        os.dup2(descriptor, own)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(_defaults() | wish["environment"])
    if "JPY_PARENT_PID" in os.environ:  # a kernel ends itself when its parent is another than this
        os.environ["JPY_PARENT_PID"] = str(os.getppid())
    os.chdir(wish["folder"])
    module, *arguments = wish["arguments"]
    sys.argv, sys.path[0] = [module, *arguments], wish["folder"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    sys.exit(client(sys.argv[1:]) if __spec__ is None else serve(sys.argv[1:]))
