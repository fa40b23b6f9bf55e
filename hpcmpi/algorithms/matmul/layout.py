"""Which blocks of A, B and C each rank owns on a (pm x pn x pk) grid, which cuts m, n and k in so many parts.

Rank (l pm + i) pn + j is at row i, column j and layer l. Layer l multiplies the inner indices of its range K_l. The
ranks of a row share its A(M_i, K_l), each owning the columns of one of pn parts of K_l; those of a column share its
B(K_l, N_j), each owning the rows of one of pm parts of K_l; and of C(M_i, N_j), which is the sum over the layers, each
layer owns the rows of one of pk parts of M_i. So all three are dealt evenly, nothing is held twice, and with one layer
these are the blocks of a 2-D grid. Ranks beyond the grid own nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.partition import Grid3, Range, block, coordinates, part_of

Part = tuple[Range, Range]

_NOTHING = (Range(0, 0), Range(0, 0))


@dataclass(frozen=True)
class BlockLayout:
    """Blocks of the product of an m x k and a k x n matrix on ``grid``, rows and columns of each as ranges.

    In the library, :func:`matmul_layout` finds the best grid.
    """

    m: int
    n: int
    k: int
    grid: Grid3

    @property
    def ranks(self) -> int:
        """Ranks of the grid; those from here on are idle."""
        return math.prod(self.grid)

    def place(self, rank: int) -> tuple[int, int, int]:
        """Row, column and layer of ``rank``."""
        rows, columns, layers = self.grid
        layer, i, j = coordinates((layers, rows, columns), rank)
        return i, j, layer

    def rows(self, rank: int) -> Range:
        """M_i: the rows of A and C on which ``rank`` works."""
        return block(self.m, self.grid[0], self.place(rank)[0])

    def columns(self, rank: int) -> Range:
        """N_j: the columns of B and C on which ``rank`` works."""
        return block(self.n, self.grid[1], self.place(rank)[1])

    def inner(self, rank: int) -> Range:
        """K_l: the inner indices over which ``rank`` sums."""
        return block(self.k, self.grid[2], self.place(rank)[2])

    def a(self, rank: int) -> Part:
        """Block of A that ``rank`` owns."""
        if rank >= self.ranks:
            return _NOTHING
        return self.rows(rank), part_of(self.inner(rank), self.grid[1], self.place(rank)[1])

    def b(self, rank: int) -> Part:
        """Block of B that ``rank`` owns."""
        if rank >= self.ranks:
            return _NOTHING
        return part_of(self.inner(rank), self.grid[0], self.place(rank)[0]), self.columns(rank)

    def c(self, rank: int) -> Part:
        """Block of C that ``rank`` owns."""
        if rank >= self.ranks:
            return _NOTHING
        return part_of(self.rows(rank), self.grid[2], self.place(rank)[2]), self.columns(rank)


@dataclass(frozen=True)
class Blocks:
    """This rank's blocks of C = A B on ``layout``.

    ``partial`` (rows and columns of the rank's part of C) takes the sums of one layer of several, or else a new array.
    """

    layout: BlockLayout
    a: NDArray[Any]
    b: NDArray[Any]
    c: NDArray[Any]
    partial: NDArray[Any] | None = None

    def sums(self, rank: int) -> NDArray[Any]:
        """Where the layer of ``rank``, this rank, adds up: in C if it is the only one."""
        if self.layout.grid[2] == 1:
            return self.c
        shape = self.layout.rows(rank).size, self.b.shape[1]
        return np.empty(shape, self.c.dtype) if self.partial is None else self.partial


def grid_text(grid: tuple[int, ...]) -> str:
    """``grid`` as people read it, such as 4 x 3."""
    return " x ".join(map(str, grid))
