"""Finding out which columns sparse rows refer to, with one bit a column."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi import simd
from hpcmpi.jit import kernel

_ones: Any = simd.count_ones
_zeros: Any = simd.count_trailing_zeros
_1, _6, _63 = np.uint64(1), np.uint64(6), np.uint64(63)


@kernel()
def mark(indices: NDArray[Any], start: int, stop: int, words: NDArray[np.uint64]) -> np.int64:
    """Set the bits of [start, stop) and of all ``indices``; return how many bits are set."""
    for own in range(start, stop):
        j = np.uint64(own)
        words[j >> _6] |= _1 << (j & _63)
    for k in range(indices.size):
        j = np.uint64(indices[k])
        words[j >> _6] |= _1 << (j & _63)
    total = np.int64(0)
    for w in range(words.size):
        total += np.int64(_ones(words[w]))
    return total


@kernel()
def unmark(words: NDArray[np.uint64], before: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
    """Fill ``before`` with the bits that are set before each word, and ``columns`` with the numbers of all that are."""
    at = 0
    for w in range(words.size):
        before[w] = at
        left = words[w]
        while left:
            columns[at] = 64 * w + np.int64(_zeros(left))
            left &= left - _1
            at += 1


@kernel()
def renumber(indices: NDArray[Any], words: NDArray[np.uint64], before: NDArray[np.int64], places: NDArray[Any]) -> None:
    """``places[k]`` = the bits that are set before that of ``indices[k]``."""
    for k in range(indices.size):
        j = np.uint64(indices[k])
        w = j >> _6
        places[k] = before[w] + np.int64(_ones(words[w] & ((_1 << (j & _63)) - _1)))


@kernel()
def blocks_with_halo(
    indptr: NDArray[np.uint64], indices: NDArray[Any], first: int, last: int, rows: int, halo: NDArray[np.bool_]
) -> None:
    """Tell which blocks of ``rows`` rows refer to a column outside [first, last)."""
    for b in range(halo.size):
        top = min((b + 1) * rows, indptr.size - 1)
        for k in range(indptr[b * rows], indptr[top]):
            j = np.int64(indices[k])
            if j < first or j >= last:
                halo[b] = True
                break
