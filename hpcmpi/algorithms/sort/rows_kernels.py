"""Rows classified, dealt out to classes, packed with their places and unpacked in order: arrays in, arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmpi.jit import kernel

CHUNK = 512
"""Rows that are classified at a time: what is found out of them stays in the first-level cache."""


@kernel()
def classify(words: Any, splitters: Any, ids: Any, counts: Any, found: Any) -> Any:
    """Set ``ids[i]`` to the number of splitters not above word i, and count the rows of each class.

    There are 2^k - 1 splitters, ascending. ``found`` has ``CHUNK`` elements. Each step of the search is made for all
    rows of a chunk, in lanes: a search for one row alone waits for each step, and the processor mispredicts every one.
    """
    depth = 0
    while (1 << depth) - 1 < splitters.size:
        depth += 1
    for start in range(0, words.size, CHUNK):
        chunk = words[start : start + CHUNK]
        for i in range(chunk.size):
            found[i] = 0
        for step in range(depth - 1, -1, -1):
            ahead = (1 << step) - 1
            for i in range(chunk.size):
                found[i] += np.int64(splitters[found[i] + ahead] <= chunk[i]) << step
        for i in range(chunk.size):
            ids[start + i] = found[i]
            counts[found[i]] += 1


@kernel()
def deal(words: Any, ids: Any, place: Any, out: Any) -> Any:
    """Write the words to ``out`` by class, those of class c from ``place[c]`` on, which moves on."""
    for i in range(words.size):
        c = ids[i]
        at = place[c]
        out[at] = words[i]
        place[c] = at + 1


@kernel()
def deal_numbered(words: Any, first: Any, ids: Any, place: Any, out: Any, numbers: Any) -> Any:
    """As :func:`deal`, and to ``numbers`` write those of the rows, of which ``first`` is the first."""
    for i in range(words.size):
        c = ids[i]
        at = place[c]
        out[at] = words[i]
        numbers[at] = first + i
        place[c] = at + 1


@kernel()
def span(words: Any) -> Any:
    """The least and the greatest of some words."""
    least, greatest = words[0], words[0]
    for i in range(words.size):
        least, greatest = min(least, words[i]), max(greatest, words[i])
    return least, greatest


@kernel()
def pack(words: Any, least: Any, shift: Any, bits: Any, packed: Any) -> Any:
    """Fill ``packed`` with the words less ``least``, shifted right, above their places in the low ``bits``."""
    for i in range(words.size):
        packed[i] = (((np.uint64(words[i]) - np.uint64(least)) >> shift) << bits) | np.uint64(i)


@kernel()
def unpack(packed: Any, bits: Any, words: Any, numbers: Any, new_words: Any, new_numbers: Any) -> Any:
    """Bring ``words`` and ``numbers`` in the order of ``packed``, to the new arrays.

    Tells how many of the packed words equal the one before them, and whether all (word, number) ascend.
    """
    mask = (np.uint64(1) << bits) - np.uint64(1)
    ties, ascending = 0, True
    for i in range(packed.size):
        place = packed[i] & mask
        new_words[i] = words[place]
        new_numbers[i] = numbers[place]
        if i > 0:
            ties += (packed[i] >> bits) == (packed[i - 1] >> bits)
            above = (new_words[i] > new_words[i - 1]) | (
                (new_words[i] == new_words[i - 1]) & (new_numbers[i] > new_numbers[i - 1])
            )
            ascending &= above
    return ties, ascending
