"""Graphs in files: edges as text, arrays of edges, and compressed rows, which are written too.

Text is read by :mod:`.text_files`. MatrixMarket numbers from 1; here, as everywhere, from 0. An entry of a matrix is an
edge from its row to its column; values are ignored, except that zeros of a dense MatrixMarket file are no edges.

Sparse matrices are read as :mod:`hpcmpi.store.sparse` finds them. :func:`save_rows` writes a group
``graph`` with ``indptr`` (n + 1,) int64; ``indices`` (entries,) int64, ascending in each row, without loops and
repeats, each undirected edge both ways; ``degree`` (n,) int64, with repeats, which the rule for parents goes by; and
``vertex`` (n,) int64, the ids, where they left large gaps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.algorithms.bfs.edges import Edges, Rows, count_vertices, from_ends, narrow
from hpcmpi.algorithms.bfs.graph import Graph
from hpcmpi.algorithms.bfs.naming import SPARSE, Names, sorted_names
from hpcmpi.algorithms.bfs.text_files import read_adjacency, read_list, read_metis
from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import InputError
from hpcmpi.partition import Range, block
from hpcmpi.record import Block, Scalar
from hpcmpi.store.entry_sample import (
    Entry,
    sample_adjacency,
    sample_list,
    sample_market,
    sample_metis,
    sample_pairs,
    sample_sparse,
)
from hpcmpi.store.hdf5 import is_hdf5
from hpcmpi.store.kind import kind
from hpcmpi.store.matrix_market import MatrixMarket, open_matrix_market
from hpcmpi.store.npz import ZIP_SIGNATURE
from hpcmpi.store.reader import NPY_SIGNATURE, inspect, open_source, split_dataset
from hpcmpi.store.recognise import refuse_foreign
from hpcmpi.store.sparse import SparseSource, open_sparse
from hpcmpi.store.text import TextFile, text_file
from hpcmpi.store.writer import save

_FEW_IDS = 1 << 20  # up to which all ids that a MatrixMarket file declares are vertices, however few edges there are


def read_edges(comm: MPI.Comm, where: str, *, directed: bool, bipartite: bool = False, form: str = "auto") -> Edges:
    """This rank's edges of the graph in ``where``, ``FILE[:/dataset]``. Collective.

    ``bipartite`` makes the columns of an m x n matrix vertices of their own, m to m + n - 1. ``form`` says what a text
    file holds: ``edges``, ``adjacency``, ``metis``, or ``auto``: edges, if nothing speaks against it.
    Raises InputError, on all ranks, for what is missing, damaged or no graph.
    """
    path, _ = split_dataset(where)
    text = on_root(comm, lambda: _text(path))
    if text is None:
        source = open_sparse(comm, where, values=False, oriented=directed or bipartite)
        if source is not None:
            return _read_sparse(comm, source, directed=directed, bipartite=bipartite)
        _refuse_bipartite(comm, where, bipartite)
        return _read_array(comm, where)
    matrix = open_matrix_market(comm, where)
    if matrix is not None:
        return _read_market(comm, matrix, directed=directed, bipartite=bipartite)
    on_root(comm, lambda: refuse_foreign(text))
    if form in ("metis", "adjacency"):
        _refuse_bipartite(comm, where, bipartite)
        u, v, n = (read_metis if form == "metis" else read_adjacency)(comm, text, directed=directed)
        return from_ends(comm, where, u, v, n)
    return read_list(comm, text, bipartite=bipartite, strict=form == "auto")


def _text(path: Path) -> TextFile | None:
    """The file if it is text, None if it holds arrays."""
    if kind(path) == "folder":
        raise InputError(f"{path}: is a folder, not a file")
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(f"{path}: {reason}") from None
    if magic.startswith((NPY_SIGNATURE, ZIP_SIGNATURE)) or is_hdf5(path):
        return None
    return text_file(path)


def _refuse_bipartite(comm: MPI.Comm, where: str, bipartite: bool) -> None:
    with agreement(comm):
        if bipartite:
            raise InputError(f"{where}: --bipartite is about matrices, and lists with KONECT's header '% bip'")


def _read_market(comm: MPI.Comm, matrix: MatrixMarket, *, directed: bool, bipartite: bool) -> Edges:
    with agreement(comm):
        n = count_vertices(matrix, matrix.shape, bipartite=bipartite)
    entries = matrix.read(comm, whole=directed or bipartite, values=False)  # which way the other half leads matters
    u, v = entries.rows, entries.columns
    if matrix.dense:  # whose zeros are no edges
        u, v = u[entries.values != 0], v[entries.values != 0]
    v = v + matrix.shape[0] * bipartite
    count = comm.allreduce(u.size)
    edges = from_ends(comm, str(matrix), u, v, n if n < max(SPARSE * count, _FEW_IDS) else None)
    return replace(edges, columns_from=matrix.shape[0] * bipartite)


def _read_array(comm: MPI.Comm, where: str) -> Edges:
    """Edges of an array (m, 2) or (2, m)."""
    source = open_source(comm, where, ndim=2)
    ids = np.uint64 if source.dtype.kind == "u" else np.int64
    with agreement(comm):
        if source.dtype.kind not in "iu":
            raise InputError(f"{source}: holds {source.dtype}; ids are whole numbers")
        if 2 not in source.shape:
            raise InputError(f"{source}: has shape {source.shape}; (edges, 2) or (2, edges) is expected")
    if source.shape[1] == 2:
        mine = block(source.shape[0], comm.size, comm.rank)
        ends = source.read(comm, (mine, Range(0, 2)), ids)
        return from_ends(comm, where, np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1]), None)
    ends = source.read(comm, (Range(0, 2), block(source.shape[1], comm.size, comm.rank)), ids)
    return from_ends(comm, where, ends[0], ends[1], None)


class SampledEdges(NamedTuple):
    """Edges read from a file by other means than :func:`read_edges`: ends (k,) int64, and where each edge stands.

    Ends are ids, or numbers of vertices if the graph was ``converted``.
    """

    u: NDArray[np.int64]
    v: NDArray[np.int64]
    places: list[str]
    converted: bool


def sample_edges(comm: MPI.Comm, where: str, form: str, columns_from: int) -> SampledEdges:
    """Some edges of the file, loops excepted, the same on all ranks; ``columns_from`` is that of :class:`Edges`."""
    path, _ = split_dataset(where)
    text = on_root(comm, lambda: _text(path))
    source = open_sparse(comm, where, values=False, oriented=False) if text is None else None
    matrix = open_matrix_market(comm, where) if text is not None else None

    def sample() -> list[Entry]:
        if source is not None:
            return sample_sparse(split_dataset(str(source)), source.layout, values=False)
        if text is None:
            return sample_pairs(split_dataset(str(inspect(where, 2))))
        if matrix is not None:
            return sample_market(path, values=matrix.dense, nonzero=matrix.dense)
        if form in ("adjacency", "metis"):
            return (sample_adjacency if form == "adjacency" else sample_metis)(path)
        return sample_list(path, first_id=1 if columns_from else 0)

    entries: list[Entry] = on_root(comm, sample)
    ends = np.array([(e.row, e.column + columns_from) for e in entries], np.int64).reshape(-1, 2)
    kept = np.flatnonzero(ends[:, 0] != ends[:, 1])
    converted = source is not None and source.directed is not None
    return SampledEdges(ends[kept, 0], ends[kept, 1], [entries[k].place for k in kept.tolist()], converted)


def converted_direction(comm: MPI.Comm, where: str) -> bool | None:
    """Whether the graph in ``where`` was converted as a directed one; None if hpcmpi did not convert it. Collective."""
    path, _ = split_dataset(where)
    if not on_root(comm, lambda: is_hdf5(path)):
        return None
    source = open_sparse(comm, where, values=False, oriented=False)
    return None if source is None else source.directed


def _read_sparse(comm: MPI.Comm, source: SparseSource, *, directed: bool, bipartite: bool) -> Edges:
    """Edges from rows to columns of a sparse matrix; each rank reads equally many, of a converted graph whole rows."""
    with agreement(comm):
        n = count_vertices(source, source.shape, bipartite=bipartite)
    arrays, shape = source.arrays, source.shape
    mine = block(source.nonzeros, comm.size, comm.rank)
    if source.layout == "coo":
        u, v = (arrays[name].read(comm, (mine,), np.int64) for name in ("row", "col"))
    else:
        pointers, indices = arrays["indptr"], arrays["indices"]
        lines = pointers.shape[0] - 1
        start = pointers.read(comm, (Range(0, lines + 1),), np.int64)
        with agreement(comm):
            if lines < 0 or start[0] != 0 or start[-1] != indices.shape[0] or (np.diff(start) < 0).any():
                raise InputError(f"{pointers}: does not ascend from 0 to {indices.shape[0]}, the length of {indices}")
        if "degree" in arrays and not bipartite:
            return _read_converted(comm, source, start, directed=directed)
        v = indices.read(comm, (mine,), np.int64)
        first = int(np.searchsorted(start, mine.start, "right")) - 1
        last = int(np.searchsorted(start, mine.stop, "left"))
        u = np.repeat(np.arange(first, last), np.diff(np.clip(start[first : last + 1], mine.start, mine.stop)))
        if source.layout == "csc":
            u, v = v, u
    with agreement(comm):
        for ends, size, what in ((u, shape[0], "row"), (v, shape[1], "column")):
            if bipartite and ends.size and not 0 <= int(ends.min()) <= int(ends.max()) < size:
                raise InputError(f"{source}: holds a {what} outside 0 to {size - 1}")
    return replace(from_ends(comm, str(source), u, v + shape[0] * bipartite, n), columns_from=shape[0] * bipartite)


def _read_converted(comm: MPI.Comm, source: SparseSource, start: NDArray[np.int64], *, directed: bool) -> Edges:
    """What :func:`save_rows` has written: whole rows, so that ranks get equally many entries and vertices together."""
    n, entries = start.size - 1, int(start[-1])
    goals = (entries + n) * np.arange(comm.size + 1, dtype=np.int64) // comm.size
    cuts = np.searchsorted(start + np.arange(n + 1), goals).astype(np.int64)
    cuts[0], cuts[-1] = 0, n
    first, last = int(cuts[comm.rank]), int(cuts[comm.rank + 1])
    indices, degrees = source.arrays["indices"], source.arrays["degree"]
    v = indices.read(comm, (Range(int(start[first]), int(start[last])),), np.int64)
    own = block(n, comm.size, comm.rank) if directed else Range(first, last)
    degree = degrees.read(comm, (own,), np.int64)
    lengths = np.diff(start[first : last + 1])
    with agreement(comm):
        if degrees.shape[0] != n or (v.size and not 0 <= int(v.min()) <= int(v.max()) < n):
            raise InputError(f"{source}: degrees are {degrees.shape[0]} and ids are not 0 to {n - 1}")
    names = None
    if "vertex" in source.arrays:
        edges = np.array([block(n, comm.size, rank).start for rank in range(comm.size)] + [n], np.int64)
        ids = source.arrays["vertex"].read(comm, (block(n, comm.size, comm.rank),), np.int64)
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
    marks: dict[str, Scalar] = {"format": "csr", "directed": graph.directed, "n": n}
    save(comm, target, arrays, group="graph", attributes=marks | about, force=force)
    return entries
