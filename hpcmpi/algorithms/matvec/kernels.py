"""The local products, compiled: dense rows, several at once, and compressed sparse rows.

Dense kernels take real arrays; a complex product is two real ones that share the loads of A, by way of
:mod:`~hpcmpi.algorithms.matvec.dense`. Each element of y is one sum whose order depends on the length of its row alone,
never on the place of the row in the block: the last, incomplete group of rows runs through the same code, with its last
row repeated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.jit import kernel

_TILE = 2048  # elements of y that stay in the first-level cache while rows are added to them
_1, _2, _3, _4 = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)


@kernel(fastmath={"reassoc", "contract"})
def dot_rows(a: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> None:
    """``y[i] = a[i] . x``: each load of x feeds four rows, which are four streams for the memory to keep up with."""
    m, n = a.shape
    for i in range(0, m, 4):
        i1, i2, i3 = min(i + 1, m - 1), min(i + 2, m - 1), min(i + 3, m - 1)
        a0, a1, a2, a3 = a[i], a[i1], a[i2], a[i3]
        t0 = t1 = t2 = t3 = a.dtype.type(0)
        for j in range(n):
            v = x[j]
            t0 += a0[j] * v
            t1 += a1[j] * v
            t2 += a2[j] * v
            t3 += a3[j] * v
        y[i], y[i1], y[i2], y[i3] = t0, t1, t2, t3


@kernel(fastmath={"reassoc", "contract"})
def dot_rows_twice(a: NDArray[Any], u: NDArray[Any], v: NDArray[Any], yu: NDArray[Any], yv: NDArray[Any]) -> None:
    """``yu[i] = a[i] . u`` and ``yv[i] = a[i] . v``, reading a once."""
    m, n = a.shape
    for i in range(0, m, 2):
        i1 = min(i + 1, m - 1)
        a0, a1 = a[i], a[i1]
        p0 = p1 = q0 = q1 = a.dtype.type(0)
        for j in range(n):
            p0 += a0[j] * u[j]
            p1 += a1[j] * u[j]
            q0 += a0[j] * v[j]
            q1 += a1[j] * v[j]
        yu[i], yu[i1], yv[i], yv[i1] = p0, p1, q0, q1


@kernel(fastmath={"contract"})
def add_rows(a: NDArray[Any], x: NDArray[Any], y: NDArray[Any], start: int, stop: int) -> None:
    """``y[j] = sum_k a[k, j] x[k]`` for j in [start, stop), each summed in the order of k."""
    rows = a.shape[0]
    for left in range(start, stop, _TILE):
        right = min(left + _TILE, stop)
        t = y[left:right]
        t[:] = 0
        for k in range(0, rows - 3, 4):
            x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
            a0, a1, a2, a3 = a[k, left:right], a[k + 1, left:right], a[k + 2, left:right], a[k + 3, left:right]
            for j in range(t.size):
                t[j] = (((t[j] + a0[j] * x0) + a1[j] * x1) + a2[j] * x2) + a3[j] * x3
        for k in range(rows - rows % 4, rows):
            x0, a0 = x[k], a[k, left:right]
            for j in range(t.size):
                t[j] += a0[j] * x0


@kernel(fastmath={"contract"})
def multiply_csr(
    indptr: NDArray[np.uint64],
    indices: NDArray[Any],
    data: NDArray[Any],
    x: NDArray[Any],
    y: NDArray[Any],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
) -> None:
    """``y[i] = sum_k data[k] x[indices[k]]`` for the rows i in each range [starts[r], stops[r]).

    Four interleaved sums for the entries at places 0, 1, 2, 3 (mod 4) of the row, so that long rows do not wait for one
    addition after the other. Unsigned indices spare Numba the check for negative ones, which costs a third.
    """
    for r in range(starts.size):
        begin = indptr[np.uint64(starts[r])]
        for i in range(np.uint64(starts[r]), np.uint64(stops[r])):
            end = indptr[i + _1]
            s0 = s1 = s2 = s3 = data.dtype.type(0)
            k = begin
            while k + _4 <= end:
                s0 += data[k] * x[indices[k]]
                s1 += data[k + _1] * x[indices[k + _1]]
                s2 += data[k + _2] * x[indices[k + _2]]
                s3 += data[k + _3] * x[indices[k + _3]]
                k += _4
            while k < end:
                s0 += data[k] * x[indices[k]]
                k += _1
            y[i] = (s0 + s1) + (s2 + s3)
            begin = end
