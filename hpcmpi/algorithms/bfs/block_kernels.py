"""Kernels of the search over a 2-D partition: blocks whose rows and columns have numbers of their own."""

from __future__ import annotations

import numpy as np

from hpcmpi.algorithms.bfs.build_kernels import owner_of, share_of
from hpcmpi.jit import kernel
from hpcmpi.simd import count_trailing_zeros

ONE = np.uint64(1)


@kernel(inline="always")
def block_of(head, tail, cells, shift, cuts, position, ranks, columns):
    """Rank whose block holds the edge between two ids: in the grid row of the head's, the grid column of the tail's."""
    row = position[owner_of(np.uint64(head), cells, shift, cuts)] // columns
    return ranks[row * columns + position[owner_of(np.uint64(tail), cells, shift, cuts)] % columns]


@kernel()
def count_blocks(u, v, both, cells, shift, cuts, position, ranks, columns, counts):
    """Count in ``counts[r, 0]`` the entries for each rank of round r's edges, which lead from ``u`` to ``v``."""
    for r in range(len(counts)):
        first, last = share_of(u.size, r, 0, 1)
        for i in range(first, last):
            a, b = np.int64(u[i]), np.int64(v[i])
            if a != b:
                counts[r, 0, block_of(b, a, cells, shift, cuts, position, ranks, columns)] += 1
                if both:
                    counts[r, 0, block_of(a, b, cells, shift, cuts, position, ranks, columns)] += 1


@kernel()
def deal_blocks(u, v, both, r, order, cells, shift, cuts, position, ranks, columns, where, box):
    """Deal the entries (head, tail) of round r, orders; ``where[p]`` is the place of the next one for rank p."""
    first, last = share_of(u.size, r, 0, 1)
    for i in range(first, last):
        a, b = np.int64(u[i]), np.int64(v[i])
        if a != b:
            rank = block_of(b, a, cells, shift, cuts, position, ranks, columns)
            box[where[rank], 0] = order[b]
            box[where[rank], 1] = order[a]
            where[rank] += 1
            if both:
                rank = block_of(a, b, cells, shift, cuts, position, ranks, columns)
                box[where[rank], 0] = order[a]
                box[where[rank], 1] = order[b]
                where[rank] += 1


@kernel()
def count_rows(entries, numbers, lengths):
    """Add to ``lengths`` the entries of each row; ``numbers`` holds the rows' numbers by order."""
    for i in range(len(entries)):
        lengths[numbers[entries[i, 0]]] += 1


@kernel()
def edges_of(frontier, length):
    """Edges of the vertices ``frontier[:, 0]``."""
    edges = np.int64(0)
    for i in range(len(frontier)):
        edges += length[frontier[i, 0]]
    return edges


@kernel()
def bottom_up(start, length, neighbours, frontier, visited, order, ids, rows, out):
    """The first neighbour in the frontier of each row that is not visited: (row, its order, its id)."""
    count = 0
    for word in range(visited.size):
        open_ = ~visited[word]
        while open_:
            bit = count_trailing_zeros(open_)
            open_ &= open_ - ONE
            v = (word << 6) + np.int64(bit)
            if v >= rows:
                break
            for e in range(start[v], start[v] + length[v]):
                u = np.int64(neighbours[e])
                if (frontier[u >> 6] >> np.uint64(u & 63)) & ONE:
                    out[count, 0] = v
                    out[count, 1] = order[u]
                    out[count, 2] = ids[u]
                    count += 1
                    break
    return count


@kernel()
def top_down(frontier, start, length, neighbours, found, out):
    """Expand ``frontier`` (column, order, id), ascending by order, to rows not yet ``found``."""
    count = 0
    for i in range(len(frontier)):
        u = frontier[i, 0]
        for e in range(start[u], start[u] + length[u]):
            v = np.int64(neighbours[e])
            bit = ONE << np.uint64(v & 63)
            if not found[v >> 6] & bit:
                found[v >> 6] |= bit
                out[count, 0] = v
                out[count, 1] = frontier[i, 1]
                out[count, 2] = frontier[i, 2]
                count += 1
    return count


@kernel()
def by_owner(candidates, edges, counts, out):
    """Sort candidates by the part of ``edges`` that their row is in, from whose start it is counted henceforth."""
    place = np.zeros(counts.size + 1, np.int64)
    for i in range(len(candidates)):
        part = np.searchsorted(edges, candidates[i, 0], "right") - 1
        counts[part] += 1
    for part in range(counts.size):
        place[part + 1] = place[part] + counts[part]
    for i in range(len(candidates)):
        part = np.searchsorted(edges, candidates[i, 0], "right") - 1
        at = place[part]
        place[part] = at + 1
        out[at, 0] = candidates[i, 0] - edges[part]
        out[at, 1] = candidates[i, 1]
        out[at, 2] = candidates[i, 2]
