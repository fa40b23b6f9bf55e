"""Who moves messages on while the caller computes: MPI moves nothing outside its own calls.

Where MPI can be called by any thread, a thread of the courier's makes all calls while the caller's is in BLAS, and
sleeps in between. Elsewhere, and where there are no messages but only shared memory, the caller's own thread looks
after them between two pieces of its work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from mpi4py import MPI

from hpcmpi.comm.messages import rest

_NAP = 5e-3  # seconds between two looks while the caller computes: sockets hold what a gigabit link moves meanwhile
_SHORTEST_NAP = 1e-4  # while it waits; the longer it has waited, the longer


class Carrier(Protocol):
    """What a courier moves on."""

    has_messages: bool

    def move(self) -> None:
        """Begin and complete what can be."""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do for this rank."""


class Courier:
    """Moves ``carriers`` on within a ``with`` statement, at whose end all of them have settled.

    ``seconds_waiting`` is what the caller has waited for them. While the body runs, and there is a ``thread``, the
    caller makes no MPI call of its own. None of this is collective.
    """

    def __init__(self, *carriers: Carrier) -> None:
        self._carriers = carriers
        self._messages = any(carrier.has_messages for carrier in carriers)
        threaded = self._messages and MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True) if threaded else None
        self._leaving, self._hurry, self._since = False, threading.Event(), 0.0
        self._error: BaseException | None = None
        self.seconds_waiting = 0.0

    @property
    def wants_looks(self) -> bool:
        """Whether messages move only when the caller looks after them."""
        return self._messages and self._thread is None

    def __enter__(self) -> Courier:
        """Begin."""
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait until all carriers have settled, or leave them after an error."""
        if kind is None:
            self.until(lambda: all(carrier.settled for carrier in self._carriers))
        self._leaving = True
        self._hurry.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Move on what no thread does."""
        if self._error is not None:
            raise self._error
        if self._thread is None:
            for carrier in self._carriers:
                carrier.move()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait asleep, and move on what no thread does, until ``condition()``."""
        self.look()
        tic = time.perf_counter()
        while not condition():
            self._since = tic
            self._hurry.set()
            rest(time.perf_counter() - tic)
            self.look()
        self._hurry.clear()
        self.seconds_waiting += time.perf_counter() - tic

    def _run(self) -> None:
        try:
            while not self._leaving:
                for carrier in self._carriers:
                    carrier.move()
                if self._hurry.wait(_NAP):
                    waited = time.perf_counter() - self._since
                    time.sleep(min(_NAP, max(_SHORTEST_NAP, waited / 8)))
        except BaseException as error:  # the caller's thread raises it
            self._error = error
