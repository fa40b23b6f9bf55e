"""Exact sums, sums of squares and dot products of float64 arrays, read once, into accumulators.

Block by block, in cache: fold the block with the bins of the block before; if its range shows that they
did not fit, choose bins by that range and fold again, from cache. Numbers of a range too wide for bins are added one
by one to a table with an entry for each exponent, which cannot overflow within 2^31 numbers; so are infinities and
NaN, which are counted.

Every kernel takes rows ``x`` (lines, n), float64 and contiguous, and adds line i to row i of its results, which are
int64: ``digits`` (lines, DIGITS), see :mod:`accumulator_kernels`, and ``special`` (lines, 3): how many +inf, -inf and
NaN.
"""

from __future__ import annotations

import numpy as np

from hpcmpi.algorithms.reduce.accumulator_kernels import carry, deposit
from hpcmpi.algorithms.reduce.fold_kernels import (
    BLOCK,
    KEY_OF_INFINITY,
    KEY_OF_MINUS_INFINITY,
    NO_NUMBER,
    ROWS,
    SUM_BLOCK,
    dot_fold,
    key_of_image,
    magnitudes,
    moment_fold,
    number_of_key,
    square_fold,
    sum_fold,
    sum_fold_of_three,
)
from hpcmpi.jit import kernel
from hpcmpi.simd import float_of_bits, high_product

_NONE = -9999  # no bins
_LEAST = -1074  # exponent of the least float64
_MANTISSA, _IMPLICIT, _MASK = np.uint64(2**52 - 1), np.uint64(2**52), np.uint64(2**63 - 1)
_ONE, _SHIFT, _FIELD, _LOW = np.uint64(1), np.uint64(52), np.uint64(2047), np.uint64(0xFFFFFFFF)
_INFINITE = np.uint64(0x7FF0 << 48)
_STEP = 49  # binary places from one bin of sums to the next: what a bin rounds away is below 2^48 units of the next
_ROOM_OF_SUMS = 4  # binary places from a number's exponent to its first unit, less 48
_STRIP = 512  # numbers split at once before they enter the table
_TABLE_LIMIT = 1 << 30  # numbers or products that a table takes before it is emptied

POSITIVE, NEGATIVE, UNDEFINED = 0, 1, 2
"""Columns of ``special``."""
LEAST, GREATEST, AT_LEAST, AT_GREATEST, AT_NAN = range(5)
"""Columns of ``order``: least and greatest key of the numbers so far, the first index of each, and of a NaN."""
NOWHERE = 2**63 - 1
"""The index of what there is not."""


@kernel(inline="always")
def _exponent(magnitude):
    """E of a magnitude's image, such that the number is below 2^(E + 1 - 1023) and its bits end at 2^(E - 1075)."""
    return max(np.int64(magnitude >> _SHIFT), 1)


@kernel(inline="always")
def _bin(unit):
    """M of the bin with unit 2^``unit``."""
    return 1.5 * float_of_bits((unit + 52 + 1023) << 52)


# Bins of a sum: units 2^p, 2^(p - _STEP), ...; numbers are below 2^48 2^p, which lets SUM_BLOCK of them add up


@kernel(inline="always")
def _sum_fits(p, bins, largest, smallest):
    """Whether ``bins`` bins from 2^``p`` down hold numbers of these magnitudes."""
    if largest >= _INFINITE or _exponent(largest) + _ROOM_OF_SUMS + _LEAST > p:
        return False
    lowest = p - _STEP * (bins - 1)
    return lowest <= _LEAST or smallest == NO_NUMBER or _exponent(smallest + _ONE) - 1 + _LEAST >= lowest


@kernel()
def _sum_unit(bins, largest, smallest):
    """Exponent of the first of ``bins`` bins for numbers of these magnitudes, with room above for later blocks."""
    least = max(_exponent(largest) + _ROOM_OF_SUMS + _LEAST, _LEAST + _STEP * (bins - 1))
    for room in (2, 1, 0):
        if least + room <= 970 and _sum_fits(least + room, bins, largest, smallest):
            return least + room
    return _NONE


