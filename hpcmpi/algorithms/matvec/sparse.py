"""y = A x with sparse rows: each rank fetches the entries of x that its rows refer to, and multiplies meanwhile.

Rank r owns a range of rows, and the range ``bounds[r]`` to ``bounds[r + 1]`` of x. The plan, made once, finds the
columns that its rows refer to (the owned ones and, outside, the *halo*), renumbers them by their global order, and asks
the owners of the halo for it, so that each product only moves values: what comes from one rank fills one stretch of the
buffer that holds the halo on both sides of the owned part. Blocks of rows that refer to no halo are multiplied while it
travels.

Invariant: renumbering keeps the order of the columns, and a row is never split, so that y_i is the same sum, in the
same order, on any number of ranks and threads. That is why a row with a halo waits for all of it: to add its owned part
first would make the sum depend on where the cuts are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.matvec.kernels import multiply_csr
from hpcmpi.algorithms.matvec.plan_kernels import blocks_with_halo, mark, renumber, unmark
from hpcmpi.algorithms.matvec.vectors import check_vectors
from hpcmpi.arrays import plain_array
from hpcmpi.threads import share

BLOCK_ROWS = 512  # that are multiplied early together, or wait together
_PART_NONZEROS = 1 << 19  # in a part of the work, between two looks at the network
_WORTH_THREADS = 1 << 15  # non-zeros


class RowRanges(NamedTuple):
    """Ranges of rows that are multiplied in one go."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


