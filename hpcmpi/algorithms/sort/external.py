"""Sorting more than fits in memory: sorted runs in scratch files, exact cuts across all of them, merged by sorting.

1. Each rank reads its part in chunks, sorts each, and appends it to its scratch files as a run.
2. Exact cuts (:mod:`selection`) across the runs of all ranks, found by binary search in the files, divide the rows into
   steps: each rank's block of the result, cut where memory is full.
3. In each step every rank receives its rows from all runs of all ranks, sorts them, and appends them to its result.

The scratch files have no names: whatever ends the process, the kernel takes them away.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.sort.rows import Rows
from hpcmpi.algorithms.sort.sample import Report
from hpcmpi.algorithms.sort.selection import cuts
from hpcmpi.errors import ResourceError
from hpcmpi.partition import Range, block

COPIES = 4
"""Copies of its rows that a step holds at most: as read or received, sent, sorted, and their order."""


class _Scratch:
    """A scratch file of rows of one dtype and trailing shape, without a name."""

    def __init__(self, folder: str | None, like: NDArray[Any]) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as its rows
        self._dtype, self._shape = like.dtype, like.shape[1:]
        self._row_bytes = like.dtype.itemsize * int(np.prod(like.shape[1:], dtype=np.int64))
        self.rows = 0

    def close(self) -> None:
        """Let go of the file; arrays over it stay."""
        self._file.close()

    def append(self, rows: NDArray[Any]) -> None:
        """Write ``rows`` behind the others."""
        data = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        while data.nbytes:
            data = data[self._file.write(data) :]
        self.rows += len(rows)

    def read(self, part: Range) -> NDArray[Any]:
        """Rows ``part``, in memory."""
        out = np.empty((part.size, *self._shape), self._dtype)
        view, at = out.reshape(-1).view(np.uint8).data, part.start * self._row_bytes
        while view.nbytes:
            count = os.preadv(self._file.fileno(), [view], at)
            view, at = view[count:], at + count
        return out

    def mapped(self) -> NDArray[Any]:
        """All rows, as an array over the file."""
        if self.rows == 0:
            return np.empty((0, *self._shape), self._dtype)
        return np.memmap(self._file, self._dtype, "r", shape=(self.rows, *self._shape))


def external(
    comm: MPI.Comm,
    read: Callable[[Range], Rows],
    n: int,
    *,
    memory: int,
    folder: str | None,
    keep: Callable[[Rows], tuple[NDArray[Any], ...]],
    report: Report,
) -> list[NDArray[Any]]:
    """Sort ``n`` rows that ``read(part)`` brings into memory, in about ``memory`` bytes a rank.

    ``keep`` turns ordered rows into what the result holds. ``read`` is collective. Returns this rank's block of the
    result, arrays over scratch files. Raises ResourceError, on all ranks,
    where the scratch ``folder`` is full or missing.
    """
    mine = block(n, comm.size, comm.rank)
    row = read(Range(mine.start, mine.start))
    row_bytes = sum(array.dtype.itemsize * int(np.prod(array.shape[1:])) for array in (*row.words, *row.columns))
    held = max(1, memory // (COPIES * row_bytes))
    share = -(-n // comm.size)
    steps = max(1, -(-share // held))
    with ExitStack() as opened:
        with _told(comm, folder):
            files = [opened.enter_context(closing(_Scratch(folder, like))) for like in (*row.words, *row.columns)]
        runs = [
            Range(mine.start + mine.size * s // steps, mine.start + mine.size * (s + 1) // steps) for s in range(steps)
        ]
        for number, part in enumerate(runs):
            rows = read(part).sort()
            with _told(comm, folder):
                for file, array in zip(files, (*rows.words, *rows.columns), strict=True):
                    file.append(array)
            report(0.5 * (number + 1) / steps)
        del rows
        targets = [
            block(n, comm.size, rank).start + block(block(n, comm.size, rank).size, steps, step).start
            for rank in range(comm.size)
            for step in range(steps)
        ]
        words = [file.mapped() for file in files[: len(row.words)]]
        starts = [part.start - mine.start for part in runs]
        views = [[word[part.start - mine.start : part.stop - mine.start] for word in words] for part in runs]
        places = cuts(comm, views, [*targets, n]) + np.array(starts)[:, None]
        del views, words
        results: list[_Scratch] = []
        for step in range(steps):
            received = _step(comm, files, len(row.words), places, steps, step).sort()
            kept = keep(received)
            with _told(comm, folder):
                results = results or [opened.enter_context(closing(_Scratch(folder, array))) for array in kept]
                for file, array in zip(results, kept, strict=True):
                    file.append(array)
            report(0.5 + 0.5 * (step + 1) / steps)
        return [file.mapped() for file in results]


def _step(
    comm: MPI.Comm, files: Sequence[_Scratch], words: int, places: NDArray[np.int64], steps: int, step: int
) -> Rows:
    """The rows of this rank's block that step ``step`` sorts, from all runs of all ranks."""
    counts = np.zeros(comm.size, np.int64)
    parts: list[Range] = []
    for rank in range(comm.size):
        column = rank * steps + step
        for run in places:
            parts.append(Range(int(run[column]), int(run[column + 1])))
            counts[rank] += parts[-1].size
    arrays = []
    for file in files:
        outgoing = np.concatenate([file.read(part) for part in parts])
        arrays.append(collective.exchange(comm, outgoing, counts)[0])
    return Rows(tuple(arrays[:words]), tuple(arrays[words:]))


@contextmanager
def _told(comm: MPI.Comm, folder: str | None) -> Iterator[None]:
    """Turn the OSError of a full or missing scratch folder into ResourceError on all ranks."""
    with collective.agreement(comm):
        try:
            yield
        except OSError as error:
            where = folder or tempfile.gettempdir()
            raise ResourceError(f"{where}: scratch cannot be written: {error.strerror or error}") from error
