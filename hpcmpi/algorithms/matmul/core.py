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
from hpcmpi.algorithms.matmul.layout import Blocks
from hpcmpi.algorithms.matmul.panels import LocalProducts
from hpcmpi.algorithms.matmul.ring import ring
from hpcmpi.algorithms.matmul.summa import summa
from hpcmpi.algorithms.matmul.wide import wide_summa


def multiply(comm: MPI.Comm, blocks: Blocks, plan: BlockPlan, work: LocalProducts) -> int:
    """Fill ``blocks.c`` as ``plan`` says; return the levels of Strassen-Winograd that made it. Collective.

    The blocks are those of the plan's grid; ranks beyond it wait asleep.

    Strassen's sums carry elements that are not finite to places that classical products leave alone, and may overflow
    themselves: a product that is not all finite is computed again classically.
    """
    idle = blocks.layout.ranks < comm.size
    active = comm.Split(int(comm.rank >= blocks.layout.ranks), comm.rank) if idle else comm
    if comm.rank < blocks.layout.ranks:
        work.levels = plan.levels
        _multiply(active, blocks, plan, work)
        if plan.levels and not _is_finite(active, blocks.c):
            work.levels = work.used = 0
            _multiply(active, blocks, plan, work)
    levels = int(collective.allreduce(active, np.array([work.used]), MPI.MAX)[0]) if plan.levels else 0
    if idle:
        active.Free()
        collective.barrier(comm)
        levels = comm.bcast(levels)
    return levels


@np.errstate(over="ignore", invalid="ignore")  # in Strassen's sums; BLAS reports none
def _multiply(comm: MPI.Comm, blocks: Blocks, plan: BlockPlan, work: LocalProducts) -> None:
    """The product by ``plan.method`` on the ranks of the grid, with ``work.levels`` of Strassen-Winograd."""
    a, b, c, k, width = blocks.a, blocks.b, blocks.c, blocks.layout.k, plan.room.width
    if plan.method == "cannon":
        cannon(comm, a, b, c, k=k, side=plan.grid[0], work=work)
    elif plan.method == "ring" and plan.grid[1] == 1:
        ring(comm, a, b, c, k=k, width=width, work=work)
    elif plan.method == "ring":  # blocks of columns are blocks of rows of the transposed product
        ring(comm, b.T, a.T, c.T, k=k, width=width, work=work)
    elif work.levels:
        shared = collective.share_memory(comm, plan.wide.shared_elements * c.itemsize)
        panels = plan.wide.shared if shared else plan.wide.private
        wide_summa(comm, blocks, panels=panels, shared=shared, work=work)
    else:
        shared = plan.shared and collective.share_memory(comm, plan.room.elements * c.itemsize)
        summa(comm, blocks, room=plan.room, shared=shared, work=work)


def _is_finite(comm: MPI.Comm, c: NDArray[Any]) -> bool:
    """Whether all of C is finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite = bool(np.isfinite(c.sum()) or np.isfinite(c).all())
    return bool(collective.allreduce(comm, np.array([int(finite)]), MPI.MIN)[0])
