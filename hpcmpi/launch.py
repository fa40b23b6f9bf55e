"""What the launcher says about this process before MPI starts.

MPI cannot be asked before the command line is parsed (help and usage errors must cost nothing), and what it says later
may be wrong: a launcher that speaks another process-management interface than the MPI library leaves every process a
singleton that believes it is alone. The environment tells both.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from hpcmpi.errors import Status, message

_PATIENCE = 5.0  # seconds that a rank waits, before it exits with an error, for the others or for rank 0's message
_START_SECONDS = 2.0  # by which ranks of other nodes may start later

_LAUNCHERS = (  # name, rank, size; the first whose variables are set started this process
    ("Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI (Hydra's mpirun or srun --mpi=pmi2)", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


class Launch(NamedTuple):
    """Launcher, rank, size and node of this process, and the batch job and attempt that it belongs to.

    ``size`` is None where no launcher was found. ``job`` is empty outside a batch system; ``attempt`` counts from 0.
    """

    launcher: str | None
    rank: int
    size: int | None
    node: str
    job: str
    attempt: int


def detect(environ: Mapping[str, str] = os.environ) -> Launch:
    """Read the launch from the variables of Slurm, Hydra and Open MPI."""
    node = os.uname().nodename
    job = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("SLURM_JOB_ID", "")
    if job and "SLURM_ARRAY_TASK_ID" in environ:
        job = f"{job}_{environ['SLURM_ARRAY_TASK_ID']}"
    numbers = {name: int(value) for name, value in environ.items() if re.fullmatch("[0-9]{1,9}", value)}
    attempt = numbers.get("SLURM_RESTART_COUNT", 0)
    for launcher, rank, size in _LAUNCHERS:
        # SLURM_STEP_NUM_TASKS is missing in the batch script itself, which no srun started.
        if rank in numbers and size in numbers:
            return Launch(launcher, numbers[rank], numbers[size], node, job, attempt)
    return Launch(None, 0, None, node, job, attempt)


# Has MPICH's own waits sleep for a moment after so many looks in vain, where they would otherwise spin: for nodes with
# more ranks than cores, on which a rank that spins keeps the core from the one it waits for. Open MPI yields by itself.
SLEEPING_WAITS = {
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "1",
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT": "64",
}


def ranks_of_the_node(environ: Mapping[str, str] = os.environ) -> int:
    """Ranks that the launcher started on this node, 1 where it does not say."""
    for name in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"):  # Hydra's, Open MPI's
        if environ.get(name, "").isdecimal():
            return max(1, int(environ[name]))
    # Slurm writes 2(x3),1 for three nodes with two tasks each and one with one.
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        if match := re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part):
            counts += [int(match[1])] * int(match[2] or 1)
    node = environ.get("SLURM_NODEID", "0")
    return counts[int(node)] if node.isdecimal() and int(node) < len(counts) else 1


def mismatch(launch: Launch, world_size: int) -> str | None:
    """Why the world that MPI sees is not the one that was launched, or None where they agree."""
    if launch.size is None or launch.size == world_size:
        return None
    advice = (
        "the launcher and the MPI library do not speak the same process-management interface. "
        "Under Slurm use `srun --mpi=pmi2` for MPICH and its kin, `srun --mpi=pmix` for Open MPI "
        "(`srun --mpi=list` shows what there is); elsewhere use the mpirun that belongs to the MPI library "
        "(`hpcmpi doctor` names it)"
    )
    return f"{launch.launcher} started {launch.size} ranks, but MPI sees a world of {world_size}: {advice}"


def ends_all_for_one(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher may end all ranks as soon as one exits with an error, even if MPI has not started.

    ``srun -K1`` and Open MPI's mpirun do. Hydra, the mpirun of MPICH and Intel MPI, does not; it sets
    ``MPI_LOCALNRANKS``.
    """
    return "MPI_LOCALNRANKS" not in environ and ("SLURM_STEP_ID" in environ or "OMPI_COMM_WORLD_SIZE" in environ)


