"""Breadth-first search over all ranks: read or generate the edges, build the graph, search, check."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import ROOTS_OF_GRAPH500, Params, graph500
from hpcmpi.algorithms.bfs.graph import Graph, checked_sources
from hpcmpi.algorithms.bfs.graph import warm_up as warm_up_graph
from hpcmpi.algorithms.bfs.kronecker import kronecker
from hpcmpi.algorithms.bfs.naming import SPARSE, Names, name
from hpcmpi.algorithms.bfs.one_d import NO_LIMIT
from hpcmpi.algorithms.bfs.reading import read_text
from hpcmpi.algorithms.bfs.text_kernels import count_lines, parse_edges
from hpcmpi.algorithms.bfs.validation import Finding, Validator
from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import InputError
from hpcmpi.partition import Range, block
from hpcmpi.record import Block, Cost, Result, Scalar, Verdict
from hpcmpi.store.hdf5 import open_hdf5
from hpcmpi.store.reader import open_source
from hpcmpi.threads import available

_BINARY = (b"\x89HDF\r\n\x1a\n", b"\x93NUMPY")
_NARROW = 2**32


@dataclass(frozen=True)
class Edges:
    """This rank's edges, from ``u[i]`` to ``v[i]``, between ``n`` vertices, and their names where ids were sparse."""

    u: NDArray[np.integer]
    v: NDArray[np.integer]
    n: int
    names: Names | None = None
    degree: NDArray[np.integer] | None = None


@dataclass
class Problem:
    """A graph that is ready to be searched, and the searches that are wanted of it."""

    params: Params
    edges: Edges
    graph: Graph
    sources: list[NDArray[np.int64]]
    construction: float  # seconds
    parent: NDArray[np.int64]  # (searches kept, n_local)
    level: NDArray[np.int32]
    validator: Validator | None = None
    finding: Verdict | None = None

    @property
    def max_depth(self) -> int:
        """Last level to search."""
        return NO_LIMIT if self.params.max_depth is None else min(self.params.max_depth, NO_LIMIT)


def warm_up(params: Params) -> None:
    """Call the kernels that the run will call."""
    threads = available()
    edges = kronecker(6, Range(0, 64), 0, threads)
    if params.graph is not None:
        parse_edges(
            np.frombuffer(b"0 1\n", np.uint8), *np.empty((2, count_lines(np.frombuffer(b"", np.uint8))), np.int64)
        )
    wide = params.scale is not None and params.scale > 31
    partition = "2d" if params.partition == "2d" else "1d"
    rehearsal = warm_up_graph(partition, directed=params.directed, wide=wide)
    number: Any = np.int64 if wide else np.uint32
    u, v = (ends[:0].astype(number) for ends in edges)
    validator = Validator(MPI.COMM_SELF, u, v, rehearsal.layout.cuts, directed=params.directed, threads=threads)
    parent, level = np.full(rehearsal.n, -1), np.full(rehearsal.n, -1, np.int32)
    validator.check(parent, level, np.zeros(1, np.int64), NO_LIMIT)
    validator.close()
    rehearsal.free()


def resolve(comm: MPI.Comm, params: Params) -> Params:
    """``params``, once the file is known to be there; InputError if it is not."""
    if params.graph is not None:
        on_root(comm, lambda: _magic(_path(params.graph or "")))
    return params


def prepare(comm: MPI.Comm, params: Params, plan: Cost) -> Problem:
    """Read or generate the edges, and build the graph."""
    edges = load(comm, params)
    collective.barrier(comm)
    tic = time.perf_counter()
    graph = Graph.from_edges(
        comm, edges.u, edges.v, n=None if params.graph500 else edges.n, directed=params.directed,
        partition=plan.method, balance=params.graph is not None,
    )  # fmt: skip
    construction = comm.allreduce(time.perf_counter() - tic, MPI.MAX)
    sources = _sources(comm, params, edges, graph)
    kept = 1 if params.graph500 else len(sources)
    parent, level = np.empty((kept, graph.n_local), np.int64), np.empty((kept, graph.n_local), np.int32)
    parent.fill(-1)
    level.fill(-1)  # the first touch of fresh memory belongs to the preparation
    return Problem(params, edges, graph, sources, construction, parent, level)


