"""The five checks of Graph500 on a search, over the edges as they were given, and the rule for parents.

1. *No cycles*: the parent of a vertex at level l > 0 is at level l - 1; only sources are at level 0, their own parents.
2. *Tree edges join levels that differ by one*: as above.
3. *Edges*: the ends of each edge are at most one level apart, or neither was reached.
4. *The whole component*: no edge leads from a vertex that was reached to one that was not (but from the last level that
   was asked for).
5. *Tree edges exist*: each vertex has met an edge to its parent.

6. *The rule*: no neighbour one level up has a higher degree than the parent, or the same and a lower id; of some of the
   vertices where there are many.

In a directed graph an edge must not lead more than one level down. Each rank checks its own vertices and its own edges;
marks (a byte a vertex where levels are few) and parents of all vertices are shared by the ranks of a node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import check_kernels as kernels
from hpcmpi.comm import Nodes

_ALL_BITS, _SAMPLE_BITS = 16, 6  # up to 2^16 vertices all are held to the rule, of many one in 2^6
_FORMATS = ((np.uint8, 4), (np.uint32, 24), (np.uint32, 31))  # of a mark, and bits of it for the level


@dataclass(frozen=True)
class Finding:
    """Outcome of the checks: whether all is right, a line on it, and how many edges the search has traversed."""

    right: bool
    reason: str
    traversed: int


class Validator:
    """Checks searches of one graph: ``u`` and ``v`` are this rank's edges, rank r's ids begin at ``cuts[r]``.

    ``degree`` (ids of this rank,) is what the rule for parents goes by.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        u: NDArray[np.integer],
        v: NDArray[np.integer],
        cuts: NDArray[np.int64],
        degree: NDArray[np.integer],
        *,
        directed: bool,
        threads: int,
    ) -> None:
        self.comm, self.u, self.v, self.cuts = comm, u, v, cuts
        self.directed, self.threads = directed, threads
        self.nodes = Nodes(comm)
        self.n = int(cuts[-1])
        self.parents = self.nodes.table_by_rank(cuts, np.int32 if self.n < 2**31 else np.int64)
        self.marks: dict[type, NDArray[np.integer]] = {}
        self.seen = np.zeros(-(-self.n // 64), np.uint64)
        self.degree = self.nodes.table_by_rank(cuts, np.int32)
        self.degree[int(cuts[comm.rank]) : int(cuts[comm.rank + 1])] = degree
        self.nodes.complete_by_rank(self.degree, cuts)
        self.sample = (1 << max(0, min(_SAMPLE_BITS, self.n.bit_length() - _ALL_BITS))) - 1

    def check(
        self,
        parent: NDArray[np.int64],
        level: NDArray[np.int32],
        sources: NDArray[np.int64],
        max_depth: int,
    ) -> Finding:
        """Check ``parent`` and ``level`` (n_local,) of the search from ``sources``, which ascend, to ``max_depth``."""
        comm = self.comm
        first, last = int(self.cuts[comm.rank]), int(self.cuts[comm.rank + 1])
        depth = comm.allreduce(int(level.max(initial=0)), MPI.MAX)
        kind, bits = next((kind, bits) for kind, bits in _FORMATS if depth < 2**bits - 2)
        if kind not in self.marks:
            self.marks[kind] = self.nodes.table_by_rank(self.cuts, kind)
        marks = self.marks[kind]
        kernels.mark(parent, level, bits, marks[first:last], self.parents[first:last])
        self.nodes.complete_by_rank(self.parents, self.cuts)
        self.nodes.complete_by_rank(marks, self.cuts)
        counts = np.zeros(kernels.COUNTS, np.int64)
        kernels.check_tree(first, parent, level, marks, bits, sources, counts)
        by_thread = np.zeros((self.threads, 8), np.int64)
        self.seen[:] = 0
        kernels.check_edges(
            self.u, self.v, marks, self.parents, self.degree, self.sample,
            bits, max_depth, self.directed, self.seen, by_thread,
            self.threads,
        )  # fmt: skip
        counts[[kernels.SPAN, kernels.TRAVERSED, kernels.RULE]] = by_thread.sum(0)[:3]
        seen = collective.allreduce(comm, self.seen, MPI.BOR)
        counts[kernels.UNSEEN] = kernels.count_unseen(first, level, seen)
        return _judge(collective.allreduce(comm, counts))

    def close(self) -> None:
        """Free the memory that is shared. Collective."""
        self.nodes.close()


def _judge(counts: NDArray[np.int64]) -> Finding:
    texts = {
        kernels.ROOT: "sources are not their own parents at level 0",
        kernels.TREE: "vertices have no parent, or none that is a vertex, but a level, or the other way round",
        kernels.PARENT_LEVEL: "vertices are not one level below their parents",
        kernels.SPAN: "edges lead more than one level down, or out of what was reached",
        kernels.RULE: "edges lead to vertices from better parents than theirs by the rule",
        kernels.UNSEEN: "vertices have no edge to their parents",
    }
    wrong = [f"{counts[index]} {text}" for index, text in texts.items() if counts[index]]
    return Finding(not wrong, "; ".join(wrong), int(counts[kernels.TRAVERSED]))
