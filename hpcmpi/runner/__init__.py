"""One job from start to end: MPI up, guards, costs, warm-up, run, verify, store, report.

* :mod:`~hpcmpi.runner.guard`: how a job ends early: errors, signals, the watchdog, one message, no hang;
* :mod:`~hpcmpi.runner.status`: the status file;
* :mod:`~hpcmpi.runner.placement`: the node of each rank, and its threads;
* :mod:`~hpcmpi.runner.checks`: what is refused before anything is allocated;
* :mod:`~hpcmpi.runner.provenance`: what the file says about how it came about;
* :mod:`~hpcmpi.runner.checkpoint`: when a job checkpoints, and goes on from there;
* :mod:`~hpcmpi.runner.report`: progress, the summary, the table of costs;
* :mod:`~hpcmpi.runner.job`: the steps in their order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from hpcmpi import pmi
from hpcmpi.errors import Status
from hpcmpi.launch import SLEEPING_WAITS, end_without_library
from hpcmpi.machine import lacking
from hpcmpi.threads import crowded

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpcmpi.launch import Launch
    from hpcmpi.record import Job
    from hpcmpi.runner.guard import Guard
    from hpcmpi.runner.placement import Placement


def run(job: Job, launch: Launch) -> int:
    """Run ``job`` on all ranks of the world and return its exit status, or end the process where ranks disagree."""

    def work(placement: Placement, guard: Guard) -> int:
        from hpcmpi.runner.job import run_job  # NumPy comes here: its BLAS starts its threads when it is loaded

        return run_job(job, launch, placement, guard)

    return _guarded(launch, work, timeout=job.timeout, threads=job.threads)


def on_all_ranks(launch: Launch, work: Callable[[MPI.Comm], int]) -> int:
    """Exit status of a command's ``work(world)``, done by all ranks and guarded as a job is."""

    def checked(placement: Placement, _guard: Guard) -> int:
        from mpi4py import MPI

        from hpcmpi import threads
        from hpcmpi.runner import checks
        from hpcmpi.runner.provenance import versions

        checks.same_launch(MPI.COMM_WORLD, launch, None)
        checks.same_versions(MPI.COMM_WORLD, versions())
        threads.limit(placement.threads.count)
        return work(MPI.COMM_WORLD)

    return _guarded(launch, checked)


def _guarded(
    launch: Launch,
    work: Callable[[Placement, Guard], int],
    *,
    timeout: float | None = None,
    threads: int | None = None,
) -> int:
    """Exit status of ``work``, after MPI has come up; an error of it ends all ranks, with one message."""
    os.environ.setdefault("MPIR_CVAR_SUPPRESS_ABORT_MESSAGE", "1")  # MPICH would add its own line to our message
    if crowded():
        for name, value in SLEEPING_WAITS.items():
            os.environ.setdefault(name, value)
    if (shortage := lacking()) is not None:
        if launch.rank == 0:
            sys.stderr.write(f"hpcmpi: error: {shortage}\n")
        return Status.RESOURCES
    pmi.relay()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return end_without_library(launch, error)

    from hpcmpi.runner.guard import Guard
    from hpcmpi.runner.placement import place

    guard = Guard(MPI.COMM_WORLD, launch, timeout)
    try:
        placement = place(MPI.COMM_WORLD, threads)
        guard.speak_after(placement.node_index)
        status = work(placement, guard)
    except BaseException as error:
        return guard.fail(error)
    guard.release()
    return status
