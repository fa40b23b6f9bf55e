"""When a job checkpoints: on request by SIGUSR1 or SIGTERM, after which it ends, and every so many seconds.

The driver calls from :meth:`Keeper.run` on all ranks between two of its steps; there they agree on what to do.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI

from hpcmpi.comm import allreduce
from hpcmpi.errors import HpcmpiError, OutputError, Status
from hpcmpi.record import Result, Saved, Scalar, Snapshot
from hpcmpi.runner.guard import Guard
from hpcmpi.runner.report import print_out
from hpcmpi.runner.status import now
from hpcmpi.store.checkpoint import Checkpoints

_GO_ON, _DUE, _STOP = 0, 1, 2
Report = Callable[[float], None]


class Resumable(Protocol):
    """What the driver of an algorithm that can checkpoint offers beside the rest.

    The state of an unfinished run is in its problem; where ``run`` returns, the state is as ``prepare`` made it.
    """

    def resumable(self, params: Any) -> bool:
        """Whether a run of ``params`` has steps to checkpoint between."""

    def run(self, comm: MPI.Comm, problem: Any, report: Report, checkpoint: Callable[[], None]) -> Result:
        """Go on from the state of ``problem`` to the end; all ranks call ``checkpoint`` between two steps."""

    def save(self, comm: MPI.Comm, problem: Any) -> Snapshot:
        """The state of ``problem``, in arrays of global shape."""

    def restore(self, comm: MPI.Comm, problem: Any, saved: Saved) -> None:
        """Take the state that was saved, on any number of ranks."""


class Checkpointed(HpcmpiError):  # noqa: N818 - no error, but it ends the job as one does
    """The job ends after a checkpoint, to be resumed."""

    status = Status.CHECKPOINTED


class Keeper:
    """Checkpoints of a job as it runs; ``every`` in seconds, or None for those on request only."""

    def __init__(
        self, world: MPI.Comm, guard: Guard, driver: Resumable, files: Checkpoints, every: float | None
    ) -> None:
        self._world, self._guard, self._driver, self._files, self._every = world, guard, driver, files, every
        self.resumed = 0  # times that this job has gone on from a checkpoint
        self._last = time.monotonic()

    def restore(self, problem: Any) -> tuple[list[float], float]:
        """Take the last checkpoint, if there is one; seconds of the repeats that are done, and of the begun one."""
        saved, faults = self._files.latest()
        if self._world.rank == 0:
            for fault in faults:
                print_out(f"hpcmpi: warning: checkpoint not taken: {fault}", sys.stderr)
        if saved is None:
            return [], 0.0
        self._driver.restore(self._world, problem, saved)
        self.resumed = int(saved.facts["resumed"]) + 1
        if self._world.rank == 0:
            print_out(f"hpcmpi: goes on from {saved.path}, of {saved.facts['written']}", sys.stderr)
        return json.loads(str(saved.facts["seconds_done"])), float(saved.facts["seconds_begun"])

    def run(self, problem: Any, report: Report, done: list[float], began: float) -> tuple[Result, float]:
        """The result, and the seconds that checkpoints took; ``began`` is when it would have begun in one go."""
        spent = 0.0

        def checkpoint() -> None:
            nonlocal spent
            due = self._every is not None and time.monotonic() - self._last >= self._every
            mine = _STOP if self._guard.stop_requested else _DUE if due else _GO_ON
            wanted = int(allreduce(self._world, np.array([mine]), MPI.MAX)[0])
            if wanted != _GO_ON:
                tic = time.perf_counter()
                self._write(problem, done, tic - began - spent, stop=wanted == _STOP)
                spent += time.perf_counter() - tic

        return self._driver.run(self._world, problem, report, checkpoint), spent

    @contextmanager
    def may_stop(self) -> Iterator[None]:
        """Here a SIGTERM asks for a checkpoint; elsewhere it ends the job. It comes before the phase is announced."""
        self._guard.can_checkpoint = True
        try:
            yield
        finally:
            self._guard.can_checkpoint = False

    def finish(self) -> None:
        """The last step is done: what asked the job to stop meanwhile, and was no mere request, ends it now."""
        self._guard.end_if_stopped()

    def _write(self, problem: Any, done: list[float], begun: float, *, stop: bool) -> None:
        """Write a checkpoint. Raises Checkpointed to ``stop``, and OutputError if a later attempt has taken over."""
        self._files.check_not_superseded()
        own = self._driver.save(self._world, problem)
        about: dict[str, Scalar] = {"seconds_done": json.dumps(done), "seconds_begun": begun, "resumed": self.resumed}
        about["written"] = now()
        try:
            path = self._files.write(dataclasses.replace(own, facts={**own.facts, **about}))
        except OutputError as error:
            if stop:
                raise
            if self._world.rank == 0:
                print_out(f"hpcmpi: warning: no checkpoint: {error}", sys.stderr)
        self._last = time.monotonic()
        if stop:
            end = Checkpointed(f"checkpointed in {path}; the same command goes on from there")
            end.agreed = self._world.size
            raise end

    def remove(self) -> None:
        """Remove the checkpoints: the result is there."""
        if self._world.rank == 0:
            self._files.remove()
