"""What is exact by itself: order, counts, sums of integers; and the fixed tree of products.

Rows ``x`` are (lines, n), contiguous; results of line i are added to row i.
"""

from __future__ import annotations

import numpy as np

from hpcmpi.algorithms.reduce.accumulator_kernels import carry, deposit
from hpcmpi.algorithms.reduce.exact_kernels import AT_GREATEST, AT_LEAST, GREATEST, LEAST, NOWHERE, keep_order
from hpcmpi.algorithms.reduce.fold_kernels import BLOCK, ROWS, order_fold
from hpcmpi.jit import kernel
from hpcmpi.simd import bits_of_float, float_of_bits

ZEROS, INFINITE, UNDEFINED, NEGATIVE = range(4)
"""Columns of ``odd``: elements of a product that are 0, infinite and NaN, and those with a minus sign."""

_LEAF = 512  # mantissas below 2 whose product is below 2^512
_MANTISSA, _EXPONENT_OF_ONE = 2**52 - 1, 1023 << 52


@kernel()
def order_of_floats(x, at, order, lanes):
    """Bring ``order`` (lines, 5) int64 up to date with float64 ``x``, whose first elements have index ``at``."""
    out, n = np.empty(ROWS, np.int64), x.shape[1]
    for line in range(x.shape[0]):
        row, image = x[line], x[line].view(np.uint64)
        for start in range(0, n, BLOCK):
            block = row[start : start + BLOCK]
            least, greatest = order_fold(block, image[start : start + BLOCK], lanes, out)
            keep_order(block, at + start, least, greatest, order[line])


@kernel()
def order_of_integers(x, at, order):
    """As :func:`order_of_floats`, for int64, which are their own keys."""
    n = x.shape[1]
    for line in range(x.shape[0]):
        row = order[line]
        for start in range(0, n, BLOCK):
            block = x[line, start : start + BLOCK]
            least, greatest = block[0], block[0]
            for i in range(1, block.size):
                least, greatest = min(least, block[i]), max(greatest, block[i])
            if row[AT_LEAST] == NOWHERE or least < row[LEAST]:
                row[LEAST], row[AT_LEAST] = least, at + start + _first(block, least)
            if row[AT_GREATEST] == NOWHERE or greatest > row[GREATEST]:
                row[GREATEST], row[AT_GREATEST] = greatest, at + start + _first(block, greatest)


@kernel()
def _first(block, number):
    for i in range(block.size):
        if block[i] == number:
            return i
    return 0


@kernel()
def sum_of_integers(x, digits):
    """Add the sum of each line of int64 to ``digits`` (lines, DIGITS), exactly; n < 2^31."""
    for line in range(x.shape[0]):
        low, high = 0, 0
        for i in range(x.shape[1]):
            low += x[line, i] & 0xFFFFFFFF
            high += x[line, i] >> 32
        deposit(digits[line], 0, low)
        deposit(digits[line], 32, high)
        carry(digits[line])


@kernel()
def count_nonzero(x, counts):
    """Add the number of elements that are not 0 of each line to ``counts`` (lines,) int64."""
    for line in range(x.shape[0]):
        count = 0
        for i in range(x.shape[1]):
            count += x[line, i] != 0
        counts[line] += count


@kernel()
def histogram(x, edges, counts):
    """Add the float64 ``x`` (n,) to the bins between ``edges`` (bins + 1,), equally spaced; the last is closed.

    Elements outside are left out, and so is NaN. As in NumPy, the edges decide, not the quotient that finds them.
    """
    bins = counts.size
    first, last = edges[0], edges[bins]
    width = last - first
    for i in range(x.size):
        if first <= x[i] <= last:
            k = min(np.int64((x[i] - first) / width * bins), bins - 1)
            while x[i] < edges[k]:
                k -= 1
            while k < bins - 1 and x[i] >= edges[k + 1]:
                k += 1
            counts[k] += 1


@kernel()
def tree_product(x, start, size, mantissa, exponent, odd):
    """Product of the elements ``start`` to ``start + size`` of each line of float64, ``size`` a power of two.

    Neighbours are multiplied, then neighbouring products, and so on; powers of two are kept apart, so that nothing
    overflows on the way: ``mantissa`` (lines,) in [1, 2) times 2^``exponent`` (lines,) int64. Signs, zeros, infinities
    and NaN are left out of it and counted in ``odd`` (lines, 4).
    """
    leaf = np.empty(_LEAF)
    mantissas, exponents = np.empty(64), np.empty(64, np.int64)
    for line in range(x.shape[0]):
        row = x[line]
        for number, at in enumerate(range(start, start + size, _LEAF)):
            width = min(_LEAF, size)
            power = _take_apart(row[at : at + width], leaf, odd[line])
            while width > 1:
                width //= 2
                for i in range(width):
                    leaf[i] = leaf[2 * i] * leaf[2 * i + 1]
            m, e = _normal(leaf[0], power)
            level = 0
            while (number >> level) & 1:
                m, e = _normal(mantissas[level] * m, exponents[level] + e)
                level += 1
            mantissas[level], exponents[level] = m, e
            mantissa[line], exponent[line] = m, e


@kernel(inline="always")
def _normal(mantissa, exponent):
    """The same number with a mantissa in [1, 2), for a mantissa from 1 on."""
    bits = bits_of_float(mantissa)
    return float_of_bits((bits & _MANTISSA) | _EXPONENT_OF_ONE), exponent + (bits >> 52) - 1023


@kernel()
def _take_apart(x, leaf, odd):
    """Write the mantissas of ``x``, in [1, 2), to ``leaf``; returns the sum of the exponents."""
    power, negative, special = 0, 0, False
    for i in range(x.size):
        bits = bits_of_float(x[i])
        field = (bits >> 52) & 2047
        special |= (field == 0) | (field == 2047)
        power += field - 1023
        negative += (bits >> 63) & 1
        leaf[i] = float_of_bits((bits & _MANTISSA) | _EXPONENT_OF_ONE)
    odd[NEGATIVE] += negative
    if special:
        for i in range(x.size):
            bits = bits_of_float(x[i])
            field = (bits >> 52) & 2047
            if field == 2047:
                odd[UNDEFINED if bits & _MANTISSA else INFINITE] += 1
                leaf[i] = 1.0
                power -= 1024
            elif field == 0 and bits & _MANTISSA == 0:
                odd[ZEROS] += 1
                power += 1023
            elif field == 0:
                leaf[i], least = _normal(abs(x[i]) * 2.0**54, -54)
                power += least + 1023
    return power
