"""y = A x with dense blocks on a (pr x pc) grid: gather x along the columns, multiply, add up y along the rows.

Rank (i, j) owns block A_ij, piece i of pr of x_j, and piece j of pc of y_i. It receives what it lacks of x_j,
n/pc (1 - 1/pr) words, and its piece of the sum of the partial products, m/pr (1 - 1/pc) words. With blocks of rows
(pc = 1) nothing is added up between ranks, and each y_i is one sum over its whole row, in one order at any pr; with
blocks of columns (pr = 1) nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matvec.kernels import add_rows, dot_rows, dot_rows_twice
from hpcmpi.algorithms.matvec.vectors import check_vectors
from hpcmpi.arrays import plain_array
from hpcmpi.partition import Range, block, coordinates, pieces
from hpcmpi.threads import share

_PART_BYTES = 8 << 20  # of A, between two signs of life; a row group's start costs nothing beside it
_WORTH_THREADS = 1 << 20  # bytes of A
_FEWEST_COLUMNS = 64  # a part of y that is added up by one thread: whole cache lines


def pieces_of(n: int, outer: tuple[int, int], inner: tuple[int, int]) -> Range:
    """Piece ``inner[1]`` of ``inner[0]`` of block ``outer[1]`` of ``outer[0]`` of ``range(n)``."""
    whole = block(n, *outer)
    part = block(whole.size, *inner)
    return Range(whole.start + part.start, whole.start + part.stop)


def x_piece(n: int, grid: tuple[int, int], rank: int) -> Range:
    """Indices of x that ``rank`` holds: piece i of x_j."""
    i, j = coordinates(grid, rank)
    return pieces_of(n, (grid[1], j), (grid[0], i))


def y_piece(m: int, grid: tuple[int, int], rank: int) -> Range:
    """Indices of y that ``rank`` holds: piece j of y_i."""
    i, j = coordinates(grid, rank)
    return pieces_of(m, (grid[0], i), (grid[1], j))


class DensePlan:
    """Products with one distributed dense matrix of m x n; communicators and buffers are made once.

    ``a`` is this rank's block (m_i, n_j) on ``grid``. A plan is called with this rank's piece of x and returns its
    piece of y. :meth:`free` gives the communicators back.
    """

    def __init__(self, comm: MPI.Comm, a: NDArray[Any], *, m: int, n: int, grid: tuple[int, int], threads: int) -> None:
        self.m, self.n, self.grid, self.rank = m, n, grid, comm.rank
        i, j = coordinates(grid, comm.rank)
        self.row, self.column = comm.Split(i, j), comm.Split(j, i)
        self.rows = y_piece(m, grid, comm.rank)
        self.columns = x_piece(n, grid, comm.rank)
        self.by_columns = bool(comm.allreduce(_lies_in_columns(a), MPI.LOR))  # else the order of sums could differ
        self.a = np.asfortranarray(a) if self.by_columns else np.ascontiguousarray(a)
        self._x_pieces = [pieces_of(n, (grid[1], j), (grid[0], rank)).size for rank in range(grid[0])]
        self._x = np.empty(a.shape[1], a.dtype)
        self._y = np.empty(a.shape[0], a.dtype)
        self._threads = threads

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the matrix and the vectors."""
        return self.a.dtype

    @property
    def rows_held(self) -> int:
        """Elements of y on this rank."""
        return self.rows.size

    @property
    def columns_held(self) -> int:
        """Elements of x on this rank."""
        return self.columns.size

    def __call__(
        self, x: NDArray[Any], out: NDArray[Any] | None = None, advance: Callable[[float], None] = lambda _f: None
    ) -> NDArray[Any]:
        """This rank's piece of A x, from its piece ``x`` (n_r,); written into ``out`` (m_r,) if given. Collective.

        Raises InputError as :meth:`check` does, on this rank alone, before anything is sent or computed.
        """
        x = plain_array(x, "x")
        self.check(x, out)
        x = np.ascontiguousarray(x, self.a.dtype)
        if self.column.size > 1:
            x = collective.gather_blocks(self.column, x, rows=self._x_pieces, out=self._x)
        y = np.empty(self.rows.size, self.a.dtype) if out is None else out
        direct = self.row.size == 1 and y.flags.c_contiguous
        partial = y if direct else self._y
        multiply(self.a, x, partial, self.by_columns, self._threads, advance)
        if self.row.size > 1:
            y[...] = collective.scatter_sum(self.row, partial)
        elif not direct:
            y[...] = partial
        return y

    def check(self, x: NDArray[Any], out: NDArray[Any] | None) -> None:
        """Raise InputError for an ``x`` or ``out`` that is not this rank's piece, or overlaps. Local."""
        columns, rows = self.columns.size, self.rows.size
        check_vectors(self.rank, x, out, columns=columns, rows=rows, dtype=self.a.dtype)

    def free(self) -> None:
        """Give the communicators back. Collective."""
        self.row.Free()
        self.column.Free()


