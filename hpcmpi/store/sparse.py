"""Sparse matrices as a handful of arrays: SciPy's ``.npz``, and HDF5 groups of ``indptr``, ``indices`` and ``data``.

Such groups are what AnnData, 10x Genomics and h5sparse write, each with its own way to tell the shape and whether rows
or columns are compressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcmpi.comm import on_root
from hpcmpi.errors import InputError
from hpcmpi.store.hdf5 import HDF5_SIGNATURE, groups_with, open_hdf5
from hpcmpi.store.npz import ZIP_SIGNATURE, Member, members
from hpcmpi.store.reader import Source, inspect, split_dataset

_ARRAYS = {"csr": ("indptr", "indices", "data"), "csc": ("indptr", "indices", "data"), "coo": ("row", "col", "data")}


@dataclass(frozen=True)
class SparseSource:
    """A sparse matrix in a file: ``layout`` is csr, csc or coo, ``arrays`` holds its arrays by SciPy's names."""

    layout: str
    shape: tuple[int, int]
    arrays: dict[str, Source]

    def __str__(self) -> str:
        return str(self.arrays["data"]).removesuffix("/data").removesuffix(":")

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.arrays["data"].dtype

    @property
    def nonzeros(self) -> int:
        """Stored entries."""
        return self.arrays["data"].shape[0]


def open_sparse(comm: MPI.Comm, where: str) -> SparseSource | None:
    """The sparse matrix that ``where``, ``FILE[:/group]``, names; None if it is none. Rank 0 looks, others are told.

    Raises InputError for a matrix whose arrays are missing or do not fit together.
    """
    found: SparseSource | None = on_root(comm, lambda: _inspect(where))
    return found


def _inspect(where: str) -> SparseSource | None:
    path, name = split_dataset(where)
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError:
        return None  # whoever opens it as an array will say so
    if magic.startswith(ZIP_SIGNATURE) and not name:
        return _inspect_npz(path)
    if magic == HDF5_SIGNATURE:
        return _inspect_hdf5(path, name)
    return None


def _inspect_npz(path: Path) -> SparseSource | None:
    found = members(path)
    if "format" not in found or "shape" not in found:
        return None
    with Member(path, "/format") as member:
        layout = member[()].item()
    with Member(path, "/shape") as member:
        shape = member[:,].tolist()
    layout = layout.decode("ascii", "replace") if isinstance(layout, bytes) else str(layout)
    if layout not in _ARRAYS:
        raise InputError(f"{path}: is a sparse matrix of format {layout!r}; csr, csc or coo is expected: use .tocsr()")
    return _checked(path, "", layout, shape)


def _inspect_hdf5(path: Path, name: str) -> SparseSource | None:
    import h5py

    with open_hdf5(path) as file:
        groups = [group or "/" for group in groups_with(file, _ARRAYS["csr"], name)]
        if not groups:
            return None
        if len(groups) > 1:
            raise InputError(f"{path}: name one sparse matrix as {path}:/GROUP; there are: {', '.join(groups)}")
        group = file[groups[0]]
        said = {key: group.attrs[key] for key in ("encoding-type", "format", "h5sparse_format") if key in group.attrs}
        text = " ".join(x.decode() if isinstance(x, bytes) else str(x) for x in said.values())
        shapes = [group.attrs[key] for key in ("shape", "h5sparse_shape") if key in group.attrs]
        if "shape" in group and isinstance(group["shape"], h5py.Dataset):
            shapes.append(group["shape"][()])
        if not shapes:
            raise InputError(f"{path}:{groups[0]}: a sparse matrix needs its attribute 'shape', of two numbers")
        return _checked(path, groups[0].rstrip("/"), "csc" if "csc" in text else "csr", np.asarray(shapes[0]).tolist())


def _checked(path: Path, group: str, layout: str, shape: Any) -> SparseSource:
    """The matrix, if its arrays fit together."""
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(x, int) and x >= 0 for x in shape):
        raise InputError(f"{path}: a sparse matrix's shape is {shape}; two whole numbers are expected")
    arrays = {name: inspect(f"{path}:{group}/{name}", 1) for name in _ARRAYS[layout]}
    source = SparseSource(layout, (shape[0], shape[1]), arrays)
    for name, array in arrays.items():
        if name != "data" and array.dtype.kind not in "iu":
            raise InputError(f"{array}: holds {array.dtype}; whole numbers are expected")
        lines = shape[layout == "csc"] + 1
        expected = lines if name == "indptr" else source.nonzeros
        if array.shape[0] != expected:
            raise InputError(
                f"{array}: has {array.shape[0]} elements; {expected} are expected in a {layout} matrix of "
                f"{shape[0]} x {shape[1]} with {source.nonzeros} entries"
            )
    return source
