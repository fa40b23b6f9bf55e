"""Sorting more than fits in memory: sorted runs in scratch files, exact cuts across all of them, merged by sorting.

1. Each rank reads its part in pieces, sorts each, and writes it to its scratch files as a run.
2. Exact cuts (:mod:`selection`) across the runs of all ranks, found by binary search in the files, divide the rows into
   pieces of the result: each rank's block of it, cut where memory is full.
3. In each step every rank receives the rows of one piece from all runs of all ranks, sorts them, and writes them to its
   result. It receives from one rank at a time, and so sends to one: a rank that holds the pieces of all ranks sends
   each by itself, and has no more in memory than one that holds a part of each.

Between any two steps the state can be saved: rows of runs and of the result, and which parts of the input and of the
result these are. Any part of a sorted run is a sorted run, so other ranks may share them out anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.sort.cost import step_rows
from hpcmpi.algorithms.sort.rows import Rows
from hpcmpi.algorithms.sort.sample import Report
from hpcmpi.algorithms.sort.scratch import Scratch, told
from hpcmpi.algorithms.sort.selection import cuts
from hpcmpi.partition import Range, block
from hpcmpi.record import Block, Saved, Snapshot


class External:
    """An external sort of ``n`` rows that ``read(part)`` brings into memory, in about ``memory`` bytes a rank.

    ``keep`` turns ordered rows into what the result holds. ``read`` is collective, and so is every method. They raise
    ResourceError, on all ranks, where the scratch ``folder`` is full or missing.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        read: Callable[[Range], Rows],
        n: int,
        *,
        memory: int,
        folder: str | None,
        keep: Callable[[Rows], tuple[NDArray[Any], ...]],
    ) -> None:
        self._read, self._keep, self._n, self._folder = read, keep, n, folder
        self._own = block(n, comm.size, comm.rank)
        none = read(Range(self._own.start, self._own.start))
        self._words = len(none.words)
        like = (*none.words, *none.columns)
        row_bytes = sum(array.dtype.itemsize * math.prod(array.shape[1:]) for array in like)
        self._held = step_rows(memory, row_bytes)
        self._files, self._results = list[Scratch](), list[Scratch]()
        with told(comm, folder):
            self._files += [Scratch(folder, array) for array in like]
            self._results += [Scratch(folder, array) for array in keep(none)]
        self._runs = list[int]()  # lengths of this rank's runs, which lie one behind the other in its files
        self._inputs = list[Range]()  # parts of the input that these hold, as far as this rank answers for them
        self._outputs = list[Range]()  # parts of this rank's block of the result that are done
        self._unread = self._pieces(comm, [self._own])

    def close(self) -> None:
        """Let go of the scratch files; arrays over them stay. Local."""
        for file in (*self._files, *self._results):
            file.close()

    def _pieces(self, comm: MPI.Comm, ranges: Sequence[Range]) -> list[Range]:
        """``ranges`` cut so that memory holds each piece; on all ranks equally many, the last ones empty."""
        pieces = []
        for whole in ranges:
            parts = max(1, -(-whole.size // self._held))
            pieces += [
                Range(whole.start + part.start, whole.start + part.stop)
                for part in (block(whole.size, parts, number) for number in range(parts))
            ]
        most = int(collective.allreduce(comm, np.array([len(pieces)]), MPI.MAX)[0])
        return pieces + [Range(self._own.stop, self._own.stop)] * (most - len(pieces))

    def run(self, comm: MPI.Comm, report: Report, checkpoint: Callable[[], None]) -> list[NDArray[Any]]:
        """This rank's block of the result, arrays over scratch files."""
        done, steps = len(self._runs), len(self._runs) + len(self._unread)
        while self._unread:
            self._read_run(comm, self._unread[0])
            done += 1
            report(0.5 * done / steps)
            checkpoint()
        missing = self._pieces(comm, _without(self._own, self._outputs))
        merge = self._merging(comm, missing)
        for number, piece in enumerate(missing):
            merge(number)
            self._outputs.append(piece)
            report(0.5 + 0.5 * (number + 1) / len(missing))
            if number + 1 < len(missing):
                checkpoint()
        return [file.mapped(self._own.size) for file in self._results]

    def _read_run(self, comm: MPI.Comm, part: Range) -> None:
        rows = self._read(part).sort()
        with told(comm, self._folder):
            for file, array in zip(self._files, (*rows.words, *rows.columns), strict=True):
                file.write(array, sum(self._runs))
        self._runs.append(part.size)
        self._inputs.append(part)
        self._unread.pop(0)

    def _merging(self, comm: MPI.Comm, pieces: Sequence[Range]) -> Callable[[int], None]:
        """What makes the piece of a number of the result, on each rank its own."""
        ends = np.array(pieces, np.int64).reshape(-1)  # start and stop of each piece
        of_all = collective.gather_blocks(comm, ends).reshape(comm.size, -1)
        targets = np.unique(of_all)
        starts = np.cumsum([0, *self._runs[:-1]])
        words = [file.mapped(sum(self._runs)) for file in self._files[: self._words]]
        views = [
            [word[start : start + size] for word in words] for start, size in zip(starts, self._runs, strict=False)
        ]
        places = cuts(comm, views, targets.tolist()) + starts[: len(views), None]
        at = np.searchsorted(targets, of_all)

        def merge(number: int) -> None:
            edges = [places[:, at[rank, 2 * number : 2 * number + 2]] for rank in range(comm.size)]
            parts = [[Range(*map(int, ends)) for ends in runs] for runs in edges]
            counts = np.array([sum(part.size for part in theirs) for theirs in parts], np.int64)
            received, _ = collective.exchange(comm, counts, np.ones(comm.size, np.int64))
            arrays = [_dealt(comm, file, parts, counts, received) for file in self._files]
            kept = self._keep(Rows(tuple(arrays[: self._words]), tuple(arrays[self._words :])).sort())
            with told(comm, self._folder):
                for file, array in zip(self._results, kept, strict=True):
                    file.write(array, pieces[number].start - self._own.start)

        return merge

    def save(self, comm: MPI.Comm) -> Snapshot:
        """All runs and what there is of the result."""
        tables = {
            "runs": np.array(self._runs, np.int64),
            "inputs": np.array(self._inputs, np.int64).reshape(-1, 2),
            "outputs": np.array(self._outputs, np.int64).reshape(-1, 2),
        }
        tables |= {f"run{number}": file.mapped(sum(self._runs)) for number, file in enumerate(self._files)}
        arrays = {name: _stacked(comm, table) for name, table in tables.items()}
        if comm.allreduce(len(self._outputs), MPI.MAX):
            arrays |= {
                f"result{number}": _stacked(comm, file.mapped(self._own.size))
                for number, file in enumerate(self._results)
            }
        return Snapshot(arrays, {})

    def restore(self, comm: MPI.Comm, saved: Saved) -> None:
        """Take the runs and what there is of the result, each rank its share; read the rest of the input."""
        runs, inputs, outputs = (self._table(comm, saved, name) for name in ("runs", "inputs", "outputs"))
        ends = np.cumsum(runs)
        share = block(int(ends[-1]), comm.size, comm.rank)
        bounds = np.unique(np.clip([share.start, *ends, share.stop], share.start, share.stop))
        self._runs = np.diff(bounds).tolist()
        for part in self._pieces(comm, [share]):
            for number, file in enumerate(self._files):
                self._copy(comm, saved, f"run{number}", part, file, share.start)
        done = [Range(*map(int, pair)) for pair in inputs]
        self._inputs = done if comm.rank == 0 else []
        self._unread = self._pieces(comm, _share(_without(Range(0, self._n), done), comm.size, comm.rank))
        own = (Range(max(int(a), self._own.start), min(int(b), self._own.stop)) for a, b in outputs)
        self._outputs = [part for part in own if part.size > 0]
        for part in self._pieces(comm, self._outputs) if len(outputs) else []:
            for number, file in enumerate(self._results):
                self._copy(comm, saved, f"result{number}", part, file, self._own.start)

    def _table(self, comm: MPI.Comm, saved: Saved, name: str) -> NDArray[np.int64]:
        shape = saved.shape(comm, name)
        return np.asarray(saved.read(comm, name, tuple(Range(0, extent) for extent in shape), np.int64))

    def _copy(self, comm: MPI.Comm, saved: Saved, name: str, part: Range, file: Scratch, start: int) -> None:
        """Rows ``part`` of a saved array, to ``file``, which begins at row ``start`` of it."""
        trailing = tuple(Range(0, extent) for extent in saved.shape(comm, name)[1:])
        rows = saved.read(comm, name, (part, *trailing), file.dtype)
        with told(comm, self._folder):
            file.write(rows, part.start - start)


def _dealt(
    comm: MPI.Comm,
    file: Scratch,
    parts: Sequence[Sequence[Range]],
    counts: NDArray[np.int64],
    received: NDArray[np.int64],
) -> NDArray[Any]:
    """What has come of all ranks' ``file``: rank r gets this rank's ``parts[r]``, ``counts[r]`` rows.

    ``received`` tells how many rows come from each rank. Only one rank's are on their way to it, and from it.
    """
    into, ends = file.empty(int(received.sum())), np.cumsum(received)
    for step in range(comm.size):
        to, source = (comm.rank + step) % comm.size, (comm.rank - step) % comm.size
        incoming = into[ends[source] - received[source] : ends[source]]
        if step == 0:
            file.read(parts[to], incoming)
            continue
        outgoing = file.empty(int(counts[to]))
        file.read(parts[to], outgoing)
        collective.wait(collective.start_shift(comm, outgoing, incoming, to=to, source=source))
    return into


def _without(whole: Range, parts: Sequence[Range]) -> list[Range]:
    """What is left of ``whole`` without ``parts``, of which no two overlap."""
    left, at = [], whole.start
    for part in sorted(part for part in parts if part.size > 0):
        if part.start > at:
            left.append(Range(at, part.start))
        at = max(at, part.stop)
    return [*left, Range(at, whole.stop)] if at < whole.stop else left


def _share(ranges: Sequence[Range], ranks: int, rank: int) -> list[Range]:
    """A rank's equal share of ``ranges``."""
    mine, before, own = block(sum(part.size for part in ranges), ranks, rank), 0, list[Range]()
    for part in ranges:
        start, stop = max(mine.start - before, 0), min(mine.stop - before, part.size)
        if start < stop:
            own.append(Range(part.start + start, part.start + stop))
        before += part.size
    return own


def _stacked(comm: MPI.Comm, rows: NDArray[Any]) -> Block:
    """The ranks' ``rows``, one behind the other."""
    sizes = comm.allgather(len(rows))
    return Block(rows, (sum(sizes[: comm.rank]), *[0] * (rows.ndim - 1)), (sum(sizes), *rows.shape[1:]))
