"""Scratch files: what nobody needs once the job is over. They have no names, so the kernel takes them away with it."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.errors import ResourceError, UsageError
from hpcmpi.machine import free_disk
from hpcmpi.partition import Range
from hpcmpi.record import human_bytes
from hpcmpi.store.kind import kind


class Scratch:
    """A matrix in a nameless file in ``folder``, written and read by tiles, which ranks of a ``node`` have in common.

    To make it is collective over ``node``, nothing else. Raises ResourceError where the folder is full or missing.
    """

    def __init__(
        self, folder: str | None, shape: tuple[int, int], dtype: np.dtype[Any], node: MPI.Comm = MPI.COMM_SELF
    ) -> None:
        self._where = folder or tempfile.gettempdir()
        self._shape, self._dtype = shape, dtype
        name: str | None = collective.on_root(node, self._make)
        try:
            with collective.agreement(node), _told(self._where):
                if name is not None and node.rank > 0:
                    self._descriptor = os.open(name, os.O_RDWR)
        finally:
            if name is not None and node.rank == 0:
                Path(name).unlink()
        weakref.finalize(self, os.close, self._descriptor)

    def _make(self) -> str:
        """Make the file on rank 0; return its name, which it has until all ranks have opened it."""
        with _told(self._where):
            self._descriptor, name = tempfile.mkstemp(prefix="hpcmpi-scratch-", dir=self._where)
            try:
                os.truncate(self._descriptor, self._shape[0] * self._shape[1] * self._dtype.itemsize)
            except OSError:  # such as a file system that holds no file so large
                Path(name).unlink()
                os.close(self._descriptor)
                raise
            return name

    def _at(self, row: int, column: int) -> int:
        return (row * self._shape[1] + column) * self._dtype.itemsize

    def write(self, tile: NDArray[Any], row: int, column: int) -> None:
        """Write a contiguous ``tile`` whose first element is at ``row``, ``column``."""
        lines = tile.reshape(1, -1) if tile.shape[1] == self._shape[1] else tile
        with _told(self._where):
            for number, line in enumerate(lines):
                data, at = line.view(np.uint8).data, self._at(row + number, column)
                while data.nbytes:
                    written = os.pwrite(self._descriptor, data, at)
                    data, at = data[written:], at + written

    def read(self, rows: Range, columns: Range | None = None) -> NDArray[Any]:
        """``rows``, or the ``columns`` of them, as an array of their own."""
        columns = columns or Range(0, self._shape[1])
        out = np.empty((rows.size, columns.size), self._dtype)
        if out.size:
            for number, line in enumerate(out.reshape(1, -1) if columns.size == self._shape[1] else out):
                data, at = line.view(np.uint8).data, self._at(rows.start + number, columns.start)
                while data.nbytes:
                    found = os.preadv(self._descriptor, [data], at)
                    data, at = data[found:], at + found
        return out

    def mapped(self) -> NDArray[Any]:
        """All of it, over the file, whose pages the system brings in and drops as it sees fit."""
        if 0 in self._shape:
            return np.empty(self._shape, self._dtype)
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            return np.memmap(file, self._dtype, "r", shape=self._shape)


@contextmanager
def _told(where: str | None) -> Iterator[None]:
    """Turn the OSError of a full or missing scratch folder into ResourceError."""
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"{where or tempfile.gettempdir()}: scratch cannot be written: {error.strerror or error}"
        ) from error


def check_folder(folder: str | None) -> None:
    """Raise UsageError unless ``--scratch`` names a folder. Local."""
    if folder is not None and (found := kind(folder)) != "folder":
        raise UsageError(f"--scratch {folder}: {'no such folder' if found == 'missing' else 'is a file'}")


def check_free(comm: MPI.Comm, folder: str | None, nbytes: int, beside: tuple[Path, int] = (Path(), 0)) -> None:
    """Raise ResourceError, on all ranks, unless ``nbytes`` of each rank that shares the scratch folder fit in it.

    ``beside`` is the folder of the job's output and its bytes, which count too where both are on one disk.
    """
    ranks, with_root = _sharers(comm, folder)
    with collective.agreement(comm), _told(folder):
        where = Path(folder or tempfile.gettempdir())
        both = with_root and beside[0].is_dir() and beside[0].stat().st_dev == where.stat().st_dev
        output = beside[1] if both else 0
        needed, free = nbytes * ranks + output, free_disk(where)
        if needed > free:
            sharing = "1 rank needs" if ranks == 1 else f"{ranks} ranks that share it need"
            raise ResourceError(
                f"{where}: not enough scratch space: {sharing} {human_bytes(nbytes * ranks)}"
                + f" and the output {human_bytes(output)} of the same disk" * (output > 0)
                + f", {human_bytes(free)} is free: {human_bytes(needed - free)} short; --scratch names another folder"
            )


def _sharers(comm: MPI.Comm, folder: str | None) -> tuple[int, bool]:
    """Ranks that share this rank's scratch ``folder``, and whether rank 0 is one of them.

    Those of its node, or all that see what rank 0 puts there.
    """
    node = collective.split_node(comm)
    ranks = node.size
    node.Free()
    with collective.agreement(comm), _told(folder):
        mark = tempfile.NamedTemporaryFile(dir=folder) if comm.rank == 0 else None  # noqa: SIM115 - until all have looked
    seen = Path(comm.bcast(mark.name if mark else None)).exists()
    sharing = int(comm.allreduce(seen))
    if mark:
        mark.close()
    return (max(ranks, sharing), True) if seen else (ranks, False)
