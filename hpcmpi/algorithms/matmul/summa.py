"""SUMMA: C = A B on a 2-D grid by broadcasts of panels (van de Geijn and Watts 1997).

Rank (i, j) of the (pr x pc) grid owns the blocks A_ij, B_ij and C_ij. For each panel of the inner dimension, its owners
broadcast their columns of A along their grid rows and their rows of B down their grid columns, and every rank adds the
product of the two to its C_ij. The next panel travels while this one is multiplied.

Between nodes a panel is received into one of two buffers. Ranks of one node do not send each other anything: the owner
of a panel writes it, once, into memory that all of them read.

Invariant: before step t, C_ij holds the sum of the first t panels' products, and panel t is in its buffer or on its way
there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul.cost import SHARED_BUFFERS
from hpcmpi.algorithms.matmul.panels import Advance, contiguous, multiply, shaped
from hpcmpi.partition import Range, block, common_refinement, coordinates, owner, pieces


def summa(
    comm: MPI.Comm,
    a: NDArray[Any],
    b: NDArray[Any],
    c: NDArray[Any],
    *,
    k: int,
    grid: tuple[int, int],
    width: int,
    shared: bool,
    advance: Advance,
) -> None:
    """Fill ``c`` (m_i, n_j) with this rank's block of A B, from all ranks' ``a`` (m_i, k_j) and ``b`` (k_i, n_j).

    ``k`` is the global inner dimension; no panel is wider than ``width``. ``shared`` tells that all ranks are on one
    node, which has room for the panels.
    """
    pr, pc = grid
    i, j = coordinates(grid, comm.rank)
    row, column = comm.Split(i, j), comm.Split(j, i)
    panels = [panel for part in common_refinement(k, pr, pc) for panel in pieces(part, width)]
    with ExitStack() as buffers:
        share_a = buffers.enter_context(_sharing(row, a.shape[0] * width, a.dtype, shared=shared))
        share_b = buffers.enter_context(_sharing(column, b.shape[1] * width, b.dtype, shared=shared))

        def share(t: int) -> tuple[NDArray[Any], NDArray[Any], list[MPI.Request]]:
            if t == len(panels):
                return a[:, :0], b[:0], []
            panel = panels[t]
            own_a, own_b = a[:, _within(panel, block(k, pc, j))], b[_within(panel, block(k, pr, i))]
            panel_a, requests_a = share_a(t, owner(k, pc, panel.start), own_a, (len(a), panel.size))
            panel_b, requests_b = share_b(t, owner(k, pr, panel.start), own_b, (panel.size, b.shape[1]))
            return panel_a, panel_b, requests_a + requests_b

        if k == 0:
            c[...] = 0
        following = share(0)
        for t in range(len(panels)):
            panel_a, panel_b, requests = following
            collective.wait(requests)
            following = share(t + 1)
            multiply(panel_a, panel_b, c, accumulate=t > 0, in_flight=following[2], advance=advance)
    row.Free()
    column.Free()


def _within(panel: Range, own: Range) -> slice:
    """Where ``panel`` lies in the block ``own``; empty if it does not."""
    return (
        slice(panel.start - own.start, panel.stop - own.start) if own.start <= panel.start < own.stop else slice(0, 0)
    )


class _Share(Protocol):
    """Panel of step ``t`` and of ``shape`` that rank ``root`` owns, and what to wait for before it is read."""

    def __call__(
        self, t: int, root: int, own: NDArray[Any], shape: tuple[int, int]
    ) -> tuple[NDArray[Any], list[MPI.Request]]: ...


@contextmanager
def _sharing(comm: MPI.Comm, longest: int, dtype: DTypeLike, *, shared: bool) -> Iterator[_Share]:
    """How the ranks of a grid row or column share panels of at most ``longest`` elements; alone, without a copy."""
    if comm.size == 1:
        yield lambda _t, _root, own, _shape: (own, [])
    elif shared:
        with collective.shared_array(comm, (SHARED_BUFFERS, longest), dtype) as memory:

            def write(
                t: int, root: int, own: NDArray[Any], shape: tuple[int, int]
            ) -> tuple[NDArray[Any], list[MPI.Request]]:
                # All ranks have passed the barrier of step t - 1, and so have multiplied the panel of step t - 3.
                panel = shaped(memory[t % SHARED_BUFFERS], shape)
                if comm.rank == root:
                    np.copyto(panel, own)
                return panel, collective.start_sharing(comm, panel, root)

            yield write
    else:
        buffers = np.empty((2, longest), dtype)

        def broadcast(
            t: int, root: int, own: NDArray[Any], shape: tuple[int, int]
        ) -> tuple[NDArray[Any], list[MPI.Request]]:
            buffer = buffers[t % 2]
            panel = contiguous(own, buffer) if comm.rank == root else shaped(buffer, shape)
            return panel, collective.start_broadcast(comm, panel, root)

        yield broadcast
