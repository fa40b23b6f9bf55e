"""Slurm's own commands: sbatch, squeue, scancel. Its accounting database is not needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hpcmpi.errors import UsageError, cut

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
ACTIVE = ("CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "SUSPENDED", "STOPPED", "RESIZING")
_SECONDS = 60
_OF_THE_SITE = (  # which Slurm to talk to and how
    "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT", "SLURM_SACK_JWKS",
    "SLURM_SACK_KEY", "SBATCH_CLUSTERS", "SBATCH_DEBUG",
)  # fmt: skip
_OF_THE_USER = {  # where jobs run and who pays, by default: variables, and the options of sbatch that they stand for
    "SBATCH_ACCOUNT": "--account|-A", "SBATCH_PARTITION": "--partition|-p", "SBATCH_QOS": "--qos|-q",
    "SBATCH_RESERVATION": "--reservation", "SBATCH_CONSTRAINT": "--constraint|-C", "SBATCH_WCKEY": "--wckey",
}  # fmt: skip


class Element(NamedTuple):
    """A job or an element of an array in the queue: its state and the reason for it, in Slurm's words."""

    state: str
    reason: str


def available() -> bool:
    """Whether there is a Slurm to talk to."""
    return shutil.which("squeue") is not None


def submit(path: Path) -> str:
    """Job id of the script ``path``. Raises UsageError with sbatch's own words if it is refused."""
    environment = _for_submission(os.environ, path.read_text())
    return _ask(["sbatch", "--parsable", str(path)], environment).strip().partition(";")[0]


def _for_submission(environ: Mapping[str, str], script: str) -> dict[str, str]:
    """``environ`` without what would change the job that ``script`` describes.

    SBATCH_* variables win over the lines of a script, and the job inherits the SLURM_* and SRUN_* variables of a shell
    inside an allocation, which srun takes for options. What the script leaves open may still come from the user's
    defaults.
    """
    kept = {
        name
        for name, option in _OF_THE_USER.items()
        if not re.search(rf"^#SBATCH ({option})\b(?!-)", script, re.MULTILINE)
    }
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(("SLURM_", "SBATCH_", "SRUN_")) or name in kept or name in _OF_THE_SITE
    }


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


def _ask(command: list[str], environment: Mapping[str, str] = os.environ) -> str:
    """What a command of Slurm prints. Raises UsageError if it is missing, silent for a minute, or refuses."""
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"{command[0]}: not found: there is no Slurm here. `hpcmpi run` runs the points on this machine; "
            "`hpcmpi submit --dry-run` only prints the script"
        )
    unfiltered = {name: value for name, value in environment.items() if not name.startswith(("SQUEUE_", "SCANCEL_"))}
    try:
        done = subprocess.run(
            command, env=unfiltered, capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UsageError(f"{command[0]}: Slurm has not answered for {_SECONDS} s") from None
    if done.returncode != 0:
        raise UsageError(f"{command[0]}: {cut(' '.join(done.stderr.split())) or f'exit status {done.returncode}'}")
    return done.stdout


def mpi_plugin() -> str:
    """The ``--mpi`` of srun that fits the MPI library of this environment, asked without starting MPI."""
    code = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return "pmix" if "Open MPI" in asked.stdout else "pmi2"  # MPICH and its kin
