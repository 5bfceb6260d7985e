"""A Slurm cluster of two nodes on this machine's loopback address: munged, slurmctld and two slurmd, in one folder.

python -m tests.slurm.cluster FOLDER    start it, print the variables that Slurm's commands need, and wait for Ctrl-C
"""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
NODES = ("nbh1", "nbh2")
INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", "slurm-wlm", "munge")
# The nodes share the machine's memory and cores, and each may promise all of them. A job that is requeued waits as long as
# a credential lasts (cred_expire), two minutes unless said otherwise.
CONFIGURATION = """
ClusterName=nbh
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
MinJobAge=300
KillWait=5
SlurmctldTimeout=60
SlurmdTimeout=60
JobRequeue=1
SlurmdParameters=config_overrides
NodeName=nbh1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs={cores} RealMemory={memory} State=UNKNOWN
NodeName=nbh2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=nbh Nodes=nbh1,nbh2 Default=YES MaxTime=1440 State=UP
"""


class Unavailable(RuntimeError):
    """Slurm cannot run here; the message is one sentence."""


def program(name: str) -> str | None:
    """Return the path of a program, looked for also where Debian keeps daemons; None if it is not there."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def require(install: bool = False) -> None:
    """Raise Unavailable if Slurm is not installed; install: try Debian's packages first, which needs root."""
    lacking = [name for name in PROGRAMS if not program(name)]
    if lacking and install and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(INSTALL, capture_output=True, timeout=300, check=False)
        lacking = [name for name in PROGRAMS if not program(name)]
    if lacking:
        raise Unavailable(f"{lacking[0]} is not installed: as root, run `{' '.join(INSTALL)}`.")


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody listens on."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Cluster:
    """A running cluster. Its commands find it by SLURM_CONF and PATH, which `environment` holds."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = os.environ | {
            "SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{folder}/bin:{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        }  # fmt: skip
        self.daemons: dict[str, subprocess.Popen] = {}

    def configure(self, cores: int, memory: int) -> None:
        """Write the configuration and the key of munge; memory: MiB of each node."""
        for name in ("bin", "state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        controller, first, second = free_ports(3)
        text = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0], user=getpass.getuser(), folder=self.folder, cores=cores,
            memory=memory, controller=controller, first=first, second=second,
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text)
        # Snakemake takes SLURM_CONF from the environment of srun, which elsewhere reads the system's configuration.
        srun = self.folder / "bin/srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {program("srun")} "$@"\n')
        srun.chmod(0o755)
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)

    def daemon(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of a session of its own; what it prints goes to `<name>.out`."""
        with open(self.folder / f"{name}.out", "a") as out:
            words = [program(command[0]), *command[1:]]
            self.daemons[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment, start_new_session=True
            )  # fmt: skip

    def start(self) -> None:
        """Start all daemons, and wait until both nodes take jobs; Unavailable if they do not."""
        own = [f"--{key}={self.folder}/munge.{ending}" for key, ending in
               (("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"),
                ("seed-file", "seed"))]  # fmt: skip
        self.daemon("munged", "munged", "--foreground", "--force", *own)
        self.wait_for(lambda: (self.folder / "munge.socket").exists(), "munged makes no socket")
        self.start_controller()
        for node in NODES:
            self.daemon(node, "slurmd", "-D", "-N", node)
        self.wait_for(lambda: all(self.state(node) == "idle" for node in NODES), "its nodes take no jobs")

    def start_controller(self) -> None:
        """Start slurmctld, which takes up the state that an earlier one left."""
        self.daemon("slurmctld", "slurmctld", "-D")

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End one daemon; kill it if it does not end within ten seconds."""
        job = self.daemons.pop(name)
        with contextlib.suppress(ProcessLookupError):
            job.send_signal(number)
        try:
            job.wait(10)
        except subprocess.TimeoutExpired:
            job.kill()
            job.wait()

    def end(self) -> None:
        """Cancel all jobs and end all daemons, munged last."""
        if "slurmctld" in self.daemons:
            subprocess.run(
                ["scancel", "--user", getpass.getuser()], env=self.environment, timeout=20, check=False
            )
            with contextlib.suppress(Unavailable):
                self.wait_for(lambda: not self.jobs("RUNNING,COMPLETING"), "jobs do not end", 10)
        for name in reversed(list(self.daemons)):
            self.stop(name)

    def say(self, *command: str) -> str:
        """Return what one of Slurm's commands prints; "" where it fails, as while the controller is down."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() if done.returncode == 0 else ""

    def state(self, node: str) -> str:
        """Return a node's state, such as idle, mixed or drained."""
        return self.say("sinfo", "--noheader", "--nodes", node, "--format", "%T")

    def jobs(self, states: str) -> dict[str, tuple[str, str]]:
        """Return {job id: (node, comment)} of the jobs in these states; the comment names rule and model."""
        found = self.say("squeue", "--noheader", f"--states={states}", "--format", "%i|%N|%k")
        return {
            job: (node, comment) for job, node, comment in (line.split("|") for line in found.splitlines())
        }

    def wait_for(self, condition, complaint: str, seconds: float = 30) -> None:
        """Wait until a condition holds; Unavailable, with the complaint, where it does not in time."""
        end = time.time() + seconds
        while not condition():
            if time.time() > end:
                raise Unavailable(f"Slurm runs here, but {complaint}; its logs are in {self.folder}.")
            time.sleep(0.2)


@contextlib.contextmanager
def running(folder: Path, cores: int, memory: int) -> Iterator[Cluster]:
    """Yield a cluster that takes jobs, with this many cores and MiB of memory on each node; end all of it afterwards."""
    cluster = Cluster(folder)
    cluster.configure(cores, memory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def main(folder: Path) -> None:
    """Start a cluster in a new folder and keep it until an interrupt."""
    require(install=True)
    folder.mkdir(parents=True)
    with (
        running(folder.resolve(), cores=os.cpu_count() or 1, memory=8000),
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(
            f"export SLURM_CONF={folder.resolve()}/slurm.conf PATH={folder.resolve()}/bin:$PATH", flush=True
        )
        signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
