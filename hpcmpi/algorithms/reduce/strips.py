"""Lines of numbers as kernels take them: contiguous rows of one of four types, in strips that stay in cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcmpi.partition import Range, pieces

STRIP = 1 << 16  # numbers that are converted, or read by several kernels, at once
_TILE = 512  # of a line, when lines lie across the memory


class Strip(NamedTuple):
    """``rows`` (k, n), contiguous, of the lines from ``line`` on; their first elements are number ``at``."""

    line: int
    at: int
    rows: NDArray[Any]

    def of(self, table: NDArray[Any]) -> NDArray[Any]:
        """What lies in ``table`` (lines, n) where the strip does in the lines."""
        lines, n = self.rows.shape
        part: NDArray[Any] = table[self.line : self.line + lines, self.at : self.at + n]
        return part


def kernel_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that holds all values of ``dtype`` and that kernels take."""
    if dtype.kind in "iu" and dtype.itemsize == 8:
        return np.dtype(dtype.newbyteorder("="))
    return np.dtype(np.complex128 if dtype.kind == "c" else np.float64)


def strips(lines: NDArray[Any], *, whole: bool) -> Iterator[Strip]:
    """Cut ``lines`` (outer, inner, n), outer * inner lines of n elements, into strips; converted or copied if need be.

    With ``whole`` what needs no conversion comes as one strip. Strips must not be written to, and hold until the next.
    """
    outer, inner, n = lines.shape
    target = kernel_dtype(lines.dtype)
    flat = lines[:, 0] if inner == 1 else lines
    if inner == 1 and lines.dtype == target and flat.flags.carray:
        if whole:
            yield Strip(0, 0, flat)
        elif n > STRIP:
            for line in range(outer):
                for part in pieces(Range(0, n), STRIP):
                    yield Strip(line, part.start, flat[line : line + 1, part.slice])
        else:
            for some in pieces(Range(0, outer), STRIP // n):
                yield Strip(some.start, 0, flat[some.slice])
        return
    room = np.empty(min(STRIP, lines.size), target)
    if inner * n <= STRIP:
        for some in pieces(Range(0, outer), STRIP // (inner * n)):
            copy = room[: some.size * inner * n]
            np.copyto(copy.reshape(some.size, inner, n), lines[some.slice])
            yield Strip(some.start * inner, 0, copy.reshape(some.size * inner, n))
        return
    width = max(1, min(inner, STRIP // min(n, _TILE)))
    for o in range(outer):
        for some in pieces(Range(0, inner), width):
            for part in pieces(Range(0, n), STRIP // some.size):
                copy = room[: some.size * part.size].reshape(some.size, part.size)
                np.copyto(copy, lines[o, some.slice, part.slice])
                yield Strip(o * inner + some.start, part.start, copy)


def real_parts(rows: NDArray[Any]) -> tuple[NDArray[np.float64], ...]:
    """The float64 numbers that ``rows`` are made of: themselves, or real and imaginary parts."""
    if rows.dtype.kind == "c":
        return np.ascontiguousarray(rows.real), np.ascontiguousarray(rows.imag)
    return (rows,)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "hpcmpi-reduce")


def at_once(work: Callable[[Any], Any], items: Iterable[Any], threads: int) -> list[Any]:
    """``[work(item) for item in items]`` on ``threads`` threads; kernels do not hold the interpreter's lock."""
    if threads == 1:
        return [work(item) for item in items]
    return list(_pool(threads).map(work, items))
