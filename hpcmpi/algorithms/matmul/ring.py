"""Ring: C = A B with blocks of rows, the rows of B travelling round the ranks (1-D systolic product).

Every rank owns the rows of A, B and C of one block. The ranks cut their blocks of B into panels; panel q of all ranks
goes once round the ring, each rank passing on to its left neighbour what it multiplies with its matching columns of A.
The rank's own panel comes first, so the first product waits for nothing, and each transfer has a product to hide in.

Invariant: at step (q, s) rank r holds panel q of rank (r + s) mod P, and C_r holds the products of all that it held.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul.panels import LocalProducts, contiguous, shaped
from hpcmpi.partition import Range, block


def ring(
    comm: MPI.Comm,
    a: NDArray[Any],
    b: NDArray[Any],
    c: NDArray[Any],
    *,
    k: int,
    width: int,
    work: LocalProducts,
) -> None:
    """Fill ``c`` (m_r, n) with this rank's rows of A B, from all ranks' ``a`` (m_r, k) and ``b`` (k_r, n).

    ``k`` is the global inner dimension; no panel has more than ``width`` rows of B.
    """
    ranks, n = comm.size, b.shape[1]
    left, right = (comm.rank - 1) % ranks, (comm.rank + 1) % ranks
    mine = block(k, ranks, comm.rank)
    longest = max(block(k, ranks, r).size for r in range(ranks))
    arriving = np.empty((min(2, ranks - 1), width * n), b.dtype)
    packed = np.empty(0 if b.flags.c_contiguous or ranks == 1 else width * n, b.dtype)
    if k == 0:
        c[...] = 0
    for q in range(-(-longest // width)):
        own = _panel(mine, q, width)
        held = b[own.start - mine.start : own.stop - mine.start]
        if ranks > 1:
            held = contiguous(held, packed)
        for s in range(ranks):
            columns = _panel(block(k, ranks, (comm.rank + s) % ranks), q, width)
            requests: list[MPI.Request] = []
            if s + 1 < ranks:
                rows = _panel(block(k, ranks, (comm.rank + s + 1) % ranks), q, width).size
                following = shaped(arriving[s % 2], (rows, n))
                requests = collective.start_shift(comm, held, following, to=left, source=right)
            look = partial(collective.progress, requests) if requests else None
            work.multiply(a[:, columns.slice], held, c, accumulate=q + s > 0, look=look)
            work.finish(requests)
            if s + 1 < ranks:
                held = following


def _panel(part: Range, q: int, width: int) -> Range:
    """Panel ``q`` of a block: ``width`` indices, fewer or none at its end."""
    start = min(part.start + q * width, part.stop)
    return Range(start, min(start + width, part.stop))
