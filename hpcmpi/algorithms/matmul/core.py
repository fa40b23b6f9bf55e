"""C = A B of blocks in memory, by the method, the buffers and the levels of Strassen-Winograd that the plan says.

The library and the command both multiply here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul.cannon import cannon
from hpcmpi.algorithms.matmul.cost import BlockPlan
from hpcmpi.algorithms.matmul.layout import BlockLayout
from hpcmpi.algorithms.matmul.panels import LocalProducts
from hpcmpi.algorithms.matmul.ring import ring
from hpcmpi.algorithms.matmul.summa import summa
from hpcmpi.algorithms.matmul.wide import layered_wide_summa

Matrix = NDArray[Any]


def multiply(
    comm: MPI.Comm,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    *,
    layout: BlockLayout,
    plan: BlockPlan,
    work: LocalProducts,
    partial: Matrix | None = None,
) -> int:
    """Fill ``c`` with this rank's block of A B; return the levels of Strassen-Winograd that made it. Collective.

    ``a``, ``b`` and ``c`` are this rank's blocks on ``layout``, which is that of ``plan``; ranks beyond its grid wait
    asleep. ``partial`` (rows and columns of the rank's part of C) takes the sums of a layer of several, or else a new
    array does.

    Strassen's sums carry elements that are not finite to places that classical products leave alone, and may overflow
    themselves: a product that is not all finite is computed again classically.
    """
    idle = layout.ranks < comm.size
    active = comm.Split(int(comm.rank >= layout.ranks), comm.rank) if idle else comm
    if comm.rank < layout.ranks:
        work.levels = plan.levels
        _multiply(active, a, b, c, layout, plan, work, partial)
        if plan.levels and not _is_finite(active, c):
            work.levels = work.used = 0
            _multiply(active, a, b, c, layout, plan, work, partial)
    levels = int(collective.allreduce(active, np.array([work.used]), MPI.MAX)[0]) if plan.levels else 0
    if idle:
        active.Free()
        collective.barrier(comm)
        levels = comm.bcast(levels)
    return levels


@np.errstate(over="ignore", invalid="ignore")  # in Strassen's sums; BLAS reports none
def _multiply(
    comm: MPI.Comm,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    layout: BlockLayout,
    plan: BlockPlan,
    work: LocalProducts,
    partial: Matrix | None,
) -> None:
    """The product by ``plan.method`` on the ranks of the grid, with ``work.levels`` of Strassen-Winograd."""
    k, width = layout.k, plan.room.width
    if plan.method == "cannon":
        cannon(comm, a, b, c, k=k, side=layout.grid[0], work=work)
    elif plan.method == "ring" and layout.grid[1] == 1:
        ring(comm, a, b, c, k=k, width=width, work=work)
    elif plan.method == "ring":  # blocks of columns are blocks of rows of the transposed product
        ring(comm, b.T, a.T, c.T, k=k, width=width, work=work)
    elif work.levels:
        shared = collective.share_memory(comm, plan.wide.shared_elements * c.itemsize)
        panels = plan.wide.shared if shared else plan.wide.private
        layered_wide_summa(comm, a, b, c, layout=layout, panels=panels, shared=shared, work=work, partial=partial)
    else:
        shared = plan.shared and collective.share_memory(comm, plan.room.elements * c.itemsize)
        summa(comm, a, b, c, layout=layout, room=plan.room, shared=shared, work=work, partial=partial)


def _is_finite(comm: MPI.Comm, c: Matrix) -> bool:
    """Whether all of C is finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite = bool(np.isfinite(c.sum()) or np.isfinite(c).all())
    return bool(collective.allreduce(comm, np.array([int(finite)]), MPI.MIN)[0])
