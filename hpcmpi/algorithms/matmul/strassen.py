"""Strassen-Winograd on one rank: a product of halved size seven times in place of eight (Strassen 1969, Winograd 1971).

With A, B and C cut into quadrants, S1 = A21 + A22, S2 = S1 - A11, S3 = A11 - A21, S4 = A12 - S2 and T1 = B12 - B11,
T2 = B22 - T1, T3 = B22 - B12, T4 = T2 - B21, the seven products are

    P1 = A11 B11   P2 = A12 B21   P3 = S4 B22   P4 = A22 T4   P5 = S1 T1   P6 = S2 T2   P7 = S3 T3

    C11 = P1 + P2   C12 = P1 + P6 + P5 + P3   C21 = P1 + P6 + P7 - P4   C22 = P1 + P6 + P7 + P5

P2, P3 and P4 are added to C by gemm itself. The others wait in the quadrants of C for one pass that adds them up; where
C has a value to add to, they gather in one temporary Z instead. One temporary takes each S in turn, one each T. The
order is that of Boyer, Dumas, Pernet and Zhou 2009 ("Memory efficient scheduling of Strassen-Winograd's matrix
multiplication algorithm"), with more of the additions left to gemm.

Rows and columns that 2^levels does not divide are peeled off before, and multiplied classically.

**Error**: |C - AB| <= (18^levels (k0^2 + 6 k0) - 6 k) u max|A| max|B| at worst, k0 = k / 2^levels (Higham 2002, section
23.2.2). Rounding errors as they come, at random, grow threefold a level: P1, P6, P7 and P5 in C22 have 18 times the
variance of a leaf's product, where a classical sum has twice that. The bound is one of the whole matrices: small rows
and columns beside large ones may lose all their digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi import threads
from hpcmpi.algorithms.matmul.cost import strassen_workspace
from hpcmpi.partition import Range, pieces

Matrix = NDArray[Any]
Leaf = Callable[[Matrix, Matrix, Matrix, float, bool], None]
"""``c = alpha a b``, or ``c += alpha a b`` where the flag is set: (a, b, c, alpha, accumulate)."""

_STRIP_BYTES = 64 << 10  # of each of four quadrants: they stay in a core's cache while they are added up


def strassen(a: Matrix, b: Matrix, c: Matrix, *, levels: int, accumulate: bool, leaf: Leaf) -> None:
    """``c = a b``, or ``c += a b`` with ``accumulate``, by ``levels`` of Strassen-Winograd over products by ``leaf``.

    Shapes (m, k), (k, n), (m, n), one dtype; fastest where each has unit stride along one dimension.
    """
    a, b, c = along_rows(a, b, c)
    (m, k), n = a.shape, b.shape[1]
    unit = 1 << levels
    rows, inner, columns = m - m % unit, k - k % unit, n - n % unit
    work = np.empty(strassen_workspace(rows, columns, inner, levels, accumulate=accumulate), c.dtype)
    _Recursion(leaf, threads.available()).multiply(
        a[:rows, :inner], b[:inner, :columns], c[:rows, :columns], levels, work, 1.0, accumulate
    )
    if inner < k:
        leaf(a[:rows, inner:], b[inner:, :columns], c[:rows, :columns], 1.0, True)
    if columns < n:
        leaf(a[:rows], b[:, columns:], c[:rows, columns:], 1.0, accumulate)
    if rows < m:
        leaf(a[rows:], b, c[rows:], 1.0, accumulate)


def along_rows(a: Matrix, b: Matrix, c: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """``a``, ``b`` and ``c`` of a product, or b^T, a^T and c^T if those are what has the rows of C in one piece."""
    if not c.flags.c_contiguous and abs(c.strides[0]) < abs(c.strides[1]):
        return b.T, a.T, c.T
    return a, b, c


class _Recursion:
    def __init__(self, leaf: Leaf, count: int) -> None:
        self._leaf, self._threads = leaf, count

    def multiply(
        self, a: Matrix, b: Matrix, c: Matrix, levels: int, work: NDArray[Any], alpha: float, accumulate: bool
    ) -> None:
        """``c = alpha a b``, or ``c += alpha a b``; 2^levels divides all sizes. ``work`` holds the temporaries."""
        if levels == 0:
            self._leaf(a, b, c, alpha, accumulate)
            return
        (a11, a12, a21, a22), (b11, b12, b21, b22), (c11, c12, c21, c22) = map(_quadrants, (a, b, c))
        s, work = _taken(work, a11)
        t, work = _taken(work, b11)

        def product(x: Matrix, y: Matrix, into: Matrix, *, minus: bool = False, add: bool = False) -> None:
            self.multiply(x, y, into, levels - 1, work, -alpha if minus else alpha, add)

        if accumulate:
            z, work = _taken(work, c11)
            self._sum(np.add, a21, a22, s)
            self._sum(np.subtract, b12, b11, t)
            product(s, t, z)  # P5
            self._add_to(z, c12, c22)
            self._sum(np.subtract, s, a11, s)
            self._sum(np.subtract, b22, t, t)
            product(a11, b11, z)  # P1
            self._add_to(z, c11)
            product(s, t, z, add=True)  # P1 + P6
            self._add_to(z, c12)
        else:
            self._sum(np.subtract, a11, a21, s)
            self._sum(np.subtract, b22, b12, t)
            product(s, t, c21)  # P7
            self._sum(np.add, a21, a22, s)
            self._sum(np.subtract, b12, b11, t)
            product(s, t, c22)  # P5
            self._sum(np.subtract, s, a11, s)
            self._sum(np.subtract, b22, t, t)
            product(s, t, c12)  # P6
            product(a11, b11, c11)  # P1
            self._add_up(c11, c12, c21, c22)
        self._sum(np.subtract, a12, s, s)
        product(s, b22, c12, add=True)  # P3
        self._sum(np.subtract, t, b21, t)
        product(a22, t, c21, minus=True, add=True)  # P4
        product(a12, b21, c11, add=True)  # P2
        if accumulate:
            self._sum(np.subtract, a11, a21, s)
            self._sum(np.subtract, b22, b12, t)
            product(s, t, z, add=True)  # P1 + P6 + P7
            self._add_to(z, c21, c22)

    def _sum(self, how: Any, x: Matrix, y: Matrix, out: Matrix) -> None:
        self._by_strips(lambda at: how(x[at], y[at], out=out[at]), out, len(out))

    def _add_to(self, z: Matrix, *targets: Matrix) -> None:
        """Add ``z`` to each of the ``targets``."""

        def add(at: slice) -> None:
            for target in targets:
                np.add(target[at], z[at], out=target[at])

        self._by_strips(add, z, _strip_rows(z))

    def _add_up(self, c11: Matrix, c12: Matrix, c21: Matrix, c22: Matrix) -> None:
        """From P1, P6, P7, P5: P1 + P6 + P5, P1 + P6 + P7 and P1 + P6 + P7 + P5 in all quadrants but the first."""

        def add(at: slice) -> None:
            p1, p6, p7, p5 = c11[at], c12[at], c21[at], c22[at]
            np.add(p6, p1, out=p6)
            np.add(p7, p6, out=p7)
            np.add(p6, p5, out=p6)
            np.add(p5, p7, out=p5)

        self._by_strips(add, c11, _strip_rows(c11))

    def _by_strips(self, work: Callable[[slice], Any], like: Matrix, longest: int) -> None:
        """``work(rows)`` for all rows, at most ``longest`` at once, in all threads of this rank."""
        rows = max(1, min(longest, -(-len(like) // self._threads)))
        threads.share(work, [piece.slice for piece in pieces(Range(0, len(like)), rows)], self._threads)


def _strip_rows(x: Matrix) -> int:
    return max(1, int(_STRIP_BYTES // max(1, x.shape[1] * x.itemsize)))


def _quadrants(x: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    return x[:rows, :columns], x[:rows, columns:], x[rows:, :columns], x[rows:, columns:]


def _taken(work: NDArray[Any], like: Matrix) -> tuple[Matrix, NDArray[Any]]:
    """A temporary as large as ``like`` and in its order, from the start of ``work``, and what is left of that."""
    rows, columns = like.shape
    memory, rest = work[: like.size], work[like.size :]
    if abs(like.strides[0]) < abs(like.strides[1]):
        return memory.reshape(columns, rows).T, rest
    return memory.reshape(rows, columns), rest
