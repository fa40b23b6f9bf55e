"""Dense numbers for ids that leave large gaps: vertex i is the i-th smallest id that occurs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective

SPARSE = 4  # ids are renamed where the largest is at least so many times the number of edges
_SAMPLES = 64


@dataclass(frozen=True)
class Names:
    """The ids that occur, ascending over the ranks: this rank's ``ids``, whose numbers begin at ``first``."""

    ids: NDArray[np.int64]
    edges: NDArray[np.int64]  # rank r holds numbers edges[r] to edges[r + 1]
    first: int
    splitters: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of ids."""
        return int(self.edges[-1])

    def ids_of(self, comm: MPI.Comm, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of ``numbers``, of any rank's own choice; -1 for -1. Collective."""
        distinct, place = np.unique(numbers, return_inverse=True)
        known = distinct[distinct >= 0]
        counts = np.diff(np.searchsorted(known, self.edges))
        asked, from_each = collective.exchange(comm, known, counts)
        answers, _ = collective.exchange(comm, self.ids[asked - self.first], from_each)
        answers = np.concatenate([np.full(distinct.size - known.size, -1), answers])
        return np.asarray(answers[place.reshape(numbers.shape)])

    def numbers(self, comm: MPI.Comm, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of ``ids``, of any rank's own choice; -1 for one that does not occur. Collective."""
        distinct, place = np.unique(ids, return_inverse=True)
        counts = np.bincount(np.searchsorted(self.splitters, distinct, "right"), minlength=comm.size)
        asked, from_each = collective.exchange(comm, distinct, counts)
        at = np.minimum(np.searchsorted(self.ids, asked), max(0, self.ids.size - 1))
        found = self.ids[at] == asked if self.ids.size else np.zeros(asked.size, bool)
        answers, _ = collective.exchange(comm, np.where(found, at + self.first, -1), from_each)
        return np.asarray(answers[place.reshape(ids.shape)])


def name(comm: MPI.Comm, u: NDArray[np.int64], v: NDArray[np.int64]) -> Names:
    """Names of all ids in the ranks' ``u`` and ``v``: sorted by samples, as in sample sort. Collective."""
    own = np.unique(np.concatenate([u, v]))
    sample = own[np.linspace(0, own.size - 1, min(_SAMPLES, own.size)).astype(np.int64)]
    sample = np.sort(collective.gather_blocks(comm, sample))
    at = (sample.size * np.arange(1, comm.size)) // comm.size
    splitters = sample[at] if sample.size else np.zeros(comm.size - 1, np.int64)
    counts = np.bincount(np.searchsorted(splitters, own, "right"), minlength=comm.size)
    ids = np.unique(collective.exchange(comm, own, counts)[0])
    edges = np.cumsum([0, *comm.allgather(ids.size)])
    return Names(ids, edges, int(edges[comm.rank]), splitters)


def sorted_names(comm: MPI.Comm, ids: NDArray[np.int64], edges: NDArray[np.int64]) -> Names:
    """Names of ids that ascend over the ranks, of which rank r holds numbers edges[r] to edges[r + 1]. Collective."""
    firsts = comm.allgather(int(ids[0]) if ids.size else None)
    splitters, least = [], 2**63 - 1
    for first in reversed(firsts[1:]):  # a rank that has none begins where the next one does
        least = least if first is None else first
        splitters.append(least)
    return Names(ids, edges, int(edges[comm.rank]), np.array(splitters[::-1], np.int64))
