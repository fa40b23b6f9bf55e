"""Sample sort: one pass over the keys, which are on their way to their rank as soon as they are read.

1. A sample gives splitters (:mod:`splitters`), a class for each rank.
2. Block by block, each rank deals its keys out to the classes; those of its own go straight to the result, the others
   into staging, from where they are sent while the next block is read. What comes in is received behind what is there.
3. ``np.sort``, once.
4. Sizes differ from n/P by the sample's error, a few in a thousand; as the order is complete now, that many keys at the
   ends of the ranks' parts are passed on to the neighbours, and every rank has n/P, give or take one.

On a slow network, or with threads, there are several classes a rank, *generations*: pass g deals out the keys of the
ranks' g-th classes only. While generation g + 1 is on its way, threads sort generation g, so that little is left to do
after the last key has come in.

Method: sample sort (Frazer and McKellar 1970), with splitters that divide equal keys (Axtmann and Sanders 2017, "Robust
massively parallel sorting"). Fresh memory costs more than reading a key again, so almost none is touched.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.sort.keys import Codec
from hpcmpi.algorithms.sort.local import sort_local
from hpcmpi.algorithms.sort.partitioner import PADDING, Partitioner
from hpcmpi.algorithms.sort.splitters import Layout, choose, layout, sample_size, stretches

_BLOCK_BYTES = 1 << 21  # of keys that are dealt out at a time
_STAGING_BYTES = 1 << 25
_GENERATIONS = 4
_NICENESS = 10  # of threads that sort while messages move
_DEVIATIONS = 4.5  # of a splitter's place in the sample, for which there is room
_LEAST_SLACK, _MOST_SLACK = 1 << 10, 0.05  # keys; share


Report = Callable[[float], None]
"""Told the fraction that is done."""


def silent(_fraction: float) -> None:
    """A report that nobody reads."""


def slack(n: int, ranks: int) -> int:
    """Keys for which there is room beyond a rank's share, at either end, for the error of a splitter."""
    error = _DEVIATIONS * n / (2 * sample_size(n, ranks, ranks) ** 0.5)
    return int(min(error, _MOST_SLACK * n / ranks)) + _LEAST_SLACK if ranks > 1 else 0


