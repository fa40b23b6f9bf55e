"""Scratch files of rows. They have no names: whatever ends the process, the kernel takes them away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.errors import ResourceError
from hpcmpi.partition import Range


class Scratch:
    """A scratch file of rows of the dtype and trailing shape of ``like``."""

    def __init__(self, folder: str | None, like: NDArray[Any]) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as its rows
        self._dtype, self._shape = like.dtype, like.shape[1:]
        self._row_bytes = like.dtype.itemsize * int(np.prod(like.shape[1:], dtype=np.int64))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows."""
        return self._dtype

    def close(self) -> None:
        """Let go of the file; arrays over it stay."""
        self._file.close()

    def write(self, rows: NDArray[Any], start: int) -> None:
        """Write ``rows`` from row ``start`` on."""
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        at = start * self._row_bytes
        while data.nbytes:
            count = os.pwrite(self._file.fileno(), data, at)
            data, at = data[count:], at + count

    def empty(self, rows: int) -> NDArray[Any]:
        """Memory for so many rows."""
        return np.empty((rows, *self._shape), self._dtype)

    def read(self, parts: Sequence[Range], out: NDArray[Any]) -> None:
        """Read rows ``parts``, one behind the other, into the contiguous ``out``, which they fill."""
        at = 0
        for part in parts:
            self._read(part, out[at : at + part.size])
            at += part.size

    def _read(self, part: Range, out: NDArray[Any]) -> None:
        view, at = out.reshape(-1).view(np.uint8).data, part.start * self._row_bytes
        while view.nbytes:
            count = os.preadv(self._file.fileno(), [view], at)
            view, at = view[count:], at + count

    def mapped(self, rows: int) -> NDArray[Any]:
        """The first ``rows`` rows, as an array over the file; zeros where nothing has been written."""
        if rows == 0:
            return np.empty((0, *self._shape), self._dtype)
        if os.fstat(self._file.fileno()).st_size < rows * self._row_bytes:
            os.truncate(self._file.fileno(), rows * self._row_bytes)
        return np.memmap(self._file, self._dtype, "r", shape=(rows, *self._shape))


@contextmanager
def told(comm: MPI.Comm, folder: str | None) -> Iterator[None]:
    """Turn the OSError of a full or missing scratch folder into ResourceError on all ranks."""
    with collective.agreement(comm):
        try:
            yield
        except OSError as error:
            where = folder or tempfile.gettempdir()
            raise ResourceError(f"{where}: scratch cannot be written: {error.strerror or error}") from error
