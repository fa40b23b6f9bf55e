"""Messages whose lengths their receivers do not know beforehand."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.comm.messages import check_count, rest, traffic, wait


class Mail:
    """Messages between all ranks whose lengths their receivers do not know beforehand.

    ``room(items)`` gives the contiguous array to receive a message of so many items of ``dtype`` into. Nothing is
    received outside :meth:`until`. Messages are told apart by ``topic``, a small number.
    """

    def __init__(self, comm: MPI.Comm, dtype: np.dtype[Any], room: Callable[[int], NDArray[Any]]) -> None:
        self._comm, self._dtype, self._room = comm, dtype, room
        self._arriving: list[MPI.Request] = []
        self.received = 0

    def send(self, items: NDArray[Any], to: int, topic: int) -> MPI.Request:
        """Begin to send the contiguous ``items``, which may be none; they are busy until the request is done."""
        nbytes = items.nbytes
        check_count(nbytes)
        return self._comm.Isend([items, nbytes, MPI.BYTE], to, topic)

    def collect(self, topic: int) -> bool:
        """Receive what has come on ``topic``; tell whether anything has happened."""
        status, happened = MPI.Status(), False
        while (message := self._comm.Improbe(MPI.ANY_SOURCE, topic, status)) is not None:
            nbytes = status.Get_count(MPI.BYTE)
            into = self._room(nbytes // self._dtype.itemsize)
            self._arriving.append(message.Irecv([into, nbytes, MPI.BYTE]))
            traffic.add(nbytes)
            happened = True
        if self._arriving:
            done = MPI.Request.Testsome(self._arriving)
            if done:
                self.received += len(done)
                self._arriving = [request for request in self._arriving if request != MPI.REQUEST_NULL]
                happened = True
        return happened

    def settle(self) -> None:
        """Wait until all that has been begun to be received is there."""
        self.received += len(self._arriving)
        wait(self._arriving)
        self._arriving = []

    def until(self, topic: int, finished: Callable[[], bool]) -> None:
        """Receive what comes on ``topic`` until ``finished()``."""
        idle = time.perf_counter()
        while not finished():
            now = time.perf_counter()
            if self.collect(topic):
                idle = now
            else:
                rest(now - idle)
