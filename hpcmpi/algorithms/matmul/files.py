"""Operands of a product out of core: drawn, or read from files, a part at a time.

A file in chunks, or a ``.npz``, would have each of its pieces inflated again for every panel that cuts it. So the ranks
of a node copy the part that they need once, each its share of the pieces, into a scratch file of rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import generator
from hpcmpi.algorithms.matmul import Resolved
from hpcmpi.algorithms.matmul.cost import StreamPlan
from hpcmpi.algorithms.matmul.stream import Read
from hpcmpi.comm import agreement
from hpcmpi.partition import Range
from hpcmpi.store.reader import Source
from hpcmpi.store.sample import Sample
from hpcmpi.store.scratch import Scratch


class Operand(NamedTuple):
    """A or B: what ``source`` holds, transposed or not; without a source, a ``stream`` of the generator."""

    source: Source | None
    transpose: bool
    stream: int


def operand_reader(
    comm: MPI.Comm,
    operand: Operand,
    spec: Resolved,
    plan: StreamPlan,
    need: tuple[Range, Range],
    samples: list[Sample],
) -> Read:
    """A function that reads, or draws, any part of the rows and columns that this rank ``need``s of op(X).

    Collective; the function that it returns is local. A sample of what it reads is appended to ``samples``.
    """
    dtype, source = np.dtype(spec.dtype), operand.source
    if source is None:
        return lambda rows, columns: generator.uniform(spec.seed, rows, columns, dtype, stream=operand.stream)
    own = need[::-1] if operand.transpose else need
    stored = _direct(source, dtype) if source.unit is None else _copied(comm, source, own, dtype, spec, plan)
    sample = Sample(source, spec.seed)
    samples.append(sample)

    def read(rows: Range, columns: Range) -> NDArray[Any]:
        part = (columns, rows) if operand.transpose else (rows, columns)
        found = stored(*part)
        sample.see(found, part)
        return found.T if operand.transpose else found

    return read


def _direct(source: Source, dtype: np.dtype[Any]) -> Read:
    return lambda rows, columns: source.read_alone((rows, columns), dtype)


def _copied(
    comm: MPI.Comm, source: Source, own: tuple[Range, Range], dtype: np.dtype[Any], spec: Resolved, plan: StreamPlan
) -> Read:
    """Copy what the ranks of each node have ``own`` of ``source``, every piece once, and read from there."""
    node = collective.split_node(comm)
    parts = node.allgather(own)
    rows, columns = (Range(min(p[i].start for p in parts), max(p[i].stop for p in parts)) for i in (0, 1))
    by_columns = source.unit is not None and source.unit[0] > source.unit[1]  # so that long lines are written
    with agreement(comm):  # ranks of a node make the file together, and raise together if they cannot
        scratch = Scratch(
            spec.scratch, (columns.size, rows.size) if by_columns else (rows.size, columns.size), dtype, node
        )
    with agreement(comm):
        for part, found in source.scan((rows, columns), plan.piece_bytes, node.rank, node.size):
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
