"""The sum of all ranks' parts, one part for each rank, of which each travels as soon as it is given.

A reduce-scatter in which the caller decides when which part leaves. Rank r gives the parts of ranks r + 1, r + 2, ...,
and so part r comes first from rank r - 1, then from r - 2, and so on. What comes is added in this order, whatever the
network does, in pieces through a few buffers: the same sum to the bit in every run.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.comm.messages import check_count, traffic
from hpcmpi.partition import Range, pieces


class Fold:
    """Into ``out`` (rows, columns), this rank's part, goes the sum of what the other ranks of ``comm`` give for it.

    Parts travel in pieces of at most ``rows`` rows, each received into one of ``buffers``. ``seconds_adding`` is what
    this rank has spent on additions.
    """

    def __init__(self, comm: MPI.Comm, out: NDArray[Any], rows: int, buffers: int) -> None:
        self._comm, self._out, self._rows = comm, out, rows
        self._given: deque[tuple[int, NDArray[Any]]] = deque()
        self._sends: list[MPI.Request] = []
        order = [(comm.rank - d) % comm.size for d in range(1, comm.size)]
        self._coming = deque((source, piece) for source in order for piece in pieces(Range(0, len(out)), rows))
        self._to_give, self._to_add = comm.size - 1, len(self._coming)
        self._first = order[0] if order else comm.rank
        self._arriving: deque[tuple[MPI.Request, int, Range, NDArray[Any]]] = deque()
        wanted = min(buffers, len(self._coming))
        self._free = [np.empty((min(rows, len(out)), out.shape[1]), out.dtype) for _ in range(wanted)]
        self.has_messages = comm.size > 1
        self.seconds_adding = 0.0

    def give(self, rank: int, part: NDArray[Any]) -> None:
        """Have the C-contiguous ``part`` sent to ``rank``; it is busy until this rank has settled. Once a rank."""
        self._given.append((rank, part))

    def move(self) -> None:
        """Send, receive and add what can be. By one thread at a time."""
        while self._given:
            rank, part = self._given.popleft()
            for piece in pieces(Range(0, len(part)), self._rows):
                check_count(part[piece.slice].size)
                self._sends.append(self._comm.Isend(part[piece.slice], rank))
            self._to_give -= 1
        while self._coming and self._free:
            source, piece = self._coming.popleft()
            buffer = self._free.pop()
            into = buffer[: piece.size]
            check_count(into.size)
            traffic.add(into.nbytes)
            self._arriving.append((self._comm.Irecv(into, source), source, piece, buffer))
        while self._arriving and self._arriving[0][0].Test():
            _, source, piece, buffer = self._arriving.popleft()
            tic = time.perf_counter()
            target = self._out[piece.slice]
            if source == self._first:
                np.copyto(target, buffer[: piece.size])
            else:
                np.add(target, buffer[: piece.size], out=target)
            self.seconds_adding += time.perf_counter() - tic
            self._free.append(buffer)
            self._to_add -= 1
        if self._sends and MPI.Request.Testall(self._sends):
            self._sends = []

    @property
    def settled(self) -> bool:
        """Whether all is sent, and ``out`` is the sum of the others' parts."""
        return not (self._to_give or self._sends or self._to_add)
