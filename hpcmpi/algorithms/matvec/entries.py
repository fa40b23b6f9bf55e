"""Sparse rows from scattered entries: deal the rows so that all ranks hold as much, and send each entry to its row."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.partition import block


class CsrRows(NamedTuple):
    """This rank's rows of a distributed sparse matrix, in SciPy's CSR with global column numbers.

    ``bounds`` (P + 1,) int64 tells the range of rows of each rank; ``n`` is the number of columns.
    """

    indptr: NDArray[Any]
    indices: NDArray[Any]
    data: NDArray[Any]
    bounds: NDArray[np.int64]
    n: int


def uniform_bounds(n: int, ranks: int) -> NDArray[np.int64]:
    """The edges of :func:`hpcmpi.partition.block`, (P + 1,)."""
    return np.array([block(n, ranks, rank).start for rank in range(ranks)] + [n], np.int64)


def balanced_bounds(comm: MPI.Comm, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranges of rows with equal work, from the ``lengths`` of the rows in this rank's uniform block.

    A row costs its non-zeros and one more, for its element of y: rows without any are dealt evenly as well. A row goes
    where its middle lies.
    """
    work = lengths + 1
    twice_before = 2 * np.cumsum(work) - work  # the middle of each row
    sums = np.array(comm.allgather(int(work.sum())), dtype=object)
    start, total = int(sums[: comm.rank].sum()), int(sums.sum())
    targets = [-(-2 * total * part // comm.size) - 2 * start for part in range(comm.size + 1)]
    below = [np.searchsorted(twice_before, target) if part else 0 for part, target in enumerate(targets)]
    below[-1] = len(lengths)
    return collective.allreduce(comm, np.array(below, np.int64))


def assemble(
    comm: MPI.Comm, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[Any], *, m: int, n: int
) -> CsrRows:
    """This rank's rows of the m x n matrix whose entries (rows, columns, values) lie anywhere.

    Within a row the entries are ordered by column, and equal ones by value, so that the outcome does not depend on who
    held them. Entries at the same place are kept: a product adds them up.
    """
    order = np.argsort(rows)
    rows, columns, values = rows[order], columns[order], values[order]
    del order
    bounds = balanced_bounds(comm, _row_lengths(comm, rows, m))
    entry = np.dtype([("row", np.int64), ("column", np.int64), ("value", values.dtype)])
    leaving = np.empty(len(rows), entry)
    leaving["row"], leaving["column"], leaving["value"] = rows, columns, values
    counts = np.diff(np.searchsorted(rows, bounds))
    del rows, columns, values
    arrived, _ = collective.exchange(comm, leaving, counts)
    del leaving
    start, stop = int(bounds[comm.rank]), int(bounds[comm.rank + 1])
    own = arrived["row"] - start
    order = _order(own, arrived["column"], arrived["value"], n)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=stop - start))])
    return CsrRows(indptr, arrived["column"][order], arrived["value"][order], bounds, n)


def _row_lengths(comm: MPI.Comm, rows: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    """Lengths of the rows in this rank's uniform block, from all ranks' ascending ``rows``."""
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    here = np.stack([rows[first], np.diff(first, append=len(rows))], axis=1)
    edges = uniform_bounds(m, comm.size)
    came, _ = collective.exchange(comm, here, np.diff(np.searchsorted(here[:, 0], edges)))
    mine = block(m, comm.size, comm.rank)
    lengths = np.zeros(mine.size, np.int64)
    np.add.at(lengths, came[:, 0] - mine.start, came[:, 1])
    return lengths


def _order(rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[Any], n: int) -> NDArray[np.intp]:
    """Order by row, column and value."""
    by_value = (values.imag, values.real) if values.dtype.kind == "c" else (values,)
    if rows.size and (int(rows.max()) + 1) * n >= 2**63:
        return np.lexsort((*by_value, columns, rows))
    place = rows * n + columns
    order = np.argsort(place)
    ordered = place[order]
    if np.any(ordered[1:] == ordered[:-1]):
        order = np.lexsort((*by_value, place))
    return order
