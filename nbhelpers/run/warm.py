"""Warm starts: a batch imports PyTorch, transformers and other libraries once, then forks its runs and kernels.

    python -m nbhelpers.run.warm COMMAND …     run COMMAND with a server of warm processes beside it
    python -I -S nbhelpers/run/warm.py MODULE …    like `python -m MODULE …`, forked from that server

Those imports take most of the time of a small notebook. The second form, the client, represents the forked process.
The client lends it its streams, folder and environment, passes signals on, and ends with its status; if the client is
killed, the process is killed too. If no server can give an equivalent process (none runs, or a variable that libraries
read at import differs), the client becomes `python -m MODULE …`.

The kernels of runs start through the client too (`kernels`), and so do nbval's: under the server, JUPYTER_PATH points to
a kernel `python3` that does. This works on Linux with OMP_NUM_THREADS=1; NBHELPERS_WARM=0 switches it off.

This file also runs as a script outside its package, so it imports little, and only from the standard library.
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
    "typer", "papermill", "IPython", "ipykernel.ipkernel",
)  # fmt: skip
# Prefixes of variables that libraries read at import; a fork cannot be given other values of them.
AT_IMPORT = ("OMP_", "MKL_", "OPENBLAS_", "HF_", "TRANSFORMERS_", "TORCH_", "PYTHON", "LD_")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BLOCKED = (*FORWARDED, signal.SIGCHLD)
STARTED = b"s"


def available() -> bool:
    """Return whether processes can be started warm here: on Linux, with one thread each, unless it is switched off.

    Two forks of two threads each on two cores take five times as long as two processes started cold.
    """
    one = os.environ.get("OMP_NUM_THREADS") == "1"
    return sys.platform == "linux" and one and os.environ.get(ADDRESS) != "0"


def python_m() -> list[str]:
    """Return the command that starts a module like `python -m`: through the client where a server runs."""
    cold = os.environ.get(ADDRESS) in (None, "", "0")
    return [sys.executable, "-m"] if cold else [sys.executable, "-I", "-S", os.path.abspath(__file__)]


def with_server(command: list[str]) -> list[str]:
    """Return the command that runs `command` with a server beside it."""
    return [sys.executable, "-m", "nbhelpers.run.warm", *command]


# ── the client: no imports beyond those above ───────────────────────────────────────────────────────────────


def client(arguments: list[str]) -> int:
    """Return the exit status of a forked process, `python -m arguments`, which this process represents."""
    parent = os.getppid()
    # A signal that arrives in the meantime is meant for the process, whether it is forked or not.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    stream = _asked(arguments)
    if stream is not None:
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: stream.send(bytes([number])))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    if stream is None:
        os.execv(sys.executable, [sys.executable, "-m", *arguments])
    stream.settimeout(1.0)
    while True:
        try:
            status = stream.recv(1)
            return status[0] if status else 1
        except TimeoutError:
            if os.getppid() != parent:  # The parent is gone; when this client ends, the process ends too.
                return 1
        except OSError:
            return 1


def _asked(arguments: list[str]) -> socket.socket | None:
    """Return a stream to the process that the server started, None if it started none."""
    wish = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    body, stream = json.dumps(wish).encode(), socket.socket(socket.AF_UNIX)
    try:
        stream.connect(os.environ.get(ADDRESS, ""))
        socket.send_fds(stream, [b"%08d" % len(body)], [0, 1, 2])
        stream.sendall(body)
        return stream if stream.recv(1) == STARTED else None
    except OSError:
        return None


# ── the server: no threads of its own, so that its forks are whole ──────────────────────────────────────────


def serve(command: list[str]) -> int:
    """Return the exit status of a command that runs with a server of warm processes beside it, if one can run here."""
    import shutil
    import subprocess
    import tempfile

    # A socket's path holds about 100 bytes.
    short = tempfile.gettempdir() if len(os.fsencode(tempfile.gettempdir())) < 60 else "/tmp"
    try:
        if not available():
            raise OSError("there are no warm starts here")
        folder, listening = tempfile.mkdtemp(prefix="nbh-warm-", dir=short), socket.socket(socket.AF_UNIX)
        _write_kernel(folder)
        listening.bind(f"{folder}/socket")
    except OSError:
        os.execvp(command[0], command)
    listening.listen(128)
    woken, server, main = _wake_at_signals(), os.getpid(), None

    def stop(number, frame):
        if main:  # Popen's own method might collect the exit status that `_attend` waits for.
            with contextlib.suppress(ProcessLookupError):
                os.kill(main.pid, number)

    # Ctrl-C reaches the command too; a SIGTERM may be meant for this process alone.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.signal(signal.SIGTERM, stop)
    found = os.environ.get("JUPYTER_PATH")
    settings = {ADDRESS: f"{folder}/socket", "JUPYTER_PATH": f"{folder}:{found}" if found else folder}
    try:
        main = subprocess.Popen(command, env=os.environ | settings)
        return _attend(listening, woken, main.pid)
    finally:
        if os.getpid() == server:  # A forked process also runs this block when it ends.
            shutil.rmtree(folder, ignore_errors=True)


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
    """Return the reading end of a pipe that every signal makes readable."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return woken