class RollCall:
    """The ranks of one node wait for each other without MPI, in a file that is named after their common parent.

    Every rank calls :meth:`claim` and later :meth:`answer`. The file goes when all have answered or one has waited in
    vain.
    """

    def __init__(self, launch: Launch, environ: Mapping[str, str] = os.environ) -> None:
        import tempfile

        self.local = ranks_of_the_node(environ)
        self._record = f"{launch.rank:<12}".encode()
        parent = os.getppid()
        name = f"hpcmpi-roll-call-{parent}-{_started(parent)}"
        self._path = os.path.join(tempfile.gettempdir(), name)  # noqa: PTH118 - pathlib would slow the start
        try:
            self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        except OSError:  # without the file nobody waits, and a message may appear once per rank
            self._file, self.local = os.memfd_create("roll call"), 1

    def claim(self) -> bool:
        """Whether this rank is the first of its node to come here."""
        os.write(self._file, self._record)
        return os.pread(self._file, len(self._record), 0) == self._record

    def answer(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait at most ``seconds``, or until ``stopped``, for the other ranks; return whether all have answered."""
        os.write(self._file, self._record)
        deadline = time.monotonic() + seconds
        while not self._complete() and time.monotonic() < deadline and not stopped():
            time.sleep(0.01)
        complete = self._complete()
        if complete or seconds:  # a rank that does not wait leaves the file to those that do
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(self._path), os.fstat(self._file)):  # noqa: PTH116 - as below
                    os.unlink(self._path)  # noqa: PTH108 - pathlib would slow the start
        return complete

    def heard(self, rank: int) -> bool:
        """Whether ``rank`` is one of the ranks that have called here."""
        size = os.fstat(self._file).st_size
        return f"{rank}" in os.pread(self._file, size, 0).decode().split()

    def _complete(self) -> bool:
        return os.fstat(self._file).st_size >= 2 * self.local * len(self._record)


def _started(process: int) -> str:
    """When ``process`` was started, in ticks since boot: process numbers are used again."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - as above
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return "0"


def leave(launch: Launch, status: int) -> None:
    """Wait until this rank can exit with ``status`` before MPI has started, or where the ranks share no MPI world.

    Rank 0 alone reports errors. A launcher that ends all ranks for one must not do so before rank 0 has written its
    message, nor may the SIGTERM that it sends replace the exit status of a rank that is about to exit by itself.
    """
    if launch.size in (None, 1) or not ends_all_for_one():
        return
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: terminated.append(number))
    ranks = RollCall(launch)
    ranks.claim()
    ranks.answer(_PATIENCE if status else 0.0, lambda: bool(terminated))
    if status and ranks.local != launch.size:
        # The other nodes: those without rank 0 wait for it, and rank 0 waits until they are ready for SIGTERM.
        deadline = time.monotonic() + (_START_SECONDS if ranks.heard(0) else _PATIENCE)
        while time.monotonic() < deadline and not terminated:
            time.sleep(0.01)
    ignore_signals()


def ignore_signals() -> None:
    """Ignore requests to end or to checkpoint from here on: this rank is about to exit with the status of all ranks.

    While Python ends, it removes handlers, and the signal would then kill the process; what is ignored stays ignored.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def end_without_library(launch: Launch, error: Exception) -> int:
    """Report that mpi4py, by its ``error``, finds no MPI library; return the exit status, or do not return.

    The message appears once per node. Where only some ranks lack the library, the others wait for them in MPI: Hydra
    does not end these when a process exits before MPI has started, unless a signal ends it.
    """
    if launch.size is None or launch.size == 1:
        _say_beneath(f"hpcmpi: error: rank {launch.rank} ({launch.node}): {no_library(error)}\n")
        return Status.LAUNCH
    ranks = RollCall(launch)
    if ranks.claim():
        _say_beneath(f"hpcmpi: error: rank {launch.rank} ({launch.node}): {no_library(error)}\n")
    all_lack_it = ranks.answer(_PATIENCE) and ranks.local == launch.size
    if not all_lack_it and not ends_all_for_one():
        os.kill(os.getpid(), signal.SIGKILL)
    ignore_signals()
    return Status.LAUNCH


def _say_beneath(text: str) -> None:
    """Write to the process's own standard error, beneath what keeps ranks from saying things P times."""
    stream = sys.__stderr__ or sys.stderr
    stream.write(message(text))
    stream.flush()


def no_library(error: Exception) -> str:
    """What to do where mpi4py, by its ``error``, finds no MPI library."""
    return (
        f"mpi4py finds no MPI library: {error}\n"
        f"Install the embedded one with `pip install 'hpcmpi[mpich]'`, or load the site's MPI module, "
        f"or name its library in MPI4PY_LIBMPI."
    )
