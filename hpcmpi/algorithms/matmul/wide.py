"""SUMMA with panels as wide as Strassen-Winograd needs, which several blocks of the inner dimension may make up.

As in :mod:`~hpcmpi.algorithms.matmul.summa`, rank (i, j) of the grid owns A_ij, B_ij and C_ij, and adds up products of
its grid row's panels of A and its grid column's panels of B. The panels are equal shares of the inner dimension, cut
where its blocks end: each piece comes from its owner. With one panel all of it is gathered before the only product.

On one node each owner writes its pieces into memory that its grid row or column shares, and a panel is written when the
one before is done with. Between nodes the next panel travels while one is multiplied. Either way there are two buffers.
A piece of A is sent as rows of the transposed panel, as only these are contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
from mpi4py import MPI

from hpcmpi import comm as collective
from hpcmpi.algorithms.matmul.panels import Work
from hpcmpi.algorithms.matmul.strassen import Matrix
from hpcmpi.partition import Range, block, common_refinement, coordinates, owner, pieces

_TRANSPOSED_ROWS = 64  # read at once where a piece is transposed: each write then fills a few cache lines


def wide_summa(
    comm: MPI.Comm,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    *,
    k: int,
    grid: tuple[int, int],
    panels: int,
    shared: bool,
    work: Work,
) -> None:
    """Fill ``c`` (m_i, n_j) with this rank's block of A B, from all ranks' ``a`` (m_i, k_j) and ``b`` (k_i, n_j).

    ``k`` is the global inner dimension, cut into ``panels``. ``shared`` tells that all ranks are on one node, which has
    room for the panels.
    """
    pr, pc = grid
    i, j = coordinates(grid, comm.rank)
    row, column = comm.Split(i, j), comm.Split(j, i)
    cuts = [block(k, panels, t) for t in range(panels)]
    parts = common_refinement(k, pr, pc, panels)
    with ExitStack() as buffers:
        # What is shared along a grid row is A's panel, transposed, so that both are pieces of rows.
        share_a = buffers.enter_context(_sharing(row, a.T, k, cuts, parts, shared=shared))
        share_b = buffers.enter_context(_sharing(column, b, k, cuts, parts, shared=shared))

        def share(t: int) -> tuple[Matrix, Matrix, list[MPI.Request]]:
            if t == panels:
                return a[:, :0], b[:0], []
            (panel_a, requests_a), (panel_b, requests_b) = share_a(t), share_b(t)
            return panel_a.T, panel_b, requests_a + requests_b

        following = share(0)
        for t in range(panels):
            panel_a, panel_b, requests = following
            work.finish(requests)
            if not shared:
                following = share(t + 1)
            look = partial(collective.progress, following[2]) if following[2] else None
            work.multiply(panel_a, panel_b, c, accumulate=t > 0, look=look)
            if shared:
                following = share(t + 1)
    row.Free()
    column.Free()


_Share = Callable[[int], tuple[Matrix, list[MPI.Request]]]
"""Panel of a number, and what to wait for before it is read."""


@contextmanager
def _sharing(
    comm: MPI.Comm, own: Matrix, k: int, panels: list[Range], parts: list[Range], *, shared: bool
) -> Iterator[_Share]:
    """How the ranks of ``comm``, each of which owns a block of rows of a matrix of ``k`` rows, share its panels."""
    mine = block(k, comm.size, comm.rank)
    width = max(panel.size for panel in panels)

    def own_rows(part: Range) -> Matrix:
        return own[part.start - mine.start : part.stop - mine.start]

    def send(t: int, buffer: Matrix) -> tuple[Matrix, list[MPI.Request]]:
        requests: list[MPI.Request] = []
        for part in parts:
            if panels[t].start <= part.start < panels[t].stop:
                piece = buffer[part.start - panels[t].start : part.stop - panels[t].start]
                root = owner(k, comm.size, part.start)
                if comm.rank == root:
                    _copy(piece, own_rows(part))
                requests += (collective.start_sharing if shared else collective.start_sending)(comm, piece, root)
        return buffer[: panels[t].size], requests

    shape = (min(2, len(panels)), width, own.shape[1])
    if comm.size == 1:
        yield lambda t: (own_rows(panels[t]), [])
    elif shared:
        with collective.shared_array(comm, shape, own.dtype) as memory:
            yield lambda t: send(t, memory[t % 2])
    else:
        private = np.empty(shape, own.dtype)
        yield lambda t: send(t, private[t % 2])


def _copy(target: Matrix, source: Matrix) -> None:
    """``target[...] = source``; where one is transposed, few of its lines at once."""
    if source.flags.c_contiguous or abs(source.strides[0]) >= abs(source.strides[1]):
        np.copyto(target, source)
        return
    for lines in pieces(Range(0, source.shape[1]), _TRANSPOSED_ROWS):
        np.copyto(target[:, lines.slice], source[:, lines.slice])
