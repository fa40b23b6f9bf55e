"""Out of core: C = A B by tiles, from files to a file, each rank its block of C by itself.

A tile of C stays in memory while the panels of A and B that it needs come by: a thread reads the next two while BLAS
multiplies these. A finished tile goes to a scratch file, which has no name and so ends with the process. Each element
of A is read once for each column of tiles, each of B once for each row of them; tiles are as large as memory allows.

Ranks do not talk to each other: what others hold too is read, or drawn, again.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.algorithms.matmul.cost import Tile
from hpcmpi.blas import gemm
from hpcmpi.errors import ResourceError
from hpcmpi.partition import Range, pieces

Read = Callable[[Range, Range], NDArray[Any]]
"""Rows and columns of a matrix that is not in memory, by their global indices. Local."""


@dataclass(frozen=True)
class Outside:
    """Rows and columns of a matrix that is not in memory; a slice of rows reads those, as of an array."""

    read: Read
    rows: Range
    columns: Range
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Its rows and columns."""
        return self.rows.size, self.columns.size

    def __len__(self) -> int:
        return self.rows.size

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.rows.size)
        return self.read(Range(self.rows.start + start, self.rows.start + stop), self.columns)


class Scratch:
    """A matrix in a nameless file in ``folder``, written by tiles and read by rows.

    Raises ResourceError where the folder is full or missing.
    """

    def __init__(self, folder: str | None, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._where = folder or tempfile.gettempdir()
        self._shape, self._dtype = shape, dtype
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                self._descriptor = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._descriptor)
            os.truncate(self._descriptor, shape[0] * shape[1] * dtype.itemsize)
        except OSError as error:
            raise self._told(error) from error

    def _told(self, error: OSError) -> ResourceError:
        return ResourceError(f"{self._where}: scratch cannot be written: {error.strerror or error}")

    def write(self, tile: NDArray[Any], row: int, column: int) -> None:
        """Write a contiguous ``tile`` whose first element is at ``row``, ``column``."""
        lines = tile.reshape(1, -1) if tile.shape[1] == self._shape[1] else tile
        try:
            for number, line in enumerate(lines):
                data = line.view(np.uint8).data
                at = ((row + number) * self._shape[1] + column) * self._dtype.itemsize
                while data.nbytes:
                    written = os.pwrite(self._descriptor, data, at)
                    data, at = data[written:], at + written
        except OSError as error:
            raise self._told(error) from error

    def read(self, rows: Range) -> NDArray[Any]:
        """Whole ``rows``, as an array of their own."""
        out = np.empty((rows.size, self._shape[1]), self._dtype)
        data, at = out.reshape(-1).view(np.uint8).data, rows.start * self._shape[1] * self._dtype.itemsize
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


def stream(
    read_a: Read,
    read_b: Read,
    c: Scratch,
    rows: Range,
    columns: Range,
    k: int,
    tile: Tile,
    advance: Callable[[int], None],
) -> int:
    """Fill ``c`` with ``rows`` and ``columns`` of A B; return the bytes that were read. Local."""
    steps = [
        (part_m, part_n, part_k)
        for part_m in pieces(rows, tile.m)
        for part_n in pieces(columns, tile.n)
        for part_k in (pieces(Range(0, k), tile.k) if k else [Range(0, 0)])
    ]

    def fetch(step: tuple[Range, Range, Range]) -> tuple[NDArray[Any], NDArray[Any]]:
        part_m, part_n, part_k = step
        return read_a(part_m, part_k), read_b(part_k, part_n)

    nbytes, room = 0, np.empty(0)
    with ThreadPoolExecutor(1, "hpcmpi-reader") as reader:
        coming = reader.submit(fetch, steps[0]) if steps else None
        for number, (part_m, part_n, part_k) in enumerate(steps):
            if coming is None:
                break
            a, b = coming.result()
            coming = reader.submit(fetch, steps[number + 1]) if number + 1 < len(steps) else None
            nbytes += a.nbytes + b.nbytes
            if room.size == 0:
                room = np.empty(min(tile.m, rows.size) * min(tile.n, columns.size), a.dtype)
            product = room[: part_m.size * part_n.size].reshape(part_m.size, part_n.size)
            gemm(a, b, product, accumulate=part_k.start > 0)
            advance(2 * product.size * part_k.size)
            del a, b  # before the next ones are asked for
            if part_k.stop == k:
                c.write(product, part_m.start - rows.start, part_n.start - columns.start)
    return nbytes
