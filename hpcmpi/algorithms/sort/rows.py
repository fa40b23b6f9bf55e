"""Rows: what is sorted where more than the keys' values moves.

A row has *words*, int64 by which rows are ordered, the most significant first, and *columns*, which travel along. The
last word holds the row's global position in the input, so that no two rows are equal: every method gives the one stable
order. Rows of one word are plain keys, of which equal ones cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import threads
from hpcmpi.algorithms.sort.rows_kernels import classify, deal, pack

_BUCKET = 1 << 16  # rows ordered at a time: words and packed words fit in the second-level cache
_MOST_BUCKETS = 1 << 11


@dataclass
class Rows:
    """``words``: (n_local,) each; ``columns``: (n_local, ...) each. All C-contiguous.

    What changes rows does so array by array, and lets go of each as it is replaced: no array is modified, but memory
    for one more is enough.
    """

    words: Sequence[NDArray[Any]]
    columns: Sequence[NDArray[Any]] = ()

    @property
    def size(self) -> int:
        """Rows on this rank."""
        return len(self.words[0])

    def replace(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Rows:
        """Replace each array by ``change`` of it."""
        self.words, self.columns = words, columns = list(self.words), list(self.columns)
        for arrays in (words, columns):
            for number in range(len(arrays)):
                arrays[number] = change(arrays[number])
        return self

    def part(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop``, as new Rows of copies."""
        return Rows(self.words, self.columns).replace(lambda array: array[start:stop].copy())

    def sort(self) -> Rows:
        """Bring the rows in order; for plain keys that is ``np.sort``."""
        if len(self.words) == 1 and not self.columns:
            return self.replace(np.sort)
        order = order_of(self.words)
        return self.replace(lambda array: np.take(array, order, axis=0))

    def exchange(self, comm: MPI.Comm, counts: NDArray[np.int64]) -> Rows:
        """Send the first ``counts[0]`` rows to rank 0, and so on; what has come, by rank, takes their place."""
        return self.replace(lambda array: collective.exchange(comm, array, counts)[0])

    def rebalance(self, comm: MPI.Comm) -> Rows:
        """Deal the rows of all ranks, in their order, in blocks of nearly equal size."""
        return self.replace(lambda array: collective.rebalance(comm, array))


def concatenate(parts: Sequence[Rows]) -> Rows:
    """One Rows of several."""
    return Rows(
        tuple(np.concatenate(arrays) for arrays in zip(*(part.words for part in parts), strict=True)),
        tuple(np.concatenate(arrays) for arrays in zip(*(part.columns for part in parts), strict=True)),
    )


def partition(rows: Rows, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bring ``rows`` in the order of their classes, and tell how many each class has.

    Row x is in class #{c : (first[c], second[c]) <= the first two words of x}. Within a class rows stay in their order.
    """
    words = rows.words
    ids = np.empty(rows.size, np.int32)
    counts = np.zeros(len(first) + 1, np.int64)
    classify(words[0], words[min(1, len(words) - 1)], first, second, len(words) > 1, ids, counts)
    order = np.empty(rows.size, np.int64)
    deal(words[0], ids, np.cumsum(counts) - counts, np.empty(0, np.int64), order)
    del ids, words
    rows.replace(lambda array: np.take(array, order, axis=0))
    return counts


def order_of(words: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The permutation that orders the rows of ``words``; rows that are equal stay in their order.

    Rows are dealt out to buckets that fit in the cache. There, the first word less the bucket's least is packed with
    the row's number into 64 bits, and ``np.sort`` sorts these. Where the first word takes more bits than there are, or
    is equal, the order is mended by all words.
    """
    first = words[0]
    if len(first) <= 2 * _BUCKET:
        order = np.arange(len(first))
        _order_bucket(words, first, order)
        return order
    buckets = min(_MOST_BUCKETS, len(first) // _BUCKET)
    sample = np.sort(first[:: max(1, len(first) // (32 * buckets))])
    splitters = np.unique(sample[np.arange(1, buckets) * len(sample) // buckets])
    ids, counts = np.empty(len(first), np.int32), np.zeros(len(splitters) + 1, np.int64)
    classify(first, first, splitters, splitters, False, ids, counts)
    dealt, order = np.empty_like(first), np.empty(len(first), np.int64)
    ends = np.cumsum(counts)
    deal(first, ids, ends - counts, dealt, order)
    del ids

    def bucket(number: int) -> None:
        part = slice(int(ends[number] - counts[number]), int(ends[number]))
        _order_bucket(words, dealt[part], order[part])

    with ThreadPoolExecutor(threads.available()) as pool:
        list(pool.map(bucket, range(len(counts))))
    return order


def _order_bucket(words: Sequence[NDArray[np.int64]], first: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    """Bring the numbers ``rows``, ascending, whose first words are ``first``, in the order of all their words."""
    if len(first) == 0:
        return
    bits = max(1, (len(first) - 1).bit_length())
    least = first.min()
    spread = int(first.max()) - int(least)
    shift = max(0, spread.bit_length() - (64 - bits))
    packed = np.empty(len(first), np.uint64)
    pack(first, least, np.uint64(shift), np.uint64(bits), packed)
    packed.sort()
    places = (packed & np.uint64((1 << bits) - 1)).astype(np.int64)
    packed >>= np.uint64(bits)
    tied = np.concatenate([[False], packed[1:] == packed[:-1]])
    rows[:] = rows[places]
    if tied.any() and (len(words) > 1 or shift):
        _mend(words, packed, tied, rows)


def _mend(
    words: Sequence[NDArray[np.int64]], prefix: NDArray[np.uint64], tied: NDArray[np.bool_], order: NDArray[np.int64]
) -> None:
    """Order the rows that have the same ``prefix`` as a neighbour by all words, if they are not in order."""
    at = np.flatnonzero(tied | np.append(tied[1:], False))
    rows, group = order[at], prefix[at]
    above = np.zeros(len(at) - 1, np.bool_)
    undecided = group[1:] == group[:-1]
    for word in words:
        values = word[rows]
        above |= undecided & (values[1:] < values[:-1])
        undecided &= values[1:] == values[:-1]
    if above.any():
        order[at] = rows[np.lexsort((*(word[rows] for word in reversed(words)), group))]
