"""SUMMA: C = A B on a 2-D grid by broadcasts of panels (van de Geijn and Watts 1997).

Rank (i, j) of the (pr x pc) grid owns the blocks A_ij, B_ij and C_ij. For each panel of the inner dimension, its owners
broadcast their columns of A along their grid rows and their rows of B down their grid columns, and every rank adds the
product of the two to its C_ij. The next panel travels while this one is multiplied.

Invariant: before step t, C_ij holds the sum of the first t panels' products, and panel t is in one of two buffers or on
its way there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul.panels import Advance, contiguous, multiply, shaped
from hpcmpi.partition import Range, block, common_refinement, coordinates, owner, pieces


class _Step(NamedTuple):
    """The panels of one step and the broadcasts that fill them."""

    a: NDArray[Any]
    b: NDArray[Any]
    requests: list[MPI.Request]


def summa(
    comm: MPI.Comm,
    a: NDArray[Any],
    b: NDArray[Any],
    c: NDArray[Any],
    *,
    k: int,
    grid: tuple[int, int],
    width: int,
    advance: Advance,
) -> None:
    """Fill ``c`` (m_i, n_j) with this rank's block of A B, from all ranks' ``a`` (m_i, k_j) and ``b`` (k_i, n_j).

    ``k`` is the global inner dimension; no panel is wider than ``width``.
    """
    pr, pc = grid
    i, j = coordinates(grid, comm.rank)
    row, column = comm.Split(i, j), comm.Split(j, i)
    panels = [panel for part in common_refinement(k, pr, pc) for panel in pieces(part, width)]
    buffers_a = np.empty((2, a.shape[0] * width if pc > 1 else 0), a.dtype)
    buffers_b = np.empty((2, b.shape[1] * width if pr > 1 else 0), b.dtype)

    def broadcast(t: int) -> _Step:
        if t == len(panels):
            return _Step(a[:, :0], b[:0], [])
        panel, half = panels[t], t % 2
        own_a, own_b = a[:, _within(panel, block(k, pc, j))], b[_within(panel, block(k, pr, i))]
        panel_a, requests_a = _share(row, owner(k, pc, panel.start), own_a, (len(a), panel.size), buffers_a[half])
        panel_b, requests_b = _share(
            column, owner(k, pr, panel.start), own_b, (panel.size, b.shape[1]), buffers_b[half]
        )
        return _Step(panel_a, panel_b, requests_a + requests_b)

    if k == 0:
        c[...] = 0
    following = broadcast(0)
    for t in range(len(panels)):
        step = following
        collective.wait(step.requests)
        following = broadcast(t + 1)
        multiply(step.a, step.b, c, accumulate=t > 0, in_flight=following.requests, advance=advance)
    row.Free()
    column.Free()


def _within(panel: Range, own: Range) -> slice:
    """Where ``panel`` lies in the block ``own``; empty if it does not."""
    return (
        slice(panel.start - own.start, panel.stop - own.start) if own.start <= panel.start < own.stop else slice(0, 0)
    )


def _share(
    comm: MPI.Comm, root: int, own: NDArray[Any], shape: tuple[int, int], buffer: NDArray[Any]
) -> tuple[NDArray[Any], list[MPI.Request]]:
    """Panel of ``shape`` that ``root`` owns, on its way to all of ``comm``; where all is local, it is no copy."""
    if comm.size == 1:
        return own, []
    panel = contiguous(own, buffer) if comm.rank == root else shaped(buffer, shape)
    return panel, collective.start_broadcast(comm, panel, root)