@kernel()
def exact_sum(x, digits, special, lanes):
    """Add the sum of each line."""
    out, bins = np.empty(ROWS, np.int64), np.empty(2)
    table, strip = np.zeros((2048, 2), np.int64), np.empty(_STRIP, np.int64)
    p, n, filled = _NONE, x.shape[1], 0
    for line in range(x.shape[0]):
        row, image = x[line], x[line].view(np.uint64)
        for start in range(0, n, SUM_BLOCK):
            block, bits = row[start : start + SUM_BLOCK], image[start : start + SUM_BLOCK]
            if p != _NONE:
                largest, smallest, first, second = sum_fold(block, bits, bins, lanes, out)
            else:
                largest, smallest = magnitudes(bits)
            if p == _NONE or not _sum_fits(p, 2, largest, smallest):
                p = _sum_unit(2, largest, smallest)
                if p == _NONE:
                    filled = _wide_sum(
                        block, bits, largest, smallest, digits[line], special[line], table, strip, filled
                    )
                    continue
                bins[0], bins[1] = _bin(p), _bin(p - _STEP)
                largest, smallest, first, second = sum_fold(block, bits, bins, lanes, out)
            deposit(digits[line], p, first)
            deposit(digits[line], p - _STEP, second)
        filled = _empty_sums(table, digits[line], filled)
        carry(digits[line])


@kernel()
def _wide_sum(block, bits, largest, smallest, digits, special, table, strip, filled):
    """Add a block that two bins do not hold; tells what the table, which took ``filled`` numbers, has taken now."""
    p = _sum_unit(3, largest, smallest)
    if p != _NONE:
        first, second, third = sum_fold_of_three(block, _bin(p), _bin(p - _STEP), _bin(p - 2 * _STEP))
        deposit(digits, p, first)
        deposit(digits, p - _STEP, second)
        deposit(digits, p - 2 * _STEP, third)
        return filled
    if largest >= _INFINITE:
        _count_special(bits, special)
    place = np.empty(_STRIP, np.uint16)
    for start in range(0, bits.size, _STRIP):
        part = bits[start : start + _STRIP]
        for i in range(part.size):
            exponent = (part[i] >> _SHIFT) & _FIELD
            magnitude = np.int64((part[i] & _MANTISSA) | (_IMPLICIT if exponent else np.uint64(0)))
            magnitude = magnitude if exponent < _FIELD else 0
            sign = np.int64(part[i]) >> 63
            place[i] = np.uint16(exponent)
            strip[i] = (magnitude ^ sign) - sign
        for i in range(part.size):
            k = np.uint64(place[i])
            table[k, 0] += strip[i] & 0xFFFFFFFF
            table[k, 1] += strip[i] >> 32
    filled += bits.size
    return _empty_sums(table, digits, filled) if filled > _TABLE_LIMIT else filled


@kernel()
def _empty_sums(table, digits, filled):
    """Move the table, which took ``filled`` numbers, into the accumulator; tells that it has none left."""
    if filled:
        for k in range(table.shape[0]):
            exponent = max(k, 1) - 1 + _LEAST
            deposit(digits, exponent, table[k, 0])
            deposit(digits, exponent + 32, table[k, 1])
        carry(digits)
        table[:] = 0
    return 0


@kernel()
def _count_special(bits, special):
    for i in range(bits.size):
        if (bits[i] & _MASK) >= _INFINITE:
            if bits[i] & _MANTISSA:
                special[UNDEFINED] += 1
            else:
                special[np.int64(bits[i] >> np.uint64(63))] += 1


# Bins of products: units 2^p, 2^(p - 51), 2^(p - 102)


@kernel(inline="always")
def _product_fits(p, large_x, small_x, large_y, small_y):
    """Whether three bins from 2^``p`` down hold all products of numbers of these magnitudes, and their errors."""
    if large_x >= _INFINITE or large_y >= _INFINITE:
        return False
    if max(small_x, small_y) == NO_NUMBER:
        return True
    lowest_x, lowest_y = np.int64((small_x + _ONE) >> _SHIFT), np.int64((small_y + _ONE) >> _SHIFT)
    if lowest_x < 1 or lowest_y < 1:
        return False
    lowest = lowest_x + lowest_y - 2150  # where the bits of all products end
    highest = np.int64(large_x >> _SHIFT) + np.int64(large_y >> _SHIFT) - 2150  # where those of the largest end
    return lowest >= _LEAST and p <= lowest + 102 and p >= highest + 56


@kernel()
def _product_unit(large_x, small_x, large_y, small_y):
    """Exponent of the first of three bins for products of such numbers, with room above for later blocks."""
    highest = np.int64(large_x >> _SHIFT) + np.int64(large_y >> _SHIFT) - 2150
    p = min(max(highest + 56, -972), 970)
    for room in (3, 2, 1, 0):
        if p + room <= 970 and _product_fits(p + room, large_x, small_x, large_y, small_y):
            return p + room
    return _NONE


