"""What reading and writing share. No MPI, so that a command that only looks at a file does not start it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.errors import HpcmpiError, InputError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ZSTD_FILTER = 32015  # its number with The HDF Group
TABLE = "hpcmpi_table"
"""Attribute of a group that is a table of a run, whose columns are none of its arrays."""
_STRIP_BYTES = 1 << 20  # what is copied at once of an array that is not contiguous


# What h5py, and whoever takes its word, raises where the bytes that describe arrays are damaged.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@contextmanager
def open_hdf5(path: Path, **options: Any) -> Iterator[Any]:
    """The open HDF5 file; InputError if it is damaged, also where the body stumbles over it.

    ``options`` are those of h5py. The body should do nothing but read. A truncated file is told with the sizes found
    and expected.
    """
    with _opened(path, options) as file:
        try:
            yield file
        except (HpcmpiError, BrokenPipeError):  # the second is of someone who prints what was read
            raise
        except _DAMAGE as error:
            raise InputError(f"{path}: damaged HDF5 file: {type(error).__name__}: {error}") from error


def _opened(path: Path, options: dict[str, Any]) -> Any:
    import h5py

    try:
        # Network file systems often cannot lock, and reading needs no lock.
        return h5py.File(path, "r", locking=False, **options)
    except _DAMAGE as error:
        text = str(error)
        if "truncated file" in text:
            expected = text.rpartition("stored_eof = ")[2].rstrip(")] ")
            raise InputError(
                f"{path}: truncated: {path.stat().st_size} bytes found, {expected} bytes expected by its HDF5 header"
            ) from error
        raise InputError(f"{path}: not a readable HDF5 file: {error}") from error


def load_filters(dataset: Any) -> Any:
    """``dataset``, after the package of the compression that it was written with, if HDF5 has not its own, is loaded.

    Raises InputError if it is missing.
    """
    import h5py

    properties = dataset.id.get_create_plist()
    used = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    if all(h5py.h5z.filter_avail(number) for number in used):
        return dataset
    try:
        import hdf5plugin  # noqa: F401 - registers filters with HDF5
    except ImportError:
        name = "zstd" if ZSTD_FILTER in used else f"HDF5's filters {used}"
        raise InputError(
            f"{dataset.file.filename}:{dataset.name}: is compressed by {name}, which needs a package that is missing: "
            f"pip install 'hpcmpi[zstd]'"
        ) from None
    return dataset


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does; not if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE
    except OSError:
        return False


def is_column(item: Any) -> bool:
    """Whether an item of an open file is a column of a run's table."""
    return TABLE in item.parent.attrs


def groups_with(file: Any, arrays: Sequence[str], name: str = "") -> list[str]:
    """Groups of an open file that hold datasets called as ``arrays``; only the one that ``name`` names, if any.

    The file itself is "", others begin with ``/``.
    """
    import h5py

    def fits(item: Any) -> bool:
        return isinstance(item, h5py.Group) and all(isinstance(item.get(name), h5py.Dataset) for name in arrays)

    if name:
        return [name.rstrip("/")] if fits(file.get(name)) else []
    found = [""] if fits(file) else []
    file.visititems(lambda path, item: found.append(f"/{path}") if fits(item) else None)
    return [group for group in found if not group.endswith("/checksums")]  # of our results, called as the arrays are


def checksum(local: NDArray[Any], crc: int = 0) -> int:
    """crc32 of the elements in row-major order, continued from ``crc``."""
    for strip in strips(local):
        crc = zlib.crc32(strip.reshape(-1).view(np.uint8).data, crc)
    return crc


def strips(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """``array`` in row-major order as C-contiguous pieces: itself if it is contiguous, else copies of 1 MiB."""
    if array.flags.c_contiguous:
        yield array
    elif array.ndim > 1 and array[0].nbytes > _STRIP_BYTES:
        for row in array:
            yield from strips(row)
    else:
        rows = max(1, _STRIP_BYTES * len(array) // array.nbytes)
        for at in range(0, len(array), rows):
            yield np.ascontiguousarray(array[at : at + rows])
