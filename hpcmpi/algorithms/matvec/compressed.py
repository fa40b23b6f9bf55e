"""Sparse matrices that lie in files as arrays: compressed rows or columns, or coordinates. Each rank reads its part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi.algorithms.matvec.entries import CsrRows, assemble, balanced_bounds
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError
from hpcmpi.partition import Range, block


class Array(Protocol):
    """A one-dimensional array in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its length."""

    def read(self, comm: MPI.Comm, part: tuple[Range, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Each rank's own ``part``; collective."""


def read_rows(
    comm: MPI.Comm, layout: str, arrays: Mapping[str, Array], *, m: int, n: int, transpose: bool, dtype: DTypeLike
) -> CsrRows:
    """This rank's rows of op(A), of m x n, from ``arrays`` by SciPy's names in ``layout`` csr, csc or coo.

    ``transpose`` tells that op(A) is the transpose of what the arrays hold. Raises InputError for arrays that are no
    such matrix.
    """
    if layout == "coo":
        mine = (block(arrays["data"].shape[0], comm.size, comm.rank),)
        rows, columns = (arrays[name].read(comm, mine, np.int64) for name in ("row", "col"))
        values = arrays["data"].read(comm, mine, dtype)
        if transpose:
            rows, columns = columns, rows
        with agreement(comm):
            _check_range(arrays["col" if transpose else "row"], rows, m)
            _check_range(arrays["row" if transpose else "col"], columns, n)
        return assemble(comm, rows, columns, values, m=m, n=n)
    by_lines = transpose == (layout == "csc")  # compressed along the rows of op(A)
    lines, width = (m, n) if by_lines else (n, m)
    bounds = balanced_bounds(comm, np.diff(_starts(comm, arrays, block(lines, comm.size, comm.rank))))
    own = Range(int(bounds[comm.rank]), int(bounds[comm.rank + 1]))
    starts = _starts(comm, arrays, own)
    inside = (Range(int(starts[0]), int(starts[-1])),)
    indices, data = arrays["indices"].read(comm, inside, np.int64), arrays["data"].read(comm, inside, dtype)
    with agreement(comm):
        _check_range(arrays["indices"], indices, width)
    if by_lines:
        return CsrRows(starts - starts[0], indices, data, bounds, n)
    return assemble(comm, indices, np.repeat(np.arange(*own), np.diff(starts)), data, m=m, n=n)


def _starts(comm: MPI.Comm, arrays: Mapping[str, Array], lines: Range) -> NDArray[np.int64]:
    """``indptr`` of ``lines`` and of what follows them, checked."""
    indptr = arrays["indptr"]
    starts = indptr.read(comm, (Range(lines.start, lines.stop + 1),), np.int64)
    with agreement(comm):
        total = arrays["data"].shape[0]
        first, last = int(starts[0]), int(starts[-1])
        ends = (lines.start > 0 or first == 0) and (lines.stop + 1 < indptr.shape[0] or last == total)
        if not ends or np.any(np.diff(starts) < 0) or first < 0 or last > total:
            raise InputError(f"{indptr}: does not rise from 0 to {total} without falling, as it must")
    return starts


def _check_range(array: Array, indices: NDArray[np.int64], extent: int) -> None:
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < extent:
        raise InputError(f"{array}: holds {indices.min()} to {indices.max()}; numbers in [0, {extent}) are expected")
