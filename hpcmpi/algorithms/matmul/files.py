"""Products out of core: operands drawn, or read from files, a part at a time; C in a scratch file.

A file in chunks, or a ``.npz``, would have each of its pieces inflated again for every panel that cuts it. So the ranks
of a node copy the part that they need once, each its share of the pieces, into a scratch file of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import generator
from hpcmpi.algorithms.matmul import Params
from hpcmpi.algorithms.matmul.cost import Tile, strip_bytes, tile
from hpcmpi.algorithms.matmul.freivalds import freivalds
from hpcmpi.algorithms.matmul.layout import Layout
from hpcmpi.algorithms.matmul.stream import Outside, Read, stream
from hpcmpi.comm import agreement
from hpcmpi.partition import Range, grid_block
from hpcmpi.record import Block, Cost, Result, Scalar, Verdict, human_bytes
from hpcmpi.store.reader import Source, open_source
from hpcmpi.store.sample import Sample
from hpcmpi.store.scratch import Scratch

_SHARE_OF_MEMORY = 4  # a piece is held compressed, inflated and converted


@dataclass(frozen=True)
class Streaming:
    """A product out of core: how to read the operands, where this rank's block of C goes, and in which tiles."""

    read_a: Read
    read_b: Read
    c: Scratch
    m: int
    n: int
    k: int
    dtype: np.dtype[Any]
    seed: int
    tile: Tile
    plan: Cost
    strip_bytes: int  # of the check
    samples: tuple[Sample, ...]  # of the operands that are files

    @property
    def grid(self) -> tuple[int, int]:
        """Ranks along m and n."""
        return self.plan.grid[0], self.plan.grid[1]

    def run(self, comm: MPI.Comm, report: Callable[[float], None]) -> Result:
        """Multiply once."""
        rows, columns = grid_block((self.m, self.n), self.grid, comm.rank)
        done = 0

        def advance(flops: int) -> None:
            nonlocal done
            done += flops
            report(done / max(1, 2 * rows.size * columns.size * self.k))

        nbytes = 0
        with agreement(comm):
            nbytes = stream(self.read_a, self.read_b, self.c.write, rows, columns, self.k, self.tile, advance)
        array = Block(self.c.mapped(), (rows.start, columns.start), (self.m, self.n), ("m", "n"))
        held = self.tile.m * self.tile.n + 2 * self.tile.k * (self.tile.m + self.tile.n)
        facts: dict[str, Scalar] = {
            "size": f"{self.m} x {self.k} times {self.k} x {self.n}, {self.dtype}",
            "method_used": "stream",
            "grid": " x ".join(map(str, self.grid)),
            "idle_ranks": 0,
            "seconds_expected": self.plan.seconds,
            "share_bytes": comm.allreduce(held * self.dtype.itemsize, MPI.MAX),
            "tile": " x ".join(map(str, self.tile)),
            "bytes_read": comm.allreduce(nbytes),
            "scratch_bytes": comm.allreduce(self.plan.scratch),
        }
        line = f"expected {self.plan.seconds:.3g} s; out of core: tiles of C of {self.tile.m} x {self.tile.n}, "
        line += (
            f"{human_bytes(float(facts['bytes_read']))} read, {human_bytes(float(facts['scratch_bytes']))} of scratch"
        )
        flops = (8 if self.dtype.kind == "c" else 2) * self.m * self.n * self.k
        return Result({"C": array}, flops, "flop/s", facts, (line,))

    def verify(self, comm: MPI.Comm) -> Verdict:
        """Freivalds' check; operands and result are read again, a strip at a time."""
        rows, columns = grid_block((self.m, self.n), self.grid, comm.rank)
        own_c = Range(0, rows.size)
        blocks: list[Any] = [
            self._outside(comm, self.read_a, (self.m, self.k)),
            self._outside(comm, self.read_b, (self.k, self.n)),
            Outside(lambda part, _columns: self.c.read(part), own_c, columns, self.dtype),
        ]
        return freivalds(
            comm,
            *blocks,
            layout=Layout(self.m, self.n, self.k, (*self.grid, 1)),
            seed=self.seed,
            strip_bytes=self.strip_bytes,
        )

    def _outside(self, comm: MPI.Comm, read: Read, shape: tuple[int, int]) -> Outside:
        rows, columns = grid_block(shape, self.grid, comm.rank)
        return Outside(read, rows, columns, self.dtype)