@kernel(inline="always")
def _set_product_bins(bins, p):
    bins[0], bins[1], bins[2] = _bin(p), _bin(p - 51), _bin(p - 102)


@kernel(inline="always")
def _deposit_products(digits, p, first, second, third):
    deposit(digits, p, first)
    deposit(digits, p - 51, second)
    deposit(digits, p - 102, third)


@kernel()
def exact_squares(x, digits, special, lanes):
    """Add the sum of squares of each line; ``special`` counts the elements, not their squares."""
    out, bins, table, filled = np.empty(ROWS, np.int64), np.empty(3), np.zeros((4096, 3), np.int64), 0
    p, n = _NONE, x.shape[1]
    for line in range(x.shape[0]):
        row, image = x[line], x[line].view(np.uint64)
        for start in range(0, n, BLOCK):
            block, bits = row[start : start + BLOCK], image[start : start + BLOCK]
            if p != _NONE:
                largest, smallest, first, second, third = square_fold(block, bits, bins, lanes, out)
            else:
                largest, smallest = magnitudes(bits)
            if p == _NONE or not _product_fits(p, largest, smallest, largest, smallest):
                p = _product_unit(largest, smallest, largest, smallest)
                if p == _NONE:
                    filled = _wide_squares(bits, largest, digits[line], special[line], table, filled)
                    continue
                _set_product_bins(bins, p)
                largest, smallest, first, second, third = square_fold(block, bits, bins, lanes, out)
            _deposit_products(digits[line], p, first, second, third)
        filled = _empty_products(table, digits[line], filled)
        carry(digits[line])


@kernel()
def exact_dot(x, y, digits, special, lanes):
    """Add the sum of ``x[i] * y[i]`` of each line; ``special`` counts products."""
    out, bins, table, filled = np.empty(ROWS, np.int64), np.empty(3), np.zeros((4096, 3), np.int64), 0
    p, n = _NONE, x.shape[1]
    for line in range(x.shape[0]):
        row_x, row_y, image_x, image_y = x[line], y[line], x[line].view(np.uint64), y[line].view(np.uint64)
        for start in range(0, n, BLOCK):
            bx, by = row_x[start : start + BLOCK], row_y[start : start + BLOCK]
            ix, iy = image_x[start : start + BLOCK], image_y[start : start + BLOCK]
            if p != _NONE:
                large_x, small_x, large_y, small_y, first, second, third = dot_fold(bx, by, ix, iy, bins, lanes, out)
            else:
                large_x, small_x = magnitudes(ix)
                large_y, small_y = magnitudes(iy)
            if p == _NONE or not _product_fits(p, large_x, small_x, large_y, small_y):
                p = _product_unit(large_x, small_x, large_y, small_y)
                if p == _NONE:
                    filled = _wide_products(ix, iy, digits[line], special[line], table, filled)
                    continue
                _set_product_bins(bins, p)
                large_x, small_x, large_y, small_y, first, second, third = dot_fold(bx, by, ix, iy, bins, lanes, out)
            _deposit_products(digits[line], p, first, second, third)
        filled = _empty_products(table, digits[line], filled)
        carry(digits[line])


@kernel()
def _wide_squares(bits, largest, digits, special, table, filled):
    if largest >= _INFINITE:
        _count_special(bits, special)
    return _wide_products(bits, bits, digits, np.zeros(3, np.int64), table, filled)


@kernel()
def _wide_products(x, y, digits, special, table, filled):
    """Add products of images one by one to the table, an entry for each sum of exponents: three 32-bit pieces."""
    for i in range(x.size):
        exponent_x, exponent_y = (x[i] >> _SHIFT) & _FIELD, (y[i] >> _SHIFT) & _FIELD
        if max(exponent_x, exponent_y) == _FIELD:
            product = float_of_bits(np.int64(x[i])) * float_of_bits(np.int64(y[i]))
            special[POSITIVE if product > 0 else NEGATIVE if product < 0 else UNDEFINED] += 1
            continue
        a, b = x[i] & _MANTISSA, y[i] & _MANTISSA
        if exponent_x:
            a, exponent_x = a | _IMPLICIT, exponent_x - _ONE
        if exponent_y:
            b, exponent_y = b | _IMPLICIT, exponent_y - _ONE
        low, k, sign = a * b, exponent_x + exponent_y, np.int64(x[i] ^ y[i]) >> 63
        table[k, 0] += (np.int64(low & _LOW) ^ sign) - sign
        table[k, 1] += (np.int64(low >> np.uint64(32)) ^ sign) - sign
        table[k, 2] += (np.int64(high_product(a, b)) ^ sign) - sign
    filled += x.size
    return _empty_products(table, digits, filled) if filled > _TABLE_LIMIT else filled


