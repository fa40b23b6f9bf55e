"""Compressed datasets written by all ranks, without parallel HDF5.

HDF5 cuts a compressed dataset into chunks. A chunk belongs to the rank whose block holds its first element; other ranks
send that one what they have of it. In each round every rank compresses a few of its chunks; rank 0 has HDF5 enter them
into the dataset's index, through a file object that drops their bytes, and tells the addresses that HDF5 has chosen;
and every rank writes its chunks there. What HDF5's own filters would have written is what is written: bytes shuffled,
then compressed; a chunk that does not get smaller stays as it is and is marked so.
"""

from __future__ import annotations

import io
import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi import threads
from hpcmpi.errors import OutputError
from hpcmpi.record import Block
from hpcmpi.store.hdf5 import ZSTD_FILTER

_CHUNK_BYTES = 1 << 20  # fits the cache of chunks that readers have by default
_ROUND_BYTES = 32 << 20  # of a rank's chunks before compression
_SMALLEST = 1 << 16  # bytes of an array that is worth it
_LEVEL = {"gzip": 1, "zstd": 1}  # higher ones take several times as long for a few percent
_NO_FILTERS = 0b11  # mask of a chunk that neither filter has changed

Encode = Callable[[memoryview], bytes]


class Chunk(NamedTuple):
    """A chunk as it is stored: its first element, its bytes, and which filters were left out."""

    start: tuple[int, ...]
    data: bytes
    skipped: int


def encoder(kind: str) -> Encode:
    """What compresses shuffled bytes. Raises OutputError where a package for it is missing."""
    if kind == "gzip":
        return lambda data: zlib.compress(data, _LEVEL[kind])
    try:
        import hdf5plugin  # noqa: F401 - registers the filter with HDF5, which refuses datasets of filters unknown to it
        import zstandard
    except ImportError as error:
        raise OutputError(
            f"--compress zstd needs packages that are missing ({error}): pip install 'hpcmpi[zstd]'"
        ) from None
    return lambda data: bytes(zstandard.ZstdCompressor(level=_LEVEL[kind]).compress(data))


