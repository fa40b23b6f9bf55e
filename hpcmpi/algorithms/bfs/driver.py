"""Breadth-first search over all ranks: read or generate the edges, build the graph, search, check."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import ROOTS_OF_GRAPH500, Params
from hpcmpi.algorithms.bfs.cost import searches
from hpcmpi.algorithms.bfs.graph import Graph, checked_sources
from hpcmpi.algorithms.bfs.graph import warm_up as warm_up_graph
from hpcmpi.algorithms.bfs.graph500 import benchmark, counted, table
from hpcmpi.algorithms.bfs.kronecker import kronecker
from hpcmpi.algorithms.bfs.naming import SPARSE, Names, name, sorted_names
from hpcmpi.algorithms.bfs.one_d import NO_LIMIT
from hpcmpi.algorithms.bfs.reading import read_text
from hpcmpi.algorithms.bfs.text_kernels import count_lines, parse_edges
from hpcmpi.algorithms.bfs.validation import Finding, Validator
from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import InputError, UsageError
from hpcmpi.partition import Range, block
from hpcmpi.record import Block, Cost, Result, Saved, Scalar, Snapshot, Verdict
from hpcmpi.store import writer
from hpcmpi.store.hdf5 import open_hdf5
from hpcmpi.store.reader import open_source
from hpcmpi.threads import available

_BINARY = (b"\x89HDF\r\n\x1a\n", b"\x93NUMPY")
_NARROW = 2**32


@dataclass(frozen=True)
class Rows:
    """Rows of a converted graph: ``lengths`` and degrees of this rank's ids, which ``cuts`` bound."""

    lengths: NDArray[np.int64]
    degree: NDArray[np.int64]
    cuts: NDArray[np.int64]


@dataclass(frozen=True)
class Edges:
    """This rank's edges, from ``u[i]`` to ``v[i]``, between ``n`` vertices, and their names where ids were sparse."""

    u: NDArray[np.integer]
    v: NDArray[np.integer]
    n: int
    names: Names | None = None
    rows: Rows | None = None  # of which u and v are the entries, each edge both ways


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
    levels: NDArray[np.int64]  # of each search that is done, and the seconds that it took on this rank
    seconds: NDArray[np.float64]
    done: int = 0
    validator: Validator | None = None
    finding: Verdict | None = None

    def close(self) -> None:
        """Give the shared memory back. Collective."""
        if self.validator is not None:
            self.validator.close()
        self.graph.free()

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
    validator = Validator(
        MPI.COMM_SELF, u, v, rehearsal.layout.cuts, rehearsal.degrees(), directed=params.directed, threads=threads
    )
    parent, level = np.full(rehearsal.n, -1), np.full(rehearsal.n, -1, np.int32)
    validator.check(parent, level, np.zeros(1, np.int64), NO_LIMIT)
    validator.close()
    rehearsal.free()


def resolve(comm: MPI.Comm, params: Params) -> Params:
    """``params``, ``directed`` if a converted graph is.

    Raises InputError if there is no such file, and UsageError if it holds a graph that is not directed.
    """
    if params.graph is None:
        return params
    directed = on_root(comm, lambda: _converted_directed(params.graph or ""))
    if directed is False and params.directed:
        refusal = UsageError(
            f"{params.graph}: was converted without --directed: it no longer tells which way edges lead"
        )
        refusal.agreed = True
        raise refusal
    return dataclasses.replace(params, directed=params.directed or bool(directed))


def _converted_directed(where: str) -> bool | None:
    """Whether a converted graph is directed; None for any other file."""
    group = _rows_in(where)
    if group is None:
        return None
    with open_hdf5(_path(where)) as file:
        return bool(file[group].attrs["directed"]) if "directed" in file[group or "/"].attrs else None