def _path(where: str) -> Path:
    text, colon, _dataset = where.rpartition(":/")
    return Path(text if colon else where)


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise InputError(f"{path}: {'no such file' if not path.exists() else error.strerror}") from None


def load(comm: MPI.Comm, params: Params) -> Edges:
    """This rank's edges, as ``params`` describe them. Collective."""
    if params.scale is not None:
        mine = block(params.edge_factor << params.scale, comm.size, comm.rank)
        return Edges(*kronecker(params.scale, mine, params.seed, available()), 1 << params.scale)
    where = params.graph or ""
    magic = on_root(comm, lambda: _magic(_path(where)))
    n = None
    if magic.startswith(_BINARY):
        u, v = _read_array(comm, where)
    else:
        (u, v), header = read_text(comm, _path(where))
        n = header.n
    count = comm.allreduce(u.size)
    with agreement(comm):
        for ends in (u, v):
            if ends.size and int(ends.min()) < 0:
                raise InputError(f"{where}: holds the id {ends.min()}; ids are 0 or more")
    if count == 0 and not n:
        empty = InputError(f"{where}: holds no edges")
        empty.agreed = True
        raise empty
    largest = comm.allreduce(max(int(u.max(initial=-1)), int(v.max(initial=-1))), MPI.MAX)
    if n is None and largest >= SPARSE * count:
        names = name(comm, u, v)
        return Edges(_narrow(names.numbers(comm, u), names.n), _narrow(names.numbers(comm, v), names.n), names.n, names)
    n = n or largest + 1
    return Edges(_narrow(u, n), _narrow(v, n), n)


def _narrow(ends: NDArray[np.int64], n: int) -> NDArray[np.integer]:
    return ends.astype(np.uint32) if n <= _NARROW else ends


