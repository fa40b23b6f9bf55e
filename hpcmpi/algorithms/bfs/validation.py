"""The five checks of Graph500 on searches, over the edges as they were given, and the rule for parents.

1. *No cycles*, 2. *tree edges join levels that differ by one*, 5. *tree edges exist*: each vertex at a level above 0
   has met an edge from its parent, which is one level up; only sources are at level 0, their own parents.
3. *Edges*: the ends of each edge are at most one level apart, or neither was reached.
4. *The whole component*: no edge leads from a vertex that was reached to one that was not (but from the last level that
   was asked for).

6. *The rule*: no neighbour one level up has a higher degree than the parent, or the same and a lower id; of some of the
   vertices where there are many.

In a directed graph an edge must not lead more than one level down. Each rank checks its own vertices and its own edges;
words (:mod:`.check_kernels`) of all vertices are shared by the ranks of a node. What an edge costs is that its ends are
anywhere in memory: where there are several searches, edges are gone through once for up to LANES of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import check_kernels as kernels
from hpcmpi.algorithms.bfs.cost import NARROW_BITS, checked_together
from hpcmpi.algorithms.bfs.one_d import NO_LIMIT
from hpcmpi.comm import Nodes

_ALL_BITS, _SAMPLE_BITS = 16, 6  # up to 2^16 vertices all are held to the rule, of many one in 2^6
_SPARE_LEVELS = 3  # numbers for levels end so far before 2^bits: what was not reached is far from what was


@dataclass(frozen=True)
class Finding:
    """Outcome of the checks: whether all is right, a line on it, and how many edges the search has traversed."""

    right: bool
    reason: str
    traversed: int


class Words:
    """Words of all vertices, ``bits`` of which tell the parent, in ``lanes`` searches.

    ``taken`` are those that are in the lanes: the place of each among all, and what is wrong with it by itself.
    """

    def __init__(self, nodes: Nodes, cuts: NDArray[np.int64], kind: Any, lanes: int) -> None:
        self.bits = int(cuts[-1]).bit_length()
        self.unreached = (1 << (63 if kind is np.int64 else 32) - self.bits) - 1
        self.deepest = self.unreached + 1 - _SPARE_LEVELS  # level that there is a number for
        self.lanes, self.edges, self.nodes = lanes, cuts * lanes, nodes
        self.all = nodes.table_by_rank(self.edges, kind)
        first, last = self.edges[nodes.comm.rank : nodes.comm.rank + 2]
        self.own: NDArray[Any] = self.all[first:last].reshape(-1, lanes)
        self.by_search = np.empty((lanes, len(self.own)), kind) if lanes > 1 else self.own.reshape(1, -1)
        self.marks = nodes.table_by_rank(self.edges, np.uint8) if lanes == 1 else np.empty(0, np.uint8)
        self.seen = np.zeros(-(-int(self.edges[-1]) // 64), np.uint64)
        self.taken: list[tuple[int, NDArray[np.int64]]] = []

    def complete(self) -> None:
        """Empty the lanes that are left, and bring the words of all ranks together. Collective."""
        self.by_search[len(self.taken) :] = (self.unreached << self.bits) | (1 << self.bits) - 1
        if self.lanes > 1:
            kernels.lay_side_by_side(self.by_search, self.own)
        else:
            first, last = self.edges[self.nodes.comm.rank : self.nodes.comm.rank + 2]
            kernels.mark(self.own.reshape(-1), self.bits, self.unreached, self.marks[first:last])
            self.nodes.complete_by_rank(self.marks, self.edges)
        self.nodes.complete_by_rank(self.all, self.edges)


class Validator:
    """Checks ``searches`` of one graph: ``u`` and ``v`` are this rank's edges, rank r's ids begin at ``cuts[r]``.

    ``degree`` (ids of this rank,) is what the rule for parents goes by; searches go to ``max_depth``. Edges are not
    copied.
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
        max_depth: int = NO_LIMIT,
        searches: int = 1,
    ) -> None:
        self.comm, self.u, self.v, self.cuts = comm, u, v, cuts
        self.directed, self.threads, self.max_depth = directed, threads, max_depth
        self.nodes = Nodes(comm)
        self.n, self.first = int(cuts[-1]), int(cuts[comm.rank])
        self.lanes = checked_together(searches, self.n)
        self.words: dict[tuple[Any, int], Words] = {}
        self.degree = self.nodes.table_by_rank(cuts, np.int32)
        self.degree[self.first : int(cuts[comm.rank + 1])] = degree
        self.nodes.complete_by_rank(self.degree, cuts)
        self.sample = (1 << max(0, min(_SAMPLE_BITS, self.n.bit_length() - _ALL_BITS))) - 1
        self._found: dict[int, Finding] = {}
        self._count = 0

    def take(self, parent: NDArray[np.int64], level: NDArray[np.int32], sources: NDArray[np.int64]) -> None:
        """Take ``parent`` and ``level`` (n_local,) of the search from ``sources``, which ascend; they are not kept.

        Where the lanes are full, their searches are checked. Collective.
        """
        words = self._words_for(self.comm.allreduce(int(level.max(initial=0)), MPI.MAX))
        counts = np.zeros((self.threads, kernels.COUNTS), np.int64)
        kernels.pack(
            parent, level, self.first, self.n, sources, words.bits, words.unreached, words.by_search[len(words.taken)],
            counts, self.threads,
        )  # fmt: skip
        words.taken.append((self._count, counts.sum(0)))
        self._count += 1
        if len(words.taken) == words.lanes:
            self._check(words)

    def findings(self) -> list[Finding]:
        """What is found of the searches that were taken since the last call, in their order. Collective."""
        for words in self.words.values():
            if words.taken:
                self._check(words)
        found = [self._found[place] for place in range(self._count)]
        self._found, self._count = {}, 0
        return found

    def close(self) -> None:
        """Free the memory that is shared. Collective."""
        self.nodes.close()

    def _words_for(self, depth: int) -> Words:
        """Words that have numbers for levels up to ``depth``: narrow if possible, in lanes if narrow. Collective."""
        narrow: list[tuple[Any, int]] = [(np.uint32, self.lanes)] if self.n.bit_length() <= NARROW_BITS else []
        for format_ in [*narrow, (np.int64, 1)]:
            if format_ not in self.words:
                self.words[format_] = Words(self.nodes, self.cuts, *format_)
            if depth <= self.words[format_].deepest:
                break
        return self.words[format_]

    def _check(self, words: Words) -> None:
        """Check the searches that are in the lanes. Collective."""
        words.complete()
        words.seen[:] = 0
        by_thread = np.zeros((self.threads, kernels.COUNTS, words.lanes), np.int64)
        rest = (
            words.bits, words.unreached, self.max_depth, self.directed, self.degree, self.sample, words.seen, by_thread,
            self.threads,
        )  # fmt: skip
        if words.lanes == 1:
            kernels.check_edges(self.u, self.v, words.all, words.marks, *rest)
        else:
            kernels.check_edges_of_many(self.u, self.v, words.all, *rest)
        counts, seen = by_thread.sum(0), collective.allreduce(self.comm, words.seen, MPI.BOR)
        kernels.count_unseen(words.own, self.first, words.bits, words.unreached, seen, counts)
        for lane, (_, own) in enumerate(words.taken):
            counts[:, lane] += own
        counts = collective.allreduce(self.comm, counts)
        self._found |= {place: _judge(counts[:, lane]) for lane, (place, _) in enumerate(words.taken)}
        words.taken = []


def _judge(counts: NDArray[np.int64]) -> Finding:
    texts = {
        kernels.ROOT: "sources are not their own parents at level 0",
        kernels.TREE: "vertices have no parent, or none that is a vertex, but a level, or the other way round",
        kernels.SPAN: "edges lead more than one level down, or out of what was reached",
        kernels.RULE: "edges lead to vertices from better parents than theirs by the rule",
        kernels.UNSEEN: "vertices have no edge to their parents, or are not one level below them",
    }
    wrong = [f"{counts[index]} {text}" for index, text in texts.items() if counts[index]]
    return Finding(not wrong, "; ".join(wrong), int(counts[kernels.TRAVERSED]))
