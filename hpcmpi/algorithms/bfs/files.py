"""Graphs in files: edges as text, arrays of edges, and compressed rows, which are written too.

A list of edges has two ids a line, whole numbers of up to 62 bits, and perhaps further numbers, which are left out;
lines that begin with ``#``, ``%`` or ``//`` are comments. MatrixMarket numbers from 1; here, as everywhere, from 0.

Compressed rows are a group of ``indptr`` and ``indices`` in HDF5, whoever wrote it. :func:`save_rows` writes a group
``graph`` with ``indptr`` (n + 1,) int64; ``indices`` (entries,) int64, ascending in each row, without loops and
repeats, each undirected edge both ways; ``degree`` (n,) int64, with repeats, which the rule for parents goes by; and
``vertex`` (n,) int64, the ids, where they left large gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.bfs.edges import Edges, Rows, from_ends, narrow
from hpcmpi.algorithms.bfs.graph import Graph
from hpcmpi.algorithms.bfs.naming import SPARSE, Names, sorted_names
from hpcmpi.algorithms.bfs.text_kernels import count_lines, parse_edges
from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import InputError
from hpcmpi.partition import Range, block
from hpcmpi.record import Block, Scalar
from hpcmpi.store.hdf5 import HDF5_SIGNATURE, groups_with, is_hdf5, open_hdf5
from hpcmpi.store.kind import kind
from hpcmpi.store.matrix_market import open_matrix_market
from hpcmpi.store.reader import NPY_SIGNATURE, Source, open_source, split_dataset
from hpcmpi.store.text import text_file
from hpcmpi.store.writer import save

_ZIP_SIGNATURE = b"PK\x03\x04"
_A_LINE = "two whole numbers from 0 to 2^62 are expected, and nothing but numbers after them"
_FEW_IDS = 1 << 20  # up to which all ids that a MatrixMarket file declares are vertices, however few edges there are


def read_edges(comm: MPI.Comm, where: str, *, directed: bool) -> Edges:
    """This rank's edges of the graph in ``where``, ``FILE[:/dataset]``. Collective.

    Raises InputError, on all ranks, for what is missing, damaged or no graph.
    """
    path, _ = split_dataset(where)
    magic = on_root(comm, lambda: _magic(path))
    if magic.startswith((HDF5_SIGNATURE, NPY_SIGNATURE)):
        return _read_array(comm, where, directed=directed)
    matrix = open_matrix_market(comm, where)
    if matrix is not None:
        entries = matrix.read(comm, whole=directed)  # which way the other half leads matters then
        n, count = max(matrix.shape), comm.allreduce(entries.rows.size)
        declared = n if n < max(SPARSE * count, _FEW_IDS) else None
        return from_ends(comm, where, entries.rows, entries.columns, declared)
    u, v = _read_text(comm, path)
    return from_ends(comm, where, u, v, None)


def _read_text(comm: MPI.Comm, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """This rank's share of a list of edges. Collective; InputError names the line that is bad."""
    with agreement(comm):
        file = text_file(path)
        if file is None:
            raise InputError(f"{path}: cannot be read")
        ends: list[list[NDArray[np.int64]]] = [[np.empty(0, np.int64)], [np.empty(0, np.int64)]]
        for at, lines in file.pieces(0, comm.size, comm.rank):
            text = np.frombuffer(lines, np.uint8)
            u, v = np.empty((2, int(count_lines(text))), np.int64)
            count, bad = parse_edges(text, u, v)
            if bad >= 0:
                raise file.bad_line(at + bad, _A_LINE)
            ends[0].append(u[:count].copy())
            ends[1].append(v[:count].copy())
        return np.concatenate(ends[0]), np.concatenate(ends[1])


def _magic(path: Path) -> bytes:
    if kind(path) == "folder":
        raise InputError(f"{path}: is a folder, not a file")
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        raise InputError(
            f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror}"
        ) from None
    if magic.startswith(_ZIP_SIGNATURE):
        raise InputError(f"{path}: is a zip file such as .npz; a list of edges, MatrixMarket, HDF5 or .npy is expected")
    return magic


def _read_array(comm: MPI.Comm, where: str, *, directed: bool) -> Edges:
    """Edges of an array (m, 2) or (2, m), or of a group with ``indptr`` and ``indices`` (compressed rows)."""
    held: RowsInFile | None = on_root(comm, lambda: rows_in(where))
    if held is not None:
        return _read_rows(comm, held, directed=directed)
    source = open_source(comm, where, ndim=2)
    kind = np.uint64 if source.dtype.kind == "u" else np.int64
    with agreement(comm):
        if source.dtype.kind not in "iu":
            raise InputError(f"{source}: holds {source.dtype}; ids are whole numbers")
        if 2 not in source.shape:
            raise InputError(f"{source}: has shape {source.shape}; (edges, 2) or (2, edges) is expected")
    if source.shape[1] == 2:
        mine = block(source.shape[0], comm.size, comm.rank)
        ends = source.read(comm, (mine, Range(0, 2)), kind)
        return from_ends(comm, where, np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1]), None)
    ends = source.read(comm, (Range(0, 2), block(source.shape[1], comm.size, comm.rank)), kind)
    return from_ends(comm, where, ends[0], ends[1], None)


