"""Check of the answers: the data are read once more, and seen with other eyes.

* *Exact sums and sums of squares*: their seals, residues modulo 2^61 - 1, must be those of the data. A single lost bit
  changes them.
* *What was rounded from them*: sum, mean, norm, variance and standard deviation must be within half a unit in the last
  place (variances: 4 roundings) of a compensated sum, whose own error is bounded by (k u)^2 sum |x|, k additions deep.
* *Plain sums* (``--fast``): within k u sum |x| of the compensated sum, k being the depth of the additions.
* *Order, counts, histogram*: NumPy's functions, block by block; the histogram's edges are those that NumPy makes.
* *Products*: the sum of the logarithms, within n u, and the signs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcmpi import comm as collective
from hpcmpi.algorithms.reduce.check_kernels import BLOCK, PRIME, WAYS
from hpcmpi.algorithms.reduce.fast_kernels import BLOCK as PLAIN_BLOCK
from hpcmpi.algorithms.reduce.lines import Layout, array_runs, line_runs
from hpcmpi.algorithms.reduce.missing import Missing
from hpcmpi.algorithms.reduce.outcome import KEPT
from hpcmpi.algorithms.reduce.reduction import Answers, Request, Work
from hpcmpi.algorithms.reduce.strips import at_once
from hpcmpi.algorithms.reduce.witness import Witness, joined, joined_over_ranks, see
from hpcmpi.partition import Range, block
from hpcmpi.record import Verdict

_U = 2.0**-53
_LEAST = 2.0**-1060  # what products may lose to underflow, a term
_SUMS, _SQUARES = {"sum", "mean", "var", "std"}, {"norm", "var", "std"}
_TOO_SMALL, _TOO_LARGE = 1e-250, 1e290  # sums of squares whose errors float64 cannot hold


@np.errstate(all="ignore")  # what overflows in the second look is no answer, and the verdict tells of it
def check(
    comm: MPI.Comm, layout: Layout, dtype: np.dtype[Any], request: Request, work: Work, answers: Answers
) -> Verdict:
    """Whether ``answers`` are right. Collective; reads the array once."""
    ops = request.outputs(dtype)
    wrong, lines, worst, sealed = dict.fromkeys(ops, 0), 0, 0.0, 0
    for number, (values, witness, n) in enumerate(_witnesses(comm, layout, dtype, request, work, answers)):
        if witness is None:
            continue
        judge = _Judge(dtype, request, answers, n, comm.size, work.block_elements)
        if number < len(answers.seals):
            bad, checked = judge.seals(witness, *answers.seals[number])
            for op in ops:
                wrong[op] += bad if op in _SUMS | _SQUARES else 0
            sealed += checked
        for op in ops:
            right, error = judge.right(op, values[op], values["lines"], witness)
            wrong[op] += int(np.count_nonzero(~right))
            worst = max(worst, error)
        lines += len(values["lines"])
    shared = layout.axes is None  # every rank has looked at the same line
    counts = np.array([lines, sealed, *wrong.values()], np.int64) * (comm.rank == 0 or not shared)
    lines, sealed, *bad_lines = (int(k) for k in collective.allreduce(comm, counts))
    worst = float(collective.allreduce(comm, np.array([worst]), MPI.MAX)[0])
    said = [f"{op} wrong in {k} of {lines} lines" for op, k in zip(wrong, bad_lines, strict=True) if k]
    summed = (_SUMS | _SQUARES) & set(request.ops)
    about = [
        f"{'sums' if answers.plain_shift is None else 'plain sums'} within {worst:.2f} of what rounding allows"
        * bool(summed),
        "exact sums sealed modulo 2^61 - 1" * bool(sealed),
        "NumPy agrees" * (summed != set(ops)),
    ]
    return Verdict(
        not said,
        "; ".join(text for text in (*said, *about) if text),
        {"lines_wrong": max(bad_lines), "lines_sealed": sealed},
    )


def _witnesses(
    comm: MPI.Comm, layout: Layout, dtype: np.dtype[Any], request: Request, work: Work, answers: Answers
) -> Iterator[tuple[dict[str, Any], Witness | None, int]]:
    """This rank's values of some lines, which of the lines seen they are, what was seen, and elements a line."""
    left_out = request.missing(dtype)
    if layout.axes is None:
        blocks = array_runs(comm, layout, work.read, work.block_elements)
        whole = _together(
            joined(seen)
            for _done, first, values in blocks
            if (seen := _see_on_threads(request, values, first, answers, left_out, work.threads))
        )
        if whole is not None and layout.split != 0 and whole.at_least.size:
            whole.at_least[0], whole.at_greatest[0] = (
                layout.global_index(int(k[0])) for k in (whole.at_least, whole.at_greatest)
            )
        merged = joined_over_ranks(comm, whole)
        values_of = {op: value.reshape(-1) for op, value in answers.values.items()}
        yield {**values_of, "lines": np.zeros(1, np.intp)}, merged, math.prod(layout.shape)
        return
    n = math.prod(layout.shape[d] for d in layout.axes)
    for _done, box, runs in line_runs(comm, layout, work.read, work.block_elements):
        whole = _together(see(request.ops, lines, first, None, left_out) for first, lines in runs)
        if layout.merges:
            whole = joined_over_ranks(comm, whole)
        overlap = [Range(max(b.start, o.start), min(b.stop, o.stop)) for b, o in zip(box, answers.owned, strict=True)]
        if whole is None or any(r.size <= 0 for r in overlap):
            yield {}, None, n
            continue
        numbers = np.arange(math.prod(r.size for r in box)).reshape([r.size for r in box])
        lines_of = numbers[tuple(slice(r.start - b.start, r.stop - b.start) for r, b in zip(overlap, box, strict=True))]
        own = tuple(slice(r.start - o.start, r.stop - o.start) for r, o in zip(overlap, answers.owned, strict=True))
        mine = {op: values[own].reshape(-1) for op, values in answers.values.items()}
        yield {**mine, "lines": lines_of.reshape(-1)}, whole, n


