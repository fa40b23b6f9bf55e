"""Who owns which vertex, and the numbers that vertices have.

*id*: 0 to n - 1, what the caller knows. Rank r owns the ids from ``cuts[r]`` up to ``cuts[r + 1]``.
*order*: place among all vertices by descending degree, then ascending id, of those that have an edge. The degree counts
the ends of edges at a vertex, repeated edges as often as they are given, loops not at all; in a directed graph it is
in-degree plus out-degree. **The parent of a vertex is the neighbour one level up with the least order.**
*own number*: place of a vertex among those of its rank by order; vertices without edges have none.
*hub*: in a 1-D partition over several ranks, a vertex with so large a share of all ends that its row would be a burden
to one rank. The rows of hubs are *delegated* (Pearce, Gokhale, Amato 2014): each rank holds the part of a hub's row
that leads to its own vertices, as one row more behind its own. The orders of hubs are 0 to hubs - 1.
*code*: ``bases[p] + own number``, p the position of the rank (node by node); bases are multiples of 64, so that words
of a bitmap over codes belong to one rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs.build_kernels import count_ends, fill_codes, order_by_degree
from hpcmpi.comm import Nodes

WORD = 64
_CELLS = 4096  # entries of the table that finds the owner of a number
HUB_SHARE = 8  # a hub has more than one in so many of the ends that each rank would have
_MOST_HUBS = 1 << 10
_COMMON_DEGREE = 1 << 16  # degrees up to this are counted in a table; higher ones are few


def cell_table(edges: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """For each cell of 2^shift numbers, the part of ``edges`` that its first number lies in; and the shift."""
    shift = max(0, int(edges[-1]).bit_length() - _CELLS.bit_length() + 1)
    starts = np.arange((int(edges[-1]) >> shift) + 1, dtype=np.int64) << shift
    parts = np.searchsorted(edges, starts, "right") - 1
    return np.clip(parts, 0, len(edges) - 2).astype(np.int32), shift


@dataclass(frozen=True)
class Layout:
    """The numbering of ``n`` vertices over the ranks of ``comm``."""

    comm: MPI.Comm
    nodes: Nodes
    n: int
    cuts: NDArray[np.int64]
    bases: NDArray[np.int64]  # by position, and where the last one ends
    used: int  # vertices of this rank that have an edge
    connected: int  # of all ranks
    hubs: int  # of all ranks
    new: NDArray[np.signedinteger]  # own number of each of this rank's ids; ``used`` for those without an edge
    ids: NDArray[np.signedinteger]  # id of each own number
    order: NDArray[np.signedinteger]  # order of each own number
    degree: NDArray[np.int64]  # degree of each own number
    old: NDArray[np.signedinteger]  # id of each code; shared by the ranks of a node

    @property
    def place(self) -> int:
        """Position of this rank."""
        return int(self.nodes.position[self.comm.rank])

    @property
    def base(self) -> int:
        """First code of this rank."""
        return int(self.bases[self.place])

    @property
    def first(self) -> int:
        """First id of this rank."""
        return int(self.cuts[self.comm.rank])

    @property
    def hub_row(self) -> int:
        """Number of the first hub's row among this rank's."""
        return -(-self.used // WORD) * WORD

    @property
    def n_local(self) -> int:
        """Ids of this rank."""
        return int(self.cuts[self.comm.rank + 1]) - self.first

    @property
    def number(self) -> type[np.signedinteger]:
        """Dtype that ids, orders and codes fit in."""
        return self.old.dtype.type


def count_degrees(
    comm: MPI.Comm,
    ends: NDArray[np.integer],
    others: NDArray[np.integer],
    cuts: NDArray[np.int64],
    threads: int,
    *,
    both: bool,
) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
    """How often this rank's ids are in all ranks' ``ends``, and with ``both`` in ``others``; loops are left out.

    Each rank counts for all; where that would take more memory than the edges themselves, some ids at a time. On one
    rank with several threads, also (threads, n) how often each thread has found them, unless it was some at a time.
    """
    n = int(cuts[-1])
    share = collective.allreduce(comm, np.array([ends.nbytes + others.nbytes]), MPI.MAX)[0]
    at_once = max(1 << 20, int(share) // (4 * threads))
    counted: list[NDArray[np.int32]] = []
    for first in range(0, n, at_once):
        last = min(first + at_once, n)
        counts = np.zeros((threads, last - first), np.int32)
        count_ends(ends, others, both, first, counts, threads)
        total = counts[0] if threads == 1 else counts.sum(0, dtype=np.int32)
        counted.append(collective.reduce_blocks(comm, total, np.clip(cuts - first, 0, last - first)))
    if len(counted) == 1:
        return counted[0], counts if threads > 1 and comm.size == 1 else None
    return np.concatenate([np.zeros(0, np.int32), *counted]), None


def number_vertices(
    comm: MPI.Comm, nodes: Nodes, cuts: NDArray[np.int64], degree: NDArray[np.int32], *, delegate: bool, wide: bool
) -> Layout:
    """Number the vertices from the degrees of this rank's ids; ``wide`` makes the numbers 64-bit.

    With ``delegate`` there may be hubs.
    """
    number: Any = np.int64 if wide else np.int32
    ids, new = _by_degree(degree, number)
    used = len(ids)
    own_degree = degree[ids]
    totals = comm.allgather(used)
    widths = [-(-totals[rank] // WORD) * WORD for rank in nodes.ranks]
    bases = np.cumsum([0, *widths]).astype(np.int64)
    base = int(bases[nodes.position[comm.rank]])
    order = _global_order(comm, own_degree).astype(number)
    old = nodes.table((int(bases[-1]),), number)
    old[base : base + used] = ids
    old[base : base + used] += number(cuts[comm.rank])
    old[base + used : base + int(widths[nodes.position[comm.rank]])] = -1
    nodes.complete(old, bases)
    hubs = 0
    if delegate:
        ends = int(comm.allreduce(int(own_degree.sum(dtype=np.int64))))
        large = np.count_nonzero(own_degree > ends // (HUB_SHARE * comm.size))
        hubs = min(int(comm.allreduce(int(large))), _MOST_HUBS)
    return Layout(
        comm, nodes, int(cuts[-1]), cuts, bases, used, sum(totals), hubs, new, old[base : base + used].copy(), order,
        own_degree, old,
    )  # fmt: skip


def _by_degree(degree: NDArray[np.int32], number: Any) -> tuple[NDArray[np.signedinteger], NDArray[np.signedinteger]]:
    """Places of the positive degrees, the highest first, and the inverse, which holds their number elsewhere."""
    used = int(np.count_nonzero(degree))
    old: NDArray[np.signedinteger] = np.empty(used, number)
    new: NDArray[np.signedinteger] = np.full(degree.size, used, number)
    limit = min(int(degree.max(initial=0)), _COMMON_DEGREE)
    high = np.flatnonzero(degree > limit)
    high = high[np.argsort(-degree[high], kind="stable")]
    old[: len(high)] = high
    new[high] = np.arange(len(high))
    order_by_degree(degree, limit, len(high), old, new)
    return old, new


def _global_order(comm: MPI.Comm, degree: NDArray[np.int32]) -> NDArray[np.int64]:
    """Order of this rank's vertices, whose degrees descend. Ranks tell how often they have each degree."""
    starts = np.flatnonzero(np.diff(degree, prepend=-1))
    counts = np.diff(starts, append=degree.size)
    runs = np.stack([degree[starts].astype(np.int64), np.full(len(starts), comm.rank), counts], axis=1)
    everyone = collective.gather_blocks(comm, runs)
    everyone = everyone[np.lexsort((everyone[:, 1], -everyone[:, 0]))]
    before = np.cumsum(everyone[:, 2]) - everyone[:, 2]
    mine = before[everyone[:, 1] == comm.rank]
    return np.repeat(mine - starts, counts) + np.arange(degree.size)


@dataclass(frozen=True)
class Tables:
    """What building looks up: the ``order`` (n,) of an id, 0 if it has no edge; the code ``by_order`` (connected,)."""

    order: NDArray[np.signedinteger]
    by_order: NDArray[np.signedinteger]


def make_tables(layout: Layout, nodes: Nodes) -> Tables:
    """Tables over all vertices, in memory that ``nodes`` shares where they are large."""
    order = nodes.table_by_rank(layout.cuts, layout.number)
    own = order[layout.first : layout.first + layout.n_local]
    own[:] = 0
    own[layout.ids - layout.first] = layout.order
    nodes.complete_by_rank(order, layout.cuts)
    by_order = nodes.table((max(1, layout.connected),), layout.number)
    if layout.connected == 0:
        by_order[:] = 0  # the one place that is there all the same
    step = nodes.node.size if nodes.shares(by_order) else 1
    for position in range(nodes.node.rank if step > 1 else 0, layout.comm.size, step):
        fill_codes(layout.old, order, int(layout.bases[position]), int(layout.bases[position + 1]), by_order)
    collective.barrier(nodes.node)
    return Tables(order, by_order)
