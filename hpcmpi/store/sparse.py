"""Sparse matrices as a handful of arrays: SciPy's ``.npz``, and HDF5 groups.

HDF5 groups hold ``indptr``, ``indices`` and ``data`` (AnnData, h5sparse, 10x Genomics, hpcmpi itself), ``row``, ``col``
and ``data``, or ``jc``, ``ir`` and ``data`` (MATLAB v7.3). Each writer has its own way to store the shape, and to say
whether rows or columns are compressed. :func:`_layout` is the one place that decides this, for all commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI

from hpcmpi.comm import on_root
from hpcmpi.errors import InputError
from hpcmpi.store.hdf5 import attribute, groups_with, member, open_hdf5, written_by_hpcmpi
from hpcmpi.store.npz import ZIP_SIGNATURE, Member, members
from hpcmpi.store.reader import Source, inspect, split_dataset

_COMPRESSED, _COORDINATES = ("indptr", "indices"), ("row", "col")
_INDICES = {"csr": _COMPRESSED, "csc": _COMPRESSED, "coo": _COORDINATES}
_MATLAB = {"indptr": "jc", "indices": "ir", "data": "data"}
_ROWS_OF_MATLAB = "MATLAB_sparse"  # attribute that holds the number of rows
_MARKS = ("encoding-type", "h5sparse_format", "format")  # of AnnData, h5sparse, and what SciPy calls it
_SHAPES = ("shape", "h5sparse_shape")


@dataclass(frozen=True)
class SparseSource:
    """A sparse matrix in a file: ``layout`` is csr, csc or coo, ``arrays`` holds its arrays by SciPy's names.

    A graph that ``hpcmpi graph convert`` wrote also has ``degree`` and perhaps ``vertex`` among its arrays, and
    ``directed`` says what it was converted as; elsewhere ``directed`` is None.
    """

    where: str
    layout: str
    shape: tuple[int, int]
    arrays: dict[str, Source]
    directed: bool | None = None

    def __str__(self) -> str:
        return self.where

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.arrays["data"].dtype

    @property
    def nonzeros(self) -> int:
        """Stored entries."""
        return self.arrays[_INDICES[self.layout][1]].shape[0]


def open_sparse(comm: MPI.Comm, where: str, *, values: bool = True, oriented: bool = True) -> SparseSource | None:
    """The sparse matrix that ``where``, ``FILE[:/group]``, names; None if it is none. Rank 0 reads the headers.

    Without ``values``, ``data`` is neither needed nor looked at, and the shape may be missing from compressed arrays,
    which are then those of a square matrix. Without ``oriented``, rows and columns may be mistaken for each other where
    the file does not tell them apart. Raises InputError for a matrix whose arrays are missing or do not fit together.
    """
    found: SparseSource | None = on_root(comm, lambda: _inspect(where, values=values, oriented=oriented))
    return found


def _inspect(where: str, *, values: bool, oriented: bool) -> SparseSource | None:
    path, name = split_dataset(where)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError:
        return None  # whoever opens it as an array will say so
    if magic.startswith(ZIP_SIGNATURE) and not name:
        return _inspect_npz(path, values=values)
    if h5py.is_hdf5(path):  # whose signature may come after a user block, as in MATLAB's files
        return _inspect_hdf5(path, name, values=values, oriented=oriented)
    return None


def _inspect_npz(path: Path, *, values: bool) -> SparseSource | None:
    found = members(path)
    if "format" not in found or "shape" not in found:
        return None
    with Member(path, "/format") as member:
        layout = member[()].item()
    with Member(path, "/shape") as member:
        shape = member[:,].tolist()
    layout = layout.decode("ascii", "replace") if isinstance(layout, bytes) else str(layout)
    if layout not in _INDICES:
        raise InputError(f"{path}: is a sparse matrix of format {layout!r}; csr, csc or coo is expected: use .tocsr()")
    names = {name: name for name in (*_INDICES[layout], *(["data"] * values))}
    return _checked(str(path), layout, shape, {key: inspect(f"{path}:/{name}", 1) for key, name in names.items()})


def _inspect_hdf5(path: Path, name: str, *, values: bool, oriented: bool) -> SparseSource | None:
    data = ("data",) * values
    with open_hdf5(path) as file:
        groups = groups_with(file, (*_COMPRESSED, *data), name)
        names = {key: key for key in (*_COMPRESSED, *data)}
        if not groups:
            groups = [
                g for g in groups_with(file, ("jc", "ir", *data), name) if _ROWS_OF_MATLAB in file[g or "/"].attrs
            ]
            names = {key: _MATLAB[key] for key in names}
        if not groups:
            groups = [g for g in groups_with(file, (*_COORDINATES, *data), name) if _is_coo(file[g or "/"])]
            names = {key: key for key in (*_COORDINATES, *data)}
        if not groups:
            return None
        if len(groups) > 1:
            listing = ", ".join(group or "/" for group in groups)
            raise InputError(f"{path}: name one sparse matrix as {path}:/GROUP; there are: {listing}")
        group, where = file[groups[0] or "/"], f"{path}:{groups[0] or '/'}"
        converted = written_by_hpcmpi(group)
        directed = bool(attribute(group, "directed")) if converted else None
        names |= {key: key for key in ("degree", "vertex") if converted and key in group}
        lines = None if "row" in names else len(group[names["indptr"]]) - 1
        shape = _shape(group, lines)
        if shape is None and lines is not None and not values:
            shape = [lines, lines]
        if shape is None:
            raise InputError(f"{where}: a sparse matrix needs its attribute 'shape', of two numbers")
        layout = _layout(where, group, shape, lines)
        if layout is None and oriented:
            raise InputError(
                f"{where}: nothing tells whether rows or columns are compressed: a format attribute is expected, "
                f"such as group.attrs['format'] = 'csr' (rows) or 'csc' (columns)"
            )
        if layout == "coo" and lines is not None:
            raise InputError(f"{where}: is marked as coo, but holds indptr and indices instead of row and col")
    arrays = {key: inspect(f"{path}:{groups[0]}/{name}", 1) for key, name in names.items()}
    return _checked(where, layout or "csr", shape, arrays, directed)


def _is_coo(group: Any) -> bool:
    """Whether ``row`` and ``col`` are those of a sparse matrix: it is marked as coo, or has a shape."""
    return "coo" in _marks(group).values() or _shape(group, None) is not None


def _shape(group: Any, lines: int | None) -> Any:
    """The shape that the group gives, None if it gives none."""
    rows = attribute(group, _ROWS_OF_MATLAB)
    if rows is not None and lines is not None:
        return [int(rows), lines]
    shapes = [found for name in _SHAPES if (found := attribute(group, name)) is not None]
    if isinstance(member(group, "shape"), h5py.Dataset):
        shapes.append(group["shape"][()])
    return np.asarray(shapes[0]).tolist() if shapes else None


def _marks(group: Any) -> dict[str, str]:
    """What format attributes say, in SciPy's names of formats; a dataset ``format`` is one as well."""
    found = {name: attribute(group, name) for name in _MARKS}
    if found["format"] is None and isinstance(member(group, "format"), h5py.Dataset) and group["format"].shape == ():
        found["format"] = group["format"][()]
    texts = {name: x.decode("utf-8", "replace") if isinstance(x, bytes) else x for name, x in found.items()}
    return {
        name: text.lower().removesuffix("_matrix").removesuffix("_array")
        for name, text in texts.items()
        if isinstance(text, str)
    }


