"""What answers are checked by: arithmetic that has nothing in common with bins and digits.

*Seals.* Every float64 is an integer times a power of two, and so is any sum of them and of their squares. Modulo the
Mersenne prime 2^61 - 1 two is a number of order 61, so that such a number has a residue, found by rotating 61 bits; an
exact sum has the sum of the residues. Sums that differ in any single digit have other residues.

*Compensated sums* (Ogita, Rump and Oishi 2005, "Accurate sum and dot product"): every addition's error is computed and
added up beside the sum. Blocks are of other sizes than those of the exact sums.

Rows ``x`` are (lines, n), float64, contiguous; results of line i are added to row i.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.algorithms.reduce.accumulator_kernels import UNIT
from hpcmpi.jit import kernel
from hpcmpi.simd import bits_of_float, fused_multiply_add, high_product

PRIME = 2**61 - 1
WAYS = 64  # sums that are carried on side by side
BLOCK = 1000 * WAYS  # numbers after which they are brought together

_PRIME, _BITS = np.uint64(PRIME), np.uint64(61)
_MANTISSA, _IMPLICIT = 2**52 - 1, 2**52
_THREE = np.uint64(3)


@kernel(inline="always")
def _folded(number):
    """A uint64 modulo 2^61 - 1, but for a multiple of it."""
    return (number & _PRIME) + (number >> _BITS)


@kernel()
def residues(x, sums, squares):
    """Add the residues of the sum and of the sum of squares; of NaN and infinities, 0."""
    for line in range(x.shape[0]):
        total, total_of_squares = sums[line], squares[line]
        for i in range(x.shape[1]):
            bits = bits_of_float(x[line, i])
            field = (bits >> 52) & 2047
            mantissa = (bits & _MANTISSA) | (_IMPLICIT if field else 0)
            turn = np.uint64((max(field, 1) - 1075 + 61 * 40) % 61)
            number = np.uint64(mantissa if field < 2047 else 0)
            residue = ((number << turn) & _PRIME) | (number >> (_BITS - turn))
            low, high = residue * residue, high_product(residue, residue)
            square = _folded((low & _PRIME) + ((low >> _BITS) | (high << _THREE)))
            total = _folded(total + (_PRIME - residue if bits < 0 else residue))
            total_of_squares = _folded(total_of_squares + square)
        sums[line], squares[line] = total % _PRIME, total_of_squares % _PRIME


@kernel()
def _seal(digits, out):
    for i in range(digits.shape[0]):
        total = np.uint64(0)
        for k in range(digits.shape[1]):
            turn = np.uint64((UNIT + 32 * k) % 61)
            digit = np.uint64(digits[i, k] % PRIME)
            total = _folded(total + (((digit << turn) & _PRIME) | (digit >> (_BITS - turn))))
        out[i] = total % _PRIME


def seals(digits: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Residues of accumulators (..., DIGITS); empty if there are none, which have no digits."""
    if digits.shape[-1] == 0:
        return np.empty(0, np.uint64)
    out = np.empty(math.prod(digits.shape[:-1]), np.uint64)
    _seal(digits.reshape(len(out), digits.shape[-1]), out)
    return out.reshape(digits.shape[:-1])


@kernel()
def compensated(x, out):
    """Add to ``out`` (lines, 8): sum, its error, sum of squares, its error, sum of magnitudes; +inf, -inf, NaN."""
    total, error = np.zeros(WAYS), np.zeros(WAYS)
    square, square_error, magnitude = np.zeros(WAYS), np.zeros(WAYS), np.zeros(WAYS)
    for line in range(x.shape[0]):
        for start in range(0, x.shape[1], BLOCK):
            stop = min(start + BLOCK, x.shape[1])
            total[:], error[:], square[:], square_error[:], magnitude[:] = 0.0, 0.0, 0.0, 0.0, 0.0
            for at in range(start, stop, WAYS):
                for way in range(min(WAYS, stop - at)):
                    a, s = x[line, at + way], total[way]
                    new = s + a
                    back = new - s
                    error[way] += (s - (new - back)) + (a - back)
                    total[way] = new
                    p, s = a * a, square[way]
                    new = s + p
                    back = new - s
                    square_error[way] += ((s - (new - back)) + (p - back)) + fused_multiply_add(a, a, -p)
                    square[way] = new
                    magnitude[way] += abs(a)
            for way in range(WAYS):
                _add(out[line], 0, total[way], error[way])
                _add(out[line], 2, square[way], square_error[way])
                out[line, 4] += magnitude[way]
        for i in range(x.shape[1] if not np.isfinite(out[line, 4]) else 0):
            if not np.isfinite(x[line, i]):
                out[line, 7 if x[line, i] != x[line, i] else 5 if x[line, i] > 0 else 6] += 1


@kernel()
def _add(row, at, number, error):
    new = row[at] + number
    back = new - row[at]
    row[at + 1] += ((row[at] - (new - back)) + (number - back)) + error
    row[at] = new


def add_pairs(pairs: NDArray[Any], at: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum over the ranks of the compensated sums in columns ``at`` and ``at + 1`` of ``pairs`` (ranks, lines, 8)."""
    total, error = pairs[0, :, at].copy(), pairs[0, :, at + 1].copy()
    for pair in pairs[1:]:
        new = total + pair[:, at]
        back = new - total
        error += ((total - (new - back)) + (pair[:, at] - back)) + pair[:, at + 1]
        total = new
    return total, error
