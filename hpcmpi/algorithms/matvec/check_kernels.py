"""The sparse side of the check: weighted sums of the rows of A, column by column."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.jit import kernel


@kernel()
def row_norms(
    indptr: NDArray[np.uint64],
    indices: NDArray[Any],
    data: NDArray[Any],
    bad_columns: NDArray[np.bool_],
    norms: NDArray[np.float64],
    bad: NDArray[np.bool_],
) -> None:
    """Euclidean norm of each row without its elements that are not finite; ``bad`` where it has such elements, or
    refers to a column of ``bad_columns`` (none if that is empty).
    """
    for i in range(norms.size):
        largest = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            size = np.float64(abs(data[k]))
            if not np.isfinite(size) or (bad_columns.size > 0 and bad_columns[indices[k]]):
                bad[i] = True
            else:
                largest = max(largest, size)
        total = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            size = np.float64(abs(data[k]))
            if largest > 0 and np.isfinite(size):
                total += (size / largest) ** 2
        norms[i] = largest * np.sqrt(total)


@kernel()
def add_weighted_rows(
    indptr: NDArray[np.uint64],
    indices: NDArray[Any],
    data: NDArray[Any],
    norms: NDArray[np.float64],
    growth: NDArray[np.float64],
    weights: NDArray[np.float64],
    sums: NDArray[Any],
    squares: NDArray[np.float64],
) -> None:
    """For each element a of row i in column j, with b = a / norms[i]: add ``weights[i, v] b`` to ``sums[j, v]``, and
    |b|^2, (growth[i] |b|)^2 and 1 to ``squares[j]``. Rows of weight 0 are left out.
    """
    for i in range(norms.size):
        if weights[i, 0] == 0.0:
            continue
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            b = data[k] / norms[i]
            for v in range(weights.shape[1]):
                sums[j, v] += weights[i, v] * b
            square = np.float64(abs(b)) ** 2
            squares[j, 0] += square
            squares[j, 1] += growth[i] ** 2 * square
            squares[j, 2] += 1.0
