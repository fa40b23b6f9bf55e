"""Which lines there are, who reads what of them, and in what order.

An array is dealt to the ranks in blocks along one dimension. Without an axis it is one line, of which every rank reads
its block. With one, or several, a line is what lies along them: if the array is dealt along another dimension, each
rank has whole lines and nothing is sent; if it is dealt along one of them, all ranks have a part of every line, and
their states are merged, some lines at a time. Either way each output element is owned, and rounded, by one rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.reduce import exact_kernels as exact
from hpcmpi.algorithms.reduce.partial import Partial, Plan
from hpcmpi.partition import Range, block, coordinates

_LINES = 4096  # whose states are held at once: 10 MB
_COPIED = 1 << 20  # elements that are brought into the order of lines at once

Box = tuple[Range, ...]
Read = Callable[[Box], NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """An array of ``shape``, dealt along dimension ``split``, of which this rank has ``part``.

    It is to be reduced along ``axes``, ascending; None stands for all dimensions.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    split: int
    part: Box

    @property
    def kept(self) -> tuple[int, ...]:
        """Dimensions of the output."""
        return () if self.axes is None else tuple(d for d in range(len(self.shape)) if d not in self.axes)

    @property
    def merges(self) -> bool:
        """Whether the ranks have parts of the same lines."""
        return self.axes is None or self.split in self.axes

    @property
    def longest(self) -> int:
        """The kept dimension along which lines are taken in turn, and dealt where the ranks share them."""
        return max(self.kept, key=lambda d: self.shape[d])

    def owned(self, rank: int, ranks: int) -> Box:
        """The part of the output that ``rank`` rounds and holds."""
        if self.axes is None:
            return ()
        whole = [Range(0, self.shape[d]) if self.merges else self.part[d] for d in self.kept]
        if self.merges:
            whole[self.kept.index(self.longest)] = block(self.shape[self.longest], ranks, rank)
        return tuple(whole)

    def global_index(self, local: int) -> int:
        """Index in the whole array of element ``local`` of this rank's part, both in row-major order."""
        place = np.unravel_index(local, [r.size for r in self.part])
        there = [int(i) + r.start for i, r in zip(place, self.part, strict=True)]
        return int(np.ravel_multi_index(there, self.shape))


def array_runs(
    comm: MPI.Comm, layout: Layout, read: Read, block_elements: int
) -> Iterator[tuple[float, int, NDArray[Any]]]:
    """This rank's block, ``block_elements`` at a time: what is done after it, index of its first element, (1, 1, n).

    ``read(box)`` gives a part of the block; it may be collective. Indices are those in the whole array if the block is
    a run of it, else those in the block.
    """
    part, nothing = layout.part, (Range(layout.part[0].stop, layout.part[0].stop), *layout.part[1:])
    before = part[0].start * math.prod(r.size for r in part[1:]) if layout.split == 0 else 0
    cut, longest, a_row = _cut(part, block_elements)
    mine = math.prod(r.size for r in part[:cut]) * a_row
    for number, done in _in_step(comm, mine):
        first, box = _run(part, cut, longest, *divmod(number, a_row)) if number < mine else (0, nothing)
        yield done, before + first, read(box).reshape(1, 1, -1)


