"""From edges to rows of neighbours (kernel 1 of Graph500).

1. Count degrees, number the vertices (:mod:`.layout`).
2. In rounds: look up the orders of both ends of each edge, and deal the entries (row, neighbour) to the ranks that own
   the rows; these drop them into buckets. Of what is looked up by order, most is near the beginning, in the cache.
3. Sort each bucket by row and order, drop duplicates, and write rows of codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import bit_kernels
from hpcmpi.algorithms.bfs import build_kernels as kernels
from hpcmpi.algorithms.bfs.layout import WORD, Layout, Tables, cell_table

_BUCKET_KEYS = 1 << 16
_NARROW_BITS = 26  # of an order; leaves 6 bits of a 32-bit key for the row in its bucket

Ends = tuple[NDArray[np.integer], NDArray[np.integer]]  # of this rank's edges, ids


@dataclass(frozen=True)
class Rows:
    """Neighbours of this rank's vertices, in compressed rows.

    Row v is ``neighbours[start[v]:start[v] + length[v]]``: codes by ascending order, each once. ``first`` is its first
    neighbour; for an empty row it is the code behind the last, which nobody has.
    """

    start: NDArray[np.int64]
    length: NDArray[np.int32]
    neighbours: NDArray[np.signedinteger]
    first: NDArray[np.signedinteger]

    @property
    def entries(self) -> int:
        """Neighbours of all of this rank's vertices."""
        return int(self.length.sum(dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(x.nbytes for x in (self.start, self.length, self.neighbours, self.first))


class Buckets:
    """Where the keys of rows of given lengths go.

    Where it is known how many keys each thread has, it writes them to places of its own; else threads share those of a
    bucket, and write lines. ``shares`` are the keys (threads, ids) of each thread and id, and the ids of the rows.
    """

    def __init__(
        self,
        lengths: NDArray[np.int32],
        connected: int,
        threads: int,
        shares: tuple[NDArray[np.int32], NDArray[np.signedinteger]] | None = None,
        *,
        wide: bool = False,
    ) -> None:
        self.rows = lengths.size
        self.bits = max(1, (connected - 1).bit_length())
        wide = wide or self.bits > _NARROW_BITS
        self.most_rows = 1 << min(31, (63 if wide else 32) - self.bits)
        self.table = np.zeros(kernels.slots(self.rows), np.uint64)
        most = len(self.table) + 1
        first_row, offset = np.zeros(most + 1, np.int64), np.zeros(most + 1, np.int64)
        count = kernels.cut_buckets(lengths, _BUCKET_KEYS, self.most_rows, self.table, first_row, offset)
        self.first_row, self.offset = first_row[: count + 1].copy(), offset[: count + 1].copy()
        self.position = self.offset[:-1].copy().reshape(1, -1)
        if shares is not None:
            sizes = np.zeros((threads, count), np.int64)
            kernels.count_shares(*shares, self.first_row, sizes, threads)
            self.position = self.position + np.cumsum(sizes, 0) - sizes
        lines = threads > 1 and shares is None
        key = np.uint64 if wide else np.uint32
        self.keys = np.empty(int(self.offset[-1]), key)
        self.line = np.zeros((threads, count * int(kernels.LINE) * lines), key)
        self.fill = np.zeros((threads, count * lines), np.uint64)

    def scatter(self, entries: NDArray[np.signedinteger], numbers: NDArray[np.signedinteger]) -> None:
        """Add ``entries`` (row, neighbour), orders; ``numbers`` are those of rows by order."""
        kernels.scatter(
            entries, numbers, self.bits, self.table, self.line, self.fill, self.position, self.keys, len(self.line)
        )

    def scatter_edges(self, ends: Ends, order: NDArray[np.signedinteger], *, both: bool) -> None:
        """Add the edges ``ends``, ids, one way or ``both``; rows are numbered by the ``order`` of an id."""
        kernels.scatter_edges(
            *ends, both, order, self.bits, self.table, self.line, self.fill, self.position, self.keys, len(self.line)
        )

    def finish(self, codes: NDArray[np.signedinteger], nobody: int) -> Rows:
        """Sort the buckets into rows of ``codes``, by order; ``nobody`` stands for the neighbour of an empty row."""
        kernels.flush(self.line, self.fill, self.position, self.keys)
        threads, number, words = len(self.line), codes.dtype, -(-self.rows // 64) * 64
        in_place = self.keys.dtype.itemsize == number.itemsize
        neighbours = self.keys.view(number) if in_place else np.empty(self.keys.size, number)
        start, length = np.zeros(words, np.int64), np.zeros(words, np.int32)
        first = np.full(words, nobody, number)
        longest = int(np.diff(self.offset).max(initial=0))
        kernels.finish(
            self.keys, self.offset, self.first_row, self.bits, codes, neighbours, start, length, first,
            np.zeros(1, np.int64), np.empty((threads, longest), self.keys.dtype),
            np.zeros((threads, 6, 1 << kernels.RADIX), np.uint32),
        )  # fmt: skip
        return Rows(start, length, neighbours, first)


def rounds_of(comm: MPI.Comm, edges: int) -> int:
    """Rounds in which the ranks deal their edges, of which this one has so many. Collective."""
    return int(collective.allreduce(comm, np.array([-(-edges // kernels.ROUND)]), MPI.MAX)[0])


def dealt(
    comm: MPI.Comm,
    counts: NDArray[np.int64],
    number: type[np.signedinteger],
    deal: Callable[[int, NDArray[np.int64], NDArray[np.signedinteger]], None],
) -> Iterator[NDArray[np.signedinteger]]:
    """The entries (k, 2) that come to this rank, in pieces, each of which is overwritten by those after the next.

    ``counts`` (rounds, threads, P) is how many entries each thread has for each rank in each round; ``deal(r, place,
    box)`` writes those of round r into ``box``, thread t for rank p from ``place[t, p]`` on. Collective.
    """
    to_each, rank = counts.sum(1), comm.rank
    came, _ = collective.exchange(comm, np.ascontiguousarray(to_each.T), np.ones(comm.size, np.int64))
    came[rank] = 0
    box = np.empty((int(to_each.sum(1).max(initial=0)), 2), number)
    into = np.empty((int(came.sum(0).max(initial=0)), 2), number)
    for r, by_thread in enumerate(counts):
        deal(r, np.cumsum(by_thread.T).reshape(by_thread.T.shape).T - by_thread, box)
        requests = collective.start_exchange_others(comm, box, to_each[r], into, came[:, r])
        first = int(to_each[r, :rank].sum())
        yield box[first : first + int(to_each[r, rank])]
        collective.wait(requests, brief=True)
        yield into[: int(came[:, r].sum())]


def build_rows(
    layout: Layout,
    tables: Tables,
    ends: Ends,
    lengths: NDArray[np.int32],
    threads: int,
    share: NDArray[np.int32] | None = None,
    *,
    both: bool,
    wide: bool,
    direct: bool,
) -> Rows:
    """Rows of the neighbours ``ends[1]`` of ``ends[0]``, and with ``both`` the other way too.

    ``ends`` are those of this rank's edges, ids; ``lengths`` (used,) how many entries each of this rank's rows would
    get, duplicates included, were there no hubs, and ``share`` (threads, ids) by thread, if known. ``direct``, on one
    rank, spares dealing them.
    """
    comm, nobody = layout.comm, int(layout.bases[-1])
    if direct:
        shares = None if share is None else (share, layout.ids)
        buckets = Buckets(lengths, layout.connected, threads, shares, wide=wide)
        buckets.scatter_edges(ends, tables.order, both=both)
        return buckets.finish(tables.by_order, nobody)
    cells = cell_table(layout.cuts)
    hub_bits = np.zeros(-(-layout.n // WORD) if layout.hubs else 0, np.uint64)
    if layout.hubs:
        bit_kernels.set_bits(layout.old[tables.by_order[: layout.hubs]], hub_bits)
        own = np.zeros((comm.size, layout.hubs), np.int32)
        kernels.count_hubs(*ends, both, hub_bits, tables.order, *cells, layout.cuts, own)
        own = collective.reduce_blocks(comm, own.reshape(-1), layout.hubs * np.arange(comm.size + 1))
        kept = lengths * (layout.order >= layout.hubs)
        lengths = np.concatenate([kept, np.zeros(layout.hub_row - layout.used, np.int32), own]).astype(np.int32)
    buckets = Buckets(lengths, layout.connected, threads, wide=wide)
    counts = np.zeros((rounds_of(comm, ends[0].size), threads, comm.size), np.int64)
    kernels.count_owners(*ends, both, hub_bits, *cells, layout.cuts, counts, threads)
    numbers = tables.by_order - layout.number(layout.base)
    numbers[: layout.hubs] = layout.hub_row + np.arange(layout.hubs)

    def deal(r: int, place: NDArray[np.int64], box: NDArray[np.signedinteger]) -> None:
        kernels.deal(*ends, both, r, hub_bits, tables.order, *cells, layout.cuts, place, box, threads)

    for entries in dealt(comm, counts, layout.number, deal):
        buckets.scatter(entries, numbers)
    return buckets.finish(tables.by_order, nobody)
