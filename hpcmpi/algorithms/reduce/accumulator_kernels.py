"""The exact accumulator: an integer so long that no float64, and no product of two, is cut off; and its rounding.

An accumulator is ``DIGITS`` int64 and stands for sum over k of digits[k] 2^(UNIT + 32 k) (Kulisch's long accumulator
with carries put off, as in Neal 2015, "Fast exact summation using small and large superaccumulators"). Digits may be
of any sign and size, so accumulators are added digit by digit, in any order, and by any number of ranks with a plain
MPI sum. :func:`carry` makes them balanced again, -2^31 <= digit < 2^31: then the highest that is not 0 has the sign of
the number, and only the digits that the number reaches are not 0, also where it is negative.

Numbers leave it rounded once, to nearest, ties to even: as themselves, divided by an integer, or as a square root. That
takes one bit after another of a quotient or root in integers, and whether anything is left over.
"""

from __future__ import annotations

import math

import numpy as np

from hpcmpi.jit import kernel

UNIT = -2176  # the least product of float64 is 2^-2148; even, and a multiple of 32, so that UNIT / 2 is a digit too
DIGITS = 140  # up to 2^2304: the largest product of float64, 2^2048, times 2^256 for counts and their squares
ONE = -UNIT // 32  # the digit that counts ones
_LOW = 0xFFFFFFFF
_HALF = 1 << 31


@kernel(inline="always")
def deposit(digits, exponent, amount):
    """Add ``amount`` 2^``exponent``, an int64, to a row of digits; each digit moves by less than 2^33."""
    at = exponent - UNIT
    k, shift = at >> 5, at & 31
    low, high = (amount & _LOW) << shift, (amount >> 32) << shift
    digits[k] += low & _LOW
    digits[k + 1] += (low >> 32) + (high & _LOW)
    digits[k + 2] += high >> 32


@kernel()
def carry(digits):
    """Balance a row of digits: each in [-2^31, 2^31), but for the last, which keeps what is left."""
    for k in range(digits.size - 1):
        over = (digits[k] + _HALF) >> 32
        digits[k] -= over << 32
        digits[k + 1] += over


@kernel()
def carry_all(digits):
    """Balance every row of ``digits`` (n, DIGITS)."""
    for i in range(digits.shape[0]):
        carry(digits[i])


@kernel()
def _magnitude(digits, out):
    """Write |number| with digits in [0, 2^32); returns its sign and its highest bit, -1 for 0."""
    carry(digits)
    top = digits.size - 1
    while top >= 0 and digits[top] == 0:
        top -= 1
    if top < 0:
        return 1, -1
    sign = 1 if digits[top] > 0 else -1
    for k in range(digits.size):
        out[k] = sign * digits[k]
    for k in range(digits.size - 1):
        over = out[k] >> 32
        out[k] -= over << 32
        out[k + 1] += over
    while out[top] == 0:
        top -= 1
    bit = 32 * top
    word = out[top] >> 1
    while word > 0:
        bit += 1
        word >>= 1
    return sign, bit


@kernel()
def _left_over(magnitude, bit):
    """Whether any bit below ``bit`` is set."""
    if bit <= 0:
        return False
    if magnitude[bit >> 5] & ((1 << (bit & 31)) - 1):
        return True
    below = 0
    for k in range(bit >> 5):
        below |= magnitude[k]
    return below != 0


@kernel()
def _rounded(quotient, exponent, rest, precision, lowest, highest):
    """(``quotient`` + a fraction that is not 0 if ``rest``) 2^``exponent``, to nearest, ties to even."""
    length = 0
    while quotient >> length:
        length += 1
    drop = max(length - precision, lowest - exponent)
    half, low = 1 << (drop - 1), quotient & ((1 << drop) - 1)
    kept = quotient >> drop
    if low > half or (low == half and (rest or kept & 1)):
        kept += 1
    number = math.ldexp(float(kept), exponent + drop)
    return number if number < math.ldexp(1.0, highest - 1) * 2.0 else math.inf


@kernel()
def _ratio(magnitude, top, divisor, rest, precision, lowest, highest):
    """|number| / ``divisor``, rounded."""
    limit = lowest - UNIT - 2
    quotient, remainder, bit = 0, 0, max(top, limit) + 1
    while bit > limit and (quotient >> (precision + 1)) == 0:
        bit -= 1
        remainder = 2 * remainder + ((magnitude[bit >> 5] >> (bit & 31)) & 1)
        quotient *= 2
        if remainder >= divisor:
            remainder -= divisor
            quotient += 1
    rest = rest or remainder != 0 or _left_over(magnitude, bit)
    return _rounded(quotient, bit + UNIT, rest, precision, lowest, highest)


