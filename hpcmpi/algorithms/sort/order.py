"""The order of keys: sample sort that deals keys out once, to the buckets of all ranks, and exchanges them.

1. A sample gives splitters (:mod:`splitters`) into several *buckets* a rank, so small that one fits in the caches.
2. Each rank deals its keys, as images, and their offsets out to the buckets: these are in the order of the ranks.
3. One exchange. A bucket then lies in pieces, one from each rank, and its keys in the order of their positions.
4. Of each bucket, the image less the bucket's least is packed with the place in the bucket into 64 bits, and
   ``np.sort`` sorts these. Where images take more bits than there are, ties are decided by the whole images.
5. As in :mod:`sample`, the ends of the ranks' parts are passed on to the neighbours.

Splitters divide equal keys by their positions, and places ascend with positions: the order is the stable one. Offsets
have 32 bits, and what belongs to a key so 12 bytes: fresh memory costs more than all else.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcmpi import comm as collective
from hpcmpi import threads
from hpcmpi.algorithms.sort.kernels import CHUNK
from hpcmpi.algorithms.sort.keys import Codec
from hpcmpi.algorithms.sort.order_kernels import classify_keys, deal_keys, pack_keys
from hpcmpi.algorithms.sort.rows_kernels import count_ties, span, unpack
from hpcmpi.algorithms.sort.sample import Report, silent, slack
from hpcmpi.algorithms.sort.splitters import Layout, Splitters, choose, layout, searches
from hpcmpi.partition import block

_BUCKET = 1 << 16  # keys: packed images and positions fit in the second-level cache
_MOST_CLASSES = 1 << 11  # more would be more places of memory than the processor has at hand
_FEWEST = 1 << 16  # keys a thread that are worth a thread
_LARGEST_OFFSET, _MOST_RANKS = 2**32, 2**16  # of uint32 offsets, and of uint16 classes
_LINE = 64  # bytes


def fits(comm: MPI.Comm, where: Layout) -> bool:
    """Whether offsets and classes are small enough; the same on all ranks."""
    return where.most <= _LARGEST_OFFSET and comm.size <= _MOST_RANKS


def order_room(n: int, n_local: int, ranks: int, itemsize: int) -> int:
    """Bytes of memory that :func:`order` wants, where this rank has ``n_local`` of ``n`` keys of ``itemsize`` bytes."""
    held = _held(n, n_local, ranks)
    widths = (8, 4, 2, itemsize % 8) if ranks == 1 else (8, 4, max(2, itemsize), 4)
    return sum(held * width + _LINE for width in widths)


def _held(n: int, n_local: int, ranks: int) -> int:
    return max(n_local, -(-n // ranks) + 3 * slack(n, ranks))


class _Room:
    """Memory that is taken piece by piece, and what it lacks from the system."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self._memory = memory

    def take(self, items: int, dtype: DTypeLike) -> NDArray[Any]:
        nbytes = items * np.dtype(dtype).itemsize
        if nbytes > self._memory.size:
            return np.empty(items, dtype)
        taken, self._memory = self._memory[:nbytes], self._memory[-(-nbytes // _LINE) * _LINE :]
        return taken.view(dtype)


def order(
    comm: MPI.Comm, raw: NDArray[Any], codec: Codec, room: NDArray[np.uint8] | None = None, report: Report = silent
) -> NDArray[np.int64]:
    """This rank's block of the stable order, by image, of all ranks' ``raw`` keys (contiguous, n_local): positions.

    ``room`` is memory, best :func:`order_room` bytes; what it lacks is taken. The result may be a view of it.
    ``comm`` must be free of other messages, and :func:`fits` hold.
    """
    where = layout(comm, raw.size)
    if where.n == 0:
        return np.empty(0, np.int64)
    memory = _Room(np.empty(0, np.uint8) if room is None else room)
    held = _held(where.n, raw.size, comm.size)
    result = memory.take(held, np.int64)
    offsets = memory.take(held, np.uint32)
    width = codec.image.itemsize
    other = memory.take(held * (2 if comm.size == 1 else max(2, width)), np.uint8)  # classes, then what comes
    apart = comm.size == 1 and width < 8  # where no exchange does it, positions must not be written over shorter images
    images = (memory.take(held, codec.image) if apart else result.view(codec.image))[: raw.size]
    a_rank = max(1, min(-(-where.n // (comm.size * _BUCKET)), _MOST_CLASSES // comm.size))
    splitters = choose(comm, where, raw.size, lambda at: codec.encode(raw[at].view(codec.dtype)), comm.size * a_rank)
    counts = _deal(raw, codec, splitters, where, other[: 2 * raw.size].view(np.uint16), images, offsets)
    report(0.4)
    sizes, came = counts.reshape(1, -1), np.array([raw.size])
    if comm.size > 1:
        a_rank_each = np.full(comm.size, a_rank)
        sizes = collective.exchange(comm, counts, a_rank_each, received=a_rank_each)[0].reshape(comm.size, a_rank)
        sent, came = counts.reshape(comm.size, a_rank).sum(1), sizes.sum(1)
        m = int(came.sum())
        into = other[: m * width].view(codec.image) if m <= held else np.empty(m, codec.image)
        images, _ = collective.exchange(comm, images, sent, into, received=came)
        offsets, _ = collective.exchange(comm, offsets[: raw.size], sent, memory.take(m, np.uint32), received=came)
    report(0.6)
    m = int(came.sum())
    front = min(slack(where.n, comm.size), max(0, held - m))
    if front + m > held:
        result = np.empty(m, np.int64)
    starts = np.array(comm.allgather(where.start))
    mine = result[front : front + m]
    _order_buckets(images, offsets, sizes, starts, mine)
    return collective.rebalance(comm, mine, result, front)


def _deal(
    raw: NDArray[Any],
    codec: Codec,
    splitters: Splitters,
    where: Layout,
    ids: NDArray[np.uint16],
    dealt: NDArray[Any],
    offsets: NDArray[np.uint32],
) -> NDArray[np.int64]:
    """Deal the keys out to the classes that ``splitters`` make; how many each has. ``ids`` is memory."""
    workers = max(1, min(threads.available(), raw.size // _FEWEST))
    parts = [block(raw.size, workers, t) for t in range(workers)]
    counts = np.zeros((workers, splitters.images.size + 1), np.int64)

    def find(t: int) -> None:
        found, images = np.empty(CHUNK, np.int64), np.empty(CHUNK, codec.image)
        for part, padded, most in searches(splitters, where, parts[t]):
            classify_keys(raw[part.slice], *codec.constants, padded, most, ids[part.slice], counts[t], images, found)

    threads.share(find, range(workers), workers)
    total = counts.sum(0)
    place = np.cumsum(counts, axis=0) - counts + (np.cumsum(total) - total)

    def give(t: int) -> None:
        part = parts[t]
        images = np.empty(CHUNK, codec.image)
        deal_keys(raw[part.slice], *codec.constants, part.start, ids[part.slice], place[t], dealt, offsets, images)

    threads.share(give, range(workers), workers)
    return np.asarray(total, np.int64)


def _order_buckets(
    images: NDArray[Any],
    offsets: NDArray[np.uint32],
    sizes: NDArray[np.int64],
    starts: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:
    """Fill ``out`` with the positions of all buckets in order.

    ``images`` and ``offsets`` have come from the ranks, whose keys begin at ``starts``, one behind the other;
    ``sizes[s, b]`` keys of rank s are of bucket b. ``out`` may be the memory of ``images`` where there is one rank.
    """
    of_source = np.cumsum(sizes.sum(1)) - sizes.sum(1)
    begin = np.cumsum(sizes, axis=1) - sizes + of_source[:, None]
    ends = np.cumsum(sizes.sum(0)).tolist()
    filled = [(b, a, end) for b, (a, end) in enumerate(pairwise([0, *ends])) if end > a]

    def put(bucket: tuple[int, int, int]) -> None:
        b, first, end = bucket
        parts = [
            (base, slice(at, at + size))
            for base, at, size in zip(starts.tolist(), begin[:, b].tolist(), sizes[:, b].tolist(), strict=True)
            if size
        ]
        _order_bucket(
            [images[part] for _, part in parts], [(base, offsets[part]) for base, part in parts], out[first:end]
        )

    threads.share(put, filled, max(1, min(len(filled), threads.available())))


def _order_bucket(
    images: list[NDArray[Any]], places: list[tuple[int, NDArray[np.uint32]]], out: NDArray[np.int64]
) -> None:
    """Fill ``out`` with the positions of the keys, base and offset, in the order of their ``images`` and places."""
    bits = (out.size - 1).bit_length()
    spans = [span(piece) for piece in images]
    least, greatest = min(int(low) for low, _ in spans), max(int(high) for _, high in spans)
    shift = max(0, (greatest - least).bit_length() - (64 - bits))
    packed, positions, at = np.empty(out.size, np.uint64), np.empty(out.size, np.int64), 0
    for piece, (base, offsets) in zip(images, places, strict=True):
        pack_keys(piece, offsets, base, np.int64(least), np.uint64(shift), np.uint64(bits), at, packed, positions)
        at += piece.size
    packed.sort()
    if shift and count_ties(packed, np.uint64(bits)):
        _decide_ties(packed, bits, np.concatenate(images))
    unpack(packed, np.uint64(bits), positions, out)


def _decide_ties(packed: NDArray[np.uint64], bits: int, images: NDArray[Any]) -> None:
    """Bring those of ``packed`` whose prefixes are equal in the order of their whole ``images``."""
    prefix = packed >> np.uint64(bits)
    tied = prefix[1:] == prefix[:-1]
    at = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
    place = (packed[at] & np.uint64((1 << bits) - 1)).astype(np.int64)
    packed[at] = packed[at][np.lexsort((place, images[place], prefix[at]))]
