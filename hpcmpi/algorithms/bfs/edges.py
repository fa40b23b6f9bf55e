"""The edges that a search is made on: ids checked, renamed where they leave large gaps, as narrow as they can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.bfs.naming import SPARSE, Names, name
from hpcmpi.comm import agreement
from hpcmpi.errors import InputError

LARGEST_ID = 2**62
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
    degree: NDArray[np.int64] | None = None  # of this rank's block of ids, where u and v do not tell
    columns_from: int = 0  # of a bipartite graph: the first vertex that is a column
    notes: tuple[str, ...] = ()  # what the user should know about how the file was read


def count_vertices(where: object, shape: tuple[int, int], *, bipartite: bool) -> int:
    """How many vertices a matrix has as a graph. Raises InputError if it is rectangular and not ``bipartite``."""
    m, n = shape
    if not bipartite and m != n:
        raise InputError(
            f"{where}: is {m} x {n}: as a graph, a square matrix is expected, whose rows and columns are the same "
            f"vertices; with --bipartite, columns are vertices of their own, {m} to {m + n - 1}"
        )
    return m + n if bipartite else n


def from_ends(
    comm: MPI.Comm, where: str, heads: NDArray[np.integer], tails: NDArray[np.integer], n: int | None
) -> Edges:
    """Edges whose ids are checked, and renamed where they leave large gaps, unless ``n`` says how many there are.

    Raises InputError, on all ranks, for ids that are out of range, and where there are no edges.
    """
    count = comm.allreduce(heads.size)
    with agreement(comm):
        if count == 0 and not n:
            raise InputError(f"{where}: holds no edges")
        for ends in (heads, tails):
            for end in (ends.min(initial=0), ends.max(initial=0)):
                if not 0 <= int(end) <= LARGEST_ID:
                    raise InputError(f"{where}: holds the id {end}; ids are 0 to 2^62")
                if n is not None and end >= max(n, 1):
                    raise InputError(f"{where}: holds the id {end}; there are {n} vertices, numbered from 0")
    u, v = (ends.astype(np.int64, copy=False) for ends in (heads, tails))
    least = comm.allreduce(min(int(u.min(initial=LARGEST_ID)), int(v.min(initial=LARGEST_ID))), MPI.MIN)
    largest = comm.allreduce(max(int(u.max(initial=-1)), int(v.max(initial=-1))), MPI.MAX)
    if n is None and largest >= SPARSE * count:
        names = name(comm, u, v)
        return Edges(narrow(names.numbers(comm, u), names.n), narrow(names.numbers(comm, v), names.n), names.n, names)
    notes = (f"{where}: ids begin at 1: vertex 0 is isolated",) if n is None and least == 1 else ()
    n = n or largest + 1
    return Edges(narrow(u, n), narrow(v, n), n, notes=notes)


def narrow(ends: NDArray[np.int64], n: int) -> NDArray[np.integer]:
    """``ends``, ids below ``n``, as uint32 where they fit."""
    return ends.astype(np.uint32) if n <= _NARROW else ends
