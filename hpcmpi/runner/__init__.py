"""One job from start to end: MPI up, guards, costs, warm-up, run, verify, store, report.

* :mod:`~hpcmpi.runner.guard`: how a job ends early: errors, signals, the watchdog, one message, no hang;
* :mod:`~hpcmpi.runner.status`: the status file;
* :mod:`~hpcmpi.runner.placement`: the node of each rank, and its threads;
* :mod:`~hpcmpi.runner.checks`: what is refused before anything is allocated;
* :mod:`~hpcmpi.runner.provenance`: what the file says about how it came about;
* :mod:`~hpcmpi.runner.checkpoint`: when a job checkpoints, and goes on from there;
* :mod:`~hpcmpi.runner.report`: progress, the summary, the table of costs;
* :mod:`~hpcmpi.runner.job`: the steps in their order;
* :mod:`~hpcmpi.runner.pricing`: what many jobs would cost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from hpcmpi import leftovers, mpi_library, pmi
from hpcmpi.errors import Status
from hpcmpi.launch import SLEEPING_WAITS, end_before_mpi, end_without_library, ignore_signals, leave
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
        from hpcmpi.store.writer import discard_unpublished

        guard.on_end.append(lambda _status, _reason: discard_unpublished())
        return run_job(job, launch, placement, guard)

    return _guarded(launch, work, timeout=job.timeout, threads=job.threads)


def on_all_ranks(launch: Launch, work: Callable[[MPI.Comm], int]) -> int:
    """Exit status of a command's ``work(world)``, done by all ranks and guarded as a job is."""

    def checked(placement: Placement, guard: Guard) -> int:
        from mpi4py import MPI

        from hpcmpi import threads
        from hpcmpi.runner import checks
        from hpcmpi.runner.provenance import versions
        from hpcmpi.store.writer import discard_unpublished

        guard.on_end.append(lambda _status, _reason: discard_unpublished())
        checks.same_launch(MPI.COMM_WORLD, launch, None)
        checks.same_versions(MPI.COMM_WORLD, versions())
        threads.limit(placement.threads.count)
        return work(MPI.COMM_WORLD)

    return _guarded(launch, checked)


def start_mpi(launch: Launch) -> int | None:
    """Start MPI, with the settings that its libraries need; the exit status if the process has no room or library."""
    if (shortage := lacking()) is not None:
        return end_before_mpi(launch, Status.RESOURCES, shortage)
    mpi_library.configure()
    if crowded():
        for name, value in SLEEPING_WAITS.items():
            os.environ.setdefault(name, value)
    pmi.relay()
    try:
        import mpi4py

        # Its fast reductions of Python objects duplicate each communicator on first use, and hold the interpreter's
        # lock until all ranks have come: a rank that waits there for one that hangs could not act on signals.
        mpi4py.rc.fast_reduce = False
        from mpi4py import MPI  # noqa: F401 - MPI starts when it is imported
    except (ImportError, RuntimeError) as error:
        return end_without_library(launch, error)
    return None


def _guarded(
    launch: Launch,
    work: Callable[[Placement, Guard], int],
    *,
    timeout: float | None = None,
    threads: int | None = None,
) -> int:
    """Exit status of ``work``, after MPI has come up; an error of it ends all ranks, with one message."""
    parent = os.getppid()
    if (failed := start_mpi(launch)) is not None:
        return failed
    from mpi4py import MPI

    from hpcmpi.runner.guard import Guard
    from hpcmpi.runner.placement import place

    guard = Guard(MPI.COMM_WORLD, launch, timeout, parent)
    try:
        placement = place(MPI.COMM_WORLD, threads)
        guard.speak_after(placement.node_index)
        if placement.node.rank == 0:
            leftovers.remove_stale()
        status = common_status(MPI.COMM_WORLD, work(placement, guard))
    except BaseException as error:
        status = guard.fail(error)
    guard.release()
    if launch.size not in (None, MPI.COMM_WORLD.size):
        leave(launch, status)
    elif status != Status.DONE:
        MPI.COMM_WORLD.Barrier()  # the launcher may end all ranks for the first that exits: rank 0 reports before
    ignore_signals()
    return status


def common_status(world: MPI.Comm, status: int) -> int:
    """The highest of the statuses of all ranks: of several, launchers return the highest, any, or their bitwise OR."""
    from mpi4py import MPI

    highest: int = world.allreduce(int(status), MPI.MAX)
    return highest
