"""SUMMA in layers: C = A B on a (pm x pn x pk) grid, 2-D for pk = 1 and 3-D otherwise.

Each layer of the grid multiplies its range of the inner dimension by SUMMA (van de Geijn and Watts 1997): the owners of
a panel of that range send their columns of A along their grid rows and their rows of B down their grid columns, and
every rank adds the product of the two to its block of C. With more layers than one these blocks are partial sums, which
the layers then reduce and scatter (Agarwal, Balle, Gustavson, Joshi and Palkar 1995; "2.5-D" of Solomonik and Demmel
2011): the words moved are those of the bound of Al Daas, Ballard, Grigori, Kumar and Rouse (2022) for the grid.

Panels go in an order that keeps all links busy: the first of each owner, then the second of each, and so on. The
products of which a rank owns both panels are spread evenly among the others, one of them first, so that there is work
while panels are on their way. The products of the last panels are done one layer's rows of C after the other, so that
sums travel while the next are computed. The order is fixed: the same sum to the bit in every run on a grid.

Invariant: before its product t, a rank's block of C is the sum of the products before t of its schedule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.matmul.cost import SUM_BUFFERS, Buffers
from hpcmpi.algorithms.matmul.layout import Blocks
from hpcmpi.algorithms.matmul.panels import LocalProducts
from hpcmpi.comm import Courier, Fold, Stream
from hpcmpi.partition import Range, block, common_refinement, owner, part_of, pieces


def summa(comm: MPI.Comm, blocks: Blocks, *, room: Buffers, shared: bool, work: LocalProducts) -> None:
    """Fill ``blocks.c`` with this rank's block of A B, from the blocks of all ranks; no rank is idle.

    No panel is wider than ``room.width``, and there are buffers for ``room.slots`` panels of each operand, which ranks
    of a node have in common if ``shared``. Sums travel in pieces of at most ``room.piece`` rows.
    """
    layout, a, b, c = blocks.layout, blocks.a, blocks.b, blocks.c
    pm, pn, pk = layout.grid
    i, j, layer = layout.place(comm.rank)
    row = comm.Split(layer * pm + i, j) if pn > 1 else MPI.COMM_SELF
    column = comm.Split(layer * pn + j, i) if pm > 1 else MPI.COMM_SELF
    fibre = comm.Split(i * pn + j, layer) if pk > 1 else MPI.COMM_SELF
    rows, inner = layout.rows(comm.rank), layout.inner(comm.rank)
    steps = list(_steps(inner.size, (pm, pn), room.width))
    owners_a, owners_b = ([owner(inner.size, parts, step.start) for step in steps] for parts in (pn, pm))
    first_a, first_b = block(inner.size, pn, j).start, block(inner.size, pm, i).start

    def own_a(t: int) -> NDArray[Any]:
        return a[:, steps[t].start - first_a : steps[t].stop - first_a]

    def own_b(t: int) -> NDArray[Any]:
        return b[steps[t].start - first_b : steps[t].stop - first_b]

    shapes_a, shapes_b = [(len(a), step.size) for step in steps], [(step.size, b.shape[1]) for step in steps]
    panels_a = Stream(row, owners_a, shapes_a, own_a, a.dtype, slots=room.slots, shared=shared)
    panels_b = Stream(column, owners_b, shapes_b, own_b, b.dtype, slots=room.slots, shared=shared)
    sums = Fold(fibre, c, room.piece, SUM_BUFFERS)
    block_c = blocks.sums(comm.rank)
    if not steps:
        block_c[...] = 0
    local = [t for t in range(len(steps)) if (owners_a[t], owners_b[t]) == (j, i)]
    schedule = _evenly(local, [t for t in range(len(steps)) if (owners_a[t], owners_b[t]) != (j, i)])
    at_once = len(schedule) if pk == 1 else _first_of_the_last(schedule, set(local), room.slots)

    with Courier(panels_a, panels_b, sums) as courier:
        look = courier.look if courier.wants_looks else None

        def multiply(t: int, part: Range) -> None:
            courier.until(lambda: panels_a.ready(t) and panels_b.ready(t))
            target = block_c[part.start - rows.start : part.stop - rows.start]
            panel_a = panels_a.block(t)[part.start - rows.start : part.stop - rows.start]
            work.multiply(panel_a, panels_b.block(t), target, accumulate=t != schedule[0], look=look)

        def finish(t: int) -> None:
            panels_a.finish(t)
            panels_b.finish(t)

        for t in schedule[:at_once]:
            multiply(t, rows)
            finish(t)
        for d in range(1, pk + 1) if pk > 1 else ():
            other = (layer + d) % pk
            part = part_of(rows, pk, other)
            for t in schedule[at_once:]:
                multiply(t, part)
            if other != layer:
                sums.give(other, block_c[part.start - rows.start : part.stop - rows.start])
                courier.look()
        for t in schedule[at_once:]:
            finish(t)
    if pk > 1:
        mine = part_of(rows, pk, layer)
        np.add(c, block_c[mine.start - rows.start : mine.stop - rows.start], out=c)
    work.wait += courier.seconds_waiting
    work.copy += panels_a.seconds_copying + panels_b.seconds_copying + sums.seconds_adding
    for stream in (panels_a, panels_b):
        stream.close()
    for line in (row, column, fibre):
        if line != MPI.COMM_SELF:
            line.Free()


def _steps(inner: int, parts: tuple[int, int], width: int) -> Iterator[Range]:
    """The panels of ``range(inner)``: each with one owner of A and one of B, the first of each pair of owners first."""
    cut = [list(pieces(common, width)) for common in common_refinement(inner, *parts)]
    for turn in range(max(map(len, cut), default=0)):
        yield from (panels[turn] for panels in cut if turn < len(panels))


def _evenly(local: list[int], others: list[int]) -> list[int]:
    """``local`` and ``others``, each in its order, spread evenly among each other; a local one first."""
    at = [(x / len(local), t) for x, t in enumerate(local)] + [
        ((x + 0.5) / len(others), t) for x, t in enumerate(others)
    ]
    return [t for _, t in sorted(at)]


def _first_of_the_last(schedule: list[int], local: set[int], slots: int) -> int:
    """From where on all panels of the ``schedule`` can be held at once, in ``slots`` buffers of each operand."""
    at = len(schedule)
    while at > 0 and (schedule[at - 1] in local or schedule[at - 1] >= len(schedule) - slots):
        at -= 1
    return at
