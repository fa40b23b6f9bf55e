"""Hyperquicksort (Wagar 1987) on any number of ranks: halve the ranks, split at the median, sort again.

Invariant: within each group of ranks the rows of each rank are in order, and all rows of a group lie below those of the
next. A group of g ranks splits into g // 2 and the rest; its rows are cut exactly (:mod:`selection`) in proportion,
so that no input, nor any number of ranks, unbalances it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpi4py import MPI

from hpcmpi.algorithms.sort.rows import Rows
from hpcmpi.algorithms.sort.selection import cuts
from hpcmpi.partition import Range, block


def quicksort(comm: MPI.Comm, rows: Rows, report: Callable[[float], None] = lambda _fraction: None) -> Rows:
    """This rank's block of the ordered rows of all ranks."""
    mine, group, owned = rows.sort(), comm, False
    levels, level = max(1, (comm.size - 1).bit_length()), 0
    while group.size > 1:
        lower = group.size // 2
        n = sum(group.allgather(mine.size))
        (cut,) = cuts(group, [mine.words], [n * lower // group.size])[0].tolist()
        counts = np.zeros(group.size, np.int64)
        for part, size, first, ranks in (
            (Range(0, cut), n * lower // group.size, 0, lower),
            (Range(cut, mine.size), n - n * lower // group.size, lower, group.size - lower),
        ):
            sizes = group.allgather(part.size)
            start = sum(sizes[: group.rank])
            for rank in range(ranks):  # the half's rows, in the order of the ranks, in equal blocks
                target = block(size, ranks, rank)
                overlap = min(target.stop, start + part.size) - max(target.start, start)
                counts[first + rank] = max(0, overlap)
        mine = mine.exchange(group, counts).sort()
        half = group.Split(int(group.rank >= lower), group.rank)
        if owned:
            group.Free()
        group, owned, level = half, True, level + 1
        report(level / levels)
    if owned:
        group.Free()
    return mine.rebalance(comm)
