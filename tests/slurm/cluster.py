"""A real Slurm of emulated nodes on this machine: munged, slurmctld, and a slurmd for each node.

On the loopback device only, in a folder and with keys and ports of its own. Every daemon is a child of this process,
and only these are ended.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
EDGE = "n5"  # in a partition of its own, where a test kills the daemon while others run
CPUS, MEGABYTES = 4, 4000  # that each node is declared to have
PACKAGES = "slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins libpmi2-0"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")


def why_not() -> str | None:
    """Why there can be no Slurm here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install {PACKAGES}"
    return None if os.geteuid() == 0 else "slurmd starts jobs as root only"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


class Cluster:
    """A cluster that is up; commands run with ``environment``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "HPCMPI_VENV": str(Path(sys.executable).parents[1]),
            "HPCMPI_CLUSTERS": str(folder / "no-profiles.toml"),
            "PATH": f"{Path(sys.executable).parent}:{_path()}",
        }

    def start(self) -> None:
        for name in ("state", "munge", *(f"{kind}.{node}" for kind in ("spool", "scratch") for node in (*NODES, EDGE))):
            (self.folder / name).mkdir()
        key = self.folder / "munge" / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(self._configuration())
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        munge = {
            "key-file": key,
            **{name: self.folder / "munge" / name for name in ("pid-file", "log-file", "seed-file")},
        }
        options = [f"--{name}={path}" for name, path in munge.items()]
        self._daemon("munged", "munged", "--foreground", "--force", f"--socket={self._socket}", *options)
        self.wait_for(self._socket.exists)
        self._daemon("slurmctld", "slurmctld", "-D", "-c")
        for node in (*NODES, EDGE):
            self.start_node(node)
        self.wait_for(lambda: self.ask("sinfo", "-h", "-p", "main", "-t", "idle", "-o", "%D", check=False) == "4")

    @property
    def _socket(self) -> Path:
        return self.folder / "munge" / "socket"

    def _daemon(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def start_node(self, node: str) -> None:
        self._daemon(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """As if the node's daemon had crashed: what it has started lives on."""
        self.daemons[node].kill()
        self.daemons.pop(node).wait()

    def _configuration(self) -> str:
        port, host, folder = _free_ports(2 + len(NODES)), socket.gethostname().split(".")[0], self.folder
        nodes = "\n".join(
            f"NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} Port={port + 1 + index} CPUs={CPUS} Boards=1 "
            f"SocketsPerBoard=1 CoresPerSocket={CPUS} ThreadsPerCore=1 RealMemory={MEGABYTES} State=UNKNOWN"
            for index, node in enumerate((*NODES, EDGE))
        )
        return f"""\
ClusterName=hpcmpi
# MPICH names its shared memory after the job, and what was killed leaves it
FirstJobId={random.randrange(1000, 1 << 24)}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={self._socket},cred_expire=1200
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
TmpFS={folder}/scratch.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
# no control groups, no accounting
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU={MEGABYTES // CPUS // 2}
# quick, for tests
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmdTimeout=6
SlurmctldTimeout=10
MessageTimeout=5
TCPTimeout=2
InactiveLimit=0
KillWait=5
MinJobAge=300
OverTimeLimit=0
CompleteWait=0
UnkillableStepTimeout=60
HealthCheckInterval=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
RebootProgram=/bin/true
{nodes}
PartitionName=main Nodes=n[1-4] Default=YES MaxTime=60 DefaultTime=5 PriorityTier=10 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=n[1-4] MaxTime=60 DefaultTime=5 PriorityTier=100 PreemptMode=OFF
PartitionName=edge Nodes={EDGE} MaxTime=60 DefaultTime=5 PriorityTier=10 PreemptMode=OFF
"""

    def run(self, *command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command that may fail."""
        return subprocess.run(
            list(map(str, command)), cwd=cwd, env=self.environment | variables, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip

    def ask(self, *command: object, check: bool = True) -> str:
        """What a command of Slurm prints."""
        done = self.run(*command, cwd=self.folder)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Slurm's word for a job or an element; empty if it has forgotten it."""
        return self.ask("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%T", check=False)

    def wait_for(self, what: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                queue = self.ask("squeue", "-r", "-t", "all", check=False)
                log = (self.folder / "slurmctld.log").read_text()[-3000:] if self.daemons else ""
                raise AssertionError(f"it never came; the queue:\n{queue}\n{log}")
            time.sleep(0.1)

    def wait(self, *jobs: str) -> list[str]:
        """Slurm's words for jobs that have ended."""
        under_way = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "PREEMPTED")
        self.wait_for(lambda: not any(word in self.state(job) for job in jobs for word in under_way), 240)
        return [self.state(job) for job in jobs]

    def release(self, element: str, *, orphaned: bool = False) -> None:
        """Let a requeued job begin: it would wait until the credentials of its attempt before have expired.

        Not before what serves the attempt before has ended (unless it is orphaned, on a node that is down): it would
        take the sockets of PMI2 away from the next one, which bear the same names.
        """
        self.wait_for(lambda: self.state(element) == "PENDING")
        (job,) = re.findall(r"^JobId=(\d+)", self.ask("scontrol", "show", "job", element))
        if not orphaned:
            self.wait_for(lambda: not any(title.startswith(f"slurmstepd: [{job}.") for title in _titles()))
        self.ask("scontrol", "update", f"jobid={element}", "StartTime=now")

    def stop(self) -> None:
        """End the jobs, then the daemons, then what these have left."""
        if "slurmctld" in self.daemons:
            self.ask("scancel", "--me", check=False)
            with contextlib.suppress(AssertionError):
                self.wait_for(lambda: not self.ask("squeue", "-h", check=False), 20)
        for name in (*(name for name in self.daemons if name in (*NODES, EDGE)), "slurmctld", "munged"):
            if name in self.daemons:
                daemon = self.daemons.pop(name)
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
        for process in self._orphans():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _orphans(self) -> Iterator[int]:
        """What a killed daemon of this cluster has left: they have its configuration, in a folder of its own."""
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                own = f"SLURM_CONF={self.environment['SLURM_CONF']}" in (path / "environ").read_text(errors="replace")
                if own and (path / "cmdline").read_text(errors="replace").startswith("slurmstepd: "):
                    yield int(path.name)


def _titles() -> Iterator[str]:
    """What all processes call themselves."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_text(errors="replace")


def _free_ports(count: int) -> int:
    """The first of so many consecutive ports that nobody listens at."""
    for first in range(17000, 30000, 50):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no free ports")
