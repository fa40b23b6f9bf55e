"""The error of a product measured: sampled elements against sums in longer arithmetic, and against its bounds.

Rows and columns are drawn in strata, so that all parts of the blocks are seen, and gathered from all ranks; each rank
judges those of the sampled elements that it owns. The measure of an element's error is (|A| |B|)_ij, the sum of the
magnitudes of its terms, by which the classical bound k u (|A| |B|)_ij is told (Higham 2002, section 3.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import generator
from hpcmpi.algorithms.matmul.layout import Blocks
from hpcmpi.partition import Range, block

_LINES = 32  # rows, and columns, that are sampled
_STREAM = 10  # of the generator
_TERMS_AT_ONCE = 1 << 20  # in longer arithmetic


@dataclass(frozen=True)
class Accuracy:
    """Errors of the worst of ``elements`` sampled ones; each is relative to (|A| |B|)_ij, but the last two.

    ``measured``: of C; ``classical``: of the same elements as BLAS multiplies them; ``classical_bound``: k u;
    ``over_bound``: the largest absolute error over ``bound``, that of Strassen-Winograd for the whole product.
    """

    elements: int
    measured: float
    classical: float
    classical_bound: float
    bound: float
    over_bound: float


def strassen_bound(k: int, levels: int, unit: float) -> float:
    """Largest error of an element, over max|A| max|B| (Higham 2002, section 23.2.2)."""
    inner = k / 2**levels
    return float((18**levels * (inner**2 + 6 * inner) - 6 * k) * unit)


def measured(comm: MPI.Comm, blocks: Blocks, *, levels: int, seed: int) -> Accuracy:
    """Errors of ``blocks.c``, the product of the other blocks, all finite; no rank is idle.

    Collective; costs 2^10 dot products.
    """
    layout, a, b, c = blocks.layout, blocks.a, blocks.b, blocks.c
    i, j, _ = layout.place(comm.rank)
    own_rows, own_columns, k = layout.rows(comm.rank), layout.columns(comm.rank), layout.k
    rows, columns = (_sample(seed, size, axis) for axis, size in enumerate((layout.m, layout.n)))
    # Each rank has the sampled rows of A in its row of the grid, and the sampled columns of B in its column of it.
    lines_a = rows[(rows >= own_rows.start) & (rows < own_rows.stop)] - own_rows.start
    lines_b = columns[(columns >= own_columns.start) & (columns < own_columns.stop)] - own_columns.start
    row, column = comm.Split(i, comm.rank), comm.Split(j, comm.rank)  # of all layers, in the order of inner indices
    left = np.ascontiguousarray(collective.gather_blocks(row, np.ascontiguousarray(a[lines_a].T)).T)
    right = collective.gather_blocks(column, np.ascontiguousarray(b[:, lines_b]))
    row.Free()
    column.Free()
    part = layout.c(comm.rank)[0]  # of these rows, those of this layer's C
    mine = (lines_a + own_rows.start >= part.start) & (lines_a + own_rows.start < part.stop)
    left, lines_a = left[mine], lines_a[mine] + own_rows.start - part.start
    found = c[np.ix_(lines_a, lines_b)]
    exact, size = _exact(left, right)
    unit = float(np.finfo(c.dtype).eps) / 2
    largest = np.array([np.abs(x).max(initial=0) for x in (a, b)])
    largest_a, largest_b = (float(x) for x in collective.allreduce(comm, largest, MPI.MAX))
    bound = strassen_bound(k, levels, unit) * largest_a * largest_b * (2 if c.dtype.kind == "c" else 1)
    errors = [np.abs(x - exact).astype(np.float64) for x in (found, left @ right)]
    worst = np.array([*(np.divide(e, size, out=np.zeros_like(e), where=e > 0).max(initial=0) for e in errors)])
    strongest = errors[0].max(initial=0) / bound if bound > 0 else 0.0
    worst = collective.allreduce(comm, np.append(worst, strongest), MPI.MAX)
    elements = int(collective.allreduce(comm, np.array([found.size]))[0])
    return Accuracy(elements, float(worst[0]), float(worst[1]), k * unit, bound, float(worst[2]))


def _sample(seed: int, size: int, axis: int) -> NDArray[np.int64]:
    """Indices below ``size``, one drawn from each of as many equal ranges as there are to be lines."""
    count = min(size, _LINES)
    draws = generator.uniform(seed, Range(0, count), Range(axis, axis + 1), np.float64, stream=_STREAM)[:, 0] + 0.5
    ranges = [block(size, count, part) for part in range(count)]
    return np.array([min(r.start + int(x * r.size), r.stop - 1) for r, x in zip(ranges, draws, strict=True)], np.int64)


def _exact(left: NDArray[Any], right: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """``left @ right``, its terms made and summed in NumPy's longest arithmetic, and |left| @ |right|."""
    wide = np.clongdouble if left.dtype.kind == "c" else np.longdouble
    total = np.zeros((len(left), right.shape[1]), wide)
    inner = max(1, _TERMS_AT_ONCE // max(1, right.shape[1]))
    for at in range(0, left.shape[1], inner):
        part = right[at : at + inner].astype(wide)
        for line, row in enumerate(left[:, at : at + inner].astype(wide)):
            total[line] += (row[:, None] * part).sum(axis=0)
    return total, np.abs(left).astype(np.float64) @ np.abs(right).astype(np.float64)
