"""Checks of a sorted result: order on every rank and across ranks, and that nothing was lost or made up.

They work on the keys' values, not on images: comparisons by NumPy, and a sum of mixed bits that is the same in any
order, so that two different multisets agree by chance once in 2^64. Of an order or of columns, more is checked: the
positions are a permutation, the keys and columns fetched from there are those of the result, and equal keys ascend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.sort.kernels import checksum
from hpcmpi.algorithms.sort.records import compared
from hpcmpi.partition import Range, pieces

_STRIP_BYTES = 2 << 20  # of rows that are checked at a time


class Multiset(NamedTuple):
    """Keys without their order: how many, and the sum, modulo 2^64, of their mixed bits."""

    n: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.n} keys with checksum {self.checksum:016x}"


def multiset(comm: MPI.Comm, strips: Iterable[NDArray[Any]]) -> Multiset:
    """The multiset of the keys in all ranks' ``strips``; all NaN are one."""
    n = total = 0
    for keys in strips:
        bits = one_nan(np.array(keys))
        n += len(bits)
        total += int(checksum(bits.view(f"i{bits.dtype.itemsize}").astype(np.int64)))
    sizes, totals = zip(*comm.allgather((n, total)), strict=True)
    return Multiset(sum(sizes), sum(totals) % 2**64)


def one_nan(keys: NDArray[Any]) -> NDArray[Any]:
    """``keys``, modified: every NaN is the one quiet NaN."""
    if keys.dtype.kind == "f":
        keys[np.isnan(keys)] = np.nan
    return keys


def strip_rows(row_bytes: int) -> int:
    """Rows of ``row_bytes`` that are checked at a time."""
    return max(1, _STRIP_BYTES // max(1, row_bytes))


def strips(keys: NDArray[Any]) -> Iterable[NDArray[Any]]:
    """``keys``, or rows, in pieces that are checked at a time."""
    return (keys[part.slice] for part in pieces(Range(0, len(keys)), strip_rows(_row_bytes(keys))))


def _row_bytes(array: NDArray[Any]) -> int:
    return array.itemsize * math.prod(array.shape[1:])


def unordered(keys: NDArray[Any], *, descending: bool) -> NDArray[np.bool_]:
    """For each key, or row of bytes, but the first, whether it must not come after the one before it."""
    if keys.ndim == 2:
        return np.asarray(compared(keys) == (1 if descending else -1))
    before, after = keys[:-1], keys[1:]
    wrong = before < after if descending else before > after
    if keys.dtype.kind == "f":
        zeros = (before == 0) & (after == 0)
        early = np.signbit(before) & ~np.signbit(after) if descending else np.signbit(after) & ~np.signbit(before)
        wrong = wrong | (np.isnan(before) & ~np.isnan(after)) | (zeros & early)
    return np.asarray(wrong)


def disorders(comm: MPI.Comm, keys: NDArray[Any], *, descending: bool) -> int:
    """Neighbours in all ranks' ``keys`` that are out of order."""
    found = sum(
        int(unordered(keys[max(0, part.start - 1) : part.stop], descending=descending).sum())
        for part in pieces(Range(0, len(keys)), strip_rows(keys.itemsize))
    )
    ends = [end for end in comm.allgather(np.array(keys[[0, -1]]) if len(keys) else None) if end is not None]
    seams = [np.array([a[1], b[0]], keys.dtype) for a, b in pairwise(ends)]
    between = sum(int(unordered(seam, descending=descending)[0]) for seam in seams)
    return int(collective.allreduce(comm, np.array([found]))[0]) + between


def fetched(comm: MPI.Comm, arrays: Sequence[NDArray[Any]], positions: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Rows of ``arrays`` (n_local, ...) at these global ``positions``, wherever they are."""
    starts = np.cumsum([0, *comm.allgather(len(arrays[0]))])
    owner = np.searchsorted(starts[1:], positions, "right")
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=comm.size).astype(np.int64)
    asked, came = collective.exchange(comm, positions[order], counts)
    found = []
    for array in arrays:
        answers, _ = collective.exchange(comm, array[asked - starts[comm.rank]], came)
        out = np.empty_like(answers)
        out[order] = answers
        found.append(out)
    return found


def permutation_faults(
    comm: MPI.Comm,
    before: Sequence[NDArray[Any]],
    after: Sequence[NDArray[Any]] | None,
    positions: NDArray[np.int64],
    *,
    descending: bool,
) -> str | None:
    """What is wrong with the order ``positions`` of the keys and columns ``before``, of which the result is ``after``.

    Keys, the first of ``before``, may be rows of bytes. ``after`` is None where only the order is the result. Returns
    None if all is well.
    """
    n = sum(comm.allgather(len(before[0])))
    place = collective.allreduce(comm, np.array([((positions < 0) | (positions >= n)).sum()]))
    start = sum(comm.allgather(len(before[0]))[: comm.rank])
    own = np.arange(start, start + len(before[0]), dtype=np.int64)
    if place[0] or multiset(comm, strips(own)) != multiset(comm, strips(positions)):
        return "the positions are no permutation"
    longest = strip_rows(8 + sum(map(_row_bytes, before)))
    rounds = int(collective.allreduce(comm, np.array([-(-len(positions) // longest)]), MPI.MAX)[0])
    faults = np.zeros(2, np.int64)
    last: tuple[NDArray[Any], NDArray[np.int64]] | None = None
    first: tuple[NDArray[Any], NDArray[np.int64]] | None = None
    for number in range(rounds):
        part = slice(number * longest, (number + 1) * longest)
        rows = fetched(comm, before, positions[part])
        if after is not None:
            expected = [one_nan(rows[0].copy()), *rows[1:]]
            faults[1] += sum(not _same_bits(a[part], b) for a, b in zip(after, expected, strict=True))
        if len(rows[0]) == 0:
            continue
        keys, places = rows[0], positions[part]
        if last is not None:
            keys, places = np.concatenate([last[0], keys]), np.concatenate([last[1], places])
        faults[0] += _unstable(keys, places, descending=descending)
        first = first or (keys[:1], places[:1])
        last = keys[-1:], places[-1:]
    ends = [end for end in comm.allgather((first, last) if first and last else None) if end is not None]
    for (_, upper), (lower, _) in pairwise(ends):
        keys, places = (np.concatenate([upper[k], lower[k]]) for k in (0, 1))
        faults[0] += _unstable(keys, places, descending=descending) * (comm.rank == 0)
    disorder, different = collective.allreduce(comm, faults)
    if disorder:
        return f"{disorder} neighbours are out of order"
    return f"{different} arrays differ from what their positions hold" if different else None


def _same_bits(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bytes; what lies between the fields of a structure does not count."""
    if found.dtype.names:
        return all(_same_bits(found[name], expected[name]) for name in found.dtype.names)
    a, b = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (found, expected))
    return np.array_equal(a, b)


def _unstable(keys: NDArray[Any], places: NDArray[np.int64], *, descending: bool) -> int:
    wrong = unordered(keys, descending=descending)
    same = compared(keys) == 0 if keys.ndim == 2 else keys[1:] == keys[:-1]
    if keys.dtype.kind == "f":
        same = (same & (np.signbit(keys[1:]) == np.signbit(keys[:-1]))) | (np.isnan(keys[1:]) & np.isnan(keys[:-1]))
    return int((wrong | (same & (places[1:] < places[:-1]))).sum())
