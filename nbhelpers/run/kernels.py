"""The kernels of runs: this environment's own Python, with sockets, settings and GPUs of their own."""

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from urllib.parse import quote

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

from nbhelpers.core import params
from nbhelpers.run import warm
from nbhelpers.run.locks import taken

# Every kernel is ended by an interrupt, which must not be shown as an error.
QUIET_KERNEL = ["--IPKernelApp.log_level=CRITICAL"]
# Left alone, glibc gives large blocks back to the system after each use and asks for them again: a tenth of the time of
# decoding in page faults. Other C libraries do not read these. 32 MiB is the most that it takes; then 256 MiB.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}
SCHEDULER = "NBHELPERS_SCHEDULER"  # set in jobs of a cluster, where the scheduler gives each its GPUs
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class OwnPython(KernelSpecManager):
    """Knows one kernel under every name, this environment's Python, whatever Jupyter's folders and JUPYTER_PATH hold."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return the kernel, which starts warm where a server runs."""
        argv = [*warm.python_m(), "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


@contextlib.contextmanager
def socket_kernel() -> Iterator[type[AsyncKernelManager]]:
    """Yield a class of kernel managers that use their own Unix sockets, because parallel runs compete for TCP ports."""
    # A socket's path holds about 100 characters, so a deep TMPDIR must not be part of it.
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="nbh-", dir=short, ignore_cleanup_errors=True) as folder:

        class SocketKernel(AsyncKernelManager):
            @default("transport")
            def _own_transport(self):
                return "ipc"

            @default("kernel_spec_manager")
            def _own_python(self):
                return OwnPython(parent=self)

            @default("ip")
            def _own_folder(self):
                return f"{folder}/k"

        yield SocketKernel


def gpus() -> list[str]:
    """Return the GPUs that this process may use: indices, or the identifiers in CUDA_VISIBLE_DEVICES."""
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        here = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        here = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return here if visible is None else listed(visible, len(here) or None)


def listed(visible: str, count: int | None = None) -> list[str]:
    """Return the GPUs of CUDA_VISIBLE_DEVICES as the driver reads it; count: how many there are, if that is known.

    The list ends at the first entry that names no GPU, such as -1 or none. An entry given twice leaves no GPU at all. The
    first entry's kind, a number or an identifier GPU-… or MIG-…, is that of all.
    """
    found: list[str] = []
    kind = next((prefix for prefix in ("GPU-", "MIG-") if visible.strip().startswith(prefix)), None)
    for entry in map(str.strip, visible.split(",")):
        number = re.match(r"\+?(\d+)", entry)  # the driver reads 1gpu as 1
        if kind and entry.startswith(kind):
            named = entry
        elif not kind and number and (count is None or int(number[1]) < count):
            named = str(int(number[1]))
        else:
            break
        if named in found:
            return []
        found.append(named)
    return found


@contextlib.contextmanager
def gpu_slots(count: int) -> Iterator[dict[str, str]]:
    """Yield the environment that gives a run `count` GPUs that no other run of this repository holds."""
    names = gpus() if count else []
    if not count or len(names) < count or os.environ.get(SCHEDULER):
        yield {}
        return
    folder, said = params.ROOT / "_build" / "gpu", False
    with contextlib.ExitStack() as held:
        mine = []
        while len(mine) < count:
            for name in names:
                if len(mine) < count and name not in mine and (file := taken(folder / quote(name, safe=""))):
                    held.enter_context(file)
                    mine.append(name)
            if len(mine) < count:
                if not said:
                    print("every GPU is taken by another run; waiting for one", flush=True)
                said = True
                time.sleep(1)
        yield {"CUDA_VISIBLE_DEVICES": ",".join(mine)}


def settings(profile: params.ProfileParams, local: bool) -> dict[str, str]:
    """Return the environment variables of a profile's runs: root, batch, threads, memory; local: never contact the hub."""
    wanted = {name: value for name, value in MEMORY.items() if name not in os.environ}
    wanted |= {"NBHELPERS_BATCH": "1", "NBHELPERS_ROOT": str(params.ROOT)}
    if profile.threads:
        wanted |= dict.fromkeys(THREADS, str(profile.threads))
    return wanted | ({"HF_HUB_OFFLINE": "1"} if local else {})


@contextlib.contextmanager
def kernel_environment(profile: params.ProfileParams, local: bool) -> Iterator[None]:
    """Give kernels that are started inside this block their profile's settings and GPUs of their own."""
    before = dict(os.environ)
    with gpu_slots(profile.gpus) as slots:
        os.environ.update(settings(profile, local) | slots)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
