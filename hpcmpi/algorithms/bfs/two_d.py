"""Search by levels over a 2-D partition: ranks form a grid, and each holds a block of the adjacency matrix.

Buluc and Madduri 2011 ("Parallel breadth-first search on distributed memory systems"). Position p = i * pc + j is at
row i and column j of a grid of pr x pc. It holds the edges that lead from vertices of the ranks of grid column j to
vertices of the ranks of grid row i, by rows and by columns.

A level: (1) *expand*: the frontier's vertices are told along the grid column; (2) each block finds candidates (vertex,
order of the parent, its id), top-down by columns, or bottom-up by rows where the frontier is large; (3) *fold*:
candidates go along the grid row to the owner, who takes the least order; (4) what is new is told along the grid row, so
that a block does not look for it again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import bit_kernels, search_kernels
from hpcmpi.algorithms.bfs import block_kernels as kernels
from hpcmpi.algorithms.bfs.build import Buckets, Ends, Rows, dealt, rounds_of
from hpcmpi.algorithms.bfs.cost import grid_of
from hpcmpi.algorithms.bfs.layout import WORD, Layout, Tables, cell_table

ALPHA = 14


class Sides:
    """The grid: communicators of its rows and columns, and how vertices are numbered along both.

    Vertices of grid row i are numbered rank after rank by ``row_edges``, those of column j by ``column_edges``.
    """

    def __init__(self, layout: Layout) -> None:
        comm, place = layout.comm, layout.place
        self.shape = grid_of(comm.size)
        pr, pc = self.shape
        self.i, self.j = divmod(place, pc)
        self.row, self.column = comm.Split(self.i, self.j), comm.Split(self.j, self.i)
        widths = np.diff(layout.bases)
        self.row_edges = np.cumsum([0, *widths[self.i * pc : (self.i + 1) * pc]])
        self.column_edges = np.cumsum([0, *widths[self.j :: pc]])
        self.own_row = layout.number(self.row_edges[self.j])
        self.own_column = layout.number(self.column_edges[self.i])
        grid = widths.reshape(pr, pc)
        self.row_starts = (np.cumsum(grid, axis=1) - grid).ravel()  # of each position
        self.column_starts = (np.cumsum(grid, axis=0) - grid).ravel()
        own = np.full((int(widths[place]), 2), -1, layout.number)
        own[: layout.used, 0], own[: layout.used, 1] = layout.order, layout.ids
        along = collective.gather_blocks(self.column, own)
        self.column_order, self.column_ids = np.ascontiguousarray(along[:, 0]), np.ascontiguousarray(along[:, 1])


class Search:
    """The blocks, and memory for searches; nothing is kept from one search to the next."""

    def __init__(self, layout: Layout, by_row: Rows, by_column: Rows, entries: int, sides: Sides) -> None:
        self.layout, self.by_row, self.by_column, self.entries, self.sides = layout, by_row, by_column, entries, sides
        used, number = layout.used, layout.number
        self.parent, self.level = np.full(used + 1, -1, number), np.full(used + 1, -1, np.int32)
        self.visited = np.zeros(-(-used // WORD), np.uint64)
        self.best = np.zeros(used, number)
        self.queue = np.zeros(used, number)
        self.state = np.zeros(6, np.int64)
        self.unpriced = np.zeros(used, np.int32)
        self.row_visited = np.zeros(-(-sides.row_edges[-1] // WORD), np.uint64)
        self.frontier = np.zeros(-(-sides.column_edges[-1] // WORD), np.uint64)

    def run(self, sources: NDArray[np.int64], max_depth: int) -> int:
        """Search from ``sources``, ids that ascend; returns the last level. Collective."""
        layout, sides, state = self.layout, self.sides, self.state
        self.visited[:], self.row_visited[:] = 0, 0
        if layout.used % WORD:
            self.visited[-1] = ~np.uint64((1 << layout.used % WORD) - 1)
        own = layout.new[sources[(sources >= layout.first) & (sources < layout.first + layout.n_local)] - layout.first]
        new = np.sort(own[own < layout.used])
        self.parent[new], self.level[new] = layout.ids[new], 0
        bit_kernels.set_bits(new, self.visited)
        depth, left = 0, self.entries
        while True:
            bit_kernels.set_bits(collective.gather_blocks(sides.row, new + sides.own_row), self.row_visited)
            message = np.stack([new + sides.own_column, layout.order[new], layout.ids[new]], axis=1)
            frontier = collective.gather_blocks(sides.column, message)
            edges = int(kernels.edges_of(frontier, self.by_column.length))
            totals = collective.allreduce(layout.comm, np.array([len(new), edges], np.int64))
            if totals[0] == 0 or depth == max_depth:
                return depth if totals[0] else max(0, depth - 1)
            candidates = self._candidates(frontier, bottom_up=int(totals[1]) * ALPHA > left)
            left -= int(totals[1])
            depth += 1
            counts, sorted_ = np.zeros(sides.row.size, np.int64), np.empty_like(candidates)
            kernels.by_owner(candidates, sides.row_edges, counts, sorted_)
            received, _ = collective.exchange(sides.row, sorted_, counts)
            state[:] = 0
            search_kernels.receive(
                received, self.queue, state, self.visited, self.parent, self.level, self.best, depth,
                self.unpriced,
            )  # fmt: skip
            new = np.sort(self.queue[: state[1]])

    def levels(self) -> NDArray[np.int32]:
        """Levels that the last search has found."""
        return self.level

    def neighbours(self, code: int) -> NDArray[np.signedinteger]:
        """Ids that edges from the vertex with this code lead to, those of this block. Local."""
        layout, sides, rows = self.layout, self.sides, self.by_column
        place = int(np.searchsorted(layout.bases, code, "right")) - 1
        if place % sides.shape[1] != sides.j:
            return layout.old[:0]
        row = code - int(layout.bases[place]) + int(sides.column_starts[place])
        numbers = rows.neighbours[rows.start[row] : rows.start[row] + rows.length[row]]
        return np.asarray(layout.old[int(layout.bases[sides.i * sides.shape[1]]) + numbers])

    def _candidates(self, frontier: NDArray[np.signedinteger], *, bottom_up: bool) -> NDArray[np.signedinteger]:
        """Candidates (vertex of the row block, order of the parent, its id) that this block has, each vertex once."""
        rows = self.by_row if bottom_up else self.by_column
        out = np.empty((int(self.sides.row_edges[-1]), 3), self.layout.number)
        if bottom_up:
            self.frontier[:] = 0
            bit_kernels.set_bits(frontier[:, 0], self.frontier)
            count = kernels.bottom_up(
                rows.start, rows.length, rows.neighbours, self.frontier, self.row_visited, self.sides.column_order,
                self.sides.column_ids, int(self.sides.row_edges[-1]), out,
            )  # fmt: skip
        else:
            frontier = frontier[np.argsort(frontier[:, 1])]
            found = self.row_visited.copy()
            count = kernels.top_down(frontier, rows.start, rows.length, rows.neighbours, found, out)
        return out[:count]


def build(layout: Layout, tables: Tables, ends: Ends, threads: int, *, both: bool, wide: bool) -> Search:
    """Blocks of the edges from ``ends[0]`` to ``ends[1]`` (ids), one way or ``both``, and with them a search."""
    comm, sides = layout.comm, Sides(layout)
    cells, shift = cell_table(layout.cuts)
    place = layout.nodes.position, layout.nodes.ranks, sides.shape[1]
    counts = np.zeros((rounds_of(comm, ends[0].size), 1, comm.size), np.int64)
    kernels.count_blocks(*ends, both, cells, shift, layout.cuts, *place, counts)

    def deal(r: int, where: NDArray[np.int64], box: NDArray[np.signedinteger]) -> None:
        kernels.deal_blocks(*ends, both, r, tables.order, cells, shift, layout.cuts, *place, where[0], box)

    pieces = [piece.copy() for piece in dealt(comm, counts, layout.number, deal)]
    entries = np.concatenate([np.empty((0, 2), layout.number), *pieces])  # orders of (head, tail)
    del pieces
    # Numbers within the grid row and the grid column by order; of other vertices they have no meaning.
    part = np.minimum(np.searchsorted(layout.bases, tables.by_order, "right"), comm.size) - 1
    in_row, in_column = (
        (tables.by_order - layout.bases[part] + starts[part]).astype(layout.number)
        for starts in (sides.row_starts, sides.column_starts)
    )
    by_row = _rows(layout, entries, in_row, in_column, int(sides.row_edges[-1]), threads, wide=wide)
    entries = np.ascontiguousarray(entries[:, ::-1])
    by_column = _rows(layout, entries, in_column, in_row, int(sides.column_edges[-1]), threads, wide=wide)
    return Search(layout, by_row, by_column, int(comm.allreduce(by_column.entries)), sides)


def _rows(
    layout: Layout,
    entries: NDArray[np.signedinteger],
    of_rows: NDArray[np.signedinteger],
    of_neighbours: NDArray[np.signedinteger],
    count: int,
    threads: int,
    *,
    wide: bool,
) -> Rows:
    """``count`` rows from ``entries`` (row, neighbour), orders; the numbers of both by order."""
    lengths = np.zeros(count, np.int32)
    kernels.count_rows(entries, of_rows, lengths)
    buckets = Buckets(lengths, layout.connected, threads, wide=wide)
    buckets.scatter(entries, of_rows)
    return buckets.finish(of_neighbours, 0)
