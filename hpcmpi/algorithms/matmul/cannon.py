"""Cannon's algorithm: C = A B on a square grid, the blocks of A and B moving one place at each step (Cannon 1969).

Rank (i, j) of the (p x p) grid owns A_ij, B_ij and C_ij. First row i of A shifts i places to the left and column j of B
j places up, so that each rank holds a pair of blocks of the same inner indices. Then p times: multiply, and shift A one
place to the left and B one up. For teaching and comparison: SUMMA moves the same words on any grid, and sooner.

Invariant: at step s rank (i, j) holds A_it and B_tj with t = (i + j + s) mod p, and C_ij has the products of those
before.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul.panels import LocalProducts
from hpcmpi.partition import block, coordinates


def cannon(
    comm: MPI.Comm, a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], *, k: int, side: int, work: LocalProducts
) -> None:
    """Fill ``c`` (m_i, n_j) with this rank's block of A B, from all ranks' ``a`` (m_i, k_j) and ``b`` (k_i, n_j).

    ``k`` is the global inner dimension; the ranks form a grid of ``side`` x ``side``.
    """
    i, j = coordinates((side, side), comm.rank)
    row, column = comm.Split(i, j), comm.Split(j, i)

    def shift(
        held_a: NDArray[Any], held_b: NDArray[Any], t: int, places: tuple[int, int]
    ) -> tuple[NDArray[Any], NDArray[Any], list[MPI.Request]]:
        """The blocks of inner part ``t`` on their way here, from so many ``places`` to the right and from below."""
        inner = block(k, side, t % side).size
        next_a, next_b = np.empty((len(c), inner), a.dtype), np.empty((inner, c.shape[1]), b.dtype)
        requests: list[MPI.Request] = []
        for line, held, into, at, far in ((row, held_a, next_a, j, places[0]), (column, held_b, next_b, i, places[1])):
            if far % side == 0:
                np.copyto(into, held)
            else:
                to, source = (at - far) % side, (at + far) % side
                requests += collective.start_shift(line, np.ascontiguousarray(held), into, to=to, source=source)
        return next_a, next_b, requests

    held_a, held_b, requests = shift(a, b, i + j, (i, j))
    for s in range(side):
        work.finish(requests)
        requests = []
        if s + 1 < side:
            next_a, next_b, requests = shift(held_a, held_b, i + j + s + 1, (1, 1))
        work.multiply(held_a, held_b, c, accumulate=s > 0, look=partial(collective.progress, requests))
        if s + 1 < side:
            held_a, held_b = next_a, next_b
    row.Free()
    column.Free()
