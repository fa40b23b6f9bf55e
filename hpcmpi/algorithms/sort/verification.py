"""Checks of a sorted result: order on every rank and across ranks, and that nothing was lost or made up.

They work on the keys' values, not on images: comparisons by NumPy, and a sum of mixed bits that is the same in any
order, so that two different multisets agree by chance once in 2^64. Of an order or of columns, more is checked: the
positions are a permutation, the keys and columns fetched from there are those of the result, and equal keys ascend.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.sort.kernels import checksum
from hpcmpi.partition import Range, pieces

STRIP = 1 << 18
"""Keys that are checked at a time."""


def multiset(comm: MPI.Comm, strips: Iterable[NDArray[Any]]) -> int:
    """Sum, modulo 2^64, over the keys in all ranks' ``strips`` of their mixed bits; all NaN are one."""
    total = 0
    for keys in strips:
        bits = np.array(keys)
        if bits.dtype.kind == "f":
            bits[np.isnan(bits)] = np.nan
        total += int(checksum(bits.view(f"i{bits.dtype.itemsize}").astype(np.int64)))
    return int(sum(comm.allgather(total)) % 2**64)


def strips(keys: NDArray[Any]) -> Iterable[NDArray[Any]]:
    """``keys`` in pieces of at most ``STRIP``."""
    return (keys[part.slice] for part in pieces(Range(0, len(keys)), STRIP))


def unordered(keys: NDArray[Any], *, descending: bool) -> NDArray[np.bool_]:
    """For each key but the first, whether it must not come after the one before it."""
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
        for part in pieces(Range(0, len(keys)), STRIP)
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

    ``after`` is None where only the order is the result. Returns None if all is well.
    """
    n = sum(comm.allgather(len(before[0])))
    place = collective.allreduce(comm, np.array([((positions < 0) | (positions >= n)).sum()]))
    start = sum(comm.allgather(len(before[0]))[: comm.rank])
    own = np.arange(start, start + len(before[0]), dtype=np.int64)
    if place[0] or multiset(comm, strips(own)) != multiset(comm, strips(positions)):
        return "the positions are no permutation"
    rounds = int(collective.allreduce(comm, np.array([-(-len(positions) // STRIP)]), MPI.MAX)[0])
    faults = np.zeros(2, np.int64)
    last: tuple[NDArray[Any], NDArray[np.int64]] | None = None
    first: tuple[NDArray[Any], NDArray[np.int64]] | None = None
    for number in range(rounds):
        part = slice(number * STRIP, (number + 1) * STRIP)
        rows = fetched(comm, before, positions[part])
        if after is not None:
            faults[1] += sum(int(_differ(a[part], b)) for a, b in zip(after, rows, strict=True))
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


def _differ(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    if found.dtype.kind == "f":  # NaN are made one
        return not np.array_equal(found, expected, equal_nan=True)
    return not np.array_equal(found, expected)


def _unstable(keys: NDArray[Any], places: NDArray[np.int64], *, descending: bool) -> int:
    wrong = unordered(keys, descending=descending)
    same = keys[1:] == keys[:-1]
    if keys.dtype.kind == "f":
        same = (same & (np.signbit(keys[1:]) == np.signbit(keys[:-1]))) | (np.isnan(keys[1:]) & np.isnan(keys[:-1]))
    return int((wrong | (same & (places[1:] < places[:-1]))).sum())