@kernel()
def _root(magnitude, top, rest, precision, lowest, highest):
    """Square root of |number|, rounded."""
    limit = lowest - UNIT // 2 - 2
    root, remainder, pair = 0, 0, max(top >> 1, limit) + 1
    while pair > limit and (root >> (precision + 1)) == 0:
        pair -= 1
        remainder = 4 * remainder + ((magnitude[pair >> 4] >> (2 * pair & 31)) & 3)
        trial = 4 * root + 1
        root *= 2
        if remainder >= trial:
            remainder -= trial
            root += 1
    rest = rest or remainder != 0 or _left_over(magnitude, 2 * pair)
    return _rounded(root, pair + UNIT // 2, rest, precision, lowest, highest)


@kernel()
def _divide(magnitude, divisor):
    """Divide in place by ``divisor`` < 2^62, rounding down; tells whether anything was left over."""
    remainder = 0
    for k in range(magnitude.size - 1, -1, -1):
        digit = magnitude[k]
        if divisor < _HALF:
            whole = (remainder << 32) | digit
            magnitude[k] = whole // divisor
            remainder = whole - magnitude[k] * divisor
        else:
            quotient = 0
            for bit in range(31, -1, -1):
                remainder = 2 * remainder + ((digit >> bit) & 1)
                quotient *= 2
                if remainder >= divisor:
                    remainder -= divisor
                    quotient += 1
            magnitude[k] = quotient
    return remainder != 0


@kernel()
def _centre(squares, sums, n, out):
    """``out`` = n ``squares`` - the squares of the rows of ``sums``: n^2 times the variance. All balanced."""
    out[:] = 0
    halves = (n & _LOW, n >> 32)
    for k in range(squares.size - 2):
        for half in range(2):
            product = squares[k] * halves[half]
            out[k + half] += product & _LOW
            out[k + half + 1] += product >> 32
    for row in range(sums.shape[0]):
        for i in range(sums.shape[1]):
            if sums[row, i] != 0:
                for j in range(sums.shape[1]):
                    if sums[row, j] != 0:
                        product = sums[row, i] * sums[row, j]
                        out[i + j - ONE] -= product & _LOW
                        out[i + j - ONE + 1] -= product >> 32


@kernel()
def rounded_ratios(digits, divisors, precision, lowest, highest, out):
    """``out[i]`` = number i of ``digits`` (n, DIGITS) over ``divisors[i]`` (1 to 2^62), rounded to nearest.

    Results are float64 with ``precision`` bits, multiples of 2^``lowest``, and infinite from 2^``highest`` on. The
    digits are balanced as a side effect.
    """
    magnitude = np.empty(digits.shape[1], np.int64)
    for i in range(digits.shape[0]):
        sign, top = _magnitude(digits[i], magnitude)
        out[i] = 0.0 if top < 0 else sign * _ratio(magnitude, top, divisors[i], False, precision, lowest, highest)


@kernel()
def rounded_roots(digits, precision, lowest, highest, out):
    """As :func:`rounded_ratios`: square roots of numbers that are not negative."""
    magnitude = np.empty(digits.shape[1], np.int64)
    for i in range(digits.shape[0]):
        _sign, top = _magnitude(digits[i], magnitude)
        out[i] = 0.0 if top < 0 else _root(magnitude, top, False, precision, lowest, highest)


@kernel()
def rounded_variances(squares, sums, n, free, root, precision, lowest, highest, out):
    """``out[i]`` = (sum of squares i - sum_i^2 / ``n[i]``) / ``free[i]``, or its square root, rounded once.

    ``squares`` is (lines, DIGITS), ``sums`` (parts, lines, DIGITS): real and imaginary part have a sum each.
    """
    magnitude, centred = np.empty(squares.shape[1], np.int64), np.empty(squares.shape[1], np.int64)
    for i in range(squares.shape[0]):
        carry(squares[i])
        for part in range(sums.shape[0]):
            carry(sums[part, i])
        _centre(squares[i], sums[:, i], n[i], centred)
        _sign, top = _magnitude(centred, magnitude)
        if top < 0:
            out[i] = 0.0
            continue
        rest = _divide(magnitude, n[i])
        if root:
            rest = _divide(magnitude, free[i]) or rest
            out[i] = _root(magnitude, top, rest, precision, lowest, highest)
        else:
            out[i] = _ratio(magnitude, top, free[i], rest, precision, lowest, highest)
