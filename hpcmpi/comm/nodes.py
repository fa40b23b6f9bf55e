"""Ranks that share memory: arrays of a node, and what crosses between nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi import machine
from hpcmpi.comm.collectives import barrier, complete, complete_blocks
from hpcmpi.comm.messages import start_neighbours, traffic

_OWN_BYTES = 1 << 30  # of a node, up to which its ranks have a table each
_LINE = 64  # bytes of a line of the cache
_LARGE_PAGES = 4 << 20  # bytes from which NumPy asks the system for large pages


def split_node(comm: MPI.Comm) -> MPI.Comm:
    """Communicator of the ranks of ``comm`` that share this rank's memory. The caller frees it."""
    return comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)


def one_node(comm: MPI.Comm) -> bool:
    """Whether all ranks share their memory."""
    node = split_node(comm)
    alone = node.size == comm.size
    node.Free()
    return bool(comm.allreduce(alone, MPI.LAND))


def share_memory(comm: MPI.Comm, nbytes: int) -> bool:
    """Whether the shared memory of every node has room for ``nbytes`` more of each of its ranks; the same on all."""
    node = split_node(comm)
    room = node.size * nbytes < machine.free_shared_memory()
    node.Free()
    return bool(comm.allreduce(room, MPI.LAND))


def neighbourhoods(comm: MPI.Comm, node: MPI.Comm) -> tuple[list[int], list[list[int]]]:
    """Ranks of ``comm`` that share memory with this one, and those of each other node.

    ``node`` is what :func:`split_node` has made of ``comm``, or COMM_SELF on all ranks where none share.
    """
    if node == MPI.COMM_SELF:
        return [comm.rank], [[rank] for rank in range(comm.size) if rank != comm.rank]
    heads: list[int] = comm.allgather(node.bcast(comm.rank))
    groups = {head: [rank for rank in range(comm.size) if heads[rank] == head] for head in heads}
    return groups.pop(heads[comm.rank]), list(groups.values())


def start_spreading(
    comm: MPI.Comm, piece: NDArray[Any], root: int, neighbours: tuple[list[int], list[list[int]]]
) -> list[MPI.Request]:
    """Begin to bring ``root``'s contiguous ``piece`` to all nodes, whose ranks have theirs in memory that they share.

    One rank of each other node receives it; ``neighbours`` are :func:`neighbourhoods`. A barrier of the node must
    follow before others read it.
    """
    mine, others = neighbours
    if piece.size == 0:
        return []
    if comm.rank == root:
        return start_neighbours(comm, {ranks[root % len(ranks)]: piece for ranks in others}, {})
    if root in mine or comm.rank != mine[root % len(mine)]:
        traffic.share(piece.nbytes)
        return []
    return start_neighbours(comm, {}, {root: piece})


