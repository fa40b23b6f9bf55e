"""Out of core: C = A B by tiles, from files to a file, each rank its block of C by itself.

A tile of C stays in memory while the panels of A and B that it needs come by: a thread reads the next two while BLAS
multiplies these. A finished tile goes to a scratch file, which has no name and so ends with the process. Each element
of A is read once for each column of tiles, each of B once for each row of them; tiles are as large as memory allows.

Ranks do not talk to each other: what others hold too is read, or drawn, again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.algorithms.matmul.cost import Tile
from hpcmpi.algorithms.matmul.layout import BlockLayout
from hpcmpi.blas import gemm
from hpcmpi.partition import Range, pieces
from hpcmpi.store.scratch import Scratch

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


Readable = NDArray[Any] | Outside
"""This rank's part of a matrix, in memory or not."""


@dataclass(frozen=True)
class StreamBlocks:
    """This rank's blocks of C = A B on ``layout``, out of core: A and B are read, or drawn, by parts; C is on disk."""

    layout: BlockLayout
    a: Outside
    b: Outside
    c: Scratch


def stream(rank: int, blocks: StreamBlocks, tile: Tile, advance: Callable[[int], None]) -> int:
    """Fill ``blocks.c`` with the block of A B of this ``rank``; return the bytes that were read. Local."""
    (rows, columns), k = blocks.layout.c(rank), blocks.layout.k
    steps = [
        (part_m, part_n, part_k)
        for part_m in pieces(rows, tile.m)
        for part_n in pieces(columns, tile.n)
        for part_k in (pieces(Range(0, k), tile.k) if k else [Range(0, 0)])
    ]

    def fetch(step: tuple[Range, Range, Range]) -> tuple[NDArray[Any], NDArray[Any]]:
        part_m, part_n, part_k = step
        return blocks.a.read(part_m, part_k), blocks.b.read(part_k, part_n)

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
                blocks.c.write(product, part_m.start - rows.start, part_n.start - columns.start)
    return nbytes