def capacity(n: int, ranks: int, itemsize: int) -> int:
    """Images of ``itemsize`` bytes that :func:`sample` wants room for, where there are ``n`` keys."""
    if ranks == 1:
        return n
    return -(-n // ranks) + 3 * slack(n, ranks) + _block(ranks, itemsize) + PADDING


def _block(ranks: int, itemsize: int) -> int:
    return min(_BLOCK_BYTES, _STAGING_BYTES // ranks) // itemsize


def sample(
    comm: MPI.Comm,
    raw: NDArray[Any],
    codec: Codec,
    room: NDArray[Any],
    *,
    threads: int = 1,
    generations: int | None = None,
    portable: bool = False,
    report: Report = silent,
) -> NDArray[Any]:
    """This rank's block of the sorted images of all ranks' ``raw`` keys (contiguous, n_local).

    ``room`` is memory for images, best with :func:`capacity` of them; where it is too small, more is taken. The result
    is a view of it if it fits. ``comm`` must be free of other messages.
    """
    where = layout(comm, raw.size)
    if comm.size == 1 or where.n == 0:
        images = room[: raw.size] if room.size >= raw.size else np.empty(raw.size, codec.image)
        sort_local(raw, codec, images, threads)
        return images
    if generations is None:
        generations = _generations(comm, threads)
    stream = _Stream(comm, raw, codec, room, where, generations, portable=portable)
    sorting: list[Future[None]] = []
    with ThreadPoolExecutor(max(1, threads), initializer=_give_way) as pool:
        for generation in range(generations):
            part = stream.receive(generation, report)
            if generations > 1:
                sorting.append(pool.submit(part.sort))
                stream.busy = sorting
            else:
                part.sort()
        for future in sorting:
            future.result()
    stream.finish()
    return collective.rebalance(comm, stream.images(), stream.room, stream.front)


def _give_way() -> None:
    """Let this thread yield to those that move messages, where there are fewer cores than threads."""
    thread = threading.get_native_id()
    with suppress(OSError):  # a courtesy, which some systems forbid
        if os.getpriority(os.PRIO_PROCESS, thread) < _NICENESS:
            os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)


def _generations(comm: MPI.Comm, threads: int) -> int:
    """Passes over the keys: one where messages are as fast as memory and one thread sorts."""
    node = collective.split_node(comm)
    apart = node.size < comm.size
    node.Free()
    several: int = comm.allreduce(max(2 * threads if threads > 1 else 1, _GENERATIONS if apart else 1), MPI.MAX)
    return min(several, 4 * _GENERATIONS)


class _Stream:
    """Keys on their way from all ranks to all ranks; what is there of this rank's is ``room[front:at]``."""

    def __init__(
        self, comm: MPI.Comm, raw: NDArray[Any], codec: Codec, room: NDArray[Any], where: Layout, generations: int,
        *, portable: bool,
    ) -> None:  # fmt: skip
        self._comm, self._raw, self._generations = comm, raw, generations
        splitters = choose(
            comm, where, raw.size, lambda at: codec.encode(raw[at].view(codec.dtype)), comm.size * generations
        )
        # Staging is fresh memory: half of it does where messages are as fast as memory.
        self._block = _block(comm.size, codec.image.itemsize) // (2 if generations == 1 else 1)
        self._stretches = list(stretches(splitters, where, raw.size, self._block))
        self._rounds = comm.allreduce(len(self._stretches), MPI.MAX)
        self._dealers = [Partitioner(codec, comm.size, self._block, portable=portable) for _ in range(2)]
        self._sent: list[list[MPI.Request]] = [[], []]
        self._mail = collective.Mail(comm, codec.image, self._place)
        self.room, self.front = room, min(slack(where.n, comm.size), max(0, room.size - self._block - PADDING))
        self.at = self.front
        self.busy: list[Future[None]] = []
        self._others = [(comm.rank + step) % comm.size for step in range(1, comm.size)]

    def receive(self, generation: int, report: Report) -> NDArray[Any]:
        """Deal out the keys of one generation, and return the images of this rank's class of it, in no order."""
        first = self.at
        self._mail.received = 0
        for number in range(self._rounds):
            dealer, sent = self._dealers[number % 2], self._sent[number % 2]
            self._mail.until(generation, lambda: collective.progress(sent))  # noqa: B023 - called at once
            parts = self._deal(dealer, generation, number)
            self._sent[number % 2] = [self._mail.send(parts[rank], rank, generation) for rank in self._others]
            self._mail.collect(generation)
            report((generation + number / self._rounds) / self._generations)
        expected = self._rounds * len(self._others)
        self._mail.until(generation, lambda: self._mail.received == expected)
        return self.room[first : self.at]

    def _deal(self, dealer: Partitioner, generation: int, number: int) -> list[NDArray[Any]]:
        """The images of block ``number`` that are for each rank; this rank's own are in their place."""
        if number >= len(self._stretches):
            return [self._raw[:0]] * self._comm.size
        part, low, high = self._stretches[number]
        if self.room.size < self.at + part.size + PADDING:
            self._grow(part.size + PADDING)
        mine = slice(generation, None, self._generations)
        self.at = dealer.partition(
            self._raw, part.start, part.stop, low[mine], high[mine], self._comm.rank, self.room, self.at
        )
        return dealer.parts()

    def _place(self, items: int) -> NDArray[Any]:
        if self.room.size < self.at + items:
            self._grow(items)
        self.at += items
        return self.room[self.at - items : self.at]

    def _grow(self, items: int) -> None:
        """Take larger memory: the sample has misjudged the keys, or the caller has given little."""
        for future in self.busy:
            future.result()
        self._mail.settle()
        larger = np.empty(self.at + items + (self.at - self.front) // 4 + self._block, self.room.dtype)
        larger[: self.at] = self.room[: self.at]
        self.room = larger

    def images(self) -> NDArray[Any]:
        """All that has come."""
        return self.room[self.front : self.at]

    def finish(self) -> None:
        """Let the last messages go."""
        collective.wait([request for sent in self._sent for request in sent])
