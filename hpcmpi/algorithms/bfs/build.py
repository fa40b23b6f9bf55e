"""From edges to rows of neighbours (kernel 1 of Graph500).

1. Count degrees, number the vertices (:mod:`.layout`).
2. In rounds: each rank looks up order and code of both ends of its edges, drops the entries of its own rows into
   buckets, and exchanges the others (row, order of the neighbour).
3. Sort each bucket by row and order, drop duplicates, and write rows of codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import build_kernels as kernels
from hpcmpi.algorithms.bfs.layout import Layout, Tables, cell_table

_BUCKET_KEYS = 1 << 16
_ROUND_EDGES = 1 << 20
_NARROW_BITS = 26  # of an order; leaves 6 bits of a 32-bit key for the row in its bucket


@dataclass(frozen=True)
class Rows:
    """Neighbours of this rank's vertices, in compressed rows.

    Row v is ``neighbours[start[v]:start[v] + length[v]]``: codes by ascending order, each once. ``first`` is its first
    neighbour and ``fold`` that one's id; for an empty row it is the code behind the last, which nobody has.
    """

    start: NDArray[np.int64]
    length: NDArray[np.int32]
    neighbours: NDArray[np.signedinteger]
    first: NDArray[np.signedinteger]
    fold: NDArray[np.signedinteger]

    @property
    def entries(self) -> int:
        """Neighbours of all of this rank's vertices."""
        return int(self.length.sum(dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(x.nbytes for x in (self.start, self.length, self.neighbours, self.first, self.fold))


class Buckets:
    """Where the keys of rows of given lengths go."""

    def __init__(self, lengths: NDArray[np.int32], connected: int, threads: int, *, wide: bool = False) -> None:
        self.rows = lengths.size
        self.bits = max(1, (connected - 1).bit_length())
        wide = wide or self.bits > _NARROW_BITS
        self.most_rows = 1 << min(31, (63 if wide else 32) - self.bits)
        self.table = np.zeros((kernels.slots(self.rows), 2), np.int32 if self.rows < 2**31 else np.int64)
        most = len(self.table) + 1
        first_row, offset = np.zeros(most + 1, np.int64), np.zeros(most + 1, np.int64)
        count = kernels.cut_buckets(lengths, _BUCKET_KEYS, self.most_rows, self.table, first_row, offset)
        self.first_row, self.offset = first_row[: count + 1].copy(), offset[: count + 1].copy()
        self.position = self.offset[:-1].copy()
        key = np.uint64 if wide else np.uint32
        self.keys = np.empty(int(self.offset[-1]), key)
        self.line = np.zeros((threads, max(1, count), kernels.LINE), key)
        self.fill = np.zeros((threads, count), np.int64)

    def scatter(self, entries: NDArray[np.signedinteger], threads: int) -> None:
        """Add ``entries`` (row, order of the neighbour)."""
        kernels.scatter(entries, self.bits, self.table, self.line, self.fill, self.position, self.keys, threads)

    def finish(self, layout: Layout, tables: Tables, threads: int) -> Rows:
        """Sort the buckets into rows."""
        number, rows = layout.number, self.rows
        words = -(-rows // 64) * 64
        in_place = self.keys.dtype.itemsize == np.dtype(number).itemsize
        neighbours = self.keys.view(number) if in_place else np.empty(self.keys.size, number)
        start, length = np.zeros(words, np.int64), np.zeros(words, np.int32)
        first, fold = np.full(words, layout.bases[-1], number), np.zeros(words, number)
        longest = int(np.diff(self.offset).max(initial=0))
        kernels.finish(
            self.keys, self.offset, self.first_row, self.bits, tables.by_order, layout.old, neighbours, start, length,
            first, fold, np.zeros(1, np.int64), np.empty((threads, longest), self.keys.dtype),
            np.zeros((threads, 6, 1 << kernels.RADIX), np.uint32),
        )  # fmt: skip
        return Rows(start, length, neighbours, first, fold)


def build_rows(
    layout: Layout,
    tables: Tables,
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    lengths: NDArray[np.int32],
    threads: int,
    *,
    both: bool,
    wide: bool = False,
) -> Rows:
    """Rows of the neighbours ``columns`` of ``rows``, and with ``both`` the other way too.

    ``rows`` and ``columns`` are the ends of this rank's edges, ids; ``lengths`` (used,) how many entries each of this
    rank's rows will get, duplicates included.
    """
    comm = layout.comm
    buckets = Buckets(lengths, layout.connected, threads, wide=wide)
    cells, shift = cell_table(layout.cuts)
    base = layout.bases[layout.nodes.position]
    rounds = int(collective.allreduce(comm, np.array([-(-rows.size // _ROUND_EDGES)]), MPI.MAX)[0])
    box = np.empty(((1 + both) * min(_ROUND_EDGES, rows.size), 2), layout.number)
    for number in range(rounds):
        piece = slice(number * _ROUND_EDGES, (number + 1) * _ROUND_EDGES)
        counts = np.zeros((threads, comm.size), np.int64)
        kernels.count_owners(rows[piece], columns[piece], both, cells, shift, layout.cuts, counts, threads)
        ends = np.cumsum(counts.T).reshape(comm.size, threads).T
        place = np.ascontiguousarray(ends - counts)
        kernels.deal(
            rows[piece], columns[piece], both, tables.ids, base, cells, shift, layout.cuts, place, box, threads
        )
        to_each = counts.sum(0)
        first, last = int(to_each[: comm.rank].sum()), int(to_each[: comm.rank + 1].sum())
        buckets.scatter(box[first:last], threads)
        if comm.size > 1:
            buckets.scatter(collective.exchange_others(comm, box[: int(to_each.sum())], to_each), threads)
    return buckets.finish(layout, tables, threads)
