"""Sample sort of rows: partition by splitters, one exchange, a local sort, and the ends passed on to the neighbours.

As :mod:`sample`, with rows instead of bare keys. Splitters are pairs of the first two words, which include the position
in the input unless the key is long.
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
    drawn = gather_blocks(comm, np.stack([rows.words[0][at], rows.words[min(1, len(rows.words) - 1)][at]], axis=1))
    drawn = drawn[np.lexsort((drawn[:, 1], drawn[:, 0]))]
    splitters = drawn[np.arange(1, comm.size) * len(drawn) // comm.size]
    first, second = (np.ascontiguousarray(splitters[:, word]) for word in (0, 1))
    counts = partition(rows, first, second)
    return rows.exchange(comm, counts).sort().rebalance(comm)
