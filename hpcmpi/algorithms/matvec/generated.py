"""Generated sparse matrices: the finite-difference Laplacian, and a random one whose degrees follow a power law."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi.algorithms.matvec.entries import CsrRows, balanced_bounds
from hpcmpi.algorithms.matvec.generated_kernels import (
    laplacian_lengths,
    laplacian_rows,
    power_law_lengths,
    power_law_rows,
)
from hpcmpi.partition import block

_MASK = 2**64 - 1


class Laplacian(NamedTuple):
    """What :func:`laplacian` generates."""

    extents: tuple[int, ...]


class PowerLaw(NamedTuple):
    """What :func:`power_law` generates."""

    n: int
    degree: int


def laplacian(comm: MPI.Comm, extents: tuple[int, ...], dtype: DTypeLike) -> CsrRows:
    """This rank's rows of the negative Laplacian on a grid of ``extents``: 2 d, and -1 for each of 2 d neighbours.

    Row i is the grid point of index i, the last coordinate varying fastest; outside the grid the function is 0.
    """
    grid = np.array(extents, np.int64)
    n = math.prod(extents)
    mine = block(n, comm.size, comm.rank)
    lengths = np.empty(mine.size, np.int64)
    laplacian_lengths(grid, mine.start, lengths)
    bounds = balanced_bounds(comm, lengths)
    start, stop = int(bounds[comm.rank]), int(bounds[comm.rank + 1])
    lengths = np.empty(stop - start, np.int64)
    laplacian_lengths(grid, start, lengths)
    indptr = _starts(lengths)
    indices, data = np.empty(indptr[-1], np.int64), np.empty(indptr[-1], dtype)
    laplacian_rows(grid, start, indptr, indices, data)
    return CsrRows(indptr, indices, data, bounds, n)


def laplacian_surface(extents: tuple[int, ...], ranks: int) -> int:
    """Words that all ranks receive together where each cut parts two blocks of rows of a Laplacian.

    A row refers to the rows one layer before and after it, so that a cut between two ranks makes each of them fetch a
    layer of the other: the product of all extents but the first. No cut of a grid whose first extent is the longest
    into two parts has less surface.
    """
    return 2 * (ranks - 1) * math.prod(extents[1:])


def laplacian_nonzeros(extents: tuple[int, ...]) -> int:
    """Non-zeros of the whole matrix."""
    n = math.prod(extents)
    return n + sum(2 * (n - n // extent) for extent in extents if extent)


def power_law(comm: MPI.Comm, n: int, degree: int, seed: int, dtype: DTypeLike) -> CsrRows:
    """This rank's rows of a random n x n matrix; row lengths and column counts have tails of exponent 2.5.

    Elements are uniform in (0, 1]; a column that is drawn twice in a row stands there twice, and both count.
    """
    key = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & _MASK)
    mine = block(n, comm.size, comm.rank)
    lengths = np.empty(mine.size, np.int64)
    power_law_lengths(key, n, float(degree), mine.start, lengths)
    bounds = balanced_bounds(comm, lengths)
    start, stop = int(bounds[comm.rank]), int(bounds[comm.rank + 1])
    lengths = np.empty(stop - start, np.int64)
    power_law_lengths(key, n, float(degree), start, lengths)
    indptr = _starts(lengths)
    indices, data = np.empty(indptr[-1], np.int64), np.empty(indptr[-1], dtype)
    power_law_rows(key, n, _step(n), start, indptr, indices, data)
    return CsrRows(indptr, indices, data, bounds, n)


def _step(n: int) -> int:
    """A number prime to n, near n over the golden ratio, so that multiples of it modulo n lie far apart."""
    step = max(1, int(n * 0.6180339887498949))
    while math.gcd(step, n) > 1:
        step += 1
    return step


def _starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])