def out_of_core(comm: MPI.Comm, params: Params, plan: Cost) -> Streaming:
    """Where the operands are, and room on disk for this rank's block of C."""
    m, n, k, dtype = params.m or 0, params.n or 0, params.k or 0, np.dtype(params.dtype or "float64")
    rows, columns = grid_block((m, n), plan.grid, comm.rank)
    inner = Range(0, k)
    samples = list[Sample]()
    read_a = _operand(comm, params.a, params, (rows, inner), samples, transpose=params.transpose_a, stream=0)
    read_b = _operand(comm, params.b, params, (inner, columns), samples, transpose=params.transpose_b, stream=1)
    with agreement(comm):
        c = Scratch(params.scratch, (rows.size, columns.size), dtype)
    part = tile(rows.size, columns.size, k, params.memory or 0, dtype.itemsize)
    strip = strip_bytes(params.memory or 0)
    return Streaming(read_a, read_b, c, m, n, k, dtype, params.seed, part, plan, strip, tuple(samples))


def _operand(
    comm: MPI.Comm,
    where: str | None,
    params: Params,
    need: tuple[Range, Range],
    samples: list[Sample],
    *,
    transpose: bool,
    stream: int,
) -> Read:
    """What reads, or draws, a part of the ``need`` (rows and columns) that this rank has of op(X). Collective.

    What it returns is not. Of what it reads, it adds to a sample, which is appended to ``samples``.
    """
    dtype = np.dtype(params.dtype or "float64")
    if where is None:
        return lambda rows, columns: generator.uniform(params.seed, rows, columns, dtype, stream=stream)
    source = open_source(comm, where, ndim=2)
    own = need[::-1] if transpose else need
    stored = _direct(source, dtype) if source.unit is None else _copied(comm, source, own, dtype, params)
    sample = Sample(source, params.seed)
    samples.append(sample)

    def read(rows: Range, columns: Range) -> NDArray[Any]:
        part = (columns, rows) if transpose else (rows, columns)
        found = stored(*part)
        sample.see(found, part)
        return found.T if transpose else found

    return read


def _direct(source: Source, dtype: np.dtype[Any]) -> Read:
    return lambda rows, columns: source.read_alone((rows, columns), dtype)


def _copied(comm: MPI.Comm, source: Source, own: tuple[Range, Range], dtype: np.dtype[Any], params: Params) -> Read:
    """Copy what the ranks of each node have ``own`` of ``source``, every piece once, and read from there."""
    node = collective.split_node(comm)
    parts = node.allgather(own)
    rows, columns = (Range(min(p[i].start for p in parts), max(p[i].stop for p in parts)) for i in (0, 1))
    by_columns = source.unit is not None and source.unit[0] > source.unit[1]  # so that long lines are written
    with agreement(comm):  # ranks of a node make the file together, and raise together if they cannot
        scratch = Scratch(
            params.scratch, (columns.size, rows.size) if by_columns else (rows.size, columns.size), dtype, node
        )
    with agreement(comm):
        piece_bytes = max(1, (params.memory or 0) // _SHARE_OF_MEMORY)
        for part, found in source.scan((rows, columns), piece_bytes, node.rank, node.size):
            lines = np.empty(found.shape[::-1] if by_columns else found.shape, dtype)
            source.convert(found, lines.T if by_columns else lines, part)
            at = part[0].start - rows.start, part[1].start - columns.start
            scratch.write(lines, *(at[::-1] if by_columns else at))
    node.Free()

    def read(part_rows: Range, part_columns: Range) -> NDArray[Any]:
        inner_rows = Range(part_rows.start - rows.start, part_rows.stop - rows.start)
        inner_columns = Range(part_columns.start - columns.start, part_columns.stop - columns.start)
        return scratch.read(inner_columns, inner_rows).T if by_columns else scratch.read(inner_rows, inner_columns)

    return read
