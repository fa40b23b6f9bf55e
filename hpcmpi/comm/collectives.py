"""Collectives on blocks of rows: reductions, gathering, and exchanges that find out their counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.comm.messages import LARGEST_COUNT, check_count, traffic, wait
from hpcmpi.partition import Range, block


def allreduce(comm: MPI.Comm, array: NDArray[Any], op: MPI.Op = MPI.SUM) -> NDArray[Any]:
    """Element-wise reduction of ``array`` (same shape and dtype on all ranks) over all ranks, into a new array.

    The maximum and the minimum of floats are NaN, on all ranks, where any rank has NaN. MPI leaves that open: libraries
    drop NaN, or keep it on some ranks alone, which must not take different ways because of it.
    """
    if comm.size == 1:
        return array.copy()
    if array.dtype.kind == "f" and op in (MPI.MAX, MPI.MIN):
        return _extremes(comm, array, op)
    send, out = np.ascontiguousarray(array), np.empty(array.shape, array.dtype)
    traffic.add(2 * array.nbytes * (comm.size - 1) / comm.size)
    flat_send, flat_out = send.reshape(-1), out.reshape(-1)
    for at in range(0, flat_send.size, LARGEST_COUNT):
        wait([comm.Iallreduce(flat_send[at : at + LARGEST_COUNT], flat_out[at : at + LARGEST_COUNT], op)])
    return out


def _extremes(comm: MPI.Comm, array: NDArray[Any], op: MPI.Op) -> NDArray[Any]:
    """As :func:`allreduce`, by integers that sort as the floats do, NaN beyond all numbers."""
    kind = np.dtype(f"i{array.itemsize}")
    most, least = np.iinfo(kind).max, np.iinfo(kind).min
    bits = np.ascontiguousarray(array).view(kind).reshape(array.shape)  # arrays of no dimensions get one there
    keys = np.where(np.isnan(array), most if op == MPI.MAX else least, np.where(bits < 0, bits ^ most, bits))
    keys = allreduce(comm, keys.astype(kind, copy=False), op)
    found: NDArray[Any] = np.where(keys < 0, keys ^ most, keys).astype(kind, copy=False).view(array.dtype)
    return np.where(np.isnan(found), array.dtype.type(np.nan), found)


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
    check_count(out.size)
    traffic.add(out.nbytes - block.nbytes, comm.size - 1)
    wait([comm.Iallgatherv(np.ascontiguousarray(block), [out, counts])])
    return out


def scatter_sum(comm: MPI.Comm, array: NDArray[Any]) -> NDArray[Any]:
    """This rank's :func:`~hpcmpi.partition.block` of the sum of all ranks' ``array`` (n,), of one dtype and length."""
    starts = [block(array.size, comm.size, rank).start for rank in range(comm.size)]
    return reduce_blocks(comm, array, np.array([*starts, array.size]))


def reduce_blocks(comm: MPI.Comm, array: NDArray[Any], edges: NDArray[np.int64]) -> NDArray[Any]:
    """This rank's block of the sum of the ranks' ``array``: ``array[edges[r]:edges[r + 1]]`` on rank r."""
    if comm.size == 1:
        return array[edges[0] : edges[1]].copy()
    counts = np.diff(edges)
    check_count(array.size)
    out = np.empty(int(counts[comm.rank]), array.dtype)
    traffic.add(array.nbytes * (comm.size - 1) / comm.size, comm.size - 1)
    send = np.ascontiguousarray(array[edges[0] : edges[-1]])
    wait([comm.Ireduce_scatter(send, out, counts.tolist())])
    return out


def complete_blocks(comm: MPI.Comm, array: NDArray[Any], edges: NDArray[np.int64]) -> None:
    """Fill ``array`` in place: rank r has filled ``array[edges[r]:edges[r + 1]]``, and gets the other blocks."""
    complete(comm, array, edges[:-1], np.diff(edges))


def complete(comm: MPI.Comm, array: NDArray[Any], starts: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    """Fill ``array`` in place, of which rank r has filled ``counts[r]`` rows from ``starts[r]`` on."""
    if comm.size == 1:
        return
    check_count(int((starts + counts).max()))
    width = array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    traffic.add(int(counts.sum() - counts[comm.rank]) * width, comm.size - 1)
    kind = MPI.BYTE.Create_contiguous(width).Commit()
    wait([comm.Iallgatherv(MPI.IN_PLACE, [array, counts, starts, kind])])
    kind.Free()


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
        wait(_all_to_all(comm, rows, (sent, places[0]), into, (came, places[1])), brief=brief)
    return into, received


def start_exchange_others(
    comm: MPI.Comm, rows: NDArray[Any], counts: NDArray[np.int64], into: NDArray[Any], received: NDArray[np.int64]
) -> list[MPI.Request]:
    """Begin an :func:`exchange` of which this rank's own rows stay where they are: ``into`` gets those of others.

    ``received`` (P,) is how many rows come from each rank; this rank's own count in it is 0. ``rows`` and ``into`` are
    contiguous, and busy until the requests are done.
    """
    sent = counts.copy()
    sent[comm.rank] = 0
    starts = [np.concatenate([[0], np.cumsum(x)[:-1]]) for x in (counts, received)]
    return _all_to_all(comm, rows, (sent, starts[0]), into, (received.copy(), starts[1]))


def _counts_received(comm: MPI.Comm, counts: NDArray[np.int64], *, brief: bool) -> NDArray[np.int64]:
    received = np.empty(comm.size, np.int64)
    wait([comm.Ialltoall(np.ascontiguousarray(counts, np.int64), received)], brief=brief)
    return received


def _all_to_all(
    comm: MPI.Comm,
    rows: NDArray[Any],
    sent: tuple[NDArray[np.int64], NDArray[np.int64]],
    into: NDArray[Any],
    came: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> list[MPI.Request]:
    """Begin an exchange of rows: ``sent`` and ``came`` are counts and places by rank."""
    width = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    if width == 0:
        return []
    kind = MPI.BYTE.Create_contiguous(width).Commit()
    check_count(max(len(rows), len(into)))
    traffic.add(int(came[0].sum()) * width, comm.size - 1)
    send, receive = [np.ascontiguousarray(rows), *sent, kind], [into, *came, kind]
    request = comm.Ialltoallv(send, receive)
    kind.Free()
    return [request]


def rebalance(comm: MPI.Comm, rows: NDArray[Any], buffer: NDArray[Any] | None = None, front: int = 0) -> NDArray[Any]:
    """Deal the rows of all ranks, in their order, anew in the blocks of :func:`hpcmpi.partition.block`.

    ``rows`` is (rows_of_this_rank, ...), contiguous; trailing shape and dtype are the same on all ranks. Where ``rows``
    is ``buffer[front : front + len(rows)]`` and ``buffer`` has room around it, what stays on this rank stays where it
    is, and a view of ``buffer`` is returned; otherwise a new array.
    """
    sizes = comm.allgather((len(rows), buffer is None))
    ends = np.cumsum([size for size, _ in sizes])
    n, start = int(ends[-1]), int(ends[comm.rank]) - len(rows)
    mine = block(n, comm.size, comm.rank)
    at = front + mine.start - start
    if buffer is None or at < 0 or at + mine.size > len(buffer):
        buffer, at = np.empty((mine.size, *rows.shape[1:]), rows.dtype), 0
        kept = Range(max(start, mine.start), min(start + len(rows), mine.stop))
        if kept.size > 0:
            buffer[kept.start - mine.start : kept.stop - mine.start] = rows[kept.start - start : kept.stop - start]
    out = buffer[at : at + mine.size]
    requests, width = [], rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=np.int64))
    if width == 0:
        return out
    kind = MPI.BYTE.Create_contiguous(width).Commit()
    for rank in range(comm.size):
        if rank == comm.rank:
            continue
        theirs = Range(int(ends[rank]) - sizes[rank][0], int(ends[rank]))
        coming = Range(max(theirs.start, mine.start), min(theirs.stop, mine.stop))
        if coming.size > 0:
            check_count(coming.size)
            traffic.add(coming.size * width)
            part = out[coming.start - mine.start : coming.stop - mine.start]
            requests.append(comm.Irecv([part, coming.size, kind], rank))
        wanted = block(n, comm.size, rank)
        going = Range(max(start, wanted.start), min(start + len(rows), wanted.stop))
        if going.size > 0:
            check_count(going.size)
            part = rows[going.start - start : going.stop - start]
            requests.append(comm.Isend([part, going.size, kind], rank))
    wait(requests)
    kind.Free()
    return out


def barrier(comm: MPI.Comm) -> None:
    """Wait for all ranks, asleep."""
    wait([comm.Ibarrier()])