def _lies_in_columns(a: NDArray[Any]) -> bool:
    """Whether ``a`` lies in memory column by column; the strides tell it even of a single row."""
    return bool(a.flags.f_contiguous and a.shape[1] > 1 and a.strides[0] == a.itemsize)


def multiply(
    a: NDArray[Any],
    x: NDArray[Any],
    y: NDArray[Any],
    by_columns: bool,
    threads: int,
    advance: Callable[[float], None] = lambda _fraction: None,
) -> None:
    """``y = a @ x`` on this rank, with contiguous ``x`` (n,) and ``y`` (m,) of the dtype of ``a`` (m, n).

    ``a`` is contiguous, column by column if ``by_columns``, else row by row.
    """
    threads = threads if a.nbytes >= _WORTH_THREADS else 1
    if threads == 1 and a.nbytes <= _PART_BYTES and a.dtype.kind == "f" and not by_columns:
        # BLAS's gemv may be faster here, but promises no order of a row's sum: it may depend on the row's place in the
        # block and on the threads, and so would the bits of y on the number of ranks.
        dot_rows(a, x, y)  # in cache, sharing out the work would cost as much as the work
        return
    if by_columns:
        _multiply_columns(a.T, x, y, threads, advance)
    else:
        _multiply_rows(a, x, y, threads, advance)


def _multiply_rows(
    a: NDArray[Any], x: NDArray[Any], y: NDArray[Any], threads: int, advance: Callable[[float], None]
) -> None:
    m, n = a.shape
    rows = max(1, _PART_BYTES // max(1, n * a.itemsize))
    rows = 4 * -(-min(rows, -(-m // threads)) // 4)  # whole groups of the kernel
    work: Callable[[Range], None]
    if a.dtype.kind == "c":
        real = y.real.dtype
        u, v = np.conj(x).view(real), (1j * np.conj(x)).astype(x.dtype).view(real)  # Re and Im of a row's product
        yu, yv = np.empty((2, m), real)

        def work(part: Range) -> None:
            own = part.slice
            dot_rows_twice(a[own].view(real), u, v, yu[own], yv[own])
            y.real[own], y.imag[own] = yu[own], yv[own]
    else:

        def work(part: Range) -> None:
            dot_rows(a[part.slice], x, y[part.slice])

    _share(work, Range(0, m), max(4, rows), threads, advance)


def _multiply_columns(
    at: NDArray[Any], x: NDArray[Any], y: NDArray[Any], threads: int, advance: Callable[[float], None]
) -> None:
    """``y = at.T @ x``: rows of ``at`` are scaled and added up."""
    real = y.real.dtype
    flat = at.view(real) if at.shape[1] else np.empty((at.shape[0], 0), real)
    width = flat.shape[1]
    longest = _FEWEST_COLUMNS * max(1, -(-width // (threads * _FEWEST_COLUMNS)))
    if at.dtype.kind != "c":
        _share(lambda part: add_rows(flat, x, y, *part), Range(0, width), longest, threads, advance)
        return
    by_real, by_imag = np.empty((2, width), real)
    parts = np.ascontiguousarray(x.real), np.ascontiguousarray(x.imag)

    def work(part: Range) -> None:
        add_rows(flat, parts[0], by_real, *part)
        add_rows(flat, parts[1], by_imag, *part)

    _share(work, Range(0, width), longest, threads, advance)
    y.real = by_real[0::2] - by_imag[1::2]
    y.imag = by_real[1::2] + by_imag[0::2]


def _share(
    work: Callable[[Range], object], whole: Range, longest: int, threads: int, advance: Callable[[float], None]
) -> None:
    parts = list(pieces(whole, longest))
    done = 0

    def count() -> None:  # this thread does its share of the parts
        nonlocal done
        done += threads
        advance(min(1.0, done / len(parts)))

    share(work, parts, threads, count)
