"""Counter-based random matrices: element (i, j) is a function of the seed and its place, never of the rank.

Row i is the SplitMix64 sequence (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") whose start
is itself drawn, by the same mixing function, from the seed, the stream and i. Any rank makes any block; a larger matrix
holds the smaller one of the same seed as its leading block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcmpi.partition import Range, pieces

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_STRIP_ELEMENTS = 1 << 16  # three arrays of 64-bit words in the second-level cache


def _mix(z: NDArray[np.uint64], work: NDArray[np.uint64]) -> None:
    """SplitMix64's output function, in place."""
    for shift, factor in ((_S30, _MIX_1), (_S27, _MIX_2)):
        np.right_shift(z, shift, out=work)
        np.bitwise_xor(z, work, out=z)
        np.multiply(z, factor, out=z)
    np.right_shift(z, _S31, out=work)
    np.bitwise_xor(z, work, out=z)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = z.copy()
    _mix(z, np.empty_like(z))
    return z


def words(
    seed: int, stream: int, rows: Range, columns: Range, out: NDArray[np.uint64], work: NDArray[np.uint64]
) -> None:
    """Fill ``out`` (rows.size x columns.size) with the words of those places; ``work`` is scratch of its shape."""
    with np.errstate(over="ignore"):
        key = _mixed(np.array([seed % 2**64], np.uint64)) + np.uint64(stream) * _GOLDEN
        start = _mixed(_mixed(key) + np.arange(rows.start, rows.stop, dtype=np.uint64) * _GOLDEN)
        step = np.arange(columns.start + 1, columns.stop + 1, dtype=np.uint64) * _GOLDEN
        np.add(start[:, None], step, out=out)
        _mix(out, work)


def uniform(
    seed: int, rows: Range, columns: Range, dtype: DTypeLike, *, stream: int = 0, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Block of the matrix of ``seed`` and ``stream`` with elements uniform in [-0.5, 0.5).

    Returns (rows.size, columns.size) of ``dtype`` (float32, float64, complex64, complex128; both parts of a complex
    element are drawn), written into ``out`` if given. Numbers are multiples of 2^-24 or 2^-53, exact in their dtype.
    """
    out = np.empty((rows.size, columns.size), dtype) if out is None else out
    parts = (out.real, out.imag) if out.dtype.kind == "c" else (out,)
    bits = np.uint64(24 if parts[0].dtype == np.float32 else 53)
    width = min(columns.size, _STRIP_ELEMENTS)
    height = max(1, _STRIP_ELEMENTS // max(1, width))
    z, work = np.empty((2, height, width), np.uint64)
    for index, part in enumerate(parts):
        for r in pieces(rows, height):
            for c in pieces(columns, max(1, width)):
                words(seed, 2 * stream + index, r, c, z[: r.size, : c.size], work[: r.size, : c.size])
                drawn = z[: r.size, : c.size]
                drawn >>= np.uint64(64) - bits
                target = part[
                    r.start - rows.start : r.stop - rows.start, c.start - columns.start : c.stop - columns.start
                ]
                np.multiply(drawn, 2.0 ** -int(bits), out=target, casting="unsafe")
                target -= target.dtype.type(0.5)
    return out
