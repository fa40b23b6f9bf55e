"""Generated keys: key i is a function of the seed, n and i, never of the rank.

Floats are from 0 to 1 (uniform, nearly-sorted, reverse), integers fill their range, where that has a meaning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcmpi import generator
from hpcmpi.partition import Range, block, pieces

_STRIP = 1 << 16
_FEW = 16  # distinct keys
_DISPLACED = 100  # one key in so many is out of place in nearly sorted ones


def held(generate: str, n: int, ranks: int, rank: int) -> Range:
    """Positions of the generated keys that ``rank`` holds before they are sorted."""
    if generate == "one-rank":
        return Range(0 if rank == 0 else n, n)
    return block(n, ranks, rank)


def fill(generate: str, seed: int, n: int, part: Range, dtype: DTypeLike) -> NDArray[Any]:
    """Keys ``part`` of ``n`` of the distribution ``generate``: (part.size,) of ``dtype``."""
    out = np.empty(part.size, dtype)
    for strip in pieces(part, _STRIP):
        out[strip.start - part.start : strip.stop - part.start] = _strip(generate, seed, n, strip, out.dtype)
    return out


def _words(seed: int, stream: int, part: Range) -> NDArray[np.uint64]:
    out, work = np.empty((2, 1, part.size), np.uint64)
    generator.words(seed, stream, Range(0, 1), part, out, work)
    return np.asarray(out[0])


def _unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform in [0, 1), multiples of 2^-53."""
    return np.asarray((words >> np.uint64(11)) * 2.0**-53, np.float64)


def _strip(generate: str, seed: int, n: int, part: Range, dtype: np.dtype[Any]) -> NDArray[Any]:
    words = _words(seed, 0, part)
    index = np.arange(part.start, part.stop, dtype=np.int64)
    if generate in ("uniform", "one-rank"):
        if dtype.kind == "f":
            bits = np.uint64(np.finfo(dtype).nmant + 1)
            return np.asarray((words >> (np.uint64(64) - bits)) * 2.0 ** -int(bits), dtype)
        return words.astype(f"u{dtype.itemsize}").view(dtype)
    if generate == "normal":
        return _as(_normal(words, _words(seed, 1, part)), dtype, spread=True)
    if generate == "zipf":  # P(key >= k) is about k ** -0.5: a Zipf law with exponent 1.5
        u = 1.0 - _unit(words)
        return _as(np.minimum(np.floor(1.0 / (u * u)), 2.0**53), dtype)
    if generate == "nearly-sorted":
        away = words % np.uint64(_DISPLACED) == 0
        index[away] = (_words(seed, 1, part)[away] % np.uint64(max(1, n))).astype(np.int64)
        return _ramp(index, n, dtype)
    if generate == "reverse":
        return _ramp(n - 1 - index, n, dtype)
    if generate == "few":
        return (words % np.uint64(_FEW)).astype(dtype)
    return np.full(part.size, 7, dtype)


def _ramp(index: NDArray[np.int64], n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Keys that ascend with ``index``: from 0 to 1, or the numbers themselves as far as the integers go."""
    if dtype.kind == "f":
        return (index / max(1, n)).astype(dtype)
    most = int(np.iinfo(dtype).max)
    return index.astype(dtype) if n <= most else (index / n * most).astype(dtype)


def _as(values: NDArray[np.float64], dtype: np.dtype[Any], *, spread: bool = False) -> NDArray[Any]:
    """``values`` in ``dtype``, those beyond its range at its ends; ``spread`` widens them first for integers."""
    if dtype.kind == "f":
        return np.minimum(values, float(np.finfo(dtype).max)).astype(dtype)
    limits = np.iinfo(dtype)
    if spread:
        values = np.floor(values * (float(limits.max) / 16) + (float(limits.max) / 2 if dtype.kind == "u" else 0))
    return np.clip(values, float(limits.min), float(np.nextafter(float(limits.max), 0))).astype(dtype)


def _normal(words: NDArray[np.uint64], more: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Standard normal numbers by the transform of Box and Muller."""
    radius = np.sqrt(-2.0 * np.log(1.0 - _unit(words)))
    return np.asarray(radius * np.cos(2 * np.pi * _unit(more)))
