"""Agreement on errors: all ranks go on, or all raise the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mpi4py import MPI

from hpcmpi.errors import HpcmpiError, ResourceError


@contextmanager
def agreement(comm: MPI.Comm) -> Iterator[None]:
    """Make the outcome of local work common: after the body either all ranks go on, or all raise the same error.

    The body must not communicate. Named errors and MemoryError are agreed on: the one of the lowest rank is raised
    everywhere, marked ``agreed``. Any other exception is a defect; it stays alone and ends the job.
    """
    error: HpcmpiError | None = None
    try:
        yield
    except HpcmpiError as caught:
        error = caught
    except MemoryError as caught:
        error = ResourceError(f"rank {comm.rank} ({MPI.Get_processor_name()}) is out of memory: {caught}".rstrip(": "))
    failed = comm.allreduce(comm.rank if error is not None else comm.size, MPI.MIN)
    if failed < comm.size:
        kind, text = comm.bcast((type(error), str(error)) if comm.rank == failed else None, failed)
        common: HpcmpiError = kind(text)
        common.agreed = comm.size
        raise common from error


def on_root(comm: MPI.Comm, work: Callable[[], Any]) -> Any:
    """Result of ``work()``, done by rank 0 alone; its error, if any, is raised on all ranks as in :func:`agreement`."""
    result: Any = None
    with agreement(comm):
        if comm.rank == 0:
            result = work()
    return comm.bcast(result)
