"""Slurm's own commands: sbatch, squeue, scancel. Its accounting database is not needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hpcmpi.errors import UsageError

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
ACTIVE = ("CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "SUSPENDED", "STOPPED", "RESIZING")
_SECONDS = 60


class Element(NamedTuple):
    """A job or an element of an array in the queue: its state and the reason for it, in Slurm's words."""

    state: str
    reason: str


def available() -> bool:
    """Whether there is a Slurm to talk to."""
    return shutil.which("squeue") is not None


def submit(path: Path) -> str:
    """Job id of the script ``path``. Raises UsageError with sbatch's own words if it is refused."""
    return _ask(["sbatch", "--parsable", str(path)]).strip().partition(";")[0]


def queue() -> dict[str, Element]:
    """The user's jobs and array elements that Slurm still knows of, by ids such as ``12`` and ``12_0``."""
    found = {}
    for line in _ask(["squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r"]).splitlines():
        identity, state, reason = line.strip().split("|", 2)
        found[identity] = Element(state, "" if reason == "None" else reason)
    return found


def knows(job: str) -> bool:
    """Whether Slurm still knows ``job``, whoever's it is. Raises UsageError where Slurm does not answer."""
    try:
        return bool(_ask(["squeue", "-h", "-t", "all", "-j", job, "-o", "%i"]).strip())
    except UsageError as error:
        if "Invalid job id" in str(error):
            return False
        raise


def cancel(elements: Sequence[str]) -> None:
    """End ``elements``."""
    _ask(["scancel", *elements])


def _ask(command: list[str]) -> str:
    """What a command of Slurm prints. Raises UsageError if it is missing, silent for a minute, or refuses."""
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"{command[0]}: not found: there is no Slurm here. `hpcmpi run` runs the points on this machine; "
            "`hpcmpi submit --dry-run` only prints the script"
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise UsageError(f"{command[0]}: Slurm has not answered for {_SECONDS} s") from None
    if done.returncode != 0:
        raise UsageError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit status {done.returncode}'}")
    return done.stdout


def mpi_plugin() -> str:
    """The ``--mpi`` of srun that fits the MPI library of this environment, asked without starting MPI."""
    code = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return "pmix" if "Open MPI" in asked.stdout else "pmi2"  # MPICH and its kin