def _attend(listening: socket.socket, woken: int, main: int) -> int:
    """Return the main process's exit status; until it ends, start processes, pass signals on and report exits to clients."""
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
            if stream := streams.pop(pid, None):
                _report(stream, status, selector)
        for key, _ in selector.select():
            if key.fileobj is listening:
                stream, _ = listening.accept()
                wish, lent = _wish(stream)
                pid = _forked(stream) if wish else None
                if pid == 0:
                    for left in (listening, stream, *streams.values()):
                        left.close()
                    _become(wish, lent)
                for descriptor in lent:
                    os.close(descriptor)
                if pid:
                    streams[pid] = stream
                    selector.register(stream, selectors.EVENT_READ, data=pid)
                else:
                    stream.close()
            elif key.fileobj == woken:
                os.read(woken, 4096)
            elif not _pass_on(key.fileobj, key.data):
                selector.unregister(key.fileobj)


def _ended() -> list[tuple[int, int]]:
    """Return the child processes that have ended since the last call, with their status as a shell gives it."""
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
    """Pass signals from a client on to its process; if the client is gone, kill the process and return False."""
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


def _wish(stream: socket.socket) -> tuple[dict | None, list[int]]:
    """Return a client's request, None if a fork could not meet it, and the file descriptors that the client lends."""
    body, lent = b"", []
    try:
        stream.settimeout(10)
        length, lent, _, _ = socket.recv_fds(stream, 8, 3)
        while len(body) < int(length):
            if not (more := stream.recv(int(length) - len(body))):
                return None, lent
            body += more
        stream.settimeout(None)
        wish = json.loads(body)
        same = _at_import(os.environ) == _at_import(_defaults() | wish["environment"])
    except (OSError, ValueError, KeyError):
        return None, lent
    return (wish if same else None), lent


def _forked(stream: socket.socket) -> int | None:
    """Return the id of a process forked for a client, None if the fork failed; in the forked process, return 0."""
    try:
        _import_libraries()
        # The fork must not handle signals as the server does; `_become` unblocks them.
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
        pid = os.fork()
    except Exception as error:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
        print(f"No warm start: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
        with contextlib.suppress(OSError):  # A client that is gone is noticed when its stream is read.
            stream.sendall(STARTED)
    return pid


def _at_import(environment) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(AT_IMPORT)}


def _defaults() -> dict[str, str]:
    from nbhelpers import ENVIRONMENT

    return ENVIRONMENT


def _import_libraries() -> None:
    """Import the libraries for the forked processes, once; missing ones are reported by the processes."""
    import gc
    import importlib

    if LIBRARIES[-1] in sys.modules:
        return
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # otherwise the first collection in every fork would copy all its memory


def _become(wish: dict, lent: list[int]) -> None:
    """Run the requested module in this newly forked process, with the lent streams; never return."""
    import ctypes
    import runpy
    import tempfile
    import time

    server = os.getppid()
    os.setpgid(0, 0)
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2): without a server nobody could end this process
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for number in BLOCKED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    for own, descriptor in enumerate(lent):
        os.dup2(descriptor, own)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(_defaults() | wish["environment"])
    if "JPY_PARENT_PID" in os.environ:  # a kernel ends itself when its parent is another process
        os.environ["JPY_PARENT_PID"] = str(server)
    tempfile.tempdir = None
    time.tzset()
    os.chdir(wish["folder"])
    module, *arguments = wish["arguments"]
    sys.argv, sys.path[0] = [module, *arguments], wish["folder"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    sys.exit(client(sys.argv[1:]) if __spec__ is None else serve(sys.argv[1:]))