@kernel()
def _empty_products(table, digits, filled):
    if filled:
        for k in range(table.shape[0]):
            for piece in range(3):
                deposit(digits, 2 * _LEAST + k + 32 * piece, table[k, piece])
        carry(digits)
        table[:] = 0
    return 0


# Sum, sum of squares and extremes together


@kernel()
def exact_moments(x, at, sums, squares, special, order, lanes):
    """Add the sum and the sum of squares of each line, and bring its ``order`` up to date.

    ``at`` is the index of the first element in its line, for the indices in ``order`` (lines, 5).
    """
    out, bins, summed, filled, n = np.empty(ROWS, np.int64), np.empty(5), 0, 0, x.shape[1]
    table, strip, products = np.zeros((2048, 2), np.int64), np.empty(_STRIP, np.int64), np.zeros((4096, 3), np.int64)
    p, q = _NONE, _NONE  # first units of products and of sums; both, or neither
    for line in range(x.shape[0]):
        row, image = x[line], x[line].view(np.uint64)
        for start in range(0, n, BLOCK):
            block, bits = row[start : start + BLOCK], image[start : start + BLOCK]
            fits = False
            if p != _NONE:
                smallest, least, greatest, first, second, third, high, low = moment_fold(block, bits, bins, lanes, out)
                largest = _magnitude_of_keys(least, greatest)
                fits = _sum_fits(q, 2, largest, smallest) and _product_fits(p, largest, smallest, largest, smallest)
            else:
                largest, smallest = magnitudes(bits)
            if not fits:
                p, q = _product_unit(largest, smallest, largest, smallest), _sum_unit(2, largest, smallest)
                fits = min(p, q) > _NONE
                p = p if fits else _NONE
                if fits:
                    _set_product_bins(bins, p)
                    bins[3], bins[4] = _bin(q), _bin(q - _STEP)
                    smallest, least, greatest, first, second, third, high, low = moment_fold(
                        block, bits, bins, lanes, out
                    )
            if fits:
                _deposit_products(squares[line], p, first, second, third)
                deposit(sums[line], q, high)
                deposit(sums[line], q - _STEP, low)
            else:
                least, greatest = _keys(bits)
                summed = _wide_sum(block, bits, largest, smallest, sums[line], special[line], table, strip, summed)
                filled = _wide_products(bits, bits, squares[line], np.zeros(3, np.int64), products, filled)
            keep_order(block, at + start, least, greatest, order[line])
        summed = _empty_sums(table, sums[line], summed)
        filled = _empty_products(products, squares[line], filled)
        carry(sums[line])
        carry(squares[line])


@kernel(inline="always")
def _magnitude_of_keys(least, greatest):
    """Image of the largest magnitude between two keys."""
    return np.uint64(max(greatest, ~least) if least < 0 and greatest >= 0 else ~least if greatest < 0 else greatest)


@kernel()
def _keys(bits):
    least, greatest = key_of_image(np.int64(bits[0])), key_of_image(np.int64(bits[0]))
    for i in range(1, bits.size):
        key = key_of_image(np.int64(bits[i]))
        least, greatest = min(least, key), max(greatest, key)
    return least, greatest


@kernel(inline="always")
def keep_order(block, at, least, greatest, order):
    """Bring ``order`` up to date with a block at index ``at`` whose keys are ``least`` to ``greatest``."""
    if least < KEY_OF_MINUS_INFINITY or greatest > KEY_OF_INFINITY:
        if order[AT_NAN] == NOWHERE:
            for i in range(block.size):
                if block[i] != block[i]:
                    order[AT_NAN] = at + i
                    break
        return
    # An index is that of the first among equals, and 0.0 equals -0.0, whose key is smaller.
    if order[AT_LEAST] == NOWHERE or number_of_key(least) < number_of_key(order[LEAST]):
        order[AT_LEAST] = at + _first(block, number_of_key(least))
    if order[AT_GREATEST] == NOWHERE or number_of_key(greatest) > number_of_key(order[GREATEST]):
        order[AT_GREATEST] = at + _first(block, number_of_key(greatest))
    order[LEAST], order[GREATEST] = min(order[LEAST], least), max(order[GREATEST], greatest)


@kernel()
def _first(block, number):
    for i in range(block.size):
        if block[i] == number:
            return i
    return 0
