"""A graph over the ranks of a communicator, made searchable, and breadth-first search of it."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import build_kernels, one_d, search_kernels, two_d
from hpcmpi.algorithms.bfs.build import build_rows
from hpcmpi.algorithms.bfs.layout import Layout, count_degrees, make_tables, number_vertices
from hpcmpi.arrays import plain_array
from hpcmpi.comm import Nodes, agreement
from hpcmpi.errors import InputError
from hpcmpi.machine import available_memory
from hpcmpi.partition import block
from hpcmpi.threads import available

_NARROW = 2**31 - 1
_BYTES_A_VERTEX = 16  # at least, of all ranks together


class Search(Protocol):
    """What a partition's module offers: :class:`.one_d.Search`, :class:`.two_d.Search`."""

    parent: NDArray[np.signedinteger]
    visited: NDArray[np.uint64]

    def run(self, sources: NDArray[np.int64], max_depth: int) -> int:
        """Search; returns the last level."""

    def levels(self) -> NDArray[np.int32]:
        """Levels of the vertices that are ``visited``, whose parents are ``parent``."""

    def neighbours(self, code: int) -> NDArray[np.signedinteger]:
        """Ids that edges from the vertex with this code lead to, those that this rank holds. Local."""


class Graph:
    """Vertices 0 to n - 1 over the ranks of ``comm``; rank r owns the ids ``cuts[r]`` to ``cuts[r + 1]``.

    Made by :meth:`from_edges`; :meth:`free` gives its memory back, as leaving a ``with`` block does. Both collective.
    """

    def __init__(self, comm: MPI.Comm, layout: Layout, search: Search, *, directed: bool, nodes: Nodes) -> None:
        self.comm, self.layout, self.directed = comm, layout, directed
        self._search, self._nodes = search, nodes

    @classmethod
    def from_edges(
        cls,
        comm: MPI.Comm,
        u: NDArray[np.integer],
        v: NDArray[np.integer],
        *,
        n: int | None = None,
        directed: bool = False,
        partition: str = "1d",
        balance: bool = False,
        delegate: bool = True,
        wide: bool = False,
        degree: NDArray[np.integer] | None = None,
    ) -> Graph:
        """Graph of the edges from ``u[i]`` to ``v[i]`` of all ranks, each of which gives its own.

        ``u`` and ``v`` are (edges of this rank,) of one integer dtype. ``n`` is the number of vertices, by default the
        largest id plus 1. An undirected edge is given once, in either direction; loops and repeated edges do no harm.

        ``partition`` is ``1d`` or ``2d``. By default rank r owns the ids ``n * r // P`` up to ``n * (r + 1) // P``;
        with ``balance`` the ranges are cut so that ranks get equally many edges. ``delegate`` deals the rows of hubs
        to all ranks (:mod:`.layout`). ``wide`` makes all numbers 64-bit, as they are where n is 2^31 or more.
        ``degree``, of the ids n * r // P to n * (r + 1) // P, is what the rule for parents goes by, by default how many
        ends of edges a vertex has; 0 for those that have none. The edges are not modified or kept.

        Raises InputError, on all ranks, for ids that are negative or not below n, for arrays that do not fit, and for
        so large an n that there is no memory for tables of all vertices.
        """
        private = comm.Dup()  # so that no receive of the caller's can take our messages
        try:
            u, v, n = _checked(private, u, v, n)
            with agreement(private):
                degree = None if degree is None else plain_array(degree, f"rank {comm.rank}: degree")
            if partition not in ("1d", "2d"):
                raise InputError(f"partition is {partition!r}; '1d' or '2d' is expected")
        except InputError:
            private.Free()
            raise
        cuts = np.array([block(n, comm.size, rank).start for rank in range(comm.size)] + [n], np.int64)
        counts, shares = _counted(private, (u, v), cuts, directed=directed)
        by: NDArray[np.int32] = sum(counts[1:], counts[0]) if degree is None else degree.astype(np.int32)
        if balance:
            cuts, (by, *counts) = _balanced(private, cuts, counts, [by, *counts])
        wide = wide or n > _NARROW
        return cls._built(
            private, (u, v), cuts, counts, by, partition, both=not directed, delegate=delegate, wide=wide, shares=shares
        )

    @classmethod
    def from_rows(
        cls,
        comm: MPI.Comm,
        lengths: NDArray[np.integer],
        neighbours: NDArray[np.integer],
        degree: NDArray[np.integer],
        *,
        cuts: NDArray[np.int64],
        partition: str = "1d",
        delegate: bool = True,
    ) -> Graph:
        """Undirected graph of rows that hold each edge both ways, without loops and repeats, as of :meth:`rows`.

        This rank has the rows of the ids ``cuts[rank]`` to ``cuts[rank + 1]``: their ``lengths``, and the
        ``neighbours`` one row after the other; ``degree`` is what the rule for parents goes by.

        Raises InputError, on all ranks, if a row has neighbours and its vertex has the degree 0.
        """
        with agreement(comm):
            lengths, neighbours, degree = (
                plain_array(array, f"rank {comm.rank}: {name}")
                for name, array in (("lengths", lengths), ("neighbours", neighbours), ("degree", degree))
            )
            wrong = np.flatnonzero((lengths > 0) & (degree <= 0))
            if wrong.size:
                row = int(wrong[0])
                vertex = int(cuts[comm.rank]) + row
                raise InputError(f"vertex {vertex} has {lengths[row]} neighbours, but the degree {degree[row]}")
        private, n = comm.Dup(), int(cuts[-1])
        number: Any = np.uint32 if n <= 2**32 else np.int64
        u = np.repeat(np.arange(cuts[comm.rank], cuts[comm.rank + 1]).astype(number), lengths)
        counts = [np.ascontiguousarray(lengths, np.int32)]
        ends = u, np.ascontiguousarray(neighbours, number)
        by = np.ascontiguousarray(degree, np.int32)
        return cls._built(private, ends, cuts, counts, by, partition, both=False, delegate=delegate, wide=n > _NARROW)

    @classmethod
    def _built(
        cls,
        comm: MPI.Comm,
        ends: tuple[NDArray[np.integer], NDArray[np.integer]],
        cuts: NDArray[np.int64],
        counts: list[NDArray[np.int32]],
        degree: NDArray[np.int32],
        partition: str,
        *,
        both: bool,
        delegate: bool,
        wide: bool,
        alone: bool | None = None,
        shares: Sequence[NDArray[np.int32] | None] = (None, None),
    ) -> Graph:
        """Graph of checked edges on a communicator of its own.

        ``counts`` are the neighbours, repeats included, that edges lead to from each of this rank's ids; in a directed
        graph, then those that they come from. With ``both`` each edge leads both ways. ``alone`` is whether there is
        but one rank, unless the ways of several are rehearsed. ``shares`` are the ``counts`` by thread, if known.
        """
        threads = available()
        alone = comm.size == 1 if alone is None else alone
        nodes, spare = Nodes(comm), Nodes(comm)
        delegate = delegate and partition == "1d" and not alone
        layout = number_vertices(comm, nodes, cuts, degree, delegate=delegate, wide=wide)
        tables = make_tables(layout, spare)
        if partition == "2d":
            search: Search = two_d.build(layout, tables, ends, threads, both=both, wide=wide)
        else:
            own = layout.ids - layout.number(layout.first)
            rows = [
                build_rows(layout, tables, way, lengths[own], threads, share, both=both, wide=wide, direct=alone)
                for lengths, share, way in zip(counts, shares, (ends, ends[::-1]), strict=False)
            ]
            outgoing, incoming = rows[0], rows[-1]
            entries = int(comm.allreduce(outgoing.entries))
            search = one_d.Search(layout, incoming, outgoing, entries, threads, alone=alone)
        del tables
        spare.close()
        return cls(comm, layout, search, directed=len(counts) > 1, nodes=nodes)

    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Lengths of the rows of this rank's ids, their neighbours' ids, ascending in each row, and degrees.

        Neighbours are those that edges lead to; loops and repeats are left out. Of a graph with partition ``1d`` that
        was made without ``delegate``; InputError for others.
        """
        if not isinstance(self._search, one_d.Search) or self.layout.hubs:
            raise InputError("rows are those of a graph with partition '1d' and without delegated hubs")
        layout, rows = self.layout, self._search.outgoing
        lengths = np.zeros(self.n_local, np.int64)
        lengths[layout.ids - layout.first] = rows.length[: layout.used]
        neighbours = np.empty(int(lengths.sum()), np.int64)
        build_kernels.rows_by_id(
            layout.new, layout.used, rows.start, rows.length, rows.neighbours, layout.old, neighbours
        )
        return lengths, neighbours, self.degrees()

    def holds(self, u: NDArray[np.int64], v: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether an edge leads from ``u[i]`` to ``v[i]``, ids that are the same on all ranks: (k,). Collective."""
        layout = self.layout
        own = u - layout.first
        mine = (own >= 0) & (own < layout.n_local)
        codes, number = np.full(u.size, -1, np.int64), layout.new[own[mine]].astype(np.int64)
        codes[mine] = np.where(number < layout.used, layout.base + number, -1)
        codes = collective.allreduce(self.comm, codes, MPI.MAX)
        found = np.zeros(u.size, np.int64)
        for edge in np.flatnonzero(codes >= 0).tolist():
            found[edge] = np.any(self._search.neighbours(int(codes[edge])) == v[edge])
        return collective.allreduce(self.comm, found) > 0

    @property
    def n(self) -> int:
        """Number of vertices."""
        return self.layout.n

    @property
    def first(self) -> int:
        """First id that this rank owns."""
        return self.layout.first

    @property
    def n_local(self) -> int:
        """Number of ids that this rank owns."""
        return self.layout.n_local

    @property
    def partition(self) -> str:
        """``1d`` or ``2d``."""
        return "2d" if isinstance(self._search, two_d.Search) else "1d"

    @property
    def grid(self) -> str:
        """The grid of ranks."""
        shape = self._search.sides.shape if isinstance(self._search, two_d.Search) else (self.comm.size, 1)
        return " x ".join(map(str, shape))

    def random_roots(self, count: int, seed: int) -> list[int]:
        """Ids of ``count`` vertices drawn from those that have an edge, each once; all of them if there are fewer."""
        layout = self.layout
        drawn = np.random.default_rng(seed).choice(layout.connected, min(count, layout.connected), replace=False)
        found = np.zeros(len(drawn), np.int64)
        by_order = np.argsort(drawn)
        at = np.searchsorted(drawn[by_order], layout.order)
        at[at == len(drawn)] = 0
        mine = drawn[by_order][at] == layout.order if len(drawn) else np.zeros(layout.used, bool)
        found[by_order[at[mine]]] = layout.ids[mine]
        return [int(root) for root in collective.allreduce(self.comm, found)]

    def degrees(self) -> NDArray[np.int64]:
        """Degrees of this rank's ids, by which the rule for parents goes: (n_local,). Local."""
        layout = self.layout
        degree = np.zeros(self.n_local, np.int64)
        degree[layout.ids - layout.first] = layout.degree
        return degree

    def parents_into(self, out: NDArray[np.int64], sources: NDArray[np.int64], max_depth: int = one_d.NO_LIMIT) -> int:
        """Search, and write the parents of this rank's ids to ``out`` (n_local,); returns the last level.

        ``sources`` are ids, ascending, each once, and in range.
        """
        last = self._search.run(sources, max_depth)
        self._by_id(self._search.parent, out, sources, sources)
        return last

    def levels_into(self, out: NDArray[np.int32], sources: NDArray[np.int64]) -> None:
        """Write the levels that the last search found to ``out`` (n_local,)."""
        self._by_id(self._search.levels(), out, sources, np.zeros(len(sources), np.int64))

    def _by_id(self, values: NDArray[np.signedinteger], out: NDArray[np.signedinteger], sources: NDArray[np.int64],
               at_sources: NDArray[np.int64]) -> None:  # fmt: skip
        layout = self.layout
        search_kernels.by_id(self._search.visited, values, layout.new, layout.used, out, available())
        mine = (sources >= layout.first) & (sources < layout.first + layout.n_local)
        out[sources[mine] - layout.first] = at_sources[mine]  # some of which may have no edge

    def free(self) -> None:
        """Give back the memory that ranks share, and the communicators; again, nothing. Collective."""
        if self.comm != MPI.COMM_NULL:
            del self._search, self.layout
            self._nodes.close()
            self.comm.Free()

    def __enter__(self) -> Graph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:  # else other ranks may not come here
            self.free()


