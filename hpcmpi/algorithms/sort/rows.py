"""Rows: what is sorted where more than the keys' values moves.

A row has *words*, int64 by which rows are ordered, the most significant first, and *columns*, which travel along. The
last word holds the row's global position in the input, so that no two rows are equal: every method gives the one stable
order. Rows of one word are plain keys, of which equal ones cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import threads
from hpcmpi.algorithms.sort.rows_kernels import CHUNK, classify, count_ties, deal, pack, span, unpack
from hpcmpi.partition import Range, block, pieces

_BUCKET = 1 << 17  # rows ordered at a time: words and packed words fit in the caches
_MOST_BUCKETS = 1 << 10  # more at once would be more places of memory than the processor has at hand
_STRIP = 1 << 20  # rows looked at again at a time
_FEWEST = 1 << 16  # rows a thread that are worth a thread


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


def partition(rows: Rows, splitters: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Bring ``rows`` in the order of their classes, and tell how many each class has.

    ``splitters`` are rows, words of (P - 1,) each, ascending. Row x is in class #{c : splitter c <= x}, by all words.
    Within a class rows stay in their order.
    """
    classes = len(splitters[0]) + 1
    dealing = _Dealing(rows.words[0], splitters[0])
    _decide(rows.words, splitters, dealing)
    _, order = dealing.deal()
    rows.replace(lambda array: np.take(array, order, axis=0))
    return dealing.counts[:classes]


def _decide(words: Sequence[NDArray[np.int64]], splitters: Sequence[NDArray[np.int64]], dealing: _Dealing) -> None:
    """Set the classes of rows whose first word is a splitter's: by all words, found by bisection."""
    first, n = splitters[0], len(splitters[0])
    moved = False
    for part in pieces(Range(0, len(words[0])), _STRIP):
        ids = dealing.ids[part.slice]
        np.minimum(ids, n, out=ids)  # the classes above are of splitters that only fill up
        at = np.flatnonzero((ids > 0) & (first[ids - 1] == words[0][part.slice])) if n else np.empty(0, np.intp)
        if at.size == 0:
            continue
        own = [word[part.slice][at] for word in words]
        low, high = np.searchsorted(first, own[0], "left"), ids[at].astype(np.int64)
        while (undecided := low < high).any():
            middle = (low + high) // 2
            above = np.zeros(len(at), np.bool_)  # the splitter is above the row
            equal = undecided.copy()
            for word, splitter in zip(own, splitters, strict=True):
                other = splitter[np.minimum(middle, n - 1)]
                above |= equal & (other > word)
                equal &= other == word
            low = np.where(undecided & ~above, middle + 1, low)
            high = np.where(above, middle, high)
        ids[at] = low
        moved = True
    if moved or dealing.counts[n + 1 :].any():
        dealing.count()


class _Dealing:
    """Rows on their way to classes: ``ids`` (n,) int16 tells each row's class, ``counts`` how many each class has."""

    def __init__(self, words: NDArray[np.int64], splitters: NDArray[np.int64]) -> None:
        self._words = words
        depth = len(splitters).bit_length()
        filled = np.full((1 << depth) - 1, np.iinfo(np.int64).max)
        filled[: len(splitters)] = splitters
        count = max(1, min(threads.available(), len(words) // _FEWEST))
        self._parts = [block(len(words), count, t).slice for t in range(count)]
        self.ids: NDArray[np.signedinteger[Any]] = np.empty(len(words), np.int16 if depth < 16 else np.int32)
        self._counts = np.zeros((count, 1 << depth), np.int64)

        def find(t: int) -> None:
            part = self._parts[t]
            classify(words[part], filled, self.ids[part], self._counts[t], np.empty(CHUNK, np.int64))

        self._share(find)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each class."""
        total: NDArray[np.int64] = self._counts.sum(0)
        return total

    def count(self) -> None:
        """Count again, after ``ids`` have been changed."""
        for t, part in enumerate(self._parts):
            self._counts[t] = np.bincount(self.ids[part], minlength=self._counts.shape[1])

    def deal(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first word and the numbers of the rows, by class."""
        place, words = self._places(), self._words
        out, numbers = np.empty_like(words), np.empty(len(words), np.int64)

        def give(t: int) -> None:
            part = self._parts[t]
            deal(words[part], part.start, self.ids[part], place[t], out, numbers)

        self._share(give)
        return out, numbers

    def _places(self) -> NDArray[np.int64]:
        """Where each thread's rows of each class go."""
        before = np.cumsum(self._counts, axis=0) - self._counts
        ends = np.cumsum(self.counts)
        return before + (ends - self.counts)

    def _share(self, work: Callable[[int], None]) -> None:
        _share(work, len(self._parts))


def _share(work: Callable[[int], None], parts: int) -> None:
    """``work(part)`` for all parts, on this rank's threads."""
    threads.share(work, range(parts), min(parts, threads.available()))


def order_of(words: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The permutation that orders the rows of ``words``; rows that are equal stay in their order.

    Rows are dealt out to buckets that fit in the cache. There, the first word less the bucket's least is packed with
    the place in the bucket into 64 bits, and ``np.sort`` sorts these. Where the first word takes more bits than there
    are, or is equal, all words decide.
    """
    dealing = _Dealing(words[0], _splitters(words[0]))
    dealt, numbers = dealing.deal()
    edges = np.cumsum([0, *dealing.counts]).tolist()
    filled = [slice(start, stop) for start, stop in pairwise(edges) if stop - start > 1]

    def order(number: int) -> None:
        part = filled[number]
        _order_bucket(dealt[part], numbers[part], words)

    _share(order, len(filled))
    return numbers


def _order_bucket(first: NDArray[np.int64], numbers: NDArray[np.int64], words: Sequence[NDArray[np.int64]]) -> None:
    """Bring ``numbers``, of rows of ``words`` whose first word is ``first``, in the order of these rows."""
    bits = np.uint64((len(first) - 1).bit_length())
    least, greatest = span(first)
    shift = max(0, (int(greatest) - int(least)).bit_length() - (64 - int(bits)))
    packed = np.empty(len(first), np.uint64)
    pack(first, least, np.uint64(shift), bits, packed)
    packed.sort()
    before = numbers.copy()
    unpack(packed, bits, before, numbers)
    if count_ties(packed, bits):
        packed >>= bits
        tied = packed[1:] == packed[:-1]
        at = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        _decide_ties(words, numbers, packed, at)


def _decide_ties(
    words: Sequence[NDArray[np.int64]], numbers: NDArray[np.int64], prefix: NDArray[np.uint64], at: NDArray[np.intp]
) -> None:
    """Bring ``numbers[at]`` of rows whose ``prefix`` leaves them undecided in order."""
    rows, group = numbers[at], prefix[at]
    undecided = group[1:] == group[:-1]
    above = np.zeros(len(undecided), np.bool_)
    for word in words:
        values = word[rows]
        above |= undecided & (values[1:] < values[:-1])
        undecided &= values[1:] == values[:-1]
    if above.any():
        numbers[at] = rows[np.lexsort((rows, *(word[rows] for word in reversed(words)), group))]


def _splitters(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Splitters into buckets of about ``_BUCKET`` rows, from a sample."""
    buckets = min(_MOST_BUCKETS, 1 << (len(words) // _BUCKET).bit_length())
    if buckets <= 1 or len(words) <= 2 * _BUCKET:
        return np.empty(0, np.int64)
    sample = np.sort(words[:: max(1, len(words) // (64 * buckets))])
    return sample[np.arange(1, buckets) * len(sample) // buckets]
