"""What is known of lines of numbers after a part of them has been read: states that add up in any order.

A line is what is reduced to one value: the whole array, or what lies along the reduced axis. :class:`Partial` holds the
states of many lines, takes numbers in (on several threads), and takes other partials in. :meth:`Partial.merge` does so
with those of all ranks: everything that adds up, exact sums included, travels in one Allreduce.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.reduce import exact_kernels as exact
from hpcmpi.algorithms.reduce import fast_kernels as fast
from hpcmpi.algorithms.reduce import scan_kernels as scan
from hpcmpi.algorithms.reduce.accumulator_kernels import DIGITS, ONE, carry_all
from hpcmpi.algorithms.reduce.missing import NONE_MISSING, ORDER_OF_NOTHING, Missing, order_of_kept
from hpcmpi.algorithms.reduce.product import Node, collapsed, gathered, tree_nodes
from hpcmpi.algorithms.reduce.strips import Strip, at_once, real_parts, strips
from hpcmpi.partition import Range, block
from hpcmpi.simd import has_avx512

_SINGLE = 1 << 18  # numbers that are not worth a second thread
_TOGETHER = frozenset({"sums", "squares", "order"})  # what one kernel finds in one pass
_PLAIN_TOGETHER = frozenset({"sums", "squares"})
_SUMMED = frozenset({"sums", "squares", "norms"})
_SIGN = np.uint64(1 << 63)

NEEDS = {
    "sum": {"sums"},
    "mean": {"sums"},
    "norm": {"squares"},
    "var": {"sums", "squares"},
    "std": {"sums", "squares"},
    "prod": {"product"},
    "min": {"order"},
    "max": {"order"},
    "argmin": {"order"},
    "argmax": {"order"},
    "any": {"nonzero"},
    "all": {"nonzero"},
    "count-nonzero": {"nonzero"},
    "histogram": {"histogram"},
}
"""The states that each operation is made of; a plain norm is one of its own, ``norms``, for ``squares`` are shifted."""


@dataclass(frozen=True)
class Plan:
    """What to find out about lines of ``dtype``: ``needs`` of :data:`NEEDS`.

    ``edges`` (bins + 1,) float64 are those of the histogram, rounded to its dtype. With ``plain`` sums are plain
    floating-point ones, of the deviations from ``shift``, (parts,) float64, if there are squares too. ``missing`` tells
    what is left out, ``lanes`` whether kernels use folds in lanes.
    """

    dtype: np.dtype[Any]
    needs: frozenset[str]
    edges: NDArray[np.float64] | None = None
    plain: bool = False
    shift: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    missing: Missing = NONE_MISSING
    lanes: bool = field(default_factory=has_avx512)

    @property
    def parts(self) -> int:
        """Real numbers an element."""
        return 2 if self.dtype.kind == "c" else 1

    @property
    def long(self) -> bool:
        """Whether elements are integers that float64 cannot hold."""
        return self.dtype.kind in "iu" and self.dtype.itemsize == 8


class Partial:
    """States of ``lines`` lines of which ``n`` elements each have been read; what is not needed has no columns.

    int64: ``sums`` (parts, lines, DIGITS) and ``squares`` (lines, DIGITS), which are accumulators; ``special`` (parts,
    lines, 3), how many +inf, -inf and NaN; ``kept`` (lines,), how many elements are not left out, if any can be;
    ``refused`` (lines,), how many are NaN where that is an error; ``order`` (lines, 5), as the kernels say; ``nonzero``
    (lines,); ``counts`` (bins,) of the histogram; ``wrapped`` (lines,), products of integers modulo 2^64; ``odd``
    (lines, 4) and ``nodes`` of the product. float64: ``moments`` (parts, lines, 3), the plain sums of x, or of x -
    shift and of its square, and of the square of x.
    """

    def __init__(self, plan: Plan, lines: int) -> None:
        needs, parts = plan.needs, plan.parts
        self.plan, self.lines, self.n = plan, lines, 0
        summed = bool(needs & _SUMMED)
        digits = 0 if plan.plain else DIGITS
        self.sums = np.zeros((parts, lines, digits * ("sums" in needs)), np.int64)
        self.squares = np.zeros((lines, digits * ("squares" in needs)), np.int64)
        self.special = np.zeros((parts, lines, 3 * summed), np.int64)
        self.kept = np.zeros(lines if plan.missing.leaves_out else 0, np.int64)
        self.refused = np.zeros(lines if plan.missing.refuse else 0, np.int64)
        self.order = np.full((lines, 5), ORDER_OF_NOTHING)
        self.nonzero = np.zeros(lines, np.int64)
        self.counts = np.zeros(0 if plan.edges is None else plan.edges.size - 1, np.int64)
        self.wrapped = np.ones(lines, np.int64)
        self.odd = np.zeros((lines, 4), np.int64)
        self.nodes: list[Node] = []
        self.moments = np.zeros((parts, lines, 3 * (summed and plan.plain)))

    def add(self, lines: NDArray[Any], at: int, threads: int = 1) -> None:
        """Read ``lines`` (outer, inner, n), outer * inner lines, whose first elements have index ``at``."""
        outer, inner, n = lines.shape
        self.n += n
        if lines.size == 0:
            return
        threads = threads if lines.size > _SINGLE else 1
        if "product" in self.plan.needs:
            self.nodes = collapsed([*self.nodes, *tree_nodes(lines, at, self.odd, threads, self.plan.missing)])
        if threads == 1 or self.lines == 1:
            others = [Partial(self.plan, 1) for _ in range(1, threads)]
            shares = [block(n, threads, t) for t in range(threads)]

            def read_share(reader: tuple[Partial, Range]) -> None:
                partial, share = reader
                partial._read(lines[:, :, share.slice], at + share.start, 0)

            at_once(read_share, zip([self, *others], shares, strict=True), threads)
            for other in others:
                self._take(other)
        else:
            dealt = block if outer >= threads else None
            shares = [block(outer if dealt else inner, threads, t) for t in range(threads)]

            def read_lines(share: Range) -> None:
                if dealt:
                    self._read(lines[share.slice], at, share.start * inner)
                else:
                    for o in range(outer):
                        self._read(lines[o : o + 1, share.slice], at, o * inner + share.start)

            at_once(read_lines, [share for share in shares if share.size], threads)

    def _read(self, lines: NDArray[Any], at: int, first: int) -> None:
        """Read ``lines``, the first of which is line ``first``, on this thread."""
        kernels = self.plan.needs - {"product"}
        together = _PLAIN_TOGETHER if self.plan.plain else _TOGETHER
        single = self.plan.parts == 1 and not self.plan.long and (len(kernels) == 1 or kernels <= together)
        looks = self.plan.missing.leaves_out or self.plan.missing.refuse
        if not kernels and self.plan.dtype.kind not in "biu" and not looks:
            return
        single = single and not looks
        for strip in strips(lines, whole=single) if lines.size else ():
            self._read_strip(Strip(first + strip.line, at + strip.at, strip.rows))

    def _read_strip(self, strip: Strip) -> None:
        needs, rows = self.plan.needs, strip.rows
        own = slice(strip.line, strip.line + len(rows))
        skipped = self._left_out(rows, own)
        if skipped is not None:
            rows = np.where(skipped, rows.dtype.type(0), rows)
        if needs & _SUMMED:
            if self.plan.plain:
                self._add_plain(rows, skipped, own)
            elif self.plan.long:
                self._add_long(rows, own)
            else:
                self._add_exact(rows, strip.at, own, ordered=skipped is None)
        if "order" in needs:
            self._add_order(strip, skipped, own)
        if "nonzero" in needs:
            if self.plan.parts == 2:
                self.nonzero[own] += np.count_nonzero(rows, axis=1)
            else:
                scan.count_nonzero(rows.view(np.int64) if self.plan.long else rows, self.nonzero[own])
        if self.plan.edges is not None:
            numbers = rows.astype(np.float64, copy=False)
            numbers = numbers if skipped is None else np.where(skipped, np.nan, numbers)  # which is in no bin
            scan.histogram(numbers.reshape(-1), self.plan.edges, self.counts)
        if "product" in needs and self.plan.dtype.kind in "biu":
            integers = rows.view(np.int64) if self.plan.long else rows.astype(np.int64)
            integers = integers if skipped is None else np.where(skipped, 1, integers)
            self.wrapped[own] *= np.multiply.reduce(integers, axis=1)

    def _left_out(self, rows: NDArray[Any], own: slice) -> NDArray[np.bool_] | None:
        """Which elements are left out, None if none are; counts the others, and NaN where it is refused."""
        skipped = self.plan.missing.among(rows)
        if self.kept.size:
            self.kept[own] += rows.shape[1] - (0 if skipped is None else np.count_nonzero(skipped, axis=1))
        if self.refused.size:
            undefined = np.isnan(rows) if skipped is None else np.isnan(rows) & ~skipped
            self.refused[own] += np.count_nonzero(undefined, axis=1)
        return skipped

    def _add_order(self, strip: Strip, skipped: NDArray[np.bool_] | None, own: slice) -> None:
        """The order, unless sums have found it already."""
        rows, long = strip.rows, self.plan.long
        if skipped is not None:
            numbers = _as_keys(rows) if long else rows
            self.order[own] = self._joined_order(self.order[own], order_of_kept(rows, numbers, skipped, strip.at))
        elif long:
            scan.order_of_integers(_as_keys(rows), strip.at, self.order[own])
        elif self.plan.plain or not self.plan.needs & _SUMMED:
            scan.order_of_floats(rows, strip.at, self.order[own], self.plan.lanes)

    def _add_exact(self, rows: NDArray[Any], at: int, own: slice, *, ordered: bool) -> None:
        """Sums and squares, and unless it is not ``ordered`` so, the order."""
        needs, lanes = self.plan.needs & (_TOGETHER if ordered else _PLAIN_TOGETHER), self.plan.lanes
        order = self.order[own] if ordered else np.full((len(rows), 5), ORDER_OF_NOTHING)
        for part, x in enumerate(real_parts(rows)):
            special = self.special[part, own]
            if needs == {"sums"}:
                exact.exact_sum(x, self.sums[part, own], special, lanes)
            elif needs == {"squares"}:
                exact.exact_squares(x, self.squares[own], special, lanes)
            else:
                sums, squares = (self._or_unused(state, len(x)) for state in (self.sums[part, own], self.squares[own]))
                exact.exact_moments(x, at, sums, squares, special, order, lanes)

    def _or_unused(self, state: NDArray[np.int64], lines: int) -> NDArray[np.int64]:
        """``state``, or room for what the kernel finds though nobody asks for it."""
        return state if state.shape[1] else np.zeros((lines, DIGITS), np.int64)

    def _add_long(self, rows: NDArray[Any], own: slice) -> None:
        """64-bit integers: sums as such, squares by upper and lower halves, which float64 holds."""
        if "sums" in self.plan.needs:
            scan.sum_of_integers(_as_keys(rows), self.sums[0, own])
            if rows.dtype.kind == "u":  # the keys are less by 2^63
                self.sums[0, own, ONE + 1] += rows.shape[1] << 31
        if "squares" in self.plan.needs:
            low, high = (rows & rows.dtype.type(0xFFFFFFFF)).astype(np.float64), (rows >> 32).astype(np.float64)
            unused = np.zeros((len(rows), 3), np.int64)
            for x, y, shift in ((low, low, 0), (high, 2 * low, 1), (high, high, 2)):
                digits = np.zeros((len(rows), DIGITS), np.int64)
                exact.exact_dot(x, y, digits, unused, self.plan.lanes)
                self.squares[own, shift:] += digits[:, : DIGITS - shift]

    def _add_plain(self, rows: NDArray[Any], skipped: NDArray[np.bool_] | None, own: slice) -> None:
        needs, lanes = self.plan.needs, self.plan.lanes
        for part, x in enumerate(real_parts(rows.astype(np.float64) if self.plan.long else rows)):
            if needs >= _PLAIN_TOGETHER:
                moments = np.zeros((len(x), 2))
                deviating = x if skipped is None else np.where(skipped, self.plan.shift[part], x)
                fast.fast_moments(deviating, self.plan.shift[part : part + 1], moments, lanes)
                self.moments[part, own, :2] += moments
            elif "sums" in needs:
                sums = np.zeros(len(x))
                fast.fast_sum(x, sums, lanes)
                self.moments[part, own, 0] += sums
            if "norms" in needs:
                sums = np.zeros(len(x))
                fast.fast_dot(x, x, sums, lanes)
                self.moments[part, own, 2] += sums

    def _additive(self) -> tuple[NDArray[np.int64], ...]:
        kept = self.kept, self.refused
        return self.sums, self.squares, self.special, self.nonzero, self.counts, self.odd, *kept

    def _take(self, other: Partial) -> None:
        """Take in what ``other`` knows of other elements of the same lines, of this rank."""
        for mine, its in zip(self._additive(), other._additive(), strict=True):
            np.add(mine, its, out=mine)
        self.wrapped *= other.wrapped
        self.moments += other.moments
        self.order = self._joined_order(self.order, other.order)

    def _joined_order(self, mine: NDArray[np.int64], its: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.stack(
            [
                np.minimum(mine[:, exact.LEAST], its[:, exact.LEAST]),
                np.maximum(mine[:, exact.GREATEST], its[:, exact.GREATEST]),
                self._first(mine, its, exact.LEAST, exact.AT_LEAST),
                self._first(mine, its, exact.GREATEST, exact.AT_GREATEST),
                np.minimum(mine[:, exact.AT_NAN], its[:, exact.AT_NAN]),
            ],
            axis=1,
        )

    def _first(self, one: NDArray[np.int64], two: NDArray[np.int64], key: int, at: int) -> NDArray[np.int64]:
        """Index of the extreme element of ``one`` and ``two``: the first of equals."""
        x, y = (keys_as_order(order[:, key], self.plan) for order in (one, two))
        ahead = x < y if key == exact.LEAST else x > y
        candidates = np.where(ahead, one[:, at], two[:, at])
        return np.where((x == y), np.minimum(one[:, at], two[:, at]), candidates)

    def some(self, lines: NDArray[np.intp]) -> Partial:
        """The states of ``lines`` alone."""
        chosen = Partial(self.plan, 0)
        chosen.lines, chosen.n = len(lines), self.n
        for name in ("sums", "special", "moments"):
            setattr(chosen, name, getattr(self, name)[:, lines])
        for name in ("squares", "order", "nonzero", "wrapped", "odd", "kept", "refused"):
            state = getattr(self, name)
            setattr(chosen, name, state[lines] if state.size else state)
        chosen.nodes = [n._replace(mantissa=n.mantissa[lines], exponent=n.exponent[lines]) for n in self.nodes]
        return chosen

    @property
    def elements(self) -> NDArray[np.int64]:
        """(lines,): how many elements of each line count."""
        return self.kept if self.plan.missing.leaves_out else np.full(self.lines, self.n)

    def merge(self, comm: MPI.Comm) -> None:
        """Take in what all ranks know of other elements of the same lines. Collective.

        One Allreduce for all that adds up; one each for extremes, for their places and for plain sums, where asked for.
        """
        if comm.size == 1:
            return
        needs = self.plan.needs
        window = self._window(comm)
        additive = [state[..., window] if state.shape[-1:] == (DIGITS,) else state for state in self._additive()]
        packed = np.concatenate([np.array([self.n]), *(state.reshape(-1) for state in additive)])
        packed = collective.allreduce(comm, packed)
        self.n, at = int(packed[0]), 1
        for state in additive:
            state[...] = packed[at : at + state.size].reshape(state.shape)
            at += state.size
        if self.moments.size:
            self.moments = collective.allreduce(comm, self.moments)
        if "order" in needs:
            self._merge_order(comm)
        if "product" in needs:
            self.nodes = gathered(comm, self.nodes, self.lines)
            if self.plan.dtype.kind in "biu":
                self.wrapped = np.multiply.reduce(collective.gather_blocks(comm, self.wrapped[None]), axis=0)

    def _window(self, comm: MPI.Comm) -> slice:
        """Digits that any rank uses: all for a single line, whose digits cost less than finding out."""
        if self.lines == 1 or not (self.sums.size or self.squares.size):
            return slice(0, DIGITS)
        used = np.zeros(DIGITS, bool)
        for digits in (self.sums, self.squares):
            if digits.size:
                carry_all(digits.reshape(-1, DIGITS))
                used |= digits.reshape(-1, DIGITS).any(axis=0)
        places = np.flatnonzero(used)
        ends = [places[0], -places[-1]] if places.size else [DIGITS, 0]
        first, last = collective.allreduce(comm, np.array(ends, np.int64), MPI.MIN)
        return slice(int(first), max(int(first), int(-last) + 1))

    def _merge_order(self, comm: MPI.Comm) -> None:
        mine = self.order
        ends = np.stack([mine[:, exact.LEAST], ~mine[:, exact.GREATEST], mine[:, exact.AT_NAN]])
        least, greatest, at_nan = collective.allreduce(comm, ends, MPI.MIN)
        greatest = ~greatest
        places = np.stack(
            [
                np.where(
                    keys_as_order(mine[:, key], self.plan) == keys_as_order(whole, self.plan),
                    mine[:, at],
                    exact.NOWHERE,
                )
                for key, at, whole in (
                    (exact.LEAST, exact.AT_LEAST, least),
                    (exact.GREATEST, exact.AT_GREATEST, greatest),
                )
            ]
        )
        at_least, at_greatest = collective.allreduce(comm, places, MPI.MIN)
        self.order = np.stack([least, greatest, at_least, at_greatest, at_nan], axis=1)


def _as_keys(rows: NDArray[Any]) -> NDArray[np.int64]:
    """64-bit integers as int64 in the same order."""
    return (rows ^ _SIGN).view(np.int64) if rows.dtype.kind == "u" else rows


def keys_as_order(keys: NDArray[np.int64], plan: Plan) -> NDArray[Any]:
    """Keys as what compares like the numbers: 0.0 and -0.0 have different keys, but are equal."""
    if plan.long:
        return keys
    return np.where(keys == -1, 0, keys)  # the key of -0.0 is -1, that of 0.0 is 0
