"""Price many jobs in one process: ``python -m hpcmpi.runner.pricing`` reads jobs and writes what each would cost.

Standard input holds a pickled list of :class:`~hpcmpi.record.Job`, each with its number of ranks. Standard output gets
a JSON list: for each job its cheapest plan, as ``--explain --json`` shows it. The list ends with ``{"error": ...}``
where the inputs of a job cannot be used.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast

from mpi4py import MPI

from hpcmpi.errors import HpcmpiError
from hpcmpi.record import Job
from hpcmpi.runner.placement import Placement, place


@cache
def _placement(threads: int | None) -> Placement:
    """Where this process would run with so many threads; a communicator each, of which MPI has few."""
    return place(MPI.COMM_WORLD, threads)


def prices(jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
    """The cheapest plan of each job, or one ``error``, after which nothing follows."""
    _placement(None)  # before NumPy is loaded
    from hpcmpi.runner import job as steps

    measured = steps.profile(MPI.COMM_WORLD)
    for job in jobs:
        driver = cast("steps.Driver", importlib.import_module(f"hpcmpi.algorithms.{job.algorithm}.driver"))
        explained = dataclasses.replace(job, explain=True)
        try:
            params = driver.resolve(MPI.COMM_WORLD, job.params)
            plan, *_ = steps.plans(explained, params, 1, _placement(job.threads), measured)
        except HpcmpiError as error:
            yield {"error": str(error)}
            return
        yield dataclasses.asdict(plan)


if __name__ == "__main__":
    json.dump(list(prices(pickle.load(sys.stdin.buffer))), sys.stdout)  # noqa: S301 - from the process that started this
