"""Folds of one block of float64 numbers into a few integers, each in lanes and as a plain loop.

*Bins.* A bin of unit u is the number M = 1.5 2^52 u: x + M rounds x to a multiple of u, and as the sum stays within the
binade of M, its 64 bits differ from those of M by exactly that multiple. So bins are summed as integers, on the images,
without any conversion; what x + M has rounded away is exact in floating point and goes to the next bin, whose unit is
2^-49 u for sums, 2^-51 u for products. (Demmel and Nguyen 2015, "Parallel reproducible summation", sum such bins in
floating point.) A block of 2^14 numbers below 2^48 u cannot overflow, nor 2^12 below 2^50 u, and its bins hold it
exactly if no number has a bit below the last unit. The end of a block costs as much as a hundred numbers, so sums, that
spend least on one, have the larger blocks; products need all the bits of three bins, and have the smaller.

*Products* are split in two first: p = x y rounded, and its error e = x y - p, exact by a fused multiply-add. Then p
goes to bins 1 and 2, e to bins 2 and 3.

*Range.* The same fold finds what tells whether its bins were right: the largest magnitude, and the smallest that is not
0 (as magnitude - 1, unsigned, so that 0 comes last). Magnitudes are compared by their images, which sort as they do.

*Order.* A key is the image with the magnitude's bits flipped where it is negative: keys sort as numbers do, -0.0 just
before 0.0, and NaN beyond the infinities, where it is seen.

``bins`` holds the bins' M; results are in ``out``, (ROWS,) int64.
"""

from __future__ import annotations

import numpy as np

from hpcmpi.jit import kernel
from hpcmpi.simd import bits_of_float, float_of_bits, fused_multiply_add
from hpcmpi.simd_lanes import MAGNITUDE, STEP, lane_fold

BLOCK = 1 << 12
"""Most elements of a block of products, or of sums and products."""
SUM_BLOCK = 1 << 14
"""Most elements of a block of sums alone."""
ROWS = 8  # of a fold's output
LARGEST_KEY, SMALLEST_KEY = 2**63 - 1, -(2**63)
KEY_OF_INFINITY = 0x7FF0 << 48
KEY_OF_MINUS_INFINITY = ~KEY_OF_INFINITY
NO_NUMBER = np.uint64(2**64 - 1)  # the smallest magnitude of a block of zeros, less 1

_MASK = np.uint64(MAGNITUDE)
_UNIT = np.uint64(1)


# In lanes


def _binned(x, first, second):
    """Images of ``x`` in two bins."""
    top = x + first
    return top.bits(), (x - (top - first) + second).bits()


def _binned_product(x, y, bins):
    """Images of ``x * y`` in three bins; the second has two."""
    p = x * y
    first, second = _binned(p, bins[0], bins[1])
    more, third = _binned(x.product_error(y, p), bins[1], bins[2])
    return first, second + more, third


def _key(x):
    image = x.bits()
    return image ^ (image.sign_mask() & MAGNITUDE)


def _sum_body(x, bins):
    magnitude = x.bits() & MAGNITUDE
    return magnitude, magnitude - 1, *_binned(x, bins[0], bins[1])


def _square_body(x, bins):
    magnitude = x.bits() & MAGNITUDE
    return magnitude, magnitude - 1, *_binned_product(x, x, bins)


def _dot_body(x, y, bins):
    a, b = x.bits() & MAGNITUDE, y.bits() & MAGNITUDE
    return a, a - 1, b, b - 1, *_binned_product(x, y, bins)


def _moment_body(x, bins):
    key = _key(x)
    sums = _binned(x, bins[3], bins[4])
    return (x.bits() & MAGNITUDE) - 1, key, key, *_binned_product(x, x, bins), *sums


def _order_body(x, _bins):
    key = _key(x)
    return key, key


_RANGE = ("max unsigned", "min unsigned")
_sum_lanes = lane_fold([*_RANGE, "add", "add"], _sum_body, arrays=1, scalars=2)
_square_lanes = lane_fold([*_RANGE, "add", "add", "add"], _square_body, arrays=1, scalars=3, unroll=2)
_dot_lanes = lane_fold([*_RANGE, *_RANGE, "add", "add", "add"], _dot_body, arrays=2, scalars=3, unroll=2)
_moment_lanes = lane_fold(["min unsigned", "min", "max", *["add"] * 5], _moment_body, arrays=1, scalars=5, unroll=2)
_order_lanes = lane_fold(["min", "max"], _order_body, arrays=1, scalars=0)


# As plain loops, which also take what is left of a block


@kernel()
def magnitudes(image):
    """Largest magnitude, and smallest that is not 0, less 1, of a block's uint64 images."""
    largest, smallest = np.uint64(0), NO_NUMBER
    for i in range(image.size):
        magnitude = image[i] & _MASK
        largest, smallest = max(largest, magnitude), min(smallest, magnitude - _UNIT)
    return largest, smallest


@kernel()
def sum_fold(x, image, bins, lanes, out):
    """Largest and smallest magnitude, and the block's sum in units of two bins.

    ``x`` is float64, ``image`` the same block as uint64; ``lanes`` tells whether to use the fold in lanes.
    """
    largest, smallest, first, second, n = np.uint64(0), NO_NUMBER, 0, 0, 0
    if lanes:
        n = x.size // STEP * STEP
        _sum_lanes(x, n, bins, out)
        largest, smallest, first, second = np.uint64(out[0]), np.uint64(out[1]), out[2], out[3]
    one, two = bins[0], bins[1]
    for i in range(n, x.size):
        magnitude = image[i] & _MASK
        largest, smallest = max(largest, magnitude), min(smallest, magnitude - _UNIT)
        top = x[i] + one
        first += bits_of_float(top)
        second += bits_of_float((x[i] - (top - one)) + two)
    return largest, smallest, first - x.size * bits_of_float(one), second - x.size * bits_of_float(two)


