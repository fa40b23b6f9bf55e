"""SUMMA with panels as wide as Strassen-Winograd needs, which several blocks of the inner dimension may make up.

As in :mod:`~hpcmpi.algorithms.matmul.summa`, rank (i, j) of a layer of the grid owns A_ij, B_ij and C_ij, and adds up
products of its grid row's panels of A and its grid column's panels of B. The panels are equal shares of the inner
dimension, cut where its blocks end: each piece comes from its owner. With one panel all of it is gathered before the
only product.

Ranks of a node have the panels in memory that they share, into which each owner there writes its pieces; of those of
other nodes one rank receives one copy. There are two buffers: the next panel travels while one is multiplied.
A piece of A is sent as rows of the transposed panel, as only these are contiguous.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from mpi4py import MPI

from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul.layout import Blocks
from hpcmpi.algorithms.matmul.panels import LocalProducts
from hpcmpi.algorithms.matmul.strassen import Matrix
from hpcmpi.partition import Range, block, common_refinement, owner, part_of, pieces

_TRANSPOSED_ROWS = 64  # read at once where a piece is transposed: each write then fills a few cache lines


def wide_summa(comm: MPI.Comm, blocks: Blocks, *, panels: int, shared: bool, work: LocalProducts) -> None:
    """Fill ``blocks.c`` with this rank's block of A B, from the blocks of all ranks; no rank is idle.

    Each layer of the grid goes through its range of the inner dimension in so many ``panels``; then the layers add up.
    ``shared`` tells that nodes have room for panels that their ranks share.
    """
    layout, c = blocks.layout, blocks.sums(comm.rank)
    pm, pn, pk = layout.grid
    i, j, layer = layout.place(comm.rank)
    rows, k = layout.rows(comm.rank), layout.inner(comm.rank).size
    row, column = comm.Split(layer * pm + i, j), comm.Split(layer * pn + j, i)
    cuts = [block(k, panels, t) for t in range(panels)]
    parts = common_refinement(k, pm, pn, panels)
    # What is shared along a grid row is A's panel, transposed, so that both are pieces of rows.
    panels_a = _Panels(row, blocks.a.T, k, cuts, parts, shared=shared)
    panels_b = _Panels(column, blocks.b, k, cuts, parts, shared=shared)
    requests = panels_a.start(0) + panels_b.start(0)
    for t in range(panels):
        work.finish(requests)
        work.finish(panels_a.meet() + panels_b.meet())
        requests = panels_a.start(t + 1) + panels_b.start(t + 1) if t + 1 < panels else []
        look = partial(collective.progress, requests) if requests else None
        work.multiply(panels_a.panel(t).T, panels_b.panel(t), c, accumulate=t > 0, look=look)
    panels_a.close()
    panels_b.close()
    row.Free()
    column.Free()
    if pk > 1:
        fibre = comm.Split(i * pn + j, layer)
        starts = [part_of(rows, pk, part).start - rows.start for part in range(pk)]
        edges = np.array([*starts, rows.size], np.int64) * c.shape[1]
        blocks.c[...] = collective.reduce_blocks(fibre, c.reshape(-1), edges).reshape(blocks.c.shape)
        fibre.Free()


class _Panels:
    """Panels of a matrix of ``k`` rows, of which each rank of ``comm`` owns a block, ``own``, in two buffers.

    Collective over ``comm``, also :meth:`close`. Ranks of a node have the buffers in common if ``shared``. Before a
    panel is read, and before the next but one is begun, the ranks of the node :meth:`meet`.
    """

    def __init__(
        self, comm: MPI.Comm, own: Matrix, k: int, panels: list[Range], parts: list[Range], *, shared: bool
    ) -> None:
        self._comm, self._own, self._panels, self._parts, self._k = comm, own, panels, parts, k
        self._mine = block(k, comm.size, comm.rank)
        self._node = collective.split_node(comm) if shared and comm.size > 1 else MPI.COMM_SELF
        self._neighbours = collective.neighbourhoods(comm, self._node)
        self._window: MPI.Win | None = None
        shape = (min(2, len(panels)), max(panel.size for panel in panels), own.shape[1])
        if comm.size == 1:
            self._buffers = np.empty((1, 0, own.shape[1]), own.dtype)
        elif self._node.size == 1:
            self._buffers = np.empty(shape, own.dtype)
        else:
            self._window, self._buffers = collective.allocate(self._node, shape, own.dtype)

    def start(self, t: int) -> list[MPI.Request]:
        """Begin to bring panel ``t`` here; what to wait for."""
        requests: list[MPI.Request] = []
        if self._comm.size > 1:
            for part in self._parts:
                if self._panels[t].start <= part.start < self._panels[t].stop:
                    piece = self.panel(t)[part.start - self._panels[t].start : part.stop - self._panels[t].start]
                    root = owner(self._k, self._comm.size, part.start)
                    if self._comm.rank == root:
                        _copy(piece, self._rows(part))
                    requests += collective.start_spreading(self._comm, piece, root, self._neighbours)
        return requests

    def meet(self) -> list[MPI.Request]:
        """Begin to wait for the other ranks of the node; what to wait for."""
        return [self._node.Ibarrier()] if self._node.size > 1 else []

    def panel(self, t: int) -> Matrix:
        """Panel ``t``, or where it will be."""
        if self._comm.size == 1:
            return self._rows(self._panels[t])
        return self._buffers[t % len(self._buffers), : self._panels[t].size]

    def _rows(self, part: Range) -> Matrix:
        return self._own[part.start - self._mine.start : part.stop - self._mine.start]

    def close(self) -> None:
        """Give the buffers back."""
        if self._window is not None:
            self._window.Free()
        if self._node != MPI.COMM_SELF:
            self._node.Free()


def _copy(target: Matrix, source: Matrix) -> None:
    """``target[...] = source``; where one is transposed, few of its lines at once."""
    if source.flags.c_contiguous or abs(source.strides[0]) >= abs(source.strides[1]):
        np.copyto(target, source)
        return
    for lines in pieces(Range(0, source.shape[1]), _TRANSPOSED_ROWS):
        np.copyto(target[:, lines.slice], source[:, lines.slice])
