"""Sample sort of rows: partition by splitters, one exchange, a local sort, and the ends passed on to the neighbours.

As :mod:`sample`, with rows instead of bare keys. Splitters are rows too, with all their words, the position in the
input among them: no input, be all keys equal or alike in their first hundred bytes, makes one class larger than others.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpcmpi.algorithms.sort.rows import Rows, partition
from hpcmpi.algorithms.sort.splitters import sample_size
from hpcmpi.comm import allreduce, gather_blocks


def sample_rows(comm: MPI.Comm, rows: Rows) -> Rows:
    """This rank's block of the ordered rows of all ranks."""
    n = int(allreduce(comm, np.array([rows.size]))[0])
    if comm.size == 1 or n == 0:
        return rows.sort()
    wanted = -(-sample_size(n, comm.size, comm.size) * rows.size // n)
    at = np.arange(wanted) * rows.size // max(1, wanted)
    drawn = gather_blocks(comm, np.stack([word[at] for word in rows.words], axis=1))
    drawn = drawn[np.lexsort(drawn.T[::-1])]
    splitters = drawn[np.arange(1, comm.size) * len(drawn) // comm.size]
    counts = partition(rows, [np.ascontiguousarray(word) for word in splitters.T])
    return rows.exchange(comm, counts).sort().rebalance(comm)
