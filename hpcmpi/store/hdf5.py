"""What reading and writing share. No MPI, so that a command that only looks at a file does not start it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.errors import HpcmpiError, InputError

_STRIP_BYTES = 1 << 20  # what is copied at once of an array that is not contiguous


# What h5py, and whoever takes its word, raises where the bytes that describe arrays are damaged.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """The open HDF5 file; InputError if it is damaged, also where the body stumbles over it.

    So the body should do nothing but read. A truncated file is told with the sizes found and expected.
    """
    with _opened(path) as file:
        try:
            yield file
        except (HpcmpiError, BrokenPipeError):  # the second is of someone who prints what was read
            raise
        except _DAMAGE as error:
            raise InputError(f"{path}: damaged HDF5 file: {type(error).__name__}: {error}") from error


def _opened(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r", locking=False)  # network file systems often cannot lock, and reading needs no lock
    except _DAMAGE as error:
        text = str(error)
        if "truncated file" in text:
            expected = text.rpartition("stored_eof = ")[2].rstrip(")] ")
            raise InputError(
                f"{path}: truncated: {path.stat().st_size} bytes found, {expected} bytes expected by its HDF5 header"
            ) from error
        raise InputError(f"{path}: not a readable HDF5 file: {error}") from error


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
