"""Exact cuts: where sorted rows, spread over all ranks, are to be cut so that so many rows lie below.

The order-preserving integers are found digit by digit, four bits at a time, for all cuts at once: at each step every
rank counts its rows below each candidate by binary search, and one Allreduce adds them up. Then the rows that are equal
to the found ones are dealt out in the order of the ranks. Runs of a rank count as ranks of their own, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.comm import allreduce

Words = Sequence[NDArray[Any]]

_DIGIT = 4  # bits: more make more candidates, fewer more steps


def cuts(comm: MPI.Comm, runs: Sequence[Words], targets: Sequence[int]) -> NDArray[np.int64]:
    """Places in each of this rank's sorted runs below which, over all ranks, exactly ``targets`` rows lie.

    A run is its words. Returns (runs, targets) int64. Targets are between 0 and the number of all rows, ascending, so
    that the places are too. Collective; ranks may have different numbers of runs, also none.
    """
    wanted = np.asarray(targets, np.int64)
    shape = (len(runs), wanted.size)
    low = np.zeros(shape, np.int64)
    high = np.array([[len(run[0])] * wanted.size for run in runs], np.int64).reshape(shape)
    words = allreduce(comm, np.array([max((len(run) for run in runs), default=0)]), MPI.MAX)[0]
    bits = allreduce(comm, np.array([max((8 * run[0].itemsize for run in runs), default=8)]), MPI.MAX)[0]
    for number in range(int(words)):
        columns = [run[number] for run in runs]
        value = _select(comm, columns, low, high, wanted, int(bits))
        low, high = _narrowed(columns, low, high, value)
    equal = high - low
    mine = equal.sum(axis=0)
    before = np.sum(comm.allgather(mine)[: comm.rank], axis=0, dtype=np.int64)
    rest = wanted - allreduce(comm, low.sum(axis=0)) - before
    for run in range(len(runs)):
        low[run] += np.clip(rest, 0, equal[run])
        rest -= equal[run]
    return low


def _select(
    comm: MPI.Comm,
    columns: Sequence[NDArray[Any]],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    wanted: NDArray[np.int64],
    bits: int,
) -> NDArray[np.int64]:
    """The greatest word for each target below which, with all rows before ``low``, at most ``wanted`` rows lie."""
    value = np.full(wanted.size, -(1 << (bits - 1)), np.int64)
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        # The upper half of the uppermost digit wraps around, as sums with the least int64 do.
        steps = (np.arange(1, 1 << _DIGIT, dtype=np.uint64) << np.uint64(shift)).view(np.int64)
        candidates = value[:, None] + steps
        below = np.zeros(candidates.shape, np.int64)
        for run, column in enumerate(columns):
            below += _found(column, low[run], high[run], candidates, "left")
        digits = (allreduce(comm, below) <= wanted[:, None]).sum(axis=1)
        value = np.where(digits > 0, candidates[np.arange(wanted.size), digits - 1], value)
    return value


def _narrowed(
    columns: Sequence[NDArray[Any]], low: NDArray[np.int64], high: NDArray[np.int64], value: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The parts of the runs whose words are ``value``."""
    first, last = low.copy(), high.copy()
    for run, column in enumerate(columns):
        first[run] = _found(column, low[run], high[run], value[:, None], "left")[:, 0]
        last[run] = _found(column, low[run], high[run], value[:, None], "right")[:, 0]
    return first, last


def _found(
    column: NDArray[Any],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    words: NDArray[np.int64],
    side: Literal["left", "right"],
) -> NDArray[np.int64]:
    """Where ``words[j]`` would be inserted in ``column[low[j]:high[j]]``, as places in ``column``: of words' shape.

    Parts that are not empty are disjoint or the same, and ascend: one search serves all targets of a part.
    """
    places = np.repeat(low[:, None], words.shape[1], axis=1)
    some = np.flatnonzero(high > low)
    for same in np.split(some, np.flatnonzero(np.diff(low[some])) + 1):
        if same.size:
            first, last = int(low[same[0]]), int(high[same[0]])
            places[same] += np.searchsorted(column[first:last], words[same].astype(column.dtype), side)
    return places
