"""Blocks of several roots on their way to all ranks of a communicator, in one order, through buffers of fixed size.

The root of a block sends it to one rank of each other node; ranks of a node read it from memory that they share, into
which the one that owns or receives it has put it. A rank that shares its node with no other sends its blocks from where
they are, if they are contiguous. No block is received before there is a buffer for it, and none is received twice.

Every rank begins its part of the blocks in the common order, at most as many at once as there are buffers. So the
oldest block that some rank still lacks always has a buffer there, and its root has begun to send it: no deadlock, as
long as each rank takes the blocks that are not its own in this order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi.comm.messages import check_count, traffic
from hpcmpi.comm.nodes import neighbourhoods, split_node
from hpcmpi.comm.slots import Slots


class Stream:
    """Blocks of ``shapes`` and one ``dtype``, block t owned by rank ``roots[t]``, which gives it as ``own(t)``.

    Collective over ``comm``, also :meth:`close`. There are ``slots`` buffers, which the ranks of a node have in common
    if ``shared``. ``seconds_copying`` is what this rank has spent on copies into them.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        roots: Sequence[int],
        shapes: Sequence[tuple[int, int]],
        own: Callable[[int], NDArray[Any]],
        dtype: DTypeLike,
        *,
        slots: int,
        shared: bool,
    ) -> None:
        self._comm, self._roots, self._shapes, self._own = comm, roots, shapes, own
        self._node: MPI.Comm
        shared = shared and comm.size > 1
        self._node = split_node(comm) if shared else MPI.COMM_SELF
        self._mine, self._others = neighbourhoods(comm, self._node)
        self.has_messages = bool(self._others) and bool(roots)
        self._slots: Slots | None = None
        if comm.size > 1 and roots:
            longest = max(rows * columns for rows, columns in shapes)
            self._slots = Slots(self._node, min(slots, len(roots)), longest, dtype)
        self._begun = self._released = 0
        self._finished = [False] * len(roots)
        self._unsent = [0] * len(roots)
        self._requests: list[MPI.Request] = []
        self._about: list[int] = []  # block of each request
        self.seconds_copying = 0.0

    def ready(self, t: int) -> bool:
        """Whether :meth:`block` ``t`` can be read."""
        return self._slots is None or self._roots[t] == self._comm.rank or self._slots.ready(t)

    def block(self, t: int) -> NDArray[Any]:
        """Block ``t``: of this rank, or where it was received."""
        if self._slots is None or self._roots[t] == self._comm.rank:
            return self._own(t)
        return self._slots.block(t, self._shapes[t])

    def finish(self, t: int) -> None:
        """This rank does not need block ``t`` any more."""
        if self._roots[t] != self._comm.rank:
            self._finished[t] = True

    def move(self) -> None:
        """Begin and complete what can be. By one thread at a time."""
        slots = self._slots
        if slots is None:
            return
        while self._begun < len(self._roots) and slots.free(self._begun):
            self._begin(slots, self._begun)
            self._begun += 1
        if self._requests and (done := MPI.Request.Testsome(self._requests)):
            for index in done:
                self._complete(slots, self._about[index])
            left = [(r, t) for r, t in zip(self._requests, self._about, strict=True) if r != MPI.REQUEST_NULL]
            self._requests, self._about = [r for r, _ in left], [t for _, t in left]
        before = self._released
        while self._released < self._begun and self._finished[self._released]:
            self._released += 1
        if self._released > before:
            slots.release(self._released)

    def _begin(self, slots: Slots, t: int) -> None:
        rank, root, shape = self._comm.rank, self._roots[t], self._shapes[t]
        if root == rank:
            block, to = self._own(t), [group[t % len(group)] for group in self._others]
            if slots.readers > 1 or (to and not block.flags.c_contiguous):
                tic = time.perf_counter()
                np.copyto(slots.block(t, shape), block)
                block = slots.block(t, shape)
                self.seconds_copying += time.perf_counter() - tic
            slots.publish(t)
            check_count(block.size)
            self._unsent[t] = len(to)
            self._finished[t] = not to
            self._watch(t, [self._comm.Isend(block, other) for other in to])
        elif root in self._mine or self._mine[t % len(self._mine)] != rank:
            traffic.share(shape[0] * shape[1] * slots.block(t, shape).itemsize)
        else:
            block = slots.block(t, shape)
            check_count(block.size)
            traffic.add(block.nbytes)
            self._watch(t, [self._comm.Irecv(block, root)])

    def _watch(self, t: int, requests: list[MPI.Request]) -> None:
        self._requests += requests
        self._about += [t] * len(requests)

    def _complete(self, slots: Slots, t: int) -> None:
        if self._roots[t] == self._comm.rank:
            self._unsent[t] -= 1
            self._finished[t] = self._unsent[t] == 0
        else:
            slots.publish(t)

    @property
    def settled(self) -> bool:
        """Whether this rank has sent all that it had to, and needs no block any more."""
        return self._slots is None or self._released == len(self._roots)

    def close(self) -> None:
        """Give the buffers back; all ranks must have settled."""
        if self._slots is not None:
            self._slots.close()
        if self._node != MPI.COMM_SELF:
            self._node.Free()
