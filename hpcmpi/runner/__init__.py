"""One job from start to end: MPI up, guards, costs, warm-up, run, verify, store, report.

* :mod:`~hpcmpi.runner.guard`: how a job ends early: errors, signals, the watchdog, one message, no hang;
* :mod:`~hpcmpi.runner.status`: the status file;
* :mod:`~hpcmpi.runner.placement`: the node of each rank, and its threads;
* :mod:`~hpcmpi.runner.checks`: what is refused before anything is allocated;
* :mod:`~hpcmpi.runner.provenance`: what the file says about how it came about;
* :mod:`~hpcmpi.runner.report`: progress, the summary, the table of costs;
* :mod:`~hpcmpi.runner.job`: the steps in their order.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hpcmpi.launch import end_without_library

if TYPE_CHECKING:
    from hpcmpi.launch import Launch
    from hpcmpi.record import Job


def run(job: Job, launch: Launch) -> int:
    """Run ``job`` on all ranks of the world and return its exit status, or end the process where ranks disagree."""
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # MPICH would add its own line to our message
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return end_without_library(launch, error)

    from hpcmpi.runner.guard import Guard
    from hpcmpi.runner.placement import place

    guard = Guard(MPI.COMM_WORLD, launch, job.timeout)
    try:
        placement = place(MPI.COMM_WORLD, job.threads)
        guard.speak_after(placement.node_index)
        from hpcmpi.runner.job import run_job  # NumPy comes here: its BLAS starts its threads when it is loaded

        status = run_job(job, launch, placement, guard)
    except BaseException as error:
        return guard.fail(error)
    guard.release()
    return status
