"""Splitters: what divides the keys of all ranks into classes of nearly equal size, found from a sample.

A splitter is a pair (image, global position), and a key lies in the class that the number of splitters not above its
own pair tells. The positions divide equal keys, so that no input makes one class larger than another: among keys that
are all equal, each stays about where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import generator
from hpcmpi.comm import gather_blocks
from hpcmpi.partition import Range

_LARGEST_SAMPLE = 1 << 20  # of all ranks together
_SAMPLE_A_RANK = 1 << 15  # two classes of equal parts of n then differ from n/2 by 0.4%, once in three times
_SAMPLE_A_CLASS = 1 << 5
_KEYS_A_SAMPLE = 64  # at least: a sample of few keys need not be better than those are many


class Splitters(NamedTuple):
    """``images`` (classes - 1,) and ``positions`` (classes - 1,) int64, ascending as pairs."""

    images: NDArray[Any]
    positions: NDArray[np.int64]


class Layout(NamedTuple):
    """Where the ranks' keys lie: ``n`` in all, this rank's from position ``start`` on, at most ``most`` on a rank."""

    n: int
    start: int
    most: int


def layout(comm: MPI.Comm, n_local: int) -> Layout:
    """The layout of keys of which this rank has ``n_local``. Collective."""
    sizes = comm.allgather(n_local)
    return Layout(sum(sizes), sum(sizes[: comm.rank]), max(sizes))


def sample_size(n: int, ranks: int, classes: int) -> int:
    """Keys, of ``n``, in the sample of all ranks."""
    good = min(_SAMPLE_A_RANK * ranks, _LARGEST_SAMPLE, n // _KEYS_A_SAMPLE)
    return max(good, _SAMPLE_A_CLASS * classes)


def choose(
    comm: MPI.Comm, where: Layout, n_local: int, images_at: Callable[[NDArray[np.int64]], NDArray[Any]], classes: int
) -> Splitters:
    """Splitters into ``classes`` nearly equal classes. ``images_at(indices)`` tells images of local keys. Collective.

    Each rank draws from its keys in proportion, one from each of equal strips.
    """
    wanted = -(-sample_size(where.n, comm.size, classes) * n_local // max(1, where.n))
    strip = generator.uniform(where.n, Range(comm.rank, comm.rank + 1), Range(0, wanted), np.float64)[0] + 0.5
    indices = np.minimum(((np.arange(wanted) + strip) * (n_local / max(1, wanted))).astype(np.int64), n_local - 1)
    drawn = images_at(indices)
    sample = gather_blocks(comm, np.stack([drawn.astype(np.int64), where.start + indices], axis=1))
    ordered = np.sort(sample[:, 0])
    picked = np.arange(1, classes) * len(ordered) // classes
    images, positions = ordered[picked], np.zeros(classes - 1, np.int64)
    if (np.searchsorted(ordered, images, "right") - np.searchsorted(ordered, images) > 1).any():
        positions = sample[np.lexsort((sample[:, 1], sample[:, 0])), 1][picked]
    return Splitters(images.astype(drawn.dtype), positions)


class Stretch(NamedTuple):
    """Local keys ``part``, for which all classes are intervals: ``low[c]`` to ``high[c]``, none if that is below."""

    part: Range
    low: NDArray[Any]
    high: NDArray[Any]


def stretches(splitters: Splitters, where: Layout, n_local: int, longest: int) -> Iterator[Stretch]:
    """Consecutive stretches of local keys, of at most ``longest``: they end where a splitter's position is."""
    least, most = (getattr(np.iinfo(splitters.images.dtype), end) for end in ("min", "max"))
    cuts = np.clip(splitters.positions - where.start, 0, n_local)
    edges = sorted({0, n_local, *cuts.tolist()})
    for first, end in pairwise(edges):
        left = cuts > first  # keys of this stretch that equal these splitters lie below them
        images = splitters.images
        high = np.append(np.where(left, images, np.where(images > least, images - 1, images)), most)
        low = np.insert(np.where(left, np.where(images < most, images + 1, images), images), 0, least)
        nothing = np.append(~left & (images == least), False) | np.insert(left & (images == most), 0, False)
        low[nothing], high[nothing] = most, least
        for at in range(first, end, longest):
            yield Stretch(Range(at, min(at + longest, end)), low.astype(images.dtype), high.astype(images.dtype))


class Search(NamedTuple):
    """Local keys ``part``, the class of which is the number of ``splitters`` not above their image, at most ``most``.

    ``splitters`` are 2^k - 1 images, ascending.
    """

    part: Range
    splitters: NDArray[Any]
    most: int


def searches(splitters: Splitters, where: Layout, part: Range) -> Iterator[Search]:
    """Consecutive stretches of the local keys ``part``: they end where a splitter's position is."""
    images, greatest = splitters.images, np.iinfo(splitters.images.dtype).max
    padded = np.full((1 << images.size.bit_length()) - 1, greatest, images.dtype)
    cuts = np.clip(splitters.positions - where.start, part.start, part.stop)
    for first, end in pairwise(sorted({part.start, part.stop, *cuts.tolist()})):
        left = cuts > first  # keys of this stretch that equal these splitters lie below them
        never = left & (images == greatest)  # and these, which are the last ones, are above all keys
        padded[: images.size] = np.where(left & ~never, images + 1, images) if left.any() else images
        yield Search(Range(first, end), padded, images.size - int(never.sum()))
