"""Rows of generated sparse matrices: row i is a function of the seed and i, never of the rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.jit import kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


@kernel()
def laplacian_lengths(extents: NDArray[np.int64], start: int, lengths: NDArray[np.int64]) -> None:
    """Non-zeros of rows ``start`` and on: the point itself and its neighbours inside the grid."""
    for i in range(lengths.size):
        row, length = start + i, 1
        for d in range(extents.size - 1, -1, -1):
            place = row % extents[d]
            row //= extents[d]
            length += (place > 0) + (place < extents[d] - 1)
        lengths[i] = length


@kernel()
def laplacian_rows(
    extents: NDArray[np.int64], start: int, indptr: NDArray[np.int64], indices: NDArray[np.int64], data: NDArray[Any]
) -> None:
    """Rows ``start`` and on: 2 d on the diagonal, -1 for each neighbour, columns ascending."""
    dimensions = extents.size
    strides = np.ones(dimensions, np.int64)
    for d in range(dimensions - 2, -1, -1):
        strides[d] = strides[d + 1] * extents[d + 1]
    data[:] = -1
    for i in range(indptr.size - 1):
        row, k = start + i, indptr[i]
        for d in range(dimensions):
            if row // strides[d] % extents[d] > 0:
                indices[k] = row - strides[d]
                k += 1
        indices[k] = row
        data[k] = 2 * dimensions
        k += 1
        for d in range(dimensions - 1, -1, -1):
            if row // strides[d] % extents[d] < extents[d] - 1:
                indices[k] = row + strides[d]
                k += 1


@kernel()
def _uniform(key: np.uint64, i: np.uint64) -> float:
    """SplitMix64's number ``i`` of the sequence ``key``, uniform in (0, 1]."""
    z = key + (i + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return (np.float64((z ^ (z >> _31)) >> _11) + 1.0) * 2.0**-53


@kernel()
def power_law_lengths(key: np.uint64, n: int, degree: float, start: int, lengths: NDArray[np.int64]) -> None:
    """Row lengths whose tail falls off with exponent 2.5 and whose mean is ``degree``; at most n."""
    for i in range(lengths.size):
        drawn = degree / 3 * _uniform(key, np.uint64(start + i)) ** (-2 / 3)  # Pareto, by inversion
        lengths[i] = min(np.int64(n), max(np.int64(1), np.int64(drawn + 0.5)))


@kernel()
def power_law_rows(
    key: np.uint64, n: int, step: int, start: int, indptr: NDArray[np.int64], indices: NDArray[np.int64],
    data: NDArray[Any],
) -> None:  # fmt: skip
    """Columns, ascending, and positive numbers up to 1 for rows ``start`` and on.

    The column of popularity rank r is drawn with a probability that falls as r^(-2/3), which gives column counts the
    same exponent 2.5. ``step``, prime to n, deals the popular ones out over all columns.
    """
    for i in range(indptr.size - 1):
        first, last = indptr[i], indptr[i + 1]
        row = key ^ (np.uint64(start + i + 1) * _MIX_1)
        for k in range(first, last):
            u = _uniform(row, np.uint64(2 * (k - first)))
            popularity = min(np.int64(n - 1), np.int64(n * (u * u * u)))
            column = np.int64(np.uint64(popularity) * np.uint64(step) % np.uint64(n))
            data[k] = _uniform(row, np.uint64(2 * (k - first) + 1))
            if last - first <= 64:
                j = k  # insert into the columns drawn before
                while j > first and indices[j - 1] > column:
                    indices[j] = indices[j - 1]
                    j -= 1
                indices[j] = column
            else:
                indices[k] = column
        if last - first > 64:
            indices[first:last].sort()
