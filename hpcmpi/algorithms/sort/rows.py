"""Rows: what is sorted where more than the keys' values moves.

A row has *words*, int64 by which rows are ordered, the most significant first, and *columns*, which travel along. The
last word holds the row's global position in the input, so that no two rows are equal: every method gives the one stable
order. Rows of one word are plain keys, of which equal ones cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import threads
from hpcmpi.algorithms.sort.rows_kernels import classify, deal, pack

_BUCKET = 1 << 16  # rows ordered at a time: words and packed words fit in the second-level cache
_MOST_BUCKETS = 1 << 11


class Rows(NamedTuple):
    """``words``: (n_local,) each; ``columns``: (n_local, ...) each. All C-contiguous."""

    words: tuple[NDArray[Any], ...]
    columns: tuple[NDArray[Any], ...] = ()

    @property
    def size(self) -> int:
        """Rows on this rank."""
        return len(self.words[0])

    def map(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Rows:
        """Rows of which each array is changed."""
        return Rows(tuple(map(change, self.words)), tuple(map(change, self.columns)))

    def part(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop``, as views."""
        return self.map(lambda array: array[start:stop])

    def sorted(self) -> Rows:
        """The rows in order; for plain keys that is ``np.sort``."""
        if len(self.words) == 1 and not self.columns:
            return Rows((np.sort(self.words[0]),))
        order = order_of(self.words)
        return self.map(lambda array: np.take(array, order, axis=0))

    def exchange(self, comm: MPI.Comm, counts: NDArray[np.int64]) -> Rows:
        """The first ``counts[0]`` rows go to rank 0, and so on; what has come, by rank."""
        return self.map(lambda array: collective.exchange(comm, array, counts)[0])

    def rebalance(self, comm: MPI.Comm) -> Rows:
        """The rows of all ranks, in their order, in blocks of nearly equal size."""
        return self.map(lambda array: collective.rebalance(comm, array))


def concatenate(parts: Sequence[Rows]) -> Rows:
    """One Rows of several."""
    return Rows(
        tuple(np.concatenate(arrays) for arrays in zip(*(part.words for part in parts), strict=True)),
        tuple(np.concatenate(arrays) for arrays in zip(*(part.columns for part in parts), strict=True)),
    )


def partition(rows: Rows, first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[Rows, NDArray[np.int64]]:
    """Rows by class, and how many each class has: row x is in class #{c : (first[c], second[c]) <= its first words}.

    Within a class rows stay in their order.
    """
    words = rows.words
    ids = np.empty(rows.size, np.int32)
    counts = np.zeros(len(first) + 1, np.int64)
    classify(words[0], words[min(1, len(words) - 1)], first, second, len(words) > 1, ids, counts)
    order = np.empty(rows.size, np.int64)
    deal(words[0], ids, np.cumsum(counts) - counts, np.empty(0, np.int64), order)
    return rows.map(lambda array: np.take(array, order, axis=0)), counts


def order_of(words: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The permutation that orders the rows of ``words``; rows that are equal stay in their order.

    Rows are dealt out to buckets that fit in the cache. There, the first word less the bucket's least is packed with
    the row's number into 64 bits, and ``np.sort`` sorts these. Where the first word takes more bits than there are, or
    is equal, the order is mended by all words.
    """
    first = words[0]
    order = np.empty(len(first), np.int64)
    if len(first) <= 2 * _BUCKET:
        _order_bucket(words, first, None, order)
        return order
    buckets = min(_MOST_BUCKETS, len(first) // _BUCKET)
    sample = np.sort(first[:: max(1, len(first) // (32 * buckets))])
    splitters = np.unique(sample[np.arange(1, buckets) * len(sample) // buckets])
    ids, counts = np.empty(len(first), np.int32), np.zeros(len(splitters) + 1, np.int64)
    classify(first, first, splitters, splitters, False, ids, counts)
    dealt, rows = np.empty_like(first), np.empty(len(first), np.int64)
    ends = np.cumsum(counts)
    deal(first, ids, ends - counts, dealt, rows)
    del ids

    def bucket(number: int) -> None:
        part = slice(int(ends[number] - counts[number]), int(ends[number]))
        _order_bucket(words, dealt[part], rows[part], order[part])

    with ThreadPoolExecutor(threads.available()) as pool:
        list(pool.map(bucket, range(len(counts))))
    return order


def _order_bucket(
    words: Sequence[NDArray[np.int64]], first: NDArray[np.int64], rows: NDArray[np.int64] | None, out: NDArray[np.int64]
) -> None:
    """Fill ``out`` with the numbers of ``rows`` (None: 0, 1, ...), whose first words are ``first``, in order."""
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
    out[:] = places if rows is None else rows[places]
    if tied.any() and (len(words) > 1 or shift):
        _mend(words, packed, tied, out)


def _mend(
    words: Sequence[NDArray[np.int64]], prefix: NDArray[np.uint64], tied: NDArray[np.bool_], out: NDArray[np.int64]
) -> None:
    """Order the rows that have the same ``prefix`` as a neighbour by all words, if they are not in order."""
    at = np.flatnonzero(tied | np.append(tied[1:], False))
    rows, group = out[at], prefix[at]
    above = np.zeros(len(at) - 1, np.bool_)
    undecided = group[1:] == group[:-1]
    for word in words:
        values = word[rows]
        above |= undecided & (values[1:] < values[:-1])
        undecided &= values[1:] == values[:-1]
    if above.any():
        out[at] = rows[np.lexsort((*(word[rows] for word in reversed(words)), group))]
