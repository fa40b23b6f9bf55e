"""Rows dealt out to classes, and words packed with their places: arrays in, arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmpi.jit import kernel


@kernel()
def classify(first: Any, second: Any, splitters: Any, seconds: Any, pairs: Any, ids: Any, counts: Any) -> Any:
    """Set ``ids[i]`` to the number of splitters not above row i, and count the rows of each class.

    Splitters are ascending: words, or with ``pairs`` pairs of words, the second ones in ``seconds``.
    """
    for i in range(first.size):
        x = first[i]
        c, left = 0, splitters.size
        while left > 0:
            half = left // 2
            if half == 0:
                c += splitters[c] <= x
                break
            c += half * (splitters[c + half - 1] <= x)
            left -= half
        if pairs and c > 0 and splitters[c - 1] == x:
            while c > 0 and splitters[c - 1] == x and seconds[c - 1] > second[i]:
                c -= 1
        ids[i] = c
        counts[c] += 1


@kernel()
def deal(words: Any, ids: Any, begin: Any, out: Any, order: Any) -> Any:
    """Write the numbers of the rows to ``order`` by class, each from ``begin[c]`` on, and their words to ``out``.

    ``out`` may be empty, and the words are then left alone.
    """
    place = begin.copy()
    moves = out.size > 0
    for i in range(ids.size):
        at = place[ids[i]]
        order[at] = i
        if moves:
            out[at] = words[i]
        place[ids[i]] = at + 1


@kernel()
def pack(words: Any, least: Any, shift: Any, bits: Any, packed: Any) -> Any:
    """Fill ``packed`` with the words less ``least``, shifted right, above their places in the low ``bits``."""
    for i in range(words.size):
        packed[i] = (((np.uint64(words[i]) - np.uint64(least)) >> shift) << bits) | np.uint64(i)
