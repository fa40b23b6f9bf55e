"""What ranks tell each other of a level that is searched top-down, and how candidates come to the owners of vertices.

A *candidate* is (vertex, order of the parent, id of the parent). Few ranks tell each other how many candidates each has
for each. On one node the owner reads them where the sender has put them, its *box*. The first few travel along with
what is told, so that where levels are many and small nothing else need be sent. Otherwise they are exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.bfs import search_kernels as kernels
from hpcmpi.algorithms.bfs.layout import Layout, cell_table

_FEW_RANKS = 64
_FEW_CANDIDATES = 8
_BOXES = 1 << 18  # candidates of all ranks of a node
_HEAD = 4  # numbers of a report


class Report(NamedTuple):
    """What the ranks have told of a stretch of levels, an element a rank.

    The ``steps`` that it has taken; what it has ``found`` of others, candidates and a hub of its own; and the new
    frontier's ``sizes`` and ``edges``.
    """

    steps: tuple[int, ...]
    found: tuple[int, ...]
    sizes: tuple[int, ...]
    edges: tuple[int, ...]


class Candidates:
    """The candidates of this rank for others. ``alone``: there are none."""

    def __init__(self, layout: Layout, *, alone: bool) -> None:
        self.layout, ranks = layout, layout.comm.size
        self.few_ranks = ranks <= _FEW_RANKS
        self.cells, self.shift = cell_table(layout.bases)
        room = min(_BOXES // ranks, int(layout.bases[-1])) if layout.nodes.count == 1 and self.few_ranks else 0
        self.boxes = layout.nodes.array((ranks, 0 if alone else room, 3), layout.number)
        self.told = np.zeros((ranks, _HEAD + (ranks + 3 * _FEW_CANDIDATES) * self.few_ranks), np.int64)
        self.mine = np.zeros(self.told.shape[1], np.int64)
        self.counts, self.sorted = np.zeros(ranks, np.int64), np.empty((0, 3), layout.number)

    def tell(self, remote: NDArray[np.signedinteger], steps: int, *, hub: bool, size: int, edges: int) -> Report:
        """Tell all ranks of what this one has found, and hear of them. Collective.

        ``remote`` (candidates, 3), with codes for vertices, may be overwritten afterwards.
        """
        ranks, rank = self.layout.comm.size, self.layout.comm.rank
        sent, box = len(remote), self.boxes[rank]
        self.counts = np.zeros(ranks, np.int64)
        self.sorted = box[:sent] if sent <= len(box) else np.empty((sent, 3), self.layout.number)
        kernels.by_owner(
            remote, self.layout.bases, self.layout.nodes.ranks, self.cells, self.shift, self.counts, self.sorted
        )
        self.mine[:_HEAD] = steps, sent + hub, size, edges
        if self.few_ranks:
            self.mine[_HEAD : _HEAD + ranks] = self.counts
            few = self.sorted[:_FEW_CANDIDATES].ravel()
            self.mine[_HEAD + ranks : _HEAD + ranks + few.size] = few
        self.layout.comm.Allgather(self.mine, self.told)
        return Report(*zip(*self.told[:, :_HEAD].tolist(), strict=True))

    def are_told(self, report: Report) -> bool:
        """Whether all candidates have travelled with the ``report``, and no hub, which all must hear of, is found."""
        return self.few_ranks and not self.layout.hubs and max(report.found) <= _FEW_CANDIDATES

    def told_at_once(self) -> Iterator[NDArray[np.signedinteger]]:
        """Those for this rank where they :meth:`are_told`, in pieces (candidates, 3), with own numbers for vertices."""
        ranks, rank = self.layout.comm.size, self.layout.comm.rank
        few = self.told[:, _HEAD + ranks :].reshape(ranks, -1, 3).astype(self.layout.number)
        return self._from(few, self.told[:, _HEAD + rank])

    def received(self, report: Report, steps: int) -> Iterator[NDArray[np.signedinteger]]:
        """As :meth:`told_at_once`, of however many; but only of ranks that have taken so many ``steps``. Collective.

        A barrier must follow before the next level is told of.
        """
        comm = self.layout.comm
        counts = self.counts * (report.steps[comm.rank] == steps)
        came = self.told[:, _HEAD + comm.rank] * (self.told[:, 0] == steps) if self.few_ranks else None
        if came is not None and max(report.found) <= self.boxes.shape[1]:
            return self._from(self.boxes, came)
        rows = self.sorted[: int(counts.sum())]
        return iter([collective.exchange(comm, rows, counts, brief=True, received=came)[0]])

    def _from(self, boxes: NDArray[np.signedinteger], counts: NDArray[np.int64]) -> Iterator[NDArray[np.signedinteger]]:
        """``counts[p]`` candidates from the box of each rank p, where those for ranks before this one come first."""
        rank = self.layout.comm.rank
        for sender, count in enumerate(counts.tolist()):
            if count:
                first = int(self.told[sender, _HEAD : _HEAD + rank].sum())
                yield boxes[sender, first : first + count]