def warm_up(partition: str, *, directed: bool, wide: bool) -> Graph:
    """Call once, on a small graph of this rank's own, what building and searching calls; the graph is the caller's."""
    number: Any = np.int64 if wide else np.uint32
    u, v = (np.array(ends).astype(number) for ends in ([0, 0, 0, 1, 1, 2, 4], [1, 2, 3, 2, 3, 3, 5]))
    cuts = np.array([0, 6])
    counts, shares = _counted(MPI.COMM_SELF, (u, v), cuts, directed=directed)
    degree: NDArray[np.int32] = sum(counts[1:], counts[0])
    for alone in (False, True):  # the ways of several ranks, and of one
        graph = Graph._built(
            MPI.COMM_SELF.Dup(), (u, v), cuts, counts, degree, partition, both=not directed, delegate=True, wide=wide,
            alone=alone, shares=shares,
        )  # fmt: skip
        for root in (0, 4):
            bfs(graph, root)
        if not alone:
            if isinstance(graph._search, one_d.Search):
                graph._search.rehearse()
            graph.free()
    build_kernels.largest_end(u)
    return graph


def bfs(
    graph: Graph, root: int | Sequence[int], *, max_depth: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Parent and level of this rank's vertices in a breadth-first search from ``root``, or from several roots at once.

    Both are (graph.n_local,): int64 ids and int32 levels, -1 where nothing leads to; roots are their own parents.
    The parent is the neighbour one level up with the highest degree, the lowest id among equals, so that the answer
    depends on the graph alone (:mod:`.layout`); repeated edges count in degrees, loops do not. Collective.
    ``max_depth`` is the last level to be searched.

    Method: :mod:`.one_d` (Beamer, Asanovic, Patterson 2012) or :mod:`.two_d` (Buluc, Madduri 2011).
    Raises InputError, on all ranks, for a root that is not in the graph, and where there is none.
    """
    if graph.comm == MPI.COMM_NULL:
        raise InputError("the graph has been freed")
    with agreement(graph.comm):
        sources = checked_sources(np.atleast_1d(plain_array(root, "root")), graph.n)
        if max_depth is not None and max_depth < 0:
            raise InputError(f"max_depth is {max_depth}; 0 or more is expected")
    first = graph.comm.bcast((sources, max_depth))
    with agreement(graph.comm):
        if not np.array_equal(sources, first[0]) or max_depth != first[1]:
            mine, theirs = (f"from {ids} to depth {depth}" for ids, depth in ((sources, max_depth), first))
            raise InputError(f"rank {graph.comm.rank} searches {mine}, rank 0 {theirs}; the same is expected")
    parent, level = np.empty(graph.n_local, np.int64), np.empty(graph.n_local, np.int32)
    graph.parents_into(parent, sources, one_d.NO_LIMIT if max_depth is None else min(max_depth, one_d.NO_LIMIT))
    graph.levels_into(level, sources)
    return parent, level


def checked_sources(roots: NDArray[np.integer], n: int) -> NDArray[np.int64]:
    """``roots`` ascending, each once; InputError if one is not a vertex, or if there is none."""
    if roots.size == 0 or roots.dtype.kind not in "iu":
        raise InputError(f"roots are {roots.dtype} of shape {roots.shape}; at least one whole number is expected")
    bad = roots[(roots < 0) | (roots >= n)]
    if bad.size:
        raise InputError(f"root {bad[0]} is not a vertex: there are {n}, numbered from 0")
    return np.unique(roots).astype(np.int64)


def _checked(
    comm: MPI.Comm, u: NDArray[np.integer], v: NDArray[np.integer], n: int | None
) -> tuple[NDArray[np.integer], NDArray[np.integer], int]:
    """The ends as the kernels take them, and n."""
    with agreement(comm):
        u, v = (plain_array(ends, f"rank {comm.rank}: {name}") for name, ends in (("u", u), ("v", v)))
    if u.shape == v.shape == (0,):
        u = v = np.zeros(0, np.int64)  # of whatever dtype: np.array([]) is float64
    largest = -1
    with agreement(comm):
        for name, ends in (("u", u), ("v", v)):
            if ends.ndim != 1 or ends.shape != u.shape or ends.dtype != u.dtype or ends.dtype.kind not in "iu":
                raise InputError(
                    f"rank {comm.rank}: u is {u.dtype} of shape {u.shape}, v is {v.dtype} of shape {v.shape}; "
                    f"two arrays (edges,) of whole numbers, alike, are expected"
                )
            if ends.dtype.kind == "i" and ends.size and int(ends.min()) < 0:
                raise InputError(f"rank {comm.rank}: {name} holds the id {ends.min()}; ids are 0 or more")
            if ends.size:
                wide = ends.dtype != np.uint32
                largest = max(largest, int(ends.max()) if wide else int(build_kernels.largest_end(ends)))
    found = comm.allreduce(largest, MPI.MAX) + 1
    kinds = set(comm.allgather(u.dtype.str if u.size else ""))
    if n is None:
        n = found
    with agreement(comm):
        if found > n or n >= 2**62:
            raise InputError(f"the largest id is {found - 1}; n is {n}, and ids are below it")
        needed, there = _BYTES_A_VERTEX * n // comm.size, available_memory()
        if needed > there:
            raise InputError(
                f"n is {n}: tables of all vertices take {needed >> 20} MiB of this rank, and {there >> 20} are there; "
                f"number the vertices that there are from 0"
            )
    number = np.uint32 if n <= 2**32 and kinds <= {"", "<u4"} else np.int64
    if n <= 2**32 and u.dtype != np.int64:
        number = np.uint32
    return np.ascontiguousarray(u, number), np.ascontiguousarray(v, number), int(n)


def _counted(
    comm: MPI.Comm, ends: tuple[NDArray[np.integer], NDArray[np.integer]], cuts: NDArray[np.int64], *, directed: bool
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32] | None]]:
    """Degrees of this rank's ids; in a directed graph out-degrees, then in-degrees. And each by thread, if known."""
    ways = (ends, ends[::-1]) if directed else (ends,)
    counted = [count_degrees(comm, *way, cuts, available(), both=not directed) for way in ways]
    return [degrees for degrees, _ in counted], [share for _, share in counted]


def _balanced(
    comm: MPI.Comm, cuts: NDArray[np.int64], counts: list[NDArray[np.int32]], columns: list[NDArray[np.int32]]
) -> tuple[NDArray[np.int64], list[NDArray[np.int32]]]:
    """Cuts that give ranks equally many edges and vertices together, and the ``columns`` of the new ranges."""
    weight = np.cumsum(sum(counts, np.ones(counts[0].size, np.int64)))
    totals = np.array(comm.allgather(int(weight[-1]) if weight.size else 0))
    before = int(totals[: comm.rank].sum())
    goals = int(totals.sum()) * np.arange(1, comm.size, dtype=np.float64) / comm.size
    mine = (goals > before) & (goals <= before + totals[comm.rank])
    found = np.zeros(comm.size + 1, np.int64)
    found[1:-1][mine] = cuts[comm.rank] + np.searchsorted(weight, goals[mine] - before, "left") + 1
    new = collective.allreduce(comm, found)
    new[-1] = cuts[-1]
    new = np.maximum.accumulate(np.minimum(new, cuts[-1]))
    edges = np.clip(new, cuts[comm.rank], cuts[comm.rank + 1])
    moved = [collective.exchange(comm, each, np.diff(edges))[0] for each in columns]
    return new, moved
