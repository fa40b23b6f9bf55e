"""The benchmark Graph500: timed searches, each checked, and its output block.

One search after the other; the clock stops when the parents are in place, by id. Nothing is kept between searches but
the trees themselves, for the checks, which are made of several trees at a time while no clock runs.

TEPS are averaged by the harmonic mean, whose deviation is that of the reciprocals by the delta method (Norris 1940), as
the specification has it. Quartiles are interpolated, as NumPy does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs.graph import Graph
from hpcmpi.algorithms.bfs.validation import Finding, Validator
from hpcmpi.record import Block, Scalar, Verdict


def statistics(values: NDArray[np.float64]) -> dict[str, float]:
    """Minimum, quartiles, maximum, mean and standard deviation; zeros of no values."""
    if values.size == 0:
        values = np.zeros(1)
    quartiles = np.percentile(values, [0, 25, 50, 75, 100])
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    names = ("min", "firstquartile", "median", "thirdquartile", "max")
    return dict(zip(names, map(float, quartiles), strict=True)) | {"mean": float(values.mean()), "stddev": deviation}


def harmonic(values: NDArray[np.float64]) -> dict[str, float]:
    """Harmonic mean and its deviation."""
    reciprocals = 1 / values
    mean = 1 / float(reciprocals.mean())
    count = values.size
    deviation = float(reciprocals.std(ddof=1)) / (count - 1) ** 0.5 * mean**2 if count > 1 else 0.0
    return {"harmonic_mean": mean, "harmonic_stddev": deviation}


@dataclass(frozen=True)
class Times:
    """What the searches took and found, an element a search: seconds, edges traversed, seconds of the checks."""

    roots: NDArray[np.int64]
    seconds: NDArray[np.float64]
    edges: NDArray[np.float64]
    levels: NDArray[np.int64]
    checking: NDArray[np.float64]
    verdict: Verdict
    whole: float  # seconds of everything

    @property
    def mean(self) -> float:
        """Harmonic mean of the TEPS."""
        return harmonic(self.edges / self.seconds)["harmonic_mean"]

    @property
    def work(self) -> float:
        """Edges that would have been traversed had the searches' rate been kept up through the checks as well."""
        return self.mean * self.whole

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """For the file."""
        return {"root": self.roots, "seconds": self.seconds, "edges": self.edges, "levels": self.levels}

    @property
    def facts(self) -> dict[str, Scalar]:
        """For the file."""
        return {
            "harmonic_mean_TEPS": self.mean,
            "search_median_seconds": float(np.median(self.seconds)),
            "checking_median_seconds": float(np.median(self.checking)),
        }

    def lines(self, scale: int, edge_factor: int, ranks: int, generation: float, construction: float) -> Iterator[str]:
        """The output block, by the names that Graph500's reference program gives; seconds."""
        head = {
            "SCALE": scale, "edgefactor": edge_factor, "NBFS": self.seconds.size,
            "graph_generation": f"{generation:.6g}", "num_mpi_processes": ranks,
            "construction_time": f"{construction:.6g}",
        }  # fmt: skip
        yield from (f"{name + ':':32}{value}" for name, value in head.items())
        teps = statistics(self.edges / self.seconds)
        teps = {name: value for name, value in teps.items() if name not in ("mean", "stddev")}
        tables = {
            "time": statistics(self.seconds), "nedge": statistics(self.edges),
            "TEPS": teps | harmonic(self.edges / self.seconds), "validate": statistics(self.checking),
        }  # fmt: skip
        for what, values in tables.items():
            for name, value in values.items():
                if what == "nedge":
                    yield f"{f'{name}_{what}:':32}{value:.11g}"
                else:
                    yield f"{f'bfs  {name}_{what}:':32}{value:.6g}"
        yield f"{'validation:':32}{'passed' if self.verdict.right else 'FAILED'}"


def benchmark(
    graph: Graph,
    validator: Validator,
    sources: list[NDArray[np.int64]],
    parent: NDArray[np.int64],
    level: NDArray[np.int32],
    report: Callable[[float], None],
) -> Times:
    """Timed searches, each checked; ``parent`` and ``level`` (n_local,) are overwritten."""
    began, count, comm = time.perf_counter(), len(sources), graph.comm
    seconds, checking = np.zeros(count), np.zeros(count)
    levels = np.zeros(count, np.int64)
    for index, root in enumerate(sources):
        comm.Barrier()
        tic = time.perf_counter()
        levels[index] = graph.parents_into(parent, root)
        comm.Barrier()
        seconds[index] = time.perf_counter() - tic
        graph.levels_into(level, root)
        tic = time.perf_counter()
        validator.take(parent, level, root)
        checking[index] = time.perf_counter() - tic
        report((index + 1) / count)
    tic = time.perf_counter()
    found = validator.findings()
    checking[-1:] += time.perf_counter() - tic
    for index in range(0, count, validator.lanes):  # those that are checked together have taken equally long
        together = checking[index : index + validator.lanes]
        together[:] = together.mean()
    edges = np.array([finding.traversed for finding in found], np.float64)
    wrong = failures(sources, found)
    seconds, checking = (collective.allreduce(comm, times, MPI.MAX) for times in (seconds, checking))
    reason = wrong[0] if wrong else f"{counted(count)} passed the five checks of Graph500"
    verdict = Verdict(not wrong, reason, {"searches_wrong": len(wrong)})
    roots = np.concatenate(sources) if sources else np.empty(0, np.int64)
    return Times(roots, seconds, edges, levels, checking, verdict, time.perf_counter() - began)


def failures(sources: list[NDArray[np.int64]], findings: list[Finding]) -> list[str]:
    """What is wrong, a line for each search that is."""
    pairs = zip(sources, findings, strict=True)
    return [f"search from {first[0]}: {finding.reason}" for first, finding in pairs if not finding.right]


def counted(searches: int) -> str:
    """``1 search``, ``64 searches``."""
    return f"{searches} search{'es' * (searches != 1)}"


def table(comm: MPI.Comm, columns: dict[str, NDArray[Any]]) -> dict[str, Block]:
    """A dataset for each column, an element a search, written by rank 0."""
    blocks = {}
    for name, column in columns.items():
        start = 0 if comm.rank == 0 else len(column)
        blocks[name] = Block(column[start:], (start,), column.shape, ("search",))
    return blocks