def _together(seen: Iterable[Witness]) -> Witness | None:
    """What all blocks have shown, of which there may be many; None without blocks."""
    whole: Witness | None = None
    for more in seen:
        whole = more if whole is None else joined([whole, more])
    return whole


def _see_on_threads(
    request: Request, values: NDArray[Any], first: int, answers: Answers, left_out: Missing, threads: int
) -> list[Witness]:
    shares = [share for t in range(threads) if (share := block(values.shape[-1], threads, t)).size]
    # The edges of a histogram over the range of the data must be those of the least and the greatest element.
    ops = (*request.ops, "min") if answers.edges is not None and request.range is None else request.ops
    return at_once(
        lambda share: see(ops, values[:, :, share.slice], first + share.start, answers.edges, left_out), shares, threads
    )


def _two_product(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Product and its error (Dekker 1971)."""

    def halves(z: Any) -> tuple[Any, Any]:
        high = 134217729.0 * z - (134217729.0 * z - z)
        return high, z - high

    p, (a, b), (c, d) = x * y, halves(x), halves(y)
    return p, ((a * c - p) + a * d + b * c) + b * d


def _half_units(values: NDArray[Any]) -> NDArray[np.float64]:
    """Half a unit in the last place of finite ``values``; 0 of integers."""
    if values.dtype.kind != "f":
        return np.zeros(len(values))
    half = np.abs(np.spacing(values)).astype(np.float64) / 2
    return np.where(np.isfinite(half), half, _half_unit_of_largest(values.dtype))  # NumPy has infinity for the largest


def _half_unit_of_largest(dtype: np.dtype[Any]) -> float:
    about = np.finfo(dtype)
    return float(np.ldexp(float(about.eps), int(about.maxexp) - 2))


def _least_overflow(dtype: np.dtype[Any]) -> float:
    """The least magnitude that rounds to infinity in ``dtype``; for float64, which has no such number, its largest."""
    return float(np.finfo(dtype).max) + (_half_unit_of_largest(dtype) if dtype.itemsize < 8 else 0.0)


class _Judge:
    """Compares answers for lines of ``n`` elements with what a witness saw."""

    def __init__(self, dtype: np.dtype[Any], request: Request, answers: Answers, n: int, ranks: int, read: int) -> None:
        self.dtype, self.ddof, self.edges, self.n = dtype, request.ddof, answers.edges, n
        self.bins, self.range = request.bins, request.range
        # Additions, one upon another: in a block, of blocks, of what was read at once, and of what ranks have seen.
        self.depth = 64 + BLOCK / WAYS + WAYS * (n / BLOCK + 4 * ranks) + n / read
        self.plain = answers.plain_shift is not None
        self.shift = answers.plain_shift if answers.plain_shift is not None else np.zeros(2)
        self.plain_depth = 16 + PLAIN_BLOCK / 32 + n / PLAIN_BLOCK + 64 * ranks + n / read

    def seals(self, witness: Witness, sums: NDArray[np.uint64], squares: NDArray[np.uint64]) -> tuple[int, int]:
        """Lines whose seals are not those of the data, and lines that have seals."""
        wrong = np.zeros(witness.sums.shape[1], bool)
        if sums.size:
            wrong |= (witness.residues[:-1] != sums).any(axis=0)
        if squares.size and not self._long():
            wrong |= witness.residues[-1] != squares
        return int(np.count_nonzero(wrong)), len(wrong) * bool(sums.size or squares.size)

    def _long(self) -> bool:
        return self.dtype.kind in "iu" and self.dtype.itemsize == 8

    @np.errstate(all="ignore")
    def right(
        self, op: str, values: NDArray[Any], lines: NDArray[np.intp], seen: Witness
    ) -> tuple[NDArray[np.bool_], float]:
        """Which of ``values``, those of the lines ``lines``, are right; and the largest error over what is allowed."""
        if op in ("min", "max", "argmin", "argmax"):
            names = {"min": "least", "max": "greatest", "argmin": "at_least", "argmax": "at_greatest"}
            expected = getattr(seen, names[op])[lines]
            if expected.dtype.kind == "f":
                expected = np.where(seen.kept[lines] == 0, np.nan, expected)
            return (values == expected) | ((values != values) & (expected != expected)), 0.0  # noqa: PLR0124 - NaN
        if op in ("any", "all", "count-nonzero"):
            count = seen.nonzero[lines]
            return values == {"any": count > 0, "all": count == seen.kept[lines], "count-nonzero": count}[op], 0.0
        if op == KEPT:
            return values == seen.kept[lines], 0.0
        if op == "histogram":
            return np.array([np.array_equal(values, seen.counts) and self._has_numpys_edges(seen)]), 0.0
        if op == "prod":
            return self._product(values, seen.logarithm[lines], seen.negative[lines]), 0.0
        return self._summed(op, values, lines, seen)

    def _has_numpys_edges(self, seen: Witness) -> bool:
        dtype = np.dtype(np.uint8) if self.dtype.kind == "b" else self.dtype.newbyteorder("=")
        ends = [seen.least[0], seen.greatest[0]] if self.range is None and seen.kept[0] else []
        data = np.array(ends, dtype)
        expected = np.histogram_bin_edges(data, self.bins, self.range)
        return self.edges is not None and self.edges.dtype == expected.dtype and np.array_equal(self.edges, expected)

    def _product(
        self, values: NDArray[Any], logarithm: NDArray[np.float64], negative: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        number = values.astype(np.float64)
        format_ = np.finfo(values.dtype if values.dtype.kind == "f" else np.float64)
        allowed = (self.n + 64) * _U * 4 + np.abs(logarithm) * _U * 64 + float(format_.eps)
        near = np.abs(np.log2(np.abs(number)) - logarithm) <= allowed
        vanished = (number == 0) & (logarithm <= format_.minexp - format_.nmant + 1e-6 * abs(logarithm))
        vanished |= np.abs(number) < float(format_.tiny) * 2  # subnormal: few bits are left
        vanished &= logarithm < format_.minexp + 2
        overflown = np.isinf(number) & (logarithm > format_.maxexp - 1e-6)
        signed = np.signbit(number) == (negative % 2 == 1)
        if values.dtype.kind in "iu":
            signed |= number == 0
        return np.where(np.isnan(logarithm), np.isnan(number), (near | vanished | overflown) & signed)

    def _summed(
        self, op: str, values: NDArray[Any], lines: NDArray[np.intp], seen: Witness
    ) -> tuple[NDArray[np.bool_], float]:
        sums, n = seen.sums[:, lines], seen.kept[lines].astype(np.float64)
        if op in ("sum", "mean") and values.dtype.kind == "c":
            halves = [
                self._real(op, part, n, sums[k : k + 1], seen.residues[k : k + 1, lines])
                for k, part in enumerate((values.real, values.imag))
            ]
            return halves[0][0] & halves[1][0], max(halves[0][1], halves[1][1])
        return self._real(op, values, n, sums, seen.residues[:, lines])

    def _real(
        self,
        op: str,
        values: NDArray[Any],
        n: NDArray[np.float64],
        sums: NDArray[np.float64],
        residues: NDArray[np.uint64],
    ) -> tuple[NDArray[np.bool_], float]:
        """As :meth:`right`, for real ``values`` of ``n`` elements each, and the sums of their parts."""
        number = values.astype(np.float64)
        positive, negative, undefined = (sums[:, :, k].sum(axis=0) > 0 for k in (5, 6, 7))
        special = positive | negative | undefined
        if op in ("sum", "mean"):
            of_special = np.where(undefined | (positive & negative), np.nan, np.where(positive, np.inf, -np.inf))
        else:
            of_special = np.where(undefined | (op != "norm"), np.nan, np.inf)
        as_special = (number == of_special) | (np.isnan(number) & np.isnan(of_special))
        half = _half_units(values)
        # An infinity stands for all that rounds to it: what it must reach is the least of these, but not more.
        overflown = np.isinf(number) & ~special
        if overflown.any():
            number = np.where(overflown, np.copysign(_least_overflow(values.dtype), number), number)
            half = np.where(overflown, 0.0, half)
        excess, allowed, known = self._error(op, number, half, np.maximum(n, 1), sums)
        error = np.where(overflown, np.maximum(excess * np.sign(number), 0), np.abs(excess))
        close = error <= allowed
        if values.dtype.kind in "iu":  # exactly: modulo the prime, and near
            close = np.asarray([int(v) % PRIME == int(r) for v, r in zip(values, residues[0], strict=True)], bool)
            close &= np.abs(number - sums[0, :, 0]) <= 4 * self.depth * _U * sums[0, :, 4]
        nothing = (n == 0) | ((n <= self.ddof) & (op != "mean"))
        if op in ("mean", "var", "std"):
            close, known = np.where(nothing, ~np.isfinite(values), close), known | nothing
        checked = known & ~special & ~(nothing & (op in ("mean", "var", "std")))
        ratio = float(np.max(np.divide(error, allowed, where=checked & (allowed > 0), out=np.zeros(len(number)))))
        return np.where(special, as_special, close | ~known), ratio if math.isfinite(ratio) else 0.0

    def _error(
        self,
        op: str,
        number: NDArray[np.float64],
        half: NDArray[np.float64],
        n: NDArray[np.float64],
        sums: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Excess of the numbers (for roots: their squares), the error that is allowed, and where float64 can tell."""
        total, rest, magnitude = sums[0, :, 0], sums[0, :, 1], sums[0, :, 4]
        own = 4 * (self.depth * _U) ** 2
        plain = self.plain_depth * _U if self.plain else 0.0
        if self._long():
            own += 4 * _U  # the numbers themselves were rounded
        if op == "sum":
            allowed = half * (1 + 1e-9) + (own + plain) * magnitude + plain * n * np.abs(self.shift).sum() * 4
            return (number - total) - rest, allowed, np.isfinite(magnitude)
        if op == "mean":
            product, error = _two_product(number, n)
            allowed = n * half * (1 + 1e-9) + (own + plain) * magnitude + plain * n * np.abs(self.shift).sum() * 4
            return (
                ((product - total) - rest) + error,
                allowed,
                np.isfinite(magnitude) & (abs(product) < _TOO_LARGE),
            )
        square, square_rest = sums[:, :, 2].sum(axis=0), sums[:, :, 3].sum(axis=0)
        loose = (own + _U * _U * 8) * square + n * _LEAST
        known = (square < _TOO_LARGE / n) & ((square > _TOO_SMALL) | (square == 0))
        if op == "norm":
            product, error = _two_product(number, number)
            allowed = 2 * number * half * (1 + 1e-9) + half * half + loose + 4 * plain * square
            return ((product - square) - square_rest) + error, allowed, known
        free = np.maximum(1.0, n - self.ddof)
        scaled, scaled_rest = _two_product(square, n)
        centred = scaled
        centred_rest = scaled_rest + n * square_rest
        spread = np.zeros(len(number))  # squares of the distance between mean and shift
        for part in range(len(sums)):
            own_square, own_rest = _two_product(sums[part, :, 0], sums[part, :, 0])
            centred = centred - own_square
            centred_rest = centred_rest - own_rest - 2 * sums[part, :, 0] * sums[part, :, 1]
            spread += (sums[part, :, 0] / n - self.shift[part]) ** 2
        expected = np.maximum(centred + centred_rest, 0) / (n * free)
        slack = (loose * n + _U * _U * 16 * scaled) / (n * free) + 4 * plain * (expected + n * spread / free)
        if op == "var":
            return number - expected, half + 4 * _U * expected + slack, known
        allowed = 2 * number * half + half * half + 8 * _U * expected + slack
        return number * number - expected, allowed, known
