"""Collectives that compute their own counts, sleep while they wait, and count the bytes that this rank receives.

The only file with counts and displacements. Every function takes the caller's communicator first and is collective over
it unless it says otherwise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi import machine
from hpcmpi.errors import HpcmpiError, ResourceError
from hpcmpi.partition import Range
from hpcmpi.partition import block as block_of

_SPIN_SECONDS = 50e-6
_SHORTEST_SLEEP, _LONGEST_SLEEP = 50e-6, 1e-3
_FLAT_BROADCAST = 4  # ranks up to which the root sends to each: no rank then waits for another to pass a message on
_OWN_BYTES = 1 << 30  # of a node, up to which its ranks have a table each
_LARGE_PAGES = 4 << 20  # bytes from which NumPy asks the system for large pages
_LARGEST_COUNT = 2**31 - 1  # of MPI 3, whose counts are C ints


@dataclass
class Traffic:
    """What this rank has received since the program began."""

    bytes_received: int = 0
    messages: int = 0

    def add(self, nbytes: float, messages: int = 1) -> None:
        """Count ``messages`` that hold ``nbytes`` in all."""
        self.bytes_received += round(nbytes)
        self.messages += messages


traffic = Traffic()


def _check_count(items: int) -> None:
    if items > _LARGEST_COUNT and MPI.VERSION < 4:
        raise ResourceError(
            f"a message of {items} items needs MPI 4, and this library implements MPI {MPI.VERSION}.{MPI.SUBVERSION}: "
            f"use MPICH 4 or later, or more ranks"
        )


# Messages that travel while the caller computes


def start_broadcast(comm: MPI.Comm, buffer: NDArray[Any], root: int) -> list[MPI.Request]:
    """Begin to broadcast the contiguous ``buffer`` of ``root``; ``buffer`` is busy until the requests are done."""
    if comm.size == 1 or buffer.size == 0:
        return []
    _check_count(buffer.size)
    if comm.rank != root:
        traffic.add(buffer.nbytes)
    if comm.size > _FLAT_BROADCAST:
        return [comm.Ibcast(buffer, root)]
    if comm.rank == root:
        return [comm.Isend(buffer, rank) for rank in range(comm.size) if rank != root]
    return [comm.Irecv(buffer, root)]


def start_sharing(comm: MPI.Comm, panel: NDArray[Any], root: int) -> list[MPI.Request]:
    """Begin to wait until all ranks are here, and may read the ``panel`` that ``root`` has written into shared memory.

    Counted as if it were received, though no message carries it.
    """
    if comm.rank != root:
        traffic.add(panel.nbytes)
    return [comm.Ibarrier()]


def start_shift(
    comm: MPI.Comm, outgoing: NDArray[Any], incoming: NDArray[Any], *, to: int, source: int
) -> list[MPI.Request]:
    """Begin to send ``outgoing`` to rank ``to`` and to receive ``incoming`` from rank ``source``, both contiguous."""
    requests = []
    if incoming.size:
        _check_count(incoming.size)
        traffic.add(incoming.nbytes)
        requests.append(comm.Irecv(incoming, source))
    if outgoing.size:
        _check_count(outgoing.size)
        requests.append(comm.Isend(outgoing, to))
    return requests


def start_neighbours(
    comm: MPI.Comm, outgoing: Mapping[int, NDArray[Any]], incoming: Mapping[int, NDArray[Any]]
) -> list[MPI.Request]:
    """Begin to send each contiguous array of ``outgoing`` to the rank that is its key, and to fill ``incoming``.

    Only ranks that have something to say to each other take part; no array is empty.
    """
    requests = []
    for source, array in incoming.items():
        _check_count(array.size)
        traffic.add(array.nbytes)
        requests.append(comm.Irecv(array, source))
    for rank, array in outgoing.items():
        _check_count(array.size)
        requests.append(comm.Isend(array, rank))
    return requests


def progress(requests: Sequence[MPI.Request]) -> bool:
    """Let MPI move ``requests`` on; tell whether all are done. Local. MPI moves nothing outside its own calls."""
    return not requests or MPI.Request.Testall(list(requests))


def wait(requests: Sequence[MPI.Request]) -> None:
    """Wait until ``requests`` are done. Local.

    Sleeps between looks: MPI's own wait spins, which takes the core away from ranks that still compute whenever a node
    has more ranks than cores.
    """
    start = time.perf_counter()
    while not progress(requests):
        waited = time.perf_counter() - start
        if waited > _SPIN_SECONDS:
            time.sleep(min(max(_SHORTEST_SLEEP, waited / 8), _LONGEST_SLEEP))


# Small collectives


def allreduce(comm: MPI.Comm, array: NDArray[Any], op: MPI.Op = MPI.SUM) -> NDArray[Any]:
    """Element-wise reduction of ``array`` (same shape and dtype on all ranks) over all ranks, into a new array."""
    if comm.size == 1:
        return array.copy()
    send, out = np.ascontiguousarray(array), np.empty(array.shape, array.dtype)
    traffic.add(2 * array.nbytes * (comm.size - 1) / comm.size)
    flat_send, flat_out = send.reshape(-1), out.reshape(-1)
    for at in range(0, flat_send.size, _LARGEST_COUNT):
        wait([comm.Iallreduce(flat_send[at : at + _LARGEST_COUNT], flat_out[at : at + _LARGEST_COUNT], op)])
    return out


def gather_blocks(
    comm: MPI.Comm, block: NDArray[Any], *, rows: Sequence[int] | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Concatenate the ranks' blocks of rows along the first axis, on all ranks.

    ``block`` is (rows_of_this_rank, ...); trailing shape and dtype are the same on all ranks, row counts are free.
    ``rows``, the row counts of all ranks, spares asking for them; ``out`` is filled and returned if given.
    """
    rows = comm.allgather(block.shape[0]) if rows is None else rows
    width = int(np.prod(block.shape[1:], dtype=np.int64))
    out = np.empty((sum(rows), *block.shape[1:]), block.dtype) if out is None else out
    if comm.size == 1:
        out[...] = block
        return out
    counts = [r * width for r in rows]
    _check_count(out.size)
    traffic.add(out.nbytes - block.nbytes, comm.size - 1)
    wait([comm.Iallgatherv(np.ascontiguousarray(block), [out, counts])])
    return out