def allocate(node: MPI.Comm, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[MPI.Win, NDArray[Any]]:
    """Memory that the ranks of ``node`` share until the window is freed, all of it rank 0's, as an array."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    window = MPI.Win.Allocate_shared(nbytes if node.rank == 0 else 0, 1, comm=cast("MPI.Intracomm", node))
    memory, _ = window.Shared_query(0)
    return window, np.ndarray(shape, dtype, cast("Any", memory))


class Gaps(NamedTuple):
    """How bitmaps are told by the gaps between their bits: a byte a bit, and one for each ``long`` bits in between."""

    long: int
    write: Callable[[NDArray[np.uint64], NDArray[np.uint8]], None]  # from words to so many bytes, or fewer filled up
    read: Callable[[NDArray[np.uint8], NDArray[np.uint64]], None]


class Nodes:
    """The ranks of ``comm`` by the nodes whose memory they share.

    ``position`` numbers the ranks node by node, ``ranks`` is its inverse; ``edges`` cuts the positions into nodes.
    Collective over ``comm``, also :meth:`array` and :meth:`free`.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm, self.node = comm, split_node(comm)
        leader = comm.allgather(self.node.bcast(comm.rank))
        self.ranks = np.array(sorted(range(comm.size), key=lambda rank: (leader[rank], rank)), np.int64)
        self.position = np.argsort(self.ranks)
        heads = sorted(set(leader))
        self.edges = np.cumsum([0, *(leader.count(head) for head in heads)])
        self._most = int(np.diff(self.edges).max())  # ranks of a node: what all decide by must not differ between nodes
        self.index = heads.index(leader[comm.rank])
        self._leaders = comm.Split(0 if self.node.rank == 0 else MPI.UNDEFINED, comm.rank)
        self._windows: list[MPI.Win] = []
        self._own: set[int] = set()  # addresses of tables that are not shared

    @property
    def count(self) -> int:
        """Number of nodes."""
        return len(self.edges) - 1

    def table(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """As :meth:`array`, or each rank's own where that is small: memory of one's own can be in large pages.

        Places that are read at random, as those of tables are, are found several times faster there.
        """
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if nbytes * self._most > _OWN_BYTES:
            return self.array(shape, dtype)
        memory = np.empty(max(nbytes + _LINE, _LARGE_PAGES), np.uint8)
        begin = -memory.ctypes.data % _LINE  # so that rows of a line are not in two
        own: NDArray[Any] = memory[begin : begin + nbytes].view(dtype).reshape(shape)
        self._own.add(own.ctypes.data)
        return own

    def array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Uninitialised array that the ranks of each node share, until :meth:`free`."""
        if self.node.size == 1 or 0 in shape:
            return np.empty(shape, dtype)
        window, array = allocate(self.node, shape, dtype)
        self._windows.append(window)
        return array

    def complete(self, array: NDArray[Any], edges: NDArray[np.int64]) -> None:
        """Bring a table up to date on all ranks: position p has written ``array[edges[p]:edges[p + 1]]``."""
        if not self.shares(array):
            starts = edges[:-1][self.position]
            complete(self.comm, array, starts, np.diff(edges)[self.position])
            return
        barrier(self.node)
        if self.count > 1:
            if self.node.rank == 0:
                complete_blocks(self._leaders, array, edges[self.edges])
            barrier(self.node)

    @property
    def in_order(self) -> bool:
        """Whether ranks are numbered node by node."""
        return bool((self.ranks == np.arange(self.comm.size)).all())

    def table_by_rank(self, edges: NDArray[np.int64], dtype: Any) -> NDArray[Any]:
        """As :meth:`table`, of ``edges[-1]`` elements that are to be written by rank, not by position."""
        n = int(edges[-1])
        return self.table((n,), dtype) if self.in_order else np.empty(n, dtype)

    def complete_by_rank(self, array: NDArray[Any], edges: NDArray[np.int64]) -> None:
        """As :meth:`complete`: rank r has written ``array[edges[r]:edges[r + 1]]``."""
        if self.in_order:
            self.complete(array, edges)
        else:
            complete_blocks(self.comm, array, edges)

    def shares(self, array: NDArray[Any]) -> bool:
        """Whether ``array`` is shared where a node has more than one rank; the same answer on all ranks."""
        return self._most > 1 and array.size > 0 and array.ctypes.data not in self._own

    def complete_bits(
        self, words: NDArray[np.uint64], edges: NDArray[np.int64], counts: NDArray[np.int64], gaps: Gaps
    ) -> None:
        """As :meth:`complete`, of bitmaps in which rank r has set ``counts[r]`` bits; all know these, and have written.

        Where that takes fewer bytes than the words, the ``gaps`` between bits travel.
        """
        if self.count == 1:
            return
        set_ = np.add.reduceat(counts[self.ranks], self.edges[:-1])
        parts = edges[self.edges]
        most = set_ + 64 * np.diff(parts) // gaps.long  # bytes that gaps may take
        listed = most < 8 * np.diff(parts)
        sizes = np.where(listed, most, 8 * np.diff(parts))
        if self.node.rank == 0:
            at = np.concatenate([[0], np.cumsum(sizes)])
            packed = np.empty(int(at[-1]), np.uint8)
            own = words[parts[self.index] : parts[self.index + 1]]
            mine = packed[at[self.index] : at[self.index + 1]]
            if listed[self.index]:
                gaps.write(own, mine)
            else:
                mine[:] = own.view(np.uint8)
            complete_blocks(self._leaders, packed, at)
            for node in range(self.count):
                if node != self.index:
                    data, into = packed[at[node] : at[node + 1]], words[parts[node] : parts[node + 1]]
                    if listed[node]:
                        gaps.read(data, into)
                    else:
                        into.view(np.uint8)[:] = data
        barrier(self.node)

    def free(self) -> None:
        """Give the shared memory back; the arrays must not be used any more."""
        for window in self._windows:
            window.Free()
        self._windows.clear()

    def close(self) -> None:
        """Free the memory and the communicators."""
        self.free()
        self.node.Free()
        if self._leaders != MPI.COMM_NULL:
            self._leaders.Free()