@kernel()
def sum_fold_of_three(x, one, two, three):
    """The block's sum in units of three bins."""
    first, second, third = 0, 0, 0
    for i in range(x.size):
        top = x[i] + one
        first += bits_of_float(top)
        rest = x[i] - (top - one)
        top = rest + two
        second += bits_of_float(top)
        third += bits_of_float((rest - (top - two)) + three)
    n = x.size
    return first - n * bits_of_float(one), second - n * bits_of_float(two), third - n * bits_of_float(three)


@kernel(inline="always")
def _product_bins(x, y, one, two, three):
    p = x * y
    e = fused_multiply_add(x, y, -p)
    top, next_top = p + one, e + two
    second = bits_of_float((p - (top - one)) + two) + bits_of_float(next_top)
    return bits_of_float(top), second, bits_of_float((e - (next_top - two)) + three)


@kernel(inline="always")
def _less_bins(n, first, second, third, bins):
    """Sums of images without the images of the bins themselves."""
    one, two, three = bits_of_float(bins[0]), bits_of_float(bins[1]), bits_of_float(bins[2])
    return first - n * one, second - 2 * n * two, third - n * three


@kernel()
def square_fold(x, image, bins, lanes, out):
    """Largest and smallest magnitude, and the block's sum of squares in units of three bins."""
    largest, smallest, first, second, third, n = np.uint64(0), NO_NUMBER, 0, 0, 0, 0
    if lanes:
        n = x.size // STEP * STEP
        _square_lanes(x, n, bins, out)
        largest, smallest = np.uint64(out[0]), np.uint64(out[1])
        first, second, third = out[2], out[3], out[4]
    one, two, three = bins[0], bins[1], bins[2]
    for i in range(n, x.size):
        magnitude = image[i] & _MASK
        largest, smallest = max(largest, magnitude), min(smallest, magnitude - _UNIT)
        b1, b2, b3 = _product_bins(x[i], x[i], one, two, three)
        first, second, third = first + b1, second + b2, third + b3
    return largest, smallest, *_less_bins(x.size, first, second, third, bins)


@kernel()
def dot_fold(x, y, image_x, image_y, bins, lanes, out):
    """Largest and smallest magnitude of ``x`` and of ``y``, and the block's sum of products in units of three bins."""
    large_x, small_x, large_y, small_y = np.uint64(0), NO_NUMBER, np.uint64(0), NO_NUMBER
    first, second, third, n = 0, 0, 0, 0
    if lanes:
        n = x.size // STEP * STEP
        _dot_lanes(x, y, n, bins, out)
        large_x, small_x, large_y, small_y = np.uint64(out[0]), np.uint64(out[1]), np.uint64(out[2]), np.uint64(out[3])
        first, second, third = out[4], out[5], out[6]
    one, two, three = bins[0], bins[1], bins[2]
    for i in range(n, x.size):
        a, b = image_x[i] & _MASK, image_y[i] & _MASK
        large_x, small_x = max(large_x, a), min(small_x, a - _UNIT)
        large_y, small_y = max(large_y, b), min(small_y, b - _UNIT)
        b1, b2, b3 = _product_bins(x[i], y[i], one, two, three)
        first, second, third = first + b1, second + b2, third + b3
    return large_x, small_x, large_y, small_y, *_less_bins(x.size, first, second, third, bins)


@kernel()
def moment_fold(x, image, bins, lanes, out):
    """Smallest magnitude, least and greatest key, the sum of squares in three bins and the sum in two more."""
    smallest, least, greatest = NO_NUMBER, LARGEST_KEY, SMALLEST_KEY
    first, second, third, high, low, n = 0, 0, 0, 0, 0, 0
    if lanes:
        n = x.size // STEP * STEP
        _moment_lanes(x, n, bins, out)
        smallest = np.uint64(out[0])
        least, greatest = out[1], out[2]
        first, second, third = out[3], out[4], out[5]
        high, low = out[6], out[7]
    one, two, three, one_sum, two_sum = bins[0], bins[1], bins[2], bins[3], bins[4]
    for i in range(n, x.size):
        smallest = min(smallest, (image[i] & _MASK) - _UNIT)
        key = key_of_image(np.int64(image[i]))
        least, greatest = min(least, key), max(greatest, key)
        b1, b2, b3 = _product_bins(x[i], x[i], one, two, three)
        first, second, third = first + b1, second + b2, third + b3
        top = x[i] + one_sum
        high += bits_of_float(top)
        low += bits_of_float((x[i] - (top - one_sum)) + two_sum)
    high, low = high - x.size * bits_of_float(one_sum), low - x.size * bits_of_float(two_sum)
    return smallest, least, greatest, *_less_bins(x.size, first, second, third, bins), high, low


@kernel()
def order_fold(x, image, lanes, out):
    """Least and greatest key of a block."""
    least, greatest, n = LARGEST_KEY, SMALLEST_KEY, 0
    if lanes:
        n = x.size // STEP * STEP
        _order_lanes(x, n, x, out)
        least, greatest = out[0], out[1]
    for i in range(n, x.size):
        key = key_of_image(np.int64(image[i]))
        least, greatest = min(least, key), max(greatest, key)
    return least, greatest


@kernel(inline="always")
def key_of_image(image):
    """Key of the int64 image of a float64; its own inverse."""
    return image ^ ((image >> 63) & MAGNITUDE)


@kernel(inline="always")
def number_of_key(key):
    """The float64 whose key it is."""
    return float_of_bits(key_of_image(key))