def _read_array(comm: MPI.Comm, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges of an array (m, 2) or (2, m), or of a group with ``indptr`` and ``indices`` (compressed rows)."""
    group: str | None = on_root(comm, lambda: _rows_in(where))
    if group is not None:
        return _read_rows(comm, _path(where), group)
    source = open_source(comm, where, ndim=2)
    with agreement(comm):
        if source.dtype.kind not in "iu":
            raise InputError(f"{source}: holds {source.dtype}; ids are whole numbers")
        if 2 not in source.shape:
            raise InputError(f"{source}: has shape {source.shape}; (edges, 2) or (2, edges) is expected")
    if source.shape[1] == 2:
        mine = block(source.shape[0], comm.size, comm.rank)
        ends = source.read(comm, (mine, Range(0, 2)), np.int64)
        return np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1])
    ends = source.read(comm, (Range(0, 2), block(source.shape[1], comm.size, comm.rank)), np.int64)
    return ends[0], ends[1]


def _rows_in(where: str) -> str | None:
    """Name of the group of ``where`` that holds compressed rows, or None."""
    import h5py

    path = _path(where)
    named = where[len(str(path)) + 1 :] if where != str(path) else ""
    if _magic(path) != _BINARY[0]:
        return None
    with open_hdf5(path) as file:
        found: list[str] = []

        def look(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group) and "indptr" in item and "indices" in item:
                found.append(f"/{name}")

        if "indptr" in file and "indices" in file:
            found.append("")
        file.visititems(look)
    if named:
        return named.rstrip("/") if named.rstrip("/") in found else None
    return found[0] if len(found) == 1 else None


def _read_rows(comm: MPI.Comm, path: Path, group: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges of compressed rows; each rank reads equally many."""
    pointers, indices = (open_source(comm, f"{path}:{group}/{name}", ndim=1) for name in ("indptr", "indices"))
    with agreement(comm):
        for source in (pointers, indices):
            if source.dtype.kind not in "iu":
                raise InputError(f"{source}: holds {source.dtype}; whole numbers are expected")
    rows = pointers.shape[0] - 1
    start = pointers.read(comm, (Range(0, rows + 1),), np.int64)
    with agreement(comm):
        if rows < 0 or start[0] != 0 or start[-1] != indices.shape[0] or (np.diff(start) < 0).any():
            raise InputError(f"{pointers}: does not ascend from 0 to {indices.shape[0]}, the length of {indices}")
    mine = block(indices.shape[0], comm.size, comm.rank)
    v = indices.read(comm, (mine,), np.int64)
    first = int(np.searchsorted(start, mine.start, "right")) - 1
    last = int(np.searchsorted(start, mine.stop, "left"))
    u = np.repeat(np.arange(first, last), np.diff(np.clip(start[first : last + 1], mine.start, mine.stop)))
    return u, v


def _sources(comm: MPI.Comm, params: Params, edges: Edges, graph: Graph) -> list[NDArray[np.int64]]:
    """Where each search begins."""
    wanted = [[root] for root in params.root] or ([list(params.sources)] if params.sources else [])
    numbers = [np.array(ids, np.int64) for ids in wanted]
    if edges.names is not None:
        numbers = [edges.names.numbers(comm, ids) for ids in numbers]
    with agreement(comm):
        for ids, found in zip(wanted, numbers, strict=True):
            for identity, number in zip(ids, found, strict=True):
                if not 0 <= number < graph.n:
                    there = f"{graph.n} vertices occur" if edges.names else f"there are {graph.n}, numbered from 0"
                    raise InputError(f"{params.graph or 'the graph'}: root {identity} is not a vertex: {there}")
    starts = [checked_sources(ids, graph.n) for ids in numbers]
    return starts + [np.array([root]) for root in graph.random_roots(_random(params), params.seed)]


def _random(params: Params) -> int:
    return params.roots or (ROOTS_OF_GRAPH500 if params.graph500 else 0)


def run(comm: MPI.Comm, problem: Problem, report: Callable[[float], None]) -> Result:
    """All searches."""
    return _benchmark(comm, problem, report) if problem.params.graph500 else _search_all(comm, problem, report)


def _search_all(comm: MPI.Comm, problem: Problem, report: Callable[[float], None]) -> Result:
    graph, names, count = problem.graph, problem.edges.names, len(problem.sources)
    levels, seconds = np.zeros(count, np.int64), np.zeros(count)
    for index, sources in enumerate(problem.sources):
        tic = time.perf_counter()
        levels[index] = graph.parents_into(problem.parent[index], sources, problem.max_depth)
        graph.levels_into(problem.level[index], sources)
        seconds[index] = time.perf_counter() - tic
        report((index + 1) / count)
    seconds = collective.allreduce(comm, seconds, MPI.MAX)
    mine = [[np.count_nonzero(parent >= 0), graph.ends_at(parent >= 0)] for parent in problem.parent]
    reached, ends = collective.allreduce(comm, np.array(mine, np.int64).reshape(count, 2)).T
    parent = problem.parent if names is None else names.ids_of(comm, problem.parent)
    place, shape = (0, graph.first), (count, graph.n)
    arrays = {
        "parent": Block(parent, place, shape, ("search", "vertex_number")),
        "level": Block(problem.level, place, shape, ("search", "vertex_number")),
    }
    if names is not None:
        arrays["vertex"] = Block(names.ids, (names.first,), (names.n,), ("vertex_number",))
    table = {"reached": reached, "edges": ends // 2, "levels": levels, "seconds": seconds}
    if not problem.params.sources:
        roots = np.concatenate(problem.sources)
        table["root"] = roots if names is None else names.ids_of(comm, roots)
    arrays |= _table(comm, table, count)
    facts = _facts(comm, problem) | {"levels_most": int(levels.max(initial=0)), "reached_most": int(reached.max())}
    return Result(arrays, float(ends.sum()) / 2, "TEPS", facts)


def _table(comm: MPI.Comm, columns: dict[str, NDArray[Any]], count: int) -> dict[str, Block]:
    """A dataset for each column, written by rank 0."""
    start = 0 if comm.rank == 0 else count
    return {name: Block(column[start:], (start,), (count,), ("search",)) for name, column in columns.items()}


def _facts(comm: MPI.Comm, problem: Problem) -> dict[str, Scalar]:
    graph, params = problem.graph, problem.params
    edges = comm.allreduce(problem.edges.u.size)
    about = f"scale {params.scale}, " if params.scale is not None else f"{params.graph}: "
    return {
        "size": f"{about}{graph.n} vertices, {edges} edges{', directed' * graph.directed}, "
        f"{len(problem.sources)} searches",
        "method_used": graph.partition,
        "grid": graph.grid,
        "n": graph.n,
        "edges_given": edges,
        "construction_seconds": problem.construction,
        "parent_rule": "neighbour one level up of the highest degree, the lowest id among equals",
    }


def _benchmark(comm: MPI.Comm, problem: Problem, report: Callable[[float], None]) -> Result:
    """Graph500: one timed search after the other, each checked before the next begins."""
    began = time.perf_counter()
    graph, params, count = problem.graph, problem.params, len(problem.sources)
    validator = _validator(comm, problem)
    parent, level = problem.parent[0], problem.level[0]
    seconds, checking, edges, levels = (np.zeros(count) for _ in range(4))
    wrong: list[str] = []
    for index, root in enumerate(problem.sources):
        graph.comm.Barrier()
        tic = time.perf_counter()
        levels[index] = graph.parents_into(parent, root)
        graph.comm.Barrier()
        seconds[index] = time.perf_counter() - tic
        graph.levels_into(level, root)
        tic = time.perf_counter()
        found = validator.check(parent, level, root, NO_LIMIT)
        checking[index] = time.perf_counter() - tic
        edges[index] = found.traversed
        if not found.right:
            wrong.append(f"search from {root[0]}: {found.reason}")
        report((index + 1) / count)
    seconds, checking = (collective.allreduce(comm, times, MPI.MAX) for times in (seconds, checking))
    lines = graph500.block(
        params.scale or 0, params.edge_factor, comm.size, problem.construction, seconds, edges, not wrong, checking
    )
    mean = graph500.harmonic(edges / seconds)["harmonic_mean"]
    reason = wrong[0] if wrong else f"{count} searches passed the five checks of Graph500"
    problem.finding = Verdict(not wrong, reason, {"searches_wrong": len(wrong)})
    table = {"root": np.concatenate(problem.sources), "seconds": seconds, "edges": edges, "levels": levels}
    facts = _facts(comm, problem) | {
        "harmonic_mean_TEPS": mean, "checking_median_seconds": float(np.median(checking)),
        "search_median_seconds": float(np.median(seconds)),
    }  # fmt: skip
    # The rate is the benchmark's, without the checks between the searches.
    work = mean * (time.perf_counter() - began)
    return Result(_table(comm, table, count), work, "TEPS", facts, tuple(lines))


def _validator(comm: MPI.Comm, problem: Problem) -> Validator:
    if problem.validator is None:
        edges, graph = problem.edges, problem.graph
        problem.validator = Validator(
            comm, edges.u, edges.v, graph.layout.cuts, directed=graph.directed, threads=available()
        )
    return problem.validator


def verify(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:  # noqa: ARG001 - its parents have been renamed
    """Graph500's five checks on every search; those of the benchmark have been made after each."""
    if problem.finding is not None:
        return problem.finding
    validator, findings = _validator(comm, problem), list[Finding]()
    tic = time.perf_counter()
    for sources, parent, level in zip(problem.sources, problem.parent, problem.level, strict=True):
        findings.append(validator.check(parent, level, sources, problem.max_depth))
    seconds = comm.allreduce(time.perf_counter() - tic, MPI.MAX)
    wrong = [
        f"search from {sources[0]}: {finding.reason}"
        for sources, finding in zip(problem.sources, findings, strict=True)
        if not finding.right
    ]
    facts: dict[str, Scalar] = {"searches_wrong": len(wrong), "checking_seconds": seconds}
    reason = wrong[0] if wrong else f"{len(findings)} searches passed the five checks of Graph500"
    return Verdict(not wrong, reason, facts)
