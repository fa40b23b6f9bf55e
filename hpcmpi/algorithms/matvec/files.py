"""A check that shares nothing with the readers of sparse matrices: some entries of the file against the ranks' rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matvec.sparse import SparsePlan
from hpcmpi.comm import on_root
from hpcmpi.record import Verdict
from hpcmpi.store.entry_sample import Entry, sample_market, sample_sparse
from hpcmpi.store.matrix_market import open_matrix_market
from hpcmpi.store.reader import split_dataset
from hpcmpi.store.sample import with_comparison
from hpcmpi.store.sparse import open_sparse


def compare_entries(
    comm: MPI.Comm, where: str, plan: SparsePlan, verdict: Verdict, *, start: int, transpose: bool
) -> Verdict:
    """``verdict``, but wrong if the ranks' rows lack an entry of the file ``where``. Collective.

    This rank has the rows of op(A) from ``start`` on; op(A) is the transpose of the file's matrix if ``transpose``.
    """
    entries = _sample(comm, where)
    held = np.zeros(len(entries), np.int64)
    for number, entry in enumerate(entries):
        row, column = (entry.column, entry.row) if transpose else (entry.row, entry.column)
        if 0 <= row - start < plan.rows_held:
            values = _held(plan, row - start, column)
            with np.errstate(all="ignore"):
                value = np.asarray(entry.value).astype(plan.dtype)
            held[number] = np.any((values == value) | (np.isnan(values) & np.isnan(value)))
    missing = np.flatnonzero(collective.allreduce(comm, held) == 0)
    if not missing.size:
        return with_comparison(verdict, "", len(entries))
    entry = entries[int(missing[0])]
    fault = (
        f"{where}: {entry.place}: element ({entry.row}, {entry.column}), counted from 0, is {entry.value} in the file, "
        f"but not in the matrix that was read ({missing.size} of {len(entries)} entries that were compared differ)"
    )
    return with_comparison(verdict, fault, len(entries))


def _sample(comm: MPI.Comm, where: str) -> list[Entry]:
    matrix = open_matrix_market(comm, where)
    source = None if matrix else open_sparse(comm, where)

    def sample() -> list[Entry]:
        if source is not None:
            return sample_sparse(split_dataset(str(source)), source.layout, values=True)
        return sample_market(split_dataset(where)[0], values=True)

    entries: list[Entry] = on_root(comm, sample)
    return entries


def _held(plan: SparsePlan, row: int, column: int) -> NDArray[Any]:
    """Values that a row of this rank has in a column."""
    part = slice(int(plan.indptr[row]), int(plan.indptr[row + 1]))
    return np.asarray(plan.data[part][plan.columns[plan.indices[part]] == column])