def worthwhile(block: Block) -> bool:
    """Whether an array is large enough to be compressed."""
    return len(block.shape) > 0 and math.prod(block.shape) * block.dtype.itemsize >= _SMALLEST


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Shape of a dataset's chunks, the same on any number of ranks: the longest dimension is halved until they fit."""
    chunk = list(shape)
    while math.prod(chunk) * itemsize > _CHUNK_BYTES and max(chunk) > 1:
        longest = chunk.index(max(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    return tuple(chunk)


def creation(kind: str, shape: tuple[int, ...], itemsize: int) -> Any:
    """HDF5's property list for a dataset that is compressed so."""
    import h5py

    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(chunk_shape(shape, itemsize))
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_shuffle()
    if kind == "gzip":
        properties.set_deflate(_LEVEL[kind])
    else:
        properties.set_filter(ZSTD_FILTER, h5py.h5z.FLAG_OPTIONAL, (_LEVEL[kind],))
    return properties


@dataclass(frozen=True)
class _Box:
    """Indices from ``start`` up to ``stop``, a number a dimension."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def within(self, origin: Sequence[int]) -> tuple[slice, ...]:
        """The box as an index of an array that begins at ``origin``."""
        return tuple(slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, origin, strict=True))

    def common(self, other: _Box) -> _Box:
        return _Box(tuple(map(max, self.start, other.start)), tuple(map(min, self.stop, other.stop)))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def empty(self) -> bool:
        return any(extent <= 0 for extent in self.shape)


class Chunks:
    """The chunks of one array, of which each rank has its own. Collective over ``comm``."""

    def __init__(self, comm: MPI.Comm, block: Block, encode: Encode) -> None:
        self._comm, self._block, self._encode = comm, block, encode
        self._chunk = chunk_shape(block.shape, block.dtype.itemsize)
        mine = _Box(block.start, tuple(a + n for a, n in zip(block.start, block.local.shape, strict=True)))
        self._boxes: list[_Box] = comm.allgather(mine)
        self._starts = np.array([box.start for box in self._boxes])
        self._stops = np.array([box.stop for box in self._boxes])
        self._mine = mine
        self._own = list(self._of(mine))
        self._each = max(1, _ROUND_BYTES // (math.prod(self._chunk) * block.dtype.itemsize))
        rounds = -(-len(self._own) // self._each)
        self.rounds = int(collective.allreduce(comm, np.array([rounds]), MPI.MAX)[0])
        self._guests = list(self._foreign())

    def _of(self, box: _Box) -> Iterator[tuple[int, ...]]:
        """First elements of the chunks that begin inside ``box``, in their order."""
        return itertools.product(
            *(range(-(-a // c) * c, b, c) for a, b, c in zip(box.start, box.stop, self._chunk, strict=True))
        )

    def _foreign(self) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """(Round, owner, first element) of the chunks of other ranks of which this rank holds a part, in that order."""
        if self._mine.empty:
            return
        found = []
        for start in itertools.product(
            *(range(a // c * c, b, c) for a, b, c in zip(self._mine.start, self._mine.stop, self._chunk, strict=True))
        ):
            if all(x >= a for x, a in zip(start, self._mine.start, strict=True)):
                continue
            owner = int(np.flatnonzero(((self._starts <= start) & (start < self._stops)).all(axis=1))[0])
            box = self._boxes[owner]
            number = 0
            for x, a, b, c in zip(start, box.start, box.stop, self._chunk, strict=True):
                first = -(-a // c)
                number = number * (-(-b // c) - first) + x // c - first
            found.append((number // self._each, owner, number, start))
        yield from ((at, owner, start) for at, owner, _, start in sorted(found))

    def _whole(self, start: tuple[int, ...]) -> _Box:
        """The chunk that begins at ``start``, as far as the array goes."""
        return _Box(start, tuple(min(x + c, n) for x, c, n in zip(start, self._chunk, self._block.shape, strict=True)))

    def encoded(self, number: int) -> list[Chunk]:
        """This rank's chunks of round ``number``, compressed."""
        own = self._own[number * self._each : (number + 1) * self._each]
        parts = self._received(number, own)
        found: list[Chunk | None] = [None] * len(own)

        def fill(index: int) -> None:
            # What lies beyond the array is stored as zeros.
            whole = np.zeros(self._chunk, self._block.dtype)
            for box, values in parts[index]:
                whole[box.within(own[index])] = values
            found[index] = self._compressed(own[index], whole)

        threads.share(fill, range(len(own)), threads.available())
        return [chunk for chunk in found if chunk is not None]

    def _compressed(self, start: tuple[int, ...], whole: NDArray[Any]) -> Chunk:
        plain = whole.reshape(-1).view(np.uint8)
        data = self._encode(np.ascontiguousarray(plain.reshape(-1, whole.itemsize).T).reshape(-1).data)
        return Chunk(start, data, 0) if len(data) < plain.nbytes else Chunk(start, plain.tobytes(), _NO_FILTERS)

    def _received(self, number: int, own: Sequence[tuple[int, ...]]) -> list[list[tuple[_Box, NDArray[Any]]]]:
        """For each of the ``own`` chunks of a round, what this rank and others hold of it."""
        dtype, local = self._block.dtype, self._block.local
        outgoing: list[NDArray[np.uint8]] = []
        counts = np.zeros(self._comm.size, np.int64)
        for at, owner, start in self._guests:
            if at == number:
                common = self._whole(start).common(self._mine)
                part = np.ascontiguousarray(local[common.within(self._mine.start)]).reshape(-1).view(np.uint8)
                outgoing.append(part)
                counts[owner] += part.size
        parts = [[(box, local[box.within(self._mine.start)])] for box in self._common_with(own, self._mine)]
        coming = sorted((rank, index) for index, start in enumerate(own) for rank in self._holders(start))
        rows, _ = collective.exchange(self._comm, np.concatenate([np.empty(0, np.uint8), *outgoing]), counts)
        at = 0
        for rank, index in coming:
            box = self._whole(own[index]).common(self._boxes[rank])
            size = math.prod(box.shape) * dtype.itemsize
            parts[index].append((box, rows[at : at + size].view(dtype).reshape(box.shape)))
            at += size
        return parts

    def _common_with(self, own: Sequence[tuple[int, ...]], box: _Box) -> list[_Box]:
        return [self._whole(start).common(box) for start in own]

    def _holders(self, start: tuple[int, ...]) -> list[int]:
        """Other ranks that hold a part of this rank's chunk that begins at ``start``."""
        whole = self._whole(start)
        if all(b <= m for b, m in zip(whole.stop, self._mine.stop, strict=True)):
            return []
        meets = (np.maximum(self._starts, whole.start) < np.minimum(self._stops, whole.stop)).all(axis=1)
        return [int(rank) for rank in np.flatnonzero(meets) if rank != self._comm.rank]


def lay_out(path: Path, dataset: str, chunks: Sequence[tuple[tuple[int, ...], int, int]]) -> list[int]:
    """Enter chunks, (first element, bytes, skipped filters), into a dataset's index; return where each is written."""
    import h5py

    blank = bytes(max((size for _, size, _ in chunks), default=0))
    with _Dropping(path, blank) as dropping, h5py.File(dropping, "r+", libver=("earliest", "v110")) as file:
        index = file[dataset].id
        for start, size, skipped in chunks:
            index.write_direct_chunk(start, memoryview(blank)[:size], skipped)
        return [int(index.get_chunk_info_by_coord(start).byte_offset) for start, _, _ in chunks]


class _Dropping(io.RawIOBase):
    """A file for HDF5 that takes everything but the bytes of ``blank``, which stand for those that ranks will write."""

    def __init__(self, path: Path, blank: bytes) -> None:
        self._file = path.open("r+b", buffering=0)
        self._blank = np.frombuffer(blank, np.uint8).ctypes.data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        return int(self._file.readinto(buffer) or 0)

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if view.nbytes and np.frombuffer(view, np.uint8).ctypes.data == self._blank:
            self._file.seek(view.nbytes, 1)
            return view.nbytes
        left = view.cast("B")
        while left:
            left = left[self._file.write(left) :]
        return view.nbytes

    def truncate(self, size: int | None = None) -> int:
        return self._file.truncate(size)

    def close(self) -> None:
        self._file.close()
        super().close()