def scatter_sum(comm: MPI.Comm, array: NDArray[Any]) -> NDArray[Any]:
    """This rank's :func:`~hpcmpi.partition.block` of the sum of all ranks' ``array`` (n,), of one dtype and length."""
    sizes = [block_of(array.size, comm.size, rank).size for rank in range(comm.size)]
    if comm.size == 1:
        return array.copy()
    out = np.empty(sizes[comm.rank], array.dtype)
    _check_count(array.size)
    traffic.add(array.nbytes * (comm.size - 1) / comm.size, comm.size - 1)
    wait([comm.Ireduce_scatter(np.ascontiguousarray(array), out, sizes)])
    return out


def exchange(
    comm: MPI.Comm,
    rows: NDArray[Any],
    counts: NDArray[np.int64],
    out: NDArray[Any] | None = None,
    *,
    brief: bool = False,
    received: NDArray[np.int64] | None = None,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Personalised all-to-all: the first ``counts[0]`` rows go to rank 0, the next ``counts[1]`` to rank 1, and so on.

    ``rows`` is (sum of counts, ...), trailing shape and dtype the same on all ranks, ``counts`` (P,) int64. Returns the
    rows received, in the order of the ranks that sent them, and (P,) how many came from each. They are written into the
    front of ``out``, which must then be contiguous and long enough, if it is given. A ``brief`` exchange, of a few rows
    between ranks that are all there, waits without sleeping. ``received`` is given where all know the counts already.
    """
    if received is None:
        received = _counts_received(comm, counts, brief=brief)
    total = int(received.sum())
    if out is not None and (len(out) < total or not out.flags.c_contiguous):
        raise ValueError(f"out holds {len(out)} rows, contiguous: {out.flags.c_contiguous}; {total} rows come in")
    into = np.empty((total, *rows.shape[1:]), rows.dtype) if out is None else out[:total]
    own, row = int(counts[: comm.rank].sum()), int(received[: comm.rank].sum())
    into[row : row + int(counts[comm.rank])] = rows[own : own + int(counts[comm.rank])]
    if comm.size > 1:
        sent, came = counts.copy(), received.copy()
        sent[comm.rank] = came[comm.rank] = 0  # copied above
        places = [np.concatenate([[0], np.cumsum(x)[:-1]]) for x in (counts, received)]
        _all_to_all(comm, rows, (sent, places[0]), into, (came, places[1]), brief=brief)
    return into, received


def rebalance(comm: MPI.Comm, rows: NDArray[Any], buffer: NDArray[Any] | None = None, front: int = 0) -> NDArray[Any]:
    """Deal the rows of all ranks, in their order, anew in the blocks of :func:`hpcmpi.partition.block`.

    ``rows`` is (rows_of_this_rank, ...), contiguous; trailing shape and dtype are the same on all ranks. Where ``rows``
    is ``buffer[front : front + len(rows)]`` and ``buffer`` has room around it, what stays on this rank stays where it
    is, and a view of ``buffer`` is returned; otherwise a new array.
    """
    sizes = comm.allgather((len(rows), buffer is None))
    ends = np.cumsum([size for size, _ in sizes])
    n, start = int(ends[-1]), int(ends[comm.rank]) - len(rows)
    mine = block_of(n, comm.size, comm.rank)
    at = front + mine.start - start
    if buffer is None or at < 0 or at + mine.size > len(buffer):
        buffer, at = np.empty((mine.size, *rows.shape[1:]), rows.dtype), 0
        kept = Range(max(start, mine.start), min(start + len(rows), mine.stop))
        if kept.size > 0:
            buffer[kept.start - mine.start : kept.stop - mine.start] = rows[kept.start - start : kept.stop - start]
    out = buffer[at : at + mine.size]
    requests, width = [], rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    kind = MPI.BYTE.Create_contiguous(max(1, width)).Commit()
    for rank in range(comm.size):
        if rank == comm.rank:
            continue
        theirs = Range(int(ends[rank]) - sizes[rank][0], int(ends[rank]))
        coming = Range(max(theirs.start, mine.start), min(theirs.stop, mine.stop))
        if coming.size > 0:
            _check_count(coming.size)
            traffic.add(coming.size * width)
            part = out[coming.start - mine.start : coming.stop - mine.start]
            requests.append(comm.Irecv([part, coming.size, kind], rank))
        wanted = block_of(n, comm.size, rank)
        going = Range(max(start, wanted.start), min(start + len(rows), wanted.stop))
        if going.size > 0:
            _check_count(going.size)
            part = rows[going.start - start : going.stop - start]
            requests.append(comm.Isend([part, going.size, kind], rank))
    wait(requests)
    kind.Free()
    return out


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
        _check_count(nbytes)
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
            elif now - idle > _SPIN_SECONDS:
                time.sleep(min(max(_SHORTEST_SLEEP, (now - idle) / 8), _LONGEST_SLEEP))


def exchange_others(comm: MPI.Comm, rows: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[Any]:
    """As :func:`exchange`, but this rank's own rows stay where they are, and only those of others are returned."""
    sent = counts.copy()
    sent[comm.rank] = 0
    came = _counts_received(comm, sent, brief=False)
    into = np.empty((int(came.sum()), *rows.shape[1:]), rows.dtype)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]), np.concatenate([[0], np.cumsum(came)[:-1]])
    _all_to_all(comm, rows, (sent, starts[0]), into, (came, starts[1]), brief=False)
    return into


