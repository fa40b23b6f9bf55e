"""Plain vectorised sums of float64: as fast as memory is read, rounded at every step, not the same at any P.

Rows ``x`` are (lines, n), contiguous; what line i adds up to is added to row i of the result.
"""

from __future__ import annotations

import numpy as np

from hpcmpi.algorithms.reduce.fold_kernels import ROWS
from hpcmpi.jit import kernel
from hpcmpi.simd import float_of_bits
from hpcmpi.simd_lanes import STEP, lane_fold

BLOCK = 1 << 15
"""Elements that are added up before they enter the sum of the line."""

_REASSOCIATE = {"reassoc", "contract", "nsz"}


def _sum_body(x, _constants):
    return (x.bits(),)


def _moment_body(x, constants):
    deviation = x - constants[0]
    return deviation.bits(), (deviation * deviation).bits()


def _dot_body(x, y, _constants):
    return ((x * y).bits(),)


_sum_lanes = lane_fold(["add floats"], _sum_body, arrays=1, scalars=0)
_moment_lanes = lane_fold(["add floats", "add floats"], _moment_body, arrays=1, scalars=1)
_dot_lanes = lane_fold(["add floats"], _dot_body, arrays=2, scalars=0)


@kernel(fastmath=_REASSOCIATE)
def fast_sum(x, sums, lanes):
    """Add the sum of each line to ``sums`` (lines,) float64."""
    out, n = np.empty(ROWS, np.int64), x.shape[1]
    for line in range(x.shape[0]):
        for start in range(0, n, BLOCK):
            block, done, total = x[line, start : start + BLOCK], 0, 0.0
            if lanes:
                done = block.size // STEP * STEP
                _sum_lanes(block, done, block, out)
                total = float_of_bits(out[0])
            for i in range(done, block.size):
                total += block[i]
            sums[line] += total


@kernel(fastmath=_REASSOCIATE)
def fast_moments(x, shift, moments, lanes):
    """Add the sums of x - shift and of its square to ``moments`` (lines, 2); ``shift`` is (1,) float64."""
    out, n, centre = np.empty(ROWS, np.int64), x.shape[1], shift[0]
    for line in range(x.shape[0]):
        for start in range(0, n, BLOCK):
            block, done, total, squares = x[line, start : start + BLOCK], 0, 0.0, 0.0
            if lanes:
                done = block.size // STEP * STEP
                _moment_lanes(block, done, shift, out)
                total, squares = float_of_bits(out[0]), float_of_bits(out[1])
            for i in range(done, block.size):
                deviation = block[i] - centre
                total += deviation
                squares += deviation * deviation
            moments[line, 0] += total
            moments[line, 1] += squares


@kernel(fastmath=_REASSOCIATE)
def fast_dot(x, y, sums, lanes):
    """Add the dot product of each line of ``x`` and ``y`` to ``sums`` (lines,)."""
    out, n = np.empty(ROWS, np.int64), x.shape[1]
    for line in range(x.shape[0]):
        for start in range(0, n, BLOCK):
            a, b, done, total = x[line, start : start + BLOCK], y[line, start : start + BLOCK], 0, 0.0
            if lanes:
                done = a.size // STEP * STEP
                _dot_lanes(a, b, done, a, out)
                total = float_of_bits(out[0])
            for i in range(done, a.size):
                total += a[i] * b[i]
            sums[line] += total
