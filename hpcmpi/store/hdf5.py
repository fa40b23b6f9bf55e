"""What reading and writing share. No MPI, so that a command that only looks at a file does not start it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.errors import InputError

_STRIP_BYTES = 1 << 20  # what is copied at once of an array that is not contiguous


def open_hdf5(path: Path) -> Any:
    """Open HDF5 file; InputError, with the sizes found and expected, if it is damaged."""
    import h5py

    try:
        return h5py.File(path, "r", locking=False)  # network file systems often cannot lock, and reading needs no lock
    except OSError as error:
        text = str(error)
        if "truncated file" in text:
            expected = text.rpartition("stored_eof = ")[2].rstrip(")] ")
            raise InputError(
                f"{path}: truncated: {path.stat().st_size} bytes found, {expected} bytes expected by its HDF5 header"
            ) from error
        raise InputError(f"{path}: not a readable HDF5 file: {error}") from error


def checksum(local: NDArray[Any], crc: int = 0) -> int:
    """crc32 of the elements in row-major order, continued from ``crc``."""
    strips = [local]
    if not local.flags.c_contiguous:
        rows = max(1, _STRIP_BYTES * len(local) // local.nbytes)
        strips = [local[at : at + rows] for at in range(0, len(local), rows)]
    for part in strips:
        crc = zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data, crc)
    return crc
