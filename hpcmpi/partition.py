"""Who owns what: closed-form integer arithmetic, no communication.

A dimension of length n is cut into ``parts`` balanced contiguous ranges; a grid numbers its ranks in row-major order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

Grid3 = tuple[int, int, int]


class Range(NamedTuple):
    """Half-open range of global indices."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of indices."""
        return self.stop - self.start

    @property
    def slice(self) -> slice:
        """The range as an index."""
        return slice(self.start, self.stop)


def block(n: int, parts: int, part: int) -> Range:
    """Range ``part`` of ``parts`` balanced ranges of ``range(n)``: sizes differ by at most one."""
    return Range(n * part // parts, n * (part + 1) // parts)


def part_of(whole: Range, parts: int, part: int) -> Range:
    """Range ``part`` of ``parts`` balanced ranges of ``whole``."""
    inner = block(whole.size, parts, part)
    return Range(whole.start + inner.start, whole.start + inner.stop)


def owner(n: int, parts: int, index: int) -> int:
    """The part whose range holds ``index``: the inverse of :func:`block`."""
    return ((index + 1) * parts - 1) // n


def coordinates(grid: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Place of ``rank`` in a row-major ``grid``."""
    place: list[int] = []
    for extent in reversed(grid):
        rank, last = divmod(rank, extent)
        place.append(last)
    return tuple(reversed(place))


def grid_block(shape: tuple[int, ...], grid: tuple[int, ...], rank: int) -> tuple[Range, ...]:
    """Ranges, one a dimension, that ``rank`` owns of an array of ``shape`` dealt to a row-major ``grid``."""
    return tuple(block(n, parts, part) for n, parts, part in zip(shape, grid, coordinates(grid, rank), strict=True))


def grids(ranks: int) -> Iterator[tuple[int, int]]:
    """Every 2-D grid of exactly ``ranks`` ranks."""
    return ((rows, ranks // rows) for rows in range(1, ranks + 1) if ranks % rows == 0)


def three_dimensional(grid: tuple[int, ...]) -> Grid3:
    """``grid`` with one layer if it has two dimensions; ValueError for what is no grid of either kind."""
    if len(grid) not in (2, 3) or min(grid) < 1:
        raise ValueError(f"{' x '.join(map(str, grid))} is no grid: two or three numbers from 1 on are expected")
    rows, columns, layers = *grid, *(1,) * (3 - len(grid))
    return int(rows), int(columns), int(layers)


def grids_3d(ranks: int) -> Iterator[Grid3]:
    """Every 3-D grid of exactly ``ranks`` ranks."""
    return ((*grid, ranks // layer) for layer in range(1, ranks + 1) if ranks % layer == 0 for grid in grids(layer))


def pieces(whole: Range, longest: int) -> Iterator[Range]:
    """Cut ``whole`` into consecutive ranges of at most ``longest`` indices."""
    return (Range(at, min(at + longest, whole.stop)) for at in range(whole.start, whole.stop, longest))


def common_refinement(n: int, *cuts: int) -> list[Range]:
    """Non-empty ranges of ``range(n)``, each inside one block of every partition into ``cuts`` parts."""
    edges = sorted({block(n, parts, part).start for parts in cuts for part in range(parts)} | {n})
    return [Range(a, b) for a, b in pairwise(edges)]
