"""Arrays in: ``FILE[:/dataset]`` of HDF5 or ``.npy``, opened by every rank, of which each reads only its own part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi.comm import agreement, on_root
from hpcmpi.errors import InputError
from hpcmpi.partition import Range, pieces
from hpcmpi.store.hdf5 import open_hdf5

_PIECE_BYTES = 32 << 20  # what a rank reads at once: bounds the copy that a change of dtype or order costs
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NPY_SIGNATURE = b"\x93NUMPY"


@dataclass(frozen=True)
class Source:
    """An array in a file: where it is, its shape and its dtype.

    ``dataset`` is None for ``.npy`` and for a file without a header, which ``raw`` tells.
    """

    path: Path
    dataset: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    raw: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.dataset}" if self.dataset else str(self.path)

    def read(self, comm: MPI.Comm, part: tuple[Range, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Each rank's own ``part`` as a C-contiguous array of ``dtype``; collective, so that errors are common.

        Raises InputError if the file cannot be read to the end.
        """
        with agreement(comm):
            return self._read(part, np.dtype(dtype))

    def _read(self, part: tuple[Range, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        out = np.empty(tuple(r.size for r in part), dtype)
        if out.size == 0:
            return out
        whole = part[0] if part else Range(0, 1)  # a scalar is one row
        with self._opened() as array:
            for rows in pieces(whole, max(1, _PIECE_BYTES * whole.size // out.nbytes)):
                place = (slice(rows.start - whole.start, rows.stop - whole.start),)[: len(part)]
                index = (rows.slice, *(r.slice for r in part[1:]))[: len(part)]
                try:
                    out[place] = array[index]
                except OSError as error:
                    raise InputError(f"{self}: cannot read rows {rows.start} to {rows.stop}: {error}") from error
                except (TypeError, ValueError) as error:
                    raise InputError(f"{self}: holds {self.dtype}, which cannot be read as {dtype}: {error}") from error
        return out

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The array: an h5py dataset or a memory map."""
        if self.dataset is not None:
            with open_hdf5(self.path) as file:
                yield file[self.dataset]
            return
        try:
            if self.raw:
                array = np.memmap(self.path, self.dtype, "r", shape=self.shape)
            else:
                array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot be opened: {error}") from error
        yield array


def open_source(comm: MPI.Comm, where: str, *, ndim: int | None = None, record_bytes: int | None = None) -> Source:
    """Find the array that ``where``, ``FILE[:/dataset]``, names. Rank 0 reads the header; the others are told.

    Without ``:/dataset`` an HDF5 file must hold just one dataset of numbers with ``ndim`` dimensions. With
    ``record_bytes``, a file that is neither HDF5 nor ``.npy`` holds records of so many bytes, a row each. Raises
    InputError if the file is missing or damaged, if there is no such dataset, or if its dimensions are more or fewer.
    """
    source: Source = on_root(comm, lambda: _inspect(where, ndim, record_bytes))
    return source


def _inspect(where: str, ndim: int | None, record_bytes: int | None) -> Source:
    text, colon, dataset = where.rpartition(":")
    if not colon or not dataset.startswith("/"):
        text, dataset = where, ""
    path = Path(text)
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from None
    if magic.startswith(_NPY_SIGNATURE):
        source = _inspect_npy(path, dataset)
    elif magic == _HDF5_SIGNATURE:
        source = _inspect_hdf5(path, dataset, ndim)
    elif record_bytes:
        source = _inspect_records(path, record_bytes)
    else:
        raise InputError(f"{path}: neither HDF5 nor .npy: it begins with the bytes {magic!r}")
    if ndim is not None and len(source.shape) != ndim:
        raise InputError(f"{source}: has {len(source.shape)} dimensions, shape {source.shape}; {ndim} are expected")
    return source


def _inspect_records(path: Path, record_bytes: int) -> Source:
    records, rest = divmod(path.stat().st_size, record_bytes)
    if rest:
        raise InputError(
            f"{path}: truncated: {path.stat().st_size} bytes found, a multiple of {record_bytes} expected of records"
        )
    return Source(path, None, (records, record_bytes), np.dtype(np.uint8), raw=True)


def _inspect_npy(path: Path, dataset: str) -> Source:
    if dataset:
        raise InputError(f"{path}: a .npy file holds one array and no dataset {dataset!r}")
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _fortran, dtype = read(file)
        except Exception as error:  # NumPy's parser raises whatever a damaged header makes it stumble over
            raise InputError(f"{path}: damaged .npy header: {error}") from error
        expected = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    found = path.stat().st_size
    if any(extent < 0 for extent in shape):
        raise InputError(f"{path}: damaged .npy header: shape {shape}")
    if dtype.hasobject:
        raise InputError(f"{path}: holds Python objects ({dtype}), not numbers")
    if found < expected:
        raise InputError(f"{path}: truncated: {found} bytes found, {expected} bytes expected by its .npy header")
    return Source(path, None, tuple(shape), dtype)


def _inspect_hdf5(path: Path, dataset: str, ndim: int | None) -> Source:
    import h5py

    with open_hdf5(path) as file:
        found: dict[str, Any] = {}

        def keep(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.shape is not None and not item.is_scale:
                found[f"/{name}"] = item

        file.visititems(keep)
        listing = ", ".join(f"{name} {item.shape}" for name, item in found.items()) or "none"
        if dataset:
            if not isinstance(file.get(dataset), h5py.Dataset):
                raise InputError(f"{path}: no dataset {dataset}; there are: {listing}")
        else:
            arrays = [(name, item.ndim) for name, item in found.items() if item.dtype.kind in "biufc"]  # no tables
            fitting = [name for name, dimensions in arrays if ndim in (None, dimensions)]
            if len(fitting) != 1:
                raise InputError(f"{path}: name one dataset as {path}:/DATASET; there are: {listing}")
            dataset = fitting[0]
        item = file[dataset]
        if item.shape is None:
            raise InputError(f"{path}:{dataset}: holds no array")
        _check_complete(path, item)
        return Source(path, dataset, tuple(item.shape), item.dtype)


def _check_complete(path: Path, item: Any) -> None:
    """Refuse a dataset of a run that never finished, and one whose bytes lie beyond the end of the file."""
    group = item
    while group.name != "/":
        group = group.parent
        if not group.attrs.get("complete", True):
            raise InputError(f"{path}:{item.name}: was left incomplete by the run that wrote it")
    offset = item.id.get_offset()
    if offset is not None and offset + item.nbytes > path.stat().st_size:
        raise InputError(
            f"{path}:{item.name}: truncated: {path.stat().st_size} bytes found, "
            f"{offset + item.nbytes} bytes expected by its HDF5 header"
        )
