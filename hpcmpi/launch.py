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
from typing import NamedTuple, TextIO

from hpcmpi.errors import LaunchError, Status, cut, message, quoted
from hpcmpi.mpi_library import why_not_loaded

_PATIENCE = 5.0  # seconds that a rank waits, before it exits with an error, for the others or for rank 0's message
_START_SECONDS = 2.0  # by which ranks of other nodes may start later

_OPEN_MPI = "Open MPI's mpirun"
_LAUNCHERS = (  # name, rank, size; the first whose variables are set started this process
    (_OPEN_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
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


def number_of(name: str, environ: Mapping[str, str] = os.environ) -> int | None:
    """The whole number, 0 or more, in the environment variable ``name``; None where it is not set, or blank.

    Raises LaunchError for anything else.
    """
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise LaunchError(f"the environment variable {name} is {quoted(text)}: a whole number, 0 or more, is expected")
    return int(text)


def speaks(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is to report an error of the launch itself: not where a launcher's rank is above 0."""
    ranks = [environ[rank].strip() for _, rank, size in _LAUNCHERS if rank in environ and size in environ]
    return not any(rank.isdecimal() and int(rank[:18]) > 0 for rank in ranks[:1])


def detect(environ: Mapping[str, str] = os.environ) -> Launch:
    """Read the launch from the variables of Slurm, Hydra and Open MPI; LaunchError where they make no sense."""
    node = os.uname().nodename
    job = environ.get("SLURM_ARRAY_JOB_ID") or environ.get("SLURM_JOB_ID", "")
    if job and (task := environ.get("SLURM_ARRAY_TASK_ID")):
        job = f"{job}_{task}"
    attempt = number_of("SLURM_RESTART_COUNT", environ) or 0
    ranks_of_the_node(environ)  # here, so that what makes no sense is reported before anything relies on it
    for launcher, rank_name, size_name in _LAUNCHERS:
        # SLURM_STEP_NUM_TASKS is missing in the batch script itself, which no srun started.
        if rank_name not in environ or size_name not in environ:
            continue
        rank, size = number_of(rank_name, environ), number_of(size_name, environ)
        if rank is None and size is None:
            continue
        if rank is None or size is None or rank >= size:
            raise LaunchError(
                f"the environment variables {rank_name}={cut(environ[rank_name])} and "
                f"{size_name}={cut(environ[size_name])} are those of no rank: a rank below the number of ranks is "
                "expected, or neither variable"
            )
        return Launch(launcher, rank, size, node, job, attempt)
    return Launch(None, 0, None, node, job, attempt)


def is_terminal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether ``stream`` is a terminal that a person reads.

    Open MPI's mpirun gives its ranks a pseudo-terminal as standard output even if its own output goes to a file, so
    that below it no stream counts as a terminal.
    """
    return stream.isatty() and detect(environ).launcher != _OPEN_MPI


# Has MPICH's own waits sleep for a moment after so many looks in vain, where they would otherwise spin: for nodes with
# more ranks than cores, on which a rank that spins keeps the core from the one it waits for. Open MPI yields by itself.
SLEEPING_WAITS = {
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "1",
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT": "64",
}


def ranks_of_the_node(environ: Mapping[str, str] = os.environ) -> int:
    """Ranks that the launcher started on this node, 1 where it does not say."""
    for name in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"):  # Hydra's, Open MPI's
        if (ranks := number_of(name, environ)) is not None:
            return max(1, ranks)
    # Slurm writes 2(x3),1 for three nodes with two tasks each and one with one.
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        if match := re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,6})\))?", part):
            counts += [int(match[1])] * int(match[2] or 1)
    node = number_of("SLURM_NODEID", environ) or 0
    return max(1, counts[node]) if node < len(counts) else 1


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
    A rank that has waited so, or for the others in MPI, does not wait again.
    """
    if launch.size in (None, 1) or not ends_all_for_one() or signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        return
    ranks = RollCall(launch)
    ranks.claim()
    _wait_for_others(ranks, launch, status)


def _wait_for_others(ranks: RollCall, launch: Launch, status: int) -> None:
    terminated = _noted_terminations()
    ranks.answer(_PATIENCE if status else 0.0, lambda: bool(terminated))
    if status and ranks.local != launch.size:
        # The other nodes: those without rank 0 wait for it, and rank 0 waits until they are ready for SIGTERM.
        _stand_by(_START_SECONDS if ranks.heard(0) else _PATIENCE, terminated)
    ignore_signals()


def leave_unknown_launch() -> None:
    """Wait as :func:`leave` does, where the launcher's variables make no sense, so that nobody can be waited for."""
    if ends_all_for_one():
        _stand_by(_START_SECONDS if speaks() else _PATIENCE, _noted_terminations())
        ignore_signals()


def _noted_terminations() -> list[int]:
    """A list that grows with each SIGTERM, which does nothing else from here on."""
    terminated: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: terminated.append(number))
    return terminated


def _stand_by(seconds: float, terminated: list[int]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not terminated:
        time.sleep(0.01)


def ignore_signals() -> None:
    """Ignore requests to end or to checkpoint from here on: this rank is about to exit with the status of all ranks.

    While Python ends, it removes handlers, and the signal would then kill the process; what is ignored stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def end_without_library(launch: Launch, error: Exception) -> int:
    """Report that mpi4py, by its ``error``, finds no MPI library, as :func:`end_before_mpi` does."""
    return end_before_mpi(launch, Status.LAUNCH, why_not_loaded(error))


def end_before_mpi(launch: Launch, status: Status, reason: str) -> int:
    """Report why MPI cannot start in this process; return the exit status, or do not return.

    The message appears once per node. Where only some ranks are affected, the others wait for them in MPI: Hydra does
    not end these when a process exits before MPI has started, unless a signal ends it.
    """
    text = f"hpcmpi: error: rank {launch.rank} ({launch.node}): {reason}\n"
    if launch.size is None or launch.size == 1:
        _say_beneath(text)
        return status
    ranks = RollCall(launch)
    if ranks.claim():
        _say_beneath(text)
    if ends_all_for_one():
        _wait_for_others(ranks, launch, status)
        return status
    all_are_affected = ranks.answer(_PATIENCE) and ranks.local == launch.size
    if not all_are_affected:
        os.kill(os.getpid(), signal.SIGKILL)
    ignore_signals()
    return status


def _say_beneath(text: str) -> None:
    """Write to the process's own standard error, beneath what keeps ranks from saying things P times."""
    stream = sys.__stderr__ or sys.stderr
    stream.write(message(text))
    stream.flush()
