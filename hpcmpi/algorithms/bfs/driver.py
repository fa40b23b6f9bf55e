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
from hpcmpi.algorithms.bfs.check_kernels import count_between
from hpcmpi.algorithms.bfs.cost import searches
from hpcmpi.algorithms.bfs.edges import LARGEST_ID, Edges
from hpcmpi.algorithms.bfs.files import converted_direction, read_edges, sample_edges, save_rows
from hpcmpi.algorithms.bfs.graph import Graph, checked_sources
from hpcmpi.algorithms.bfs.graph import warm_up as warm_up_graph
from hpcmpi.algorithms.bfs.graph500 import benchmark, counted, failures, table
from hpcmpi.algorithms.bfs.kronecker import kronecker
from hpcmpi.algorithms.bfs.one_d import NO_LIMIT
from hpcmpi.algorithms.bfs.text_kernels import count_lines, parse_edges
from hpcmpi.algorithms.bfs.validation import Validator
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError, UsageError, WrongError
from hpcmpi.partition import Range, block
from hpcmpi.record import Block, Cost, Result, Saved, Scalar, Snapshot, Verdict
from hpcmpi.store.reader import split_dataset
from hpcmpi.threads import available


@dataclass
class Problem:
    """A graph that is ready to be searched, and the searches that are wanted of it."""

    params: Params
    edges: Edges
    graph: Graph
    sources: list[NDArray[np.int64]]
    generation: float  # seconds until this rank had its edges, and from then until the graph was built
    construction: float
    parent: NDArray[np.int64]  # (searches kept, n_local)
    level: NDArray[np.int32]
    levels: NDArray[np.int64]  # of each search that is done, and the seconds that it took on this rank
    seconds: NDArray[np.float64]
    ends: NDArray[np.int64] | None = None  # (n_local,) of the edges that were given, where searches are of components
    done: int = 0
    validator: Validator | None = None

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
        text = np.frombuffer(b"0 1\n", np.uint8)
        parse_edges(text, 0, *np.empty((2, count_lines(text)), np.int64))
    wide = params.scale is not None and params.scale > 31
    partition = "2d" if params.partition == "2d" else "1d"
    rehearsal = warm_up_graph(partition, directed=params.directed, wide=wide)
    number: Any = np.int64 if wide else np.uint32
    u, v = (ends[:0].astype(number) for ends in edges)
    validator = Validator(
        MPI.COMM_SELF, u, v, rehearsal.layout.cuts, rehearsal.degrees(), directed=params.directed, threads=threads,
        searches=searches(params),
    )  # fmt: skip
    validator.take(np.full(rehearsal.n, -1), np.full(rehearsal.n, -1, np.int32), np.zeros(1, np.int64))
    validator.findings()
    validator.close()
    count_between(u, v, np.zeros(1, np.bool_), threads)
    rehearsal.free()


def resolve(comm: MPI.Comm, params: Params) -> Params:
    """``params``, ``directed`` if a converted graph is.

    Raises InputError if there is no such file, and UsageError if it holds a graph that is not directed.
    """
    if params.graph is None:
        return params
    directed = converted_direction(comm, params.graph)
    if directed is False and params.directed:
        refusal = UsageError(
            f"{params.graph}: was converted without --directed: it no longer tells which way edges lead"
        )
        refusal.agreed = comm.size
        raise refusal
    return dataclasses.replace(params, directed=params.directed or bool(directed))


def prepare(comm: MPI.Comm, params: Params, plan: Cost) -> Problem:
    """Read or generate the edges, and build the graph."""
    tic = time.perf_counter()
    edges = load(comm, params)
    generation = comm.allreduce(time.perf_counter() - tic, MPI.MAX)
    tic = time.perf_counter()
    graph = build(comm, params, edges, plan.method)
    construction = comm.allreduce(time.perf_counter() - tic, MPI.MAX)
    sources = _sources(comm, params, edges, graph)
    kept = 1 if params.graph500 else len(sources)
    parent, level = np.empty((kept, graph.n_local), np.int64), np.empty((kept, graph.n_local), np.int32)
    parent.fill(-1)
    level.fill(-1)  # the first touch of fresh memory belongs to the preparation
    levels, seconds = np.zeros(len(sources), np.int64), np.zeros(len(sources))
    whole = not (graph.directed or params.graph500 or params.max_depth is not None)
    ends = _ends(comm, edges, graph) if whole else None
    return Problem(params, edges, graph, sources, generation, construction, parent, level, levels, seconds, ends)


