"""A check that shares nothing with the readers: random elements of the input, read as an ordinary program would.

A check against operands that were misread proves nothing. So a rank remembers a few short runs of elements of what it
has read; with the verdict they are compared with what h5py or NumPy give for these elements.

The comparison of a job takes about 50 ms: it stops when the time is over. Where a chunk has to be inflated to get at an
element, it reads one chunk, or 1% of them. Of a compressed ``.npz`` only the beginning can be compared.
"""

from __future__ import annotations

import dataclasses
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi.errors import InputError
from hpcmpi.partition import Range
from hpcmpi.record import Verdict
from hpcmpi.store.hdf5 import load_filters, open_hdf5
from hpcmpi.store.reader import Source, is_npz

_SECONDS = 0.05  # of all samples together
_RUN = 16  # elements along the last axis that are compared at once
_KEPT = 64  # runs that a sample holds
_RUNS_A_PIECE = 2
_SHARE = 0.01  # of what was read that is read again where this cannot be done element by element
_PREFIX_BYTES = 4 << 20  # of a .npz array

Index = tuple[int, ...]
Plain = Callable[[tuple[Any, ...]], NDArray[Any]]


class Sample:
    """Runs of elements of ``source`` that this rank has read. All methods are local.

    ``seed`` decides which; ranks may share it, as their parts differ.
    """

    def __init__(self, source: Source, seed: int) -> None:
        self._source = source
        self._npz = source.dataset is not None and is_npz(source.path)
        self._random = np.random.default_rng([seed, zlib.crc32(str(source).encode())])
        self._runs = list[tuple[Index, NDArray[Any]]]()
        self._held = list[tuple[NDArray[Any], tuple[Range, ...]]]()
        self._offered = 0
        self.compared = 0  # elements

    def see(self, array: NDArray[Any], part: tuple[Range, ...]) -> None:
        """Remember runs of ``array``, a piece that has been read: this ``part`` of the source."""
        for run in self._drawn(array, part, _RUNS_A_PIECE):
            self._offered += 1
            if len(self._runs) < _KEPT:
                self._runs.append(run)
            elif (place := int(self._random.integers(self._offered))) < _KEPT:  # all runs are as likely to stay
                self._runs[place] = run

    def hold(self, array: NDArray[Any], part: tuple[Range, ...]) -> Sample:
        """Take runs of ``array`` when they are compared: the memory that the job computes on. Returns this sample."""
        self._held.append((array, part))
        return self

    def _drawn(self, array: NDArray[Any], part: tuple[Range, ...], count: int) -> Iterator[tuple[Index, NDArray[Any]]]:
        """The first and last run, and random ones; those beyond a prefix that can be read are left out."""
        reach = self._reach()
        extents = self._readable(part, reach)
        if 0 in extents:
            return
        length = min(_RUN, extents[-1]) if extents else 1
        last = tuple(extent - 1 for extent in extents[:-1])
        ends = [(0,) * len(extents), (*last, extents[-1] - length) if extents else ()]
        for number in range(count if extents else 1):
            at = ends[number] if number < 2 and count > 2 else tuple(int(self._random.integers(n)) for n in extents)
            start = tuple(r.start + i for r, i in zip(part, at, strict=True))
            index: tuple[Any, ...] = (*at[:-1], slice(at[-1], min(at[-1] + length, extents[-1]))) if at else ()
            run = array[(*index, ...)]
            if self._flat(start, len(run) if at else 1)[-1] < reach:
                yield start, run.copy()

    def _reach(self) -> int:
        """Elements from the first one on, as they are stored, that can be compared."""
        total = math.prod(self._source.shape)
        if not self._npz:
            return total
        return min(total, max(int(_SHARE * total), _PREFIX_BYTES // max(1, self._source.dtype.itemsize)))

    def _readable(self, part: tuple[Range, ...], reach: int) -> Index:
        """Extents of ``part`` without the lines that lie wholly beyond ``reach``."""
        extents = [r.size for r in part]
        if part:
            axis = len(part) - 1 if self._by_columns() else 0
            line = math.prod(self._source.shape) // max(1, self._source.shape[axis])
            lines = -(-reach // max(1, line))
            extents[axis] = max(0, min(part[axis].stop, lines) - part[axis].start)
        return tuple(extents)

    def _by_columns(self) -> bool:
        return self._source.unit is not None and len(self._source.unit) > 1 and self._source.unit[0] != 1

    def _flat(self, start: Index, length: int) -> NDArray[np.int64]:
        """Places of a run in the array as ``.npz`` stores it."""
        strides = [1] * len(start)
        order = range(len(start)) if self._by_columns() else range(len(start) - 1, -1, -1)
        step = 1
        for axis in order:
            strides[axis], step = step, step * self._source.shape[axis]
        first = sum(i * stride for i, stride in zip(start, strides, strict=True))
        return first + np.arange(length, dtype=np.int64) * (strides[-1] if strides else 1)

    def fault(self, deadline: float) -> str:
        """How the source differs from what was read of it, or why it cannot be compared; empty if it is the same."""
        for array, part in self._held:
            chunks = _SHARE * array.nbytes / self._source.unit_bytes if self._source.unit_bytes else _KEPT
            self._runs += self._drawn(array, part, max(1, min(_KEPT, int(chunks))))
        runs = [self._runs[i] for i in self._random.permutation(len(self._runs))]
        try:
            with self._plain() as read:
                for start, held in runs:
                    if fault := self._difference(start, held, read):
                        return fault
                    if time.monotonic() > deadline:
                        break
        except (InputError, OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            return f"{self._source}: cannot be read again to be compared with what was read before: {error}"
        return ""

    def _difference(self, start: Index, held: NDArray[Any], read: Plain) -> str:
        plain = read((*start[:-1], slice(start[-1], start[-1] + len(held))) if start else ())
        with np.errstate(all="ignore"):
            expected = np.asarray(plain).astype(held.dtype)
        same = _same(held, expected)
        self.compared += held.size
        if same.all():
            return ""
        first = int(np.argmin(same))
        place = ", ".join(map(str, (*start[:-1], start[-1] + first) if start else ()))
        return (
            f"{self._source}: element ({place}) was read as {held.reshape(-1)[first]}, but the file holds "
            f"{np.asarray(plain).reshape(-1)[first]}: it was misread, or has changed since"
        )

    @contextmanager
    def _plain(self) -> Iterator[Plain]:
        """What reads the elements of an index by h5py or NumPy."""
        source = self._source
        if self._npz and source.dataset:
            with zipfile.ZipFile(source.path) as archive, archive.open(f"{source.dataset[1:]}.npy") as file:
                version = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                _, _, dtype = header(file)
                prefix = np.frombuffer(file.read(self._reach() * dtype.itemsize), dtype)
            yield lambda index: prefix[self._flat(*_started(index))]
        elif source.dataset is not None:
            with open_hdf5(source.path, warn=False) as hdf5:
                dataset = load_filters(hdf5[source.dataset])
                yield lambda index: np.asarray(dataset[index])
        elif source.raw:
            itemsize = source.dtype.itemsize
            with source.path.open("rb") as raw:

                def read(index: tuple[Any, ...]) -> NDArray[Any]:
                    places = self._flat(*_started(index))
                    raw.seek(int(places[0]) * itemsize)
                    return np.frombuffer(raw.read(len(places) * itemsize), source.dtype)

                yield read
        else:
            array = np.load(source.path, mmap_mode="r", allow_pickle=False)
            yield lambda index: np.asarray(array[index])


def _started(index: tuple[Any, ...]) -> tuple[Index, int]:
    """First element and length of the run that ``index`` picks."""
    if not index:
        return (), 1
    return (*index[:-1], index[-1].start), index[-1].stop - index[-1].start


def _same(held: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Where two runs are equal, NaN being equal to NaN."""
    if held.dtype.names:
        fields = [_same(held[name], expected[name]) for name in held.dtype.names]
        return np.asarray(np.all(fields, axis=0), np.bool_)
    same = np.asarray(held == expected)
    if held.dtype.kind in "fc":
        same |= np.isnan(held) & np.isnan(expected)
    elif held.dtype.kind in "mM":
        same |= np.isnat(held) & np.isnat(expected)
    return np.asarray(same.reshape(len(held) if held.ndim else 1, -1).all(axis=1), np.bool_)


def compared(comm: MPI.Comm, samples: Sequence[Sample], verdict: Verdict) -> Verdict:
    """``verdict``, but wrong if a rank holds other elements than its sources. Collective.

    ``samples`` are those of this rank, of the same sources on all ranks.
    """
    if not samples:
        return verdict
    fault, begun = "", time.monotonic()
    for number, sample in enumerate(samples):
        fault = fault or sample.fault(begun + _SECONDS * (number + 1) / len(samples))
    fault = next(filter(None, comm.allgather(fault)), "")
    elements = comm.allreduce(sum(sample.compared for sample in samples))
    return with_comparison(verdict, fault, elements)


def with_comparison(verdict: Verdict, fault: str, elements: int) -> Verdict:
    """``verdict`` after so many more ``elements`` of the input were compared: wrong if they showed a ``fault``."""
    elements += int(verdict.facts.get("elements_compared", 0))
    facts = {**verdict.facts, "elements_compared": elements}
    if not fault:
        return dataclasses.replace(verdict, facts=facts)
    reason = fault if verdict.right else f"{fault}; {verdict.reason}"
    return dataclasses.replace(verdict, right=False, reason=reason, facts=facts)