def prepare(comm: MPI.Comm, params: Params, plan: Cost) -> Problem:
    """Read or generate the edges, and build the graph."""
    edges = load(comm, params)
    collective.barrier(comm)
    tic = time.perf_counter()
    graph = build(comm, params, edges, plan.method)
    construction = comm.allreduce(time.perf_counter() - tic, MPI.MAX)
    sources = _sources(comm, params, edges, graph)
    kept = 1 if params.graph500 else len(sources)
    parent, level = np.empty((kept, graph.n_local), np.int64), np.empty((kept, graph.n_local), np.int32)
    parent.fill(-1)
    level.fill(-1)  # the first touch of fresh memory belongs to the preparation
    levels, seconds = np.zeros(len(sources), np.int64), np.zeros(len(sources))
    return Problem(params, edges, graph, sources, construction, parent, level, levels, seconds)


def build(comm: MPI.Comm, params: Params, edges: Edges, partition: str) -> Graph:
    """The graph of ``edges``; the benchmark finds n itself."""
    if edges.rows is not None:
        rows = edges.rows
        return Graph.from_rows(comm, rows.lengths, edges.v, rows.degree, cuts=rows.cuts, partition=partition)
    return Graph.from_edges(
        comm, edges.u, edges.v, n=None if params.graph500 else edges.n, directed=params.directed,
        partition=partition, balance=params.graph is not None,
    )  # fmt: skip


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
    if magic.startswith(_BINARY):
        return _read_array(comm, where, directed=params.directed)
    (u, v), header = read_text(comm, _path(where))
    return _from_ends(comm, where, u, v, header.n)


def _from_ends(comm: MPI.Comm, where: str, u: NDArray[np.int64], v: NDArray[np.int64], n: int | None) -> Edges:
    """Edges whose ids are checked, and renamed where they leave large gaps."""
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


def _read_array(comm: MPI.Comm, where: str, *, directed: bool) -> Edges:
    """Edges of an array (m, 2) or (2, m), or of a group with ``indptr`` and ``indices`` (compressed rows)."""
    group: str | None = on_root(comm, lambda: _rows_in(where))
    if group is not None:
        return _read_rows(comm, _path(where), group, directed=directed)
    source = open_source(comm, where, ndim=2)
    with agreement(comm):
        if source.dtype.kind not in "iu":
            raise InputError(f"{source}: holds {source.dtype}; ids are whole numbers")
        if 2 not in source.shape:
            raise InputError(f"{source}: has shape {source.shape}; (edges, 2) or (2, edges) is expected")
    if source.shape[1] == 2:
        mine = block(source.shape[0], comm.size, comm.rank)
        ends = source.read(comm, (mine, Range(0, 2)), np.int64)
        return _from_ends(comm, where, np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1]), None)
    ends = source.read(comm, (Range(0, 2), block(source.shape[1], comm.size, comm.rank)), np.int64)
    return _from_ends(comm, where, ends[0], ends[1], None)


def _rows_in(where: str) -> str | None:
    """Name of the group of ``where`` that holds compressed rows, or None."""
    path = _path(where)
    named = where[len(str(path)) + 1 :] if where != str(path) else ""
    if _magic(path) != _BINARY[0]:
        return None
    with open_hdf5(path) as file:
        found: list[str] = []

        def look(name: str, item: Any) -> None:
            whole = not hasattr(item, "shape") and "indptr" in item and "indices" in item  # a group
            if whole and not name.endswith("checksums"):
                found.append(f"/{name}")

        if "indptr" in file and "indices" in file:
            found.append("")
        file.visititems(look)
    if named:
        return named.rstrip("/") if named.rstrip("/") in found else None
    return found[0] if len(found) == 1 else None


def _read_rows(comm: MPI.Comm, path: Path, group: str, *, directed: bool) -> Edges:
    """Edges of compressed rows; each rank reads equally many, of a converted graph whole rows."""
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
    if f"{group}/degree" in _names(comm, path):
        return _read_converted(comm, path, group, start, directed=directed)
    mine = block(indices.shape[0], comm.size, comm.rank)
    v = indices.read(comm, (mine,), np.int64)
    first = int(np.searchsorted(start, mine.start, "right")) - 1
    last = int(np.searchsorted(start, mine.stop, "left"))
    u = np.repeat(np.arange(first, last), np.diff(np.clip(start[first : last + 1], mine.start, mine.stop)))
    return _from_ends(comm, f"{path}:{group}", u, v, rows)


