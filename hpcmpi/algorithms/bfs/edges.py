"""The edges that a search is made on: ids checked, renamed where they leave large gaps, as narrow as they can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.bfs.naming import SPARSE, Names, name
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError

_NARROW = 2**32


@dataclass(frozen=True)
class Rows:
    """Rows of a converted graph: ``lengths`` and degrees of this rank's ids, which ``cuts`` bound."""

    lengths: NDArray[np.int64]
    degree: NDArray[np.int64]
    cuts: NDArray[np.int64]


@dataclass(frozen=True)
class Edges:
    """This rank's edges, from ``u[i]`` to ``v[i]``, between ``n`` vertices, and their names where ids were sparse."""

    u: NDArray[np.integer]
    v: NDArray[np.integer]
    n: int
    names: Names | None = None
    rows: Rows | None = None  # of which u and v are the entries, each edge both ways


def from_ends(comm: MPI.Comm, where: str, u: NDArray[np.int64], v: NDArray[np.int64], n: int | None) -> Edges:
    """Edges whose ids are checked, and renamed where they leave large gaps."""
    count = comm.allreduce(u.size)
    with agreement(comm):
        for ends in (u, v):
            if ends.size and int(ends.min()) < 0:
                raise InputError(f"{where}: holds the id {ends.min()}; ids are 0 or more")
    if count == 0 and not n:
        empty = InputError(f"{where}: holds no edges")
        empty.agreed = True
        raise empty
    largest = comm.allreduce(max(int(u.max(initial=-1)), int(v.max(initial=-1))), MPI.MAX)
    if n is None and largest >= SPARSE * count:
        names = name(comm, u, v)
        return Edges(narrow(names.numbers(comm, u), names.n), narrow(names.numbers(comm, v), names.n), names.n, names)
    n = n or largest + 1
    return Edges(narrow(u, n), narrow(v, n), n)


def narrow(ends: NDArray[np.int64], n: int) -> NDArray[np.integer]:
    """``ends``, ids below ``n``, as uint32 where they fit."""
    return ends.astype(np.uint32) if n <= _NARROW else ends