class SparsePlan:
    """Products with one distributed sparse matrix; what to exchange is worked out once.

    ``indptr`` (m_r + 1,), ``indices`` (nonzeros_r,) of global column numbers and ``data`` are this rank's rows, as in
    SciPy's CSR; ``bounds`` (P + 1,) tells which rank owns which part of x. None of them is modified; ``data`` is kept.
    ``x`` is the owned part of the buffer: filled in place and passed, it is not copied. :meth:`free` gives the
    communicator back.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        indptr: NDArray[Any],
        indices: NDArray[Any],
        data: NDArray[Any],
        *,
        bounds: NDArray[np.int64],
        threads: int,
    ) -> None:
        self.comm = comm.Dup()  # so that no receive of the caller's can take our messages
        self._rank = comm.rank
        self.bounds = bounds
        self.indptr = np.ascontiguousarray(indptr, np.uint64)
        self.data = data
        start, stop = int(bounds[comm.rank]), int(bounds[comm.rank + 1])
        self.columns, self.indices = _renumbered(np.ascontiguousarray(indices), start, stop, int(bounds[-1]))
        self._buffer = np.zeros(len(self.columns), data.dtype)
        lower = int(np.searchsorted(self.columns, start))
        self._own = slice(lower, lower + stop - start)
        self.x = self._buffer[self._own]
        self._incoming = self._receives()
        self._outgoing, self._packed = self._sends(start)
        halo = np.zeros(-(-self.rows_held // BLOCK_ROWS), np.bool_)
        blocks_with_halo(self.indptr, self.indices, lower, lower + stop - start, BLOCK_ROWS, halo)
        self.early, self.late = self._parts(~halo), self._parts(halo)
        self._threads = threads if len(data) >= _WORTH_THREADS else 1
        none = np.empty(0, np.int64)
        multiply_csr(self.indptr, self.indices, self.data, self._buffer, self._buffer[:0], none, none)  # compiled now

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the matrix and the vectors."""
        return self.data.dtype

    @property
    def rows_held(self) -> int:
        """Elements of y on this rank."""
        return len(self.indptr) - 1

    @property
    def columns_held(self) -> int:
        """Elements of x on this rank."""
        return len(self.x)

    @property
    def words(self) -> int:
        """Entries of x that this rank receives for each product."""
        return len(self.columns) - len(self.x)

    def _receives(self) -> dict[int, NDArray[Any]]:
        """For each rank that owns some of the halo, where it goes."""
        edges = np.searchsorted(self.columns, self.bounds)
        others = [rank for rank in range(self.comm.size) if rank != self.comm.rank and edges[rank] < edges[rank + 1]]
        return {rank: self._buffer[edges[rank] : edges[rank + 1]] for rank in others}

    def _sends(self, start: int) -> tuple[dict[int, NDArray[Any]], list[tuple[NDArray[np.int64], NDArray[Any]]]]:
        """For each rank that asks for some of x, what to send; and which (places, message) must be packed for that."""
        wanted = np.concatenate([self.columns[: self._own.start], self.columns[self._own.stop :]])
        asked, counts = collective.exchange(self.comm, wanted, np.diff(np.searchsorted(wanted, self.bounds)))
        outgoing: dict[int, NDArray[Any]] = {}
        packed = []
        for rank, places in enumerate(np.split(asked - start, np.cumsum(counts)[:-1])):
            if len(places) == 0:
                continue
            if places[-1] - places[0] + 1 == len(places):  # a stretch of x is sent as it lies
                outgoing[rank] = self.x[places[0] : places[-1] + 1]
            else:
                outgoing[rank] = np.empty(len(places), self.data.dtype)
                packed.append((places, outgoing[rank]))
        return outgoing, packed

    def _parts(self, chosen: NDArray[np.bool_]) -> list[RowRanges]:
        """The ``chosen`` blocks of rows, in parts of a bounded number of non-zeros."""
        blocks = np.flatnonzero(chosen)
        if len(blocks) == 0:
            return []
        starts, stops = blocks * BLOCK_ROWS, np.minimum((blocks + 1) * BLOCK_ROWS, self.rows_held)
        work = np.cumsum(self.indptr[stops] - self.indptr[starts])
        part = (work // np.uint64(_PART_NONZEROS)).astype(np.int64)
        first = np.flatnonzero(np.diff(part, prepend=-1) | (np.diff(blocks, prepend=-2) != 1))  # of a range of rows
        ranges = starts[first], stops[np.append(first[1:], len(blocks)) - 1]
        cuts = np.flatnonzero(np.diff(part[first])) + 1
        return [RowRanges(*both) for both in zip(*(np.split(edge, cuts) for edge in ranges), strict=True)]

    def __call__(
        self, x: NDArray[Any], out: NDArray[Any] | None = None, advance: Callable[[float], None] = lambda _f: None
    ) -> NDArray[Any]:
        """This rank's rows of A x, from its part ``x`` (n_r,); written into ``out`` (m_r,) if given. Collective.

        Raises InputError as :meth:`check` does, on this rank alone, before anything is sent or computed.
        """
        x = plain_array(x, "x")
        self.check(x, out)
        if x is not self.x:
            self.x[...] = x
        y = np.empty(self.rows_held, self.data.dtype) if out is None or not out.flags.c_contiguous else out
        for places, message in self._packed:
            np.take(self.x, places, out=message, mode="clip")
        requests = collective.start_neighbours(self.comm, self._outgoing, self._incoming)
        done, parts = 0, len(self.early) + len(self.late)

        def look() -> None:
            nonlocal done
            done += self._threads
            collective.progress(requests)
            advance(min(1.0, done / parts))

        self._multiply(self.early, y, look)
        collective.wait(requests)
        self._multiply(self.late, y, look)
        if out is not None and out is not y:
            out[...] = y
            return out
        return y

    def check(self, x: NDArray[Any], out: NDArray[Any] | None) -> None:
        """Raise InputError for an ``x`` or ``out`` that is not this rank's part, or an ``out`` that overlaps. Local."""
        columns, rows = self._own.stop - self._own.start, self.rows_held
        check_vectors(self._rank, x, out, columns=columns, rows=rows, dtype=self.data.dtype, kept=self._buffer)

    def _multiply(self, parts: Sequence[RowRanges], y: NDArray[Any], between: Callable[[], None]) -> None:
        product = partial(multiply_csr, self.indptr, self.indices, self.data, self._buffer, y)
        share(lambda part: product(*part), parts, self._threads, between)

    def free(self) -> None:
        """Give the communicator back. Collective."""
        self.comm.Free()


def _renumbered(
    indices: NDArray[Any], start: int, stop: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.uint32] | NDArray[np.uint64]]:
    """The columns in use, [start, stop) and those of ``indices``, ascending; and the place of each index among them.

    By a bit for each of the n columns: n / 4 bytes with the counts of bits, for the time of the call.
    """
    words = np.zeros(-(-n // 64) + 1, np.uint64)
    bits = mark(indices, start, stop, words)
    before = np.empty(len(words), np.int64)
    columns = np.empty(bits, np.int64)
    unmark(words, before, columns)
    places: NDArray[Any] = np.empty(len(indices), np.uint32 if len(columns) < 2**32 else np.uint64)
    renumber(indices, words, before, places)
    return columns, places