@dataclass(frozen=True)
class RowsInFile:
    """A group with compressed rows: the ``arrays`` in it, and whether a converted graph is ``directed``, else None."""

    path: Path
    group: str
    arrays: frozenset[str]
    directed: bool | None

    def source(self, comm: MPI.Comm, name: str) -> Source:
        """One of its arrays. Collective."""
        return open_source(comm, f"{self.path}:{self.group}/{name}", ndim=1)


def rows_in(where: str) -> RowsInFile | None:
    """The compressed rows that ``where``, ``FILE[:/group]``, names, if that is what it holds. Local."""
    path, named = split_dataset(where)
    if not is_hdf5(path):
        return None
    with open_hdf5(path) as file:
        found = groups_with(file, ("indptr", "indices"), named)
        if len(found) != 1:
            return None
        group = file[found[0] or "/"]
        directed = bool(group.attrs["directed"]) if "directed" in group.attrs else None
        return RowsInFile(path, found[0], frozenset(group), directed)


def _read_rows(comm: MPI.Comm, held: RowsInFile, *, directed: bool) -> Edges:
    """Edges of compressed rows; each rank reads equally many, of a converted graph whole rows. Collective."""
    pointers, indices = (held.source(comm, name) for name in ("indptr", "indices"))
    with agreement(comm):
        for source in (pointers, indices):
            if source.dtype.kind not in "iu":
                raise InputError(f"{source}: holds {source.dtype}; whole numbers are expected")
    rows = pointers.shape[0] - 1
    start = pointers.read(comm, (Range(0, rows + 1),), np.int64)
    with agreement(comm):
        if rows < 0 or start[0] != 0 or start[-1] != indices.shape[0] or (np.diff(start) < 0).any():
            raise InputError(f"{pointers}: does not ascend from 0 to {indices.shape[0]}, the length of {indices}")
    if "degree" in held.arrays:
        return _read_converted(comm, held, start, directed=directed)
    mine = block(indices.shape[0], comm.size, comm.rank)
    v = indices.read(comm, (mine,), np.int64)
    first = int(np.searchsorted(start, mine.start, "right")) - 1
    last = int(np.searchsorted(start, mine.stop, "left"))
    u = np.repeat(np.arange(first, last), np.diff(np.clip(start[first : last + 1], mine.start, mine.stop)))
    return from_ends(comm, f"{held.path}:{held.group}", u, v, rows)


def _read_converted(comm: MPI.Comm, held: RowsInFile, start: NDArray[np.int64], *, directed: bool) -> Edges:
    """What :func:`save_rows` has written: whole rows, so that ranks get equally many entries and vertices together."""
    n, entries = start.size - 1, int(start[-1])
    goals = (entries + n) * np.arange(comm.size + 1, dtype=np.int64) // comm.size
    cuts = np.searchsorted(start + np.arange(n + 1), goals).astype(np.int64)
    cuts[0], cuts[-1] = 0, n
    first, last = int(cuts[comm.rank]), int(cuts[comm.rank + 1])
    indices, degrees = held.source(comm, "indices"), held.source(comm, "degree")
    v = indices.read(comm, (Range(int(start[first]), int(start[last])),), np.int64)
    own = block(n, comm.size, comm.rank) if directed else Range(first, last)
    degree = degrees.read(comm, (own,), np.int64)
    lengths = np.diff(start[first : last + 1])
    with agreement(comm):
        if degrees.shape[0] != n or (v.size and not 0 <= int(v.min()) <= int(v.max()) < n):
            raise InputError(f"{held.path}:{held.group}: degrees are {degrees.shape[0]} and ids are not 0 to {n - 1}")
    names = None
    if "vertex" in held.arrays:
        edges = np.array([block(n, comm.size, rank).start for rank in range(comm.size)] + [n], np.int64)
        ids = held.source(comm, "vertex").read(comm, (block(n, comm.size, comm.rank),), np.int64)
        names = sorted_names(comm, ids, edges)
    u = np.repeat(np.arange(first, last), lengths)
    if directed:
        return Edges(narrow(u, n), narrow(v, n), n, names, degree=degree)
    return Edges(narrow(u, n), narrow(v, n), n, names, Rows(lengths, degree, cuts))


def save_rows(
    comm: MPI.Comm, target: Path, graph: Graph, names: Names | None, about: dict[str, Scalar], *, force: bool
) -> int:
    """Write ``graph`` to ``target``, with ``about`` as attributes; returns the entries of all rows. Collective."""
    lengths, indices, degree = graph.rows()
    before = sum(comm.allgather(indices.size)[: comm.rank])
    entries, last = int(comm.allreduce(indices.size)), comm.rank == comm.size - 1
    pointers = np.cumsum([before, *lengths])[: None if last else -1]
    n, first = graph.n, graph.first
    arrays = {
        "indptr": Block(pointers, (first,), (n + 1,)),
        "indices": Block(indices, (before,), (entries,)),
        "degree": Block(degree, (first,), (n,)),
    }
    if names is not None:
        arrays["vertex"] = Block(names.ids, (names.first,), (n,))
    about = {"directed": graph.directed, "n": n} | about
    save(comm, target, arrays, group="graph", attributes=about, force=force)
    return entries