def _layout(where: str, group: Any, shape: Sequence[int], lines: int | None) -> str | None:
    """``csr``, ``csc`` or ``coo``; None where nothing tells. ``lines`` is the number of compressed lines, if any.

    In this order: format attributes; what only MATLAB and 10x Genomics (``barcodes`` beside a dataset ``shape``) write,
    who compress columns; what hpcmpi wrote, which compresses rows; and of a matrix that is not square, the number of
    lines. Raises InputError for marks that contradict each other, and for other formats.
    """
    said = {name: text for name, text in _marks(group).items() if text in (*_INDICES, "bsr", "dia", "dok", "lil")}
    if len(set(said.values())) > 1:
        raise InputError(f"{where}: its attributes contradict each other: {said}")
    for text in said.values():
        if text not in _INDICES:
            raise InputError(f"{where}: is a sparse matrix of format {text!r}; csr, csc or coo is expected")
        return text
    if lines is None:
        return "coo"
    tenx = isinstance(member(group, "barcodes"), h5py.Dataset) and isinstance(member(group, "shape"), h5py.Dataset)
    if _ROWS_OF_MATLAB in group.attrs or tenx:
        return "csc"
    if written_by_hpcmpi(group):
        return "csr"
    if len(shape) == 2 and shape[0] != shape[1] and lines in shape:
        return "csr" if lines == shape[0] else "csc"
    return None


def _checked(
    where: str, layout: str, shape: Any, arrays: dict[str, Source], directed: bool | None = None
) -> SparseSource:
    """The matrix, if its arrays fit together."""
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(x, int) and x >= 0 for x in shape):
        raise InputError(f"{where}: a sparse matrix's shape is {shape}; two whole numbers are expected")
    source = SparseSource(where, layout, (shape[0], shape[1]), arrays, directed)
    for name, array in arrays.items():
        if name != "data" and array.dtype.kind not in "iu":
            raise InputError(f"{array}: holds {array.dtype}; whole numbers are expected")
        lines = shape[layout == "csc"]
        expected = {"indptr": lines + 1, "degree": lines, "vertex": lines}.get(name, source.nonzeros)
        if array.shape[0] != expected:
            raise InputError(
                f"{array}: has {array.shape[0]} elements; {expected} are expected in a {layout} matrix of "
                f"{shape[0]} x {shape[1]} with {source.nonzeros} entries"
            )
    return source
