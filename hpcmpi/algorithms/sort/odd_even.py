"""Block odd-even transposition sort (Baudet and Stevenson 1978): P phases of compare-split with a neighbour.

Invariant: each rank's rows are in order. In phase t, ranks i and i + 1 with i = t mod 2 exchange all their rows; i
keeps the lower ones, i + 1 the upper. After P phases the rows of all ranks are in order, whatever they were.

That holds for blocks of one size only. A rank with fewer rows than ceil(n/P) is taken to hold that many, the missing
ones above all others: the lower rank keeps ceil(n/P) rows or all that there are, and sizes are made even at the end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.sort.rows import Rows, concatenate


def odd_even(comm: MPI.Comm, rows: Rows, report: Callable[[float], None] = lambda _fraction: None) -> Rows:
    """This rank's block of the ordered rows of all ranks."""
    mine = rows.rebalance(comm).sort()
    most = -(-sum(comm.allgather(mine.size)) // comm.size)
    for phase in range(comm.size):
        partner = comm.rank + (1 if (comm.rank - phase) % 2 == 0 else -1)
        if 0 <= partner < comm.size:
            rows_there = comm.sendrecv(mine.size, partner, source=partner)
            theirs = Rows(mine.words, mine.columns).replace(lambda array: _swap(comm, array, rows_there, partner))  # noqa: B023 - called at once
            lower = partner > comm.rank
            both = concatenate([mine, theirs] if lower else [theirs, mine]).sort()
            kept = min(most, both.size)
            mine = both.part(0, kept) if lower else both.part(kept, both.size)
        report((phase + 1) / comm.size)
    return mine.rebalance(comm)


def _swap(comm: MPI.Comm, array: NDArray[np.int64], rows: int, partner: int) -> NDArray[np.int64]:
    incoming = np.empty((rows, *array.shape[1:]), array.dtype)
    sent, received = (np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in (array, incoming))
    collective.wait(collective.start_shift(comm, sent, received, to=partner, source=partner))
    return incoming