def _counts_received(comm: MPI.Comm, counts: NDArray[np.int64], *, brief: bool) -> NDArray[np.int64]:
    received = np.empty(comm.size, np.int64)
    if brief:
        comm.Alltoall(np.ascontiguousarray(counts, np.int64), received)
    else:
        wait([comm.Ialltoall(np.ascontiguousarray(counts, np.int64), received)])
    return received


def _all_to_all(
    comm: MPI.Comm,
    rows: NDArray[Any],
    sent: tuple[NDArray[np.int64], NDArray[np.int64]],
    into: NDArray[Any],
    came: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    brief: bool,
) -> None:
    """Alltoallv of rows: ``sent`` and ``came`` are counts and places by rank."""
    width = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    kind = MPI.BYTE.Create_contiguous(max(1, width)).Commit()
    _check_count(max(len(rows), len(into)))
    traffic.add(int(came[0].sum()) * width, comm.size - 1)
    send, receive = [np.ascontiguousarray(rows), *sent, kind], [into, *came, kind]
    if brief:
        comm.Alltoallv(send, receive)
    else:
        wait([comm.Ialltoallv(send, receive)])
    kind.Free()


def reduce_blocks(comm: MPI.Comm, array: NDArray[Any], edges: NDArray[np.int64]) -> NDArray[Any]:
    """This rank's block of the sum of the ranks' ``array``: ``array[edges[r]:edges[r + 1]]`` on rank r."""
    if comm.size == 1:
        return array[edges[0] : edges[1]].copy()
    counts = np.diff(edges)
    _check_count(array.size)
    out = np.empty(int(counts[comm.rank]), array.dtype)
    traffic.add(out.nbytes * (comm.size - 1), comm.size - 1)
    send = np.ascontiguousarray(array[edges[0] : edges[-1]])
    wait([comm.Ireduce_scatter(send, out, counts.tolist())])
    return out


def complete_blocks(comm: MPI.Comm, array: NDArray[Any], edges: NDArray[np.int64]) -> None:
    """Fill ``array`` in place: rank r has filled ``array[edges[r]:edges[r + 1]]``, and gets the other blocks."""
    _complete(comm, array, edges[:-1], np.diff(edges))