def load(comm: MPI.Comm, params: Params) -> Edges:
    """This rank's edges, generated or read. Collective."""
    if params.scale is None:
        where, form = params.graph or "", params.format
        return read_edges(comm, where, directed=params.directed, bipartite=params.bipartite, form=form)
    mine = block(params.generated_edges, comm.size, comm.rank)
    return Edges(*kronecker(params.scale, mine, params.seed, available()), 1 << params.scale)


def build(comm: MPI.Comm, params: Params, edges: Edges, partition: str, *, delegate: bool = True) -> Graph:
    """The graph of ``edges``; the benchmark finds n itself."""
    if edges.rows is not None:
        rows = edges.rows
        return Graph.from_rows(
            comm, rows.lengths, edges.v, rows.degree, cuts=rows.cuts, partition=partition, delegate=delegate
        )
    return Graph.from_edges(
        comm, edges.u, edges.v, n=None if params.graph500 else edges.n, directed=params.directed,
        partition=partition, balance=params.graph is not None, delegate=delegate, degree=edges.degree,
    )  # fmt: skip


def _sources(comm: MPI.Comm, params: Params, edges: Edges, graph: Graph) -> list[NDArray[np.int64]]:
    """Where each search begins."""
    wanted = [[root] for root in params.root] or ([list(params.sources)] if params.sources else [])
    numbers = [np.array([min(identity, LARGEST_ID) for identity in ids], np.int64) for ids in wanted]
    if edges.names is not None:
        numbers = [edges.names.numbers(comm, ids) for ids in numbers]
    with agreement(comm):
        for ids, found in zip(wanted, numbers, strict=True):
            for identity, number in zip(ids, found, strict=True):
                if not 0 <= number < graph.n:
                    there = f"{graph.n} vertices occur" if edges.names else f"there are {graph.n}, numbered from 0"
                    raise InputError(f"{params.graph or 'the graph'}: root {identity} is not a vertex: {there}")
    drawn = graph.random_roots(_random(params), params.seed)
    with agreement(comm):
        if _random(params) and not drawn:
            raise InputError(f"{params.graph or 'the graph'}: no vertex has an edge to another: no root can be drawn")
    return [checked_sources(ids, graph.n) for ids in numbers] + [np.array([root]) for root in drawn]


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
    facts = _facts(comm, problem) | times.facts
    lines = times.lines(
        params.scale or 0,
        params.generated_edges >> (params.scale or 0),
        comm.size,
        problem.generation,
        problem.construction,
    )
    return Result(table(comm, times.columns), times.work, "TEPS", facts, tuple(lines), verdict=times.verdict)


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
    mine = [[np.count_nonzero(parent >= 0), _ends_reached(comm, problem, parent)] for parent in problem.parent]
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
    return Result(arrays, float(ends.sum()) / 2, "TEPS", facts, problem.edges.notes)


def _ends(comm: MPI.Comm, edges: Edges, graph: Graph) -> NDArray[np.int64]:
    """Ends of the edges as they were given, loops included, at each of this rank's vertices of an undirected graph.

    Of a converted graph those are given that it has kept.
    """
    if edges.rows is not None:
        return edges.rows.lengths
    loops = np.sort(edges.u[edges.u == edges.v].astype(np.int64))
    own, _ = collective.exchange(comm, loops, np.diff(np.searchsorted(loops, graph.layout.cuts)))
    return graph.degrees() + 2 * np.bincount(own - graph.first, minlength=graph.n_local)


