"""Arrays of a ``.npz`` archive, read in part: what comes before is unpacked but not kept, what comes behind neither."""

from __future__ import annotations

import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.errors import InputError
from hpcmpi.partition import Range
from hpcmpi.store.hdf5 import shown

ZIP_SIGNATURE = b"PK\x03\x04"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError)


def members(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of each array in the archive; InputError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = _names(archive)
    except _DAMAGE as error:
        raise InputError(f"{path}: damaged .npz archive: {error}") from error
    found = {}
    for name in names:
        with Member(path, f"/{name}") as member:
            found[name] = member.shape, member.dtype
    return found


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it lies by columns, and dtype of the ``.npy`` array at the beginning of ``file``.

    Raises InputError for a damaged header, also one that NumPy's parser stumbles over.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except Exception as error:  # the parser raises whatever it stumbles over
        raise InputError(f"{where}: damaged .npy header: {error}") from error
    if any(extent < 0 for extent in shape):
        raise InputError(f"{where}: damaged .npy header: shape {shape}")
    return tuple(shape), bool(by_columns), dtype


class Member:
    """One array of an archive, open for reading: ``member[rows, ...]`` as of an h5py dataset.

    Rows are read from where the last ones ended, or from the start of the array if they lie before.
    """

    def __init__(self, path: Path, dataset: str) -> None:
        self._where = f"{path}:{dataset}"
        with ExitStack() as opened:  # closed if the header is damaged
            try:
                archive = opened.enter_context(zipfile.ZipFile(path))
                self._file = opened.enter_context(archive.open(f"{dataset[1:]}.npy"))
            except KeyError:
                listing = shown([f"/{name}" for name in _names(archive)])
                raise InputError(f"{path}: no array {dataset}; there are: {listing}") from None
            except (*_DAMAGE, ValueError) as error:
                raise InputError(f"{self._where}: damaged array in a .npz archive: {error}") from error
            self.shape, self._fortran, self.dtype = read_header(self._file, self._where)
            self._start = self._file.tell()
            self._opened = opened.pop_all()

    @property
    def unit(self) -> tuple[int, ...]:
        """Shape of a row as it is stored: one of the matrix, or a column in the order of Fortran."""
        return (*self.shape[:-1], 1) if self._fortran and len(self.shape) > 1 else (1, *self.shape[1:])

    def lines(self, part: Range) -> NDArray[Any]:
        """Rows of a matrix as they are stored (columns, in the order of Fortran), one behind the other."""
        width = self.shape[0] if self._fortran else self.shape[1]
        return self._read(part.start * width, part.size * width).reshape(part.size, width)

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Elements of consecutive rows (``index[0]``), of which the other slices take their part."""
        if not self.shape:
            return self._read(0, 1).reshape(())
        if self._fortran and len(self.shape) > 1:
            whole: NDArray[Any] = self._read(0, int(np.prod(self.shape))).reshape(self.shape, order="F")
            return whole[index]
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        rows = range(self.shape[0])[index[0]]
        return self._read(rows.start * width, len(rows) * width).reshape(len(rows), *self.shape[1:])[:, *index[1:]]

    def _read(self, first: int, count: int) -> NDArray[Any]:
        nbytes = count * self.dtype.itemsize
        try:
            self._file.seek(self._start + first * self.dtype.itemsize)
            data = self._file.read(nbytes)
        except (*_DAMAGE, ValueError) as error:
            raise InputError(f"{self._where}: damaged array in a .npz archive: {error}") from error
        if len(data) != nbytes:
            raise InputError(f"{self._where}: truncated: {len(data)} bytes found where {nbytes} are expected")
        return np.frombuffer(data, self.dtype)