def _complete(comm: MPI.Comm, array: NDArray[Any], starts: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    """Fill ``array`` in place, of which rank r has filled ``counts[r]`` rows from ``starts[r]`` on."""
    if comm.size == 1:
        return
    _check_count(int((starts + counts).max()))
    width = array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    traffic.add(int(counts.sum() - counts[comm.rank]) * width, comm.size - 1)
    kind = MPI.BYTE.Create_contiguous(width).Commit()
    wait([comm.Iallgatherv(MPI.IN_PLACE, [array, counts, starts, kind])])
    kind.Free()


def barrier(comm: MPI.Comm) -> None:
    """Wait for all ranks, asleep."""
    wait([comm.Ibarrier()])


def split_node(comm: MPI.Comm) -> MPI.Comm:
    """Communicator of the ranks of ``comm`` that share this rank's memory. The caller frees it."""
    return comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)


def share_memory(comm: MPI.Comm, nbytes: int) -> bool:
    """Whether all ranks are on one node whose shared memory has room for ``nbytes`` more; the same on all ranks."""
    node = split_node(comm)
    room = node.size == comm.size and nbytes < machine.free_shared_memory()
    node.Free()
    return bool(comm.allreduce(room, MPI.LAND))


@contextmanager
def shared_array(comm: MPI.Comm, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
    """Array that all ranks of ``comm``, which are on one node, share within the body; not initialised.

    What one rank writes, another may read once a barrier has parted the two.
    """
    kind, size = np.dtype(dtype), math.prod(shape)
    nbytes = size * kind.itemsize
    window = MPI.Win.Allocate_shared(nbytes if comm.rank == 0 else 0, 1, comm=cast("MPI.Intracomm", comm))
    memory, _ = window.Shared_query(0)
    yield np.ndarray(shape, kind, cast("Any", memory))
    window.Free()


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
        if nbytes * self.node.size > _OWN_BYTES:
            return self.array(shape, dtype)
        own: NDArray[Any] = np.empty(max(nbytes, _LARGE_PAGES), np.uint8)[:nbytes].view(dtype).reshape(shape)
        self._own.add(own.ctypes.data)
        return own

    def array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Uninitialised array that the ranks of each node share, until :meth:`free`."""
        items = int(np.prod(shape, dtype=np.int64))
        if self.node.size == 1 or items == 0:
            return np.empty(shape, dtype)
        width = np.dtype(dtype).itemsize
        window = MPI.Win.Allocate_shared(
            items * width if self.node.rank == 0 else 0, width, comm=cast("MPI.Intracomm", self.node)
        )
        self._windows.append(window)
        memory, _ = window.Shared_query(0)
        return np.ndarray(shape, dtype, cast("Any", memory))

    def complete(self, array: NDArray[Any], edges: NDArray[np.int64]) -> None:
        """Bring a table up to date on all ranks: position p has written ``array[edges[p]:edges[p + 1]]``."""
        if not self.shares(array):
            starts = edges[:-1][self.position]
            _complete(self.comm, array, starts, np.diff(edges)[self.position])
            return
        barrier(self.node)
        if self.count > 1:
            if self.node.rank == 0:
                complete_blocks(self._leaders, array, edges[self.edges])
            barrier(self.node)

    def shares(self, array: NDArray[Any]) -> bool:
        """Whether the ranks of the node share ``array``."""
        return self.node.size > 1 and array.size > 0 and array.ctypes.data not in self._own

    def complete_bits(self, words: NDArray[np.uint64], edges: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """As :meth:`complete`, of bitmaps in which rank r has set ``counts[r]`` bits; all know these, and have written.

        Places of bits travel where that takes fewer bytes than the words.
        """
        if self.count == 1:
            return
        set_ = np.add.reduceat(counts[self.ranks], self.edges[:-1])
        parts = edges[self.edges]
        listed = 4 * set_ < 8 * np.diff(parts)
        sizes = np.where(listed, 4 * set_, 8 * np.diff(parts))
        if self.node.rank == 0:
            at = np.concatenate([[0], np.cumsum(sizes)])
            packed = np.empty(int(at[-1]), np.uint8)
            own = words[parts[self.index] : parts[self.index + 1]]
            packed[at[self.index] : at[self.index + 1]] = (_places(own) if listed[self.index] else own).view(np.uint8)
            complete_blocks(self._leaders, packed, at)
            for node in range(self.count):
                if node != self.index:
                    data, into = packed[at[node] : at[node + 1]], words[parts[node] : parts[node + 1]]
                    if listed[node]:
                        flags = np.zeros(64 * into.size, np.uint8)
                        flags[data.view(np.uint32)] = 1
                        into[:] = np.packbits(flags, bitorder="little").view(np.uint64)
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


def _places(words: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Places of the bits that are set."""
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).astype(np.uint32)


# Agreement on errors


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
