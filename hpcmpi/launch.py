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
from collections.abc import Mapping
from typing import NamedTuple

from hpcmpi.errors import LaunchError, Status

_SHOWN = 200  # characters of a value that a message quotes
_PATIENCE = 3.0  # seconds for the other ranks of a node to find out, too, that there is no MPI

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


def number_of(name: str, environ: Mapping[str, str] = os.environ) -> int | None:
    """The whole number, 0 or more, in the environment variable ``name``; None where it is not set, or blank.

    Raises LaunchError for anything else.
    """
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise LaunchError(
            f"the environment variable {name} is {text[:_SHOWN]!r}: a whole number, 0 or more, is expected"
        )
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
    for launcher, rank_name, size_name in _LAUNCHERS:
        # SLURM_STEP_NUM_TASKS is missing in the batch script itself, which no srun started.
        if rank_name not in environ or size_name not in environ:
            continue
        rank, size = number_of(rank_name, environ), number_of(size_name, environ)
        if rank is None and size is None:
            continue
        if rank is None or size is None or rank >= size:
            raise LaunchError(
                f"the environment variables {rank_name}={environ[rank_name][:_SHOWN]} and "
                f"{size_name}={environ[size_name][:_SHOWN]} are those of no rank: a rank below the number of ranks is "
                "expected, or neither variable"
            )
        return Launch(launcher, rank, size, node, job, attempt)
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


def end_without_library(launch: Launch, error: Exception) -> int:
    """Say what to do where mpi4py, by its ``error``, finds no MPI library; return the exit status, or do not return.

    Said once a node. Where only some ranks lack the library, the others wait in MPI for these: a launcher does not end
    them when a process ends before MPI has begun, unless it ends by a signal.
    """
    if launch.size is None or launch.size == 1:
        _say_beneath(f"hpcmpi: error: rank {launch.rank} ({launch.node}): {no_library(error)}\n")
        return Status.LAUNCH
    import tempfile
    import time

    local = ranks_of_the_node()
    claims = os.path.join(tempfile.gettempdir(), f"hpcmpi-no-mpi-{os.getppid()}")  # noqa: PTH118 - of the launcher's
    mine = f"{launch.rank:<12}".encode()
    try:
        descriptor = os.open(claims, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        os.write(descriptor, mine)
        first = os.pread(descriptor, len(mine), 0) == mine
    except OSError:  # told twice is better than not at all
        descriptor, first = os.memfd_create("claims"), True
    if first:
        _say_beneath(f"hpcmpi: error: rank {launch.rank} ({launch.node}): {no_library(error)}\n")
    deadline = time.monotonic() + _PATIENCE
    while os.fstat(descriptor).st_size < local * len(mine) and time.monotonic() < deadline:
        time.sleep(0.01)
    all_lack_it = os.fstat(descriptor).st_size >= launch.size * len(mine)
    with contextlib.suppress(OSError):
        os.unlink(claims)  # noqa: PTH108 - pathlib would slow the start
    if not all_lack_it:
        os.kill(os.getpid(), signal.SIGKILL)
    return Status.LAUNCH


def _say_beneath(text: str) -> None:
    """Write to the process's own standard error, beneath what keeps ranks from saying things P times."""
    stream = sys.__stderr__ or sys.stderr
    stream.write(text)
    stream.flush()


def no_library(error: Exception) -> str:
    """What to do where mpi4py, by its ``error``, finds no MPI library."""
    return (
        f"mpi4py finds no MPI library: {error}\n"
        f"Install the embedded one with `pip install 'hpcmpi[mpich]'`, or load the site's MPI module, "
        f"or name its library in MPI4PY_LIBMPI."
    )
