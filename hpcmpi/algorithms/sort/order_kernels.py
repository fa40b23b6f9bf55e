"""Keys dealt out with their places to many classes, and classes brought in order: arrays in, arrays out.

Raw keys, images and ``magnitude, infinity, flip, nan`` are as in :mod:`kernels`. An offset is a key's place on its rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmpi.algorithms.sort.kernels import CHUNK, to_images
from hpcmpi.jit import kernel


@kernel()
def classify_keys(
    raw: Any,
    magnitude: Any,
    infinity: Any,
    flip: Any,
    nan: Any,
    splitters: Any,
    greatest: Any,
    ids: Any,
    counts: Any,
    images: Any,
    found: Any,
) -> Any:
    """Set ``ids[i]`` to the number of splitters not above key i, at most ``greatest``; count the keys of each class.

    There are 2^k - 1 splitters, images, ascending. ``images`` and ``found`` have ``CHUNK`` elements. Each step of the
    search is made for all keys of a chunk, in lanes: a search for one key alone waits for each step, and the processor
    mispredicts every one.
    """
    depth = 0
    while (1 << depth) - 1 < splitters.size:
        depth += 1
    for start in range(0, raw.size, CHUNK):
        m = min(CHUNK, raw.size - start)
        to_images(raw[start : start + m], images, magnitude, infinity, flip, nan)
        for i in range(m):
            found[i] = 0
        for step in range(depth - 1, -1, -1):
            ahead = (1 << step) - 1
            for i in range(m):
                found[i] += np.int64(splitters[found[i] + ahead] <= images[i]) << step
        for i in range(m):
            c = min(found[i], greatest)
            ids[start + i] = c
            counts[c] += 1


@kernel()
def deal_keys(
    raw: Any,
    magnitude: Any,
    infinity: Any,
    flip: Any,
    nan: Any,
    first: Any,
    ids: Any,
    place: Any,
    dealt: Any,
    offsets: Any,
    images: Any,
) -> Any:
    """Write the images of the keys to ``dealt``, and their offsets, of which ``first`` is the first, to ``offsets``.

    Those of class c go from ``place[c]`` on, which moves on. ``images`` has ``CHUNK`` elements.
    """
    for start in range(0, raw.size, CHUNK):
        m = min(CHUNK, raw.size - start)
        to_images(raw[start : start + m], images, magnitude, infinity, flip, nan)
        for i in range(m):
            c = ids[start + i]
            at = place[c]
            dealt[at] = images[i]
            offsets[at] = first + start + i
            place[c] = at + 1


@kernel()
def pack_keys(
    images: Any, offsets: Any, base: Any, least: Any, shift: Any, bits: Any, at: Any, packed: Any, positions: Any
) -> Any:
    """From place ``at`` on, fill ``packed`` with the images less ``least``, shifted right, above their places in the
    low ``bits``, and ``positions`` with ``base`` and the offsets.
    """
    for i in range(images.size):
        prefix = (np.uint64(np.int64(images[i])) - np.uint64(least)) >> shift
        packed[at + i] = (prefix << bits) | np.uint64(at + i)
        positions[at + i] = base + np.int64(offsets[i])


@kernel()
def count_ties(packed: Any, bits: Any) -> Any:
    """How many of the packed images equal the one before them."""
    ties = 0
    for i in range(1, packed.size):
        ties += ((packed[i] ^ packed[i - 1]) >> bits) == 0
    return ties


@kernel()
def unpack_positions(packed: Any, bits: Any, positions: Any, out: Any) -> Any:
    """Write the positions in the order of ``packed`` to ``out``."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    for i in range(packed.size):
        out[i] = positions[packed[i] & mask]
