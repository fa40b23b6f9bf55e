"""Exact cuts: where sorted rows, spread over all ranks, are to be cut so that so many rows lie below.

The order-preserving integers are found digit by digit, eight bits at a time, for all cuts at once: at each step every
rank counts its rows below each candidate by binary search, and one Allreduce adds them up. Then the rows that are equal
to the found ones are dealt out in the order of the ranks. Runs of a rank count as ranks of their own, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.comm import allreduce

Words = Sequence[NDArray[Any]]


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
    for shift in range(bits - 8, -1, -8):
        step = np.arange(1, 256, dtype=np.int64) << shift if shift < 56 else None
        candidates = value[:, None] + (step if step is not None else _top_steps())[None, :]
        below = np.zeros(candidates.shape, np.int64)
        for run, column in enumerate(columns):
            for j in range(wanted.size):
                part = column[low[run, j] : high[run, j]]
                below[j] += low[run, j] + np.searchsorted(part, candidates[j].astype(column.dtype))
        digits = (allreduce(comm, below) <= wanted[:, None]).sum(axis=1)
        value = np.where(digits > 0, candidates[np.arange(wanted.size), digits - 1], value)
    return value


def _top_steps() -> NDArray[np.int64]:
    """1 to 255 times 2^56, which wrap around beyond 127, as sums with the least int64 do."""
    return (np.arange(1, 256, dtype=np.uint64) << np.uint64(56)).view(np.int64)


def _narrowed(
    columns: Sequence[NDArray[Any]], low: NDArray[np.int64], high: NDArray[np.int64], value: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The parts of the runs whose words are ``value``."""
    first, last = low.copy(), high.copy()
    for run, column in enumerate(columns):
        for j, word in enumerate(value.astype(column.dtype)):
            part = column[low[run, j] : high[run, j]]
            first[run, j] = low[run, j] + np.searchsorted(part, word)
            last[run, j] = low[run, j] + np.searchsorted(part, word, "right")
    return first, last
