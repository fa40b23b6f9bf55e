"""A ring of buffers through which blocks 0, 1, 2 ... pass, in memory that the ranks of a node share.

Block t is in buffer t mod count. One rank writes it and publishes it; the others read it. Block t + count may be
written once every rank has told that it is through with block t. No message says so: each fact is a counter in the
shared memory with one writer, in a cache line of its own. A rank alone has the same ring in memory of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi.comm.collectives import barrier
from hpcmpi.comm.nodes import allocate

_LINE = 8  # int64 words in a cache line


class Slots:
    """Ring of ``count`` buffers of ``longest`` elements each. Collective over ``node``, also :meth:`close`."""

    def __init__(self, node: MPI.Comm, count: int, longest: int, dtype: DTypeLike) -> None:
        self.readers, self._rank, self._count, self._node = node.size, node.rank, count, node
        self._window: MPI.Win | None = None
        heads = _LINE * 8 * (count + node.size)
        nbytes = heads + count * longest * np.dtype(dtype).itemsize
        if node.size == 1:
            memory: NDArray[np.uint8] = np.empty(nbytes, np.uint8)
        else:
            self._window, memory = allocate(node, (nbytes,), np.uint8)
            self._window.Lock_all(MPI.MODE_NOCHECK)
        counters = memory[:heads].view(np.int64)[::_LINE]
        if node.rank == 0:
            counters[:] = 0
        self._published, self._done = counters[:count], counters[count:]
        self._buffers: NDArray[Any] = memory[heads:].view(dtype).reshape(count, longest)
        self._sync()
        barrier(node)
        self._sync()

    def _sync(self) -> None:
        """Order this rank's reads and writes of the shared memory, here and elsewhere."""
        if self._window is not None:
            self._window.Sync()

    def block(self, t: int, shape: tuple[int, int]) -> NDArray[Any]:
        """Where block ``t`` of ``shape`` is or will be."""
        return self._buffers[t % self._count, : shape[0] * shape[1]].reshape(shape)

    def free(self, t: int) -> bool:
        """Whether block ``t`` may be written."""
        there = bool((self._done > t - self._count).all())
        self._sync()
        return there

    def publish(self, t: int) -> None:
        """Block ``t`` is written."""
        self._sync()
        self._published[t % self._count] = t + 1
        self._sync()

    def ready(self, t: int) -> bool:
        """Whether block ``t`` is published."""
        there = bool(self._published[t % self._count] == t + 1)
        self._sync()
        return there

    def release(self, blocks: int) -> None:
        """This rank is through with the first ``blocks`` blocks."""
        self._sync()
        self._done[self._rank] = blocks
        self._sync()

    def close(self) -> None:
        """Wait for the others, and give the memory back."""
        if self._window is not None:
            barrier(self._node)
            self._window.Unlock_all()
            self._window.Free()