def _names(comm: MPI.Comm, path: Path) -> list[str]:
    """All that the file holds."""

    def names() -> list[str]:
        found: list[str] = []
        with open_hdf5(path) as file:
            file.visit(lambda name: found.append(f"/{name}"))
        return found

    there: list[str] = on_root(comm, names)
    return there


def _read_converted(comm: MPI.Comm, path: Path, group: str, start: NDArray[np.int64], *, directed: bool) -> Edges:
    """What :func:`convert` has written: whole rows, so that ranks get equally many entries and vertices together."""
    n, entries = start.size - 1, int(start[-1])
    goals = (entries + n) * np.arange(comm.size + 1, dtype=np.int64) // comm.size
    cuts = np.searchsorted(start + np.arange(n + 1), goals).astype(np.int64)
    cuts[0], cuts[-1] = 0, n
    first, last = int(cuts[comm.rank]), int(cuts[comm.rank + 1])
    indices, degrees = (open_source(comm, f"{path}:{group}/{name}", ndim=1) for name in ("indices", "degree"))
    v = indices.read(comm, (Range(int(start[first]), int(start[last])),), np.int64)
    degree = degrees.read(comm, (Range(first, last),), np.int64)
    lengths = np.diff(start[first : last + 1])
    with agreement(comm):
        if degrees.shape[0] != n or (v.size and not 0 <= int(v.min()) <= int(v.max()) < n):
            raise InputError(f"{path}:{group}: degrees are {degrees.shape[0]} and ids are not 0 to {n - 1}")
    names = None
    if f"{group}/vertex" in _names(comm, path):
        edges = np.array([block(n, comm.size, rank).start for rank in range(comm.size)] + [n], np.int64)
        ids = open_source(comm, f"{path}:{group}/vertex", ndim=1).read(
            comm, (block(n, comm.size, comm.rank),), np.int64
        )
        names = sorted_names(comm, ids, edges)
    u = np.repeat(np.arange(first, last), lengths)
    rows = None if directed else Rows(lengths, degree, cuts)
    return Edges(_narrow(u, n), _narrow(v, n), n, names, rows)


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


def resumable(params: Params) -> bool:
    """Whether there are searches to checkpoint between; those of the benchmark are timed in one go."""
    return searches(params) > 1 and not params.graph500


def save(comm: MPI.Comm, problem: Problem) -> Snapshot:
    """The searches that are done."""
    done, place, n = problem.done, (0, problem.graph.first), problem.graph.n
    seconds = collective.allreduce(comm, problem.seconds, MPI.MAX)
    arrays = table(comm, {"levels": problem.levels[:done], "seconds": seconds[:done]})
    arrays["parent"] = Block(problem.parent[:done], place, (done, n))
    arrays["level"] = Block(problem.level[:done], place, (done, n))
    return Snapshot(arrays, {"done": done})


def restore(comm: MPI.Comm, problem: Problem, saved: Saved) -> None:
    """Take the searches that are done."""
    problem.done = done = int(saved.facts["done"])
    searched, first = Range(0, done), problem.graph.first
    mine = Range(first, first + problem.graph.n_local)
    for array, into in (("parent", problem.parent), ("level", problem.level)):
        into[:done] = saved.read(comm, array, (searched, mine), into.dtype)
    for array, column in (("levels", problem.levels), ("seconds", problem.seconds)):
        column[:done] = saved.read(comm, array, (searched,), column.dtype)


def run(
    comm: MPI.Comm, problem: Problem, report: Callable[[float], None], checkpoint: Callable[[], None] = lambda: None
) -> Result:
    """All searches that are not done."""
    if not problem.params.graph500:
        return _search_all(comm, problem, report, checkpoint)
    validator, graph, params = _validator(comm, problem), problem.graph, problem.params
    times = benchmark(graph, validator, problem.sources, problem.parent[0], problem.level[0], report)
    problem.finding = times.verdict
    facts = _facts(comm, problem) | times.facts
    lines = times.lines(params.scale or 0, params.edge_factor, comm.size, problem.construction)
    return Result(table(comm, times.columns), times.work, "TEPS", facts, tuple(lines))