def _ends_reached(comm: MPI.Comm, problem: Problem, parent: NDArray[np.int64]) -> int:
    """Twice the edges, as they were given, both ends of which are reached: these TEPS count. The sum over the ranks.

    A whole component's are known by its vertices; otherwise the edges must be looked at.
    """
    if problem.ends is not None:
        return int(problem.ends[parent >= 0].sum())
    cuts = problem.graph.layout.cuts
    reached = np.empty(problem.graph.n, np.bool_)
    reached[cuts[comm.rank] : cuts[comm.rank + 1]] = parent >= 0
    collective.complete_blocks(comm, reached, cuts)
    count = int(count_between(problem.edges.u, problem.edges.v, reached, available()))
    return count if problem.edges.rows is not None else 2 * count  # rows have each edge twice


def _facts(comm: MPI.Comm, problem: Problem) -> dict[str, Scalar]:
    graph, params = problem.graph, problem.params
    edges = comm.allreduce(problem.edges.u.size) // (1 if problem.edges.rows is None else 2)
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
        **({"notes": "\n".join(problem.edges.notes)} if problem.edges.notes else {}),
    }


def _validator(comm: MPI.Comm, problem: Problem) -> Validator:
    if problem.validator is None:
        edges, graph = problem.edges, problem.graph
        problem.validator = Validator(
            comm, edges.u, edges.v, graph.layout.cuts, graph.degrees(), directed=graph.directed, threads=available(),
            max_depth=problem.max_depth, searches=len(problem.sources),
        )  # fmt: skip
    return problem.validator


def convert(comm: MPI.Comm, params: Params, target: Path, *, force: bool = False) -> tuple[int, int, tuple[str, ...]]:
    """Write the graph of ``params`` as compressed rows (:mod:`.files`); returns vertices, entries, and notes.

    Collective; ids are checked as they are read. Raises WrongError, and writes nothing, if the graph lacks an edge of
    the file.
    """
    source = params.graph or ""
    with agreement(comm):
        if split_dataset(source)[0].resolve() == target.resolve():
            raise UsageError(f"{target}: is what is read, and cannot be what is written")
    params = resolve(comm, params)
    edges = load(comm, params)
    with build(comm, params, edges, "1d", delegate=False) as graph:
        compared = check_against_file(comm, params, edges, graph)
        if not compared.right:
            wrong = WrongError(compared.reason)
            wrong.agreed = comm.size
            raise wrong
        entries = save_rows(comm, target, graph, edges.names, {"source": source}, force=force)
        return graph.n, entries, edges.notes


def check_against_file(comm: MPI.Comm, params: Params, edges: Edges, graph: Graph) -> Verdict:
    """Whether the graph has some edges that are read from its file by other means. Collective."""
    where = params.graph or ""
    sample = sample_edges(comm, where, params.format, edges.columns_from)
    u, v = sample.u, sample.v
    if edges.names is not None and not sample.converted:
        u, v = (edges.names.numbers(comm, ends) for ends in (u, v))
    missing = np.flatnonzero(~graph.holds(u, v))
    facts: dict[str, Scalar] = {"elements_compared": len(u)}
    if missing.size:
        at = int(missing[0])
        return Verdict(
            False,
            f"{where}: {sample.places[at]}: the edge from {sample.u[at]} to {sample.v[at]} is not in the graph that "
            f"was read ({missing.size} of {len(u)} edges that were compared are missing)",
            facts,
        )
    return Verdict(True, f"{len(u)} edges of {where} are in the graph", facts)


def verify(comm: MPI.Comm, problem: Problem, result: Result) -> Verdict:  # noqa: ARG001 - its parents have been renamed
    """Graph500's five checks on every search, after a look at whether the graph is that of the file."""
    compared = Verdict(True, "", {})
    if problem.params.graph is not None:
        compared = check_against_file(comm, problem.params, problem.edges, problem.graph)
        if not compared.right:
            return compared
    validator = _validator(comm, problem)
    tic = time.perf_counter()
    for sources, parent, level in zip(problem.sources, problem.parent, problem.level, strict=True):
        validator.take(parent, level, sources)
    findings = validator.findings()
    seconds = comm.allreduce(time.perf_counter() - tic, MPI.MAX)
    wrong = failures(problem.sources, findings)
    facts: dict[str, Scalar] = {"searches_wrong": len(wrong), "checking_seconds": seconds, **compared.facts}
    reason = wrong[0] if wrong else f"{counted(len(findings))} passed the five checks of Graph500"
    return Verdict(not wrong, reason, facts)
