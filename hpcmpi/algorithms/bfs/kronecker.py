"""Kronecker graphs of Graph500, counter-based: edge i is a function of (seed, i), so that any rank makes any range.

R-MAT (Chakrabarti, Zhan, Faloutsos 2004) with A, B, C = 0.57, 0.19, 0.19. Five bits of both ends are drawn at once by
Walker's alias method; ids are scrambled by a bijection, and the order of the edges is random as it is.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmpi.algorithms.bfs.kronecker_kernels import make_edges
from hpcmpi.partition import Range

A, B, C = 0.57, 0.19, 0.19
_LEVELS = 5
_WORD = 2**64


@cache
def _alias_table(levels: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Acceptance (4^levels,) of 2^32, and the two pairs of ends (4^levels, 2), each ``source bits << 16 | target``."""
    probability, pair = np.ones(1), np.zeros(1, np.int64)
    for _ in range(levels):
        probability = np.outer(probability, [A, B, C, 1 - A - B - C]).ravel()
        pair = (2 * pair[:, None] + np.array([0, 1, 1 << 16, (1 << 16) + 1])).ravel()
    scaled, alias, accept = probability * len(pair), np.arange(len(pair)), np.ones(len(pair))
    small, large = list(np.flatnonzero(scaled < 1)), list(np.flatnonzero(scaled >= 1))
    while small and large:
        low, high = small.pop(), large.pop()
        accept[low], alias[low] = scaled[low], high
        scaled[high] -= 1 - scaled[low]
        (small if scaled[high] < 1 else large).append(high)
    return np.rint(accept * 2**32).astype(np.uint64), np.stack([pair, pair[alias]], axis=1).astype(np.uint32)


def kronecker(scale: int, edges: Range, seed: int, threads: int = 1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ends ``u``, ``v`` of the ``edges`` of the graph with 2^scale vertices: uint32, or int64 above scale 32."""
    number = np.uint32 if scale <= 32 else np.int64
    u, v = np.empty(edges.size, number), np.empty(edges.size, number)
    key_1 = _mix(seed + 1)
    key_2 = _mix(int(key_1) + 7)
    rest = scale % _LEVELS
    make_edges(
        scale, edges.start, key_1, key_2, *_alias_table(_LEVELS), _LEVELS, *_alias_table(rest), rest, u, v, threads
    )
    return u, v


def _mix(z: int) -> np.uint64:
    """SplitMix64's output function of ``z`` modulo 2^64."""
    z %= _WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % _WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB % _WORD
    return np.uint64(z ^ z >> 31)