def _cut(part: Box, block_elements: int) -> tuple[int, int, int]:
    """The dimension to cut, so that its pieces are runs of at most ``block_elements``; their length, and how many."""
    sizes = [r.size for r in part]
    cut = next(d for d in range(len(sizes)) if math.prod(sizes[d + 1 :]) <= block_elements)
    longest = max(1, min(sizes[cut], block_elements // max(1, math.prod(sizes[cut + 1 :]))))
    return cut, longest, -(-sizes[cut] // longest)


def _run(part: Box, cut: int, longest: int, outer: int, piece: int) -> tuple[int, Box]:
    """Piece ``piece`` of row ``outer`` of ``part``: index of its first element in ``part``, and where it is."""
    place = coordinates(tuple(r.size for r in part[:cut]), outer)
    at = piece * longest
    first = (outer * part[cut].size + at) * math.prod(r.size for r in part[cut + 1 :])
    before = (Range(r.start + i, r.start + i + 1) for r, i in zip(part, place, strict=False))
    start = part[cut].start + at
    return first, (*before, Range(start, min(start + longest, part[cut].stop)), *part[cut + 1 :])


def array_states(
    comm: MPI.Comm,
    layout: Layout,
    plan: Plan,
    read: Read,
    threads: int,
    block_elements: int,
    advance: Callable[[float], None],
) -> Partial:
    """State of the whole array, merged."""
    partial = Partial(plan, 1)
    for done, first, values in array_runs(comm, layout, read, block_elements):
        partial.add(values, first, threads)
        if done < 1:
            advance(done)
    if layout.split != 0:
        for column in (exact.AT_LEAST, exact.AT_GREATEST, exact.AT_NAN):
            if partial.order[0, column] != exact.NOWHERE:
                partial.order[0, column] = layout.global_index(int(partial.order[0, column]))
    partial.merge(comm)
    return partial


def line_runs(
    comm: MPI.Comm, layout: Layout, read: Read, block_elements: int
) -> Iterator[tuple[float, Box, Iterator[tuple[int, NDArray[Any]]]]]:
    """Lines along the axes, some at a time: what is done after them, the part of the output that they make, and their
    elements: index of the first, (outer, inner, n), outer * inner lines. Where ranks share lines, all get the same.

    The elements of a line have the row-major order of the axes. Indices are those in the whole line if this rank's part
    of it is a run, else those in the part.
    """
    axes = layout.axes or ()
    longest, along = layout.longest, tuple(layout.part[d] for d in axes)
    nothing = (Range(along[0].stop, along[0].stop), *along[1:])
    length, start = math.prod(r.size for r in along), along[0].start * math.prod(r.size for r in along[1:])
    if not _adjacent(axes):
        block_elements = min(block_elements, _COPIED)
    others = math.prod(layout.part[d].size for d in layout.kept if d != longest)
    per_index = others * max(1, length)
    at_once = max(1, min(_LINES // max(1, others), block_elements // max(1, per_index)))
    longest_run = max(1, block_elements // max(1, others)) if per_index > block_elements else max(1, length)
    if layout.merges:
        at_once = int(comm.allreduce(at_once, MPI.MIN))

    def runs(box: Box) -> Iterator[tuple[int, NDArray[Any]]]:
        cut, rows, a_row = _cut(along, longest_run)
        mine = math.prod(r.size for r in along[:cut]) * a_row
        for number, _done in _in_step(comm, mine):
            first, run = _run(along, cut, rows, *divmod(number, a_row)) if number < mine else (0, nothing)
            places = dict(zip(axes, run, strict=True))
            values = read(tuple(places.get(d, r) for d, r in enumerate(box)))
            if values.size:
                yield start + first, _as_lines(values, axes)

    for done, some in _pieces_in_step(comm, layout.part[longest], at_once):
        box = tuple(some if d == longest else r for d, r in enumerate(layout.part))
        yield done, tuple(box[d] for d in layout.kept), runs(box)


def _adjacent(axes: tuple[int, ...]) -> bool:
    return axes[-1] - axes[0] == len(axes) - 1


def _as_lines(values: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """``values`` as (outer, inner, n), n elements along ``axes``; a copy where these are not adjacent."""
    n, shape = math.prod(values.shape[d] for d in axes), values.shape
    if _adjacent(axes):
        return values.reshape(math.prod(shape[: axes[0]]), n, -1).transpose(0, 2, 1)
    kept = tuple(d for d in range(values.ndim) if d not in axes)
    return values.transpose(*kept, *axes).reshape(-1, 1, n)


def line_states(
    comm: MPI.Comm,
    layout: Layout,
    plan: Plan,
    read: Read,
    threads: int,
    block_elements: int,
    advance: Callable[[float], None],
) -> Iterator[tuple[Box, Partial]]:
    """States of the lines along the axis, complete, some at a time, with the part of the output that they make."""
    along = math.prod(layout.part[d].size for d in layout.axes or ())
    for done, box, runs in line_runs(comm, layout, read, block_elements):
        partial = Partial(plan, math.prod(r.size for r in box))
        for first, lines in runs:
            partial.add(lines, first, threads)
        partial.n = along
        if layout.merges:
            partial.merge(comm)
        if done < 1:
            advance(done)
        yield box, partial


def _in_step(comm: MPI.Comm, mine: int) -> Iterator[tuple[int, float]]:
    """Numbers of steps, as many on every rank as on that with the most; with what is done after each."""
    count = int(collective.allreduce(comm, np.array([mine]), MPI.MAX)[0])
    return ((number, (number + 1) / count) for number in range(count))


def _pieces_in_step(comm: MPI.Comm, whole: Range, longest: int) -> Iterator[tuple[float, Range]]:
    """What is done after each of the pieces of ``whole``, of which all ranks get as many, some of them empty."""
    for number, done in _in_step(comm, -(-whole.size // longest)):
        start = min(whole.start + number * longest, whole.stop)
        yield done, Range(start, min(start + longest, whole.stop))