def _search_all(
    comm: MPI.Comm, problem: Problem, report: Callable[[float], None], checkpoint: Callable[[], None]
) -> Result:
    graph, names, count = problem.graph, problem.edges.names, len(problem.sources)
    levels, seconds = problem.levels, problem.seconds
    for index, sources in list(enumerate(problem.sources))[problem.done :]:
        tic = time.perf_counter()
        levels[index] = graph.parents_into(problem.parent[index], sources, problem.max_depth)
        graph.levels_into(problem.level[index], sources)
        seconds[index] = time.perf_counter() - tic
        report((index + 1) / count)
        problem.done = index + 1
        if problem.done < count:
            checkpoint()
    problem.done = 0
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
    columns = {"reached": reached, "edges": ends // 2, "levels": levels.copy(), "seconds": seconds}
    if not problem.params.sources:
        roots = np.concatenate(problem.sources)
        columns["root"] = roots if names is None else names.ids_of(comm, roots)
    arrays |= table(comm, columns)
    facts = _facts(comm, problem) | {"levels_most": int(levels.max(initial=0)), "reached_most": int(reached.max())}
    return Result(arrays, float(ends.sum()) / 2, "TEPS", facts)


def _facts(comm: MPI.Comm, problem: Problem) -> dict[str, Scalar]:
    graph, params = problem.graph, problem.params
    edges = comm.allreduce(problem.edges.u.size)
    about = f"scale {params.scale}, " if params.scale is not None else f"{params.graph}: "
    return {
        "size": f"{about}{graph.n} vertices, {edges} edges{', directed' * graph.directed}, "
        f"{counted(len(problem.sources))}",
        "method_used": graph.partition,
        "grid": graph.grid,
        "n": graph.n,
        "edges_given": edges,
        "construction_seconds": problem.construction,
        "parent_rule": "neighbour one level up of the highest degree, the lowest id among equals",
    }


def _validator(comm: MPI.Comm, problem: Problem) -> Validator:
    if problem.validator is None:
        edges, graph = problem.edges, problem.graph
        problem.validator = Validator(
            comm, edges.u, edges.v, graph.layout.cuts, graph.degrees(), directed=graph.directed, threads=available()
        )
    return problem.validator


def convert(
    comm: MPI.Comm, source: str, target: Path, *, directed: bool = False, force: bool = False
) -> tuple[int, int]:
    """Write the graph that ``source`` holds as compressed rows into one HDF5 file; returns vertices and entries.

    The group ``graph`` gets ``indptr`` (n + 1,) int64, ``indices`` (entries,) int64, ascending in each row, without
    loops and repeats, each undirected edge both ways; ``degree`` (n,) int64, with repeats, which the rule for parents
    goes by; ``vertex`` (n,) int64, the ids, where they left large gaps. Collective; ids are checked as they are read.
    """
    params = resolve(comm, Params(graph=source, directed=directed, root=(0,)))
    edges = load(comm, params)
    with build(comm, params, edges, "1d") as graph:
        lengths, indices, degree = graph.rows()
        before = sum(comm.allgather(indices.size)[: comm.rank])
        total, last = comm.allreduce(indices.size), comm.rank == comm.size - 1
        pointers = np.cumsum([before, *lengths])[: None if last else -1]
        n, first = graph.n, graph.first
    arrays = {
        "indptr": Block(pointers, (first,), (n + 1,)),
        "indices": Block(indices, (before,), (total,)),
        "degree": Block(degree, (first,), (n,)),
    }
    if edges.names is not None:
        arrays["vertex"] = Block(edges.names.ids, (edges.names.first,), (n,))
    about: dict[str, Scalar] = {"directed": params.directed, "n": n, "source": source}
    writer.save(comm, target, arrays, group="graph", attributes=about, force=force)
    return n, total


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
    reason = wrong[0] if wrong else f"{counted(len(findings))} passed the five checks of Graph500"
    return Verdict(not wrong, reason, facts)
