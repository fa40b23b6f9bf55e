"""Rows classified, dealt out to classes, packed with their places, unpacked in order: arrays in, arrays out."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmpi.jit import kernel

CHUNK = 512
"""Rows that are classified at a time: what is found out of them stays in the first-level cache."""


@kernel()
def find_classes(words: Any, splitters: Any, found: Any) -> Any:
    """Set ``found[i]`` to the number of splitters not above word i, of at most ``CHUNK``.

    There are 2^k - 1 splitters, ascending. Each step of the search is made for all words, in lanes: a search for one
    word alone waits for each step, and the processor mispredicts every one.
    """
    depth = 0
    while (1 << depth) - 1 < splitters.size:
        depth += 1
    for i in range(words.size):
        found[i] = 0
    for step in range(depth - 1, -1, -1):
        ahead = (1 << step) - 1
        for i in range(words.size):
            found[i] += np.int64(splitters[found[i] + ahead] <= words[i]) << step


@kernel()
def classify(words: Any, splitters: Any, ids: Any, counts: Any, found: Any) -> Any:
    """Set ``ids[i]`` to the number of splitters not above word i, and count the rows of each class.

    Splitters are as for :func:`find_classes`, ``found`` has ``CHUNK`` elements.
    """
    for start in range(0, words.size, CHUNK):
        m = min(CHUNK, words.size - start)
        find_classes(words[start : start + m], splitters, found)
        for i in range(m):
            ids[start + i] = found[i]
            counts[found[i]] += 1


@kernel()
def deal(words: Any, first: Any, ids: Any, place: Any, out: Any, numbers: Any) -> Any:
    """Write the words to ``out`` by class, those of class c from ``place[c]`` on, which moves on.

    ``numbers`` gets the numbers of the rows, of which ``first`` is the first.
    """
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
def count_ties(packed: Any, bits: Any) -> Any:
    """How many of the packed words, which ascend, equal the one before them above their low ``bits``."""
    ties = 0
    for i in range(1, packed.size):
        ties += ((packed[i] ^ packed[i - 1]) >> bits) == 0
    return ties


@kernel()
def unpack(packed: Any, bits: Any, numbers: Any, out: Any) -> Any:
    """Write the numbers to ``out`` in the order of ``packed``, the low ``bits`` of which tell their places."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    for i in range(packed.size):
        out[i] = numbers[packed[i] & mask]
