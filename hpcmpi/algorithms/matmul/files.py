"""Products out of core: operands read from their files, or drawn, a part at a time; C in a scratch file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcmpi import comm as collective
from hpcmpi import generator
from hpcmpi.algorithms.matmul import Params
from hpcmpi.algorithms.matmul.cost import Tile, tile
from hpcmpi.algorithms.matmul.freivalds import freivalds
from hpcmpi.algorithms.matmul.layout import Layout
from hpcmpi.algorithms.matmul.stream import Outside, Read, Scratch, stream
from hpcmpi.comm import agreement
from hpcmpi.errors import ResourceError, UsageError
from hpcmpi.machine import free_disk
from hpcmpi.partition import Range, grid_block
from hpcmpi.record import Block, Result, Scalar, Verdict, human_bytes
from hpcmpi.store.reader import open_source


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
    grid: tuple[int, int]
    seed: int
    tile: Tile

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
            nbytes = stream(self.read_a, self.read_b, self.c, rows, columns, self.k, self.tile, advance)
        array = Block(self.c.mapped(), (rows.start, columns.start), (self.m, self.n), ("m", "n"))
        held = self.tile.m * self.tile.n + 2 * self.tile.k * (self.tile.m + self.tile.n)
        facts: dict[str, Scalar] = {
            "size": f"{self.m} x {self.k} times {self.k} x {self.n}, {self.dtype}",
            "method_used": "stream",
            "grid": " x ".join(map(str, self.grid)),
            "share_bytes": comm.allreduce(held * self.dtype.itemsize, MPI.MAX),
            "tile": " x ".join(map(str, self.tile)),
            "bytes_read": comm.allreduce(nbytes),
        }
        flops = (8 if self.dtype.kind == "c" else 2) * self.m * self.n * self.k
        return Result({"C": array}, flops, "flop/s", facts)

    def verify(self, comm: MPI.Comm) -> Verdict:
        """Freivalds' check; operands and result are read again, a strip at a time."""
        rows, columns = grid_block((self.m, self.n), self.grid, comm.rank)
        own_c = Range(0, rows.size)
        blocks: list[Any] = [
            self._outside(comm, self.read_a, (self.m, self.k)),
            self._outside(comm, self.read_b, (self.k, self.n)),
            Outside(lambda part, _columns: self.c.read(part), own_c, columns, self.dtype),
        ]
        return freivalds(comm, *blocks, layout=Layout(self.m, self.n, self.k, (*self.grid, 1)), seed=self.seed)

    def _outside(self, comm: MPI.Comm, read: Read, shape: tuple[int, int]) -> Outside:
        rows, columns = grid_block(shape, self.grid, comm.rank)
        return Outside(read, rows, columns, self.dtype)


def out_of_core(comm: MPI.Comm, params: Params, grid: tuple[int, int]) -> Streaming:
    """Where the operands are, and room on disk for this rank's block of C."""
    m, n, k, dtype = params.m or 0, params.n or 0, params.k or 0, np.dtype(params.dtype or "float64")
    read_a = _reader(comm, params.a, params, transpose=params.transpose_a, stream=0)
    read_b = _reader(comm, params.b, params, transpose=params.transpose_b, stream=1)
    rows, columns = grid_block((m, n), grid, comm.rank)
    node = collective.split_node(comm)
    needed = node.allreduce(rows.size * columns.size * dtype.itemsize)
    node.Free()
    folder = Path(params.scratch or tempfile.gettempdir())
    with agreement(comm):
        if not folder.is_dir():
            raise UsageError(f"--scratch {folder}: no such folder")
        if needed > (free := free_disk(folder)):
            raise ResourceError(
                f"{folder}: not enough scratch space: C needs {human_bytes(needed)} on a node, {human_bytes(free)} is "
                f"free: {human_bytes(needed - free)} short; --scratch names another folder"
            )
        c = Scratch(params.scratch, (rows.size, columns.size), dtype)
    part = tile(rows.size, columns.size, k, params.memory or 0, dtype.itemsize)
    return Streaming(read_a, read_b, c, m, n, k, dtype, grid, params.seed, part)


def _reader(comm: MPI.Comm, where: str | None, params: Params, *, transpose: bool, stream: int) -> Read:
    """What reads, or draws, a part of an operand. Collective; what it returns is not."""
    dtype = params.dtype or "float64"
    if where is None:
        return lambda rows, columns: generator.uniform(params.seed, rows, columns, dtype, stream=stream)
    source = open_source(comm, where, ndim=2)
    if transpose:
        return lambda rows, columns: source.read_alone((columns, rows), dtype).T
    return lambda rows, columns: source.read_alone((rows, columns), dtype)
